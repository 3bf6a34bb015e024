"""Calls the schedulers of torch and timm, and predicts the LRs that they give."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import CyclicLR, ReduceLROnPlateau

from lrtune.auditing.faults import Scheduler
from lrtune.auditing.faults.trace import Array
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.schedules.build import Schedule, build_schedule

Meant = Recipe | Schedule | Callable[[int], float]
"""The schedule that was meant: a recipe, its schedule, or any function from the step to the
multiplier of the base LR."""

AHEAD, FAR_CALLS = 10, 100_000
"""A curve is as long as `AHEAD` times the run's steps, but at most `FAR_CALLS` calls; it is at
least twice as long as the run."""


def is_plateau(scheduler: Any) -> bool:
    """Tells whether a scheduler needs a metric.

    That is torch's plateau scheduler, and timm's, which contains torch's.
    """
    return isinstance(scheduler, ReduceLROnPlateau) or isinstance(
        getattr(scheduler, "lr_scheduler", None), ReduceLROnPlateau
    )


def method_of(scheduler: Any) -> str:
    """Returns the name of the method that advances a scheduler.

    Those of timm have two such methods, and one of the two does nothing.
    """
    return "step" if getattr(scheduler, "t_in_epochs", True) else "step_update"


def wants_position(scheduler: Any) -> bool:
    """Tells whether a scheduler is called with its position (timm), not once a step (torch)."""
    return hasattr(scheduler, "step_update")


def advance(scheduler: Any, count: int, metric: float | None = None) -> None:
    """Calls a scheduler for the `count`th time, in the way that its library expects."""
    if wants_position(scheduler):
        getattr(scheduler, method_of(scheduler))(count, metric)
    elif is_plateau(scheduler):
        scheduler.step(metric)
    else:
        scheduler.step()


def copies_of(
    optimizer: torch.optim.Optimizer, scheduler: Any
) -> tuple[torch.optim.Optimizer, Any]:
    """Copies optimizer and scheduler without the parameters and without the optimizer's state.

    The optimizer's copy has no hooks, and not the `step` that torch's schedulers patch into an
    optimizer, which would still step the original. It can be scheduled, but not trained with.

    Raises:
        InputError: something that the scheduler holds cannot be copied.
    """
    memo: dict[int, Any] = {}
    scheduled = getattr(scheduler, "optimizer", optimizer)  # may be another one, by mistake
    for original in {id(optimizer): optimizer, id(scheduled): scheduled}.values():
        memo |= {
            id(parameter): torch.zeros(())
            for group in original.param_groups
            for parameter in group["params"]
        }
        memo[id(original.state)] = {}
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
    """Returns the facts about a scheduler, among them its curve.

    Args:
        optimizer: the one that is trained with. It is changed, so pass a copy.
        scheduler: its scheduler. It is advanced, so pass a copy.
        lead: index of the parameter group whose curve is returned.
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
    """Returns the LR after 0, 1, 2, ... calls, shape (calls + 1,), and the error that ended it."""
    group = optimizer.param_groups[min(lead, len(optimizer.param_groups) - 1)]
    curve, error = [float(group["lr"])], ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns since the optimizer makes no steps here
        for count in range(1, num_calls + 1):
            try:
                advance(scheduler, count)
                # Past the end a user's function may return a complex number (a root of a negative
                # number), or raise.
                lr = float(group["lr"])
            except Exception as raised:
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
    """Returns the LR that was meant for each step, shape (steps,).

    Args:
        meant: a recipe has its own peak LR; the others multiply `base_lr`.
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
