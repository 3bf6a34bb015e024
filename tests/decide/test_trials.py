"""Trials, as the rules see them: the looks that they had, and their scores."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import Cosine
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.study import StudyState
from lrtune.decide.trials import best_first, score_of, trials_of, warmup_epochs_of
from tests.studies import LOOKS, config_of, full_run, record, state_of

NAN = math.nan


def runs(number, *ends):
    """The looks of a trial, each by its Top-1 or its state."""
    for look, end in enumerate(ends, start=1):
        if isinstance(end, str):
            yield record([], trial=number, look=look, state=end)
        else:
            yield record([end] * LOOKS[look - 1].epochs, trial=number, look=look)


# ends of the looks: level, score, alive, running
TRIALS = [
    (["running"], 0, NAN, True, True),
    ([50], 1, 50, True, False),
    ([50, "running"], 1, 50, True, True),
    ([50, 60], 2, 60, True, False),
    ([50, 60, "running"], 2, 60, True, True),
    ([50, 60, 70], 3, 65, True, False),  # the mean of the two that are longer
    (["diverged"], 1, -math.inf, False, False),
    ([50, "pruned"], 2, -math.inf, False, False),
    ([50, 60, "failed"], 3, -math.inf, False, False),
    ([50, "diverged", "running"], 2, -math.inf, False, True),
]


@pytest.mark.parametrize(("ends", "level", "score", "alive", "running"), TRIALS)
def test_a_trial(ends, level, score, alive, running):
    (trial,) = trials_of(state_of(*runs(3, *ends), looks=LOOKS))
    assert (trial.number, trial.level) == (3, level)
    assert trial.score == pytest.approx(score, nan_ok=True)
    assert (trial.alive, trial.running) == (alive, running)
    assert (trial.finished, trial.final_metrics) == (False, {})


# state and Top-1 of a full run: level, score, finished, final Top-1
@pytest.mark.parametrize(
    ("state", "level", "score", "finished", "top1"),
    [
        ("completed", 1, 70, True, 70),
        ("running", 0, NAN, False, NAN),
        ("pruned", 1, -math.inf, False, NAN),
        ("diverged", 1, -math.inf, False, NAN),
    ],
)
def test_a_trial_without_looks(state, level, score, finished, top1):
    (trial,) = trials_of(state_of(record([70] * 4, state=state)))
    assert (trial.level, trial.finished) == (level, finished)
    assert trial.score == pytest.approx(score, nan_ok=True)
    assert trial.final_metrics.get("top1", NAN) == pytest.approx(top1, nan_ok=True)


@pytest.mark.parametrize(
    ("ends", "scores"),
    [
        ([50, 60, 80], [NAN, 50, 60, 70]),
        ([50, "diverged"], [NAN, 50, -math.inf]),
        ([50, 60, "pruned"], [NAN, 50, 60, -math.inf]),
    ],
)
def test_the_score_after_each_look(ends, scores):
    (trial,) = trials_of(state_of(*runs(0, *ends), looks=LOOKS))
    found = [trial.score_at(level) for level in range(len(scores))]
    assert found == pytest.approx(scores, nan_ok=True)
    assert [trial.sound_at(level) for level in range(len(scores))] == [
        score != -math.inf for score in scores
    ]
    assert not trial.sound_at(len(scores))  # it has not had that look


def test_trials_come_in_the_order_of_their_numbers_and_runs_in_that_of_their_looks():
    records = [*runs(2, 30), *runs(0, 50, 60, 70), *runs(1, 40, 45)]
    others = [record([80] * 4, "baseline", seed=1), record([70] * 4, "confirm", trial=0, seed=1)]
    trials = trials_of(state_of(*others, *reversed(records), looks=LOOKS))
    assert [(trial.number, trial.scores) for trial in trials] == [
        (0, (50, 60, 70)),
        (1, (40, 45)),
        (2, (30,)),
    ]
    looks = ["trial-0000-look-1", "trial-0000-look-2", "trial-0000-look-3"]
    assert [r.run.id for r in trials[0].runs] == looks
    assert trials[0].recipe == records[1].run.recipe


CONFIG = config_of(looks=LOOKS)
RECORDS = [r for number in range(4) for r in runs(number, 50 + number, 60, 70)]


@given(
    nows=st.lists(
        st.lists(
            st.tuples(st.sampled_from(RECORDS), st.booleans()),
            unique_by=lambda pair: pair[0].run.id,
        ),
        max_size=5,
    )
)
def test_what_was_asked_before_changes_nothing(nows):
    """Trials that did not change are known again, of whichever records."""
    for now in nows:
        records = tuple(replace(r, state="running") if runs_on else r for r, runs_on in now)
        remembered = trials_of(StudyState(config=CONFIG, records=records))
        assert remembered == trials_of(StudyState(config=replace(CONFIG), records=records))


# the look, Top-1, loss, what the study ranks by: score
SCORES = [
    (1, 50, 0.7, None, 50),
    (2, 50, 0.7, None, 50),
    (1, 50, 0.7, "val_loss:min", -0.7),
    (3, 50, 0.7, "val_loss", -0.7),
    (1, 50, 0.7, "top1:max", 50),
    (0, 50, 0.7, "val_loss:min", 50),  # a full run is ranked by the objective
    (0, NAN, 0.7, "val_loss:min", -math.inf),
    (1, NAN, 0.7, "val_loss:min", -0.7),
    (1, NAN, 0.7, None, -math.inf),
]


@pytest.mark.parametrize(("look", "top1", "loss", "rank_by", "score"), SCORES)
def test_what_a_run_is_ranked_by(look, top1, loss, rank_by, score):
    epochs = LOOKS[look - 1].epochs if look else 4
    of_run = record([99] * (epochs - 1) + [top1], look=look)
    last = of_run.measurements[-1]
    last = replace(last, metrics=last.metrics | {"val_loss": loss})
    of_run = replace(of_run, measurements=(*of_run.measurements[:-1], last))
    assert score_of(state_of(rank_by=rank_by), of_run) == score


def test_what_looks_are_ranked_by_keeps_what_is_known_of_the_objective():
    objective = Objective(num_counted=1000, guessing=10.0)
    assert config_of(rank_by="top1:max").ranked_by == config_of().ranked_by == objective
    assert config_of(rank_by="f1:max").ranked_by == Objective(metric="f1")


@pytest.mark.parametrize("state", ["pruned", "diverged", "failed"])
@pytest.mark.parametrize("look", [0, 2])
def test_a_run_that_did_not_get_to_its_end_is_the_last(look, state):
    assert score_of(state_of(), record([50, 60], look=look, state=state)) == -math.inf


# trials by number: the ends of their looks; the order, best first
ORDERS = [
    ([[50], [60], [40]], [1, 0, 2]),
    ([[50], [60], [60]], [1, 2, 0]),  # of equals the first
    ([[90], [60, 30], [50, 20]], [1, 2, 0]),  # more looks before the higher score
    ([[90, 90], [60, 30, 20]], [1, 0]),
    ([[50, 60, 90], [50, 80, 80], [50, 90, 60]], [1, 0, 2]),  # by both long looks
    ([["running"], [50], [60, "running"]], [2, 1]),  # who has no score has no place
    ([[50], [60, "diverged"], ["failed"], [40, "pruned"]], [0]),
]


@pytest.mark.parametrize(("ends", "order"), ORDERS)
def test_the_best_first(ends, order):
    records = [r for number, of_trial in enumerate(ends) for r in runs(number, *of_trial)]
    trials = best_first(trials_of(state_of(*records, looks=LOOKS)))
    assert [trial.number for trial in trials] == order


def test_a_full_run_is_worth_more_than_any_look():
    """A study has both only where it was begun by an earlier version of lrtune."""
    records = [*runs(0, 90, 90, 90), *runs(1, 50), record([60] * 4, trial=1)]
    assert [trial.number for trial in best_first(trials_of(state_of(*records)))] == [1, 0]


@pytest.mark.parametrize(("level", "order"), [(1, [2, 1, 0]), (2, [0, 1, 2]), (3, [1, 2, 0])])
def test_the_best_by_so_many_looks(level, order):
    ends = [(50, 80, 20), (60, 70, 70), (70, 60, 60)]
    records = [r for number, of_trial in enumerate(ends) for r in runs(number, *of_trial)]
    trials = best_first(trials_of(state_of(*records, looks=LOOKS)), level=level)
    assert [trial.number for trial in trials] == order


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
    (trial,) = trials_of(state_of(*records, looks=LOOKS))
    assert trial.recipe == recipe
