"""What training changes, and the one optimizer step that changes it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.core.training import State
from lrtune.training.native.averaging import AveragedWeights
from lrtune.training.native.data.structure import Batch, noted
from lrtune.training.native.devices import Arithmetic
from lrtune.training.native.forward import Forward
from lrtune.training.native.optimizers import TwoPoints


@dataclass(frozen=True, kw_only=True)
class Learner:
    """All that training changes."""

    model: nn.Module
    averaged: AveragedWeights | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def train(self) -> None:
        """Makes model and optimizer ready for steps."""
        self.model.train()
        if isinstance(self.optimizer, TwoPoints):
            self.optimizer.train()

    def state(self) -> State:
        """Tensors and plain values, for `restore`; they go on changing with the learner."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state() if self.averaged is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a `state`."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.restore(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step: forward and backward of its micro-batches, clipping, update, average."""

    learner: Learner
    forward: Forward
    """From the model and a batch to the mean loss."""
    model: Any
    """The learner's model, as it is or compiled."""
    arithmetic: Arithmetic
    clip_norm: float
    """Largest norm of the gradient; `inf`: not clipped."""

    def __call__(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, bool]:
        """Takes the step at the LR that the optimizer has.

        Nothing is read back from the device, except whether a gradient scaler skipped the step.

        Returns:
            Mean loss of the batches before the step, on the device; and whether the step was taken,
            or skipped by the gradient scaler. The averages are updated if it was taken, and left to
            the caller to count.
        """
        model, optimizer, scaler = self.learner.model, self.learner.optimizer, self.learner.scaler
        losses = []
        for batch in micro_batches:
            with noted("batch", batch):
                with self.arithmetic.autocast():
                    loss, _, _ = self.forward(self.model, batch)
                loss = loss / len(micro_batches)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if math.isfinite(self.clip_norm):
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        taken = not scaler.is_enabled() or scaler.get_scale() >= scale
        if taken and self.learner.averaged is not None:
            self.learner.averaged.update()
        return (losses[0] if len(losses) == 1 else torch.stack(losses).sum()), taken
