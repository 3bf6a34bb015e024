"""A recipe's LRs in a training loop that is not lrtune's, set from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import torch

from lrtune.core.decays import Plateau
from lrtune.core.errors import InputError, Problems, quoted
from lrtune.core.options import LARGEST
from lrtune.core.recipe import ParameterGroup, Recipe, scale_problems
from lrtune.schedules import Schedule, build_schedule, plateau
from lrtune.schedules.plateau import PlateauState
from lrtune.stepping.counter import StepCounter
from lrtune.stepping.hooks import StepHooks, hooks_of, overflow_of, torch_optimizer
from lrtune.stepping.rates import Displaced, lrs_of, noted_lr, put_back, write_lrs


class Applied:
    """Sets the LR of each real step of an optimizer; what `lrtune.apply` returns.

    Just before a step the LR of every parameter group is written, and just after it the LR that the
    program had there is put back. So a scheduler in the loop may stay: its LRs are not used. With
    `W` warmup steps of `T`, step `t` has `peak_lr * ratio * schedule(t)`, and a step from `T` on
    has what step `T - 1` had.

    As a context manager it is removed at the end of the `with`.
    """

    def __init__(
        self,
        optimizer: Any,
        recipe: Recipe,
        *,
        steps_per_epoch: int,
        epochs: int,
        groups: Sequence[ParameterGroup] = (),
    ) -> None:
        self._optimizer: torch.optim.Optimizer = torch_optimizer(optimizer)
        _check(self._optimizer, steps_per_epoch=steps_per_epoch, epochs=epochs)
        problems = Problems()
        with problems.gather():
            self._schedule: Schedule = build_schedule(
                recipe, epochs=epochs, steps_per_epoch=steps_per_epoch
            )
        with problems.gather():
            self._scales = _scales(self._optimizer, recipe, groups)
            self._largest_lr = _largest_lr(self._optimizer, self._scales)
        problems.raise_any()
        self._counter = StepCounter()
        rule = recipe.decay
        self._state: PlateauState | None = (
            plateau.start(rule) if isinstance(rule, Plateau) else None
        )
        self._num_observed = 0
        self._lrs: tuple[float, ...] = ()
        self._displaced: list[Displaced] = []
        self._hooks = StepHooks(self._optimizer, before=self._before, after=self._after)

    @property
    def num_steps(self) -> int:
        """Real steps so far. Under a gradient scaler it waits for the GPU."""
        return self._counter.exact

    @property
    def lrs(self) -> tuple[float, ...]:
        """The LR of each parameter group in the latest step, to log it; empty before the first."""
        return self._lrs

    def observe(self, metric: float) -> None:
        """Tells a plateau decay the metric of the epoch that has just ended.

        Other decays ignore it.

        Args:
            metric: the value of what the decay monitors; NaN counts as no progress.
        """
        rule, self._num_observed = self._schedule.recipe.decay, self._num_observed + 1
        # An epoch that ends before the warmup does says nothing of the peak LR.
        if isinstance(rule, Plateau) and self.num_steps >= self._schedule.warmup_steps:
            assert self._state is not None
            floor = self._schedule.recipe.final_frac
            self._state = plateau.observe(rule, self._state, float(metric), floor=floor)

    def remove(self) -> None:
        """Leaves the optimizer to the program again."""
        self._hooks.remove()
        self._put_back()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on from here."""
        state = None if self._state is None else asdict(self._state)
        return {
            "num_steps": self.num_steps,
            "num_observed": self._num_observed,
            "plateau": state,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._counter = StepCounter(state_dict["num_steps"])
        self._num_observed = state_dict["num_observed"]
        if self._state is not None:
            self._state = PlateauState(**state_dict["plateau"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _before(self, optimizer: torch.optim.Optimizer) -> None:
        self._put_back()  # of a step that raised
        multiplier = self._multiplier(self._counter.latest)
        peak_lr = self._schedule.recipe.peak_lr
        ratios = map(self._ratio, range(len(optimizer.param_groups)))
        lrs = [peak_lr * ratio * multiplier for ratio in ratios]
        self._displaced = write_lrs(optimizer, lrs)
        self._lrs = tuple(lrs)

    def _after(self, optimizer: torch.optim.Optimizer) -> None:
        self._put_back()
        self._counter.count(overflow_of(optimizer))

    def _put_back(self) -> None:
        put_back(self._displaced)
        self._displaced = []

    def _ratio(self, index: int) -> float:
        """The ratio of a parameter group; groups may be added while the training runs."""
        group = self._optimizer.param_groups[index]
        scale = self._scales.get(_name(group, index))
        if scale is not None:
            return scale
        return noted_lr(group) / self._largest_lr * float(group.get("lr_scale", 1.0))

    def _multiplier(self, step: int) -> float:
        schedule = self._schedule
        if self._state is None:
            return schedule(min(step, schedule.total_steps - 1))
        ended_epochs = min(step // schedule.steps_per_epoch, schedule.epochs)
        if ended_epochs > self._num_observed + 1:
            raise InputError(
                "A plateau decay needs `observe(metric)` once an epoch on what `lrtune.apply` "
                f"returned, but got {self._num_observed} calls in {ended_epochs} epochs."
            )
        if step < schedule.warmup_steps:
            return (step + 1) / schedule.warmup_steps
        return self._state.multiplier


def _check(optimizer: Any, *, steps_per_epoch: Any, epochs: Any) -> None:
    problems = Problems()
    if not isinstance(optimizer, torch.optim.Optimizer):
        problems.append(f"`optimizer` must be one of torch's, but got {type(optimizer).__name__}.")
    elif any(hooks.belong_to(Applied) for hooks in hooks_of(optimizer)):
        problems.append(
            "`optimizer` must have one recipe at a time, but got one that has a recipe already. "
            "Call `remove()` on what `lrtune.apply` returned first."
        )
    else:
        problems += scale_problems(optimizer.param_groups)
    for name, value in (("steps_per_epoch", steps_per_epoch), ("epochs", epochs)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            problems.append(f"`{name}` must be a whole number from 1, but got {quoted(value)}.")
    problems.raise_any()


def _name(group: Mapping[str, Any], index: int) -> str:
    """The name that a parameter group has, or else its number."""
    return str(group.get("name", index))


def _scales(
    optimizer: torch.optim.Optimizer, recipe: Recipe, groups: Sequence[ParameterGroup]
) -> dict[str, float]:
    """The scales that are given by name: those of the recipe, and those of a study's named groups.

    Raises:
        InputError: the recipe scales a group that the optimizer does not have.
    """
    fixed = {group.name: group.lr_scale for group in groups}
    named = {group["name"] for group in optimizer.param_groups if "name" in group}
    scales = {name: fixed[name] for name in named & fixed.keys()} | dict(recipe.group_scales)
    names = [_name(group, index) for index, group in enumerate(optimizer.param_groups)]
    problems = [
        f"`group_scales.{name}` must name a parameter group of the optimizer, as in "
        f'{{"params": ..., "name": "{name}"}}, but got the groups {", ".join(names)}.'
        for name, _ in recipe.group_scales
        if name not in names
    ]
    if problems:
        raise InputError(problems)
    return scales


def _largest_lr(optimizer: torch.optim.Optimizer, scales: Mapping[str, float]) -> float:
    """The largest LR of the groups without a scale of their own, to which the ratio is 1."""
    lrs = [
        noted_lr(group)
        for index, group in enumerate(optimizer.param_groups)
        if _name(group, index) not in scales
    ]
    if lrs and not max(lrs) > 0:
        raise InputError(
            "The LR of a parameter group must be above 0, since groups keep their ratio, but got "
            f"{', '.join(f'{lr:g}' for lr in lrs_of(optimizer))}."
        )
    return max(lrs, default=1.0)
