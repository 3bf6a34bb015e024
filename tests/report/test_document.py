"""What a report says, before it is set."""

import math

import pytest

from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    Step,
)
from lrtune.decide.noise import Difference
from lrtune.report import wording
from lrtune.report.document import compose, lr_curve
from lrtune.schedules import build_schedule
from tests.report.conftest import EPOCHS, RECIPES, STEPS_PER_EPOCH, report_of, stages


@pytest.mark.parametrize(
    ("decay", "final_frac", "end"),
    [
        (Constant(), 0, "hold it to the end."),
        (Step(every_epochs=3), 0, "multiply it by 0.1 every 3 epochs."),
        (Step(every_epochs=1), 0.01, "multiply it by 0.1 every 1 epoch, above a floor of 1 % of the peak."),
        (MultiStep(milestones_epochs=(6,)), 0, "multiply it by 0.1 after epoch 6."),
        (MultiStep(milestones_epochs=(4, 6.5, 9)), 0, "multiply it by 0.1 after epochs 4, 6.5 and 9."),
        (Cosine(), 0, "follow half a cosine down to zero."),
        (Linear(), 0.05, "go down in a straight line to 5 % of the peak."),
        (Polynomial(power=2), 0, "go down to zero by a polynomial of power 2."),
        (Exponential(end_frac=0.01), 0, "decay exponentially to 1 % of the peak."),
        (Exponential(end_frac=0.2), 0.5, "decay exponentially to 60 % of the peak."),
        (WSD(cooldown_frac=0.2), 0, "hold it, and cool down by 1 − √x over the last 2 epochs to zero."),
        (HoldPower(hold_frac=0.5), 0, "hold it for 5 epochs, and go down to zero in a straight line."),
        (HoldPower(hold_frac=0, power=1.5), 0, "go down to zero by a polynomial of power 1.5."),
        (Plateau(), 0, "multiply it by 0.1 after more than 3 epochs without a better validation loss."),
        (
            Plateau(monitor="top1", patience_epochs=1), 0.01,
            "multiply it by 0.1 after more than 1 epoch without a better Top-1, above a floor of 1 % of the peak.",
        ),
    ],
)  # fmt: skip
def test_schedule_in_one_sentence(decay, final_frac, end):
    recipe = Recipe(peak_lr=0.213, warmup_epochs=2, decay=decay, final_frac=final_frac)
    start = "Train 12 epochs with SGD at a peak learning rate of 0.213: warm up linearly over 2 epochs, then "
    assert wording.schedule_sentence(recipe, 12) == start + end


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (42.4, "42 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (math.nan, "–"),
    ],
)
def test_duration(seconds, said):
    assert wording.duration(seconds) == said


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (None, "–"),
        (Difference(mean=0.5, low=-math.inf, high=math.inf), "+0.50 (one seed)"),
        (Difference(mean=-0.5, low=-0.75, high=0.25), "-0.50 [-0.75, +0.25]"),
    ],
)
def test_difference(difference, said):
    assert wording.difference(difference) == said


def test_finished_study(done):
    document = compose(done)
    assert document.headline.startswith(
        "Train 12 epochs with SGD at a peak learning rate of 0.35: warm up linearly over"
    )
    best, *_, baseline = document.contenders
    assert (best.name, best.recommended, best.num_seeds, best.test_top1) == ("trial 1", True, 3, "91.30 ± 0.00")
    assert (baseline.name, baseline.difference, baseline.search_top1) == ("baseline", "–", "–")
    assert [row.id for row in document.finished[:2]] == ["trial-0001", "trial-0002"]
    assert [row.state for row in document.stopped] == ["pruned", "diverged", "failed"]
    assert document.cost.epochs_avoided == (12 - 4) + (12 - 2)
    assert document.cost.epochs_trained == 3 * 12 + 8 * 12 + 4 + 2 + 9 * 12
    assert document.cost.num_runs == {"completed": 20, "pruned": 1, "diverged": 1, "failed": 1}
    assert [curve.label for curve in document.lr_curves] == ["trial 1", "baseline"]
    assert [curve.label for curve in document.learning_curves] == ["trial 1", "trial 2", "trial 5", "baseline"]
    assert document.importances[0] == ("peak_lr", 0.61)


def test_lr_curve_is_the_schedule():
    recipe = RECIPES[0][0]
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    curve = lr_curve("x", recipe, EPOCHS, STEPS_PER_EPOCH, ())
    assert curve.xs == tuple(step / STEPS_PER_EPOCH for step in range(EPOCHS * STEPS_PER_EPOCH))
    assert curve.ys == tuple(recipe.peak_lr * schedule(step) for step in range(EPOCHS * STEPS_PER_EPOCH))


def test_long_lr_curve_is_thinned_but_keeps_its_jumps():
    recipe = Recipe(decay=Step(every_epochs=1))
    curve = lr_curve("x", recipe, 90, 5000, ())
    assert len(curve.xs) < 2000
    jumps = [(a, b) for a, b, y, z in zip(curve.xs, curve.xs[1:], curve.ys, curve.ys[1:], strict=False) if y != z]
    assert all(b - a == pytest.approx(1 / 5000) for a, b in jumps)
    assert len(jumps) == 89


def test_plateau_is_shown_as_it_ran(config):
    report = stages(config)["plateau"]
    curve = compose(report).lr_curves[0]
    best = max(report.state.of_kind("confirm"), key=lambda record: record.top1)
    for m in best.measurements:
        assert curve.ys[m.step - 1] == pytest.approx(m.lr_last)
        assert curve.ys[m.step - STEPS_PER_EPOCH] == pytest.approx(m.lr_first)


def test_unconfirmed_says_so(config):
    document = compose(stages(config)["unconfirmed"])
    assert "not confirmed" in document.verdict
    assert document.facts[0].note == "one run of the search, not confirmed"
    assert document.contenders[0].top1 == "not confirmed"
    assert not any(row.tie for row in document.contenders)
    assert len(document.learning_curves) == 5


def test_ties_are_said(config):
    document = compose(stages(config)["plateau"])
    assert [row.name for row in document.contenders if row.tie] == ["baseline"]


@pytest.mark.parametrize(
    ("stage", "headline"),
    [
        ("nothing", "Nothing has finished yet."),
        ("diverged baseline", "Nothing has finished yet."),
        ("baseline", "Only the baseline so far: train 12 epochs"),
        ("worse than the baseline", "Keep the baseline: train 12 epochs"),
    ],
)
def test_headline_claims_no_more_than_is_known(config, stage, headline):
    assert compose(stages(config)[stage]).headline.startswith(headline)


def test_no_signal_gives_its_reason(config):
    said = compose(stages(config)["no signal"]).range_tests
    assert said[0] == "SGD: no signal in 3 sweeps. The loss fell by less than its noise at every learning rate."
    assert said[1].startswith("AdamW: peak LR from 0.012 to 0.94, beginning with 0.21")


def test_diverged_confirmation_does_not_break_the_curves(config, done):
    from dataclasses import replace

    records = list(done.state.records)
    for i, record in enumerate(records):
        if record.run.id == "trial-0001-confirm-0":
            broken = replace(record.measurements[1], train_loss=math.nan, val_loss=math.nan)
            records[i] = replace(record, state="diverged", measurements=(record.measurements[0], broken))
    document = compose(report_of(replace(done.state, records=tuple(records))))
    assert all(len(curve.ys) == EPOCHS for curve in document.learning_curves)
