"""Calls the schedulers of torch and timm, and predicts the LRs that they give."""

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)

from lrtune.auditing.faults import Scheduler
from lrtune.auditing.faults.trace import SOME, Array
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.schedules.build import Schedule, build_schedule
from lrtune.stepping.hooks import torch_optimizer
from lrtune.stepping.rates import lrs_of, noted_lr, write_lrs

Meant = Recipe | Schedule | Callable[[int], float]
"""The schedule that was meant: a recipe, its schedule, or any function from the step to the
multiplier of the base LR."""

AHEAD, FAR_CALLS = 10, 100_000
"""A curve is as long as `AHEAD` times the run's steps, or longer where each call is told a fraction
of an epoch, but at most `FAR_CALLS` calls; it is at least twice as long as the run."""


def inner_scheduler(scheduler: Any) -> Any:
    """Returns the scheduler inside wrappers such as accelerate's, which call it as they see fit."""
    while not isinstance(scheduler, LRScheduler):
        inside = getattr(scheduler, "scheduler", None)
        if not callable(getattr(inside, "step", None)):
            break
        scheduler = inside
    return scheduler


def plateau_of(scheduler: Any) -> ReduceLROnPlateau | None:
    """Returns torch's plateau scheduler: the scheduler itself, or the one that timm's contains."""
    for plateau in (scheduler, getattr(scheduler, "lr_scheduler", None)):
        if isinstance(plateau, ReduceLROnPlateau):
            return plateau
    return None


def is_plateau(scheduler: Any) -> bool:
    """Tells whether a scheduler needs a metric."""
    return plateau_of(scheduler) is not None


def method_of(scheduler: Any) -> str:
    """Returns the name of the method that advances a scheduler.

    Those of timm have two such methods, and one of the two does nothing.
    """
    return "step" if getattr(scheduler, "t_in_epochs", True) else "step_update"


def wants_position(scheduler: Any) -> bool:
    """Tells whether a scheduler is called with its position (timm), not once a step (torch)."""
    return hasattr(scheduler, "step_update")


def advance(scheduler: Any, position: float | None, metric: float | None = None) -> None:
    """Calls a scheduler in the way that its library expects.

    Args:
        scheduler: of torch or timm, or any other with a method `step`.
        position: the step or epoch that it is told; `None`: it counts its calls.
        metric: of a plateau.
    """
    if position is not None and position == int(position):
        position = int(position)
    if wants_position(scheduler):
        getattr(scheduler, method_of(scheduler))(position, metric)
    elif is_plateau(scheduler):
        scheduler.step(metric)
    elif position is not None:
        scheduler.step(position)
    else:
        scheduler.step()


def copies_of(
    optimizer: torch.optim.Optimizer, scheduler: Any
) -> tuple[torch.optim.Optimizer, Any]:
    """Copies optimizer and scheduler without any weights and without the optimizer's state.

    The optimizer's copy has no hooks, and not the `step` that torch's schedulers patch into an
    optimizer, which would still step the original. It can be scheduled, but not trained with. A
    module that the scheduler refers to, as it does where its function is a method of the model, is
    copied without its weights.

    Raises:
        InputError: something that the scheduler holds cannot be copied.
    """
    memo: dict[int, Any] = {id(module): copy(module) for module in _modules_of(scheduler)}
    scheduled = getattr(scheduler, "optimizer", optimizer)  # may be another one, by mistake
    for original in {id(optimizer): optimizer, id(scheduled): scheduled}.values():
        memo |= {
            id(parameter): torch.zeros(())
            for group in original.param_groups
            for parameter in group["params"]
        }
        memo[id(original.state)] = {}
    try:
        copied = deepcopy(optimizer, memo)
        if torch_optimizer(scheduled) is optimizer:
            memo[id(scheduled)] = copied  # the scheduler needs no wrapper
        return copied, deepcopy(scheduler, memo)
    except Exception as error:
        rule = "`scheduler` must be such that copy.deepcopy can copy it"
        raise InputError(
            f"{rule}, but got {type(scheduler).__name__} ({error}). Watch the optimizer without it."
        ) from error


def _modules_of(scheduler: Any) -> Iterator[torch.nn.Module]:
    """Yields the modules that a deep copy of a scheduler would come to, but none within them."""
    atomic = (type, ModuleType, FunctionType, BuiltinFunctionType, torch.Tensor)
    optimizer = getattr(scheduler, "optimizer", None)
    seen, open_ = {id(optimizer)}, [scheduler]
    while open_:
        thing = open_.pop()
        if id(thing) in seen or isinstance(thing, atomic):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            yield thing
        else:
            open_ += gc.get_referents(thing)


def facts_of(
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    *,
    lead: int,
    total_steps: int,
    told: tuple[float, float] | None = None,
    alone: bool = False,
) -> Scheduler:
    """Returns the facts about a scheduler, among them its curve.

    Args:
        optimizer: the one that is trained with. It is changed, so pass a copy.
        scheduler: its scheduler. It is advanced, so pass a copy.
        lead: index of the parameter group whose curve is returned.
        total_steps: optimizer steps of the run, or calls of the scheduler if those are more.
        told: the position that the loop tells the scheduler in its first call, and by how much it
            rises from call to call; `None`: it is told none.
        alone: whether its multipliers are wanted as well.
    """
    if told is None and wants_position(scheduler):
        told = (1.0, 1.0)
    first, rate = told or (1.0, 1.0)
    lambdas = getattr(scheduler, "lr_lambdas", [])
    plateau = plateau_of(scheduler)
    scheduled = getattr(scheduler, "optimizer", optimizer)
    due, multipliers, curve, error = None, None, np.empty(0), ""
    made = begin = 0
    if plateau is None:
        ahead = math.ceil(AHEAD * total_steps / min(1.0, rate))
        num_calls = min(ahead, max(2 * total_steps, FAR_CALLS))
        made = calls_made(scheduler) if told is None else max(0, round(first / rate) - 1)
        if told is not None:
            now = lrs_of(scheduled)[lead]
            if made:
                advance(scheduler, 0)
            curve, error = _curve(scheduled, scheduler, lead, num_calls + made, rate)
            begin = made
            if made < len(curve) and not _is_as_due(now, curve[made]):
                due = float(curve[made])
        else:
            past = _past_of(scheduled, scheduler, lead, made)
            if alone:
                multipliers = _alone(scheduled, scheduler, lead, made + total_steps)
            curve, error = _curve(scheduled, scheduler, lead, num_calls, None)
            if past is None or _is_as_due(curve[0], past[made]):
                if past is not None:
                    curve, begin = np.concatenate([past[:made], curve]), made
            elif made or _is_as_due(curve[min(1, len(curve) - 1)], past[1]):
                due = float(past[made])  # the first call, or the formula, leaves the LR for it
    return Scheduler(
        name=type(scheduler).__name__,
        curve=curve,
        error=error,
        attached=any(
            group is other for group in scheduled.param_groups for other in optimizer.param_groups
        ),
        rises=_rises(scheduler),
        splits_groups=len({id(function) for function in lambdas}) > 1,
        made=made,
        begin=begin,
        due=due,
        rate=rate,
        multipliers=multipliers,
        patience=None if plateau is None else int(plateau.patience),
        mode=None if plateau is None else str(plateau.mode),
    )


def _is_as_due(lr: float, due: float) -> bool:
    return math.isclose(lr, due, rel_tol=SOME - 1, abs_tol=1e-12)


def calls_made(scheduler: Any) -> int:
    """Counts the calls that a scheduler of torch remembers."""
    parts = getattr(scheduler, "_schedulers", None)
    if isinstance(scheduler, ChainedScheduler) and parts:
        return max(map(calls_made, parts))
    made = getattr(scheduler, "last_epoch", 0)
    return max(0, int(made)) if isinstance(made, int | float) else 0


def _past_of(
    optimizer: torch.optim.Optimizer, scheduler: Any, lead: int, made: int
) -> Array | None:
    """Returns the LRs that a scheduler would have given until now, had it run from its beginning.

    Its shape is (made + 2,), with the call to come; `None` where it cannot be begun again.
    """
    if not isinstance(scheduler, LRScheduler):
        return None
    optimizer, scheduler = copies_of(optimizer, scheduler)
    try:
        begun = _begun(optimizer, scheduler)
    except Exception:  # a scheduler with a constructor of its own
        return None
    past, _ = _curve(optimizer, begun, lead, made + 1, None)
    return past if len(past) == made + 2 else None


def _begun(optimizer: torch.optim.Optimizer, scheduler: Any) -> Any:
    """Puts a scheduler of torch, and its optimizer's LRs, to the beginning."""
    write_lrs(optimizer, list(map(noted_lr, optimizer.param_groups)))
    return _first_called(scheduler)


def _first_called(scheduler: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not isinstance(scheduler, ChainedScheduler | SequentialLR):
            scheduler.last_epoch = -1
            scheduler._initial_step()
            return scheduler
        parts = [_first_called(part) for part in scheduler._schedulers]
        if isinstance(scheduler, SequentialLR):
            return SequentialLR(scheduler.optimizer, parts, list(scheduler._milestones))
        return scheduler


def _alone(optimizer: torch.optim.Optimizer, scheduler: Any, lead: int, num_calls: int) -> Array:
    """Returns the multipliers that a scheduler of torch gives from its beginning on.

    Those of a `ChainedScheduler` are the products of what its parts give alone. The shape is
    (calls + 1,); it is shorter where the scheduler cannot be begun again or be called so often.
    """
    base_lr = noted_lr(optimizer.param_groups[lead])
    if isinstance(scheduler, ChainedScheduler):
        parts = [_alone(optimizer, part, lead, num_calls) for part in scheduler._schedulers]
        product: Array = np.prod([part[: min(map(len, parts))] for part in parts], axis=0)
        return product
    optimizer, scheduler = copies_of(optimizer, scheduler)
    try:
        begun = _begun(optimizer, scheduler)
    except Exception:  # not of torch, or with a constructor of its own
        return np.empty(0)
    return _curve(optimizer, begun, lead, num_calls, None)[0] / (base_lr or math.nan)


def _curve(
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    lead: int,
    num_calls: int,
    rate: float | None,
) -> tuple[Array, str]:
    """Returns the LR after 0, 1, 2, ... calls, shape (calls + 1,), and the error that ended it.

    Args:
        optimizer: a copy.
        scheduler: a copy.
        lead: index of the parameter group.
        num_calls: how often it is called.
        rate: by how much the position that it is told rises from call to call; `None`: it is told
            none.
    """
    group = optimizer.param_groups[min(lead, len(optimizer.param_groups) - 1)]
    curve, error = [float(group["lr"])], ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns since the optimizer makes no steps here
        for count in range(1, num_calls + 1):
            try:
                advance(scheduler, None if rate is None else count * rate)
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
