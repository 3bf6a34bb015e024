"""What the finders are judged on.

That is loss curves of LR sweeps, and the accuracy that each LR of a grid really trains to. A record
is one line of JSON in a compressed file. Recording goes on with whatever the file lacks.
"""

import gzip
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lrtune.core import optimizers
from lrtune.core.commands import Sweeps
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import Run
from lrtune.core.sources import NamedTask
from lrtune.core.study import TrainSettings
from lrtune.schedules.compress import schedule_of
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import load_task

OPTIMIZERS: tuple[str, ...] = ("sgd", "adamw", "lamb")
GRID_FACTOR, GRID_LRS = 2.0, 15


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task, and how long its real trainings are."""

    data: NamedTask
    batch_size: int
    epochs: int

    @property
    def settings(self) -> TrainSettings:
        """One thread, and no averaged weights: they are not asked for."""
        return TrainSettings(batch_size=self.batch_size, threads=1, ema_half_life_epochs=0.0)


CASES = {
    "digits, mlp": Case(
        data=NamedTask(data="digits", model="mlp", val_size=600), batch_size=64, epochs=20
    ),
    "fashion-mnist, small-cnn": Case(
        data=NamedTask(data="fashion-mnist", train_size=6000, val_size=4000, image_size=14),
        batch_size=128,
        epochs=8,
    ),
    "digits, small-cnn": Case(
        data=NamedTask(data="digits", val_size=600), batch_size=64, epochs=20
    ),
}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """LRs that a finder tries, a step at each, evenly in log LR."""

    low: float
    high: float
    num_steps: int

    @property
    def lrs(self) -> list[float]:
        """One a step, ascending."""
        return [float(lr) for lr in np.geomspace(self.low, self.high, self.num_steps)]


def sweeps(optimizer: str) -> dict[str, Sweep]:
    """Ours, and the defaults of fastai's `Learner.lr_find` and of Lightning's `Tuner`.

    torch-lr-finder's has the same end as fastai's.
    """
    low, high = optimizers.OPTIMIZERS[optimizer].swept
    return {
        "ours": Sweep(low=low, high=high, num_steps=Sweeps.num_steps),
        "fastai": Sweep(low=1e-7, high=10.0, num_steps=100),
        "lightning": Sweep(low=1e-8, high=1.0, num_steps=100),
    }


def grid(optimizer: str) -> list[float]:
    """From the highest LR of our sweep down by factors of two, over four decades."""
    _, high = optimizers.OPTIMIZERS[optimizer].swept
    return [high / GRID_FACTOR**k for k in range(GRID_LRS)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A sweep, or with `sweep=""` a training at `lr`."""

    case: str
    optimizer: str
    seed: int
    sweep: str = ""
    lr: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job gave."""

    values: tuple[float, ...]
    """The raw losses of a sweep, to its end or to the last finite one; or the final Top-1 of a
    training."""
    seconds: float
    num_steps: int
    """Optimizer steps."""


def jobs(
    cases: Iterable[str], finder_seeds: int, peer_seeds: int, grid_seeds: int
) -> Iterator[Job]:
    """Everything to record, the sweeps of a case before its grid.

    Peers' sweeps take the first of the finder seeds.
    """
    for case in cases:
        for optimizer in OPTIMIZERS:
            for sweep in sweeps(optimizer):
                for seed in range(finder_seeds if sweep == "ours" else peer_seeds):
                    yield Job(case=case, optimizer=optimizer, seed=1000 + seed, sweep=sweep)
        for seed in range(grid_seeds):
            for optimizer in OPTIMIZERS:
                yield from (
                    Job(case=case, optimizer=optimizer, seed=seed, lr=lr) for lr in grid(optimizer)
                )


def read(path: Path) -> dict[Job, Outcome]:
    """What a file holds; nothing where there is none."""
    if not path.exists():
        return {}
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return {
        Job(**row["job"]): Outcome(**row["outcome"] | {"values": tuple(row["outcome"]["values"])})
        for row in rows
    }


def record(path: Path, wanted: Iterable[Job]) -> dict[Job, Outcome]:
    """Does the jobs that the file lacks, and writes each at once.

    Returns:
        All that the file then holds.
    """
    done = read(path)
    missing = [job for job in wanted if job not in done]
    trainings: dict[str, NativeTraining] = {}
    for number, job in enumerate(missing, 1):
        if job.case not in trainings:
            case = CASES[job.case]
            trainings[job.case] = NativeTraining(load_task(case.data), case.settings)
        done[job] = do(job, trainings[job.case])
        with gzip.open(path, "at") as file:
            file.write(json.dumps({"job": asdict(job), "outcome": asdict(done[job])}) + "\n")
        print(
            f"\r{number} of {len(missing)} recorded",
            end="" if number < len(missing) else "\n",
            flush=True,
        )
    return done


def do(job: Job, training: NativeTraining) -> Outcome:
    """Sweeps or trains."""
    recipe = default_recipe(job.optimizer)
    start = time.perf_counter()
    if job.sweep:
        losses = sweep_to_the_end(training, recipe, sweeps(job.optimizer)[job.sweep].lrs, job.seed)
        values, num_steps = [float(f"{loss:.4g}") for loss in losses], len(losses)
    else:
        epochs = CASES[job.case].epochs
        run = Run(
            id="", kind="full", trial=0, recipe=replace(recipe, peak_lr=job.lr), seed=job.seed,
            recipe_epochs=epochs, horizon_epochs=epochs, stop_epochs=epochs,
        )  # fmt: skip
        *_, last = training.train(run, schedule_of(run, training.task.steps_per_epoch))
        chance = 100 / training.task.task.num_classes
        values = [chance if last.diverged else round(last.metrics["top1"], 3)]
        num_steps = last.step
    return Outcome(
        values=tuple(values), seconds=round(time.perf_counter() - start, 3), num_steps=num_steps
    )


def sweep_to_the_end(
    training: NativeTraining, recipe: Recipe, lrs: list[float], seed: int
) -> list[float]:
    """The raw loss at each LR as long as it is finite: where to stop is for each finder to say."""
    losses: list[float] = []
    steps_per_epoch = training.task.steps_per_epoch
    with training.pool.lane(recipe, seed) as lane:
        for epoch in range(math.ceil(len(lrs) / steps_per_epoch)):
            lane.begin_epoch(seed, epoch)
            wanted = lrs[len(losses) :][:steps_per_epoch]
            losses += lane.steps([lr / recipe.peak_lr for lr in wanted]).losses
    return losses[
        : next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    ]
