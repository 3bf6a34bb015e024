"""Files here import other frameworks, which takes seconds.

They are not opened unless `-m` asks for something else.
"""


def pytest_ignore_collect(collection_path, config):
    default = config.option.markexpr in config.getini("addopts")
    return True if default and collection_path.name.startswith("test_") else None
