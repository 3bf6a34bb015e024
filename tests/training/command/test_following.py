"""LRs that follow the metrics of a command: plateau decays."""

from dataclasses import replace

import pytest
import torch

from lrtune.core.decays import Plateau
from lrtune.core.recipe import Recipe
from lrtune.core.run import RunRecord
from lrtune.core.sources import CommandLine
from lrtune.training.command.following import followed
from lrtune.tuning.reuse import assignment_of, train
from tests.training.command.scripts import lrs_of, python, quadratic, same_lrs
from tests.training.command.test_training import run_of, training_of

pytestmark = pytest.mark.slow  # each of them starts processes

REPORT = "lrtune.report(val_loss=val_loss)"
RULE = Plateau(factor=0.5, patience_epochs=1, threshold=0.3)


def torchs_lrs(peak_lr, values, rule=RULE):
    """The LR of each epoch by torch's own scheduler, for these metrics of the epochs."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak_lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=rule.factor, patience=rule.patience_epochs, threshold=rule.threshold,
        eps=0,
    )  # fmt: skip
    lrs = []
    for value in values:
        lrs.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    return lrs


def trained(training, run):
    """The measurements of a run, as a worker trains it."""
    record = RunRecord(run=run, state="running")
    identity = training.identity(run.recipe)
    assignment = assignment_of(record, {}, identity, training.facts)
    return list(train(assignment, training, None))


def script(folder, **changes):
    return CommandLine(python(quadratic(folder / "code", **{"start": "import lrtune"} | changes)))


STYLES = {
    "the metric alone": {"show": REPORT},
    "other values too, some of them before the first step": {
        "start": "import lrtune; [lrtune.report(size=n) for n in range(3)]",
        "epoch": "[lrtune.report(other=n) for n in range(3)]",
        "show": REPORT + "; lrtune.report(rest=1)",
    },
    "what is printed does not count": {"show": 'print(f"val_loss {9 - epoch}"); ' + REPORT},
}


@pytest.mark.parametrize("style", STYLES)
def test_the_lrs_are_those_of_torchs_scheduler(style, here):
    training = training_of(script(here, **STYLES[style]), here)
    assert "follow" in training.facts.abilities
    run = run_of(Recipe(peak_lr=0.8, decay=RULE), 8)
    measurements = trained(training, run)
    expected = torchs_lrs(0.8, [m.metrics["val_loss"] for m in measurements])
    assert expected[0] > expected[-1]
    noted = lrs_of(here / "runs" / run.id)
    assert same_lrs(noted, [lr for lr in expected for _ in range(5)])
    assert [m.lr_first for m in measurements] == [m.lr_last for m in measurements]
    assert same_lrs([m.lr_first for m in measurements], expected)


def test_a_warmup_and_a_short_look(here):
    training = training_of(script(here, show=REPORT), here)
    run = run_of(Recipe(peak_lr=0.8, warmup_epochs=2, decay=RULE), 8)
    run = replace(run, horizon_epochs=4, stop_epochs=4)
    measurements = trained(training, run)
    noted = lrs_of(here / "runs" / run.id)[:20]
    assert same_lrs(noted[:5], [0.8 * (step + 1) / 5 for step in range(5)])
    rule = RULE.scaled(0.5)
    # The epoch of the warmup counts too, since its last step has the peak LR.
    values = [m.metrics["val_loss"] for m in measurements]
    expected = torchs_lrs(0.8, values, rule)
    assert same_lrs(noted[5:], [lr for lr in expected[1:] for _ in range(5)])


def test_epochs_of_different_lengths_have_one_lr_each(here):
    """A script that evaluates after so many seconds, say."""
    end = "[optimizer.step() for _ in range(3)]; lrtune.report(val_loss=1.0)"
    training = training_of(script(here, epochs="4", show=REPORT, end=end), here)
    assert [m.step for m in training.recorded.measurements] == [5, 10, 15, 20, 23]
    run = run_of(Recipe(peak_lr=0.8, decay=RULE), 5)
    measurements = trained(training, run)
    assert [m.step for m in measurements] == [5, 10, 15, 20, 23]
    expected = torchs_lrs(0.8, [m.metrics["val_loss"] for m in measurements])
    assert same_lrs([m.lr_first for m in measurements], expected)


def test_a_metric_that_is_printed_comes_too_late(here):
    training = training_of(CommandLine(python(quadratic(here / "code"))), here)
    assert "follow" not in training.facts.abilities


@pytest.mark.parametrize(
    ("lrs", "num_steps", "expected"),
    [
        ([1.0, 2.0], 2, [1.0, 2.0, 20.0, 30.0]),
        ([1.0, 2.0], 5, [1.0, 2.0, 2.0, 2.0, 2.0, 30.0]),
        ([1.0, 2.0], 1, [1.0, 10.0, 20.0, 30.0]),
    ],
)
def test_the_table_of_an_epoch_begins_at_the_step_that_was_reached(lrs, num_steps, expected):
    assert followed(lrs, lambda step: 10.0 * step, num_steps=num_steps, num_known=4) == expected
