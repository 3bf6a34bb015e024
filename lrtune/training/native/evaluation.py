"""What is measured of a model: mean loss, Top-1 if it is counted, and the task's own metrics."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.core.errors import LrtuneError, TaskError, raised
from lrtune.core.objective import TOP1, Metrics
from lrtune.training.native.data.images import Batches
from lrtune.training.native.data.structure import (
    concatenated,
    count_examples,
    describe,
    mapped,
    noted,
)
from lrtune.training.native.devices import Arithmetic
from lrtune.training.native.forward import IGNORED, Forward, check_top1

Result = tuple[int, Tensor, Any, Any]
"""Of a batch: the number of examples, their mean loss, the outputs and the targets."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measures a model on validation or test data."""

    forward: Forward
    arithmetic: Arithmetic
    num_classes: int | None = None
    """Where Top-1 is counted."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The task's own: objects with update, compute and reset, on the device, or functions."""

    def __call__(self, model: nn.Module, batches: Batches) -> Metrics:
        """The metrics by name, of every example once."""
        return measure(self.results(model, batches), self.num_classes, self.metrics)

    def results(self, model: nn.Module, batches: Batches) -> Iterator[Result]:
        """What the model makes of each batch."""
        model.eval()
        for batch in batches.epoch(0, 0):
            with noted("batch", batch), self.arithmetic.autocast():
                loss, outputs, targets = self.forward(model, batch)
            yield count_examples(batch), loss, outputs, targets


@torch.inference_mode()
def measure(
    results: Iterable[Result], num_classes: int | None, metrics: Mapping[str, Any]
) -> Metrics:
    """The metrics of what a model made of a data set.

    Args:
        results: of each batch.
        num_classes: where Top-1 is counted.
        metrics: the task's own, by name.

    Raises:
        TaskError: there was no batch, or a metric's value is not one number.
    """
    gathered: list[tuple[Any, Any]] = []
    running = {name: metric for name, metric in metrics.items() if is_running(metric)}

    def watched() -> Iterator[Result]:
        for result in results:
            if metrics:
                outputs, targets = mapped(_single, result[2]), result[3]
                for name, metric in running.items():
                    with _named(name), noted("outputs and targets", (outputs, targets)):
                        metric.update(outputs, targets)
                if len(running) < len(metrics):
                    gathered.append((mapped(_on_cpu, outputs), mapped(_on_cpu, targets)))
            yield result

    for metric in running.values():
        metric.reset()
    totals, num_examples = tally(watched(), num_classes)
    measured = named(totals.tolist(), num_examples)
    if gathered:
        outputs, targets = (concatenated(parts) for parts in zip(*gathered, strict=True))
    for name, metric in metrics.items():
        with _named(name):
            if is_running(metric):
                value = metric.compute()
            else:
                with noted("outputs and targets", (outputs, targets)):
                    value = metric(outputs, targets)
        measured[name] = _number(name, value)
    return measured


@torch.inference_mode()
def tally(results: Iterable[Result], num_classes: int | None) -> tuple[Tensor, int]:
    """Sums over all batches, on the device, so that nothing waits for it.

    Returns:
        The losses of all examples together and, where Top-1 is counted, how many targets are right
        and how many there are, float64, (1,) or (3,); and the number of examples.
    """
    losses, right, counted, num_examples = [], [], [], 0
    for size, loss, outputs, targets in results:
        losses.append(loss.double() * size)
        num_examples += size
        if num_classes is not None:
            check_top1(outputs, targets, num_classes)
            right.append((outputs.argmax(dim=1) == targets).sum())
            counted.append((targets.long() != IGNORED).sum())
    if not losses:
        raise TaskError("validation and test data must give at least 1 batch, but they gave none.")
    sums = [torch.stack(column).sum().double() for column in (losses, right, counted) if column]
    return torch.stack(sums), num_examples


def named(totals: list[float], num_examples: int) -> dict[str, float]:
    """The metrics that a `tally` comes to."""
    loss, *top1 = totals
    measured = {"val_loss": loss / num_examples}
    if top1:
        right, counted = top1
        measured[TOP1] = 100 * right / max(counted, 1.0)
    return measured


def is_running(metric: Any) -> bool:
    """Whether a metric takes in one batch after the other, as those of torchmetrics do."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def on_device(metrics: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Copies of running metrics, on the device; functions as they are."""

    def placed(metric: Any) -> Any:
        if not is_running(metric):
            return metric
        copied = copy.deepcopy(metric)
        return copied.to(device) if hasattr(copied, "to") else copied

    return {name: placed(metric) for name, metric in metrics.items()}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says which metric it was that failed.

    Raises:
        TaskError: it failed.
    """
    try:
        yield
    except (LrtuneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise TaskError(f"the metric {name!r} failed: {raised(error)}") from error


def _single(leaf: Any) -> Any:
    """A tensor in half precision as one in single."""
    is_half = isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16)
    return leaf.float() if is_half else leaf


def _on_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TaskError(
            f"`task.metrics` must give one number each, but {name!r} gave {describe(value)}."
        ) from None
