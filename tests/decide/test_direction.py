"""A law: no rule depends on the direction of the metric, but for it alone.

A study whose values are all negated, and whose metric is minimised where it was maximised, is the
same study in other words.
"""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective
from lrtune.core.study import Budget
from lrtune.decide.convergence import convergence_epoch, settling_epoch
from lrtune.decide.looks import looked_at, looks_of, summaries
from lrtune.decide.plan import next_run
from lrtune.decide.prune import why_hopeless
from lrtune.decide.race import (
    entrants,
    fresh_scores,
    is_decided,
    rounds,
    standings,
    still_open,
)
from lrtune.decide.recommend import recommend, target_of, untrained_reason
from lrtune.decide.trials import best_first, trials_of
from lrtune.schedules.plateau import observe, start
from lrtune.tuning.sampler import ask
from tests.studies import record, state_of

NAN = math.nan
UP = Objective(metric="made_up", direction="max", guessing=1.0, constant=2.0)
LOOKS = looks_of(2, 3, seed=0)
VALUES = st.integers(0, 40).map(lambda number: number / 4) | st.just(NAN)
"""Not below 0, where a minimised metric has a perfect value and a maximised one has none."""


def negated(objective):
    down = {"direction": "min"} if objective.direction == "max" else {"direction": "max"}
    values = {
        name: None if value is None else -value
        for name, value in (("guessing", objective.guessing), ("constant", objective.constant))
    }
    return replace(objective, **down, **values)


def named(run, sign=1.0):
    """A record whose Top-1s are values of the made-up metric."""
    names = {"top1": "made_up", "averaged_top1": "averaged_made_up"}
    measurements = tuple(
        replace(
            m,
            step=100 * m.epoch,
            metrics={names[n]: sign * v for n, v in m.metrics.items() if n in names}
            | {n: v for n, v in m.metrics.items() if n not in names},
        )
        for m in run.measurements
    )
    return replace(run, measurements=measurements)


def both(records, **changes):
    """The study and its negative."""
    target = changes.pop("target", None)
    up = state_of(*map(named, records), objective=UP, target=target, **changes)
    down = state_of(
        *(named(r, -1.0) for r in records),
        objective=negated(UP),
        target=None if target is None else -target,
        **changes,
    )
    return up, down


@st.composite
def searches(draw):
    """Trials with one, two or three looks, of which some diverged, and one that is running."""
    records = []
    for number in range(draw(st.integers(1, 9))):
        num_looks = draw(st.integers(1, 3))
        for index in range(1, num_looks + 1):
            epochs = LOOKS[index - 1].epochs
            curve, averaged = (
                draw(st.lists(VALUES, min_size=epochs, max_size=epochs)) for _ in range(2)
            )
            state = "completed"
            if index == num_looks and draw(st.booleans()):
                state = draw(st.sampled_from(["diverged", "pruned", "running"]))
            records.append(
                record(curve, trial=number, look=index, looks=LOOKS, averaged=averaged, state=state)
            )
    return records


@st.composite
def races(draw):
    """A search that is over, and fresh seeds of it."""
    records = []
    for number in range(draw(st.integers(1, 4))):
        records.append(record(draw(st.lists(VALUES, min_size=4, max_size=4)), trial=number))
    for number in range(-1, len(records)):
        for seed in range(1, 1 + draw(st.integers(0, 4))):
            kind, trial = ("baseline", 0) if number < 0 else ("confirm", number)
            curve = draw(st.lists(VALUES, min_size=4, max_size=4))
            state = draw(st.sampled_from(["completed"] * 5 + ["diverged"]))
            records.append(record(curve, kind, trial=trial, seed=seed, state=state))
    return records


@given(records=searches(), level=st.integers(0, 2))
def test_who_has_a_look_and_what_is_best(records, level):
    up, down = both(records, looks=LOOKS, budget=Budget(12, "trials"))
    chosen, other = ([t.number for t in looked_at(state, level, 12)] for state in (up, down))
    assert chosen == other
    order, other = ([t.number for t in best_first(trials_of(state))] for state in (up, down))
    assert order == other
    assert [t.scores for t in trials_of(up)] == [t.scores for t in trials_of(down)]
    assert entrants(up) == entrants(down)
    assert repr(summaries(up)) == repr(summaries(down))
    assert next_run(up, lambda *_: None) == next_run(down, lambda *_: None)


SPACE = "[parameters]\npeak_lr = {low = 0.001, high = 1.0, log = true}\ndecay = 'cosine'"


@settings(max_examples=10)
@given(records=searches())
def test_what_a_sampler_suggests(records):
    ended = [replace(r, state="pruned") if r.state == "running" else r for r in records]
    up, down = both(ended, looks=LOOKS, lag=1, space_toml=SPACE, epochs=20)
    number = len(trials_of(up))
    assert ask(up, number) == ask(down, number)


@given(
    curve=st.lists(VALUES, min_size=1, max_size=4),
    averaged=st.lists(VALUES, min_size=4, max_size=4),
)
def test_which_runs_are_ended(curve, averaged):
    running = record(curve, trial=99, averaged=averaged[: len(curve)], state="running")
    up, down = both([running])
    of_up, of_down = (why_hopeless(state.records[-1], state.config) for state in (up, down))
    assert bool(of_up) == bool(of_down)


@given(records=races(), target=st.none() | st.integers(0, 10))
def test_the_race_and_the_recommendation(records, target):
    up, down = both(records, target=target, num_seeds=2, max_seeds=4)
    assert fresh_scores(up) == fresh_scores(down)
    numbers = set(standings(up).scores)
    remaining = still_open(standings(up), numbers, up.config)
    assert remaining == still_open(standings(down), numbers, down.config)
    decided, other = (is_decided(standings(state), remaining, state.config) for state in (up, down))
    assert decided == other
    assert list(rounds(up)) == list(rounds(down))
    value, source = target_of(down)
    assert (pytest.approx(-value, nan_ok=True), source) == target_of(up)
    of_up, of_down = recommend(up), recommend(down)
    assert (of_up is None) == (of_down is None)
    if of_up and of_down:
        assert of_up.best.name == of_down.best.name
        assert [c.name for c in of_up.contenders] == [c.name for c in of_down.contenders]
        assert [c.name for c in of_up.ties] == [c.name for c in of_down.ties]
        assert (of_up.simplest and of_up.simplest.name) == (
            of_down.simplest and of_down.simplest.name
        )
        assert of_up.final == of_down.final
        for one, other in zip(of_up.contenders, of_down.contenders, strict=True):
            assert one.values == pytest.approx([-value for value in other.values], nan_ok=True)
            assert repr(one.difference) == repr(other.difference)  # of scores
            assert one.convergence == other.convergence
            assert one.settling_epoch == pytest.approx(other.settling_epoch, nan_ok=True)
            assert one.probability_best == pytest.approx(other.probability_best, nan_ok=True)
            assert one.optimism(UP) == pytest.approx(other.optimism(negated(UP)), nan_ok=True)
    assert bool(untrained_reason(up)) == bool(untrained_reason(down))


@given(values=st.lists(VALUES), target=VALUES)
def test_convergence_and_settling(values, target):
    negative = [-value for value in values]
    assert convergence_epoch(UP, values, target) == convergence_epoch(
        negated(UP), negative, -target
    )
    assert settling_epoch(UP, values) == settling_epoch(negated(UP), negative)


@given(
    values=st.lists(st.floats()),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
    threshold=st.floats(0, 3),
)
def test_a_plateau(values, patience, cooldown, threshold):
    """Of a relative threshold it does not hold: torch takes its share of the best value's size."""
    up, down = (
        Plateau(
            monitor=f"made_up:{direction}",
            factor=0.5,
            patience_epochs=patience,
            cooldown_epochs=cooldown,
            threshold=threshold,
            threshold_mode="abs",
        )
        for direction in ("max", "min")
    )
    state, other = start(up), start(down)
    for value in values:
        state = observe(up, state, value, floor=0.01)
        other = observe(down, other, -value, floor=0.01)
        assert replace(other, best=-other.best) == state
