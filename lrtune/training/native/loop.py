"""The training loop: it yields one measurement an epoch and knows nothing of searching.

A run is a function of task, settings, recipe, LRs and seed alone. Initial weights come from the
seed; data order, augmentation and dropout of an epoch come from (seed, epoch), so that a run
resumed after epoch k needs no random state to go on as if never stopped.
"""

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from lrtune.core.errors import InputError
from lrtune.core.objective import Metrics, averaged
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import RangeCurve, TrainSettings
from lrtune.core.training import (
    ABILITIES,
    Ability,
    Environment,
    Facts,
    Multiplier,
    Save,
    Start,
    State,
)
from lrtune.decide.sweep import sweep_lrs
from lrtune.training.native.data.loaders import StreamBatches
from lrtune.training.native.devices import (
    describe_environment,
    peak_gpu_memory_mib,
    peak_memory_mib,
    shaping_environment,
)
from lrtune.training.native.lanes.calibration import calibrate_lanes
from lrtune.training.native.lanes.eager import Lane
from lrtune.training.native.lanes.pool import LanePool
from lrtune.training.native.prepared import PreparedTask
from lrtune.training.native.randomness import preserved_random_states
from lrtune.training.native.range_test import sweep
from lrtune.training.task import Task


class NativeTraining:
    """Trains a task by our own loop: a `lrtune.core.training.Training`."""

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        *,
        description: Mapping[str, Any] | None = None,
    ):
        """Makes the task ready on its device.

        Args:
            task: what to train.
            settings: how.
            description: what tells the task from others.

        Raises:
            InputError: a device or precision that does not exist, or a task that cannot be trained
                so.
        """
        self.task = PreparedTask(task, settings)
        self.pool = LanePool(self.task)
        self._description = description or {}

    @cached_property
    def facts(self) -> Facts:
        """What it states: see `Facts`.

        Raises:
            TaskError: the first batch, or what the model makes of it, cannot be trained on.
        """
        task = self.task.task
        lacking: set[Ability] = set() if task.test is not None else {"test"}
        batches = self.task.batches
        if isinstance(batches, StreamBatches) and not batches.can_be_positioned:
            lacking.add("resume")
        return Facts(
            steps_per_epoch=self.task.steps_per_epoch,
            epochs=task.epochs,
            metrics=task.measured,
            objective=self.task.objective,
            abilities=ABILITIES - lacking,
            num_validation=self.task.validation.num_examples,
            data_facts=task.data_facts,
            groups=self.task.groups,
            device=f"{self.task.device}, {self.task.arithmetic.name}",
        )

    def environment(self, recipe: Recipe) -> Environment:
        """See `Training`."""
        return describe_environment(self.task.settings, recipe)

    def identity(self, recipe: Recipe) -> Mapping[str, Any]:
        """See `Training`. Where the data lie changes no number."""
        return {
            "task": dict(self._description),
            "settings": asdict(replace(self.task.settings, data_on_device="auto")),
            "environment": dict(shaping_environment(self.environment(recipe))),
        }

    def lanes(self, recipe: Recipe, wanted: str | int) -> tuple[int, str]:
        """See `Training`: several lanes need CUDA graphs."""
        if wanted != "auto":
            if int(wanted) > 1 and (reason := self.pool.why_eager(recipe)):
                raise InputError(
                    f"`lanes` above 1 need trials that CUDA graphs can hold, but got {wanted}, and "
                    f"{reason}."
                )
            return int(wanted), ""
        num_lanes = calibrate_lanes(self.pool, recipe)
        if self.task.device.type != "cuda":
            return num_lanes, ""
        if reason := self.pool.why_eager(recipe):
            return num_lanes, f"training eagerly, one trial at a time: {reason}"
        return num_lanes, f"lanes: {num_lanes}"

    def train(
        self,
        run: Run,
        multiplier: Multiplier,
        *,
        start: Start = Start(),  # noqa: B008  # frozen
        save: Save | None = None,
    ) -> Iterator[Measurement]:
        """See `Training`."""
        epoch, step = start.epochs, start.steps
        with self.pool.lane(run.recipe, run.seed, start.state) as lane:
            while epoch < run.stop_epochs:
                measurement = self._epoch(run, epoch, step, lane, multiplier)
                if save is not None:
                    save(measurement, lane.learner.state())
                yield measurement
                if measurement.diverged:
                    return
                epoch, step = measurement.epoch, measurement.step

    def _epoch(
        self, run: Run, epoch: int, step: int, lane: Lane, multiplier: Multiplier
    ) -> Measurement:
        """Trains and measures one epoch, counted from 0, that begins with optimizer step `step`."""
        begun = time.perf_counter()
        multipliers = [multiplier(step + index) for index in range(self.task.steps_per_epoch)]
        with self.task.guard(f"the task failed in training (epoch {epoch + 1})"):
            lane.begin_epoch(run.seed, epoch)
            taken = lane.steps(multipliers)
        metrics: dict[str, float] = {
            "train_loss": statistics.fmean(taken.losses),
            "val_loss": math.nan,
        }
        trained = time.perf_counter() - begun
        if math.isfinite(metrics["train_loss"]):
            with self.task.guard(f"the task failed in validation (epoch {epoch + 1})"):
                metrics |= lane.evaluate(averaged=False)
                if lane.learner.averaged is not None:
                    of_average = lane.evaluate(averaged=True)
                    metrics |= {averaged(name): value for name, value in of_average.items()}
        lrs = [run.recipe.peak_lr * value for value in multipliers[: taken.num_steps]]
        return Measurement(
            epoch=epoch + 1,
            step=step + taken.num_steps,
            lr_first=lrs[0] if lrs else math.nan,
            lr_last=lrs[-1] if lrs else math.nan,
            metrics=metrics,
            seconds=time.perf_counter() - begun,
            examples_per_s=self.task.batches.num_examples / trained,
            ended_at=time.time(),
            memory_mib=peak_memory_mib(),
            gpu_memory_mib=peak_gpu_memory_mib(self.task.device),
        )

    def sweep(
        self,
        recipe: Recipe,
        *,
        seed: int,
        low: float | None = None,
        high: float | None = None,
        num_steps: int | None = None,
    ) -> RangeCurve:
        """See `Training`. The caller's random states are as before when it returns or raises."""
        lrs = sweep_lrs(recipe.optimizer, low, high, num_steps)
        with (
            preserved_random_states(),
            self.task.guard("the task failed in the range test"),
            self.pool.lane(recipe, seed) as lane,
        ):
            return sweep(lane, lrs, recipe.peak_lr, seed=seed)

    def test(self, state: State) -> Metrics:
        """See `Training`.

        Raises:
            TaskError: the task's model or test data failed.
            TrialError: out of memory.
        """
        test = self.task.task.test
        assert test is not None
        model = self.task.build_model(0)
        with self.task.guard("the task's test data could not be evaluated"):
            model.load_state_dict(state["model"])
            return self.task.evaluation(model, self.task.evaluation_batches(test))
