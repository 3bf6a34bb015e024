"""Names that are no text, or that turn the text beside them: a search still ends in a report."""

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lrtune.core.printing import printable

STRANGE = "x\udce9\x1b[31m\u202e`y"
SHOWN = r"x\udce9\x1b[31m\u202e`y"


@pytest.fixture
def strange(here):
    """A folder of images, a space and a recipe of such names."""
    noise = np.random.default_rng(0)
    for name in (STRANGE, "two\nlines"):
        folder = Path(STRANGE, name)
        folder.mkdir(parents=True)
        for i in range(12):
            image = Image.fromarray(noise.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            image.save(folder / f"{i}.png")
    Path(f"{STRANGE}.toml").write_text("[parameters]\npeak_lr = { low = 0.01, high = 0.1 }\n")
    Path(f"{STRANGE}-recipe.toml").write_text("peak_lr = 0.05\n")
    return here


def ran(words):
    """What a process printed; both of its outputs are UTF-8 without hidden characters."""
    done = subprocess.run(words, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    for output in (done.stdout.decode(), done.stderr.decode()):
        assert printable(output) == output
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
def test_a_search_of_strange_names_ends_in_a_report(strange, command):
    small = ["--model", "mlp", "--epochs", "2", "--seeds", "1", "--max-seeds", "1"]
    search = ["search", "--data", f"folder:{STRANGE}", "--space", f"{STRANGE}.toml", *small]
    search += ["--baseline", f"{STRANGE}-recipe.toml", "--budget", "2", "--pruner", "none"]
    search += ["--study", "strange", "--out", f"{STRANGE}-out", "--home", f"{STRANGE}-home"]
    out, err = ran(command(*search))
    assert f"mlp on folder:{SHOWN}" in out
    assert rf"Classes: 2: two\nlines, {SHOWN}" in err
    report = strange / f"{STRANGE}-out" / "strange"
    for path in report.rglob("*.[!p]*"):
        text = path.read_text(encoding="utf-8")
        assert printable(text) == text
        if path.suffix == ".svg":
            ElementTree.fromstring(text)
    assert SHOWN in json.loads((report / "report.json").read_text())["command"]
    shown = ran(command("report", "strange", *search[-4:]))[0]
    assert shown.splitlines()[1] == out.splitlines()[1]


# what is typed, and what is said of it
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([STRANGE], rf"No such command '{SHOWN}'."),
        (["search", f"--{STRANGE}"], rf"No such option '--{SHOWN}'."),
        (["search", "--space", STRANGE], rf"quick, but got '{SHOWN}'."),
        (["search", "--study", STRANGE, "--budget", "0"], rf"but got '{SHOWN}' with "),
        (["search", "--task", STRANGE], rf"there is no file {SHOWN}."),
        (["find", "--data", f"folder:{STRANGE}"], rf"/{SHOWN} must be a folder of images"),
        (["compare", f"{STRANGE}.toml", "sgd"], rf"sgd-step, adamw, .*, but got '{SHOWN}.toml'."),
        (["list", "--storage", STRANGE], f"{SHOWN} cannot be used as a database"),
    ],
    ids=["command", "option", "space", "study", "task", "data", "recipe", "database"],
)
def test_a_strange_name_in_a_message(call, here, words, said):
    outcome = call(*words)
    assert outcome.code == 2
    assert printable(outcome.err) == outcome.err
    assert said.partition(".*")[0] in outcome.err
    assert said.rpartition(".*")[2] in outcome.err


@pytest.mark.parametrize("words", [["resume"], ["report"], ["export"], ["delete", "--yes"]])
def test_no_study_has_a_strange_name(call, finished, words):
    outcome = call(*words, STRANGE)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"there is no study '{SHOWN}' in " in outcome.err
