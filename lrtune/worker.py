"""A process that trains for others: the task as it gets there, its training, and what identifies a run there.

The processes of a cluster import this module, and so it imports neither the sampler nor the
database nor the report.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lrtune.core.recipe import OptimizerName, Recipe, default_recipe
from lrtune.core.run import Assignment, Measurement, Run
from lrtune.core.study import RangeResult, StudyConfig, TrainSettings
from lrtune.store.checkpoints import Checkpoints
from lrtune.store.remote import shared_checkpoints
from lrtune.training.environment import describe_environment, reset_process, shaping_environment
from lrtune.training.learner import State
from lrtune.training.loop import Trainer, state_from_bytes, state_to_bytes
from lrtune.training.range_test import task_range_test
from lrtune.tuning import reuse

if TYPE_CHECKING:
    from lrtune.tuning.trainable import Training

Environment = Mapping[str, str]


@dataclass(frozen=True)
class SharedTask:
    """A task in the object store of a cluster, and how it is trained."""

    task: Any
    """Reference to it; kept inside a dataclass, so that Ray does not fetch it early."""
    settings: TrainSettings
    folder: str
    """That the task's paths are relative to, where it is there."""
    checkpoints: str
    """Folder or URL that all nodes share."""

    def trainer(self) -> Trainer:
        """Opens the task in this process."""
        from lrtune.tuning.cluster import fetch

        if self.folder and Path(self.folder).is_dir():
            os.chdir(self.folder)
        return Trainer(fetch(self.task), self.settings)


@dataclass(frozen=True)
class States:
    """States of training, in a store of checkpoints."""

    checkpoints: Checkpoints

    def load(self, key: str) -> State | None:
        """See `lrtune.tuning.reuse.States`."""
        content = self.checkpoints.load(key)
        return state_from_bytes(content) if content is not None else None

    def save(self, key: str, state: State, epochs: int) -> None:
        """See `lrtune.tuning.reuse.States`."""
        self.checkpoints.save(key, state_to_bytes(state), epochs)

    def drop(self, key: str) -> None:
        """See `lrtune.tuning.reuse.States`."""
        self.checkpoints.drop(key)


def ground_of(config: StudyConfig, run: Run, environment: Environment) -> str:
    """A run's key before its first step, in an environment that was described."""
    settings = replace(config.settings, data_on_device="auto")  # where they lie changes no number
    surroundings = {
        "task": config.task,
        "settings": settings,
        "environment": shaping_environment(environment),
    }
    return reuse.ground_of(run, surroundings)


def ground_here(config: StudyConfig, run: Run) -> str:
    """A run's key before its first step, in this process."""
    return ground_of(config, run, describe_environment(config.settings, run.recipe))


def environments(settings: TrainSettings) -> dict[str, Environment]:
    """Of each optimizer, in this process."""
    return {
        name: describe_environment(settings, default_recipe(name))
        for name in get_args(OptimizerName)
    }


def open_training(shared: SharedTask, config: StudyConfig) -> "Training":
    """The training in a worker process of a cluster."""
    trainer, states = shared.trainer(), States(shared_checkpoints(shared.checkpoints, config.name))

    def train(assignment: Assignment) -> Iterator[Measurement]:
        run = assignment.run
        reset_process(run.seed)
        known = {measurement.prefix: measurement for measurement in assignment.known}
        return reuse.train(run, ground_here(config, run), known, trainer, states)

    return train


def range_test(shared: SharedTask, recipe: Recipe, seeds: Sequence[int]) -> RangeResult:
    """A range test in a worker process of a cluster."""
    return task_range_test(shared.trainer(), recipe, seeds=seeds)


def shared_test_top1s(shared: SharedTask, keys: Sequence[str], study: str) -> dict[str, float]:
    """`test_top1s` in a worker process of a cluster."""
    return test_top1s(shared.trainer(), keys, shared_checkpoints(shared.checkpoints, study))


def test_top1s(trainer: Trainer, keys: Sequence[str], checkpoints: Checkpoints) -> dict[str, float]:
    """Top-1 on the test images, percent, of the states under `keys`, as far as they are there."""
    states = States(checkpoints)
    found = {key: states.load(key) for key in keys if trainer.task.test is not None}
    return {key: trainer.test_top1(state) for key, state in found.items() if state is not None}


def versions() -> dict[str, str]:
    """Of what must be the same wherever a study is trained."""
    return {package: version(package) for package in ("lrtune", "torch")}


def look_around(place: str, name: str) -> tuple[dict[str, str], bool]:
    """The versions here, and whether a checkpoint can be seen."""
    return versions(), shared_checkpoints(place, PROBES).load(name) is not None


PROBES = "probes"
"""Stands for a study, where only the place of checkpoints is looked at."""
