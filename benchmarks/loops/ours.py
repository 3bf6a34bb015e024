"""Our own loop: one lane, several lanes of one process on a GPU, several processes on a CPU."""

import gc
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch

from lrtune.core.recipe import default_recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import Precision
from lrtune.training.native.loop import NativeTraining

from .cases import Workload, learning_rates
from .processes import LoopProcess
from .reference import synchronize
from .runs import train

FOR_EVER = 100_000
"""Epochs of a run that is asked for epochs as long as the benchmark goes on."""


class Lanes:
    """Runs side by side in this process.

    Each is iterated by a thread of its own; with one lane, by this one.
    """

    def __init__(
        self, workload: Workload, *, num_lanes: int = 1, averaged: bool = False,
        precision: Precision = "auto", threads: int = 0,
    ):  # fmt: skip
        self.workload, self.num_lanes = workload, num_lanes
        self.settings = workload.settings(averaged=averaged, precision=precision, threads=threads)
        self.device = torch.device(workload.device)
        self.task = workload.task()
        # A thread for each run, which starts it and goes on with it: streams belong to threads.
        self.threads = [ThreadPoolExecutor(1) for _ in range(num_lanes)] if num_lanes > 1 else []
        self.runs: list[Generator[Measurement]] = []
        self.training: NativeTraining | None = None

    def epoch(self) -> float:
        """Images a second of one epoch of training in every lane."""
        if not self.runs:
            self.training = self._training()
            self.runs = [train(self.training, run) for run in _runs(self.num_lanes, FOR_EVER)]
            self._check_that_lanes_are_captured()
        if self.threads:
            futures = [
                thread.submit(next, run)
                for thread, run in zip(self.threads, self.runs, strict=True)
            ]
            measurements = [future.result() for future in futures]
        else:
            measurements = [next(self.runs[0])]
        return side_by_side([_finite(m).examples_per_s for m in measurements])

    def _check_that_lanes_are_captured(self) -> None:
        """By the first of several, alone: an eager one would keep the others waiting for ever."""
        if self.threads:
            self.threads[0].submit(next, self.runs[0]).result()
            if why := self.why_eager():
                raise RuntimeError(f"{self.num_lanes} lanes have to be captured: {why}")

    def trials(self, num_trials: int, epochs: int) -> float:
        """Seconds that whole trials take, a lane freed by one taking the next.

        The lanes are made anew each time.
        """
        self._forget_runs()
        runs = _runs(num_trials, epochs)
        synchronize(self.device)
        start = time.perf_counter()
        training = self._training()
        if self.threads:
            with ThreadPoolExecutor(self.num_lanes) as pool:
                ends = list(pool.map(partial(_last, training), runs))
        else:
            ends = [_last(training, run) for run in runs]
        synchronize(self.device)
        seconds = time.perf_counter() - start
        for end in ends:
            _finite(end)
        return seconds

    def why_eager(self) -> str:
        """Why the epochs so far were no CUDA graphs; empty where they were."""
        if self.training is None:
            return ""
        return self.training.pool.why_eager(_runs(1, 1)[0].recipe)

    def close(self) -> None:
        """Ends the threads."""
        self._forget_runs()
        for thread in self.threads:
            thread.shutdown()

    def _training(self) -> NativeTraining:
        return NativeTraining(self.task, self.settings)

    def _forget_runs(self) -> None:
        if self.threads and self.runs:
            for thread, run in zip(self.threads, self.runs, strict=True):
                thread.submit(run.close).result()
        self.runs, self.training = [], None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Jobs:
    """Processes side by side, one thread each, as a search on a CPU has them."""

    def __init__(
        self,
        workload: Workload,
        *,
        num_jobs: int,
        averaged: bool = False,
        precision: Precision = "auto",
    ):
        self.workload = workload
        make = partial(Lanes, workload, averaged=averaged, precision=precision, threads=1)
        self.jobs = [LoopProcess(make) for _ in range(num_jobs)]
        for job in self.jobs:
            job.ready()

    def epoch(self) -> float:
        """Images a second of one epoch of training in every process."""
        for job in self.jobs:
            job.send("epoch")
        return side_by_side([job.answer() for job in self.jobs])

    def trials(self, num_trials: int, epochs: int) -> float:
        """Seconds that whole trials take.

        Each process gets its share of them beforehand, as all take as long.
        """
        start = time.perf_counter()
        for index, job in enumerate(self.jobs):
            job.send("trials", len(range(index, num_trials, len(self.jobs))), epochs)
        for job in self.jobs:
            job.answer()
        return time.perf_counter() - start

    def close(self) -> None:
        """Ends the processes."""
        for job in self.jobs:
            job.close()


def side_by_side(images_per_s: list[float]) -> float:
    """Of epochs that begin together: all images, in the seconds of the slowest."""
    return len(images_per_s) * min(images_per_s)


def _runs(number: int, epochs: int) -> list[Run]:
    recipe = default_recipe("sgd")
    return [
        Run(
            id=f"benchmark-{index}", kind="full", trial=index, recipe=replace(recipe, peak_lr=lr),
            recipe_epochs=epochs, horizon_epochs=epochs, stop_epochs=epochs, seed=0,
        )
        for index, lr in enumerate(learning_rates(number))
    ]  # fmt: skip


def _last(training: NativeTraining, run: Run) -> Measurement:
    return list(train(training, run))[-1]


def _finite(measurement: Measurement) -> Measurement:
    """A run that diverged has trained less than the others."""
    if measurement.diverged:
        raise RuntimeError("a run diverged")
    return measurement
