"""The loss of each optimizer step, as the program hands it to `backward()`."""

from __future__ import annotations

import functools
import math
from typing import Any, Callable

import torch

Number = Any
"""A float, or a tensor with one element on a device that is not to be waited for."""


def is_late(tensor: torch.Tensor) -> bool:
    """Whether reading the tensor would wait for a device."""
    return tensor.device.type != "cpu"


def is_capturing() -> bool:
    """Whether work is being captured into a CUDA graph instead of being done."""
    return torch.cuda._initialized and torch.cuda.is_current_stream_capturing()


def numbers_of(values: list[Number]) -> list[float]:
    """The values as floats; each device is waited for once."""
    if all(type(value) is float for value in values):
        return values
    numbers = [math.nan] * len(values)
    by_device: dict[torch.device, list[int]] = {}
    for place, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            by_device.setdefault(value.device, []).append(place)
        else:
            numbers[place] = value
    for device, places in by_device.items():
        dtype = torch.float32 if device.type == "mps" else torch.float64
        tensors = [values[place].detach().reshape(()).to(dtype) for place in places]
        for place, number in zip(places, torch.stack(tensors).tolist()):
            numbers[place] = number
    return numbers


class Losses:
    """Adds up the losses of the micro-batches between two steps.

    Within a step (a closure) only the first loss counts, since an optimizer may evaluate it again.
    Without a copy a loss could change before it is read, because a program may write to it.
    """

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._sum: Number | None = None
        self._closed = False  # the next loss begins a new sum
        self._in_step = False
        self._counted_in_step = False
        self._scale: torch.Tensor | None = None  # by which a loss has been scaled since

    def watch(self) -> None:
        """Wraps `torch.autograd.backward`, which `Tensor.backward` calls, and gradient scalers."""
        torch.autograd.backward = self._noting(torch.autograd.backward)
        scalers: set[Any] = {torch.cuda.amp.GradScaler}
        if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler"):
            scalers.add(torch.amp.GradScaler)
        for scaler in scalers:
            for name, wrap in (("scale", self._unscaling), ("step", self._closing)):
                if name in vars(scaler):  # a subclass that inherits it is wrapped already
                    setattr(scaler, name, wrap(vars(scaler)[name]))

    def begin_step(self) -> None:
        """A step begins."""
        self._in_step, self._counted_in_step = True, False

    def end_step(self) -> None:
        """A step has ended, of whichever optimizer; the next loss belongs to another one."""
        self._in_step, self._closed = False, True

    def take(self) -> Number:
        """Ends a step; returns its loss, NaN if there is none. It is not given twice."""
        loss, self._sum = self._sum, None
        self._in_step, self._closed = False, True
        return math.nan if loss is None else loss

    def _note(self, tensors: Any, gradients: Any) -> None:
        if isinstance(gradients, (list, tuple)):
            gradients = next((item for item in gradients if item is not None), None)
        if gradients is not None or (self._in_step and self._counted_in_step):
            return
        for loss in (tensors,) if isinstance(tensors, torch.Tensor) else tensors:
            if loss.numel() == 1 and not is_capturing():
                self._add(self._unscaled(loss))
        self._counted_in_step = self._in_step

    def _add(self, loss: Number) -> None:
        if self._closed:
            self._sum, self._closed = None, False
        if self._sum is None:
            self._sum = loss
        elif isinstance(self._sum, torch.Tensor) and isinstance(loss, torch.Tensor):
            self._sum = self._sum + loss.to(self._sum.device)
        else:
            self._sum = self._sum + loss

    def _unscaled(self, loss: torch.Tensor) -> Number:
        """A copy of the loss, as it was before a gradient scaler multiplied it."""
        before: torch.Tensor | None = getattr(loss, "_lrtune_unscaled", None)
        scale, self._scale = self._scale, None
        value = loss if before is None else before
        if not is_late(value):
            number: float = value.item()
            return number if before is not None or scale is None else number / float(scale)
        late = value.detach().reshape(()).to(torch.float32, copy=True)
        return late if before is not None or scale is None else late / scale.to(late.device)

    def _noting(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def noting(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
            try:
                self._note(tensors, grad_tensors)
            except Exception:
                self._on_error()
            return backward(tensors, grad_tensors, *args, **kwargs)

        return noting

    def _unscaling(self, scale: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(scale)
        def unscaling(scaler: Any, outputs: Any) -> Any:
            scaled = scale(scaler, outputs)
            try:
                if scaled is not outputs:  # it is the same where the scaler is disabled
                    self._scale = scaler._scale
                    if isinstance(scaled, torch.Tensor):
                        scaled._lrtune_unscaled = outputs.detach()  # type: ignore[attr-defined]
            except Exception:
                self._on_error()
            return scaled

        return unscaling

    def _closing(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A scaler's step: where it skips the optimizer's, the losses so far belong to none."""

        @functools.wraps(step)
        def closing(*args: Any, **kwargs: Any) -> Any:
            try:
                return step(*args, **kwargs)
            finally:
                self._closed = True

        return closing
