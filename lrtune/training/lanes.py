"""Lanes: where a model is trained, one run after another.

An eager lane runs each operation when Python comes to it: on a CPU, and wherever a CUDA graph cannot be had. The
lanes of `lrtune.training.captured` replay theirs. Both give the same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from lrtune.training.batches import Batches, derive_seed
from lrtune.training.learner import Batch, Learner, Step
from lrtune.training.optimizers import set_lr
from lrtune.training.precision import Arithmetic

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Steps that were taken, or tried."""

    losses: tuple[float, ...]
    """Of the batches of each step, before it."""
    num_steps: int
    """As many, less those that a gradient scaler skipped."""


class Lane(Protocol):
    """What a run trains on."""

    @property
    def learner(self) -> Learner:
        """What it trains."""

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """Draws what is random in an epoch of a run, counted from 0; the next steps go through its batches."""

    def steps(self, multipliers: Sequence[float]) -> Taken:
        """The next steps of the epoch, at each group's `base_lr` times these; fewer where the epoch ends before.

        A step that the gradient scaler skips does not use up its multiplier.
        """

    def evaluate(self, *, averaged: bool) -> tuple[float, float]:
        """Mean validation loss and Top-1 in percent, of the weights as they are or of the averaged ones."""


@dataclass(kw_only=True)
class EagerLane:
    """Runs each operation when Python comes to it."""

    step: Step
    batches: Batches
    validation: Batches
    evaluation_loss: Loss
    accumulate: int
    _epoch: Iterator[Batch] = field(init=False)

    @property
    def learner(self) -> Learner:
        """What it trains."""
        return self.step.learner

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """See `Lane`."""
        # Of dropout, and of loaders without a generator of their own.
        torch.manual_seed(derive_seed(seed, "epoch", epoch))
        self._epoch = iter(self.batches.epoch(seed, epoch))

    def steps(self, multipliers: Sequence[float]) -> Taken:
        """See `Lane`."""
        self.learner.model.train()
        losses: list[Tensor] = []
        num_steps = 0
        while len(losses) < len(multipliers):
            micro_batches = list(islice(self._epoch, self.accumulate))
            if not micro_batches:
                break
            set_lr(self.learner.optimizer, multipliers[num_steps])
            loss, taken = self.step(micro_batches)
            losses.append(loss)
            num_steps += taken
        if self.learner.averaged is not None:
            self.learner.averaged.num_steps += num_steps
        return Taken(losses=tuple(torch.stack(losses).tolist()) if losses else (), num_steps=num_steps)

    def evaluate(self, *, averaged: bool) -> tuple[float, float]:
        """See `Lane`."""
        assert self.learner.averaged is not None or not averaged
        model = self.learner.averaged.refresh() if averaged and self.learner.averaged else self.learner.model
        return evaluate(model, self.validation, self.evaluation_loss, self.step.arithmetic)


def evaluate(model: nn.Module, batches: Batches, loss: Loss, arithmetic: Arithmetic) -> tuple[float, float]:
    """Mean loss over the images, and Top-1 in percent."""
    total, correct, num_images = count(model, batches, loss, arithmetic)
    return total.item() / num_images, 100 * correct.item() / num_images


@torch.inference_mode()
def count(model: nn.Module, batches: Batches, loss: Loss, arithmetic: Arithmetic) -> tuple[Tensor, Tensor, int]:
    """The losses of all images together and how many of them are right, both on the device; and how many there are."""
    model.eval()
    losses, correct, num_images = [], [], 0
    for inputs, labels in batches.epoch(0, 0):
        with arithmetic.autocast():
            logits = model(inputs)
            losses.append(loss(logits, labels).double() * len(labels))
        correct.append((logits.argmax(dim=1) == labels).sum())
        num_images += len(labels)
    return torch.stack(losses).sum(), torch.stack(correct).sum(), num_images
