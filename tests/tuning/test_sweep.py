"""A sweep, with a real database and a cluster in miniature: workers hand in, fail and are lost, and drivers die."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from random import Random

import pytest

from lrtune.core.errors import StoreError, TaskError, TrialError
from lrtune.core.events import EpochEnded, Note, RunEnded, RunStarted
from lrtune.core.recipe import WSD, Constant, Cosine, MultiStep, Recipe, StepDecay
from lrtune.core.run import Assignment
from lrtune.core.study import Budget, Rung
from lrtune.decide.plan import MAX_REPEATS, Done, Wait, next_run
from lrtune.store.checkpoints import CheckpointStore
from lrtune.store.database import StudyDatabase
from lrtune.store.ledger import Ledger
from lrtune.store.workers import this_worker
from lrtune.tuning import engine, reuse
from lrtune.tuning.engine import Bench
from lrtune.tuning.local import work
from lrtune.tuning.sampler import ask
from lrtune.tuning.sweep import Sweep
from tests.tuning.fake_objective import EPOCHS, make_bench, make_config, measurement, open_store
from tests.tuning.fake_objective import train as train_made_up
from tests.tuning.fake_training import MiniStates, MiniTrainer, ground_of, train_with

ROOT = Path(__file__).parents[2]
MANY = 10**6
STEPS = 10
"""Of an epoch, in the studies here."""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'lrtune.db'}"


# --- a cluster in miniature


class Lost(Exception):  # noqa: N818
    """In the place of a worker's death."""


def made_up(assignment):
    """A worker's training by the fake objective."""
    return train_made_up(assignment.run, None)


def reusing(trainer, states):
    """A worker's training that goes on from what is known and kept."""

    def train(assignment):
        known = {m.prefix: m for m in assignment.known}
        return reuse.train(assignment.run, ground_of(assignment.run), known, trainer, states)

    return train


class Worker:
    """Trains one assignment, an epoch at a time."""

    def __init__(self, assignment, train):
        self.num_recorded, self.measurements = assignment.num_recorded, train(assignment)

    def measure(self):
        for measured in self.measurements:
            if measured.epoch > self.num_recorded:
                return measured
        raise TrialError("the training ended before its last epoch")


class Cluster:
    """Workers on so many slots; chance has it which of them hands in its next measurement."""

    def __init__(self, train, *, num_slots=1, seed=0, max_retries=MANY):
        self.train, self.num_slots, self.max_retries, self.rng = (
            train,
            num_slots,
            max_retries,
            Random(seed),
        )
        self.assignments, self.workers, self.most_at_once = [], {}, 0

    def work(self, sweep):
        """Until nothing is left to start."""
        with sweep.at_work():
            while True:
                step = None
                while len(self.workers) < self.num_slots and isinstance(
                    step := sweep.next(), Assignment
                ):
                    assert step.num_recorded < step.run.stop_epochs
                    self._start(step)
                self.most_at_once = max(self.most_at_once, len(self.workers))
                assert {run.id for run in sweep.runs} == self.workers.keys()
                if not self.workers:
                    assert isinstance(step, Done)
                    return step
                run_id = self.rng.choice(sorted(self.workers))
                if not self._goes_on(sweep, run_id):
                    assert not sweep.is_at_work(run_id)
                    self.workers.pop(run_id).measurements.close()

    def _start(self, assignment):
        self.assignments.append(assignment)
        self.workers[assignment.run.id] = Worker(assignment, self.train)

    def _goes_on(self, sweep, run_id):
        try:
            measured = self.workers[run_id].measure()
        except Lost as why:
            sweep.lose(run_id, str(why))
            if sweep.retries[run_id] > self.max_retries:
                sweep.give_up(run_id)
                return False
            self._start(sweep.assignment(run_id))
            return True
        except (TrialError, TaskError) as error:
            sweep.fail(run_id, error)
            return False
        return sweep.take(run_id, measured)


@dataclass
class Swept:
    """A sweep that came to its end."""

    done: Done
    sweep: Sweep
    cluster: Cluster


def swept(store, train, *, asked=ask, emit=lambda event: None, **kwargs):
    """The sweep of a study on a cluster of its own."""
    cluster = Cluster(train, **kwargs)
    bench = Bench(store=store, worker=this_worker(), ask=asked, emit=emit)
    sweep = Sweep(bench, ground=ground_of, max_retries=cluster.max_retries)
    return Swept(cluster.work(sweep), sweep, cluster)


def by_id(store):
    return {record.run.id: record for record in store.state().records}


def running(store):
    return [record for record in store.state().records if record.state == "running"]


def in_words(store):
    """Everything recorded but the retries, nan to be compared as well."""
    return [repr(replace(record, retries=0)) for record in store.state().records]


def untimed(store):
    """Everything recorded, but for the times and the retries."""
    return [
        repr(
            replace(
                r,
                retries=0,
                measurements=tuple(replace(m, seconds=0, ended_at=0) for m in r.measurements),
            )
        )
        for r in store.state().records
    ]


def numbers(measurements):
    """What of a run depends on neither the clock nor on what was known before it."""
    return [
        repr(replace(m, reused=False, again_epochs=0, seconds=0, ended_at=0)) for m in measurements
    ]


def alone(run, num_epochs):
    """The first measurements of a run that knows of no other."""
    trained = reuse.train(run, ground_of(run), {}, MiniTrainer(steps_per_epoch=STEPS), MiniStates())
    return tuple(islice(trained, num_epochs))


# --- one slot: the local engine

CONFIGS = {
    "fair": {},
    "another seed": {"seed": 1, "pruner": "median", "sampler": "random"},
    "rungs": {"rungs": Rung.parse("c1,4"), "budget": Budget(14, "trials"), "reduction_factor": 2},
    "epochs": {"budget": Budget(150, "epochs")},
    "time": {"budget": Budget(150, "seconds")},
}


@pytest.mark.parametrize("training", ["made up", "with reuse"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_at_one_slot_a_sweep_is_the_local_engine(tmp_path, changes, training):
    local, cluster = (
        open_store(f"sqlite:///{tmp_path / name}.db", make_config(**changes)) for name in ("a", "b")
    )
    events, told = [], []
    if training == "made up":
        done = work(make_bench(local, emit=events.append))
        result = swept(cluster, made_up, emit=told.append)
    else:
        here, there = MiniTrainer(steps_per_epoch=STEPS), MiniTrainer(steps_per_epoch=STEPS)
        done = work(make_bench(local, train=train_with(here, MiniStates()), emit=events.append))
        result = swept(cluster, reusing(there, MiniStates()), emit=told.append)
        assert there.trained == here.trained
    assert in_words(cluster) == in_words(local)
    assert [repr(event) for event in told] == [repr(event) for event in events]
    assert result.done == done
    assert Counter(r.run.kind for r in cluster.state().records).keys() >= {
        "baseline",
        "full",
        "confirm",
    }


# --- several slots


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(("num_slots", "seed"), [(3, 0), (7, 1)])
def test_side_by_side_every_run_ends_and_is_what_it_is_alone(url, num_slots, seed, changes):
    store = open_store(url, make_config(**changes))
    budget = store.config.budget

    def check(event):
        state = store.state()
        assert state.spent(budget.unit) <= budget.amount
        if isinstance(event, EpochEnded):
            assert repr(event.measurement) in [
                repr(m) for m in by_id(store)[event.run.id].measurements
            ]

    trainer = MiniTrainer(steps_per_epoch=STEPS)
    result = swept(
        store, reusing(trainer, MiniStates()), num_slots=num_slots, seed=seed, emit=check
    )
    state = store.state()
    assert not result.done.failed
    assert result.cluster.most_at_once == num_slots
    assert {record.state for record in state.records} <= {"completed", "pruned", "diverged"}
    for record in state.records:
        assert numbers(record.measurements) == numbers(alone(record.run, record.epochs))
        assert record.epochs == record.run.stop_epochs or record.reason
    trials = [record.run.trial for record in state.of_kind("full")]
    assert len(set(trials)) == len(trials)
    if budget.unit == "trials":
        assert state.spent("trials") == budget.amount
    assert len(state.of_kind("baseline")) == store.config.num_seeds
    assert any(m.reused for record in state.records for m in record.measurements)


def test_the_order_in_which_workers_hand_in_decides_only_what_is_tried(tmp_path):
    """The recipes that do not depend on what was measured come out the same."""
    config = make_config(budget=Budget(3, "trials"), pruner="none")
    results = []
    for seed in range(4):
        store = open_store(f"sqlite:///{tmp_path / str(seed)}.db", config)
        swept(store, made_up, num_slots=3, seed=seed)
        results.append(sorted(in_words(store)))
    assert results[1:] == results[:-1]


# --- what is known


def table(*recipes):
    """Asks for these recipes, and for the last of them for ever."""

    def ask_table(state, number):
        return recipes[min(number, len(recipes) - 1)]

    return ask_table


THE_SAME = {
    "in other words": (
        Recipe(decay=StepDecay(every_epochs=4)),
        Recipe(decay=MultiStep(milestones_epochs=(4.0, 8.0))),
    ),
    "it diverges": (Recipe(peak_lr=2.9), Recipe(peak_lr=2.9)),
}


@pytest.mark.parametrize("num_slots", [1, 2])
@pytest.mark.parametrize("recipes", THE_SAME.values(), ids=THE_SAME.keys())
def test_a_duplicate_is_replayed_without_an_assignment(url, recipes, num_slots):
    store = open_store(url, make_config(budget=Budget(3, "trials"), num_seeds=1))
    trainer, events = MiniTrainer(steps_per_epoch=STEPS), []
    first, second = recipes
    cluster = swept(
        store,
        reusing(trainer, MiniStates()),
        asked=table(first, Recipe(decay=Cosine()), second),
        num_slots=num_slots,
        emit=events.append,
    ).cluster
    one, other = by_id(store)["trial-0000"], by_id(store)["trial-0002"]
    assert "trial-0002" not in {assignment.run.id for assignment in cluster.assignments}
    assert "trial-0002" not in {run_id for run_id, _ in trainer.trained}
    assert (other.state, other.epochs, other.reason) == (one.state, one.epochs, one.reason)
    assert {m.reused for m in other.measurements} == {True}
    assert numbers(other.measurements) == numbers(one.measurements)
    assert other.epochs_trained == 0
    told = [
        type(e)
        for e in events
        if getattr(e, "run", None) == other.run or getattr(e, "record", None) == other
    ]
    assert told[: 1 + other.epochs] == [RunStarted] + [EpochEnded] * other.epochs


def test_a_replay_ends_where_the_run_is_pruned(url):
    """What was good enough when it was the first is not among the better ones that came after it."""
    store = open_store(url, make_config(budget=Budget(7, "trials"), pruner="median"))
    bad, *better = (Recipe(peak_lr=peak_lr) for peak_lr in (0.003, 0.1, 0.15, 0.2, 0.25, 0.3))
    events = []
    recipes = table(bad, *better, bad)
    train = reusing(MiniTrainer(steps_per_epoch=STEPS), MiniStates())
    cluster = swept(store, train, asked=recipes, emit=events.append).cluster
    one, other = by_id(store)["trial-0000"], by_id(store)["trial-0006"]
    assert (one.state, other.state) == ("completed", "pruned")
    assert 0 < other.epochs < one.epochs
    assert {m.reused for m in other.measurements} == {True}
    assert "trial-0006" not in {assignment.run.id for assignment in cluster.assignments}
    assert [e for e in events if isinstance(e, RunEnded)].count(RunEnded(other)) == 1


def test_a_shared_trunk_is_known_to_whoever_trains_the_branch(url):
    store = open_store(url, make_config(budget=Budget(2, "trials"), num_seeds=1, pruner="none"))
    trainer = MiniTrainer(steps_per_epoch=STEPS)
    recipes = table(Recipe(decay=Constant()), Recipe(decay=WSD(cooldown_frac=0.25)))
    cluster = swept(store, reusing(trainer, MiniStates()), asked=recipes).cluster
    (branch,) = (a for a in cluster.assignments if a.run.id == "trial-0001")
    assert branch.num_recorded == len(branch.known) == EPOCHS * 3 // 4
    assert [epoch for run_id, epoch in trainer.trained if run_id == "trial-0001"] == [10, 11, 12]
    assert [m.reused for m in by_id(store)["trial-0001"].measurements] == [True] * 9 + [False] * 3


def test_a_space_of_one_recipe_is_trained_once(url):
    store = open_store(url, make_config(budget=Budget(50, "trials"), num_seeds=1))
    trainer = MiniTrainer(steps_per_epoch=STEPS)
    result = swept(store, reusing(trainer, MiniStates()), asked=table(Recipe(peak_lr=0.3)))
    assert len(store.state().of_kind("full")) == 1 + MAX_REPEATS
    assert [a.run.id for a in result.cluster.assignments] == [
        "baseline-0",
        "trial-0000",
        "trial-0000-confirm-0",
    ]
    assert len(trainer.trained) == len(set(trainer.trained)) == store.state().epochs_trained


def test_another_sweep_knows_what_was_trained_before_it(url):
    recipes = table(
        Recipe(decay=StepDecay(every_epochs=4)),
        Recipe(decay=MultiStep(milestones_epochs=(4.0, 8.0))),
    )
    store = open_store(url, make_config(budget=Budget(1, "trials"), num_seeds=1))
    swept(store, reusing(MiniTrainer(steps_per_epoch=STEPS), MiniStates()), asked=recipes)
    StudyDatabase(url).update_config(replace(store.config, budget=Budget(2, "trials")))
    store, later = open_store(url, store.config), MiniTrainer(steps_per_epoch=STEPS)
    swept(store, reusing(later, MiniStates()), asked=recipes)
    assert by_id(store)["trial-0001"].epochs_reused == EPOCHS
    assert {run_id for run_id, _ in later.trained} <= {"trial-0001-confirm-0"}


# --- workers that are lost


class Perils(MiniStates):
    """States in a place whose visitors are lost by chance: before and after each visit."""

    def __init__(self, share, seed):
        super().__init__()
        self.share, self.rng, self.at = share, Random(seed), Counter()

    def strike(self, moment):
        if self.rng.random() < self.share:
            self.at[moment] += 1
            raise Lost(f"it was {moment}")

    def load(self, key):
        self.strike("loading")
        return super().load(key)

    def save(self, key, state, epochs):
        self.strike("about to save")
        super().save(key, state, epochs)
        self.strike("about to hand in")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [CONFIGS["fair"], CONFIGS["rungs"]], ids=["fair", "rungs"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_workers_that_are_lost_at_any_moment_change_nothing_at_one_slot(tmp_path, seed, changes):
    unbroken, store = (
        open_store(f"sqlite:///{tmp_path / name}.db", make_config(**changes)) for name in ("a", "b")
    )
    swept(unbroken, reusing(MiniTrainer(steps_per_epoch=STEPS), MiniStates()))

    perils, trainer, events = Perils(0.1, seed), MiniTrainer(steps_per_epoch=STEPS), []
    result = swept(store, reusing(trainer, perils), emit=events.append)
    assert perils.at.keys() == {"loading", "about to save", "about to hand in"}
    assert untimed(store) == untimed(unbroken)
    assert (
        len(trainer.trained) == store.state().epochs_trained + perils.at["about to save"]
    )  # that epoch is gone
    assert sum(result.sweep.retries.values()) == sum(perils.at.values())
    assert len([e for e in events if isinstance(e, Note)]) == sum(perils.at.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_that_are_lost_change_nothing_of_made_up_training(tmp_path, seed):
    unbroken, store = (
        open_store(f"sqlite:///{tmp_path / name}.db", make_config()) for name in ("a", "b")
    )
    swept(unbroken, made_up)
    perils = Perils(0.2, seed)

    def perilous(assignment):
        for measured in made_up(assignment):
            if measured.epoch > assignment.num_recorded:
                perils.strike("training")
            yield measured

    swept(store, perilous)
    assert perils.at["training"] > EPOCHS
    assert in_words(store) == in_words(unbroken)


@pytest.mark.parametrize(("num_slots", "seed"), [(2, 0), (5, 1)])
def test_side_by_side_too_every_run_is_what_it_is_alone(url, num_slots, seed):
    store = open_store(url, make_config(**CONFIGS["rungs"]))
    perils = Perils(0.1, seed)
    result = swept(
        store, reusing(MiniTrainer(steps_per_epoch=STEPS), perils), num_slots=num_slots, seed=seed
    )
    assert not result.done.failed
    assert perils.at.keys() == {"loading", "about to save", "about to hand in"}
    for record in store.state().records:
        assert record.state in ("completed", "pruned", "diverged")
        assert numbers(record.measurements) == numbers(alone(record.run, record.epochs))


def losing(run_id, *, after, whys):
    """Made-up training in which a run loses a worker after so many epochs, once for each reason."""
    left = list(whys)

    def train(assignment):
        for measured in made_up(assignment):
            if assignment.run.id == run_id and measured.epoch == after + 1 and left:
                raise Lost(left.pop(0))
            yield measured

    return train


def test_a_run_goes_on_after_its_last_epoch_and_that_is_said(url):
    store, events = open_store(url, make_config()), []
    train = losing(
        "trial-0003", after=4, whys=["its node died", "it was silent for more than 60 s"]
    )
    result = swept(store, train, max_retries=2, emit=events.append)
    assert [e.text for e in events if isinstance(e, Note)] == [
        "trial-0003 lost its worker, because its node died: goes on after epoch 4, retry 1 of 2",
        "trial-0003 lost its worker, because it was silent for more than 60 s: goes on after epoch 4, retry 2 of 2",
    ]
    assert result.sweep.retries == {"trial-0003": 2}
    assert [a.num_recorded for a in result.cluster.assignments if a.run.id == "trial-0003"] == [
        0,
        4,
        4,
    ]
    record = by_id(store)["trial-0003"]
    assert record.state == "completed"
    assert record.measurements == tuple(
        measurement(record.run, epoch) for epoch in range(1, EPOCHS + 1)
    )
    assert [type(e) for e in events if getattr(e, "run", None) == record.run] == [RunStarted] + [
        EpochEnded
    ] * EPOCHS


def test_a_worker_that_takes_over_knows_what_was_measured(url):
    store, trainer, states = (
        open_store(url, make_config()),
        MiniTrainer(steps_per_epoch=STEPS),
        MiniStates(),
    )
    train, lost = reusing(trainer, states), []

    def once_lost(assignment):
        for measured in train(assignment):
            yield measured
            if assignment.run.id == "baseline-1" and measured.epoch == 5 and not lost:
                lost.append(assignment)
                raise Lost("its node died")

    cluster = swept(store, once_lost).cluster
    first, second = (a for a in cluster.assignments if a.run.id == "baseline-1")
    assert (first.num_recorded, first.known) == (0, ())
    assert (second.num_recorded, second.known) == (5, by_id(store)["baseline-1"].measurements[:5])
    assert [epoch for run_id, epoch in trainer.trained if run_id == "baseline-1"] == list(
        range(1, EPOCHS + 1)
    )


def test_what_another_run_trained_meanwhile_is_not_trained_by_the_next_worker(url):
    """Two runs share a trunk of nine epochs; the one that lost its worker in the second takes over what it lacks."""
    store = open_store(url, make_config(budget=Budget(2, "trials"), num_seeds=1, pruner="none"))
    trunk, branch = Recipe(decay=Constant()), Recipe(decay=WSD(cooldown_frac=0.25))
    trainer, states, events = MiniTrainer(steps_per_epoch=STEPS), MiniStates(), []
    bench = Bench(store=store, worker=this_worker(), ask=table(trunk, branch), emit=events.append)
    sweep = Sweep(bench, ground=ground_of, max_retries=1)
    with sweep.at_work():
        baseline, one, two = (Worker(sweep.next(), reusing(trainer, states)) for _ in range(3))
        while sweep.take("baseline-0", baseline.measure()):
            pass
        sweep.take("trial-0001", two.measure())
        while sweep.take("trial-0000", one.measure()):
            pass
        sweep.lose("trial-0001", "its node died")
        assignment = sweep.assignment("trial-0001")
        assert (assignment.num_recorded, len(assignment.known)) == (1, 9)
        taken_over = Worker(assignment, reusing(trainer, states))
        while sweep.take("trial-0001", taken_over.measure()):
            pass
    record = by_id(store)["trial-0001"]
    assert [m.reused for m in record.measurements] == [False] + [True] * 8 + [False] * 3
    assert numbers(record.measurements) == numbers(alone(record.run, EPOCHS))


@pytest.mark.parametrize("max_retries", [1, 3])
def test_a_run_that_loses_its_workers_once_too_often_fails_and_the_search_goes_on(url, max_retries):
    store, events = open_store(url, make_config()), []
    whys = [f"it met trouble {number}" for number in range(1, max_retries + 2)]
    result = swept(
        store,
        losing("trial-0003", after=4, whys=[*whys, "it was tried again"]),
        max_retries=max_retries,
        emit=events.append,
    )
    times = max_retries + 1
    record = by_id(store)["trial-0003"]
    assert (record.state, record.epochs) == ("failed", 4)
    assert (
        record.reason
        == f"lost its worker {times} times, the last time because it met trouble {times}"
    )
    assert result.sweep.retries == {"trial-0003": times}
    assert {r.run.id: r.retries for r in store.state().records if r.retries} == {
        "trial-0003": max_retries
    }
    assert len([e for e in events if isinstance(e, Note)]) == max_retries  # the end is no retry
    assert RunEnded(record) in events
    assert not result.done.failed
    assert len(store.state().of_kind("full")) == 10
    assert Counter(r.state for r in store.state().records)["failed"] == 1


def test_without_retries_the_first_loss_is_the_end_of_a_run(url):
    store, events = open_store(url, make_config()), []
    swept(
        store,
        losing("trial-0003", after=4, whys=["its node died"]),
        max_retries=0,
        emit=events.append,
    )
    assert (by_id(store)["trial-0003"].state, by_id(store)["trial-0003"].epochs) == ("failed", 4)
    assert "its node died" in by_id(store)["trial-0003"].reason
    assert not [e for e in events if isinstance(e, Note)]


@pytest.mark.parametrize("num_slots", [1, 4])
def test_where_every_worker_is_lost_the_study_is_given_up(url, num_slots):
    store = open_store(url, make_config())

    def lost(assignment):
        raise Lost("its process died")
        yield

    done = swept(store, lost, num_slots=num_slots, max_retries=1).done
    assert done.failed
    why = "lost its worker 2 times, the last time because its process died"
    assert done.reason == f"3 runs in a row failed, the last one with: {why}"
    assert {(record.state, record.reason) for record in store.state().records} == {("failed", why)}


# --- runs that cannot go on


def failing(run_id, error, *, after=0):
    """Made-up training in which a run fails after so many epochs."""

    def train(assignment):
        for measured in made_up(assignment):
            if assignment.run.id == run_id and measured.epoch > after:
                raise error
            yield measured

    return train


# what the training raises, after how many epochs
FAILURES = [(TrialError("out of memory on cuda"), 0), (TrialError("out of memory on cuda"), 4),
            (TaskError("the task's loss failed"), 0), (TaskError("the task's loss failed"), 4)]  # fmt: skip


@pytest.mark.parametrize("num_slots", [1, 3])
@pytest.mark.parametrize(("error", "after"), FAILURES)
def test_a_run_that_cannot_go_on_fails_with_its_reason_and_the_search_goes_on(
    url, error, after, num_slots
):
    store = open_store(url, make_config())
    result = swept(store, failing("trial-0003", error, after=after), num_slots=num_slots)
    record = by_id(store)["trial-0003"]
    assert (record.state, record.epochs, record.reason) == ("failed", after, str(error))
    assert not result.done.failed
    assert result.sweep.retries == {}
    assert len(store.state().of_kind("full")) == 10


def test_a_recipe_without_a_schedule_fails_and_the_search_goes_on(url):
    store = open_store(url, make_config(budget=Budget(3, "trials")))
    swept(store, made_up, asked=table(Recipe(), Recipe(warmup_epochs=EPOCHS), Recipe(peak_lr=0.2)))
    failed = by_id(store)["trial-0001"]
    assert (failed.state, failed.epochs) == ("failed", 0)
    assert "warmup" in failed.reason
    assert by_id(store)["trial-0002"].state == "completed"


def test_a_training_that_ends_early_is_a_failure(url):
    store = open_store(url, make_config())

    def short(assignment):
        yield from islice(made_up(assignment), 6 if assignment.run.id == "trial-0003" else None)

    swept(store, short)
    record = by_id(store)["trial-0003"]
    assert (record.state, record.epochs) == ("failed", 6)
    assert record.reason == "the training ended before its last epoch"


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_task_that_fails_before_any_epoch_is_the_users_business(url, num_slots):
    store = open_store(url, make_config())

    def fails(assignment):
        raise TaskError("the task's model could not be built")
        yield

    with pytest.raises(TaskError, match="the task's model could not be built"):
        swept(store, fails, num_slots=num_slots)
    records = store.state().records
    assert len(records) == num_slots
    assert {(r.state, r.orphaned, r.epochs) for r in records} == {("running", True, 0)}
    swept(store, made_up)  # it is tried again once it is mended
    assert not running(store)
    assert by_id(store)["baseline-0"].state == "completed"


# --- what is left to start


class Watched:
    """A study that remembers what it was asked and told; its first heartbeats may fail."""

    def __init__(self, study, hiccups=0):
        self.study, self.calls, self.hiccups = study, [], hiccups

    def __getattr__(self, name):
        def call(*args):
            if name == "heartbeat" and self.hiccups:
                self.hiccups -= 1
                raise StoreError("the database is locked")
            self.calls.append((name, *(run.id for run in args[:1])))
            return getattr(self.study, name)(*args)

        return call


def test_while_nothing_has_ended_nothing_is_asked_again(url):
    study, numbers_asked = (
        Watched(open_store(url, make_config(budget=Budget(2, "trials"), num_confirmed=1))),
        [],
    )

    def counted(state, number):
        numbers_asked.append(number)
        return Recipe(peak_lr=0.1 * (1 + number))

    bench = Bench(store=study, worker=this_worker(), ask=counted, emit=lambda event: None)
    sweep = Sweep(bench, ground=ground_of, max_retries=0)
    with sweep.at_work():
        workers = {}
        while isinstance(step := sweep.next(), Assignment):
            workers[step.run.id] = Worker(step, made_up)
        assert step == Wait()
        assert workers.keys() == {"baseline-0", "baseline-1", "trial-0000", "trial-0001"}
        assert numbers_asked == [0, 1]

        study.calls.clear()
        for _ in range(3):
            assert sweep.next() == Wait()
        assert study.calls == []
        assert sweep.take("trial-0000", workers["trial-0000"].measure())
        study.calls.clear()
        assert sweep.next() == Wait()
        assert study.calls == []

        while sweep.take("trial-0000", workers["trial-0000"].measure()):
            pass
        study.calls.clear()
        assert sweep.next() == Wait()  # the other trial could be the better one
        assert study.calls == [("state",)]
        assert sweep.next() == Wait()
        assert study.calls == [("state",)]

        sweep.fail("trial-0001", TrialError("out of memory"))
        assert sweep.next().run.id == "trial-0000-confirm-0"
        assert sweep.next().run.id == "trial-0000-confirm-1"
        assert sweep.next() == Wait()
        for run in sweep.runs:
            sweep.fail(run.id, TrialError("out of memory"))
        assert isinstance(sweep.next(), Done)
        assert isinstance(sweep.next(), Done)
        assert numbers_asked == [0, 1]


@pytest.mark.parametrize("opened", [lambda store: store, Ledger], ids=["store", "ledger"])
def test_somebody_elses_run_is_waited_for_and_looked_at_each_time(url, opened):
    store = open_store(url, make_config(budget=Budget(1, "trials"), num_seeds=1))
    theirs = next_run(store.state(), ask)
    store.claim(theirs, "elsewhere/1/0.00")
    bench = Bench(store=opened(store), worker=this_worker(), ask=ask, emit=lambda event: None)
    sweep = Sweep(bench, ground=ground_of, max_retries=0)
    with sweep.at_work():
        while isinstance(step := sweep.next(), Assignment):
            assert step.run.id != theirs.id
            worker = Worker(step, made_up)
            while sweep.take(step.run.id, worker.measure()):
                pass
        assert step == sweep.next() == Wait()
        store.finish(theirs, "completed")
        assert isinstance(sweep.next(), Done)


@pytest.mark.parametrize("opened", [lambda store: store, Ledger], ids=["store", "ledger"])
def test_a_run_whose_owner_is_gone_goes_on_from_his_last_epoch(url, opened):
    store = open_store(url, make_config(budget=Budget(1, "trials"), num_seeds=1))
    theirs = next_run(store.state(), ask)
    store.claim(theirs, "elsewhere/1/0.00")
    bench = Bench(store=opened(store), worker=this_worker(), ask=ask, emit=lambda event: None)
    sweep = Sweep(bench, ground=ground_of, max_retries=0)
    for measured in alone(theirs, 2):
        store.record(theirs, measured)
    with sweep.at_work():
        while (step := sweep.next()).run != theirs:
            sweep.fail(step.run.id, TrialError("it is not what this is about"))
            store.release(theirs)
        assert (step.num_recorded, numbers(step.known)) == (2, numbers(alone(theirs, 2)))


@pytest.mark.parametrize("hiccups", [0, 4])
def test_the_claims_of_all_runs_at_work_are_kept_alive(url, monkeypatch, hiccups):
    monkeypatch.setattr(engine, "HEARTBEAT_S", 0.01)
    study = Watched(open_store(url, make_config()), hiccups)
    bench = Bench(store=study, worker=this_worker(), ask=ask, emit=lambda event: None)
    sweep = Sweep(bench, ground=ground_of, max_retries=0)
    before = threading.active_count()
    with sweep.at_work():
        for _ in range(3):
            sweep.next()
        wanted = {("heartbeat", run.id) for run in sweep.runs}
        assert len(wanted) == 3
        while not wanted <= set(study.calls):
            threading.Event().wait(0.01)
        sweep.fail("trial-0000", TrialError("out of memory"))
    assert threading.active_count() == before
    assert [run for name, *run in study.calls if name == "release"] == [
        ["baseline-0"],
        ["baseline-1"],
    ]


# --- drivers that die

SMALL = {"budget": Budget(4, "trials"), "num_seeds": 1, "num_confirmed": 1, "epochs": 4}
SMALL_RECIPES = table(
    Recipe(decay=Constant()),
    Recipe(decay=WSD(cooldown_frac=0.5)),  # shares two epochs
    Recipe(decay=MultiStep(milestones_epochs=(5.0,))),  # the first one in other words
    Recipe(peak_lr=2.9),
)
NUM_EVENTS = 5 * (1 + 4 + 1) + (1 + 1 + 1)
"""Of the small study: four epochs of all runs but one, which diverges in its first."""


class Killed(BaseException):
    """In the place of a process that is gone."""


def killing(nth):
    """Emits, and is killed at the nth event."""
    seen = count(1)

    def emit(event):
        if next(seen) == nth:
            raise Killed

    return emit


def small_study(url, states, **kwargs):
    store = open_store(url, make_config(**SMALL))
    swept(store, reusing(MiniTrainer(steps_per_epoch=STEPS), states), asked=SMALL_RECIPES, **kwargs)
    return store


@pytest.fixture(scope="module")
def unbroken_small(tmp_path_factory):
    """The small study's records, where nothing ever happened to it."""
    events = []
    url = f"sqlite:///{tmp_path_factory.mktemp('small') / 'lrtune.db'}"
    records = untimed(small_study(url, MiniStates(), emit=events.append))
    assert len(events) == NUM_EVENTS
    return records


@pytest.mark.slow
@pytest.mark.parametrize("nth", range(1, NUM_EVENTS + 1))
def test_a_driver_that_is_killed_at_any_event_leaves_what_the_next_one_finishes(
    url, unbroken_small, nth
):
    states = MiniStates()
    with pytest.raises(Killed):
        small_study(url, states, emit=killing(nth))
    store = open_store(url, make_config(**SMALL))
    assert all(record.orphaned for record in running(store))
    assert untimed(small_study(url, states)) == unbroken_small


@pytest.mark.parametrize("nth", range(2, NUM_EVENTS, 4))
def test_side_by_side_too_all_that_was_at_work_is_given_back(url, nth):
    states = MiniStates()
    with pytest.raises(Killed):
        small_study(url, states, num_slots=3, seed=nth, emit=killing(nth))
    store = open_store(url, make_config(**SMALL))
    assert all(record.orphaned for record in running(store))
    small_study(url, states, num_slots=3, seed=nth)
    assert len(store.state().of_kind("full")) == 4
    for record in store.state().records:
        assert record.state in ("completed", "pruned", "diverged")
        assert numbers(record.measurements) == numbers(alone(record.run, record.epochs))


@pytest.mark.parametrize("error", [StoreError("the disk is full"), KeyboardInterrupt()])
def test_what_ends_a_sweep_is_raised_and_every_run_is_given_back(url, error):
    store = open_store(url, make_config())

    def strike(event):
        if isinstance(event, EpochEnded) and event.measurement.epoch == 3:
            raise error

    with pytest.raises(type(error)):
        swept(store, made_up, num_slots=3, emit=strike)
    assert len(running(store)) == 3
    assert all(record.orphaned for record in running(store))


@pytest.mark.parametrize("seed", [0, 1])
def test_whichever_engine_goes_on_the_study_is_the_unbroken_one(tmp_path, seed):
    """Sweeps and the local engine in turn, each until it is killed."""
    config = make_config(**CONFIGS["rungs"], seed=seed)
    unbroken = open_store(f"sqlite:///{tmp_path / 'unbroken.db'}", config)
    work(make_bench(unbroken, train=train_with(MiniTrainer(steps_per_epoch=STEPS), MiniStates())))

    url, states, rng = f"sqlite:///{tmp_path / 'broken.db'}", MiniStates(), Random(seed)
    for turn in range(1000):
        store, trainer = open_store(url, config), MiniTrainer(steps_per_epoch=STEPS)
        emit = killing(rng.randint(2, 40))
        try:
            if turn % 2:
                work(make_bench(store, train=train_with(trainer, states), emit=emit))
            else:
                swept(store, reusing(trainer, states), emit=emit)
            break
        except Killed:
            assert all(record.orphaned for record in running(store))
    assert turn > 5
    assert untimed(store) == untimed(unbroken)


@dataclass(frozen=True)
class StatesOnDisk:
    """States that outlive their process."""

    checkpoints: CheckpointStore

    def load(self, key):
        content = self.checkpoints.load(key)
        return pickle.loads(content) if content is not None else None

    def save(self, key, state, epochs):
        self.checkpoints.save(key, pickle.dumps(state), epochs)

    def drop(self, key):
        self.checkpoints.drop(key)


def sweep_until_killed(url, folder, nth):
    """For a process of its own, which a signal ends at the nth event of the small study."""
    seen = count(1)

    def emit(event):
        if next(seen) == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    small_study(url, StatesOnDisk(CheckpointStore(Path(folder))), emit=emit)


def test_drivers_that_had_no_time_to_give_anything_back_cost_nothing_either(
    url, tmp_path, unbroken_small
):
    program = "import sys; from tests.tuning.test_sweep import sweep_until_killed; sweep_until_killed(*sys.argv[1:])"
    for nth in (4, 7, 5):  # the last one in the middle of a replay
        words = [sys.executable, "-c", program, url, str(tmp_path / "states"), str(nth)]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        (left,) = running(open_store(url, make_config(**SMALL)))
        assert left.orphaned
    store = small_study(url, StatesOnDisk(CheckpointStore(tmp_path / "states")))
    assert untimed(store) == unbroken_small
