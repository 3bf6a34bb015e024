"""The pruning rules: which run is ended, when, and the reason given."""

import math
from dataclasses import replace

import pytest

from lrtune.core.recipe import Cosine, Linear, Recipe
from lrtune.core.study import PrunerName
from lrtune.core.trial import GO_ON, PruneDecision
from lrtune.decide.prune import PRUNERS, never, prune
from lrtune.decide.prune.halving import rungs, successive_halving
from lrtune.decide.prune.hopeless import hopeless
from lrtune.decide.prune.median import median_rule
from tests.studies import record, state_of

EPOCHS = 8
NAN = math.nan


def curve(top1s, *, trial=99, kind="search", warmup=0.0, decay=None, state="running"):
    """A run of eight epochs that has got so far."""
    recipe = Recipe(warmup_epochs=warmup, decay=decay or Cosine())
    return record(top1s, kind, trial=trial, seed=1, recipe=recipe, state=state, horizon_epochs=EPOCHS)


def study_of(others, **changes):
    """Eight epochs a run; chance is 10 %, and three counting errors above it 12.85 %."""
    numbered = (replace(other, run=replace(other.run, id=f"other-{i}")) for i, other in enumerate(others))
    return state_of(*numbered, epochs=EPOCHS, **changes)


def finished(*finals, decay=None, gain=0.0):
    """Runs that came to these Top-1s, and were `gain` below before their last epoch."""
    return [curve([final - gain] * (EPOCHS - 1) + [final], decay=decay, state="completed") for final in finals]


def decision(reason):
    return PruneDecision(prune=True, reason=reason) if reason else GO_ON


def test_never():
    assert never(curve([NAN]), study_of(finished(99, 99, 99, 99, 99, 99))) == GO_ON


# Top-1 of each epoch, warmup epochs, reason or ""
AT_CHANCE = [
    ([5], 0, ""),
    ([50, 5], 0, "Top-1 5.00 is at chance (10.0) after 2 epochs"),
    ([5, 50], 0, ""),
    ([5, 12.8], 0, "Top-1 12.80 is at chance (10.0) after 2 epochs"),
    ([5, 12.9], 0, ""),
    ([5, NAN], 0, "Top-1 nan is at chance (10.0) after 2 epochs"),
    ([NAN, 50], 0, ""),
    ([5, 5], 1, ""),
    ([5, 5, 5], 1, "Top-1 5.00 is at chance (10.0) after 3 epochs"),
    ([5, 5, 5], 1.5, ""),
    ([5] * 7, 6, ""),
]


@pytest.mark.parametrize(("top1s", "warmup", "reason"), AT_CHANCE)
def test_hopeless_ends_what_is_guessing(top1s, warmup, reason):
    assert hopeless(curve(top1s, warmup=warmup), study_of([])) == decision(reason)


@pytest.mark.parametrize(
    ("num_classes", "num_validation", "last_ended"), [(2, 1000, 54), (100, 1000, 1), (10, 100, 18.9), (10, 10**6, 10)]
)
def test_hopeless_knows_what_chance_is(num_classes, num_validation, last_ended):
    state = study_of([], num_classes=num_classes, num_validation=num_validation)
    assert hopeless(curve([last_ended] * 2), state).prune
    assert not hopeless(curve([last_ended + 1] * 2), state).prune


# The better half of these makes 10 % errors and less, or 20 % at epoch 4 with a gain of 10; three times is far behind.
FOUR = finished(70, 95, 80, 90)
BETTER = "at epoch 4, where the better half of cosine runs had"
# Top-1 at epoch 4, finished runs, warmup epochs, reason or ""
BEHIND = [
    (69.9, FOUR, 0, f"Top-1 69.90 {BETTER} 90.00 and more"),
    (70, FOUR, 0, ""),
    (69.9, FOUR, 1, ""),
    (69.9, FOUR[1:], 0, ""),
    (69.9, finished(70, 95, 80, 90, decay=Linear()), 0, ""),
    (69.9, [*FOUR[1:], *finished(70, decay=Linear())], 0, ""),
    (69.9, [*FOUR[1:], replace(FOUR[0], state="pruned")], 0, ""),
    (39.9, finished(70, 95, 80, 90, gain=10), 0, f"Top-1 39.90 {BETTER} 80.00 and more"),
    (40.1, finished(70, 95, 80, 90, gain=10), 0, ""),
    # what one image of 1,000 is worth is the least that is told apart
    (99.6, finished(100, 100, 100, 100), 0, f"Top-1 99.60 {BETTER} 100.00 and more"),
    (99.8, finished(100, 100, 100, 100), 0, ""),
]


@pytest.mark.parametrize(("top1", "others", "warmup", "reason"), BEHIND)
def test_hopeless_ends_what_is_far_behind_its_kind(top1, others, warmup, reason):
    assert hopeless(curve([50, 50, 50, top1], warmup=warmup), study_of(others)) == decision(reason)


def test_hopeless_compares_in_the_second_half_only():
    assert not hopeless(curve([15] * 3), study_of(FOUR)).prune
    assert hopeless(curve([15] * 4), study_of(FOUR)).prune


# Top-1 of each epoch, finished runs, warmup epochs, reason or ""
BELOW = "is below the median 70.00 of 5 finished trials"
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
    ([20], finished(50, 60, 70, 80, 90, gain=55), 0, ""),  # compared with where the others were then
    ([NAN], FIVE, 0, f"best Top-1 0.00 up to epoch 1 {BELOW}"),
    ([NAN, 75], FIVE, 0, ""),
    ([75, NAN], FIVE, 0, ""),
    ([65], finished(NAN, 60, 70, 80, 90), 0, f"best Top-1 65.00 up to epoch 1 {BELOW}"),
    ([65], finished(60, 70, 80, 90, NAN), 0, f"best Top-1 65.00 up to epoch 1 {BELOW}"),
    ([0], finished(NAN, NAN, NAN, NAN, NAN), 0, ""),
]


@pytest.mark.parametrize(("top1s", "others", "warmup", "reason"), MEDIAN)
def test_median_rule(top1s, others, warmup, reason):
    assert median_rule(curve(top1s, warmup=warmup), study_of(others)) == decision(reason)


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [(1, ()), (2, ()), (3, (1,)), (8, (2,)), (9, (1, 3)), (12, (1, 4)), (30, (1, 3, 10)), (90, (1, 3, 10, 30))],
)
def test_rungs(horizon, expected):
    assert rungs(horizon) == expected


def at_the_rung(*top1s):
    """Runs that have reached epoch 2, the rung of eight epochs, whatever became of them."""
    states = ["running", "pruned", "completed", "diverged"]
    return [curve([99, top1], state=states[i % 4]) for i, top1 in enumerate(top1s)]


# Top-1 of each epoch, other runs, warmup epochs, reason or ""
HALVING = [
    ([10, 50], [], 0, ""),  # the first to come
    ([10, 50], at_the_rung(40), 0, ""),
    ([10, 50], at_the_rung(60), 0, "Top-1 50.00 is not among the best 1 of 2 at the rung of epoch 2"),
    ([10, 50], at_the_rung(50, 50, 50), 0, ""),  # equal is as good
    ([10, 50], at_the_rung(60, 40, 40, 40), 0, "Top-1 50.00 is not among the best 1 of 5 at the rung of epoch 2"),
    ([10, 50], at_the_rung(60, 40, 40, 40, 40), 0, ""),  # the second of six
    ([10, 50], at_the_rung(60, 60, 40, 40, 40), 0, "Top-1 50.00 is not among the best 2 of 6 at the rung of epoch 2"),
    ([10, 50], [curve([99]), curve([99, 40, 99])], 0, ""),  # one is not there yet, one was worse when it was
    ([10], [curve([99])], 0, ""),  # not at a rung
    ([10, 10, 10], at_the_rung(60), 0, ""),
    ([10, 50], at_the_rung(60), 2, ""),  # warming up
    ([10, 50], at_the_rung(60), 1.5, "Top-1 50.00 is not among the best 1 of 2 at the rung of epoch 2"),
    ([10, NAN], [], 0, "Top-1 nan is not among the best 1 of 1 at the rung of epoch 2"),
    ([10, NAN], at_the_rung(40), 0, "Top-1 nan is not among the best 1 of 2 at the rung of epoch 2"),
    ([10, 50], at_the_rung(NAN), 0, ""),
]


@pytest.mark.parametrize(("top1s", "others", "warmup", "reason"), HALVING)
def test_successive_halving(top1s, others, warmup, reason):
    assert successive_halving(curve(top1s, warmup=warmup), study_of(others)) == decision(reason)


def test_a_run_is_not_its_own_rival():
    run, state = curve([10, 50]), study_of(at_the_rung(60, 40, 40, 40))
    with_itself = replace(state, records=(*state.records, run))
    assert successive_halving(run, with_itself) == successive_halving(run, state)


BAD = [5, 5]
OTHERS = [*finished(90, 90, 90, 90, 90), *at_the_rung(90, 90, 90)]
"""After them, every rule but `never` ends a run with 5 % at epoch 2."""


def test_every_rule_has_its_name():
    assert set(PRUNERS) == set(PrunerName.__args__)


@pytest.mark.parametrize("pruner", ["hopeless", "median", "halving"])
def test_a_bad_run_of_the_search_is_ended(pruner):
    state = study_of(OTHERS, pruner=pruner)
    assert prune(curve(BAD), state) == PRUNERS[pruner](curve(BAD), state)
    assert prune(curve(BAD), state).prune


def test_without_pruning_no_run_is_ended():
    assert prune(curve(BAD), study_of(OTHERS, pruner="none")) == GO_ON


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(
    "run",
    [
        curve(BAD, kind="baseline"),
        curve(BAD, kind="confirm"),
        curve([]),
        curve([5] * EPOCHS),
        replace(curve(BAD), run=replace(curve(BAD).run, horizon_epochs=2)),
    ],
    ids=["baseline", "confirmation", "not begun", "last epoch", "last epoch of a short run"],
)
def test_what_no_rule_ends(run, pruner):
    assert prune(run, study_of(OTHERS, pruner=pruner)) == GO_ON
