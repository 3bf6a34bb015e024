"""Pruning: which run is ended, when, and the reason given."""

import math
from dataclasses import replace

import pytest

from lrtune.core.decays import Cosine
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.decide.looks import looks_of
from lrtune.decide.prune import why_hopeless
from tests.studies import config_of, record

EPOCHS = 8
LOOKS = looks_of(4, 6, seed=0)
NAN = math.nan
GUESSING = "Top-1 {} is not told from chance (10.0 ± 0.9) at epoch {}"


def curve(top1s, *, kind="full", warmup=0.0, steps_per_epoch=100, averaged="none", **others):
    """A run of eight epochs that has got so far."""
    recipe = Recipe(warmup_epochs=warmup, decay=Cosine())
    run = record(
        top1s, kind, seed=1, recipe=recipe, state="running", horizon_epochs=EPOCHS, looks=LOOKS,
        averaged=averaged if averaged != "none" else ["none"] * len(top1s), **others,
    )  # fmt: skip
    measurements = tuple(replace(m, step=steps_per_epoch * m.epoch) for m in run.measurements)
    return replace(run, measurements=measurements)


def reason_of(run, **changes):
    """Eight epochs a run; chance is 10 %, and three counting errors above it 12.85 %."""
    return why_hopeless(run, config_of(epochs=EPOCHS, **changes))


# Top-1 of each epoch, warmup epochs: Top-1 and epoch in the reason, or None
AT_CHANCE = [
    ([5], 0, None),
    ([50, 5], 0, ("5.00", 2)),
    ([5, 50], 0, None),
    ([5, 12.8], 0, ("12.80", 2)),
    ([5, 12.9], 0, None),
    ([5, NAN], 0, ("–", 2)),
    ([NAN, 50], 0, None),
    ([5, 5], 1, None),
    ([5, 5, 5], 1, ("5.00", 3)),
    ([5, 5, 5], 1.5, None),
    ([5] * 7, 6, None),
]


@pytest.mark.parametrize(("top1s", "warmup", "expected"), AT_CHANCE)
@pytest.mark.parametrize("averaged", [False, True])
def test_what_is_guessing_is_ended(averaged, top1s, warmup, expected):
    """Averaged weights may be there, as good as the raw ones, or not."""
    run = curve(top1s, warmup=warmup, averaged=list(top1s) if averaged else "none")
    assert reason_of(run) == (GUESSING.format(*expected) if expected else "")


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
def test_what_chance_is(num_classes, num_validation, last_ended):
    objective = Objective(num_counted=num_validation, guessing=100 / num_classes)
    assert reason_of(curve([last_ended] * 2), objective=objective)
    assert not reason_of(curve([last_ended + 1] * 2), objective=objective)


def test_where_guessing_is_not_known_nothing_is_ended():
    assert not reason_of(curve([0.0] * 7), objective=Objective())
    assert not reason_of(curve([NAN] * 7), objective=Objective.parse("val_loss"))


@pytest.mark.parametrize(
    ("averaged", "ended"), [(5, True), (12.8, True), (12.9, False), (NAN, True)]
)
def test_what_the_averaged_weights_have_learnt_is_spared(averaged, ended):
    assert bool(reason_of(curve([5, 5], averaged=[5, averaged]))) == ended


@pytest.mark.parametrize(("steps_per_epoch", "ended"), [(49, False), (50, True)])
def test_it_takes_a_hundred_steps_to_tell(steps_per_epoch, ended):
    assert bool(reason_of(curve([5, 5], steps_per_epoch=steps_per_epoch))) == ended


@pytest.mark.parametrize(
    ("look", "top1s", "warmup", "expected"),
    [
        (1, [5], 0, ("5.00", 1)),  # a quarter of the four epochs of this look
        (2, [5], 0, None),  # a sixth
        (2, [5, 5], 0, ("5.00", 2)),
        (3, [5, 5], 0, ("5.00", 2)),
        (1, [5], 1, None),  # of the full run, so half an epoch here
        (1, [5, 5], 1, ("5.00", 2)),
        (2, [5, 5], 1, None),
        (2, [5, 5, 5], 1, ("5.00", 3)),
    ],
)
def test_a_look_is_judged_by_its_own_length(look, top1s, warmup, expected):
    run = curve(top1s, look=look, warmup=warmup)
    assert reason_of(run, looks=LOOKS) == (GUESSING.format(*expected) if expected else "")


BAD = [5, 5, 5, 5]


def test_a_bad_run_of_the_search_is_ended_by_the_fair_pruner_alone():
    assert reason_of(curve(BAD))
    assert not reason_of(curve(BAD), pruner="none")


NEVER = {
    "baseline": curve(BAD, kind="baseline"),
    "confirmation": curve(BAD, kind="confirm"),
    "not begun": curve([]),
    "last epoch": curve([5] * EPOCHS),
    "last of a look": curve(BAD, look=1),
}


@pytest.mark.parametrize("run", NEVER.values(), ids=NEVER)
def test_what_is_never_ended(run):
    assert not reason_of(run, looks=LOOKS)
