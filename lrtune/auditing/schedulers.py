"""Schedulers of torch and timm, seen from outside: how they are called, and which LRs they would give."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import CyclicLR, ReduceLROnPlateau

from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.decide.faults import Scheduler
from lrtune.decide.faults.trace import Array
from lrtune.schedules.build import Schedule, build_schedule

Meant = Recipe | Schedule | Callable[[int], float]
"""What was meant: a recipe, its schedule, or any function from the step to the multiplier of the
base LR."""

AHEAD, FAR_CALLS = 10, 100_000
"""A curve goes to 10 times the run's steps, or to 100,000 calls, whichever is less; but at least to
twice the run's."""


def lrs_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """LR of each parameter group."""
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


def base_lrs_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """LR of each parameter group before any schedule, where a scheduler has noted it.

    timm notes it without the group's `lr_scale` (its layer-wise decay), and multiplies by that when
    it writes an LR.
    """
    return tuple(
        float(group["initial_lr"]) * group.get("lr_scale", 1.0)
        if "initial_lr" in group
        else float(group["lr"])
        for group in optimizer.param_groups
    )


def is_plateau(scheduler: Any) -> bool:
    """Whether it wants a metric: torch's, or timm's, which has one of torch's inside."""
    return isinstance(scheduler, ReduceLROnPlateau) or isinstance(
        getattr(scheduler, "lr_scheduler", None), ReduceLROnPlateau
    )


def method_of(scheduler: Any) -> str:
    """The method that advances it; timm's have two, of which one does nothing."""
    return "step" if getattr(scheduler, "t_in_epochs", True) else "step_update"


def wants_position(scheduler: Any) -> bool:
    """Whether each call tells it where the run is (timm), rather than that one step more was made (torch)."""
    return hasattr(scheduler, "step_update")


def advance(scheduler: Any, count: int, metric: float | None = None) -> None:
    """Calls it for the `count`th time, as its library wants to be called."""
    if wants_position(scheduler):
        getattr(scheduler, method_of(scheduler))(count, metric)
    elif is_plateau(scheduler):
        scheduler.step(metric)
    else:
        scheduler.step()


def copies_of(
    optimizer: torch.optim.Optimizer, scheduler: Any
) -> tuple[torch.optim.Optimizer, Any]:
    """Optimizer and scheduler, copied without the parameters and without the optimizer's state.

    The copy of an optimizer has no hooks and not the `step` that torch's schedulers patch into it,
    which would still step the original: it can be scheduled, but not trained with.

    Raises:
        InputError: something that the scheduler holds cannot be copied.
    """
    memo: dict[int, Any] = {}
    for one in {
        id(one): one for one in (optimizer, getattr(scheduler, "optimizer", optimizer))
    }.values():
        memo |= {
            id(parameter): torch.zeros(())
            for group in one.param_groups
            for parameter in group["params"]
        }
        memo[id(one.state)] = {}
    try:
        copied: tuple[torch.optim.Optimizer, Any] = deepcopy((optimizer, scheduler), memo)
    except Exception as error:
        rule = "`scheduler` must be such that copy.deepcopy can copy it"
        raise InputError(
            f"{rule}, but got {type(scheduler).__name__} ({error}). Watch the optimizer without it."
        ) from error
    return copied


def facts_of(
    optimizer: torch.optim.Optimizer, scheduler: Any, *, lead: int, total_steps: int
) -> Scheduler:
    """What is to be known of a scheduler.

    Args:
        optimizer: the one that is trained with; advanced with its scheduler, so give copies.
        scheduler: of the same.
        lead: the parameter group of which the curve is wanted.
        total_steps: optimizer steps of the run.
    """
    lambdas = getattr(scheduler, "lr_lambdas", [])
    curve, error = np.empty(0), ""
    if not is_plateau(scheduler):
        num_calls = min(AHEAD * total_steps, max(2 * total_steps, FAR_CALLS))
        curve, error = _curve(
            getattr(scheduler, "optimizer", optimizer), scheduler, lead, num_calls
        )
    return Scheduler(
        name=type(scheduler).__name__,
        curve=curve,
        error=error,
        attached=getattr(scheduler, "optimizer", optimizer) is optimizer,
        plateau=is_plateau(scheduler),
        rises=_rises(scheduler),
        splits_groups=len({id(function) for function in lambdas}) > 1,
    )


def _curve(
    optimizer: torch.optim.Optimizer, scheduler: Any, lead: int, num_calls: int
) -> tuple[Array, str]:
    """LR after 0, 1, 2, ... calls, shape (calls + 1,), and what a call raised that ended it."""
    group = optimizer.param_groups[min(lead, len(optimizer.param_groups) - 1)]
    curve, error = [float(group["lr"])], ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was not told of any step of the optimizer
        for count in range(1, num_calls + 1):
            try:
                advance(scheduler, count)
                lr = float(
                    group["lr"]
                )  # a complex number, say, from a root of what is negative past the end
            except Exception as raised:  # of the user's own function, too
                error = f"{type(raised).__name__}: {raised}"
                break
            if not np.isfinite(lr):
                error = f"the LR is {lr}"
                break
            curve.append(lr)
    return np.array(curve), error


def _rises(scheduler: Any) -> bool:
    if isinstance(scheduler, CyclicLR) or getattr(scheduler, "noise_range_t", None) is not None:
        return True
    return any(map(_rises, getattr(scheduler, "_schedulers", [])))


def meant_lrs(
    meant: Meant, base_lr: float, *, epochs: int | None, steps_per_epoch: int | None
) -> Array:
    """LR at each step as it was meant, shape (steps,).

    Args:
        meant: of a recipe the peak LR counts; the others multiply `base_lr`.
        base_lr: of the leading parameter group.
        epochs: of the run.
        steps_per_epoch: optimizer steps.

    Raises:
        InputError: the length of the run is not known, or the LR depends on more than the step.
    """
    if epochs is None or steps_per_epoch is None:
        got = f"epochs={epochs}, steps_per_epoch={steps_per_epoch}"
        raise InputError(f"`meant` needs the length of the run, but got {got}.")
    if isinstance(meant, Recipe):
        base_lr, meant = (
            meant.peak_lr,
            build_schedule(meant, epochs=epochs, steps_per_epoch=steps_per_epoch),
        )
    try:
        return np.array(
            [base_lr * meant(step) for step in range(epochs * steps_per_epoch)], dtype=float
        )
    except (TypeError, ValueError) as error:
        rule = "`meant` must be a number for each step of the run, known beforehand"
        raise InputError(f"{rule}, but got {error}") from error
