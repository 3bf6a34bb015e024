"""Training without training: Top-1 is a function of recipe and epoch with a known optimum.

Workers in processes of their own import this by name, so what they open is defined here.
"""

import math
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from lrtune.core.errors import TaskError
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, RunRecord
from lrtune.core.space import Interval
from lrtune.core.study import Budget, RangeResult, StudyConfig, StudyState
from lrtune.decide.looks import looks_of
from lrtune.decide.plan import next_run
from lrtune.store.checkpoints import CheckpointStore
from lrtune.store.database import StudyDatabase
from lrtune.store.spaces import read_space
from lrtune.store.workers import this_worker
from lrtune.tuning.engine import Worker
from lrtune.tuning.local import work
from lrtune.tuning.sampler import ask
from tests.tuning.fake_training import START, MadeUpTraining, MiniStates, StatesOnDisk

EPOCHS = 12
BEST_LR, BEST_TOP1, CHANCE = 0.3, 95.0, 10.0
BASELINE = Recipe(peak_lr=0.02)
INTERVAL = Interval(low=1e-3, high=3.0, suggestion=0.05)
LOST = {"cosine": 0.5, "linear": 0.0, "hold-power": 0.2, "wsd": 0.7, "constant": 6.0}
"""Points that a decay costs; the others cost 2."""


def final_top1(recipe):
    """A parabola in log LR about `BEST_LR`, less what decay and warmup cost; or chance."""
    decades = math.log10(recipe.peak_lr / BEST_LR)
    if recipe.peak_lr < 2e-3:
        return CHANCE
    lost = 12 * decades**2 + LOST.get(recipe.decay.name, 2.0) + 0.8 * abs(recipe.warmup_epochs - 1)
    return BEST_TOP1 - lost


def measurement(run, epoch):
    """A line to the final Top-1, a little different for each seed.

    An LR above 2.5 diverges in epoch 3.
    A compressed run comes as far as a full one, so its ranking is right. The averaged weights are
    nearer to the end.
    """
    reached = CHANCE + (final_top1(run.recipe) - CHANCE) * epoch / run.horizon_epochs
    reached += 0.1 * math.sin(run.seed + epoch)
    loss = math.nan if run.recipe.peak_lr > 2.5 and epoch == 3 else 3 - reached / 50
    return Measurement(
        epoch=epoch, step=10 * epoch, lr_first=run.recipe.peak_lr, lr_last=run.recipe.peak_lr,
        metrics={
            "train_loss": loss, "val_loss": loss, "top1": reached, "averaged_val_loss": loss,
            "averaged_top1": (reached + final_top1(run.recipe)) / 2,
        },
        seconds=1.0, examples_per_s=100.0,
        ended_at=1e9 + 1000 * run.trial + 100 * run.seed + epoch,
    )  # fmt: skip


def measurements_of(run, num_epochs=None):
    """The first measurements of a run; by default all."""
    num_epochs = run.stop_epochs if num_epochs is None else num_epochs
    return tuple(measurement(run, epoch) for epoch in range(1, num_epochs + 1))


def unkeyed(measurements):
    """Measurements without the keys that their run gave them."""
    return tuple(replace(m, prefix="") for m in measurements)


def train(run, first=1):
    """The measurements of a run from one epoch on."""
    yield from measurements_of(run)[first - 1 :]


class FakeTraining(MadeUpTraining):
    """Yields what a function of a run and its first epoch does; by default, the fake objective.

    It can resume, but not repeat: so runs have nothing to do with one another.
    """

    def __init__(self, epochs=train, *, without=("repeat",)):
        super().__init__(steps_per_epoch=10, without=without)
        self.epochs = epochs

    def train(self, run, multiplier, *, start=START, save=None):
        for measured in self.epochs(run, start.epochs + 1):
            if save is not None:
                save(measured, {"epochs": measured.epoch})
            yield measured


def make_config(**changes):
    """A study of the fake objective, over a space that comes with lrtune.

    Its looks are told by their two lengths.
    """
    space, lengths = changes.pop("space", "default"), changes.pop("looks", ())
    values = {
        "name": "fake", "task": {"data": "digits"}, "space_name": space,
        "space_toml": read_space(space)[1], "epochs": EPOCHS, "steps_per_epoch": 10,
        "objective": Objective(num_counted=1000, guessing=10.0), "num_validation": 1000,
        "baseline": BASELINE, "budget": Budget(10, "trials"), "num_seeds": 2,
    }  # fmt: skip
    looks = looks_of(*lengths, seed=changes.get("seed", 0)) if lengths else ()
    return StudyConfig(**values | changes, looks=looks)


def range_results():
    return (RangeResult(optimizer="sgd", curves=(), interval=INTERVAL, rule="made up"),)


def make_state(**changes):
    """A study in which nothing was trained yet."""
    return StudyState(config=make_config(**changes), range_results=range_results())


def completed(run):
    return RunRecord(run=run, state="completed", measurements=measurements_of(run))


def grow(state, num_trials):
    """`state` after `num_trials` more trials, each of which had its first look or its full run."""
    state = replace(state, config=replace(state.config, budget=Budget(10_000, "trials")))
    for _ in range(num_trials):
        state = replace(state, records=(*state.records, completed(next_run(state, ask))))
    return state


def open_store(url, config):
    """The study in a real database, begun where it is not there."""
    database = StudyDatabase(url)
    if database.config(config.name) is None:
        database.create(config)
        database.study(config.name).record_ranges(range_results())
    return database.study(config.name)


def make_worker(store, *, states=None, asked=ask, emit=lambda event: None, lane=0):
    """A worker of a study; its states are by default in memory, and gone with it."""
    states = MiniStates() if states is None else states
    return Worker(name=this_worker(lane), store=store, ask=asked, emit=emit, states=states)


def work_here(store, training=None, **worker):
    """Trains a study in this process, to its end."""
    training, worker = training or FakeTraining(), make_worker(store, **worker)
    if "resume" not in training.facts.abilities:
        worker = replace(worker, states=None)
    return work(training, worker)


@dataclass(frozen=True)
class OpenWorker:
    """Opens a worker of the study `fake`, in whatever process calls it."""

    url: str
    folder: Path
    """Where the states are."""

    def __call__(self, lane, emit):
        store = StudyDatabase(self.url).study("fake")
        states = StatesOnDisk(CheckpointStore(self.folder))
        return make_worker(store, states=states, emit=emit, lane=lane)


@dataclass(frozen=True)
class OpenFake:
    """Opens fake training, in whatever process calls it."""

    def __call__(self, devices):
        return FakeTraining(self.train)

    def train(self, run, first):
        yield from train(run, first)


@dataclass(frozen=True)
class Overtaking(OpenFake):
    """Rests after each epoch for as long as chance has it, so that runs overtake one another.

    The first trial waits for the last epoch of the second one, unless there is only one worker.
    """

    folder: Path
    is_alone: bool

    def train(self, run, first):
        for measured in super().train(run, first):
            time.sleep(Random(f"{run.id} {measured.epoch}").uniform(0, 0.01))
            if run.trial == 1 and measured.epoch == run.stop_epochs:
                (self.folder / "over").touch()
            while not self.is_alone and run.trial == 0 and not (self.folder / "over").exists():
                time.sleep(0.01)
            yield measured


@dataclass(frozen=True)
class Killed(OpenFake):
    """Is killed in the third epoch of a run; once, if there is a file to remember it by."""

    run_id: str
    memory: Path | None

    def train(self, run, first):
        for measured in super().train(run, first):
            if measured.epoch == 3 and self.run_id in (run.id, "any") and self._first_time():
                os.kill(os.getpid(), signal.SIGKILL)
            yield measured

    def _first_time(self):
        if self.memory is None:
            return True
        try:
            self.memory.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Stuck(OpenFake):
    """Says who it is, in a file named by its process, and then trains for ever."""

    folder: Path

    def train(self, run, first):
        (self.folder / str(os.getpid())).touch()
        while True:
            time.sleep(1)
        yield


@dataclass(frozen=True)
class Loading(OpenFake):
    """Reads batches in processes of its own, started as in the process that asked."""

    start_method: str

    def train(self, run, first):
        if run.kind == "baseline":
            from torch.utils.data import DataLoader

            assert multiprocessing.get_start_method() == self.start_method
            assert len(list(DataLoader(range(4), num_workers=1))) == 4
        yield from super().train(run, first)


@dataclass(frozen=True)
class Failing(OpenFake):
    """Its task does not work."""

    def train(self, run, first):
        raise TaskError("the task's model could not be built")
        yield


@dataclass(frozen=True)
class OnGpus(OpenFake):
    """Notes which GPUs its process was given, in a file named by the process."""

    folder: Path

    def __call__(self, devices):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        (self.folder / str(os.getpid())).write_text(f"{seen} {','.join(devices.gpus or ())}")
        return super().__call__(devices)
