"""Opens our own loop in whatever process an engine trains in, and keeps its states."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lrtune.core.sources import TaskSource
from lrtune.core.study import TrainSettings
from lrtune.core.training import Devices, State, Training
from lrtune.training.native.checkpoints import state_from_bytes, state_to_bytes
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task, load_task


@dataclass(frozen=True, kw_only=True)
class OpenNative:
    """Opens the training of a task by our own loop; see `OpenTraining`."""

    source: TaskSource
    """Where other processes load the task from; a `Task` goes to them by value."""
    description: Mapping[str, Any]
    """What tells the task from others; see `describe_source`."""
    settings: TrainSettings
    task: Task | None = field(default=None, repr=False)
    """The task in the process that has loaded it; other processes load it again."""
    folder: str = ""
    """The folder that the task's paths are relative to, where a process starts elsewhere."""

    def __call__(self, devices: Devices) -> Training:
        """Puts the task's data in place, on the first GPU that this process sees."""
        if self.folder and Path(self.folder).is_dir():
            os.chdir(self.folder)
        task = self.task or load_task(self.source)
        return NativeTraining(task, self.settings, description=self.description)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"task": None}


class _Checkpoints(Protocol):
    def save(self, key: str, payload: bytes, epochs: int) -> None: ...
    def load(self, key: str) -> bytes | None: ...
    def drop(self, key: str) -> None: ...


@dataclass(frozen=True)
class NativeStates:
    """States of our own loop, in a store of checkpoints; see `States`."""

    checkpoints: _Checkpoints

    def load(self, key: str) -> State | None:
        """See `States`."""
        content = self.checkpoints.load(key)
        return state_from_bytes(content) if content is not None else None

    def save(self, key: str, state: State, epochs: int) -> None:
        """See `States`."""
        self.checkpoints.save(key, state_to_bytes(state), epochs)

    def drop(self, key: str) -> None:
        """See `States`."""
        self.checkpoints.drop(key)
