"""From a recipe to an optimizer, built at its peak LR."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from lrtune.core.errors import InputError, Problems, check
from lrtune.core.optimizers import OPTIMIZERS, OWN
from lrtune.core.printing import is_name
from lrtune.core.recipe import (
    ParameterGroup,
    Recipe,
    optimizer_arguments,
    scale_problems,
    scaled_groups,
)

Groups = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


@runtime_checkable
class TwoPoints(Protocol):
    """An optimizer whose steps are taken at other weights than it is worth, like Schedule-Free.

    The model has one of them at a time: `y`, where gradients are taken, or `x`, the average of the
    iterates, which is what one evaluates and deploys (Defazio et al. 2024, arXiv 2405.15682). Every
    library calls the switches so.
    """

    def train(self) -> None:
        """The model gets `y`, where it has `x`."""

    def eval(self) -> None:
        """The model gets `x`, where it has `y`."""


def build_optimizer(
    recipe: Recipe, parameters: Groups, *, captured: bool = False
) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameters`, every group with its own `base_lr`.

    The LR of a group is `peak_lr * lr_scale`, where `lr_scale` (default 1) is a key that a group
    may carry; what the recipe has for the group's `name` takes its place. The optimizer is built at
    the peak LR and not at a warmup value: AdaBound keeps the LR it was built with as the base of
    its bounds, and built at 1e-7 and swept to 1e-3 it gives NaN.

    Of those that torch does not have, Schedule-Free SGD does bit for bit what its authors' package
    does, Prodigy up to rounding, and Schedule-Free AdamW but for 1e-15 more under its root, which
    only weights with gradients below 1e-7 notice.

    Args:
        recipe: which optimizer, with its settings and the LRs of named groups.
        parameters: parameters, or groups of them as torch takes them.
        captured: whether its step will be part of a CUDA graph: each group's LR is then a tensor on
            the device of its parameters, to be written in place.

    Raises:
        InputError: a group with an LR of its own, two groups of one name, a scale for a group that
            does not exist, or groups of different LR for an optimizer that has one LR: Prodigy
            would step all of them at the first one's.
    """
    given: list[Any] = list(parameters)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups: list[dict[str, Any]] = [dict(group) for group in given]
    scaled = scaled_groups(recipe, describe_groups(groups))
    for group, described in zip(groups, scaled, strict=True):
        group["name"] = described.name
        group["base_lr"] = group["lr"] = base_lr(recipe, group)
        if captured:
            group["params"] = list(group["params"])
            device = group["params"][0].device
            # Fused steps take it in single precision on a GPU, and as they take a number on a CPU.
            dtype = torch.float32 if device.type == "cuda" else torch.float64
            group["lr"] = torch.tensor(group["base_lr"], device=device, dtype=dtype)
    if recipe.optimizer == OWN:
        raise InputError("The optimizer `own` is that of a training command, and of nothing else.")
    facts = OPTIMIZERS[recipe.optimizer]
    scales = [group.lr_scale for group in scaled]
    if facts.has_one_lr and len(set(scales)) > 1:
        raise InputError(
            f"`lr_scale` must be the same in all groups for {recipe.optimizer}, but got {scales}."
        )
    arguments = optimizer_arguments(recipe)
    if facts.is_fused:
        arguments["fused"] = True
    if facts.takes_capturable:  # without a GPU torch refuses it
        arguments["capturable"] = captured and bool(groups) and groups[0]["params"][0].is_cuda
    build = getattr(
        import_module(facts.library), facts.class_name
    )  # pytorch_optimizer takes seconds to import
    optimizer: torch.optim.Optimizer = build(groups, **arguments)
    if isinstance(optimizer, torch.optim.SGD) and recipe.momentum:
        # Fused SGD makes its momentum in the first step: it then fails where some parameters have
        # their first gradient in a later one, and leaves uninitialised memory where a gradient
        # scaler skips the first.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def describe_groups(groups: Iterable[Mapping[str, Any]]) -> tuple[ParameterGroup, ...]:
    """Name and LR scale of each group; a group without a name is called by its number.

    Raises:
        InputError: a group with an LR of its own, or two groups of one name.
    """
    groups = list(groups)
    names = [group.get("name", str(index)) for index, group in enumerate(groups)]
    rule = "a group's LR is `peak_lr * lr_scale`: give `lr_scale`, not `lr`"
    check([
        *(("lr" not in group, f"{rule}, but got lr={group.get('lr')}.") for group in groups),
        (
            all(map(is_name, names)) and len(set(names)) == len(names),
            f"the `name` of each parameter group must be a text of its own, but got {names}.",
        ),
    ])  # fmt: skip
    Problems(scale_problems(groups)).raise_any()
    return tuple(
        ParameterGroup(name=name, lr_scale=float(group.get("lr_scale", 1.0)))
        for name, group in zip(names, groups, strict=True)
    )


def base_lr(recipe: Recipe, group: Mapping[str, Any]) -> float:
    """What the LR of a group with a name is a multiple of."""
    scales = dict(recipe.group_scales)
    return recipe.peak_lr * float(scales.get(group["name"], group.get("lr_scale", 1.0)))


def set_lr(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Every group's LR is `base_lr * multiplier`, so the groups keep their ratio."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier


def library_of(recipe: Recipe) -> Mapping[str, str]:
    """The optimizer's library and its version: two LAMBs of the same name differ."""
    from importlib.metadata import version

    package = "torch" if OPTIMIZERS[recipe.optimizer].is_of_torch else "pytorch-optimizer"
    return {package: version(package)}
