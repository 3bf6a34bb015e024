"""The local engine, with a real database and made-up training: every end of a run, interruptions, several workers."""

import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lrtune.core.errors import LrtuneError, TaskError, TrialError
from lrtune.core.events import EpochEnded, Note, RunEnded, RunStarted
from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget
from lrtune.core.trial import Run
from lrtune.search.local import work, work_on, work_side_by_side
from lrtune.store.workers import this_worker
from tests.search.fake_objective import (
    EPOCHS,
    FailingWorker,
    KilledWorker,
    Worker,
    make_bench,
    make_config,
    measurement,
    open_store,
    train,
)

NUM_RUNS = 2 + 10 + 2 * 2
"""Of `make_config`: baseline, trials, confirmations."""


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
    done = work(make_bench(store, emit=events.append))
    assert not done.failed
    records = store.state().records
    assert Counter(record.run.kind for record in records) == {"baseline": 2, "search": 10, "confirm": 4}
    for record in records:
        assert record.measurements == tuple(measurement(record.run, e) for e in range(1, record.epochs + 1))
        assert record.state in ("completed", "pruned", "diverged")
        assert record.epochs == EPOCHS or record.reason
    kinds = Counter(type(event) for event in events)
    assert kinds == {RunStarted: NUM_RUNS, EpochEnded: sum(r.epochs for r in records), RunEnded: NUM_RUNS}
    assert [e.record for e in events if isinstance(e, RunEnded)] == list(records)
    assert work(make_bench(store, emit=events.append)) == done  # again: nothing is left to do
    assert len(events) == sum(kinds.values())


def test_everything_is_recorded_before_it_is_shown(url):
    store = open_store(url, make_config(budget=Budget(2, "trials")))

    def check(event):
        match event:
            case EpochEnded(run=run, measurement=m):
                assert by_id(store)[run.id].measurements[m.epoch - 1] == m
            case RunEnded(record=record):
                assert by_id(store)[record.run.id].state == record.state != "running"

    work(make_bench(store, emit=check))
    assert by_id(store)


@pytest.mark.parametrize(
    ("budget", "most_epochs"),
    [(Budget(200, "epochs"), 200), (Budget(15, "runs"), 15 * EPOCHS), (Budget(150, "seconds"), 150)],
)
def test_a_budget_of_epochs_runs_or_time_is_not_exceeded(url, budget, most_epochs):
    store = open_store(url, make_config(budget=budget, num_confirmed=1))
    work(make_bench(store))
    state = store.state()
    assert most_epochs - EPOCHS < state.epochs_trained <= most_epochs or budget.unit == "seconds"
    assert state.spent(budget.unit) <= budget.amount
    assert state.of_kind("search")


# --- interruptions


class Interrupted:
    """Raises `KeyboardInterrupt` at every nth call of what it wraps, as Ctrl-C would."""

    def __init__(self, every):
        self.every, self.calls, self.interruptions = every, 0, 0

    def strike(self):
        self.calls += 1
        if self.calls % self.every == 0:
            self.interruptions += 1
            raise KeyboardInterrupt

    def train(self, run, history):
        for measured in train(run, history):
            self.strike()
            yield measured

    def emit(self, event):
        self.strike()


@pytest.mark.parametrize(
    ("where", "every", "seed"), [("train", 3, 0), ("train", 20, 1), ("emit", 4, 2), ("emit", 17, 3)]
)
def test_an_interrupted_study_is_the_unbroken_one(tmp_path, where, every, seed):
    unbroken = open_store(f"sqlite:///{tmp_path / 'unbroken.db'}", make_config(seed=seed))
    work(make_bench(unbroken))

    url = f"sqlite:///{tmp_path / 'broken.db'}"
    strike = Interrupted(every)
    for _ in range(1000):
        store = open_store(url, make_config(seed=seed))
        try:
            work(make_bench(store, **{where: getattr(strike, where)}))
            break
        except KeyboardInterrupt:
            assert all(record.orphaned for record in runs_of(store, "running"))  # given back at once
    assert strike.interruptions >= NUM_RUNS // 2
    assert in_words(open_store(url, make_config())) == in_words(unbroken)


def test_what_was_measured_is_handed_to_the_training_and_not_asked_for_again(url):
    store = open_store(url, make_config())
    asked = []

    def watched(run, history):
        asked.append((run.id, len(history)))
        for measured in train(run, history):
            if (run.id, measured.epoch, len(history)) == ("baseline-0", 6, 0):
                raise KeyboardInterrupt
            yield measured

    with pytest.raises(KeyboardInterrupt):
        work(make_bench(store, train=watched))
    events = []
    work(make_bench(store, train=watched, emit=events.append))
    assert asked[:3] == [("baseline-0", 0), ("baseline-0", 5), ("baseline-1", 0)]
    assert events[0] == RunStarted(by_id(store)["baseline-0"].run, epochs_done=5)


@pytest.mark.parametrize(
    ("epochs", "peak_lr", "state"), [(EPOCHS, 0.1, "completed"), (3, 2.9, "diverged"), (8, 1e-3, "pruned")]
)
def test_a_run_that_was_killed_before_its_end_was_recorded_is_not_trained_again(url, epochs, peak_lr, state):
    store = open_store(url, make_config())
    run = Run(
        id="trial-0000", kind="search", trial=0, recipe=Recipe(peak_lr=peak_lr), horizon_epochs=EPOCHS, seed=0
    )  # fmt: skip
    store.claim(run, this_worker())
    for epoch in range(1, epochs + 1):
        store.record(run, measurement(run, epoch))

    def never(run, history):
        raise AssertionError("there is nothing to train")
        yield

    work_on(run, make_bench(store, train=never))
    assert by_id(store)["trial-0000"].state == state


# --- the ends of a run


def only(run_id, misbehave):
    """Training in which one run misbehaves."""

    def train_or_not(run, history):
        yield from misbehave(run, history) if run.id == run_id else train(run, history)

    return train_or_not


def out_of_memory(run, history):
    yield measurement(run, 1)
    raise TrialError("out of memory on cuda: try a smaller --batch-size")


def broken_loss(run, history):
    raise TaskError("the task's loss failed")
    yield


def stops_early(run, history):
    yield measurement(run, 1)


def not_finite(run, history):
    for epoch in (1, 2):
        loss = 1.0 if epoch == 1 else math.inf
        yield replace(measurement(run, epoch), train_loss=loss)
    raise AssertionError("a diverged run is drawn from no more")


def at_chance(run, history):
    for epoch in range(1, EPOCHS + 1):
        yield replace(measurement(run, epoch), top1=10.2)


# how the run misbehaves, what is recorded of it
ENDS = {
    "out of memory": (out_of_memory, "failed", 1, "out of memory on cuda: try a smaller --batch-size"),
    "task": (broken_loss, "failed", 0, "the task's loss failed"),
    "short": (stops_early, "failed", 1, "the training ended before its horizon"),
    "diverged": (not_finite, "diverged", 2, "the loss was not finite in epoch 2, at an LR of 0.02"),
    "hopeless": (at_chance, "pruned", 3, "Top-1 10.20 is at chance (10.0) after 3 epochs"),
}


@pytest.mark.parametrize(("misbehave", "state", "epochs", "reason"), ENDS.values(), ids=ENDS.keys())
def test_how_a_run_ends_is_recorded_with_its_reason_and_the_study_goes_on(url, misbehave, state, epochs, reason):
    store = open_store(url, make_config())
    events = []
    done = work(make_bench(store, train=only("trial-0000", misbehave), emit=events.append))
    record = by_id(store)["trial-0000"]
    assert (record.state, record.epochs, record.reason) == (state, epochs, reason)
    assert not done.failed
    assert len(store.state().of_kind("search")) == 10
    (told,) = (e.record for e in events if isinstance(e, RunEnded) and e.record.run.id == "trial-0000")
    assert repr(told) == repr(record)


def test_the_baseline_is_never_pruned(url):
    store = open_store(url, make_config(budget=Budget(1, "trials")))
    work(make_bench(store, train=only("baseline-0", at_chance)))
    assert (by_id(store)["baseline-0"].state, by_id(store)["baseline-0"].epochs) == ("completed", EPOCHS)


@pytest.mark.parametrize("pruner", ["median", "halving", "none"])
def test_the_pruner_that_was_asked_for_decides(url, pruner):
    store = open_store(url, make_config(pruner=pruner, sampler="random", budget=Budget(20, "trials")))
    work(make_bench(store))
    reasons = [record.reason for record in runs_of(store, "pruned")]
    words = {"median": "is below the median", "halving": "is not among the best", "none": "no run is pruned"}[pruner]
    assert bool(reasons) == (pruner != "none")
    assert all(words in reason for reason in reasons)


def test_three_failures_in_a_row_end_the_study(url):
    store = open_store(url, make_config())

    def fails(run, history):
        raise TrialError("out of memory")
        yield

    done = work(make_bench(store, train=fails))
    assert done.failed
    assert "3 runs in a row failed, the last one with: out of memory" in done.reason
    assert len(runs_of(store, "failed")) == len(runs_of(store)) == 3


def test_a_task_that_fails_before_any_epoch_is_the_users_business(url):
    store = open_store(url, make_config())
    with pytest.raises(TaskError, match="the task's loss failed"):
        work(make_bench(store, train=broken_loss))
    (record,) = store.state().records
    assert (record.state, record.orphaned, record.epochs) == ("running", True, 0)  # it is tried again once it is mended
    work(make_bench(store))
    assert by_id(store)["baseline-0"].state == "completed"


# --- several workers, in processes of their own


def test_two_processes_train_every_run_once(url):
    store = open_store(url, make_config(budget=Budget(12, "trials")))
    events = []
    done = work_side_by_side(Worker(url), 2, events.append)
    assert not done.failed
    state = store.state()
    assert sorted(record.run.trial for record in state.of_kind("search")) == list(range(12))
    assert len(state.of_kind("baseline")) == 2
    assert len(state.of_kind("confirm")) == 4
    assert {record.state for record in state.records} <= {"completed", "pruned", "diverged"}
    trained = Counter((e.run.id, e.measurement.epoch) for e in events if isinstance(e, EpochEnded))
    assert set(trained.values()) == {1}
    assert len(trained) == state.epochs_trained


def test_a_killed_worker_leaves_its_run_to_the_others(url, tmp_path):
    store = open_store(url, make_config())
    events = []
    worker = KilledWorker(url=url, run_id="trial-0001", memory=tmp_path / "killed")
    done = work_side_by_side(worker, 2, events.append)
    assert not done.failed
    assert (tmp_path / "killed").exists()
    record = by_id(store)["trial-0001"]
    assert record.measurements == tuple(measurement(record.run, epoch) for epoch in range(1, record.epochs + 1))
    assert record.epochs >= 3
    assert len(store.state().of_kind("search")) == 10
    assert not runs_of(store, "running")
    assert [e.text for e in events if isinstance(e, Note)] == [
        "a worker process died with exit code -9; the others take over its run"
    ]


def test_when_all_workers_die_it_is_said_and_what_they_recorded_stays(url):
    store = open_store(url, make_config())
    with pytest.raises(LrtuneError, match=r"all worker processes died \(exit codes -9, -9\).*lrtune resume"):
        work_side_by_side(KilledWorker(url=url, run_id="any", memory=None), 2, lambda event: None)
    assert {(record.epochs, record.orphaned) for record in store.state().records} == {(2, True)}
    work(make_bench(store))
    assert len(runs_of(store)) == NUM_RUNS
    assert not runs_of(store, "running")


def test_what_a_worker_raises_is_raised_to_its_user(url):
    open_store(url, make_config())
    with pytest.raises(TaskError, match="the task's model could not be built"):
        work_side_by_side(FailingWorker(url), 2, lambda event: None)


def test_workers_do_not_outlive_the_process_that_started_them(url, tmp_path):
    open_store(url, make_config())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from tests.search.fake_objective import StuckWorker\n"
        "from lrtune.search.local import work_side_by_side\n"
        "if __name__ == '__main__':\n"
        "    work_side_by_side(StuckWorker(url=sys.argv[2], folder=Path(sys.argv[3])), 2, print)\n"
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
