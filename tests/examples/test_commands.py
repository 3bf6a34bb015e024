"""Every example of a command is searched, range-tested and applied, as it would be typed.

What LR each optimizer step has is recorded by a few lines at the head of a copy of the script, and
compared with the recipe of the run.
"""

import ast
import csv
import math
import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from lrtune import build_schedule
from lrtune.app.places import Places
from lrtune.schedules.compress import compress

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "commands"
RECORDER = """
import functools as _functools, os as _os
import torch as _torch

def _recorded(step):
    path = _os.path.join(
        _os.environ["RECORDED"],
        _os.path.basename(_os.environ.get("LRTUNE_STEER", "alone"))
        + "-rank" + _os.environ.get("RANK", "0"),
    )
    @_functools.wraps(step)
    def recorded(self, *args, **kwargs):
        with open(path, "a") as file:
            print(*[repr(float(group["lr"])) for group in self.param_groups], file=file)
        return step(self, *args, **kwargs)
    return recorded

for _kind in (_torch.optim.SGD, _torch.optim.AdamW):
    _kind.step = _recorded(_kind.step)
"""


@dataclass(frozen=True)
class Example:
    """How an example is started, and what it measures."""

    metric: str
    epochs: int
    steps_per_epoch: int
    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = (sys.executable,)
    num_ranks: int = 1
    marks: tuple[pytest.MarkDecorator, ...] = field(default=())


PEERS, SLOW = pytest.mark.peers, pytest.mark.slow
COMMANDS = {
    "plain": Example("val_loss:min", 10, 22, marks=(SLOW,)),
    "lightning_digits": Example("val_loss:min", 6, 22, marks=(PEERS,)),
    "trainer_digits": Example(
        "eval_loss:min",
        4,
        20,
        words=("--epochs", "{epochs}", "--output-dir", "{run_dir}"),
        options=("--epochs", "4"),
        marks=(PEERS,),
    ),
    "ranks": Example(
        "val_loss:min",
        6,
        22,
        program=(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        num_ranks=2,
        marks=(SLOW,),
    ),
    "characters": Example("val loss:min", 8, 20, marks=(SLOW,)),
    "images": Example(
        "eval_top1:max",
        5,
        21,
        words=("--output", "{run_dir}", "--amp"),
        options=("--read", "{run_dir}/summary.csv:eval_top1"),
        marks=(SLOW,),
    ),
}
SEARCH = ("--seeds", "1", "--max-seeds", "1")
LOOKS = ("--budget", "2", "--looks", "3,5")
"""By default a script that starts more slowly than it trains has none."""
BRIEF = ("--confirm", "0", "--budget", "1", "--pruner", "none", "--space", "brief.toml")
"""One trial, and neither looks nor a range test, which the search of `plain` has."""
SPACE = """
[parameters]
peak_lr = { low = 0.001, high = 0.1, log = true }
warmup_epochs = { low = 0, high = "25%", step = 1 }
decay = { choices = ["cosine", "linear", "wsd"] }
"""


def test_every_command_of_the_examples_is_tested_and_shown_in_its_head():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(COMMANDS)
    for name, example in COMMANDS.items():
        head = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
        assert "lrtune search --metric" in head
        assert f"examples/commands/{name}.py" in head
        assert example.metric in head


@pytest.fixture
def typed(tmp_path):
    """Runs lrtune in an empty folder, and returns what it printed."""
    (tmp_path / "recorded").mkdir()

    def run(*words, codes=(0,)):
        path = os.environ.get("PYTHONPATH")
        variables = {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RECORDED": str(tmp_path / "recorded"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "lrtune", *map(str, words)],
            cwd=tmp_path,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode in codes, done.stdout + done.stderr
        return done.stdout

    return run


def recorded(folder, run_id, example):
    """The LRs of each step of a run, one a parameter group, the same on all ranks."""
    ranks = [
        (folder / "recorded" / f"{run_id}-rank{rank}").read_text().splitlines()
        for rank in range(example.num_ranks)
    ]
    num_steps = min(map(len, ranks))  # they are ended while they train on
    assert all(lines[:num_steps] == ranks[0][:num_steps] for lines in ranks)
    return [[float(lr) for lr in line.split()] for line in ranks[0]]


def expected(recipe, epochs, example, num_steps):
    """The LRs of a recipe; after its last step the last one holds."""
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=example.steps_per_epoch)
    last = epochs * example.steps_per_epoch - 1
    return [recipe.peak_lr * schedule(min(step, last)) for step in range(num_steps)]


def check(folder, run_folder, run_id, recipe, epochs, example):
    """Compares what the script recorded, and what lrtune did, with the recipe."""
    lrs = recorded(folder, run_id, example)
    wanted = expected(recipe, epochs, example, len(lrs))
    assert len(lrs) >= epochs * example.steps_per_epoch
    for groups, lr in zip(lrs, wanted, strict=True):
        assert groups == pytest.approx([lr] * len(groups), rel=1e-6)  # a tensor has fewer digits
    own = [lr for lr, _ in struct.iter_unpack("<dd", (run_folder / "steps.bin").read_bytes())]
    assert len(own) >= (epochs - 1) * example.steps_per_epoch
    assert own == pytest.approx(wanted[: len(own)], rel=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=example.marks) for name, example in COMMANDS.items()]
)
def test_a_command_is_searched_and_applied_with_the_lrs_of_its_recipes(name, typed, tmp_path):
    example = COMMANDS[name]
    (tmp_path / "brief.toml").write_text(SPACE)
    script = tmp_path / f"{name}.py"
    script.write_text(RECORDER + (EXAMPLES / script.name).read_text())
    command = ("--", *example.program, script, *example.words)
    typed(
        "search", "--study", name, "--metric", example.metric, *example.options, *SEARCH,
        *(LOOKS if name == "plain" else BRIEF), "--quiet", *command,
    )  # fmt: skip

    state = Places(home=tmp_path / ".lrtune").existing().study(name).state()
    assert (state.config.epochs, state.config.steps_per_epoch) == (
        example.epochs,
        example.steps_per_epoch,
    )
    assert {record.state for record in state.records} == {"completed"}
    runs = tmp_path / ".lrtune" / "runs" / name
    for record in state.records:
        run = record.run
        assert math.isfinite(record.measurements[-1].metrics[example.metric.partition(":")[0]])
        if run.kind != "baseline":
            recipe = compress(run.recipe, run.recipe_epochs, run.horizon_epochs)
            check(tmp_path, runs / run.id, run.id, recipe, run.horizon_epochs, example)
    kinds = {"baseline", "look", "confirm"} if name == "plain" else {"baseline", "full"}
    assert {record.run.kind for record in state.records} == kinds

    trial = next(record.run for record in state.records if record.run.trial == 0)
    typed("apply", name, "--recipe", trial.trial, *command)
    (applied,) = runs.glob("apply-*")
    check(tmp_path, applied, applied.name, trial.recipe, example.epochs, example)

    swept = [str(word).replace("{epochs}", str(example.epochs)) for word in command]
    typed("find", "--seeds", "1", "--steps", "60", *swept, codes=(0, 1))  # 1: no signal
    (table,) = (tmp_path / "reports").glob(f"find-{name}-*/range_test.csv")
    swept = [float(row["lr"]) for row in csv.DictReader(table.open())]
    lrs = recorded(tmp_path, "sweep-0", example)
    assert len(lrs) >= len(swept) > 16
    for groups, lr in zip(lrs, swept, strict=False):
        assert groups == pytest.approx([lr] * len(groups), rel=1e-6)


PLATEAU = """
[parameters]
peak_lr = 0.05
decay = "plateau"

[decay.plateau]
patience_epochs = 0
threshold = 0.9
factor = 0.5
"""
"""An epoch is bad unless its loss is a tenth of the best: the LR is halved after most of them."""
REPORT = "__import__('lrtune').report(val_loss=val_loss)"
HANDED_OVER = [
    # the example, a line of it, and what hands the metric over in its place
    pytest.param("lightning_digits", "", "", marks=PEERS),
    pytest.param("trainer_digits", "", "", marks=PEERS),
    pytest.param(
        "ranks", "print(f", "__import__('lrtune').report(val_loss=val_loss); print(f", marks=SLOW
    ),
]


@pytest.mark.parametrize(("name", "line", "instead"), HANDED_OVER)
def test_a_plateau_decay_follows_what_is_handed_over(name, line, instead, typed, tmp_path):
    example = COMMANDS[name]
    (tmp_path / "plateau.toml").write_text(PLATEAU)
    script = tmp_path / f"{name}.py"
    text = (EXAMPLES / script.name).read_text()
    assert line in text
    script.write_text(RECORDER + (text.replace(line, instead) if line else text))
    typed(
        "search", "--study", name, "--metric", example.metric, *example.options, *SEARCH,
        *BRIEF[:-1], "plateau.toml", "--quiet", "--", *example.program, script, *example.words,
    )  # fmt: skip
    state = Places(home=tmp_path / ".lrtune").existing().study(name).state()
    (record,) = [record for record in state.records if record.run.kind == "full"]
    monitored = example.metric.partition(":")[0]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=0, threshold=0.9, eps=0
    )
    wanted = []
    for measurement in record.measurements:
        wanted += [optimizer.param_groups[0]["lr"]] * example.steps_per_epoch
        rule.step(measurement.metrics[monitored])
    assert wanted[-1] < wanted[0]
    lrs = recorded(tmp_path, record.run.id, example)[: len(wanted)]
    assert len(lrs) == len(wanted)
    for groups, lr in zip(lrs, wanted, strict=True):
        assert groups == pytest.approx([lr] * len(groups), rel=1e-6)
