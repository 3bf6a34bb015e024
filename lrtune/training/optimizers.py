"""From a recipe to an optimizer, built at its peak LR."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lrtune.core.recipe import Recipe

Groups = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


def build_optimizer(recipe: Recipe, parameters: Groups, *, scaled: bool = False) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameters`, every group with its own `base_lr`.

    The LR of a group is `peak_lr * lr_scale`, where `lr_scale` (default 1) is a key that a group may carry. The
    optimizer is built at the peak LR and not at a warmup value: AdaBound keeps the LR it was built with as the base
    of its bounds, and built at 1e-7 and swept to 1e-3 it gives NaN.

    Args:
        recipe: which optimizer, and its settings.
        parameters: parameters, or groups of them as torch takes them.
        scaled: whether a gradient scaler will skip steps. Fused SGD takes part in a skipped step all the same, and if
            that is its first, its momentum is uninitialised memory from then on.
    """
    given: list[Any] = list(parameters)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups: list[dict[str, Any]] = [dict(group) for group in given]
    for group in groups:
        group["base_lr"] = group["lr"] = recipe.peak_lr * group.get("lr_scale", 1.0)
    lr, decay = recipe.peak_lr, recipe.weight_decay
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            return torch.optim.SGD(groups, lr, recipe.momentum, weight_decay=decay, nesterov=nesterov, fused=not scaled)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(groups, lr, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr, weight_decay=decay, fused=True)
        case "lamb":
            from pytorch_optimizer import Lamb  # seconds to import, so only where it is used

            lamb: torch.optim.Optimizer = Lamb(groups, lr=lr, weight_decay=decay)
            return lamb
        case "adabound":
            from pytorch_optimizer import AdaBound

            adabound: torch.optim.Optimizer = AdaBound(groups, lr=lr, weight_decay=decay)
            return adabound


def set_lr(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Every group's LR is `base_lr * multiplier`, so the groups keep their ratio."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier


def library_of(recipe: Recipe) -> Mapping[str, str]:
    """The library that the optimizer comes from, and its version: two LAMBs of the same name differ."""
    from importlib.metadata import version

    package = "pytorch-optimizer" if recipe.optimizer in ("lamb", "adabound") else "torch"
    return {package: version(package)}
