"""`watch` records the LR at each real optimizer step of any training loop."""

import math
from types import TracebackType
from typing import Any, Self

import torch

from lrtune.auditing.audit import Audit, Intended, check, judge
from lrtune.auditing.faults import Called, Stepped
from lrtune.auditing.schedulers import Meant, copies_of, is_plateau, method_of
from lrtune.core.errors import InputError
from lrtune.stepping.hooks import StepHooks, overflow_of, torch_optimizer
from lrtune.stepping.rates import base_lrs_of, lrs_of


class watch:  # noqa: N801 (used as `with watch(optimizer) as seen`, as torch.no_grad is)
    """Records what happens to the learning rate while a training loop runs.

    `audit()` reports what is wrong with it.

    It registers a hook on the optimizer and, until the end of the `with`, gives the scheduler a
    subclass that records the calls of the method that advances it. Neither changes what the two do,
    or their `state_dict()`.

    Args:
        optimizer: that the loop steps.
        scheduler: that the loop calls; `None`: only the LRs are seen, not what wrote them.
        steps_per_epoch: optimizer steps; `None`: not known.
        epochs: of the whole run, even if only its beginning is watched; `None`: not known.
        meant: the schedule that was meant: a recipe, its schedule, or a function from the step to
            the multiplier.
        warmup_steps: calls of the scheduler that its warmup was meant to take.

    Raises:
        InputError: a length is below 1 or missing, or the scheduler cannot be copied.

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
        self._intended = Intended(
            steps_per_epoch=steps_per_epoch, epochs=epochs, meant=meant, warmup_steps=warmup_steps
        )
        check(optimizer, scheduler, self._intended)
        self._optimizer, self._scheduler = optimizer, scheduler
        self._events: list[Stepped | Called] = []
        self._idle = True  # no optimizer step since the last call of the scheduler
        self._class = type(scheduler)
        self._start_lrs, self._base_lrs = lrs_of(optimizer), base_lrs_of(optimizer)
        self._copied = None if scheduler is None else copies_of(optimizer, scheduler)

    def __enter__(self) -> Self:
        self._hooks = StepHooks(self._optimizer, after=self._on_step, reads=True)
        if self._scheduler is not None:
            self._scheduler.__class__ = self._noting()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.remove()
        if self._scheduler is not None:
            self._scheduler.__class__ = self._class

    def audit(self) -> Audit:
        """Returns the LRs recorded so far, and what is wrong with them.

        Raises:
            InputError: the optimizer made no step.
        """
        if not any(isinstance(event, Stepped) and not event.skipped for event in self._events):
            raise InputError("at least one optimizer step must be watched, but there was none.")
        return judge(
            self._optimizer,
            None if self._copied is None else copies_of(*self._copied),
            events=tuple(self._events),
            start_lrs=self._start_lrs,
            base_lrs=self._base_lrs,
            intended=self._intended,
        )

    def _on_step(self, optimizer: torch.optim.Optimizer) -> None:
        # The LRs are read after the step, because a closure may have written them, and Lightning's
        # whole training step is a closure.
        overflow = overflow_of(optimizer)
        self._events.append(Stepped(self._lrs(), skipped=overflow is not None and bool(overflow)))
        self._idle = False

    def _lrs(self) -> tuple[float, ...]:
        num_groups = len(self._start_lrs)  # those at the beginning, without any added later
        return lrs_of(self._optimizer)[:num_groups]

    def _noting(self) -> type:
        """Returns a subclass of the scheduler's class that records its calls.

        An attribute of the object would end up in its `state_dict` instead.
        """
        method = method_of(self._scheduler)

        def noted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            inner = getattr(self._class, method)
            if scheduler is not self._scheduler:  # a copy of it
                return inner(scheduler, *args, **kwargs)
            before, overflow = self._lrs(), self._idle and not _finite_gradients(self._optimizer)
            result = inner(scheduler, *args, **kwargs)
            position, metric = _told(scheduler, args, kwargs)
            self._events.append(Called(before, self._lrs(), position, metric, overflow))
            self._idle = True
            return result

        return type(
            self._class.__name__,
            (self._class,),
            {method: noted, "__module__": self._class.__module__},
        )


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


def _number(value: Any) -> float | None:
    return None if value is None else math.nan if isinstance(value, str) else float(value)


def _finite_gradients(optimizer: torch.optim.Optimizer) -> bool:
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
