"""In which order a model's pixels and channels lie in memory. It changes the pace, and the last bits, of a run."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def fastest_layout(model: nn.Module, inputs: Tensor) -> torch.memory_format:
    """Channels last for convolutions over images, where the model bears it.

    That is twice as fast for `small-cnn` on a CPU, and what the matrix units of a GPU want. A model does not bear it
    if its forward pass raises: `x.view(len(x), -1)` does. On a CPU it is also kept from models with a strided 1x1
    convolution, which can crash the process in its backward pass (oneDNN#6035), and with grouped ones, which were not
    tried.

    Args:
        model: on its device; a copy of it is tried.
        inputs: a batch, on the same device.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if inputs.ndim != 4 or not convolutions:
        return torch.contiguous_format
    if inputs.device.type == "cpu" and not all(map(_is_safe_on_cpu, convolutions)):
        return torch.contiguous_format
    try:
        with torch.no_grad():
            copy.deepcopy(model).to(memory_format=torch.channels_last)(inputs)
    except Exception:  # whatever it is, it will show again in training if the layout is not to blame
        return torch.contiguous_format
    return torch.channels_last


def _is_safe_on_cpu(convolution: nn.Conv2d) -> bool:
    strides: tuple[Any, ...] = convolution.stride if isinstance(convolution.stride, tuple) else (convolution.stride,)
    return convolution.groups == 1 and (max(convolution.kernel_size) > 1 or max(strides) == 1)
