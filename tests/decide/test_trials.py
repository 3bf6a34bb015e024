"""Trials, as the rules see them: how far up they are, and their scores."""

import math
from dataclasses import replace

import pytest

from lrtune.core.decays import Cosine
from lrtune.core.recipe import Recipe
from lrtune.core.study import Rung
from lrtune.decide.trials import (
    best_first,
    ladder_of,
    score_of,
    signal_of,
    trials_of,
    warmup_epochs_of,
)
from tests.studies import config_of, full_run, measurement, record, state_of

C1, FIRST_2 = Rung(1, compressed=True), Rung(2)
RUNGS = (C1, FIRST_2)
"""Below four epochs."""
NAN = math.nan


def runs(number, *ends, rungs=RUNGS):
    """The runs of a trial, each by its Top-1 or its state."""
    for rung, end in zip((*rungs, None), ends, strict=False):
        epochs = rung.epochs if rung else 4
        if isinstance(end, str):
            yield record([], trial=number, rung=rung, state=end)
        else:
            yield record([end] * epochs, trial=number, rung=rung)


# ends of the runs: level, score, alive, running, finished, Top-1
TRIALS = [
    (["running"], 0, NAN, True, True, False, NAN),
    ([50], 1, 50, True, False, False, NAN),
    ([50, "running"], 1, 50, True, True, False, NAN),
    ([50, 60], 2, 60, True, False, False, NAN),
    ([50, 60, "running"], 2, 60, True, True, False, NAN),
    ([50, 60, 70], 3, 70, True, False, True, 70),
    (["diverged"], 1, -math.inf, False, False, False, NAN),
    ([50, "pruned"], 2, -math.inf, False, False, False, NAN),
    ([50, 60, "failed"], 3, -math.inf, False, False, False, NAN),
]


@pytest.mark.parametrize(("ends", "level", "score", "alive", "running", "finished", "top1"), TRIALS)
def test_a_trial(ends, level, score, alive, running, finished, top1):
    (trial,) = trials_of(state_of(*runs(3, *ends), rungs=RUNGS))
    assert (trial.number, trial.ladder, trial.level) == (3, RUNGS, level)
    assert trial.score == pytest.approx(score, nan_ok=True)
    assert (trial.alive, trial.running, trial.finished) == (alive, running, finished)
    assert trial.final_metrics.get("top1", NAN) == pytest.approx(top1, nan_ok=True)


def test_trials_come_in_the_order_of_their_numbers_and_runs_in_that_of_their_rungs():
    records = [*runs(2, 30), *runs(0, 50, 60, 70), *runs(1, 40, 45)]
    others = [record([80] * 4, "baseline", seed=1), record([70] * 4, "confirm", trial=0, seed=1)]
    trials = trials_of(state_of(*others, *reversed(records), rungs=RUNGS))
    assert [(trial.number, trial.scores) for trial in trials] == [
        (0, (50, 60, 70)),
        (1, (40, 45)),
        (2, (30,)),
    ]
    assert [r.run.id for r in trials[0].runs] == [
        "trial-0000-rung-c1",
        "trial-0000-rung-2",
        "trial-0000",
    ]
    assert trials[0].recipe == records[1].run.recipe


# the run, Top-1 by the raw and the averaged weights, what the study says: score
RAW = {"signal": "raw"}
SCORES = [
    (FIRST_2, 50, 60, {}, 60),
    (FIRST_2, 50, 60, RAW, 50),
    (FIRST_2, 50, "none", {}, 50),
    (C1, 50, 60, {}, 50),  # its schedule came to an end
    (None, 50, 60, {}, 50),  # likewise
    (FIRST_2, 50, NAN, {}, -math.inf),
    (C1, NAN, 60, {}, -math.inf),
]


@pytest.mark.parametrize(("rung", "raw", "averaged", "changes", "score"), SCORES)
def test_a_run_is_ranked_by_its_signal_or_its_end(rung, raw, averaged, changes, score):
    epochs = rung.epochs if rung else 4
    of_run = record(
        [99] * (epochs - 1) + [raw], rung=rung, averaged=[98] * (epochs - 1) + [averaged]
    )
    assert score_of(state_of(**changes), of_run) == score


@pytest.mark.parametrize("state", ["pruned", "diverged", "failed"])
def test_a_run_that_did_not_get_to_its_end_is_the_last(state):
    assert score_of(state_of(), record([50, 60], rung=FIRST_2, state=state)) == -math.inf


@pytest.mark.parametrize(
    ("averaged", "changes", "expected"), [(60, {}, 60), (60, RAW, 50), ("none", {}, 50)]
)
def test_the_signal_of_an_unfinished_run(averaged, changes, expected):
    metrics = measurement(2, 50, averaged=averaged).metrics
    assert signal_of(state_of(**changes).config, metrics) == expected


# trials by number: the ends of their runs; the order, best first
ORDERS = [
    ([[50], [60], [40]], [1, 0, 2]),
    ([[50], [60], [60]], [1, 2, 0]),  # of equals the first
    ([[90], [60, 30], [50, 20]], [1, 2, 0]),  # the higher rung before the higher score
    ([[90, 90], [60, 30, 20]], [1, 0]),
    ([["running"], [50], [60, "running"]], [2, 1]),  # who has no score has no place
    ([[50], [60, "diverged"], ["failed"], [40, "pruned"]], [0]),
]


@pytest.mark.parametrize(("ends", "order"), ORDERS)
def test_the_best_first(ends, order):
    records = [r for number, of_trial in enumerate(ends) for r in runs(number, *of_trial)]
    assert [
        trial.number for trial in best_first(trials_of(state_of(*records, rungs=RUNGS)))
    ] == order


def test_of_several_ladders_those_come_first_that_have_the_fewest_rungs_left():
    rungs = (Rung(1), FIRST_2)
    both = runs(0, 50, 60, rungs=rungs)  # one step before the full run
    second = runs(1, 90, rungs=rungs[1:])  # likewise
    none = runs(2, 40, rungs=())
    state = state_of(*both, *second, *none, pruner="hyperband", rungs=rungs)
    assert [trial.number for trial in best_first(trials_of(state))] == [2, 1, 0]


@pytest.mark.parametrize(
    ("pruner", "ladders"),
    [
        ("fair", [RUNGS] * 6),
        ("halving", [RUNGS] * 6),
        ("hyperband", [RUNGS, RUNGS[1:], ()] * 2),  # as many trials for each bracket
    ],
)
def test_ladders(pruner, ladders):
    config = config_of(pruner=pruner, rungs=RUNGS)
    assert [ladder_of(config, number) for number in range(6)] == ladders


@pytest.mark.parametrize(
    ("horizon_epochs", "stop_epochs", "expected"),
    [(27, 27, 3), (27, 9, 3), (9, 9, 1), (3, 3, 1 / 3), (1, 1, 1 / 9)],
)
def test_the_warmup_of_a_run_in_its_own_epochs(horizon_epochs, stop_epochs, expected):
    run = full_run(
        Recipe(warmup_epochs=3), 27, horizon_epochs=horizon_epochs, stop_epochs=stop_epochs
    )
    assert warmup_epochs_of(run) == pytest.approx(expected)


def test_the_recipe_of_a_trial_is_that_of_its_runs():
    recipe = Recipe(peak_lr=0.7, decay=Cosine())
    records = [replace(r, run=replace(r.run, recipe=recipe)) for r in runs(0, 50, 60)]
    (trial,) = trials_of(state_of(*records, rungs=RUNGS))
    assert trial.recipe == recipe
