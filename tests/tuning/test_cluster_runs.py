"""A cluster in miniature, with a real database: workers hand in, fail, are lost; drivers die."""

import os
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

from lrtune.core.decays import WSD, Constant, Cosine, MultiStep, StepDecay
from lrtune.core.errors import StoreError, TaskError, TrialError
from lrtune.core.events import EpochEnded, Note, RunEnded, RunStarted
from lrtune.core.recipe import Recipe
from lrtune.core.run import Assignment
from lrtune.core.study import Budget
from lrtune.decide.plan import MAX_REPEATS, Done, Wait, next_run
from lrtune.store.checkpoints import CheckpointStore
from lrtune.store.database import StudyDatabase
from lrtune.store.ledger import Ledger
from lrtune.tuning import engine, reuse
from lrtune.tuning.cluster_runs import ClusterRuns
from lrtune.tuning.sampler import ask
from tests.tuning.fake_objective import (
    EPOCHS,
    FakeTraining,
    make_config,
    make_worker,
    measurements_of,
    open_store,
    train,
    unkeyed,
    work_here,
)
from tests.tuning.fake_training import MiniStates, MiniTraining, StatesOnDisk, alone

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


def mini():
    return MiniTraining(steps_per_epoch=STEPS)


class Worker:
    """Trains one assignment, an epoch at a time."""

    def __init__(self, assignment, training, states):
        self.num_recorded = assignment.num_recorded
        self.measurements = reuse.train(assignment, training, states)

    def measure(self):
        for measured in self.measurements:
            if measured.epoch > self.num_recorded:
                return measured
        raise TrialError("the training ended before its last epoch")


class Cluster:
    """Workers on so many slots; chance has it which of them hands in its next measurement."""

    def __init__(self, training, states, *, num_slots=1, seed=0, max_retries=MANY):
        self.training, self.states = training, MiniStates() if states is None else states
        self.num_slots, self.max_retries, self.rng = num_slots, max_retries, Random(seed)
        self.assignments, self.workers, self.most_at_once = [], {}, 0

    def work(self, runs):
        """Until nothing is left to start."""
        with runs.at_work():
            while True:
                step = None
                while len(self.workers) < self.num_slots and isinstance(
                    step := runs.next(), Assignment
                ):
                    assert step.num_recorded < step.run.stop_epochs
                    self._start(step)
                self.most_at_once = max(self.most_at_once, len(self.workers))
                assert {run.id for run in runs.running} == self.workers.keys()
                if not self.workers:
                    assert isinstance(step, Done)
                    return step
                run_id = self.rng.choice(sorted(self.workers))
                if not self._goes_on(runs, run_id):
                    assert not runs.is_at_work(run_id)
                    self.workers.pop(run_id).measurements.close()

    def _start(self, assignment):
        self.assignments.append(assignment)
        self.workers[assignment.run.id] = Worker(assignment, self.training, self.states)

    def _goes_on(self, runs, run_id):
        try:
            measured = self.workers[run_id].measure()
        except Lost as why:
            runs.lose(run_id, str(why))
            if runs.retries[run_id] > self.max_retries:
                runs.give_up(run_id)
                return False
            self._start(runs.assignment(run_id))
            return True
        except (TrialError, TaskError) as error:
            runs.fail(run_id, error)
            return False
        return runs.record(run_id, measured)


@dataclass
class Worked:
    """A study that a cluster has worked on."""

    done: Done
    runs: ClusterRuns
    cluster: Cluster


def runs_of(store, training, *, max_retries=0, **worker):
    return ClusterRuns(
        make_worker(store, **worker), facts=training.facts, identify=training.identity,
        max_retries=max_retries,
    )  # fmt: skip


def clustered(store, training=None, states=None, *, asked=ask, emit=lambda event: None, **kwargs):
    """Works on a study on a cluster of its own."""
    training = training or FakeTraining()
    cluster = Cluster(training, states, **kwargs)
    runs = runs_of(store, training, max_retries=cluster.max_retries, asked=asked, emit=emit)
    return Worked(cluster.work(runs), runs, cluster)


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


def first_alone(run, num_epochs):
    """The first measurements of a run that knows of no other."""
    return tuple(islice(alone(run, steps_per_epoch=STEPS), num_epochs))


# --- one slot: the local engine

CONFIGS = {
    "fair": {},
    "another seed": {"seed": 1, "sampler": "random", "max_seeds": 4},
    "looks": {"looks": (1, 4), "budget": Budget(14, "trials")},
    "epochs": {"budget": Budget(150, "epochs")},
    "time": {"budget": Budget(150, "seconds")},
}


@pytest.mark.slow
@pytest.mark.parametrize("training", ["made up", "with reuse"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_at_one_slot_a_cluster_is_the_local_engine(tmp_path, changes, training):
    local, cluster = (
        open_store(f"sqlite:///{tmp_path / name}.db", make_config(**changes)) for name in ("a", "b")
    )
    events, told = [], []
    here, there = (FakeTraining(), FakeTraining()) if training == "made up" else (mini(), mini())
    done = work_here(local, here, emit=events.append)
    result = clustered(cluster, there, emit=told.append)
    if training == "with reuse":
        assert there.trained == here.trained
    assert in_words(cluster) == in_words(local)
    assert [repr(event) for event in told] == [repr(event) for event in events]
    assert result.done == done
    of_search = "look" if "looks" in changes else "full"
    kinds = {record.run.kind for record in cluster.state().records}
    assert kinds == {of_search, "baseline", "confirm"}


# --- several slots


@pytest.mark.slow
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

    training = mini()
    result = clustered(store, training, num_slots=num_slots, seed=seed, emit=check)
    state = store.state()
    assert not result.done.failed
    if budget.unit == "trials":
        assert result.cluster.most_at_once == num_slots
    else:  # the first runs are fewer: what else the budget pays for depends on what they show
        assert 1 < result.cluster.most_at_once <= num_slots
    assert {record.state for record in state.records} <= {"completed", "pruned", "diverged"}
    for record in state.records:
        assert numbers(record.measurements) == numbers(first_alone(record.run, record.epochs))
        assert record.epochs == record.run.stop_epochs or record.reason
    trials = [record.run.trial for record in state.of_kind("full")]
    assert len(set(trials)) == len(trials)
    if budget.unit == "trials":
        assert state.spent("trials") == budget.amount
    assert len(state.of_kind("baseline")) >= store.config.num_seeds
    if not store.config.looks:  # whose first epochs are too few to be shared
        assert any(m.reused for record in state.records for m in record.measurements)


SAME_AT_ANY_NUMBER = {
    name: changes | {"max_seeds": 4} for name, changes in CONFIGS.items() if name != "time"
} | {
    "many looks": {"looks": (1, 4), "budget": Budget(30, "trials"), "max_seeds": 8},
    "a short lag": {"looks": (1, 4), "budget": Budget(20, "trials"), "lag": 2},
    "many epochs": {"looks": (2, 3), "budget": Budget(250, "epochs")},
    "looks alone": {"looks": (1, 4), "budget": Budget(60, "epochs")},
    "full runs": {"pruner": "none", "budget": Budget(20, "runs")},
    "quick": {"looks": (1, 4), "confirm": "quick"},
    "gp": {"looks": (1, 4), "sampler": "gp", "space": "quick", "budget": Budget(12, "trials")},
}


@pytest.mark.parametrize("training", [FakeTraining, mini], ids=["made up", "with reuse"])
@pytest.mark.parametrize("changes", SAME_AT_ANY_NUMBER.values(), ids=SAME_AT_ANY_NUMBER.keys())
def test_the_runs_and_recipes_are_the_same_however_many_slots_and_whoever_is_first(
    tmp_path, changes, training
):
    found, ends = [], []
    for number, (num_slots, seed) in enumerate([(1, 0), (3, 1), (8, 2)]):
        store = open_store(f"sqlite:///{tmp_path / str(number)}.db", make_config(**changes))
        events, given = [], {"num_slots": num_slots, "seed": seed}
        clustered(Ledger(store), training(), emit=events.append, **given)
        records = sorted(store.state().records, key=lambda record: record.run.id)
        found.append([(r.run, r.state, r.reason, numbers(r.measurements)) for r in records])
        ends.append([event.record.run.id for event in events if isinstance(event, RunEnded)])
    assert found[1:] == found[:-1]
    assert len(set(map(tuple, ends))) == len(ends)


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
    training, events = mini(), []
    first, second = recipes
    cluster = clustered(
        store,
        training,
        asked=table(first, Recipe(decay=Cosine()), second),
        num_slots=num_slots,
        seed=1,  # by which the first one ends before the third one begins
        emit=events.append,
    ).cluster
    one, other = by_id(store)["trial-0000"], by_id(store)["trial-0002"]
    assert "trial-0002" not in {assignment.run.id for assignment in cluster.assignments}
    assert "trial-0002" not in {run_id for run_id, _ in training.trained}
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


class AtChance(MiniTraining):
    """Learns nothing of what is counted at a low LR."""

    def train(self, run, *args, **kwargs):
        for measured in super().train(run, *args, **kwargs):
            tops = dict.fromkeys(("top1", "averaged_top1"), 10.2)
            at_chance = run.recipe.peak_lr < 0.01
            yield replace(measured, metrics={**measured.metrics, **(tops if at_chance else {})})


def test_a_replay_ends_where_the_run_is_pruned(url):
    store = open_store(url, make_config(budget=Budget(3, "trials")))
    bad, better = Recipe(peak_lr=0.003), Recipe(peak_lr=0.1)
    events, training = [], AtChance(steps_per_epoch=STEPS)
    asked = table(bad, better, bad)
    cluster = clustered(store, training, asked=asked, emit=events.append).cluster
    one, other = by_id(store)["trial-0000"], by_id(store)["trial-0002"]
    assert (one.state, one.epochs) == (other.state, other.epochs) == ("pruned", 10)
    assert {m.reused for m in other.measurements} == {True}
    assert "trial-0002" not in {assignment.run.id for assignment in cluster.assignments}
    assert [e for e in events if isinstance(e, RunEnded)].count(RunEnded(other)) == 1


def test_a_shared_trunk_is_known_to_whoever_trains_the_branch(url):
    store = open_store(url, make_config(budget=Budget(2, "trials"), num_seeds=1, pruner="none"))
    training = mini()
    recipes = table(Recipe(decay=Constant()), Recipe(decay=WSD(cooldown_frac=0.25)))
    cluster = clustered(store, training, asked=recipes).cluster
    (branch,) = (a for a in cluster.assignments if a.run.id == "trial-0001")
    assert branch.num_recorded == len(branch.known) == EPOCHS * 3 // 4
    assert [epoch for run_id, epoch in training.trained if run_id == "trial-0001"] == [10, 11, 12]
    assert [m.reused for m in by_id(store)["trial-0001"].measurements] == [True] * 9 + [False] * 3


def test_a_space_of_one_recipe_is_trained_once(url):
    store = open_store(url, make_config(budget=Budget(50, "trials"), num_seeds=1))
    training = mini()
    result = clustered(store, training, asked=table(Recipe(peak_lr=0.3)))
    assert len(store.state().of_kind("full")) == 1 + MAX_REPEATS
    assert [a.run.id for a in result.cluster.assignments] == [
        "trial-0000",
        "baseline-0",
        "trial-0000-confirm-0",
    ]
    assert len(training.trained) == len(set(training.trained)) == store.state().epochs_trained


def test_another_driver_knows_what_was_trained_before_it(url):
    recipes = table(
        Recipe(decay=StepDecay(every_epochs=4)),
        Recipe(decay=MultiStep(milestones_epochs=(4.0, 8.0))),
    )
    store = open_store(url, make_config(budget=Budget(1, "trials"), num_seeds=1))
    clustered(store, mini(), asked=recipes)
    StudyDatabase(url).update_config(replace(store.config, budget=Budget(2, "trials")))
    store, later = open_store(url, store.config), mini()
    clustered(store, later, asked=recipes)
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
@pytest.mark.parametrize("changes", [CONFIGS["fair"], CONFIGS["looks"]], ids=["fair", "looks"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_workers_that_are_lost_at_any_moment_change_nothing_at_one_slot(tmp_path, seed, changes):
    unbroken, store = (
        open_store(f"sqlite:///{tmp_path / name}.db", make_config(**changes)) for name in ("a", "b")
    )
    clustered(unbroken, mini())

    perils, training, events = Perils(0.1, seed), mini(), []
    result = clustered(store, training, perils, emit=events.append)
    assert perils.at.keys() == {"loading", "about to save", "about to hand in"}
    assert untimed(store) == untimed(unbroken)
    assert (
        len(training.trained) == store.state().epochs_trained + perils.at["about to save"]
    )  # that epoch is gone
    assert sum(result.runs.retries.values()) == sum(perils.at.values())
    assert len([e for e in events if isinstance(e, Note)]) == sum(perils.at.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_that_are_lost_change_nothing_of_made_up_training(tmp_path, seed):
    unbroken, store = (
        open_store(f"sqlite:///{tmp_path / name}.db", make_config()) for name in ("a", "b")
    )
    clustered(unbroken)
    perils = Perils(0.2, seed)

    def perilous(run, first):
        for measured in train(run, first):
            perils.strike("training")
            yield measured

    clustered(store, FakeTraining(perilous))
    assert perils.at["training"] > EPOCHS
    assert in_words(store) == in_words(unbroken)


@pytest.mark.parametrize(("num_slots", "seed"), [(2, 0), (5, 1)])
def test_side_by_side_too_every_run_is_what_it_is_alone(url, num_slots, seed):
    store = open_store(url, make_config(**CONFIGS["looks"]))
    perils = Perils(0.1, seed)
    result = clustered(store, mini(), perils, num_slots=num_slots, seed=seed)
    assert not result.done.failed
    assert perils.at.keys() == {"loading", "about to save", "about to hand in"}
    for record in store.state().records:
        assert record.state in ("completed", "pruned", "diverged")
        assert numbers(record.measurements) == numbers(first_alone(record.run, record.epochs))


def losing(run_id, *, after, whys):
    """Made-up training in which a run loses a worker after so many epochs, once for each reason."""
    remaining = list(whys)

    def epochs(run, first):
        for measured in train(run, first):
            if run.id == run_id and measured.epoch == after + 1 and remaining:
                raise Lost(remaining.pop(0))
            yield measured

    return FakeTraining(epochs)


def test_a_run_goes_on_after_its_last_epoch_and_that_is_said(url):
    store, events = open_store(url, make_config()), []
    train = losing(
        "trial-0003", after=4, whys=["its node died", "it was silent for more than 60 s"]
    )
    result = clustered(store, train, max_retries=2, emit=events.append)
    assert [e.text for e in events if isinstance(e, Note)] == [
        "trial-0003 lost its worker, because its node died: goes on after epoch 4, retry 1 of 2",
        "trial-0003 lost its worker, because it was silent for more than 60 s: "
        "goes on after epoch 4, retry 2 of 2",
    ]
    assert result.runs.retries == {"trial-0003": 2}
    assert [a.num_recorded for a in result.cluster.assignments if a.run.id == "trial-0003"] == [
        0,
        4,
        4,
    ]
    record = by_id(store)["trial-0003"]
    assert record.state == "completed"
    assert unkeyed(record.measurements) == measurements_of(record.run)
    assert [type(e) for e in events if getattr(e, "run", None) == record.run] == [RunStarted] + [
        EpochEnded
    ] * EPOCHS


class LosesAWorker(MiniTraining):
    """Loses a worker once, after the fifth epoch of a run was recorded."""

    lost = False

    def train(self, run, *args, **kwargs):
        for measured in super().train(run, *args, **kwargs):
            yield measured
            if (run.id, measured.epoch, self.lost) == ("baseline-1", 5, False):
                self.lost = True
                raise Lost("its node died")


def test_a_worker_that_takes_over_knows_what_was_measured(url):
    store, training = open_store(url, make_config()), LosesAWorker(steps_per_epoch=STEPS)
    cluster = clustered(store, training).cluster
    first, second = (a for a in cluster.assignments if a.run.id == "baseline-1")
    assert (first.num_recorded, first.known) == (0, ())
    assert (second.num_recorded, second.known) == (5, by_id(store)["baseline-1"].measurements[:5])
    assert [epoch for run_id, epoch in training.trained if run_id == "baseline-1"] == list(
        range(1, EPOCHS + 1)
    )


def test_what_another_run_trained_meanwhile_is_not_trained_by_the_next_worker(url):
    """Two runs share a trunk of nine epochs; one loses its worker in the second, and takes over."""
    store = open_store(url, make_config(budget=Budget(2, "trials"), num_seeds=1, pruner="none"))
    trunk, branch = Recipe(decay=Constant()), Recipe(decay=WSD(cooldown_frac=0.25))
    training, states, events = mini(), MiniStates(), []
    asked = table(trunk, branch)
    runs = runs_of(store, training, asked=asked, emit=events.append, max_retries=1)
    with runs.at_work():
        one, two, baseline = (Worker(runs.next(), training, states) for _ in range(3))
        while runs.record("baseline-0", baseline.measure()):
            pass
        runs.record("trial-0001", two.measure())
        while runs.record("trial-0000", one.measure()):
            pass
        runs.lose("trial-0001", "its node died")
        assignment = runs.assignment("trial-0001")
        assert (assignment.num_recorded, len(assignment.known)) == (1, 9)
        taken_over = Worker(assignment, training, states)
        while runs.record("trial-0001", taken_over.measure()):
            pass
    record = by_id(store)["trial-0001"]
    assert [m.reused for m in record.measurements] == [False] + [True] * 8 + [False] * 3
    assert numbers(record.measurements) == numbers(first_alone(record.run, EPOCHS))


@pytest.mark.parametrize("max_retries", [1, 3])
def test_a_run_that_loses_its_workers_once_too_often_fails_and_the_search_goes_on(url, max_retries):
    store, events = open_store(url, make_config()), []
    whys = [f"it met trouble {number}" for number in range(1, max_retries + 2)]
    result = clustered(
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
    assert result.runs.retries == {"trial-0003": times}
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
    clustered(
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

    def lost(run, first):
        raise Lost("its process died")
        yield

    done = clustered(store, FakeTraining(lost), num_slots=num_slots, max_retries=1).done
    assert done.failed
    why = "lost its worker 2 times, the last time because its process died"
    assert done.reason == f"3 runs in a row failed, the last one with: {why}"
    assert {(record.state, record.reason) for record in store.state().records} == {("failed", why)}


# --- runs that cannot go on


def failing(run_id, error, *, after=0):
    """Made-up training in which a run fails after so many epochs."""

    def epochs(run, first):
        for measured in train(run, first):
            if run.id == run_id and measured.epoch > after:
                raise error
            yield measured

    return FakeTraining(epochs)


# what the training raises, after how many epochs
FAILURES = [
    (TrialError("out of memory on cuda"), 0), (TrialError("out of memory on cuda"), 4),
    (TaskError("the task's loss failed"), 0), (TaskError("the task's loss failed"), 4),
]  # fmt: skip


@pytest.mark.parametrize("num_slots", [1, 3])
@pytest.mark.parametrize(("error", "after"), FAILURES)
def test_a_run_that_cannot_go_on_fails_with_its_reason_and_the_search_goes_on(
    url, error, after, num_slots
):
    store = open_store(url, make_config())
    result = clustered(store, failing("trial-0003", error, after=after), num_slots=num_slots)
    record = by_id(store)["trial-0003"]
    assert (record.state, record.epochs, record.reason) == ("failed", after, str(error))
    assert not result.done.failed
    assert result.runs.retries == {}
    assert len(store.state().of_kind("full")) == 10


def test_a_recipe_without_a_schedule_fails_and_the_search_goes_on(url):
    store = open_store(url, make_config(budget=Budget(3, "trials")))
    clustered(store, asked=table(Recipe(), Recipe(warmup_epochs=EPOCHS), Recipe(peak_lr=0.2)))
    failed = by_id(store)["trial-0001"]
    assert (failed.state, failed.epochs) == ("failed", 0)
    assert "warmup" in failed.reason
    assert by_id(store)["trial-0002"].state == "completed"


def test_a_training_that_ends_early_is_a_failure(url):
    store = open_store(url, make_config())

    def short(run, first):
        yield from islice(train(run, first), 6 if run.id == "trial-0003" else None)

    clustered(store, FakeTraining(short))
    record = by_id(store)["trial-0003"]
    assert (record.state, record.epochs) == ("failed", 6)
    assert record.reason == "the training ended before its last epoch"


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_task_that_fails_before_any_epoch_is_the_users_business(url, num_slots):
    store = open_store(url, make_config())

    def fails(run, first):
        raise TaskError("the task's model could not be built")
        yield

    with pytest.raises(TaskError, match="the task's model could not be built"):
        clustered(store, FakeTraining(fails), num_slots=num_slots)
    records = store.state().records
    assert len(records) == num_slots
    assert {(r.state, r.orphaned, r.epochs) for r in records} == {("running", True, 0)}
    clustered(store)  # it is tried again once it is mended
    assert not running(store)
    assert by_id(store)["trial-0000"].state == "completed"


# --- what is left to start


class Watched:
    """A study that remembers what it was asked and told; its first heartbeats may fail."""

    def __init__(self, study, hiccups=0):
        self.study, self.calls, self.hiccups = study, [], hiccups
        self.config = study.config

    def __getattr__(self, name):
        def call(*args):
            if name == "heartbeat" and self.hiccups:
                self.hiccups -= 1
                raise StoreError("the database is locked")
            self.calls.append((name, *(run.id for run in args[:1])))
            return getattr(self.study, name)(*args)

        return call


def test_while_nothing_has_ended_nothing_is_asked_again(url):
    study = Watched(open_store(url, make_config(budget=Budget(2, "trials"))))
    numbers_asked = []

    def counted(state, number):
        numbers_asked.append(number)
        return Recipe(peak_lr=0.1 * (1 + number))

    runs = runs_of(study, FakeTraining(), asked=counted)
    with runs.at_work():
        workers = {}
        while isinstance(step := runs.next(), Assignment):
            workers[step.run.id] = Worker(step, FakeTraining(), MiniStates())
        assert step == Wait()
        assert workers.keys() == {"baseline-0", "baseline-1", "trial-0000", "trial-0001"}
        assert numbers_asked == [0, 1]

        study.calls.clear()
        for _ in range(3):
            assert runs.next() == Wait()
        assert study.calls == []
        assert runs.record("trial-0000", workers["trial-0000"].measure())
        study.calls.clear()
        assert runs.next() == Wait()
        assert study.calls == []

        while runs.record("trial-0000", workers["trial-0000"].measure()):
            pass
        study.calls.clear()
        assert runs.next() == Wait()  # the other trial could be the better one
        assert study.calls == [("state",)]
        assert runs.next() == Wait()
        assert study.calls == [("state",)]

        runs.fail("trial-0001", TrialError("out of memory"))
        assert runs.next().run.id == "trial-0000-confirm-0"
        assert runs.next() == Wait()  # who is in the next round is not known yet
        for run in runs.running:
            runs.fail(run.id, TrialError("out of memory"))
        assert isinstance(runs.next(), Done)
        assert isinstance(runs.next(), Done)
        assert numbers_asked == [0, 1]


@pytest.mark.parametrize("opened", [lambda store: store, Ledger], ids=["store", "ledger"])
def test_somebody_elses_run_is_waited_for_and_looked_at_each_time(url, opened):
    store = open_store(url, make_config(budget=Budget(1, "trials"), num_seeds=1))
    theirs = next_run(store.state(), ask)
    store.claim(theirs, "elsewhere/1/0.00")
    runs = runs_of(opened(store), FakeTraining())
    with runs.at_work():
        while isinstance(step := runs.next(), Assignment):
            assert step.run.id != theirs.id
            worker = Worker(step, FakeTraining(), MiniStates())
            while runs.record(step.run.id, worker.measure()):
                pass
        assert step == runs.next() == Wait()
        store.finish(theirs, "completed")
        assert isinstance(runs.next(), Done)


@pytest.mark.parametrize("opened", [lambda store: store, Ledger], ids=["store", "ledger"])
def test_a_run_whose_owner_is_gone_goes_on_from_his_last_epoch(url, opened):
    store = open_store(url, make_config(budget=Budget(1, "trials"), num_seeds=1))
    theirs = next_run(store.state(), ask)
    store.claim(theirs, "elsewhere/1/0.00")
    runs = runs_of(opened(store), mini())
    for measured in first_alone(theirs, 2):
        store.record(theirs, measured)
    with runs.at_work():
        while (step := runs.next()).run != theirs:
            runs.fail(step.run.id, TrialError("it is not what this is about"))
            store.release(theirs)
        assert (step.num_recorded, numbers(step.known)) == (2, numbers(first_alone(theirs, 2)))


@pytest.mark.parametrize("hiccups", [0, 4])
def test_the_claims_of_all_runs_at_work_are_kept_alive(url, monkeypatch, hiccups):
    monkeypatch.setattr(engine, "HEARTBEAT_S", 0.01)
    study = Watched(open_store(url, make_config()), hiccups)
    runs = runs_of(study, FakeTraining())
    before = threading.active_count()
    with runs.at_work():
        for _ in range(3):
            runs.next()
        wanted = {("heartbeat", run.id) for run in runs.running}
        assert len(wanted) == 3
        while not wanted <= set(study.calls):
            threading.Event().wait(0.01)
        runs.fail("trial-0000", TrialError("out of memory"))
    assert threading.active_count() == before
    assert [run for name, *run in study.calls if name == "release"] == [
        ["trial-0001"],
        ["trial-0002"],
    ]


# --- drivers that die

SMALL = {"budget": Budget(4, "trials"), "num_seeds": 1, "confirm": "quick", "epochs": 4}
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
    clustered(store, mini(), states, asked=SMALL_RECIPES, **kwargs)
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
        assert numbers(record.measurements) == numbers(first_alone(record.run, record.epochs))


@pytest.mark.parametrize("error", [StoreError("the disk is full"), KeyboardInterrupt()])
def test_what_ends_the_work_is_raised_and_every_run_is_given_back(url, error):
    store = open_store(url, make_config())

    def strike(event):
        if isinstance(event, EpochEnded) and event.measurement.epoch == 3:
            raise error

    with pytest.raises(type(error)):
        clustered(store, num_slots=3, emit=strike)
    assert len(running(store)) == 3
    assert all(record.orphaned for record in running(store))


@pytest.mark.parametrize("seed", [0, 1])
def test_whichever_engine_goes_on_the_study_is_the_unbroken_one(tmp_path, seed):
    """Sweeps and the local engine in turn, each until it is killed."""
    config = make_config(**CONFIGS["looks"], seed=seed)
    unbroken = open_store(f"sqlite:///{tmp_path / 'unbroken.db'}", config)
    work_here(unbroken, mini())

    url, states, rng = f"sqlite:///{tmp_path / 'broken.db'}", MiniStates(), Random(seed)
    for turn in range(1000):
        store, training = open_store(url, config), mini()
        emit = killing(rng.randint(2, 40))
        try:
            if turn % 2:
                work_here(store, training, states=states, emit=emit)
            else:
                clustered(store, training, states, emit=emit)
            break
        except Killed:
            assert all(record.orphaned for record in running(store))
    assert turn > 5
    assert untimed(store) == untimed(unbroken)


def until_killed(url, folder, nth):
    """For a process of its own, which a signal ends at the nth event of the small study."""
    seen = count(1)

    def emit(event):
        if next(seen) == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    small_study(url, StatesOnDisk(CheckpointStore(Path(folder))), emit=emit)


@pytest.mark.slow
def test_drivers_that_had_no_time_to_give_anything_back_cost_nothing_either(
    url, tmp_path, unbroken_small
):
    program = (
        "import sys; from tests.tuning.test_cluster_runs import until_killed;"
        "until_killed(*sys.argv[1:])"
    )
    for nth in (4, 7, 5):  # the last one in the middle of a replay
        words = [sys.executable, "-c", program, url, str(tmp_path / "states"), str(nth)]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        (left,) = running(open_store(url, make_config(**SMALL)))
        assert left.orphaned
    store = small_study(url, StatesOnDisk(CheckpointStore(tmp_path / "states")))
    assert untimed(store) == unbroken_small
