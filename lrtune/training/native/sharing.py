"""Tensors as arrays, which processes of one machine can share without a copy."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_array(tensor: Tensor) -> tuple[NDArray[np.uint8], str, tuple[int, ...]]:
    """A tensor's bytes, its type and its shape."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return content, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def from_array(parts: tuple[NDArray[np.uint8], str, tuple[int, ...]]) -> Tensor:
    """A tensor on the CPU over the same memory, which must not be written to."""
    content, dtype, shape = parts
    if not content.size:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The given NumPy array is not writable"
        )  # nothing writes to data
        return torch.from_numpy(content).view(getattr(torch, dtype)).reshape(shape)


TENSORS: dict[type, Any] = {Tensor: (to_array, from_array)}
"""How a type is taken apart, and put together again."""
