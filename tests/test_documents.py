"""The documents are right: commands parse, TOML is read, and tables list everything."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from lrtune.cli import lrtune as cli
from lrtune.core.decays import DECAYS, decay_parameters
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.space import parse_space
from lrtune.store.recipes import read_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "reports" / "README.md",
]
SPACES = (ROOT / "docs" / "spaces.md").read_text()


def fenced(language, document):
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def commands():
    """Those in code blocks of a shell, and those within a sentence."""
    for path in DOCUMENTS:
        text = path.read_text()
        for code in (*fenced("sh", text), *re.findall(r"`(lrtune [^`\n]+)`", text)):
            for line in re.findall(r"(?:^|&& |-- )(lrtune [a-z][^#\n]*)", code, re.MULTILINE):
                if "..." not in line:
                    yield pytest.param(line, id=f"{path.stem}: {line[:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_that_is_shown_is_one(line):
    _, name, *arguments = shlex.split(line)
    command = cli.get_command(None, name)
    assert command is not None
    command.make_parser(click.Context(command)).parse_args(
        arguments
    )  # an option that does not exist raises


def test_spaces_and_recipes_that_are_shown_can_be_read(tmp_path):
    *spaces, recipe = fenced("toml", SPACES)
    for space in spaces:
        parse_space(space, "shown.toml").fit(12, {})
    path = tmp_path / "shown.toml"
    path.write_text(recipe)
    assert read_recipe(path, 45).recipe.decay.every_epochs == 15
    for space in fenced("toml", (ROOT / "README.md").read_text()):
        parse_space(space, "README.md")


def test_the_table_of_options_is_that_of_the_program():
    path = ROOT / "docs" / "options_table.py"
    spec = importlib.util.spec_from_file_location("options_table", path)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    written = path.with_name("options.md").read_text(encoding="utf-8")
    assert written == table.document(), "run `python docs/options_table.py`"
    flags = {flag for c in cli.commands.values() for p in c.params for flag in p.opts[:1]}
    own = {"--json", "--traceback", "--yes"}  # of the command line alone
    assert flags - own - {f for f in flags if not f.startswith("-")} == set(
        re.findall(r"^\| `(--[a-z-]+)", written, re.MULTILINE)
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_prose_has_lines_of_at_most_100_characters(path):
    prose = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    free = ("|", "!", "    ")  # tables, pictures and drawings are as wide as they must be
    assert [
        line for line in prose.splitlines() if len(line) > 100 and not line.startswith(free)
    ] == []


def test_every_optimizer_and_decay_is_named_with_its_keys():
    assert set(OPTIMIZERS) <= set(re.findall(r"`([a-z-]+)`", SPACES))
    for decay in DECAYS:
        (row,) = re.findall(rf"^\| `{decay}` \|.*$", SPACES, re.MULTILINE)
        assert set(decay_parameters(decay)) <= set(
            re.findall(r"`([a-z_]+)`", row.rsplit("|", 2)[1])
        ), row
