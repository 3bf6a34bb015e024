"""A command as a training: each run is one start of it, with its learning rate set from outside."""

from __future__ import annotations

import math
import os
import platform
import shutil
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.decays import Own
from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe, scaled_groups
from lrtune.core.run import Measurement, Run
from lrtune.core.sources import CommandLine
from lrtune.core.study import RangeCurve
from lrtune.core.training import (
    Ability,
    Environment,
    Facts,
    Multiplier,
    Save,
    Start,
    State,
)
from lrtune.training.command.recording import Recorded

if TYPE_CHECKING:
    from lrtune.training.command.opening import OpenCommand

POLL_S = 0.1
DIVERGED = 3.0
"""A sweep ends at a loss that is this many times the median of the first ones."""
NUM_FIRST = 5


class CommandTraining:
    """Trains by starting a command; see `lrtune.core.training.Training`."""

    def __init__(self, opened: OpenCommand):
        self._opened = opened
        self._command, self._recorded = opened.command, opened.recorded

    @property
    def facts(self) -> Facts:
        """See `Training`."""
        recorded = self._recorded
        abilities: set[Ability] = {"sweep"}
        if self._command.seed_offset == "on":
            abilities.add("repeat")
        return Facts(
            steps_per_epoch=recorded.steps_per_epoch,
            epochs=recorded.epochs,
            metrics=recorded.metrics,
            objective=self._opened.objective,
            abilities=frozenset(abilities),
            groups=recorded.groups,
            device=f"the command's own, {recorded.optimizer}",
        )

    def environment(self, recipe: Recipe) -> Environment:
        """See `Training`."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return {
            **self._recorded.versions,
            "Machine": f"{platform.machine()}, {cores} cores",
            "Optimizer": f"{self._recorded.optimizer}, the command's own",
        }

    def identity(self, recipe: Recipe) -> Mapping[str, Any]:
        """See `Training`."""
        return {
            "task": dict(self._opened.description),
            "own": isinstance(recipe.decay, Own),
            "environment": dict(self.environment(recipe)),
        }

    def lanes(self, recipe: Recipe, wanted: str | int) -> tuple[int, str]:
        """See `Training`: a process trains one run at a time."""
        if wanted != "auto" and int(wanted) > 1:
            raise InputError(
                f"`lanes` must be 1 for a command, but got {wanted}: use `jobs` to train several "
                "runs side by side."
            )
        return 1, ""

    def train(
        self, run: Run, multiplier: Multiplier, *, start: Start = Start(), save: Save | None = None
    ) -> Iterator[Measurement]:
        """See `Training`."""
        own = isinstance(run.recipe.decay, Own)
        if own and run.seed == self._recorded.seed and run.stop_epochs <= self._recorded.epochs:
            yield from self._recorded.measurements[: run.stop_epochs]
            return
        num_steps = run.horizon_epochs * self._recorded.steps_per_epoch
        lrs = None if own else [run.recipe.peak_lr * multiplier(step) for step in range(num_steps)]
        ...
