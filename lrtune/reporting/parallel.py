"""All trials at once, in parallel coordinates: an axis a parameter that was varied, and a line a trial."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lrtune.core.recipe import DECAYS, Recipe
from lrtune.core.study import StudyState
from lrtune.decide.trials import Trial, best_first, trials_of
from lrtune.reporting import wording

LOG_FROM = 10.0
"""Positive values whose largest is so many times the smallest lie on a logarithmic axis."""
ZERO = 0.1
"""What a logarithmic axis keeps free on its left for a zero, as a share of its length."""

VALUES: dict[str, Callable[[Recipe], float | str]] = {
    "optimizer": lambda recipe: recipe.optimizer,
    "peak LR": lambda recipe: recipe.peak_lr,
    "warmup, epochs": lambda recipe: recipe.warmup_epochs,
    "decay": lambda recipe: recipe.decay.name,
    "floor, of peak": lambda recipe: recipe.final_frac,
    "momentum": lambda recipe: recipe.momentum,
    "weight decay": lambda recipe: recipe.weight_decay,
}


class Axis(NamedTuple):
    """One parameter."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    """Position, 0 to 1, and what is there."""


class Line(NamedTuple):
    """One trial."""

    name: str
    said: str
    """Its recipe, and how far it came."""
    decay: str
    positions: tuple[float, ...]
    """One an axis, 0 to 1."""
    place: int
    """From 1; 0 for one that was stopped."""


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """What was tried.

    The last axis is the place, the best on its right end; what was stopped lies left of all.
    """

    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]
    """In the order of their numbers."""


def parallel_of(state: StudyState) -> Parallel | None:
    """The trials whose latest run has ended; `None` for less than three that have a place, or where nothing was varied.

    Places are those of the search: who came further comes first, since scores of different rungs
    are not comparable.
    """
    trials = [trial for trial in trials_of(state) if trial.scores]
    ranked = best_first(trials)
    if len(ranked) < 3:
        return None
    places = {trial.number: place for place, trial in enumerate(ranked, start=1)}
    axes, columns = [], []
    for label, value in VALUES.items():
        found = axis_of(label, [value(trial.recipe) for trial in trials])
        if found is not None:
            axes.append(found[0])
            columns.append(found[1])
    if not axes:
        return None
    axes.append(_place_axis(len(ranked), len(ranked) < len(trials)))
    columns.append([_place_position(places.get(trial.number), len(ranked)) for trial in trials])
    lines = zip(trials, zip(*columns, strict=True), strict=True)
    return Parallel(
        axes=tuple(axes),
        lines=tuple(
            _line(trial, tuple(positions), places.get(trial.number, 0))
            for trial, positions in lines
        ),
    )


def axis_of(label: str, values: Sequence[float | str]) -> tuple[Axis, list[float]] | None:
    """An axis, and where the values are on it; `None` where they are all the same."""
    if len(set(values)) < 2:
        return None
    if isinstance(values[0], str):
        known = [
            name
            for name in (*DECAYS, *sorted(set(map(str, values)) - set(DECAYS)))
            if name in values
        ]
        where = {name: i / (len(known) - 1) for i, name in enumerate(known)}
        return Axis(label, tuple((at, name) for name, at in where.items())), [
            where[str(value)] for value in values
        ]
    numbers = [float(value) for value in values]
    low, high = min(number for number in numbers if number > 0), max(numbers)
    least = min(numbers)
    if low * LOG_FROM > high:
        positions = [(number - least) / (high - least) for number in numbers]
        return Axis(label, ((0.0, wording.lr(least)), (1.0, wording.lr(high)))), positions
    start = ZERO if least == 0 else 0.0
    positions = [
        start + (1 - start) * math.log(number / low) / math.log(high / low) if number else 0.0
        for number in numbers
    ]
    ticks = [(0.0, "0")] if least == 0 else []
    powers = range(math.ceil(math.log10(low) + 0.1), math.ceil(math.log10(high) - 0.1))
    ticks += [(start, wording.lr(low)), (1.0, wording.lr(high))]
    ticks += [
        (start + (1 - start) * math.log(10.0**n / low) / math.log(high / low), f"{10.0**n:g}")
        for n in powers
    ]
    return Axis(label, tuple(sorted(ticks))), positions


def _line(trial: Trial, positions: tuple[float, ...], place: int) -> Line:
    name = f"trial {trial.number}"
    fate: str = trial.runs[-1].state
    if place:
        where = (
            "Top-1" if trial.finished else f"on the rung of {trial.ladder[trial.level - 1].label}"
        )
        fate = f"place {place}, {trial.score:.2f} % {where}"
    return Line(
        name, f"{name}: {fate}; {trial.recipe.label}", trial.recipe.decay.name, positions, place
    )


def _place_axis(num_ranked: int, any_stopped: bool) -> Axis:
    stopped = ((0.0, "stopped"),) if any_stopped else ()
    return Axis(
        "place", (*stopped, (_place_position(num_ranked, num_ranked), str(num_ranked)), (1.0, "1"))
    )


def _place_position(place: int | None, num_ranked: int) -> float:
    return 0.0 if place is None else 1 - (1 - 2 * ZERO) * (place - 1) / (num_ranked - 1)
