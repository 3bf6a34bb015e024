"""Training scripts that are made up for tests, and what is needed to start them as commands."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PYTHON = os.environ.get("LRTUNE_TEST_PYTHON", sys.executable)
"""The Python that runs the scripts; it may have an older torch than the tests, and no lrtune."""

STAND_IN = Path(__file__).parent / "stand_in" / "torch"
"""A stand-in for torch that is imported in no time."""

SCRIPT = """
import json, math, os, sys, time
import torch
from torch import random

LRS = []
MODE = "none"
if "LRTUNE_STEER" in os.environ:
    with open(os.path.join(os.environ["LRTUNE_STEER"], "plan.json")) as file:
        MODE = json.load(file)["mode"]

class Noting(torch.optim.SGD):
    def update(self):
        before = params[0]["value"]
        super().update()
        LRS.append((before - params[0]["value"]) / params[0]["grad"])

{start}
torch.manual_seed(0)
params = [{{"value": 1.0, "grad": 0.0}} for _ in range(4)]
optimizer = Noting(params, lr={lr})
for epoch in range({epochs}):
    for step in range({steps}):
        for param, curvature in zip(params, (0.5, 1.0, 1.5, 2.0)):
            param["grad"] = curvature * (param["value"] + 0.1 * random.gauss())
        loss = sum(param["value"] ** 2 for param in params)
        torch.Tensor(loss).backward()
        optimizer.step()
    lr, val_loss = optimizer.param_groups[0]["lr"], sum(param["value"] ** 2 for param in params)
    {epoch}
    {show}
    if "LRTUNE_RUN_DIR" in os.environ:
        noted = os.path.join(os.environ["LRTUNE_RUN_DIR"], "lrs.json")
        with open(noted + ".new", "w") as file:
            json.dump(LRS, file)
        os.replace(noted + ".new", noted)  # whole, even if the script is ended here
{end}
"""


def quadratic(
    folder,
    *,
    name="train.py",
    lr="0.03",
    epochs="8",
    steps="5",
    start="",
    epoch="pass",
    show='print(f"epoch {epoch} val_loss: {val_loss:.6g}")',
    end="",
):
    """Writes a script that goes down a quadratic with noise, and returns its path.

    A plain loop over 8 epochs of 5 steps at LR 0.03 ends at a loss of 0.41; at LR 0.4 with a decay
    it ends below 0.01, and above LR 1 it diverges.

    Args:
        folder: of the script, besides which a stand-in for torch is put.
        name: of the script.
        lr: its own LR, as an expression.
        epochs: number of its epochs, as an expression.
        steps: of an epoch, as an expression.
        start: lines before the training.
        epoch: a line at the end of each epoch, before its loss is shown.
        show: the line that shows the loss.
        end: lines after the training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "torch").exists():
        (folder / "torch").symlink_to(STAND_IN)
    path = folder / name
    path.write_text(
        SCRIPT.format(
            start=start, lr=lr, epochs=epochs, steps=steps, epoch=epoch, show=show, end=end
        )
    )
    return path


def lrs_of(run_folder):
    """The LRs that the script itself has noted, one a step."""
    return json.loads((run_folder / "files" / "lrs.json").read_text())


def python(path, *words):
    """The command that starts a script."""
    return (PYTHON, str(path), *words)


def needs(text):
    """Skips a test whose script needs something that `PYTHON` does not have.

    Args:
        text: a requirement, such as `torch>=2.4` or `torch>=2.1; python_version >= "3.11"`.
    """
    requirement = Requirement(text)
    program = (
        "import sys; print('%d.%d' % sys.version_info[:2])\n"
        "from importlib.metadata import version; print(version(sys.argv[1]))"
    )
    words = [PYTHON, "-c", program, requirement.name]
    done = subprocess.run(words, capture_output=True, text=True)
    python_version, *versions = done.stdout.split()
    marker = requirement.marker
    if marker is not None and not marker.evaluate({"python_version": python_version}):
        return
    if not any(requirement.specifier.contains(each, prereleases=True) for each in versions):
        pytest.skip(f"needs {text}, but {PYTHON} has {', '.join(versions) or 'none'}")


def same_lrs(found, expected):
    """Whether LRs are the expected ones, but for the rounding of what a script can note."""
    pairs = zip(found, expected, strict=True)
    return all(math.isclose(lr, other, rel_tol=1e-9, abs_tol=1e-12) for lr, other in pairs)


def alive(mark):
    """The processes that have this text in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found
