"""Looks: their lengths, who has the next one, and what is said of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.errors import InputError
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import Look
from lrtune.decide.looks import (
    OTHER_SEED,
    automatic_looks,
    full_lr,
    look_at,
    looked_at,
    looks_of,
    parse_looks,
    summaries,
)
from tests.studies import LOOKS, config_of, record, state_of

DEAD, RUNNING = "diverged", "running"


def looks_at(number, *ends):
    """The looks of a trial, each by its Top-1, or by `DEAD` or `RUNNING`."""
    for look, end in enumerate(ends, start=1):
        if end in (DEAD, RUNNING):
            yield record([99], trial=number, look=look, state=end)
        else:
            yield record([end] * LOOKS[look - 1].epochs, trial=number, look=look)


def study_of(trials, **changes):
    """A study of trials: of each the ends of its looks, in their order."""
    ends = [end if isinstance(end, tuple) else (end,) for end in trials]
    records = [r for number, of_it in enumerate(ends) for r in looks_at(number, *of_it)]
    return state_of(*records, looks=LOOKS, **changes)


# --- lengths

# epochs, steps an epoch, epochs that a start costs: lengths of the looks
AUTOMATIC = [
    (27, 100, 0, [1, 3, 3]),
    (54, 100, 0, [2, 6, 6]),
    (90, 5000, 0, [3, 10, 10]),
    (10, 100, 0, [1, 3, 3]),
    (5, 100, 0, [1, 2, 2]),  # half a full run at most
    (4, 60, 0, [1, 2, 2]),
    (3, 100, 0, [1, 1, 1]),
    (2, 1000, 0, []),
    (1, 1000, 0, []),
    (27, 59, 0, [2, 6, 6]),  # one epoch would be 59 steps
    (20, 9, 0, [7, 10, 10]),
    (27, 4, 0, [15, 15, 15]),
    (27, 2, 0, []),  # 60 steps are longer than the run
    (54, 100, 1, [2, 6, 6]),
    (54, 100, 5, [5, 15, 15]),
    (54, 100, 54, []),
]


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "start_epochs", "lengths"), AUTOMATIC)
def test_automatic_looks(epochs, steps_per_epoch, start_epochs, lengths):
    looks = automatic_looks(epochs, steps_per_epoch, seed=0, start_epochs=start_epochs)
    assert [look.epochs for look in looks] == lengths


@given(
    epochs=st.integers(1, 300),
    steps_per_epoch=st.integers(1, 500),
    seed=st.integers(0, 100),
    start_epochs=st.integers(0, 10),
)
def test_automatic_looks_are_shorter_than_the_run_and_none_is_the_same_twice(
    epochs, steps_per_epoch, seed, start_epochs
):
    looks = automatic_looks(epochs, steps_per_epoch, seed=seed, start_epochs=start_epochs)
    lengths = [look.epochs for look in looks]
    assert len(looks) in (0, 3)
    assert all(max(1, start_epochs) <= length < epochs for length in lengths)
    assert lengths == sorted(lengths)
    assert len({(look.epochs, look.seed) for look in looks}) == len(looks)
    fresh = range(seed + 1, seed + 100)  # the seeds of the race
    assert not any(look.seed in fresh for look in looks)


def test_the_third_look_is_as_long_as_the_second_and_has_another_seed():
    assert looks_of(1, 3, seed=7) == (
        Look(1, seed=7, one_in=1),
        Look(3, seed=7, one_in=6),
        Look(3, seed=7 + OTHER_SEED, one_in=12),
    )


@pytest.mark.parametrize("long", [1, 2])
def test_of_one_length_the_looks_differ_in_their_seed(long):
    assert looks_of(2, long, seed=7) == (
        Look(2, seed=7, one_in=1),
        Look(2, seed=7 + OTHER_SEED, one_in=6),
        Look(2, seed=7 + 2 * OTHER_SEED, one_in=6),
    )


@pytest.mark.parametrize("text", ["1,3", " 1 , 3 "])
def test_lengths_are_read(text):
    assert parse_looks(text, 9, seed=5) == looks_of(1, 3, seed=5)


TWO = "`looks` must be two lengths in epochs, the shorter one first, such as 1,3, but got {!r}."
LONG = "a look must be shorter than the full run of 9 epochs, but got {!r}."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", TWO), ("1", TWO), ("1,2,3", TWO), ("c1,c3", TWO), ("0,3", TWO), ("3,1", TWO),
        ("1,", TWO), ("-1,3", TWO), ("1.5,3", TWO), ("1,9", LONG), ("9,9", LONG), ("3,10", LONG),
    ],
)  # fmt: skip
def test_what_is_no_pair_of_lengths_is_refused(text, problem):
    with pytest.raises(InputError) as caught:
        parse_looks(text, 9, seed=0)
    assert caught.value.problems == (problem.format(text),)


@pytest.mark.parametrize(("epochs", "label"), [(1, "1 epoch"), (3, "3 epochs")])
def test_a_look_is_named_by_its_length(epochs, label):
    assert Look(epochs, seed=0, one_in=1).label == label


# --- the runs

# looks, number of the look from 0: id, kind, epochs of its whole schedule, seed
RUNS = [
    ("1,3", 0, ("trial-0007-look-1", "look", 1, 5)),
    ("1,3", 1, ("trial-0007-look-2", "look", 3, 5)),
    ("1,3", 2, ("trial-0007-look-3", "look", 3, 5 + OTHER_SEED)),
    ("2,2", 2, ("trial-0007-look-3", "look", 2, 5 + 2 * OTHER_SEED)),
    ("", 0, ("trial-0007", "full", 27, 5)),
]


@pytest.mark.parametrize(("lengths", "level", "expected"), RUNS)
def test_the_runs_of_a_trial(lengths, level, expected):
    looks = parse_looks(lengths, 27, seed=5) if lengths else ()
    run = look_at(config_of(epochs=27, looks=looks, seed=5), 7, Recipe(), level)
    assert (run.id, run.kind, run.horizon_epochs, run.seed) == expected
    assert run.stop_epochs == run.horizon_epochs  # the whole schedule
    assert (run.trial, run.recipe, run.recipe_epochs) == (7, Recipe(), 27)


# --- who has the next look

# ends of the trials' looks, recipes that the study has in all, look from 0: who has it, best first
CHOSEN = {
    "nobody": ([], 0, 1, []),
    "the first is for all": ([50, DEAD, RUNNING], 3, 0, [0, 1, 2]),
    "one of six": ([50, 60, 40, 30, 20, 10], 6, 1, [1]),
    "two of seven": ([50, 60, 40, 30, 20, 10, 70], 7, 1, [6, 1]),
    "by the recipes that the study has in all": ([50, 60, 40], 30, 1, [1, 0, 2]),
    "one of one": ([50], 1, 1, [0]),
    "of equals the first": ([50, 60, 60, 60, 40, 30], 6, 1, [1]),
    "not what died": ([DEAD, 30, DEAD, DEAD, DEAD, DEAD, DEAD], 7, 1, [1]),
    "nobody who is alive": ([DEAD, DEAD], 2, 1, []),
    "not what has no score": ([RUNNING, 30], 2, 1, [1]),
    "whatever came of it": ([50, (60, DEAD), 40], 3, 1, [1]),
    "the third by the second": ([(50, 60), (60, 50), *[10] * 6], 12, 2, [0]),
    "the third not for what died in the second": ([(50, 60), (60, DEAD), 10], 12, 2, [0]),
    "the third for nobody else": ([50, (60, DEAD), 40], 3, 2, []),
    "nor for one that had no second": ([*[50] * 5, (60, 5), 55], 6, 2, [5]),
    "the third for one in twelve": ([(60 + n, 50 + n) for n in range(13)], 13, 2, [12, 11]),
}


@pytest.mark.parametrize(("trials", "num", "level", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_who_has_a_look(trials, num, level, expected):
    assert [trial.number for trial in looked_at(study_of(trials), level, num)] == expected


def test_looks_are_ranked_by_what_the_study_says():
    """By the validation loss the first one is the better one, by Top-1 the second."""
    first, second = study_of([50, 60]).records
    losses = {0: 0.5, 1: 0.7}
    records = [
        replace(r, measurements=tuple(
            replace(m, metrics=m.metrics | {"val_loss": losses[r.run.trial]})
            for m in r.measurements
        ))
        for r in (first, second)
    ]  # fmt: skip
    for rank_by, expected in [(None, 1), ("top1:max", 1), ("val_loss:min", 0), ("val_loss", 0)]:
        state = state_of(*records, looks=LOOKS, rank_by=rank_by)
        assert [trial.number for trial in looked_at(state, 1, 2)] == [expected]


# --- what is said of them


def test_how_many_trials_had_each_look():
    trials = [(50, 45, 44), (60, 70, RUNNING), (40, DEAD), (30, 35), 20, DEAD, RUNNING]
    found = summaries(study_of(trials))
    assert [s.look for s in found] == list(LOOKS)
    assert [s.num_trials for s in found] == [6, 4, 1]  # without those that are running
    # of six pairs: 60 > 50 > 40 > 30, and 70 > 45 > 35 > DEAD, so 40 and 30 are the other way round
    assert found[0].tau == pytest.approx(4 / 6)
    assert math.isnan(found[1].tau)  # one trial had both


# scores of two looks, of those that had both
@pytest.mark.parametrize(
    ("pairs", "tau"),
    [
        ([(1, 1), (2, 2), (3, 3)], 1),
        ([(1, 3), (2, 2), (3, 1)], -1),
        ([(1, 1), (2, 3), (3, 2)], 1 / 3),
        ([(1, 1), (2, DEAD), (3, 3)], 1 / 3),  # what dies is the last
        ([(1, 1), (2, 2), 3, 4], math.nan),
        ([(1, 1), (2, 2), (3, RUNNING)], math.nan),
        ([], math.nan),
    ],
)
def test_kendalls_tau_between_a_look_and_the_next(pairs, tau):
    state = study_of(pairs or [RUNNING])
    assert summaries(state)[0].tau == pytest.approx(tau, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "agreement"), [([3, 2, 1], 1), ([1, 2, 3], -1), ([3, 1, 2], 1 / 3), ([2, 1], None)]
)
def test_whether_the_loss_of_a_look_goes_with_the_objective(losses, agreement):
    """Top-1 rises from trial to trial."""
    records = [
        replace(r, measurements=tuple(
            replace(m, metrics=m.metrics | {"val_loss": loss}) for m in r.measurements
        ))
        for loss, r in zip(losses, study_of([50, 60, 70][: len(losses)]).records, strict=True)
    ]  # fmt: skip
    state = state_of(*records, looks=LOOKS, rank_by="val_loss:min")
    expected = math.nan if agreement is None else agreement
    assert summaries(state)[0].agreement == pytest.approx(expected, nan_ok=True)
    own = state_of(*records, looks=LOOKS, objective=Objective.parse("val_loss"))
    assert summaries(own)[0].agreement == pytest.approx(
        math.nan if agreement is None else 1, nan_ok=True
    )


def trials_over(lrs, best_by_level, optimizer="sgd", first=0, lift=0.0):
    """Records of trials whose looks are best at these peak LRs."""
    return [
        replace(r, run=replace(r.run, recipe=replace(
            default_recipe(optimizer), peak_lr=lr
        )))
        for number, lr in enumerate(lrs, start=first)
        for r in looks_at(
            number, *(50 + lift - 10 * math.log(lr / best) ** 2 for best in best_by_level)
        )
    ]  # fmt: skip


def test_where_the_best_peak_lr_lies_at_each_look_and_in_the_full_run():
    lrs = [0.05 * 1.2**i for i in range(16)]
    state = state_of(*trials_over(lrs, (0.4, 0.2)), looks=LOOKS)
    first, second, third = (summary.best_lr for summary in summaries(state))
    assert [first.peak_lr, second.peak_lr] == pytest.approx([0.4, 0.2])
    assert third is None
    grows = math.log(state.config.epochs / LOOKS[1].epochs, LOOKS[1].epochs / LOOKS[0].epochs)
    assert full_lr(summaries(state), state.config.epochs).peak_lr == pytest.approx(0.2 * 0.5**grows)
    assert full_lr(summaries(state_of(*trials_over(lrs, (0.4,)), looks=LOOKS)), 20) is None
    assert full_lr([], 20) is None


def test_the_best_peak_lr_is_that_of_one_optimizer():
    lrs, small = [0.05 * 1.2**i for i in range(16)], [1e-4 * 1.2**i for i in range(16)]
    worse = trials_over(small, (5e-4,), "adamw", first=16, lift=-5)
    better = trials_over(small, (5e-4,), "adamw", first=16, lift=5)
    sgd = trials_over(lrs, (0.4,))
    for others, expected in ((worse, 0.4), (better, 5e-4)):
        found = summaries(state_of(*sgd, *others, looks=LOOKS))[0].best_lr
        assert found.peak_lr == pytest.approx(expected)


def test_a_study_without_looks_has_no_summaries():
    assert summaries(state_of(record([50] * 4))) == []
