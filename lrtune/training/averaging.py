"""Averaged weights: what a run would be worth if it were annealed now."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """An exponential moving average of a model's weights and buffers, batch-norm statistics included.

    Averaging the iterates of a high LR does much of what letting the LR down would do (Polyak & Juditsky 1992; of
    networks arXiv 1803.05407, 2502.06761), so in mid-run the average's Top-1 says more of the run's end than its own.
    With `d = 0.5 ** (1 / half_life_steps)`, step `i` of `n` weighs `d**(n - i) * (1 - d) / (1 - d**n)`: corrected for
    its start as Adam's moments are (Kingma & Ba 2015, arXiv 1412.6980, section 3), so that the initial weights have
    no share in it.
    """

    def __init__(self, model: nn.Module, half_life_steps: float):
        """Of `model`, which is copied."""
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.num_steps = 0
        self._decay = 0.5 ** (1 / half_life_steps)
        self._averages, self._counts = _tensors(self.model)

    def update(self, model: nn.Module) -> None:
        """Takes in the weights after one more optimizer step. No value leaves the device."""
        latest, counts = _tensors(model)
        self.num_steps += 1
        share = (1 - self._decay) / (1 - self._decay**self.num_steps)
        lerp = get_ema_multi_avg_fn(1 - share)  # type: ignore[no-untyped-call]
        lerp(self._averages, latest, 0)
        with torch.no_grad():
            for mine, theirs in zip(self._counts, counts, strict=True):
                mine.copy_(theirs)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for `restore`."""
        return {"model": self.model.state_dict(), "num_steps": self.num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a `state`."""
        self.model.load_state_dict(state["model"])
        self.num_steps = state["num_steps"]


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What is averaged: parameters and buffers of floating point; and what is taken as it is, counters say."""
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
