"""Pools of configurations whose trainings are on record.

So a search among them costs no training.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lrtune.core.decays import Plateau
from lrtune.core.recipe import Recipe

Value = float | int | str
COLUMNS = ["top1", "averaged_top1", "val_loss"]
"""Of the bank's table, in the order of `Epoch`."""


class Epoch(NamedTuple):
    """One epoch of a run; nan from the epoch in which it diverged."""

    score: float
    """What is maximised: Top-1 in percent, or minus the validation loss."""
    averaged_score: float
    """The same by the averaged weights; nan where they were not recorded."""
    val_loss: float


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One dimension of a search space."""

    name: str
    kind: Literal["linear", "log", "ladder", "choice"]
    """A ladder has an order, a choice has none."""
    low: float = 0.0
    high: float = 1.0
    """Of linear and log."""
    choices: tuple[Any, ...] = ()
    """Of ladder and choice."""
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
        match self.kind:
            case "choice":
                return [float(choice == value) for choice in self.choices]
            case _ if value is None:
                return [0.0]
            case "ladder":
                return [self.choices.index(value) / max(1, len(self.choices) - 1)]
            case "log":
                return [math.log(value / self.low) / math.log(self.high / self.low)]
            case "linear":
                return [(value - self.low) / (self.high - self.low)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Configurations, the space that they fill, and the curves of their runs.

    The curves are those of seed 0, and all that a searcher sees.
    """

    name: str
    parameters: tuple[Parameter, ...]
    """One that another needs comes before it."""
    configurations: Sequence[Mapping[str, Value]]
    curves: Mapping[int, np.ndarray]
    """Horizon in epochs -> an array of configurations x epochs x fields of `Epoch`; a run of a
    shorter horizon is one of its own, with the whole schedule compressed."""
    repeats: bool
    """Whether the space is a grid, on which a sampler may ask for the same configuration again; it
    is trained again."""
    regret_of: Literal["incumbent", "best seen"]
    quality: np.ndarray
    """Of each configuration: the final score of its full run, the mean over all its seeds; nobody
    is shown it."""
    best: float
    """What a search without regret reaches."""
    unit: float = 1.0
    """What a regret is divided by."""
    fresh: Sequence[Sequence[float]] = ()
    """Of the bank: final scores of each configuration with the other seeds, as many as there are.
    """
    recipes: Sequence[Recipe] = ()
    """Of the bank: the configurations as recipes."""

    @property
    def horizon_epochs(self) -> int:
        """Of a full run."""
        return max(self.curves)

    def result(self, index: int, horizon_epochs: int, stop_epoch: int) -> list[Epoch]:
        """The first epochs of a run, up to `stop_epoch`, or the one in which it diverged."""
        epochs = [Epoch(*row) for row in self.curves[horizon_epochs][index, :stop_epoch].tolist()]
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


def bank_pools(table: Path, recipes: Sequence[Recipe]) -> Iterator[Pool]:
    """One pool for each optimizer.

    Recipes that were not trained at every horizon are left out, since the table can still grow.
    """
    runs = dict(_runs(table))
    horizons = sorted({horizon for _, _, horizon in runs})
    for optimizer in dict.fromkeys(recipe.optimizer for recipe in recipes):
        space = {
            number: recipe for number, recipe in enumerate(recipes) if recipe.optimizer == optimizer
        }
        numbers = [
            number for number in space if all((number, 0, horizon) in runs for horizon in horizons)
        ]
        if numbers:
            finals = [_finals(runs, number, max(horizons)) for number in numbers]
            quality = np.array([np.mean(by_seed) for by_seed in finals])
            yield Pool(
                name=optimizer, recipes=[recipes[number] for number in numbers],
                parameters=_grid([_values(recipe) for recipe in space.values()]),
                configurations=[_values(recipes[number]) for number in numbers], repeats=True,
                curves={h: np.array([runs[number, 0, h] for number in numbers]) for h in horizons},
                regret_of="incumbent", quality=quality, best=float(quality.max()),
                fresh=[by_seed[1:] for by_seed in finals],
            )  # fmt: skip


def recorded_pools(folder: Path) -> Iterator[Pool]:
    """One pool a file of LCBench's or TaskSet's curves; column 0 of both is the untrained net."""
    for path in sorted([*folder.glob("lcbench-*.npz"), *folder.glob("taskset-*.npz")]):
        file = np.load(path)
        loss = file["val_loss"][:, 1:].astype(float)
        loss[~np.isfinite(loss)] = np.nan
        best_seen = -np.nanmin(
            loss, axis=1, initial=np.inf
        )  # of a configuration; -inf where it diverged at once
        names, columns = file["names"].tolist(), file["X"].astype(float)
        yield Pool(
            name=path.stem, parameters=tuple(map(_continuous, names, columns.T)),
            configurations=[dict(zip(names, row, strict=True)) for row in columns.tolist()],
            curves={loss.shape[1]: np.stack([-loss, np.full_like(loss, np.nan), loss], axis=-1)},
            repeats=False, regret_of="best seen",
            quality=np.nan_to_num(-loss[:, -1], nan=-np.inf),
            best=float(best_seen.max()), unit=float(best_seen.max() - np.median(best_seen)),
        )  # fmt: skip


def _runs(table: Path) -> Iterator[tuple[tuple[int, int, int], np.ndarray]]:
    """(recipe, seed, horizon) -> epochs x fields of `Epoch`, of the runs that have ended."""
    for (number, seed, horizon), run in pd.read_csv(table).groupby(["recipe", "seed", "horizon"]):
        curve = np.full((horizon, len(COLUMNS)), np.nan)
        curve[: len(run)] = run[COLUMNS]
        curve[~np.isfinite(curve[:, 2])] = np.nan
        if len(run) == horizon or np.isnan(curve[len(run) - 1, 0]):
            yield (number, seed, horizon), curve


def _finals(
    runs: Mapping[tuple[int, int, int], np.ndarray], number: int, horizon: int
) -> list[float]:
    """The final Top-1 by seed; of a run that diverged it is 0."""
    curves = sorted(
        (seed, curve[-1, 0]) for (n, seed, h), curve in runs.items() if (n, h) == (number, horizon)
    )
    return [float(np.nan_to_num(top1)) for _, top1 in curves]


def _values(recipe: Recipe) -> dict[str, Value]:
    patience = (
        {"patience_epochs": recipe.decay.patience_epochs}
        if isinstance(recipe.decay, Plateau)
        else {}
    )
    return {
        "peak_lr": recipe.peak_lr,
        "warmup_epochs": recipe.warmup_epochs,
        "decay": recipe.decay.name,
        **patience,
    }


def _grid(space: Sequence[Mapping[str, Value]]) -> tuple[Parameter, ...]:
    def choices(name: str) -> tuple[Any, ...]:
        return tuple(sorted({values[name] for values in space if name in values}))

    return (
        Parameter(name="peak_lr", kind="ladder", choices=choices("peak_lr")),
        Parameter(name="warmup_epochs", kind="ladder", choices=choices("warmup_epochs")),
        Parameter(name="decay", kind="choice", choices=choices("decay")),
        Parameter(
            name="patience_epochs",
            kind="ladder",
            choices=choices("patience_epochs"),
            needs=("decay", "plateau"),
        ),
    )


def _continuous(name: str, column: np.ndarray) -> Parameter:
    """A parameter over the range of `column`, on a linear or a log scale.

    It is the scale on which the column's median lies nearer the middle. On the other scale,
    random draws would meet rare configurations more often than those who recorded them did.
    """
    linear = Parameter(name=name, kind="linear", low=float(column.min()), high=float(column.max()))
    scales = [linear, replace(linear, kind="log")] if linear.low > 0 else [linear]
    return min(scales, key=lambda scale: abs(scale.position(float(np.median(column)))[0] - 0.5))
