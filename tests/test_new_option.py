"""A new option is one field: it is put into a copy of the program, and is then found everywhere."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIELD = """\
    stamina_s: Annotated[
        int, at_least(1), Option("Seconds before anything gives up.", metavar="S")
    ] = 7
"""
TINY = ("--data", "digits", "--model", "mlp", "--train-size", "200", "--epochs", "2", "--budget",
        "1", "--seeds", "1", "--confirm", "0", "--pruner", "none", "--quiet")  # fmt: skip
FROM_PYTHON = """
import inspect, lrtune
task = lrtune.NamedTask(data="digits", model="mlp", train_size=200)
print(inspect.signature(lrtune.search).parameters["stamina_s"])
print("stamina_s: Seconds before anything gives up. Default: " in inspect.getdoc(lrtune.search))
result = lrtune.search(task, epochs=2, budget=1, num_seeds=1, confirm="0", pruner="none",
                       quiet=True, study="python", stamina_s=8)
print(result.state.config{path}.stamina_s)
"""

# the first field of a topic, where its values are stored, and from a study to them
TOPICS = {
    "search": ("    sampler: Annotated[\n", (), ""),
    "training": ("    batch_size: Annotated[\n", ("settings",), ".settings"),
}


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS)
def test_a_new_option_is_one_field(tmp_path, topic):
    first_field, keys, path = TOPICS[topic]
    program, here = tmp_path / "program", tmp_path / "here"
    here.mkdir()
    for folder in ("lrtune", "search_spaces", "docs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, program / folder, ignore=ignored)
    source = program / "lrtune" / "core" / "study.py"
    text = source.read_text()
    assert text.count(first_field) == 1
    source.write_text(text.replace(first_field, FIELD + first_field))

    def run(*words, code=0):
        environment = {**os.environ, "PYTHONPATH": str(program), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def stored(study):
        with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
            row = connection.execute("SELECT config FROM lrtune_studies WHERE name = ?", (study,))
            values = json.loads(row.fetchone()[0])
        for key in keys:
            values = values[key]
        return values["stamina_s"]

    # the command line
    assert "Seconds before anything gives up." in run("-m", "lrtune", "search", "--help-all")
    assert "--stamina-s" not in run("-m", "lrtune", "search", "--help")
    refused = run("-m", "lrtune", "search", "--stamina-s", "0", "--epochs", "0", code=2)
    assert "`1 <= --stamina-s` must hold, but got 0." in refused
    assert "`1 <= epochs <= 1000000` must hold" in refused
    run("-m", "lrtune", "search", *TINY, "--study", "typed", "--stamina-s", "9")
    assert stored("typed") == 9
    # the report
    folder = here / "reports" / "typed"
    assert "- Stamina s: 9\n" in (folder / "report.md").read_text()
    assert "<dt>Stamina s</dt>" in (folder / "report.html").read_text()
    values = json.loads((folder / "report.json").read_text())["study"]
    for key in keys:
        values = values[key]
    assert values["stamina_s"] == 9
    # Python
    printed = run("-c", FROM_PYTHON.format(path=path))
    assert printed.splitlines() == ["stamina_s: int = 7", "True", "8"]
    assert stored("python") == 8
    # the documentation
    run(str(program / "docs" / "options_table.py"))
    (row,) = [
        line
        for line in (program / "docs" / "options.md").read_text().splitlines()
        if "stamina_s" in line
    ]
    assert row.startswith("| `--stamina-s` `S` | `stamina_s` | Seconds before anything gives up. |")
