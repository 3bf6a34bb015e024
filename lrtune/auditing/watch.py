"""`watch` records the LR at each real optimizer step of any training loop."""

import functools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch

from lrtune.auditing.audit import Audit, Intended, check, judge
from lrtune.auditing.faults import Called, Stepped
from lrtune.auditing.schedulers import (
    Meant,
    copies_of,
    inner_scheduler,
    is_plateau,
    method_of,
)
from lrtune.core.errors import InputError
from lrtune.stepping.hooks import StepHooks, overflow_of, torch_optimizer
from lrtune.stepping.rates import base_lrs_of, lrs_of


class watch:  # noqa: N801 (used as `with watch(optimizer) as seen`, as torch.no_grad is)
    """Records what happens to the learning rate while a training loop runs.

    `audit()` reports what is wrong with it.

    It registers a hook on the optimizer and, until the end of the `with`, gives the scheduler a
    subclass that records the calls of the method that advances it. Neither changes what the two do,
    or their `state_dict()`.

    It never ends a training: what it cannot see, such as the calls of a scheduler that cannot be
    copied, is a note of the audit.

    Args:
        optimizer: that the loop steps, of torch or in a wrapper such as accelerate's.
        scheduler: that the loop calls, or a sequence of all that it calls; `None`: only the LRs are
            seen, not what wrote them.
        steps_per_epoch: optimizer steps; `None`: not known.
        epochs: of the whole run, even if only its beginning is watched; `None`: not known.
        meant: the schedule that was meant: a recipe, its schedule, or a function from the step to
            the multiplier.
        warmup_steps: calls of the scheduler that its warmup was meant to take.

    Raises:
        InputError: a length is below 1 or missing, or there is no optimizer.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
        >>> with watch(optimizer, scheduler=scheduler, steps_per_epoch=4, epochs=2) as seen:
        ...     for _ in range(8):
        ...         optimizer.step()
        ...         scheduler.step()
        >>> seen.audit().ok
        True
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        scheduler: Any = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        meant: Meant | None = None,
        warmup_steps: int | None = None,
    ) -> None:
        optimizer = torch_optimizer(optimizer)
        given = scheduler if isinstance(scheduler, Sequence) else (scheduler,)
        schedulers = [inner_scheduler(one) for one in given if one is not None]
        self._intended = Intended(
            steps_per_epoch=steps_per_epoch, epochs=epochs, meant=meant, warmup_steps=warmup_steps
        )
        check(optimizer, schedulers, self._intended)
        self.optimizer = optimizer
        """The optimizer of torch that steps."""
        self._events: list[Stepped | Called] = []
        self._idle = True  # no optimizer step since the last call of a scheduler
        self._start_lrs, self._base_lrs = lrs_of(optimizer), base_lrs_of(optimizer)
        self._copied: list[tuple[torch.optim.Optimizer, Any]] = []
        self._schedulers: list[Any] = []
        self._classes: list[type] = []
        self._notes: list[str] = []
        self._hooks: StepHooks | None = None
        for one in schedulers:
            self.add(one)

    def sees(self, scheduler: Any) -> bool:
        """Tells whether the calls of a scheduler are watched."""
        return any(seen is scheduler for seen in self._schedulers)

    def add(self, scheduler: Any) -> None:
        """Watches one more scheduler of the loop, from now on."""
        try:
            _check_class(scheduler)
            copied = copies_of(self.optimizer, scheduler)
        except InputError as error:
            self._notes.append(f"Only the LRs were seen, not what wrote them: {error}")
            return
        self._copied.append(copied)
        self._schedulers.append(scheduler)
        self._classes.append(type(scheduler))
        if self._hooks is not None:
            scheduler.__class__ = self._noting(len(self._schedulers) - 1)

    def __enter__(self) -> Self:
        self._hooks = StepHooks(self.optimizer, after=self._on_step, reads=True)
        for by, scheduler in enumerate(self._schedulers):
            scheduler.__class__ = self._noting(by)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hooks is None:
            return
        self._hooks.remove()
        self._hooks = None
        for scheduler, own_class in zip(self._schedulers, self._classes, strict=True):
            scheduler.__class__ = own_class

    @property
    def num_steps(self) -> int:
        """Optimizer steps that were made so far, without those that a scaler skipped."""
        return sum(isinstance(event, Stepped) and not event.skipped for event in self._events)

    def audit(
        self,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
        is_cut: bool = False,
    ) -> Audit:
        """Returns the LRs recorded so far, and what is wrong with them.

        Args:
            steps_per_epoch: optimizer steps, where that was not known before.
            total_steps: optimizer steps of the run, where that was not known before, or the run
                does not end with an epoch.
            is_cut: whether the run would have gone on, for a time that is not known.

        Raises:
            InputError: the optimizer made no step.
        """
        if not self.num_steps:
            raise InputError("at least one optimizer step must be watched, but there was none.")
        intended = self._intended
        if steps_per_epoch is not None:
            intended = replace(intended, steps_per_epoch=steps_per_epoch)
        return judge(
            self.optimizer,
            [copies_of(*copied) for copied in self._copied],
            events=tuple(self._events),
            start_lrs=self._start_lrs,
            base_lrs=self._base_lrs,
            intended=replace(intended, length=total_steps, is_cut=is_cut),
            notes=tuple(self._notes),
        )

    def _on_step(self, optimizer: torch.optim.Optimizer) -> None:
        # The LRs are read after the step, because a closure may have written them, and Lightning's
        # whole training step is a closure.
        overflow = overflow_of(optimizer)
        self._events.append(Stepped(self._lrs(), skipped=overflow is not None and bool(overflow)))
        self._idle = False

    def _lrs(self) -> tuple[float, ...]:
        # Those of the groups at the beginning, without any added later; one may have been removed.
        lrs = lrs_of(self.optimizer)[: len(self._start_lrs)]
        return lrs + self._start_lrs[len(lrs) :]

    def _noting(self, by: int) -> type:
        """Returns a subclass of a scheduler's class that records its calls.

        An attribute of the object would end up in its `state_dict` instead.
        """
        watched, own_class = self._schedulers[by], self._classes[by]
        method, is_first = method_of(watched), True

        def noted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal is_first
            inner = getattr(own_class, method)
            if scheduler is not watched:  # a copy of it
                return inner(scheduler, *args, **kwargs)
            if is_first:  # other code may have written the LR until now
                is_first = False
                with suppress(InputError):
                    self._copied[by] = copies_of(self.optimizer, watched)
            before, overflow = self._lrs(), self._idle and not _finite_gradients(self.optimizer)
            position, metric = _told(scheduler, args, kwargs)
            error = ""
            try:
                return inner(scheduler, *args, **kwargs)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
                raise
            finally:
                after = self._lrs()
                self._events.append(Called(before, after, position, metric, overflow, by, error))
                self._idle = True

        def reduced(scheduler: Any, protocol: Any) -> Any:  # as an object of its own class
            noting, scheduler.__class__ = scheduler.__class__, own_class
            try:
                result = scheduler.__reduce_ex__(protocol)
            finally:
                scheduler.__class__ = noting
            make, arguments, *rest = result
            if make.__name__ != "__newobj__":
                return result
            # The same, in a function of another name: pickle compares the class of the object with
            # the one of `__newobj__`.
            return (functools.partial(make), arguments, *rest)

        members = {method: noted, "__reduce_ex__": reduced, "__module__": own_class.__module__}
        return type(own_class.__name__, (own_class,), members)


def _told(
    scheduler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[float | None, float | None]:
    """Returns the position and the metric among the arguments of a call.

    Torch's plateau takes the metric first, all others the position.
    """
    values = [*args, None, None]
    if is_plateau(scheduler) and not hasattr(scheduler, "step_update"):
        return None, _number(kwargs.get("metrics", values[0]))
    position = next(
        (kwargs[name] for name in ("epoch", "num_updates") if name in kwargs), values[0]
    )
    return _number(position), _number(kwargs.get("metric", values[1]))


def _check_class(scheduler: Any) -> None:
    """Raises `InputError` where the calls of a scheduler cannot be noted."""
    own_class, method = type(scheduler), method_of(scheduler)
    rule = f"the class of `scheduler` must have its {method}(), and let it be replaced"
    try:
        if not hasattr(own_class, method) or method in vars(scheduler):
            raise InputError(f"{rule}, but got {own_class.__name__}.")
        scheduler.__class__ = type(own_class.__name__, (own_class,), {})
        scheduler.__class__ = own_class
    except TypeError:  # it has slots
        raise InputError(f"{rule}, but got {own_class.__name__}.") from None


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # a dictionary of logs, say
        return math.nan


def _finite_gradients(optimizer: torch.optim.Optimizer) -> bool:
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    values = (g.coalesce().values() if g.is_sparse else g for g in gradients)
    return all(bool(torch.isfinite(value).all()) for value in values)
