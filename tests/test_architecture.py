"""The rooms and the wheel: rules that no function can check."""

import ast
import tomllib
import zipfile
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from lrtune.store.spaces import space_names

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"


def test_imports_obey_the_rooms(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    broken = lint_imports(config_filename=str(PYPROJECT), no_cache=True)
    assert broken == 0, capsys.readouterr().out


@pytest.mark.parametrize("library", ["click", "optuna", "optuna_dashboard", "pandas", "sklearn"])
def test_a_library_is_imported_in_one_file(library):
    assert len([path.name for path in modules() if library in imported(path)]) == 1


def test_the_machine_is_asked_for_processes_and_memory_in_one_file_each():
    assert {path.name for path in modules() if "psutil" in imported(path)} == {
        "jobs.py",
        "workers.py",
    }


def test_sqlalchemy_is_imported_where_the_database_is():
    users = {path.name for path in modules() if "sqlalchemy" in imported(path)}
    assert users == {"database.py", "migration.py"}


def test_matplotlib_is_imported_where_plots_are_made():
    assert {path.name for path in modules() if "matplotlib" in imported(path)} == {
        "plots.py",
        "sheet.py",
    }


def modules():
    return sorted((ROOT / "lrtune").rglob("*.py"))


def imported(path):
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_every_module_says_what_it_is_for():
    assert [
        str(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


def test_no_function_has_more_than_eight_parameters():
    functions = (
        (f"{path.name}: {node.name}", node.args)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    counts = {
        name: sum(a.arg not in ("self", "cls") for a in (*p.posonlyargs, *p.args, *p.kwonlyargs))
        for name, p in functions
    }
    assert {name: count for name, count in counts.items() if count > 8} == {}


def test_the_wheel_is_told_to_take_the_spaces_along():
    wheel = tomllib.loads(PYPROJECT.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["lrtune"]
    (source,) = (
        source
        for source, target in wheel["force-include"].items()
        if target == "lrtune/search_spaces"
    )
    assert sorted(path.stem for path in (ROOT / source).glob("*.toml")) == space_names()


@pytest.mark.slow
def test_the_wheel_has_the_spaces_and_the_templates(tmp_path):
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    spaces = {f"lrtune/search_spaces/{name}.toml" for name in space_names()}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lrtune").rglob("*")
        if path.suffix in (".py", ".j2", ".css", ".typed")
    }
    assert spaces | package <= names
    assert not {name for name in names if name.startswith("tests/")}
