"""The pruning rules: which run is ended, when, and the reason given."""

import math
from dataclasses import replace

import pytest

from lrtune.core.decays import Cosine, Linear
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import GO_ON, PruneDecision
from lrtune.core.study import PrunerName, Rung
from lrtune.decide.prune import PRUNERS, never, prune
from lrtune.decide.prune.hopeless import hopeless
from lrtune.decide.prune.median import median_rule
from lrtune.decide.prune.patient import patient
from tests.studies import record, state_of

EPOCHS = 8
NAN = math.nan


def curve(
    top1s, *, trial=99, kind="full", warmup=0.0, decay=None, state="running", steps_per_epoch=100,
    **others,
):  # fmt: skip
    """A run of eight epochs that has got so far."""
    recipe = Recipe(warmup_epochs=warmup, decay=decay or Cosine())
    run = record(
        top1s,
        kind,
        trial=trial,
        seed=1,
        recipe=recipe,
        state=state,
        horizon_epochs=EPOCHS,
        **others,
    )
    measurements = tuple(replace(m, step=steps_per_epoch * m.epoch) for m in run.measurements)
    return replace(run, measurements=measurements)


def study_of(others, **changes):
    """Eight epochs a run; chance is 10 %, and three counting errors above it 12.85 %."""
    numbered = (
        replace(other, run=replace(other.run, id=f"other-{i}")) for i, other in enumerate(others)
    )
    return state_of(*numbered, epochs=EPOCHS, **changes)


def finished(*finals, decay=None, gain=0.0):
    """Runs that came to these Top-1s, and were `gain` below before their last epoch."""
    return [
        curve([final - gain] * (EPOCHS - 1) + [final], decay=decay, state="completed")
        for final in finals
    ]


def decision(reason):
    return PruneDecision(prune=True, reason=reason) if reason else GO_ON


def test_never():
    assert never(curve([NAN]), study_of(finished(99, 99, 99, 99, 99, 99))) == GO_ON


# Top-1 of each epoch, warmup epochs, reason or ""
AT_CHANCE = [
    ([5], 0, ""),
    ([50, 5], 0, "Top-1 5.00 is not told from chance (10.0 ± 0.9) at epoch 2"),
    ([5, 50], 0, ""),
    ([5, 12.8], 0, "Top-1 12.80 is not told from chance (10.0 ± 0.9) at epoch 2"),
    ([5, 12.9], 0, ""),
    ([5, NAN], 0, "Top-1 – is not told from chance (10.0 ± 0.9) at epoch 2"),
    ([NAN, 50], 0, ""),
    ([5, 5], 1, ""),
    ([5, 5, 5], 1, "Top-1 5.00 is not told from chance (10.0 ± 0.9) at epoch 3"),
    ([5, 5, 5], 1.5, ""),
    ([5] * 7, 6, ""),
]


@pytest.mark.parametrize(("top1s", "warmup", "reason"), AT_CHANCE)
def test_hopeless_ends_what_is_guessing(top1s, warmup, reason):
    assert hopeless(curve(top1s, warmup=warmup), study_of([])) == decision(reason)


@pytest.mark.parametrize(
    ("num_classes", "num_validation", "last_ended"),
    [
        (10, 10**6, 10),
        (100, 1000, 1),
        (2, 10**4, 51),
        # so few images that three counting errors above chance are less than three below a run that
        # learns
        (2, 1000, 50),
        (10, 100, 9.9),
        (3, 90, 25),
    ],
)
def test_hopeless_knows_what_chance_is(num_classes, num_validation, last_ended):
    objective = Objective(num_counted=num_validation, guessing=100 / num_classes)
    state = study_of([], objective=objective)
    assert hopeless(curve([last_ended] * 2), state).prune
    assert not hopeless(curve([last_ended + 1] * 2), state).prune


@pytest.mark.parametrize(
    ("averaged", "ended"), [(5, True), (12.8, True), (12.9, False), (NAN, True)]
)
def test_hopeless_spares_what_the_averaged_weights_have_learnt(averaged, ended):
    assert hopeless(curve([5, 5], averaged=[5, averaged]), study_of([])).prune == ended


@pytest.mark.parametrize(("steps_per_epoch", "ended"), [(49, False), (50, True)])
def test_hopeless_takes_a_hundred_steps_to_tell(steps_per_epoch, ended):
    assert hopeless(curve([5, 5], steps_per_epoch=steps_per_epoch), study_of([])).prune == ended


# The better half of these makes 10 % errors and less, or 20 % at epoch 4 with a gain of 10; three
# times is far behind.
FOUR = finished(70, 95, 80, 90)
BETTER = "at epoch 4, where the better half of cosine runs had"
# Top-1 at epoch 4, finished runs, warmup epochs, reason or ""
BEHIND = [
    (69.9, FOUR, 0, f"Top-1 69.90 {BETTER} 90.00 or better"),
    (NAN, FOUR, 0, f"Top-1 – {BETTER} 90.00 or better"),  # the averaged weights are sound
    (70, FOUR, 0, ""),
    (69.9, FOUR, 1, ""),
    (69.9, FOUR[1:], 0, ""),
    (69.9, finished(70, 95, 80, 90, decay=Linear()), 0, ""),
    (69.9, [*FOUR[1:], *finished(70, decay=Linear())], 0, ""),
    (69.9, [*FOUR[1:], replace(FOUR[0], state="pruned")], 0, ""),
    (39.9, finished(70, 95, 80, 90, gain=10), 0, f"Top-1 39.90 {BETTER} 80.00 or better"),
    (40.1, finished(70, 95, 80, 90, gain=10), 0, ""),
    # what one image of 1,000 is worth is the least that is told apart
    (99.6, finished(100, 100, 100, 100), 0, f"Top-1 99.60 {BETTER} 100.00 or better"),
    (99.8, finished(100, 100, 100, 100), 0, ""),
]


@pytest.mark.parametrize(("top1", "others", "warmup", "reason"), BEHIND)
def test_hopeless_ends_what_is_far_behind_its_kind(top1, others, warmup, reason):
    run = curve([50, 50, 50, top1], averaged=[50] * 4, warmup=warmup)
    assert hopeless(run, study_of(others)) == decision(reason)


def test_hopeless_compares_in_the_second_half_only():
    assert not hopeless(curve([15] * 3), study_of(FOUR)).prune
    assert hopeless(curve([15] * 4), study_of(FOUR)).prune


# Top-1 of each epoch, finished runs, warmup epochs, reason or ""
BELOW = "is worse than the median 70.00 of 5 finished trials"
FIVE = finished(50, 60, 70, 80, 90)
MEDIAN = [
    ([69.9], FIVE, 0, f"best Top-1 69.90 up to epoch 1 {BELOW}"),
    ([70], FIVE, 0, ""),
    ([75, 20], FIVE, 0, ""),  # by its best epoch
    ([20, 75, 20], FIVE, 0, ""),
    ([60, 65, 20], FIVE, 0, f"best Top-1 65.00 up to epoch 3 {BELOW}"),
    ([20], FIVE[1:], 0, ""),
    ([20], [*FIVE[1:], curve([50] * 7, state="pruned")], 0, ""),
    ([20], FIVE, 1, ""),
    ([20, 20], FIVE, 1, f"best Top-1 20.00 up to epoch 2 {BELOW}"),
    (
        [20],
        finished(50, 60, 70, 80, 90, gain=55),
        0,
        "",
    ),  # compared with where the others were then
    ([NAN], FIVE, 0, f"best Top-1 – up to epoch 1 {BELOW}"),
    ([NAN, 75], FIVE, 0, ""),
    ([75, NAN], FIVE, 0, ""),
    ([65], finished(NAN, 60, 70, 80, 90), 0, f"best Top-1 65.00 up to epoch 1 {BELOW}"),
    ([65], finished(60, 70, 80, 90, NAN), 0, f"best Top-1 65.00 up to epoch 1 {BELOW}"),
    ([0], finished(NAN, NAN, NAN, NAN, NAN), 0, ""),
]


@pytest.mark.parametrize(("top1s", "others", "warmup", "reason"), MEDIAN)
def test_median_rule(top1s, others, warmup, reason):
    assert median_rule(curve(top1s, warmup=warmup), study_of(others)) == decision(reason)


# Top-1s by the raw weights, by averaged ones, what the study says, reason or ""
SIGNALS = [
    ([20], [75], {}, ""),
    ([75], [20], {}, f"best Top-1 20.00 up to epoch 1 {BELOW}"),
    ([20], [75], {"signal": "raw"}, f"best Top-1 20.00 up to epoch 1 {BELOW}"),
    ([75], [20], {"signal": "raw"}, ""),
    ([75], ["none"], {}, ""),  # there are no averaged weights
]


@pytest.mark.parametrize(("top1s", "averaged", "changes", "reason"), SIGNALS)
def test_median_rule_judges_by_the_signal_of_the_study(top1s, averaged, changes, reason):
    assert median_rule(curve(top1s, averaged=averaged), study_of(FIVE, **changes)) == decision(
        reason
    )


# Top-1 of each epoch, warmup epochs, reason or ""; of eight epochs two may pass without progress
PATIENT = [
    ([50], 0, ""),
    ([50, 40, 40], 0, ""),
    ([50, 40, 40, 40], 0, "no Top-1 better than 50.00 for 3 epochs"),
    ([50, 50, 50, 50], 0, "no Top-1 better than 50.00 for 3 epochs"),  # equal is no progress
    ([50, 40, 40, 50.1], 0, ""),
    ([50, 60, 40, 40, 40], 0, "no Top-1 better than 60.00 for 3 epochs"),
    ([50, 60, 40, 40, 61, 40, 40], 0, ""),
    ([50, NAN, NAN, NAN], 0, "no Top-1 better than 50.00 for 3 epochs"),
    ([NAN, NAN, NAN, 5], 0, ""),
    ([50, 40, 40, 40], 4, ""),  # warming up
    ([50, 40, 40, 40], 3.5, "no Top-1 better than 50.00 for 3 epochs"),
]


@pytest.mark.parametrize(("top1s", "warmup", "reason"), PATIENT)
def test_patient(top1s, warmup, reason):
    assert patient(curve(top1s, warmup=warmup), study_of([])) == decision(reason)


@pytest.mark.parametrize(
    ("signal", "reason"), [("averaged", ""), ("raw", "no Top-1 better than 50.00 for 3 epochs")]
)
def test_patient_waits_for_the_signal_of_the_study(signal, reason):
    run = curve([50, 40, 40, 40], averaged=[30, 40, 50, 60])
    assert patient(run, study_of([], signal=signal)) == decision(reason)


# horizon, epochs without progress that are borne
@pytest.mark.parametrize(("horizon", "borne"), [(1, 1), (3, 1), (5, 2), (10, 3), (30, 9)])
def test_patience_is_a_share_of_the_run(horizon, borne):
    run = record([50] + [40] * borne, state="running", horizon_epochs=horizon)
    assert not patient(run, study_of([])).prune
    run = record([50] + [40] * (borne + 1), state="running", horizon_epochs=horizon)
    assert patient(run, study_of([])).prune


C4, FIRST_4 = Rung(4, compressed=True), Rung(4)


@pytest.mark.parametrize(
    ("rung", "top1s", "warmup", "reason"),
    [
        (
            C4,
            [5],
            0,
            "Top-1 5.00 is not told from chance (10.0 ± 0.9) at epoch 1",
        ),  # a quarter of the compressed run
        (FIRST_4, [5], 0, ""),  # an eighth of the full one
        (FIRST_4, [5, 5], 0, "Top-1 5.00 is not told from chance (10.0 ± 0.9) at epoch 2"),
        (C4, [5], 1, ""),  # of the full run, so half an epoch here
        (C4, [5, 5], 1, "Top-1 5.00 is not told from chance (10.0 ± 0.9) at epoch 2"),
        (FIRST_4, [5, 5], 1, ""),
    ],
)
def test_hopeless_reckons_in_the_epochs_of_the_schedule(rung, top1s, warmup, reason):
    assert hopeless(curve(top1s, rung=rung, warmup=warmup), study_of([])) == decision(reason)


@pytest.mark.parametrize("rung", [None, C4, FIRST_4])
@pytest.mark.parametrize("of_others", [None, C4, FIRST_4])
def test_hopeless_compares_runs_of_the_same_length_alone(rung, of_others):
    """The run is at three quarters of the compressed run.

    The same epoch is too early in the others.
    """
    epochs = 7 if rung is None else 3
    others = [
        curve([95] * (8 if of_others is None else 4), rung=of_others, state="completed")
        for _ in range(4)
    ]
    run = curve([20] * epochs, rung=rung)
    assert hopeless(run, study_of(others)).prune == (rung == of_others and rung != FIRST_4)


BAD = [5, 5, 5, 5]
OTHERS = finished(90, 90, 90, 90, 90)
"""After them, every rule but `never` ends a run with 5 % at epoch 4."""


def test_every_rule_has_its_name():
    assert set(PRUNERS) == set(PrunerName.__args__)


@pytest.mark.parametrize(
    ("pruner", "rule"),
    [("fair", hopeless), ("hopeless", hopeless), ("median", median_rule), ("patient", patient)],
)
def test_a_bad_run_of_the_search_is_ended(pruner, rule):
    state = study_of(OTHERS, pruner=pruner)
    assert prune(curve(BAD), state) == rule(curve(BAD), state)
    assert prune(curve(BAD), state).prune


def test_a_rung_is_a_run_of_the_search_too():
    assert prune(curve([5, 5, 5], rung=C4), study_of([], pruner="fair")).prune


@pytest.mark.parametrize(
    "pruner", ["none", "halving", "hyperband"]
)  # on the rungs of the last two nothing is ended
def test_without_pruning_no_run_is_ended(pruner):
    assert prune(curve(BAD), study_of(OTHERS, pruner=pruner)) == GO_ON


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(
    "run",
    [
        curve(BAD, kind="baseline"),
        curve(BAD, kind="confirm"),
        curve([]),
        curve([5] * EPOCHS),
        curve(BAD, rung=C4),
        curve(BAD, rung=FIRST_4),
    ],
    ids=[
        "baseline",
        "confirmation",
        "not begun",
        "last epoch",
        "last of a compressed run",
        "last of a rung",
    ],
)
def test_what_no_rule_ends(run, pruner):
    assert prune(run, study_of(OTHERS, pruner=pruner)) == GO_ON
