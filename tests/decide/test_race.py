"""The race: who is trained with how many fresh seeds."""

from dataclasses import replace

import pytest

from lrtune.core.recipe import NamedRecipe, Recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import Budget
from lrtune.decide.plan import Done, next_run, outcome
from lrtune.decide.race import entrants, fresh_seeds, runs_of_race, standings, still_open
from tests.studies import BASELINE, config_of, measurement, record, state_of


def study(score, num_trials=3, **changes):
    """A study that is trained to its end.

    `score(trial, seed)` is the final Top-1 of a run; a run with `None` diverges.
    """
    trials = [record([80 + i] * 4, trial=i) for i in range(num_trials)]
    values = {
        "num_seeds": 2,
        "max_seeds": 5,
        "num_confirmed": 2,
        "budget": Budget(num_trials, "trials"),
    }
    state = state_of(*trials, **values | changes)
    while not isinstance(step := next_run(state, lambda *_: None), Done):
        top1 = score(step.trial, step.seed)
        loss = float("nan") if top1 is None else 1.0
        measured = tuple(measurement(epoch, top1 or 10.0, loss=loss) for epoch in range(1, 5))
        ended = RunRecord(
            run=step, state="diverged" if top1 is None else "completed", measurements=measured
        )
        state = replace(state, records=(*state.records, ended))
    return state


def seeds_of(state):
    found = {}
    for r in (*state.of_kind("baseline"), *state.of_kind("confirm")):
        found.setdefault(r.run.trial, []).append(r.run.seed)
    return found


JITTER = [0.0, 0.3, -0.2, 0.1, -0.3, 0.2, 0.0]


def noisy(level):
    """Scores around a level for each trial, with noise that no two of them share."""
    return lambda trial, seed: level[trial] + JITTER[(seed + 3 * trial) % len(JITTER)]


def test_recipes_that_are_told_apart_get_no_more_seeds():
    state = study(noisy({-1: 60, 2: 90, 1: 75}))
    assert seeds_of(state) == {-1: [1, 2], 2: [1, 2], 1: [1, 2]}


def test_equal_ones_are_trained_with_every_seed():
    state = study(noisy({-1: 80, 2: 80, 1: 80}))
    assert seeds_of(state) == {trial: [1, 2, 3, 4, 5] for trial in (-1, 2, 1)}


def test_only_those_go_on_that_may_be_the_best():
    state = study(noisy({-1: 60, 2: 90, 1: 90}))
    assert seeds_of(state) == {-1: [1, 2], 2: [1, 2, 3, 4, 5], 1: [1, 2, 3, 4, 5]}


def test_a_baseline_that_may_be_the_best_goes_on_too():
    state = study(noisy({-1: 90, 2: 90, 1: 70}))
    assert seeds_of(state) == {-1: [1, 2, 3, 4, 5], 2: [1, 2, 3, 4, 5], 1: [1, 2]}
    assert [r.run.id for r in state.of_kind("baseline")] == [f"baseline-{i}" for i in range(5)]


def test_one_that_diverged_is_out():
    scores = noisy({-1: 80, 2: 80, 1: 80})
    state = study(lambda trial, seed: None if (trial, seed) == (2, 2) else scores(trial, seed))
    assert seeds_of(state) == {-1: [1, 2, 3, 4, 5], 2: [1, 2], 1: [1, 2, 3, 4, 5]}
    assert 2 not in standings(state).scores


def test_a_round_begins_when_the_one_before_is_over():
    state = study(noisy({-1: 80, 2: 80, 1: 80}))
    third = [r for r in state.records if r.run.kind in ("baseline", "confirm") and r.run.seed == 3]
    rest = tuple(r for r in state.records if r.run.kind == "full" or r.run.seed < 3)
    assert [run.id for run in runs_of_race(replace(state, records=rest))][-3:] == [
        r.run.id for r in third
    ]
    under_way = replace(third[-1], state="running", measurements=())
    assert [
        run.seed for run in runs_of_race(replace(state, records=(*rest, *third[:-1], under_way)))
    ][-1] == 3


def test_a_round_waits_for_the_baseline_too():
    """Of a comparison the baseline may still be at work when all others have ended."""
    state = study(noisy({-1: 80, 2: 80, 1: 80}))
    rest = tuple(r for r in state.records if r.run.kind == "full" or r.run.seed < 3)
    under_way = tuple(replace(r, state="running") if r.run.id == "baseline-1" else r for r in rest)
    assert max(run.seed for run in runs_of_race(replace(state, records=rest))) == 3
    assert max(run.seed for run in runs_of_race(replace(state, records=under_way))) == 2


def test_a_round_is_decided_by_the_seeds_before_it():
    """Half of a round changes nothing of who runs in it."""
    state = study(noisy({-1: 80, 2: 80, 1: 80}))
    ids = [run.id for run in runs_of_race(state)]
    for num in range(len(state.of_kind("full")), len(state.records)):
        shown = [run.id for run in runs_of_race(replace(state, records=state.records[:num]))]
        assert shown == ids[: len(shown)]
    assert shown == ids


def test_without_more_seeds_allowed_there_is_no_race():
    state = study(noisy({-1: 80, 2: 80, 1: 80}), max_seeds=2)
    assert seeds_of(state) == {trial: [1, 2] for trial in (-1, 2, 1)}
    assert still_open(standings(state), {-1, 1, 2}) == {-1, 1, 2}


def test_without_anyone_to_confirm_the_baseline_does_not_race_alone():
    assert seeds_of(study(noisy({-1: 80}), num_confirmed=0)) == {-1: [1, 2]}


RECIPES = tuple(
    NamedRecipe(name=name, recipe=recipe)
    for name, recipe in {
        "mine": BASELINE,
        "warm": Recipe(warmup_epochs=1),
        "mine again": BASELINE,
    }.items()
)


def test_a_comparison_trains_every_recipe_with_every_seed_and_searches_nothing():
    state = study(
        noisy({-1: 80, 1: 81, 2: 82}),
        num_trials=0,
        recipes=RECIPES,
        max_seeds=2,
        budget=Budget(6, "runs"),
    )
    assert seeds_of(state) == {-1: [1, 2], 1: [1, 2], 2: [1, 2]}
    assert {r.run.trial: r.run.recipe for r in state.records} == {
        -1: BASELINE,
        1: Recipe(warmup_epochs=1),
        2: BASELINE,
    }
    assert [(one.number, one.name) for one in entrants(state)] == [(1, "warm"), (2, "mine again")]
    assert outcome(state)


@pytest.mark.parametrize("seed", [0, 5])
def test_fresh_seeds_follow_the_one_of_the_search(seed):
    assert list(fresh_seeds(config_of(seed=seed, num_seeds=3))) == [seed + 1, seed + 2, seed + 3]
