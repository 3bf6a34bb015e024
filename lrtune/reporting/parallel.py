"""All trials at once, in parallel coordinates.

Each parameter that was varied has an axis, and each trial has a line.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from lrtune.core.decays import DECAYS
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.study import StudyConfig, StudyState
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
    text: str
    """Its recipe, and how far it came."""
    decay: str
    positions: tuple[float, ...]
    """One an axis, 0 to 1."""
    place: int
    """From 1; 0 for one that was stopped."""


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """What was tried.

    The last axis is the place, with the best at its right end and what was stopped at its left end.
    """

    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]
    """In the order of their numbers."""


def parallel_of(state: StudyState) -> Parallel | None:
    """The trials of which a run has ended.

    It is `None` where fewer than three trials have a place, and where nothing was varied.
    Places are those of the search: trials that had more looks come first, since scores of different
    looks are not comparable.
    """
    trials = [trial for trial in trials_of(state) if trial.scores]
    ranked = best_first(trials)
    if len(ranked) < 3:
        return None
    places = {trial.number: place for place, trial in enumerate(ranked, start=1)}
    axes, columns = [], []
    scales = {f"{group.name}, of peak": partial(_scale, group) for group in state.config.groups}
    names = dict.fromkeys(name for trial in trials for name, _ in trial.recipe.command)
    words = {name: partial(_of_command, name) for name in names}
    for label, value in (VALUES | scales | words).items():
        placed = axis_of(label, [value(trial.recipe) for trial in trials])
        if placed is not None:
            axes.append(placed[0])
            columns.append(placed[1])
    if not axes:
        return None
    axes.append(_place_axis(len(ranked), len(ranked) < len(trials)))
    columns.append([_place_position(places.get(trial.number), len(ranked)) for trial in trials])
    lines = zip(trials, zip(*columns, strict=True), strict=True)
    return Parallel(
        axes=tuple(axes),
        lines=tuple(
            _line(state.config, trial, tuple(positions), places.get(trial.number, 0))
            for trial, positions in lines
        ),
    )


def _scale(group: ParameterGroup, recipe: Recipe) -> float:
    """The group's LR as a share of the peak LR."""
    return dict(recipe.group_scales).get(group.name, group.lr_scale)


def _of_command(name: str, recipe: Recipe) -> float | str:
    """What stands in the place of a name in the command."""
    return dict(recipe.command).get(name, "")


def axis_of(label: str, values: Sequence[float | str]) -> tuple[Axis, list[float]] | None:
    """An axis, and where the values are on it; `None` where they are all the same."""
    if len(set(values)) < 2:
        return None
    if isinstance(values[0], str):
        names = [
            name
            for name in (*DECAYS, *sorted(set(map(str, values)) - set(DECAYS)))
            if name in values
        ]
        where = {name: i / (len(names) - 1) for i, name in enumerate(names)}
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
    powers = range(math.ceil(math.log10(low) + 0.25), math.ceil(math.log10(high) - 0.25))
    ticks += [(start, wording.lr(low)), (1.0, wording.lr(high))]
    ticks += [
        (start + (1 - start) * math.log(10.0**n / low) / math.log(high / low), f"{10.0**n:g}")
        for n in powers
    ]
    return Axis(label, tuple(sorted(ticks))), positions


def _line(config: StudyConfig, trial: Trial, positions: tuple[float, ...], place: int) -> Line:
    name = f"trial {trial.number}"
    fate: str = trial.runs[-1].state
    if place:
        ranked_by = config.objective if trial.finished else config.ranked_by
        text = wording.with_metric(ranked_by, ranked_by.signed(trial.score))
        if not trial.finished:
            text += f" in {wording.count(trial.level, 'look')}"
        fate = f"place {place}, {text}"
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
