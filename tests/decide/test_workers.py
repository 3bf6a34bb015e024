"""Laws of whole studies: whoever comes first, they are the same, and cost what they may.

Workers end their runs in any order, and are killed. What a run comes to is a function of its
recipe, horizon and seed alone, as with a real training.
"""

import math
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrtune.core.decays import Own
from lrtune.core.recipe import NamedRecipe, Recipe
from lrtune.core.study import Budget
from lrtune.decide.budget import cost_of_looks, first_cost
from lrtune.decide.looks import looks_of
from lrtune.decide.recommend import recommend
from lrtune.decide.trials import trials_of
from tests.decide.simulation import Simulation, remembered_rankings, results, simulated
from tests.studies import BASELINE, config_of

LADDERS = {
    "none": (4, ()),
    "1,2": (4, looks_of(1, 2, seed=0)),
    "1,1": (4, looks_of(1, 1, seed=0)),
    "1,3": (9, looks_of(1, 3, seed=0)),
    "2,4": (9, looks_of(2, 4, seed=0)),
}
"""Epochs of a full run, and looks."""
COMMAND = Recipe(peak_lr=0.2, decay=Own())
UNITS = ("trials", "epochs", "runs")
EARLY = st.sampled_from([0.0, 0.1, 0.4])
JOBS = st.integers(1, 8)
RANDOMS = st.integers(0, 2**32).map(Random)


@pytest.fixture(scope="module", autouse=True)
def remembered():
    with remembered_rankings():
        yield


def epochs_of(config):
    """The budget in epochs; infinite of one in trials."""
    budget = config.budget
    scale = {"trials": math.inf, "epochs": 1, "runs": config.epochs}
    return budget.amount * scale[budget.unit]


@st.composite
def configs(draw, unit):
    """Studies whose budgets are what `search` accepts."""
    epochs, looks = LADDERS[draw(st.sampled_from(sorted(LADDERS)))]
    amount = draw(st.integers(1, 30) if unit == "trials" else st.integers(1, 150))
    num_seeds = draw(st.integers(1, 3))
    baseline, own_epochs = draw(
        st.sampled_from([(BASELINE, 0)] * 3 + [(COMMAND, 0), (COMMAND, 12), (COMMAND, 40)])
    )
    config = config_of(
        epochs=epochs,
        looks=looks,
        budget=Budget(amount / epochs if unit == "runs" else float(amount), unit),
        num_seeds=num_seeds,
        max_seeds=draw(st.integers(num_seeds, 5)),
        confirm=draw(st.sampled_from(["full", "full", "quick", "0"])),
        lag=draw(st.integers(1, 8)),
        sampler=draw(st.sampled_from(["tpe", "random"])),
        paired=draw(st.booleans()),
        matters=draw(st.sampled_from([None, 0.1, 1.0])),
        baseline=baseline,
        own_epochs=own_epochs,
    )
    assume(unit == "trials" or epochs_of(config) >= first_cost(config))
    return config


def said(state):
    """What is recommended, and how sure it is."""
    found = recommend(state)
    return found and (found.best.name, found.final, [c.name for c in found.ties], found.verdict)


@settings(max_examples=40)
@pytest.mark.parametrize("unit", UNITS)
@given(data=st.data(), early_share=EARLY, jobs=JOBS, rng=RANDOMS)
def test_any_number_of_workers_train_the_same_runs_in_any_order(unit, data, early_share, jobs, rng):
    config = data.draw(configs(unit))
    alone = simulated(config, early_share=early_share)
    together = simulated(config, jobs=jobs, rng=rng, early_share=early_share)
    assert results(together) == results(alone)
    assert said(together) == said(alone)


@settings(max_examples=30)
@pytest.mark.parametrize("unit", UNITS)
@given(data=st.data(), early_share=EARLY, jobs=st.tuples(JOBS, JOBS), rng=RANDOMS)
def test_a_study_that_was_killed_goes_on_to_the_same_end(unit, data, early_share, jobs, rng):
    """All its processes are killed at some moment, and others go on with what was recorded."""
    config = data.draw(configs(unit))
    alone = simulated(config, early_share=early_share)
    most = sum(r.epochs + 1 for r in alone.records)  # each is begun, and its epochs are trained
    study = Simulation(config, jobs=jobs[0], rng=rng, early_share=early_share)
    for _ in range(data.draw(st.integers(0, most))):
        study.advance()
    study.interrupt()
    then = simulated(
        config, jobs=jobs[1], rng=rng, early_share=early_share, records=study.state.records
    )
    assert results(then) == results(alone)
    assert said(then) == said(alone)


@settings(max_examples=20)
@pytest.mark.parametrize("unit", UNITS)
@given(data=st.data(), jobs=JOBS, kill=st.floats(0.1, 0.5), rng=RANDOMS)
def test_workers_that_die_all_the_time_change_nothing(unit, data, jobs, kill, rng):
    config = data.draw(configs(unit))
    broken = simulated(config, jobs=jobs, rng=rng, early_share=0.1, kill_share=kill)
    assert results(broken) == results(simulated(config, early_share=0.1))


@settings(max_examples=30)
@pytest.mark.parametrize("unit", ["epochs", "runs"])
@given(data=st.data(), early_share=EARLY, jobs=JOBS, rng=RANDOMS)
def test_a_budget_is_not_overspent(unit, data, early_share, jobs, rng):
    config = data.draw(configs(unit))
    state = simulated(config, jobs=jobs, rng=rng, early_share=early_share)
    assert state.epochs_trained <= epochs_of(config)


@pytest.mark.parametrize("lengths", sorted(LADDERS))
@pytest.mark.parametrize("confirm", ["full", "0"])
def test_a_budget_below_one_recipe_is_spent_on_one_recipe(lengths, confirm):
    """Less says nothing; `search` refuses it."""
    epochs, looks = LADDERS[lengths]
    config = config_of(epochs=epochs, looks=looks, confirm=confirm, budget=Budget(1, "epochs"))
    state = simulated(config, jobs=4)
    assert state.epochs_trained == cost_of_looks(config, 1)
    assert {record.run.trial for record in state.records} == {0}


@settings(max_examples=15)
@pytest.mark.parametrize("unit", UNITS)
@given(data=st.data(), early_share=EARLY, jobs=JOBS, rng=RANDOMS)
def test_of_the_longer_looks_there_are_no_more_than_their_quotas(
    unit, data, early_share, jobs, rng
):
    """The best sixth of all recipes and the best twelfth, rounded up, at each moment."""
    config = data.draw(configs(unit))
    study = Simulation(config, jobs=jobs, rng=rng, early_share=early_share)
    while study.advance() is None:
        trials = trials_of(study.state)
        for level, look in enumerate(config.looks):
            had = [trial for trial in trials if len(trial.runs) > level]
            assert len(had) <= math.ceil(len(trials) / look.one_in)
            assert all(trial.sound_at(level) for trial in had)
        assert all(len(trial.runs) <= max(1, len(config.looks)) for trial in trials)
    sound = sum(trial.sound_at(1) for trial in trials_of(study.state))
    for level, look in enumerate(config.looks[:2]):
        quota = math.ceil(len(trials_of(study.state)) / look.one_in)
        num = sum(len(trial.runs) > level for trial in trials_of(study.state))
        assert num == (quota if level == 0 else min(quota, sound))


@settings(max_examples=20)
@given(
    early_share=EARLY,
    num_seeds=st.integers(1, 3),
    more=st.integers(0, 3),
    num_recipes=st.integers(2, 4),
    jobs=JOBS,
    rng=RANDOMS,
)
def test_a_comparison_is_the_same_at_any_number_of_workers(
    early_share, num_seeds, more, num_recipes, jobs, rng
):
    recipes = [BASELINE, *(Recipe(peak_lr=0.1 * n) for n in range(1, num_recipes))]
    config = config_of(
        recipes=tuple(NamedRecipe(name=f"{n}", recipe=r) for n, r in enumerate(recipes)),
        num_seeds=num_seeds,
        max_seeds=num_seeds + more,
    )
    alone = simulated(config, early_share=early_share)
    together = simulated(config, jobs=jobs, rng=rng, early_share=early_share)
    assert results(together) == results(alone)
    assert said(together) == said(alone)
    assert len(together.records) >= num_seeds * num_recipes


# --- workers that would wait


def begun_at_once(config, jobs):
    """Runs that so many workers begin before any of them has ended."""
    study = Simulation(config, jobs=jobs)
    study.rng.random = lambda: 0.0  # whoever is free asks
    while study.state.epochs_trained == 0:
        study.advance()
    return study.started


FIRST_LOOKS = [f"trial-{number:04d}-look-1" for number in range(10)]
BASELINES = ["baseline-0", "baseline-1", "baseline-2"]
FAIR = {"looks": LADDERS["1,2"][1]}
# what differs from the made-up study, workers: the runs that they begin
AT_ONCE = {
    "one": ({"budget": "10"}, 1, FIRST_LOOKS[:1]),
    "as many as the sampler need not see": ({"budget": "50", "lag": 4}, 4, FIRST_LOOKS[:4]),
    "others wait with the baseline": (
        {"budget": "50", "lag": 4}, 6, [*FIRST_LOOKS[:4], *BASELINES[:2]],
    ),
    "in each of its rounds that there are at least": (
        {"budget": "50", "lag": 2}, 8, [*FIRST_LOOKS[:2], *BASELINES],
    ),
    "after the last recipe": ({"budget": "3"}, 8, [*FIRST_LOOKS[:3], *BASELINES]),
    "all at once where the sampler learns nothing": (
        {"budget": "10", "sampler": "random", "lag": 1}, 8, FIRST_LOOKS[:8],
    ),
    "once where the budget may end the race": (
        {"budget": "100ep", "lag": 2}, 8, [*FIRST_LOOKS[:2], *BASELINES[:1]],
    ),
    "once where one run is the proof": (
        {"budget": "3", "confirm": "quick"}, 8, [*FIRST_LOOKS[:3], *BASELINES[:1]],
    ),
    "never without a proof": ({"budget": "3", "confirm": "0"}, 8, FIRST_LOOKS[:3]),
    "never where looks take all": ({"budget": "6runs", "lag": 2}, 8, FIRST_LOOKS[:2]),
    "a command as it is before all else": (
        {"budget": "50", "lag": 2, "baseline": COMMAND}, 2, [*BASELINES[:1], *FIRST_LOOKS[:1]],
    ),
    "and its other seeds last": (
        {"budget": "50", "lag": 2, "baseline": COMMAND}, 8,
        [*BASELINES[:1], *FIRST_LOOKS[:2], *BASELINES[1:]],
    ),
    "even without a proof": (
        {"budget": "50", "lag": 2, "baseline": COMMAND, "confirm": "0"}, 8,
        [*BASELINES[:1], *FIRST_LOOKS[:2]],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "jobs", "expected"), AT_ONCE.values(), ids=AT_ONCE)
def test_workers_that_would_wait_take_runs_of_the_baseline(changes, jobs, expected):
    config = config_of(**FAIR | changes | {"budget": Budget.parse(changes["budget"])})
    assert begun_at_once(config, jobs) == expected
