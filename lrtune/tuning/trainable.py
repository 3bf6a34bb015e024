"""What a worker process of a cluster does for Ray Tune.

It is imported there, and so imports little itself.
"""

import faulthandler
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import ray
from ray import tune

from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Assignment
from lrtune.core.training import Devices, Environment, Facts, OpenTraining, States, Training
from lrtune.tuning import reuse

Result = TypeVar("Result")


@dataclass(frozen=True)
class SharedTraining:
    """Opens a training whose `OpenTraining` lies in the object store of a cluster."""

    reference: Any
    """Kept inside a dataclass, so that Ray does not fetch it early."""

    def __call__(self, devices: Devices) -> Training:
        """Opens the training in this process; arrays that it was shared with are read-only."""
        training: Training = ray.get(self.reference)(devices)
        return training


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What a training says of itself in a worker process."""

    facts: Facts
    environments: Mapping[str, Environment]
    identities: Mapping[str, Mapping[str, Any]]


def statements(training: Training) -> Statements:
    """What a training says of itself, for every optimizer that it can train with."""
    recipes = {name: Recipe(optimizer=name) for name in training.facts.optimizers}
    return Statements(
        facts=training.facts,
        environments={name: training.environment(recipe) for name, recipe in recipes.items()},
        identities={name: training.identity(recipe) for name, recipe in recipes.items()},
    )


def with_training(open_training: OpenTraining, ask: Callable[[Training], Result]) -> Result:
    """Opens the training in a worker process, and asks it something."""
    return ask(open_training(Devices()))


def versions() -> dict[str, str]:
    """The versions that must be the same wherever a study is trained."""
    return {package: version(package) for package in ("lrtune", "torch")}


def look_around(states: States, key: str) -> tuple[dict[str, str], bool]:
    """The versions on this node, and whether it sees a state that was saved elsewhere."""
    return versions(), states.load(key) is not None


class RunTrainable(tune.Trainable):  # type: ignore[misc]
    """One run after the other in a worker process; a step is an epoch."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        open_training: OpenTraining,
        states: States | None,
        timeout_s: float,
    ) -> None:
        """Opens the training, and begins the first run."""
        self._timeout_s = timeout_s
        with self._watched():
            self._training = open_training(Devices())
        self._states = states
        self._begin(config["assignment"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leaves one run, and begins another in the same process."""
        self.cleanup()
        self._begin(new_config["assignment"])
        return True

    def step(self) -> dict[str, Any]:
        """Trains an epoch, and says what it gave or why there is none."""
        with self._watched():
            try:
                for measurement in self._measurements:
                    if measurement.epoch > self._num_recorded:
                        return {"measurement": measurement}
            except (TrialError, TaskError, InputError) as error:
                return {"failure": error}
        return {"failure": TrialError("the training ended before its last epoch")}

    def cleanup(self) -> None:
        """Leaves the run, in the middle where it has not ended."""
        self._measurements.close()

    def _begin(self, assignment: Assignment) -> None:
        self._num_recorded = assignment.num_recorded
        self._measurements = reuse.train(assignment, self._training, self._states)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Ends the process where this takes too long, whatever it hangs in.

        Python's own watchdog needs no lock.
        """
        if self._timeout_s:
            faulthandler.dump_traceback_later(
                self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr
            )
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
