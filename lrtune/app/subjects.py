"""What a study trains: a task, by lrtune's own loop, or a command that is steered from outside."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lrtune.app.arguments import open_task, threads_of, with_settings
from lrtune.app.engines import open_native
from lrtune.core.engines import EngineOptions
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.sources import CommandLine, TaskSource
from lrtune.core.study import TrainSettings
from lrtune.core.training import OpenTraining
from lrtune.training.command.opening import OpenCommand
from lrtune.training.command.recording import Recorded, Recorder
from lrtune.training.task import Task, describe_source

RUNS = "runs"
"""Folder of the runs of commands, in the home of the studies."""


class Subject(Protocol):
    """What a study trains, with what is known of it before the study begins."""

    @property
    def name(self) -> str:
        """Short name, for the names of studies."""

    @property
    def source(self) -> TaskSource:
        """Where it comes from."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What tells it from others, as plain values."""

    @property
    def epochs(self) -> int:
        """Horizon of a run, unless another one is asked for."""

    @property
    def baseline(self) -> Recipe:
        """What its user has today."""

    @property
    def objective(self) -> Objective:
        """The metric that decides."""

    @property
    def settings(self) -> TrainSettings:
        """How its runs are trained."""

    def open(
        self, options: EngineOptions, settings: TrainSettings, study: str = ""
    ) -> OpenTraining:
        """Returns what opens its training, for a study of this name."""


@dataclass(frozen=True, kw_only=True)
class TaskSubject:
    """A task, by lrtune's own loop."""

    task: Task
    source: TaskSource

    @property
    def name(self) -> str:
        """See `Subject`."""
        return self.task.name

    @property
    def description(self) -> Mapping[str, Any]:
        """See `Subject`."""
        return describe_source(self.source)

    @property
    def epochs(self) -> int:
        """See `Subject`."""
        return self.task.epochs

    @property
    def baseline(self) -> Recipe:
        """See `Subject`."""
        return self.task.baseline

    @property
    def objective(self) -> Objective:
        """See `Subject`."""
        return self.task.decides

    @property
    def settings(self) -> TrainSettings:
        """See `Subject`."""
        return self.task.settings

    def open(
        self, options: EngineOptions, settings: TrainSettings, study: str = ""
    ) -> OpenTraining:
        """See `Subject`."""
        return open_native(options, self.task, self.source, settings)
