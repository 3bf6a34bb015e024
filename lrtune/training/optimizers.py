"""From a recipe to an optimizer, built at its peak LR."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from lrtune.core.errors import InputError, check
from lrtune.core.recipe import Recipe

Groups = Iterable[nn.Parameter] | Iterable[dict[str, Any]]

OF_TORCH = ("sgd", "adagrad", "rmsprop", "adam", "adamw")
"""Optimizers that come with torch; the others are those of pytorch-optimizer."""
CAPTURABLE = ("sgd", "rmsprop", "adam", "adamw")
"""Optimizers whose step reads nothing on the host, so that it can be part of a CUDA graph."""


@runtime_checkable
class TwoPoints(Protocol):
    """An optimizer that takes its steps at other weights than those that it is worth, as Schedule-Free does.

    The model has one of them at a time: `y`, where gradients are taken, or `x`, the average of the iterates, which is
    what one evaluates and deploys (Defazio et al. 2024, arXiv 2405.15682). Every library calls the switches so.
    """

    def train(self) -> None:
        """The model gets `y`, where it has `x`."""

    def eval(self) -> None:
        """The model gets `x`, where it has `y`."""


def build_optimizer(
    recipe: Recipe, parameters: Groups, *, scaled: bool = False, captured: bool = False
) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameters`, every group with its own `base_lr`.

    The LR of a group is `peak_lr * lr_scale`, where `lr_scale` (default 1) is a key that a group may carry. The
    optimizer is built at the peak LR and not at a warmup value: AdaBound keeps the LR it was built with as the base
    of its bounds, and built at 1e-7 and swept to 1e-3 it gives NaN.

    Args:
        recipe: which optimizer, and its settings.
        parameters: parameters, or groups of them as torch takes them.
        scaled: whether a gradient scaler will skip steps. Fused SGD takes part in a skipped step all the same, and if
            that is its first, its momentum is uninitialised memory from then on.
        captured: whether its step will be part of a CUDA graph: each group's LR is then a tensor on the device of its
            parameters, to be written in place.

    Raises:
        InputError: a group with an LR of its own, or groups of different LR for Prodigy, which would step all of them
            at the first one's.
    """
    given: list[Any] = list(parameters)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups: list[dict[str, Any]] = [dict(group) for group in given]
    rule = "a group's LR is `peak_lr * lr_scale`: give `lr_scale`, not `lr`"
    check(("lr" not in group, f"{rule}, but got lr={group.get('lr')}.") for group in groups)
    for group in groups:
        group["base_lr"] = group["lr"] = base_lr(recipe, group)
        if captured:
            group["params"] = list(group["params"])
            device = group["params"][0].device
            # Fused steps take it in single precision on a GPU, and as they take a number on a CPU.
            dtype = torch.float32 if device.type == "cuda" else torch.float64
            group["lr"] = torch.tensor(group["base_lr"], device=device, dtype=dtype)
    lr, decay = recipe.peak_lr, recipe.weight_decay
    on_gpu = captured and bool(groups) and groups[0]["params"][0].is_cuda  # elsewhere torch refuses `capturable`
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            return torch.optim.SGD(groups, lr, recipe.momentum, weight_decay=decay, nesterov=nesterov, fused=not scaled)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, weight_decay=decay, capturable=on_gpu)
        case "adam":
            return torch.optim.Adam(groups, lr, weight_decay=decay, fused=True, capturable=on_gpu)
        case "adamw":
            return torch.optim.AdamW(groups, lr, weight_decay=decay, fused=True, capturable=on_gpu)
        case _:
            return _of_pytorch_optimizer(recipe, groups)


def _of_pytorch_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """One that torch does not have.

    Schedule-Free SGD does bit for bit what its authors' package does, Prodigy up to rounding, and Schedule-Free AdamW
    but for 1e-15 more under its root, which only weights with gradients below 1e-7 notice. To Schedule-Free a warmup of
    the LR is the same as its own `warmup_steps`. Prodigy goes without its `safeguard_warmup`: with it, the LR that it
    finds by itself falls with the one it is given, down to no training at a tenth, and a warmup trains no better.
    """
    import pytorch_optimizer as library  # seconds to import, so only where it is used

    lr, decay = recipe.peak_lr, recipe.weight_decay
    optimizer: torch.optim.Optimizer
    match recipe.optimizer:
        case "lamb":
            optimizer = library.Lamb(groups, lr=lr, weight_decay=decay)
        case "adabound":
            optimizer = library.AdaBound(groups, lr=lr, weight_decay=decay)
        case "schedule-free-sgd":
            optimizer = library.ScheduleFreeSGD(groups, lr=lr, momentum=recipe.momentum, weight_decay=decay)
        case "schedule-free-adamw":
            optimizer = library.ScheduleFreeAdamW(groups, lr=lr, weight_decay=decay)
        case "prodigy":
            scales = [float(group.get("lr_scale", 1.0)) for group in groups]
            if len(set(scales)) > 1:
                raise InputError(f"`lr_scale` must be the same in all groups for prodigy, but got {scales}.")
            optimizer = library.Prodigy(groups, lr=lr, weight_decay=decay)
        case _:
            raise AssertionError(recipe.optimizer)
    return optimizer


def base_lr(recipe: Recipe, group: Mapping[str, Any]) -> float:
    """What a group's LR is a multiple of."""
    return recipe.peak_lr * float(group.get("lr_scale", 1.0))


def set_lr(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Every group's LR is `base_lr * multiplier`, so the groups keep their ratio."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier


def library_of(recipe: Recipe) -> Mapping[str, str]:
    """The library that the optimizer comes from, and its version: two LAMBs of the same name differ."""
    from importlib.metadata import version

    package = "torch" if recipe.optimizer in OF_TORCH else "pytorch-optimizer"
    return {package: version(package)}
