"""From a recipe and the length of a run to its schedule."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from lrtune.core.decays import Plateau
from lrtune.core.errors import InputError
from lrtune.core.objective import Metrics, Objective
from lrtune.core.recipe import Recipe
from lrtune.core.training import Multiplier
from lrtune.schedules import plateau
from lrtune.schedules.plateau import PlateauState
from lrtune.schedules.shape import shape_of


def build_schedule(recipe: Recipe, *, epochs: int, steps_per_epoch: int) -> "Schedule":
    """The schedule of `recipe`, fitted to a run.

    Args:
        recipe: warmup, decay and floor; its peak LR and its optimizer do not matter here.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps in an epoch; micro-batches of an accumulation are not
            steps.

    Raises:
        InputError: the run is empty, the warmup leaves no step for the decay, or the decay does not
            go with steps of this length.

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

    With `W` warmup steps of `T` in all, the multiplier is `(t + 1) / W` for `t < W`: gradual warmup
    (Goyal et al. 2017, arXiv 1706.02677, section 2.2), which begins above 0 and is 1 for its last
    step. From there on it is the decay's `shape` at `p = (t - W) / (T - W)`, let down to
    `final_frac` instead of 0: `final_frac + (1 - final_frac) * shape`. That is `eta_min` of torch's
    `CosineAnnealingLR` as a fraction of the peak, and `end_factor` of `LinearLR`.

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
        return round(self.recipe.warmup_epochs * self.steps_per_epoch)

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
        warmup_steps, after_warmup = self.warmup_steps, self._after_warmup
        return lambda t: (t + 1) / warmup_steps if t < warmup_steps else after_warmup(t)

    @property
    def _after_warmup(self) -> Multiplier:
        if isinstance(self.recipe.decay, Plateau):
            return self._observed
        shape = shape_of(
            self.recipe.decay, epochs=self.epochs, steps_per_epoch=self.steps_per_epoch
        )
        floor, warmup_steps = self.recipe.final_frac, self.warmup_steps
        decay_steps = self.total_steps - warmup_steps
        return lambda t: floor + (1 - floor) * shape((t - warmup_steps) / decay_steps, t)

    def _observed(self, step: int) -> float:
        known_steps = len(self.states) * self.steps_per_epoch
        if step >= known_steps:
            rule = f"`step < {known_steps}` must hold until epoch {len(self.states)} was observed"
            raise ValueError(f"{rule}, but got step={step}.")
        return self.states[step // self.steps_per_epoch].multiplier


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
    warmup_epochs = schedule.recipe.warmup_epochs
    if schedule.warmup_steps >= schedule.total_steps:
        steps = f"{schedule.warmup_steps} of {schedule.total_steps} steps"
        problems.append(
            f"`warmup_epochs < epochs` must hold, but got warmup_epochs={warmup_epochs:g}, "
            f"epochs={epochs} ({steps})."
        )
    return problems + schedule.recipe.decay.problems_at(steps_per_epoch)
