"""In which order a model's pixels and channels lie in memory.

It changes the pace, and the last bits, of a run.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

FEWEST_CHANNELS = 16
"""Input channels of a strided 1x1 convolution on a CPU: fewer are not tried; below 8 the backward
pass can crash."""


def fastest_layout(model: nn.Module, inputs: Any) -> torch.memory_format:
    """Channels last for convolutions over images, where the model bears it.

    That is twice as fast for `small-cnn` on a CPU, and what the matrix units of a GPU want. A model
    does not bear it if its forward pass raises: `x.view(len(x), -1)` does. On a CPU it is also kept
    from models with grouped convolutions, which were not tried, and with a strided 1x1 convolution
    of few channels: its backward pass crashes the process on some CPUs below 8 of them
    (oneDNN#6035).

    Args:
        model: on its device; a copy of it is tried.
        inputs: of a batch, on the same device.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not convolutions:
        return torch.contiguous_format
    if inputs.device.type == "cpu" and not all(map(_is_safe_on_cpu, convolutions)):
        return torch.contiguous_format
    try:
        with torch.no_grad():
            copy.deepcopy(model).to(memory_format=torch.channels_last)(inputs)
    except (
        Exception
    ):  # whatever it is, it will show again in training if the layout is not to blame
        return torch.contiguous_format
    return torch.channels_last


def _is_safe_on_cpu(convolution: nn.Conv2d) -> bool:
    pointwise_and_strided = max(convolution.kernel_size) == 1 and max(convolution.stride) > 1
    return convolution.groups == 1 and (
        not pointwise_and_strided or convolution.in_channels >= FEWEST_CHANNELS
    )
