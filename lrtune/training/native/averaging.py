"""Averaged weights: what a run would be worth if it were annealed now."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """An exponential moving average of a model's weights and buffers.

    The statistics of batch norm are averaged like the weights.

    Averaging the iterates of a high LR does much of what letting the LR down would do (Polyak &
    Juditsky 1992; of networks arXiv 1803.05407, 2502.06761), so in mid-run the average's Top-1 says
    more of the run's end than its own. With `d = 0.5 ** (1 / half_life_steps)`, step `i` of `n`
    weighs `d**(n - i) * (1 - d) / (1 - d**n)`: corrected for its start as Adam's moments are
    (Kingma & Ba 2015, arXiv 1412.6980, section 3), so that the initial weights have no share in it.
    An update does the same to the same memory each time, so that it can be part of a CUDA graph. Of
    Schedule-Free, which is evaluated at an average of its own, it averages where the gradients were
    taken.
    """

    def __init__(self, model: nn.Module, half_life_steps: float):
        """Of `model`, which is copied."""
        self.num_steps = 0
        """Updates so far. Whoever calls `update` counts them: a CUDA graph that updates cannot."""
        self.model = copy.deepcopy(model).requires_grad_(False)
        """With the averages as of the last `refresh`."""
        self._source = model
        self._decay = 0.5 ** (1 / half_life_steps)
        self._latest = _averaged(model)
        self._moments = [torch.zeros_like(tensor) for tensor in self._latest]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the model's weights after one more optimizer step.

        No value leaves the device.
        """
        torch._foreach_lerp_(self._moments, self._latest, 1 - self._decay)

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """Puts the averages of all steps so far into `model`, and returns it.

        Before the first they are the weights.
        """
        share = 1 - self._decay**self.num_steps
        means = torch._foreach_div(self._moments, share) if share else self._latest
        torch._foreach_copy_(_averaged(self.model), means)
        for mine, theirs in zip(_counters(self.model), _counters(self._source), strict=True):
            mine.copy_(theirs)
        return self.model

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for `restore`."""
        return {"moments": self._moments, "num_steps": self.num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a `state`, in place."""
        for mine, saved in zip(self._moments, state["moments"], strict=True):
            mine.copy_(saved)
        self.num_steps = state["num_steps"]

    def forget(self) -> None:
        """Goes back to the start, in place."""
        torch._foreach_zero_(self._moments)
        self.num_steps = 0


def _averaged(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of floating point."""
    return [t.detach() for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]


def _counters(model: nn.Module) -> list[Tensor]:
    """Buffers that are taken as they are, like the number of batches that batch norm has seen."""
    return [tensor for tensor in model.buffers() if not tensor.is_floating_point()]
