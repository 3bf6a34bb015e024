"""Training without training: Top-1 as a function of recipe and epoch, with a known optimum, and a study of it.

Workers in processes of their own import this by name, so what they open is defined here.
"""

import math
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from lrtune.core.errors import TaskError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, RunRecord
from lrtune.core.space import Interval
from lrtune.core.study import Budget, RangeResult, StudyConfig, StudyState
from lrtune.decide.plan import next_run
from lrtune.store.database import StudyDatabase
from lrtune.store.spaces import read_space
from lrtune.store.workers import this_worker
from lrtune.tuning.local import Workbench
from lrtune.tuning.sampler import ask

EPOCHS = 12
BEST_LR, BEST_TOP1, CHANCE = 0.3, 95.0, 10.0
BASELINE = Recipe(peak_lr=0.02)
INTERVAL = Interval(low=1e-3, high=3.0, suggestion=0.05)
LOST = {"cosine": 0.5, "linear": 0.0, "hold-power": 0.2, "wsd": 0.7, "constant": 6.0}
"""Points that a decay costs; the others cost 2."""


def final_top1(recipe):
    """A parabola in log LR about `BEST_LR`, and what decay and warmup cost; where the LR is wild or tiny, chance."""
    decades = math.log10(recipe.peak_lr / BEST_LR)
    if recipe.peak_lr < 2e-3:
        return CHANCE
    lost = 12 * decades**2 + LOST.get(recipe.decay.name, 2.0) + 0.8 * abs(recipe.warmup_epochs - 1)
    return BEST_TOP1 - lost


def measurement(run, epoch):
    """A line to the final Top-1, a little different for each seed; an LR above 2.5 diverges in epoch 3.

    A compressed run comes as far as a full one, so its ranking is right. The averaged weights are
    nearer to the end.
    """
    reached = CHANCE + (final_top1(run.recipe) - CHANCE) * epoch / run.horizon_epochs
    reached += 0.1 * math.sin(run.seed + epoch)
    loss = math.nan if run.recipe.peak_lr > 2.5 and epoch == 3 else 3 - reached / 50
    return Measurement(
        epoch=epoch, step=10 * epoch, lr_first=run.recipe.peak_lr, lr_last=run.recipe.peak_lr, train_loss=loss,
        val_loss=loss, top1=reached, averaged_val_loss=loss, averaged_top1=(reached + final_top1(run.recipe)) / 2,
        seconds=1.0, images_per_s=100.0,
        ended_at=1e9 + 1000 * run.trial + 100 * run.seed + epoch,
    )  # fmt: skip


def train(run, study):
    """From the first epoch on, as an engine wants it: it knows itself which ones are recorded."""
    for epoch in range(1, run.stop_epochs + 1):
        yield measurement(run, epoch)


def make_config(**changes):
    """A study of the fake objective, over a space that comes with lrtune."""
    space = changes.pop("space", "default")
    values = {
        "name": "fake", "task": {"data": "digits"}, "space_name": space, "space_toml": read_space(space)[1],
        "epochs": EPOCHS, "steps_per_epoch": 10, "num_validation": 1000, "num_classes": 10, "baseline": BASELINE,
        "budget": Budget(10, "trials"), "num_seeds": 2, "num_confirmed": 2,
    }  # fmt: skip
    return StudyConfig(**values | changes)


def range_results():
    return (RangeResult(optimizer="sgd", curves=(), interval=INTERVAL, rule="made up"),)


def make_state(**changes):
    """A study in which nothing was trained yet."""
    return StudyState(config=make_config(**changes), range_results=range_results())


def completed(run):
    measured = tuple(measurement(run, epoch) for epoch in range(1, run.stop_epochs + 1))
    return RunRecord(run=run, state="completed", measurements=measured)


def grow(state, num_trials):
    """`state` after the baseline and `num_trials` more trials, each trained to its end, as one process records them."""
    state = replace(state, config=replace(state.config, budget=Budget(10_000, "trials")))
    wanted = len(state.of_kind("full")) + num_trials
    while len(state.of_kind("full")) < wanted:
        state = replace(state, records=(*state.records, completed(next_run(state, ask))))
    return state


def open_store(url, config):
    """The study in a real database, begun where it is not there."""
    database = StudyDatabase(url)
    if database.config(config.name) is None:
        database.create(config)
        database.study(config.name).record_ranges(range_results())
    return database.study(config.name)


def make_bench(store, *, train=train, emit=lambda event: None):
    return Workbench(store=store, worker=this_worker(), train=train, ask=ask, emit=emit)


@dataclass(frozen=True)
class Worker:
    """Opens a workbench on the study `fake` in the process that calls it."""

    url: str

    def __call__(self, emit):
        return make_bench(StudyDatabase(self.url).study("fake"), train=self.train, emit=emit)

    def train(self, run, study):
        yield from train(run, study)


@dataclass(frozen=True)
class KilledWorker(Worker):
    """A worker that is killed in the third epoch of a run: once, if there is a file to remember it by."""

    run_id: str
    memory: Path | None

    def train(self, run, study):
        for measured in super().train(run, study):
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
class StuckWorker(Worker):
    """A worker that says who it is, in a file named by its process, and then trains for ever."""

    folder: Path

    def train(self, run, study):
        (self.folder / str(os.getpid())).touch()
        while True:
            time.sleep(1)
        yield


@dataclass(frozen=True)
class LoadingWorker(Worker):
    """A worker whose task reads its batches in processes of their own, started as in the process that asked."""

    start_method: str

    def train(self, run, study):
        if run.kind == "baseline":
            from torch.utils.data import DataLoader

            assert multiprocessing.get_start_method() == self.start_method
            assert len(list(DataLoader(range(4), num_workers=1))) == 4
        yield from super().train(run, study)


@dataclass(frozen=True)
class FailingWorker(Worker):
    """A worker whose task does not work."""

    def train(self, run, study):
        raise TaskError("the task's model could not be built")
        yield
