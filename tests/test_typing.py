"""A user's file is checked by mypy: lrtune ships its types, and a misspelt option is an error."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
from pathlib import Path

import lrtune

result = lrtune.search("task.py", budget="20runs", num_seeds=2, batch_size=64, engine="ray")
print(result.best.recipe.peak_lr)
lrtune.search("task.py", confirm="quick", looks="1,3", rank_by="val_loss", lag=4, matters=0.1)
lrtune.search(task=lrtune.NamedTask(data="digits"), engine=lrtune.Ray(gpus_per_trial=0.5))
lrtune.compare(Path("task.py"), ["adamw", "sgd-step"], epochs=3)
lrtune.find_lr("task.py", num_steps=100, clip_norm=1.0).interval
lrtune.resume("mine", budget=60, jobs=2)
lrtune.report("mine", home="elsewhere")
print(lrtune.export("mine", to="lightning").text)
"""
BAD = """
import lrtune

lrtune.search("task.py", bugdet=50)
lrtune.search("task.py", sampler="cmaes")
lrtune.search("task.py", num_seeds="three")
lrtune.compare("task.py", epohcs=3)
lrtune.find_lr("task.py", num_step=100)
lrtune.resume("mine", job=2)
lrtune.report("mine", hme="elsewhere")
lrtune.export("mine", to="jax")
lrtune.search("task.py", num_confirmed=3)
lrtune.search("task.py", confirm=3)
lrtune.search("task.py", pruner="median")
"""
ROOT = Path(__file__).parents[1]
CACHED = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
"""Strict, and without reading all of torch again where the project has just been checked."""


@pytest.mark.slow
def test_a_misspelt_option_is_an_error_for_mypy(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *CACHED, "good.py", "bad.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    errors = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    misspelt = [("bad", str(line), "call-arg") for line in (4, 7, 8, 9, 12)]
    misspelt.append(("bad", "10", "call-overload"))  # `report` has two meanings
    mistyped = [("bad", str(line), "arg-type") for line in (5, 6, 11, 13, 14)]
    assert sorted(errors) == sorted(misspelt + mistyped), done.stdout
