"""From a recipe and the length of a run to its schedule."""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from lrtune.core.errors import InputError
from lrtune.core.objective import Metrics, Objective
from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.schedules import plateau
from lrtune.schedules.compose import Multiplier, join, stretch, warmup
from lrtune.schedules.plateau import PlateauState
from lrtune.schedules.shapes import (
    Shape,
    constant,
    cosine,
    exponential,
    floored,
    hold_power,
    linear,
    polynomial,
    staircase,
    wsd,
)


def build_schedule(recipe: Recipe, *, epochs: int, steps_per_epoch: int) -> "Schedule":
    """The schedule of `recipe`, fitted to a run.

    Args:
        recipe: warmup, decay and floor; its peak LR and its optimizer do not matter here.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps in an epoch; micro-batches of an accumulation are not
            steps.

    Raises:
        InputError: the run is empty, the warmup leaves no step for the decay, or a step decay's
            period is shorter than an optimizer step.

    Example:
        >>> recipe = Recipe(warmup_epochs=1, decay=Linear())
        >>> schedule = build_schedule(recipe, epochs=3, steps_per_epoch=2)
        >>> [schedule(step) for step in range(schedule.total_steps)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    schedule = fit_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    if problems := _problems(schedule):
        raise InputError(problems)
    return schedule


def fit_schedule(recipe: Recipe, *, epochs: int, steps_per_epoch: int) -> "Schedule":
    """As `build_schedule`, without its checks, which a compressed recipe may fail."""
    decay = recipe.decay
    states = (plateau.start(decay),) if isinstance(decay, Plateau) else ()
    return Schedule(recipe=recipe, epochs=epochs, steps_per_epoch=steps_per_epoch, states=states)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The multiplier for each optimizer step of a run.

    The LR of a parameter group is its base LR times `schedule(step)`.

    Made by `build_schedule`, which checks it. Steps count from 0, and the value returned is the one
    used *for* that step. The training loop calls `observe` after each epoch, whatever the decay,
    and goes on with what it returns.

    With `W` warmup steps of `T` in all, the multiplier is `(t + 1) / W` for `t < W`, and from there
    on `shape((t - W) / (T - W))`, let down to `final_frac`. The milestones of step and multistep
    count from the start of training, each to the nearest step. The warmup goes to the peak all the
    same: milestones that lie in it take effect together at step `W`. Those from `T` on never do.

    Of a plateau decay, the multiplier after warmup is that of the epoch, the same for all its
    steps, and `final_frac` is the least it can be. An epoch that ends before step `W` is not shown
    to the rule: its metric says nothing of the peak LR.
    """

    recipe: Recipe
    epochs: int
    steps_per_epoch: int
    states: tuple[PlateauState, ...]
    """Of a plateau decay: one for each epoch observed, and one for the epoch about to start. Empty
    for any other."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warmup: its epochs, to the nearest whole step."""
        return self._nearest_step(self.recipe.warmup_epochs)

    def __call__(self, step: int) -> float:
        """The multiplier for optimizer step `step`.

        Raises:
            ValueError: there is no such step, or it depends on the metrics of an epoch that was not
                observed yet.
        """
        if not 0 <= step < self.total_steps:
            raise ValueError(f"`0 <= step < {self.total_steps}` must hold, but got step={step}.")
        return self._multiplier(step)

    def observe(self, metrics: Metrics) -> "Schedule":
        """The schedule once the metrics of one more epoch are known.

        It is itself where the decay does not depend on them.

        Args:
            metrics: of the epoch. One that is monitored and is absent or NaN counts as no progress.

        Raises:
            ValueError: a plateau decay has observed all epochs of the run already.
        """
        rule = self.recipe.decay
        if not isinstance(rule, Plateau):
            return self
        ended_epochs = len(self.states)
        if ended_epochs > self.epochs:
            raise ValueError(
                f"at most {self.epochs} epochs must be observed, but got epoch {ended_epochs}."
            )
        state = self.states[-1]
        if ended_epochs * self.steps_per_epoch >= self.warmup_steps:
            value = Objective.parse(rule.monitor).value(metrics)
            state = plateau.observe(rule, state, value, floor=self.recipe.final_frac)
        return replace(self, states=(*self.states, state))

    def __getstate__(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in fields(self)
        }  # all but the cached closure, which cannot be pickled

    @cached_property
    def _multiplier(self) -> Multiplier:
        num_steps = self.warmup_steps
        return join(warmup(num_steps), num_steps, self._after_warmup())

    def _after_warmup(self) -> Multiplier:
        """The multiplier by steps since the end of warmup."""
        shape: Shape
        match self.recipe.decay:
            case Plateau():
                return lambda t: self._observed(t + self.warmup_steps)
            case Constant():
                shape = constant()
            case StepDecay(every_epochs=every, factor=factor):
                count = math.ceil(self.epochs / every)
                shape = staircase(
                    tuple(self._fraction(n * every) for n in range(1, count + 1)), factor
                )
            case MultiStep(milestones_epochs=milestones, factor=factor):
                shape = staircase(tuple(map(self._fraction, milestones)), factor)
            case Cosine():
                shape = cosine()
            case Linear():
                shape = linear()
            case Polynomial(power=power):
                shape = polynomial(power)
            case Exponential(end_frac=end_frac):
                shape = exponential(end_frac)
            case WSD(cooldown_frac=cooldown_frac):
                shape = wsd(cooldown_frac)
            case HoldPower(hold_frac=hold_frac, power=power):
                shape = hold_power(hold_frac, power)
        return stretch(floored(shape, self.recipe.final_frac), self.total_steps - self.warmup_steps)

    def _observed(self, step: int) -> float:
        known_steps = len(self.states) * self.steps_per_epoch
        if step >= known_steps:
            rule = f"`step < {known_steps}` must hold until epoch {len(self.states)} was observed"
            raise ValueError(f"{rule}, but got step={step}.")
        return self.states[step // self.steps_per_epoch].multiplier

    def _nearest_step(self, epochs: float) -> int:
        return round(epochs * self.steps_per_epoch)

    def _fraction(self, epochs: float) -> float:
        """How much of the decay is done `epochs` after the start, exactly as in `stretch`."""
        decay_steps = max(
            1, self.total_steps - self.warmup_steps
        )  # none where a compressed warmup takes them all
        return (self._nearest_step(epochs) - self.warmup_steps) / decay_steps


def _problems(schedule: Schedule) -> list[str]:
    """Every rule that the length of the run breaks."""
    epochs, steps_per_epoch = schedule.epochs, schedule.steps_per_epoch
    problems = []
    if epochs < 1:
        problems.append(f"`1 <= epochs` must hold, but got epochs={epochs}.")
    if steps_per_epoch < 1:
        problems.append(
            f"`1 <= steps_per_epoch` must hold, but got steps_per_epoch={steps_per_epoch}."
        )
    if problems:
        return problems
    warmup_epochs, decay = schedule.recipe.warmup_epochs, schedule.recipe.decay
    if schedule.warmup_steps >= schedule.total_steps:
        steps = f"{schedule.warmup_steps} of {schedule.total_steps} steps"
        problems.append(
            f"`warmup_epochs < epochs` must hold, but got warmup_epochs={warmup_epochs:g}, "
            f"epochs={epochs} ({steps})."
        )
    if isinstance(decay, StepDecay) and decay.every_epochs < 1 / steps_per_epoch:
        rule = (
            f"`every_epochs` must be at least one optimizer step, 1/{steps_per_epoch} of an epoch"
        )
        problems.append(f"{rule}, but got every_epochs={decay.every_epochs:g}.")
    return problems
