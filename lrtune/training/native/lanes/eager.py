"""What a lane does, and the eager one: it runs each operation when Python comes to it.

Runs train eagerly on a CPU, and wherever a CUDA graph cannot be had. The lanes of
`lrtune.training.native.lanes.captured` replay their steps. Both give the same numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lrtune.core.objective import Metrics
from lrtune.training.native.data.images import Batches
from lrtune.training.native.data.structure import Batch, noted
from lrtune.training.native.evaluation import Evaluation
from lrtune.training.native.learner import Learner, Step
from lrtune.training.native.optimizers import TwoPoints, set_lr
from lrtune.training.native.randomness import derive_seed, seed_all

NUM_STATISTICS = 50
"""Batches that re-estimate batch norm's statistics after Schedule-Free has swapped the weights."""


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
        """Draws what is random in an epoch of a run, counted from 0.

        The next steps go through its batches.
        """

    def steps(self, multipliers: Sequence[float]) -> Taken:
        """The next steps of the epoch, at each group's `base_lr` times these.

        They are fewer where the epoch ends before.

        A step that the gradient scaler skips does not use up its multiplier.
        """

    def evaluate(self, *, averaged: bool) -> Metrics:
        """The metrics on the validation set, of the weights as they are or of the averaged ones."""


@dataclass(kw_only=True)
class EagerLane:
    """Runs each operation when Python comes to it."""

    step: Step
    batches: Batches
    validation: Batches
    evaluation: Evaluation
    accumulate: int
    _begun: tuple[int, int] = field(init=False)
    _epoch: Iterator[Batch] = field(init=False)

    @property
    def learner(self) -> Learner:
        """What it trains."""
        return self.step.learner

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """See `Lane`."""
        seed_all(
            derive_seed(seed, "epoch", epoch)
        )  # dropout, the task's transforms and many a loader draw from these
        self._begun = seed, epoch
        self._epoch = iter(self.batches.epoch(seed, epoch))

    def steps(self, multipliers: Sequence[float]) -> Taken:
        """See `Lane`."""
        self.learner.train()
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
        return Taken(
            losses=tuple(torch.stack(losses).tolist()) if losses else (), num_steps=num_steps
        )

    def evaluate(self, *, averaged: bool) -> Metrics:
        """See `Lane`.

        The model is left as it was evaluated until the next step, and so it is kept and deployed.
        """
        assert self.learner.averaged is not None or not averaged
        model = (
            self.learner.averaged.refresh()
            if averaged and self.learner.averaged
            else self.learner.model
        )
        if not averaged and isinstance(self.learner.optimizer, TwoPoints):
            self.learner.optimizer.eval()
            gather_statistics(model, self.batches.epoch(*self._begun), self.step)
        return self.evaluation(model, self.validation)


@torch.no_grad()
def gather_statistics(model: nn.Module, batches: Iterator[Batch], step: Step) -> None:
    """Gives batch norm the mean of the statistics of up to `NUM_STATISTICS` batches.

    For weights that no step was taken at. The authors of Schedule-Free advise it, and let the
    running statistics take in 50 batches; a mean of the batches is what these come to, and owes
    nothing to the weights before where an epoch has fewer (`torch.optim.swa_utils.update_bn`).
    Training goes by the statistics of its batches alone, so it needs none of the old ones back.
    Layers that a model keeps from training keep theirs.
    """
    model.train()
    norms = [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all
    try:
        for batch in islice(batches, NUM_STATISTICS):
            with noted("batch", batch), step.arithmetic.autocast():
                step.forward(model, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
