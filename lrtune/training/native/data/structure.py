"""Batches of any structure: dicts, tuples, lists and dataclasses, nested at will."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Batch = Any
"""Tensors in any structure; mostly a pair (inputs, targets)."""


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with its tensors on `device`.

    What is no plain container and has a method `to`, like the batches of torch_geometric, is moved
    by that.
    """

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return mapped(moved, batch)


def mapped(function: Callable[[Any], Any], batch: Batch) -> Batch:
    """A copy of the structure with `function` of each leaf in its place."""
    if isinstance(batch, Mapping):
        result: Any = copy.copy(batch)
        for key, value in batch.items():
            result[key] = mapped(function, value)
        return result
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(function, part) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(mapped(function, part) for part in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        result = copy.copy(batch)
        for name in _field_names(batch):
            object.__setattr__(result, name, mapped(function, getattr(batch, name)))
        return result
    return function(batch)


def leaves(batch: Batch) -> Iterator[Any]:
    """What the structure holds, in its own order."""
    if isinstance(batch, Mapping):
        parts: Iterator[Any] = iter(batch.values())
    elif isinstance(batch, tuple | list):
        parts = iter(batch)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts = (getattr(batch, name) for name in _field_names(batch))
    else:
        yield batch
        return
    for part in parts:
        yield from leaves(part)


def count_examples(batch: Batch) -> int:
    """The length of the first tensor that has one; 1 where there is no such tensor."""
    shapes = (leaf.shape for leaf in leaves(batch) if isinstance(leaf, Tensor))
    return next((shape[0] for shape in shapes if len(shape)), 1)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Batches of the same structure as one of all their examples."""
    parts = [iter(leaves(batch)) for batch in batches]

    def joined(_: Any) -> Any:
        column = [next(part) for part in parts]
        if not isinstance(column[0], Tensor):
            return column
        return torch.cat([tensor.reshape(-1) if not tensor.ndim else tensor for tensor in column])

    return mapped(joined, batches[0])


def describe(batch: Batch) -> str:
    """A structure in words, with its tensors' shapes: `{input_ids: (8, 32), labels: (8,)}`."""
    if isinstance(batch, Tensor):
        return str(tuple(batch.shape))
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of [{', '.join(map(describe, batch))}]"
    return f"a {type(batch).__name__}"


@contextmanager
def noted(what: str, batch: Batch) -> Iterator[None]:
    """Notes the structure of a batch on whatever is raised in the context: `batch: (64, 3)`."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{what}: {describe(batch)}")
        raise


def _field_names(batch: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(batch)]
