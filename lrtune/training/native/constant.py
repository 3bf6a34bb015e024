"""The best constant prediction: what a model must be better than to have learnt anything."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lrtune.core.objective import Objective
from lrtune.training.native.data.images import Batches, EvaluationBatches, StreamedBatches
from lrtune.training.native.data.structure import concatenated, mapped
from lrtune.training.native.evaluation import Result, measure
from lrtune.training.native.forward import Loss

PATIENCE_S = 1.0
"""Time in which the validation targets must have been read."""
BATCH_SIZE = 1024
MOST_OUTPUTS = 2**24
"""Numbers in the outputs of all examples together; where they are more, nothing is worked out."""
RAREST = 1e-12
"""Frequency that takes the place of 0 under a logarithm."""


def best_constant(
    objective: Objective,
    batches: Batches,
    outputs_shape: tuple[int, ...],
    *,
    loss: Loss | None,
    num_classes: int | None,
    metrics: Mapping[str, Any],
) -> float | None:
    """The objective's value for the best prediction that is the same for all examples.

    Labels are predicted by the logarithms of their frequencies, numbers by their means, and targets
    that are all 0 or 1 by the logits of their means as well.

    Args:
        objective: whose value is wanted.
        batches: of pairs (inputs, targets) or of dicts with `labels`, to evaluate on.
        outputs_shape: of the model's outputs for one batch; its first number does not matter.
        loss: mean loss of (outputs, targets), on the CPU; `None`: it is not a function of them.
        num_classes: where Top-1 is counted.
        metrics: the task's own, by name, on the CPU.

    Returns:
        The value; `None` where it cannot be worked out in short time.
    """
    try:
        targets = _all_targets(batches)
        if targets is None or len(targets) * math.prod(outputs_shape[1:]) > MOST_OUTPUTS:
            return None
        candidates = _candidates(targets, outputs_shape)
    except Exception:  # training will tell what is wrong with the data
        return None
    values = []
    for outputs in candidates:
        try:
            measured = measure(_results(outputs, targets, loss), num_classes, metrics)
        except Exception:  # noqa: S112  # this loss or metric is not for such outputs
            continue
        values.append(objective.value(measured))
    best = objective.best(values)
    return best if math.isfinite(best) else None


def _all_targets(batches: Batches) -> Tensor | None:
    """The targets of all examples, on the CPU; `None` where reading them takes too long."""
    resident = batches.batches if isinstance(batches, StreamedBatches) else batches
    if isinstance(resident, EvaluationBatches):
        return resident.images.labels.cpu()
    deadline = time.monotonic() + PATIENCE_S
    parts = []
    for batch in batches.epoch(0, 0):
        part = batch["labels"] if isinstance(batch, Mapping) else batch[1]
        parts.append(mapped(lambda leaf: leaf.cpu(), part))
        if time.monotonic() > deadline:
            return None
    targets = concatenated(parts)
    return targets if isinstance(targets, Tensor) else None


def _candidates(targets: Tensor, outputs_shape: tuple[int, ...]) -> list[Tensor]:
    """Outputs for all examples, each the same for all of them."""
    if outputs_shape[1:] == tuple(targets.shape[1:]):
        mean = targets.double().mean(dim=0, keepdim=True)
        constants = [mean]
        if ((targets == 0) | (targets == 1)).all():
            constants.append(torch.logit(mean, eps=RAREST))
        return [constant.float().expand(targets.shape) for constant in constants]
    in_last = len(outputs_shape) > 2 and len(outputs_shape) == targets.ndim + 1
    in_last = in_last and outputs_shape[1:-1] == tuple(targets.shape[1:])
    num_classes = outputs_shape[-1] if in_last else outputs_shape[1]
    counts = torch.bincount(targets[targets >= 0].flatten(), minlength=num_classes)
    logits = (counts.double() / counts.sum()).clamp(min=RAREST).log().float()
    outputs = logits.expand(*targets.shape, num_classes)
    return [outputs if in_last else outputs.movedim(-1, 1)]


def _results(outputs: Tensor, targets: Tensor, loss: Loss | None) -> Iterator[Result]:
    for start in range(0, len(targets), BATCH_SIZE):
        part, wanted = (values[start : start + BATCH_SIZE] for values in (outputs, targets))
        value = loss(part, wanted) if loss is not None else torch.tensor(math.nan)
        yield len(wanted), value, part, wanted
