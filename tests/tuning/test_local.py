"""The local engine: every end of a run, interruptions, several workers.

The database is real, and the training is made up.
"""

import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.core.decays import WSD, Constant, Cosine, StepDecay
from lrtune.core.engines import Local
from lrtune.core.errors import InputError, LrtuneError, StoreError, TaskError, TrialError
from lrtune.core.events import EpochEnded, Note, RunEnded, RunStarted
from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget, RangeCurve, TrainSettings
from lrtune.core.training import Devices
from lrtune.decide.plan import outcome
from lrtune.decide.recommend import recommend
from lrtune.store.workers import this_worker
from lrtune.tuning.local import LocalEngine, deal_gpus, work_in_lanes, work_on, work_side_by_side
from tests.studies import full_run
from tests.tuning.fake_objective import (
    EPOCHS,
    Failing,
    FakeTraining,
    Killed,
    Loading,
    OnGpus,
    OpenFake,
    OpenWorker,
    Overtaking,
    make_config,
    make_worker,
    measurement,
    measurements_of,
    open_store,
    train,
    unkeyed,
    work_here,
)
from tests.tuning.fake_training import MiniStates, MiniTraining, search

NUM_RUNS = 10 + 2 * (1 + 3)
"""Of `make_config`: trials, and two rounds of the baseline and three finalists."""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'lrtune.db'}"


def runs_of(store, state=None):
    return [record for record in store.state().records if state in (None, record.state)]


def by_id(store):
    return {record.run.id: record for record in store.state().records}


def in_words(store):
    """Everything recorded, nan to be compared as well."""
    return [repr(record) for record in store.state().records]


# --- an unbroken study


def test_a_study_from_beginning_to_end(url):
    store = open_store(url, make_config())
    events = []
    done = work_here(store, emit=events.append)
    assert not done.failed
    records = store.state().records
    assert Counter(record.run.kind for record in records) == {
        "baseline": 2,
        "full": 10,
        "confirm": 6,
    }
    for record in records:
        assert unkeyed(record.measurements) == measurements_of(record.run, record.epochs)
        assert record.state in ("completed", "pruned", "diverged")
        assert record.epochs == EPOCHS or record.reason
    kinds = Counter(type(event) for event in events)
    assert kinds == {
        RunStarted: NUM_RUNS,
        EpochEnded: sum(r.epochs for r in records),
        RunEnded: NUM_RUNS,
    }
    assert [e.record for e in events if isinstance(e, RunEnded)] == list(records)
    assert work_here(store, emit=events.append) == done  # again: nothing is left to do
    assert len(events) == sum(kinds.values())


def test_everything_is_recorded_before_it_is_shown(url):
    store = open_store(url, make_config(budget=Budget(2, "trials")))

    def check(event):
        match event:
            case EpochEnded(run=run, measurement=m):
                assert by_id(store)[run.id].measurements[m.epoch - 1] == m
            case RunEnded(record=record):
                assert by_id(store)[record.run.id].state == record.state != "running"

    work_here(store, emit=check)
    assert by_id(store)


@pytest.mark.parametrize(
    ("budget", "most_epochs"),
    [
        (Budget(200, "epochs"), 200),
        (Budget(15, "runs"), 15 * EPOCHS),
        (Budget(150, "seconds"), 150),
    ],
)
def test_a_budget_of_epochs_runs_or_time_is_not_exceeded(url, budget, most_epochs):
    store = open_store(url, make_config(budget=budget))
    work_here(store)
    state = store.state()
    assert most_epochs / 2 < state.epochs_trained <= most_epochs
    assert state.spent(budget.unit) <= budget.amount
    assert state.of_kind("full")
    assert state.of_kind("confirm")


# --- interruptions


class Interrupted:
    """Raises `KeyboardInterrupt` at every nth new epoch or event, as Ctrl-C would."""

    def __init__(self, every):
        self.every, self.calls, self.interruptions = every, 0, 0

    def strike(self):
        self.calls += 1
        if self.calls % self.every == 0:
            self.interruptions += 1
            raise KeyboardInterrupt

    def train(self, run, first):
        for measured in train(run, first):
            self.strike()
            yield measured

    def emit(self, event):
        self.strike()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "every", "seed"), [("train", 3, 0), ("train", 20, 1), ("emit", 4, 2), ("emit", 17, 3)]
)
def test_an_interrupted_study_is_the_unbroken_one(tmp_path, where, every, seed):
    unbroken = open_store(f"sqlite:///{tmp_path / 'unbroken.db'}", make_config(seed=seed))
    work_here(unbroken)

    url, states = f"sqlite:///{tmp_path / 'broken.db'}", MiniStates()
    strike = Interrupted(every)
    training = FakeTraining(strike.train if where == "train" else train)
    worker = {"emit": strike.emit} if where == "emit" else {}
    for _ in range(1000):
        store = open_store(url, make_config(seed=seed))
        try:
            work_here(store, training, states=states, **worker)
            break
        except KeyboardInterrupt:
            assert all(
                record.orphaned for record in runs_of(store, "running")
            )  # given back at once
    assert strike.interruptions >= NUM_RUNS // 2
    assert in_words(open_store(url, make_config())) == in_words(unbroken)


def test_the_training_goes_on_from_what_was_saved_and_no_epoch_is_recorded_again(url):
    store, states = open_store(url, make_config()), MiniStates()
    asked = []

    def watched(run, first):
        asked.append((run.id, first))
        for measured in train(run, first):
            if (run.id, measured.epoch, first) == ("trial-0000", 6, 1):
                raise KeyboardInterrupt
            yield measured

    with pytest.raises(KeyboardInterrupt):
        work_here(store, FakeTraining(watched), states=states)
    events = []
    work_here(store, FakeTraining(watched), states=states, emit=events.append)
    assert asked[:3] == [("trial-0000", 1), ("trial-0000", 6), ("trial-0001", 1)]
    assert events[0] == RunStarted(by_id(store)["trial-0000"].run, epochs_done=5)
    shown = [
        e.measurement.epoch
        for e in events
        if isinstance(e, EpochEnded) and e.run.id == "trial-0000"
    ]
    assert shown == list(range(6, EPOCHS + 1))


class Kills(MiniStates):
    """Strikes by chance: before and after a state is saved, and after an event was recorded."""

    def __init__(self, share, seed):
        super().__init__()
        self.share, self.rng = share, Random(seed)
        self.at = Counter()

    def strike(self, moment):
        if self.rng.random() < self.share:
            self.at[moment] += 1
            raise KeyboardInterrupt

    def save(self, key, state, epochs):
        self.strike("before the save")
        super().save(key, state, epochs)
        self.strike("before the record")

    def emit(self, event):
        self.strike(type(event).__name__)


WITH_LOOKS = {"looks": (1, 4), "budget": Budget(14, "trials")}


def untimed(store):
    """Everything recorded, but for the times."""
    return [
        repr(
            replace(
                r, measurements=tuple(replace(m, seconds=0, ended_at=0) for m in r.measurements)
            )
        )
        for r in store.state().records
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_with_looks_and_reuse_that_is_killed_at_any_moment_is_the_unbroken_one(
    tmp_path, seed
):
    config = make_config(seed=seed, **WITH_LOOKS)
    unbroken = open_store(f"sqlite:///{tmp_path / 'unbroken.db'}", config)
    work_here(unbroken, MiniTraining(steps_per_epoch=10), asked=any_recipe)

    url, kills, num_trained = f"sqlite:///{tmp_path / 'broken.db'}", Kills(0.1, seed), 0
    for _ in range(1000):
        store, training = open_store(url, config), MiniTraining(steps_per_epoch=10)
        try:
            work_here(store, training, states=kills, emit=kills.emit, asked=any_recipe)
            break
        except KeyboardInterrupt:
            assert all(record.orphaned for record in runs_of(store, "running"))
        finally:
            num_trained += len(training.trained)
    moments = {"before the save", "before the record", "EpochEnded", "RunStarted", "RunEnded"}
    assert kills.at.keys() == moments
    assert untimed(store) == untimed(unbroken)
    state = store.state()
    assert (
        num_trained == state.epochs_trained + kills.at["before the save"]
    )  # what was not saved is trained again
    assert {r.run.kind for r in state.records} == {"look", "baseline", "confirm"}
    assert any(m.reused for r in state.records for m in r.measurements)
    assert not runs_of(store, "running")


@settings(max_examples=25)
@given(
    amount=st.integers(60, 400),
    looks=st.sampled_from([(1, 4), (2, 3), (1, 1), ()]),
    confirm=st.sampled_from(["full", "quick", "0"]),
    seed=st.integers(0, 5),
)
@pytest.mark.parametrize("unit", ["epochs", "seconds"])
def test_with_looks_and_reuse_no_budget_is_exceeded(unit, amount, looks, confirm, seed):
    """At no moment."""
    budget = Budget(amount, unit)
    config = make_config(budget=budget, looks=looks, seed=seed, confirm=confirm, max_seeds=4)
    training = MiniTraining(steps_per_epoch=10)
    for state in search(config, any_recipe, training, MiniStates()):
        assert state.spent(unit) <= budget.amount + 1e-9
        assert state.epochs_trained == len(training.trained)
    assert outcome(state)


def any_recipe(state, number):
    """Of few peak LRs, so that trunks are shared, and one of them so high that it diverges."""
    rng = Random(f"{state.config.seed} {number}")
    decay = rng.choice(
        [
            Constant(),
            Cosine(),
            WSD(cooldown_frac=rng.choice([0.25, 0.5])),
            StepDecay(every_epochs=4),
        ]
    )
    return Recipe(
        peak_lr=rng.choice([0.03, 0.1, 0.3, 2.9]), decay=decay, final_frac=rng.choice([0.0, 0.01])
    )


@pytest.mark.parametrize(
    ("epochs", "peak_lr", "state"),
    [(EPOCHS, 0.1, "completed"), (3, 2.9, "diverged"), (10, 1e-3, "pruned")],
)
def test_a_run_that_was_killed_before_its_end_was_recorded_is_not_trained_again(
    url, epochs, peak_lr, state
):
    store = open_store(url, make_config())
    run = full_run(Recipe(peak_lr=peak_lr), EPOCHS)
    store.claim(run, this_worker())
    for epoch in range(1, epochs + 1):
        store.record(run, measurement(run, epoch))

    def never(run, first):
        raise AssertionError("there is nothing to train")
        yield

    work_on(run, FakeTraining(never), make_worker(store))
    assert by_id(store)["trial-0000"].state == state


# --- trainings that cannot do everything


@pytest.mark.parametrize("without", [["resume"], ["repeat"], ["resume", "repeat"]])
def test_a_training_that_lacks_an_ability_comes_to_the_end_of_its_study(url, without):
    paired = "repeat" not in without
    store = open_store(url, make_config(**WITH_LOOKS, paired=paired))
    training = MiniTraining(steps_per_epoch=10, without=without)
    done = work_here(store, training, asked=any_recipe)
    assert not done.failed
    state = store.state()
    assert state.epochs_trained == len(training.trained)
    assert len(state.of_kind("confirm")) >= 2
    for record in state.records:
        reused = {m.reused for m in record.measurements}
        assert len(reused) == 1  # whole runs, or nothing
        assert reused == {False} or paired
    assert any(record.epochs_reused for record in state.records) == paired


def test_without_resume_a_study_that_is_interrupted_is_the_unbroken_one(tmp_path):
    config = make_config(budget=Budget(4, "trials"))
    unbroken, store = (
        open_store(f"sqlite:///{tmp_path / name}.db", config) for name in ("unbroken", "broken")
    )
    work_here(unbroken, MiniTraining(steps_per_epoch=10, without=["resume"]))
    strike, num_trained = Interrupted(23), 0
    for _ in range(1000):
        training = MiniTraining(steps_per_epoch=10, without=["resume"])
        try:
            work_here(store, training, emit=strike.emit)
            break
        except KeyboardInterrupt:
            pass
        finally:
            num_trained += len(training.trained)
    assert strike.interruptions > 3
    assert num_trained > unbroken.state().epochs_trained
    assert store.state().epochs_trained == num_trained
    for ours, theirs in zip(store.state().records, unbroken.state().records, strict=True):
        assert (ours.run, ours.state) == (theirs.run, theirs.state)
        assert [m.metrics for m in ours.measurements] == [m.metrics for m in theirs.measurements]


# --- the ends of a run


def only(run_id, misbehave):
    """Training in which one run misbehaves."""

    def train_or_not(run, first):
        yield from misbehave(run, first) if run.id == run_id else train(run, first)

    return FakeTraining(train_or_not)


def measured_as(run, epoch, **metrics):
    measured = measurement(run, epoch)
    return replace(measured, metrics={**measured.metrics, **metrics})


def out_of_memory(run, first):
    yield measurement(run, 1)
    raise TrialError("out of memory on cuda: try a smaller --batch-size")


def broken_loss(run, first):
    raise TaskError("the task's loss failed")
    yield


def impossible(run, first):
    raise InputError("`lr_scale` must be the same in all groups for prodigy")
    yield


def stops_early(run, first):
    yield measurement(run, 1)


def not_finite(run, first):
    for epoch in (1, 2):
        yield measured_as(run, epoch, train_loss=1.0 if epoch == 1 else math.inf)
    raise AssertionError("a diverged run is drawn from no more")


def at_chance(run, first):
    for epoch in range(1, EPOCHS + 1):
        yield measured_as(run, epoch, top1=10.2, averaged_top1=10.2)


# how the run misbehaves, what is recorded of it
ENDS = {
    "out of memory": (
        out_of_memory,
        "failed",
        1,
        "out of memory on cuda: try a smaller --batch-size",
    ),
    "task": (broken_loss, "failed", 0, "the task's loss failed"),
    "impossible": (
        impossible,
        "failed",
        0,
        "`lr_scale` must be the same in all groups for prodigy",
    ),
    "short": (stops_early, "failed", 1, "the training ended before its last epoch"),
    "diverged": (not_finite, "diverged", 2, "the loss was not finite in epoch 2, at an LR of 0.05"),
    "hopeless": (
        at_chance,
        "pruned",
        10,
        "Top-1 10.20 is not told from chance (10.0 ± 0.9) at epoch 10",
    ),
}


@pytest.mark.parametrize(("misbehave", "state", "epochs", "reason"), ENDS.values(), ids=ENDS.keys())
def test_how_a_run_ends_is_recorded_with_its_reason_and_the_study_goes_on(
    url, misbehave, state, epochs, reason
):
    store = open_store(url, make_config())
    events = []
    done = work_here(store, only("trial-0001", misbehave), emit=events.append)
    record = by_id(store)["trial-0001"]
    assert (record.state, record.epochs, record.reason) == (state, epochs, reason)
    assert not done.failed
    assert len(store.state().of_kind("full")) == 10
    (told,) = (
        e.record for e in events if isinstance(e, RunEnded) and e.record.run.id == "trial-0001"
    )
    assert repr(told) == repr(record)


def test_the_baseline_is_never_pruned(url):
    store = open_store(url, make_config(budget=Budget(2, "trials")))
    work_here(store, only("baseline-0", at_chance))
    assert (by_id(store)["baseline-0"].state, by_id(store)["baseline-0"].epochs) == (
        "completed",
        EPOCHS,
    )


# pruner, words in the reason of each run that it ends, where it ends any
@pytest.mark.parametrize(("pruner", "words"), [("fair", "chance"), ("none", "")])
def test_the_pruner_that_was_asked_for_decides(url, pruner, words):
    store = open_store(
        url, make_config(pruner=pruner, sampler="random", budget=Budget(20, "trials"))
    )
    work_here(store, only("trial-0019", at_chance))
    reasons = [record.reason for record in runs_of(store, "pruned")]
    assert bool(reasons) == bool(words)
    assert all(words in reason for reason in reasons)


def test_three_failures_in_a_row_end_the_study(url):
    store = open_store(url, make_config())

    def fails(run, first):
        raise TrialError("out of memory")
        yield

    done = work_here(store, FakeTraining(fails))
    assert done.failed
    assert "3 runs in a row failed, the last one with: out of memory" in done.reason
    assert len(runs_of(store, "failed")) == len(runs_of(store)) == 3


def test_a_task_that_fails_before_any_epoch_is_the_users_business(url):
    store = open_store(url, make_config())
    with pytest.raises(TaskError, match="the task's loss failed"):
        work_here(store, FakeTraining(broken_loss))
    (record,) = store.state().records
    assert (record.state, record.orphaned, record.epochs) == (
        "running",
        True,
        0,
    )  # it is tried again once it is mended
    work_here(store)
    assert by_id(store)["trial-0000"].state == "completed"


# --- several workers, in processes of their own


TWO = [Devices()] * 2


@pytest.fixture
def side_by_side(url, tmp_path):
    """Works in two processes on the study `fake`."""

    def work(open_training, emit=lambda event: None, *, jobs=TWO, lanes="auto"):
        open_worker = OpenWorker(url, tmp_path / "states")
        return work_side_by_side(open_training, open_worker, jobs, lanes, emit)

    return work


@pytest.mark.slow
def test_two_processes_train_every_run_once(url, side_by_side):
    store = open_store(url, make_config(budget=Budget(12, "trials")))
    events = []
    done = side_by_side(OpenFake(), events.append)
    assert not done.failed
    state = store.state()
    assert sorted(record.run.trial for record in state.of_kind("full")) == list(range(12))
    assert len(state.of_kind("baseline")) == 2
    assert len(state.of_kind("confirm")) >= 3 + 1
    assert {record.state for record in state.records} <= {"completed", "pruned", "diverged"}
    trained = Counter((e.run.id, e.measurement.epoch) for e in events if isinstance(e, EpochEnded))
    assert set(trained.values()) == {1}
    assert len(trained) == state.epochs_trained


@pytest.mark.slow
def test_a_worker_can_start_the_processes_of_a_loader(url, side_by_side):
    open_store(url, make_config())
    side_by_side(Loading(multiprocessing.get_start_method()))


def lanes_on(url):
    """Opens the worker of a lane."""
    states = MiniStates()

    def open_worker(lane, emit):
        store = open_store(url, make_config(budget=Budget(12, "trials")))
        return make_worker(store, states=states, emit=emit, lane=lane)

    return open_worker


@pytest.mark.parametrize("num_lanes", [1, 2, 4])
def test_lanes_train_every_run_once(url, num_lanes):
    store = open_store(url, make_config(budget=Budget(12, "trials")))
    events, threads = [], set()

    def slowly(run, first):
        threads.add(threading.current_thread())
        for measured in train(run, first):
            time.sleep(
                0.001
            )  # or the first lane would have done everything before the others begin
            yield measured

    done = work_in_lanes(FakeTraining(slowly), lanes_on(url), num_lanes, events.append)
    assert not done.failed
    assert len(threads) == num_lanes
    state = store.state()
    assert sorted(record.run.trial for record in state.of_kind("full")) == list(range(12))
    assert not runs_of(store, "running")
    trained = Counter((e.run.id, e.measurement.epoch) for e in events if isinstance(e, EpochEnded))
    assert set(trained.values()) == {1}
    assert len(trained) == state.epochs_trained


# What a search of the fake objective was asked for; each has another kind of plan.
ASKED = {
    "looks": {"looks": (1, 4), "budget": Budget(24, "trials"), "max_seeds": 4},
    "looks of one length": {"looks": (3, 3), "budget": Budget(300, "epochs")},
    "full runs": {"pruner": "none", "budget": Budget(12, "trials"), "lag": 3},
    "quick": {"looks": (1, 4), "budget": Budget(16, "trials"), "confirm": "quick"},
    "a sampler that learns nothing": {"looks": (1, 4), "sampler": "random", "seed": 5},
}


def outcomes(store):
    """The runs of a study by their ids: what each was, how it ended and what it measured."""
    return {
        record.run.id: (record.run, record.state, repr(unkeyed(record.measurements)))
        for record in store.state().records
    }


@pytest.mark.parametrize(
    "options",
    [Local(lanes=3), Local(lanes=8), pytest.param(Local(jobs=2), marks=pytest.mark.slow)],
    ids=["three lanes", "eight lanes", "two processes"],
)
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_any_number_of_workers_trains_the_same_runs_of_the_same_recipes(tmp_path, asked, options):
    found = []
    for number, engine_options in enumerate((Local(jobs=1), options)):
        folder = tmp_path / str(number)
        folder.mkdir()
        url = f"sqlite:///{folder / 'lrtune.db'}"
        store = open_store(url, make_config(**asked))
        engine = LocalEngine(engine_options, Overtaking(folder, is_alone=number == 0))
        done = engine.work(OpenWorker(url, folder / "states"), lambda event: None)
        assert not done.failed
        found.append((outcomes(store), recommend(store.state()).best.name))
    alone, together = found
    assert together == alone


@pytest.mark.parametrize("interrupt", [StoreError("the disk is full"), KeyboardInterrupt()])
def test_what_ends_one_lane_ends_all_and_every_run_is_given_back(url, interrupt):
    store = open_store(url, make_config(budget=Budget(12, "trials")))

    def strike(event):
        if isinstance(event, EpochEnded) and event.measurement.epoch == 3:
            raise interrupt

    with pytest.raises(type(interrupt)):
        work_in_lanes(FakeTraining(), lanes_on(url), 3, strike)
    assert all(record.orphaned for record in runs_of(store, "running"))
    done = work_in_lanes(FakeTraining(), lanes_on(url), 3, lambda event: None)
    assert not done.failed
    assert not runs_of(store, "running")


@pytest.mark.slow
def test_a_killed_worker_leaves_its_run_to_the_others(url, tmp_path, side_by_side):
    store = open_store(url, make_config())
    events = []
    done = side_by_side(Killed("trial-0001", tmp_path / "killed"), events.append)
    assert not done.failed
    assert (tmp_path / "killed").exists()
    record = by_id(store)["trial-0001"]
    assert unkeyed(record.measurements) == measurements_of(record.run, record.epochs)
    assert record.epochs >= 3
    assert len(store.state().of_kind("full")) == 10
    assert not runs_of(store, "running")
    assert [e.text for e in events if isinstance(e, Note)] == [
        "a worker process died with exit code -9; the others take over its run"
    ]


@pytest.mark.slow
def test_when_all_workers_die_it_is_said_and_what_they_recorded_stays(url, side_by_side):
    store = open_store(url, make_config())
    with pytest.raises(
        LrtuneError, match=r"all worker processes died \(exit codes -9, -9\).*lrtune resume"
    ):
        side_by_side(Killed("any", None))
    assert {(record.epochs, record.orphaned) for record in store.state().records} == {(2, True)}
    work_here(store)
    assert len(runs_of(store)) == NUM_RUNS
    assert not runs_of(store, "running")


def test_what_cannot_be_sent_to_a_process_is_said(side_by_side):
    with pytest.raises(
        TaskError, match=r"cannot be sent to another process: .*lambda.*; use a task file"
    ):
        side_by_side(lambda devices: None)


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_to_its_user(url, side_by_side):
    open_store(url, make_config())
    with pytest.raises(TaskError, match="the task's model could not be built"):
        side_by_side(Failing())


# --- GPUs


# options, visible GPUs: those of each worker process
DEALT = [
    ({}, "", [""]),
    ({}, "0", ["0"]),
    ({}, "0 1 2 3", ["0", "1", "2", "3"]),
    ({}, "GPU-5ab GPU-77c", ["GPU-5ab", "GPU-77c"]),
    ({"jobs": 1}, "0 1", ["0"]),
    ({"jobs": 5}, "0 1", ["0", "1", "0", "1", "0"]),
    ({"jobs": 3}, "", ["", "", ""]),
    ({"gpus": "2"}, "0 1 2", ["2"]),
    ({"gpus": "2, 0"}, "0 1 2", ["2", "0"]),
    ({"gpus": "2,0", "jobs": 3}, "0 1 2", ["2", "0", "2"]),
]


@pytest.mark.parametrize(("options", "visible", "dealt"), DEALT)
def test_gpus_are_dealt_to_worker_processes_in_turn(options, visible, dealt):
    jobs = deal_gpus(Local(**options), visible.split())
    assert jobs == [Devices(gpus=(gpu,) if gpu else None) for gpu in dealt]


@pytest.mark.parametrize(("gpus", "visible"), [("2", "0 1"), ("0,7", "0"), ("0", "")])
def test_a_gpu_that_is_not_visible_is_refused(gpus, visible):
    words = r"`gpus` must be among those that are visible \((0, 1|0|none)\), but got [270]\."
    with pytest.raises(InputError, match=words):
        deal_gpus(Local(gpus=gpus), visible.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "first", "wanted"),
    [
        ({}, "3,5 3", ["3 3", "5 5"]),
        ({"jobs": 3}, "3,5 3", ["3 3", "3 3", "5 5"]),
        ({"gpus": "5"}, "3,5 5", ["5 5"]),
        ({"jobs": 1}, "3,5 ", []),
    ],
)
def test_each_worker_process_sees_its_own_gpu(url, tmp_path, monkeypatch, options, first, wanted):
    """A single worker trains in this process, unless its GPU was chosen.

    What is trained here before is told to use what the first of them does.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    open_store(url, make_config(budget=Budget(2, "trials")))
    (tmp_path / "seen").mkdir()
    engine = LocalEngine(Local(**options), OnGpus(tmp_path / "seen"), gpus=("3", "5"))
    here = tmp_path / "seen" / str(os.getpid())
    assert here.read_text() == first
    here.unlink()
    done = engine.work(OpenWorker(url, tmp_path / "states"), lambda event: None)
    assert not done.failed
    assert sorted(path.read_text() for path in (tmp_path / "seen").iterdir()) == wanted
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


# jobs, cores to share, seconds that pay: processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "cores", "worth_s", "processes"),
    [
        (1, 2, 0, 0),
        (2, 1, 0, 2),
        ("auto", 1, 0, 0),
        ("auto", 2, 0, 2),
        ("auto", 2, 1e9, 0),
    ],
)
def test_without_gpus_too_several_jobs_are_so_many_processes(
    url, tmp_path, monkeypatch, jobs, cores, worth_s, processes
):
    monkeypatch.setattr("lrtune.tuning.jobs.WORTH_S", worth_s)
    settings = TrainSettings(threads=1)
    open_store(url, make_config(budget=Budget(2, "trials"), confirm="0", settings=settings))
    (tmp_path / "seen").mkdir()
    engine = LocalEngine(Local(jobs=jobs), OnGpus(tmp_path / "seen"), cores=cores)
    here = tmp_path / "seen" / str(os.getpid())
    here.unlink()  # of the training that an engine opens to ask it for its facts
    events = []
    done = engine.work(OpenWorker(url, tmp_path / "states"), events.append)
    assert not done.failed
    assert len(list((tmp_path / "seen").iterdir())) == processes
    notes = [event.text for event in events if isinstance(event, Note)]
    chosen = [note for note in notes if "of training ahead" in note]
    assert len(chosen) == (jobs == "auto" and cores == 2)


class Infinite(MiniTraining):
    """Its first loss is infinite, so a range test has none."""

    def sweep(self, recipe, *, seed, num_steps=None):
        return RangeCurve(seed=seed, lrs=(), losses=(), diverged=True)


def test_a_range_test_without_a_finite_loss_is_no_reason_to_fail():
    engine = LocalEngine(Local(), lambda devices: Infinite(steps_per_epoch=10), cores=2)
    assert engine.sweep(Recipe(), seed=0).losses == ()


class OneLane(MiniTraining):
    def lanes(self, recipe, wanted):
        if wanted != "auto":
            raise InputError("there is no GPU")
        return 1, "lanes: 1"


def test_lanes_that_cannot_be_are_refused_at_once_and_others_are_told(url, tmp_path):
    with pytest.raises(InputError, match="there is no GPU"):
        LocalEngine(Local(lanes=2), lambda devices: OneLane())
    open_store(url, make_config(budget=Budget(1, "trials"), confirm="0"))
    events, engine = [], LocalEngine(Local(), lambda devices: OneLane(steps_per_epoch=10))
    engine.work(OpenWorker(url, tmp_path / "states"), events.append)
    assert events[0] == Note("lanes: 1")
    assert [event for event in events if isinstance(event, Note)] == events[:1]


def test_an_engine_asks_its_training():
    engine, states = LocalEngine(Local(), OpenFake()), MiniStates()
    recipe = Recipe(peak_lr=0.5)
    assert engine.facts.steps_per_epoch == 10
    assert engine.environment(recipe) == {"Device": "made up", "optimizer": "sgd"}
    assert engine.sweep(recipe, seed=3).seed == 3
    states.save("final", {"epochs": 12}, 12)
    assert engine.test(["final", "lost"], states) == {"final": {"top1": 12.0}}
    engine.use(lambda devices: MiniTraining(steps_per_epoch=7))
    assert engine.facts.steps_per_epoch == 7


@pytest.mark.slow
def test_workers_do_not_outlive_the_process_that_started_them(url, tmp_path):
    open_store(url, make_config())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from tests.tuning.fake_objective import OpenWorker, Stuck\n"
        "from lrtune.core.training import Devices\n"
        "from lrtune.tuning.local import work_side_by_side\n"
        "if __name__ == '__main__':\n"
        "    open_worker = OpenWorker(sys.argv[2], Path(sys.argv[3]).parent / 'states')\n"
        "    stuck, jobs = Stuck(folder=Path(sys.argv[3])), [Devices()] * 2\n"
        "    work_side_by_side(stuck, open_worker, jobs, 'auto', print)\n"
    )
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "alive").mkdir()
    words = [tmp_path / "program.py", Path(__file__).parents[2], url, tmp_path / "alive"]
    parent = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL)
    while len(list((tmp_path / "alive").iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    workers = [psutil.Process(int(path.name)) for path in (tmp_path / "alive").iterdir()]
    parent.kill()
    parent.wait()
    _, left = psutil.wait_procs(workers, timeout=30)
    for worker in left:
        worker.kill()
    assert left == []
