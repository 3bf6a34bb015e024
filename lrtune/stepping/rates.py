"""The LRs of an optimizer's parameter groups: read, written for one step, and put back after it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


def lrs_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """The LR of each parameter group."""
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


def base_lrs_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """The LR of each parameter group before any schedule, where a scheduler has noted it.

    timm notes it without the group's `lr_scale` (its layer-wise decay), and multiplies by that when
    it writes an LR.
    """
    return tuple(
        noted_lr(group) * group.get("lr_scale", 1.0) if "initial_lr" in group else noted_lr(group)
        for group in optimizer.param_groups
    )


def noted_lr(group: Mapping[str, Any]) -> float:
    """The LR of a parameter group before any schedule, without its `lr_scale`."""
    return float(group.get("initial_lr", group["lr"]))


@dataclass(frozen=True)
class Displaced:
    """What the program had as a parameter group's LR while another one stands in its place."""

    group: dict[str, Any]
    lr: Any
    """The very object: a number or a tensor."""
    value: torch.Tensor | None
    """What a tensor held that was written in place; `None` where `group["lr"]` was replaced."""
    written: Any
    """The object that stands in its place."""


def write_lrs(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> list[Displaced]:
    """Writes the LR of each parameter group and returns what to put back.

    A tensor is written in place, since a captured or compiled step reads that very tensor. Groups
    that share a tensor are the exception: all but the first get one of their own.
    """
    displaced, tensors = list[Displaced](), set[int]()
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        before = group["lr"]
        if not isinstance(before, torch.Tensor):
            group["lr"] = lr
            displaced.append(Displaced(group, before, None, lr))
        elif id(before) in tensors:
            group["lr"] = torch.full_like(before, lr)
            displaced.append(Displaced(group, before, None, group["lr"]))
        else:
            tensors.add(id(before))
            displaced.append(Displaced(group, before, before.detach().clone(), before))
            with torch.no_grad():
                before.fill_(lr)
    return displaced


def put_back(displaced: Iterable[Displaced]) -> None:
    """Puts back what `write_lrs` displaced, unless the program has replaced it in the meantime."""
    for place in displaced:
        if place.value is not None:
            with torch.no_grad():
                place.lr.copy_(place.value)
        elif place.group["lr"] is place.written:
            place.group["lr"] = place.lr
