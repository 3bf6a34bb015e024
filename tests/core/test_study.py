"""Budgets, settings, and what is derived from the records of a study."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lrtune.core.errors import InputError
from lrtune.core.run import RunRecord
from lrtune.core.study import Budget, Look, StudyState, TrainSettings
from tests.studies import config_of, measurement, record, state_of

# what people write, amount, unit, how it is written back
BUDGETS = [
    (50, 50, "trials", "50"),
    ("50", 50, "trials", "50"),
    (" 50 ", 50, "trials", "50"),
    ("50.0", 50, "trials", "50"),
    ("1234567", 1234567, "trials", "1234567"),
    ("300ep", 300, "epochs", "300ep"),
    ("300 ep", 300, "epochs", "300ep"),
    ("20runs", 20, "runs", "20runs"),
    ("2.5runs", 2.5, "runs", "2.5runs"),
    ("90s", 90, "seconds", "90s"),
    ("1.5s", 1.5, "seconds", "1.5s"),
    ("1000000000ep", 1e9, "epochs", "1000000000ep"),
    ("30min", 1800, "seconds", "30min"),
    ("60min", 3600, "seconds", "1h"),
    ("4h", 14400, "seconds", "4h"),
    ("1.5h", 5400, "seconds", "90min"),
    ("3600s", 3600, "seconds", "1h"),
]


@pytest.mark.parametrize(("text", "amount", "unit", "written"), BUDGETS)
def test_budgets(text, amount, unit, written):
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit, str(budget)) == (amount, unit, written)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *(
            (text, f"`budget` must look like 50, 300ep, 20runs, 30min or 4h, but got {text!r}.")
            for text in (
                "banana",
                "",
                "-5",
                "+5",
                "ep",
                "5epochs",
                "5 h 3",
                "1e3",
                "nan",
                "inf",
                "4H",
                "4,5h",
                ".5h",
                1.5e300,
            )
        ),
        *(
            (text, f"`0 < budget` must hold, but got {text!r}.")
            for text in ("0", 0, "0ep", "0.0h", "0runs")
        ),
        ("0.9s", "`1s <= budget` must hold, but got '0.9s'."),
        ("0.01min", "`1s <= budget` must hold, but got '0.01min'."),
        *(
            (text, f"`budget <= 1000000000` must hold, but got {text!r}.")
            for text in ("1000000001", "1000000001ep", "300000h", "1000000000.5runs")
        ),
        ("1.5", "`budget` in trials must be whole, but got '1.5'."),
        ("1.5ep", "`budget` in epochs must be whole, but got '1.5ep'."),
    ],
)
def test_what_is_no_budget(text, problem):
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert caught.value.problems == (problem,)


@given(st.integers(1, 10**9), st.sampled_from(["", "ep", "runs", "s"]))
@example(277_777, "h")
@example(16_666_666, "min")
def test_a_budget_is_read_back_as_it_was(amount, suffix):
    budget = Budget.parse(f"{amount}{suffix}")
    assert Budget.parse(str(budget)) == budget


@given(st.decimals(1, 10**5, places=3), st.sampled_from(["runs", "s", "min", "h"]))
def test_a_budget_with_a_fraction_is_read_back_as_it_was(amount, suffix):
    budget = Budget.parse(f"{amount}{suffix}")
    again = Budget.parse(str(budget))
    assert (again.unit, again.amount) == (budget.unit, pytest.approx(budget.amount, rel=1e-11))


@pytest.mark.parametrize(("epochs", "label"), [(1, "1 epoch"), (9, "9 epochs")])
def test_a_look_in_words(epochs, label):
    assert Look(epochs, seed=0, one_in=6).label == label


# sampler, lag, number of the question, how many of the first trials it sees
SEEN = [
    ("tpe", 8, 0, 0), ("tpe", 8, 7, 0), ("tpe", 8, 8, 1), ("tpe", 8, 30, 23), ("gp", 8, 30, 23),
    ("tpe", 1, 0, 0), ("tpe", 1, 1, 1), ("tpe", 1, 30, 30), ("gp", 3, 30, 28),
    ("random", 8, 30, 0), ("qmc", 1, 30, 0),
]  # fmt: skip


@pytest.mark.parametrize(("sampler", "lag", "number", "seen"), SEEN)
def test_how_many_of_the_first_trials_a_question_sees(sampler, lag, number, seen):
    assert config_of(sampler=sampler, lag=lag).num_seen(number) == seen


def test_at_a_lag_as_many_trials_can_be_looked_at_side_by_side():
    """The question of a trial is answered while the `lag - 1` before it are running."""
    config = config_of(lag=5)
    assert [number - config.num_seen(number) for number in (5, 6, 100)] == [4, 4, 4]


@pytest.mark.parametrize(
    ("rank_by", "title", "direction"),
    [(None, "Top-1", "max"), ("top1:max", "Top-1", "max"), ("val_loss", "val_loss", "min")],
)
def test_what_looks_are_ranked_by(rank_by, title, direction):
    config = config_of(rank_by=rank_by)
    ranked_by = config.ranked_by
    assert (ranked_by.metric == "val_loss") == (rank_by == "val_loss")
    assert ranked_by.direction == direction
    if rank_by != "val_loss":
        assert ranked_by is config.objective  # with all that it knows of its metric


def test_settings_break_their_rules_together():
    with pytest.raises(InputError) as caught:
        TrainSettings(
            batch_size=10, accumulate=3, clip_norm=0, label_smoothing=1, ema_half_life_epochs=-1
        )
    assert caught.value.problems == (
        "`0 < clip_norm` must hold, but got 0.",
        "`0 <= label_smoothing < 1` must hold, but got 1.",
        "`0 <= ema_half_life_epochs` must hold, but got -1.",
        "`batch_size` must be a multiple of `accumulate`, but got 10 and 3.",
    )


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"batch_size": 0}, "`1 <= batch_size` must hold, but got 0."),
        ({"accumulate": 0}, "`1 <= accumulate` must hold, but got 0."),
        ({"clip_norm": math.nan}, "`0 < clip_norm` must hold, but got nan."),
        (
            {"precision": np.zeros(2)},
            "`precision` must be one of auto, fp32, bf16, fp16, but got array([0., 0.]).",
        ),
        (
            {"data_on_device": True},
            "`data_on_device` must be one of auto, yes, no, but got True.",
        ),
        ({"threads": -1}, "`0 <= threads` must hold, but got -1."),
        ({"label_smoothing": -0.1}, "`0 <= label_smoothing < 1` must hold, but got -0.1."),
        (
            {"ema_half_life_epochs": 1e300},
            f"`ema_half_life_epochs <= {2**53}` must hold, but got 1e+300.",
        ),
        ({"ema_half_life_epochs": math.nan}, "`0 <= ema_half_life_epochs` must hold, but got nan."),
    ],
)
def test_a_setting_that_breaks_its_rule(values, problem):
    with pytest.raises(InputError) as caught:
        TrainSettings(**values)
    assert caught.value.problems == (problem,)


def working(*spans):
    """A run that was measured over these spans of time."""
    measured = tuple(
        measurement(i, 50.0, seconds=end - start, ended_at=end)
        for i, (start, end) in enumerate(spans, 1)
    )
    return RunRecord(run=record([]).run, state="running", measurements=measured)


@pytest.mark.parametrize(
    ("runs", "busy"),
    [
        ([], 0),
        ([[]], 0),
        ([[(0, 5)]], 5),
        ([[(0, 5), (5, 8)]], 8),
        ([[(0, 5), (100, 103)]], 8),  # a pause between two sessions
        ([[(0, 5)], [(10, 15)]], 10),
        ([[(0, 5)], [(3, 8)]], 8),  # side by side
        ([[(0, 10)], [(2, 4)], [(6, 7)]], 10),  # one within another
        ([[(6, 9)], [(0, 4)], [(3, 5)]], 8),  # recorded in another order
        ([[(0, 4)], [(0, 4)]], 4),
    ],
)
def test_busy_seconds_are_the_time_in_which_something_was_trained(runs, busy):
    state = StudyState(config=config_of(), records=tuple(working(*spans) for spans in runs))
    assert state.busy_seconds == state.spent("seconds") == busy


def test_spent():
    state = state_of(
        record([50] * 4, "baseline", seed=1),
        record([50] * 4, trial=0),
        record([50], trial=1, state="pruned"),
        record([], trial=2, state="failed"),
        record([50], trial=3, state="running"),
        record([50] * 4, "confirm", trial=0, seed=1),
    )
    assert state.spent("trials") == 4  # whatever came of them; only those of the search
    assert state.spent("epochs") == state.epochs_trained == 14
    assert state.spent("runs") == 14 / 4
    assert [r.run.trial for r in state.of_kind("full")] == [0, 1, 2, 3]


def test_a_trial_of_several_runs_is_one_trial():
    looks = [record([50], look=1, trial=trial) for trial in (0, 1)]
    looks += [record([50] * 2, look=look, trial=1) for look in (2, 3)]
    state = state_of(*looks, record([50] * 4, "confirm", trial=1, seed=1))
    assert state.spent("trials") == 2
    assert state.spent("epochs") == 1 + 1 + 2 + 2 + 4


def with_last(record, **changes):
    return replace(
        record,
        measurements=(*record.measurements[:-1], replace(record.measurements[-1], **changes)),
    )


# what is said of the last of four epochs that took a second each: epochs trained, epochs reused,
# seconds
@pytest.mark.parametrize(
    ("changes", "trained", "reused", "seconds"),
    [({}, 4, 0, 4), ({"reused": True}, 3, 1, 3), ({"again_epochs": 2, "seconds": 3}, 6, 0, 6)],
)
def test_what_was_taken_over_costs_nothing_and_what_was_trained_again_costs_twice(
    changes, trained, reused, seconds
):
    changed = with_last(record([50] * 4), **changes)
    assert (changed.epochs, changed.epochs_trained, changed.epochs_reused) == (4, trained, reused)
    assert changed.seconds == seconds
    state = state_of(changed)
    assert (state.spent("epochs"), state.spent("runs")) == (trained, trained / 4)


def test_a_record_before_its_first_epoch_and_after():
    empty, one, diverged = record([]), record([12.5, 50.0]), record([12.5, 10.0], state="diverged")
    assert (empty.epochs, empty.seconds) == (0, 0)
    assert empty.metrics == {}
    assert (one.epochs, one.seconds, one.metrics["top1"]) == (2, 2, 50)
    assert [m.diverged for m in diverged.measurements] == [False, True]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_divergence(loss):
    assert measurement(1, 50.0, loss=loss).diverged


def test_a_state_travels_between_processes():
    state = state_of(record([50] * 4, "baseline", seed=1), record([50, 60]))
    assert repr(pickle.loads(pickle.dumps(state))) == repr(
        state
    )  # in words: a nan is not equal to another
