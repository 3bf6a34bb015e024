"""Pools of configurations whose trainings are on record.

So a search among them costs no training.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from lrtune.core.recipe import Recipe

Value = float | int | str


class Epoch(NamedTuple):
    """One epoch of a run; nan from the epoch in which it diverged."""

    score: float
    """What is maximised: Top-1 in percent."""
    val_loss: float


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One dimension of a search space."""

    name: str
    kind: Literal["ladder", "choice"]
    """A ladder has an order, a choice has none."""
    choices: tuple[Any, ...]
    needs: tuple[str, str] | None = None
    """It exists only where this other parameter has this value."""

    def exists(self, values: Mapping[str, Value]) -> bool:
        """Whether a configuration with `values` has it."""
        return self.needs is None or values.get(self.needs[0]) == self.needs[1]

    def position(self, value: Any) -> list[float]:
        """Where `value` lies, from 0 to 1.

        `None` stands for a parameter that does not exist. Unordered choices are the corners of a
        cube.
        """
        if self.kind == "choice":
            return [float(choice == value) for choice in self.choices]
        if value is None:
            return [0.0]
        return [self.choices.index(value) / max(1, len(self.choices) - 1)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Configurations, the space that they fill, and the runs that a search may see."""

    name: str
    parameters: tuple[Parameter, ...]
    """One that another needs comes before it."""
    configurations: Sequence[Mapping[str, Value]]
    curves: Mapping[int, Sequence[Sequence[np.ndarray]]]
    """Horizon in epochs -> of each configuration its runs, one a seed, each an array of epochs x
    fields of `Epoch`; a run of a shorter horizon is one of its own, with the whole schedule
    compressed."""
    quality: np.ndarray
    """Of each configuration: the true final score of its full run. No search is shown it, and it
    does not come from a run that one is shown."""
    best: float
    """What a search without regret reaches."""
    recipes: Sequence[Recipe] = ()
    """The configurations as recipes."""
    max_rounds: int = 8
    """Full runs of a configuration that are worth seeing: more would be the same again."""

    @property
    def horizon_epochs(self) -> int:
        """Of a full run."""
        return max(self.curves)

    def result(
        self, index: int, horizon_epochs: int, stop_epoch: int, *, seed: int = 0
    ) -> list[Epoch]:
        """The first epochs of a run, up to `stop_epoch`, or the one in which it diverged.

        Args:
            index: of the configuration.
            horizon_epochs: of the run.
            stop_epoch: the last epoch that is wanted.
            seed: which of the recorded runs, from 0. Where there are not so many, it is one of
                those that there are.
        """
        runs = self.curves[horizon_epochs][index]
        epochs = [Epoch(*row) for row in runs[seed % len(runs)][:stop_epoch].tolist()]
        diverged = [i for i, epoch in enumerate(epochs) if math.isnan(epoch.score)]
        return epochs[: diverged[0] + 1] if diverged else epochs

    def nearest(self, values: Mapping[str, Value], *, but: Iterable[int] = ()) -> int:
        """The configuration nearest to `values`, but none of those in `but`.

        Each parameter has the same weight in the distance.
        """
        distances = ((self._positions - self._position(values)) ** 2).sum(axis=1)
        distances[list(but)] = np.inf
        return int(distances.argmin())

    @cached_property
    def _positions(self) -> np.ndarray:
        return np.array([self._position(values) for values in self.configurations])

    def _position(self, values: Mapping[str, Value]) -> list[float]:
        return [
            x
            for parameter in self.parameters
            for x in parameter.position(values.get(parameter.name))
        ]
