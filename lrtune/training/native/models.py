"""Models by name: two small ones of our own, and every classifier of torchvision.

The stems of the latter are fitted to the images.

torchvision is imported where it is used: it takes a second.
"""

import difflib
import re
from typing import Any

import torch
from torch import nn

from lrtune.core.counts import count
from lrtune.core.errors import InputError

SMALL_IMAGE = 64
"""Largest side, in pixels, for which a torchvision model gets a stem that does not shrink the
image."""

_OF_ONE_SIZE = ("vit_", "maxvit_")  # built for one image size, in which the stem is reckoned with


def model_names() -> tuple[str, ...]:
    """Everything that `build_model` knows, our own models first."""
    import torchvision

    return (*_OWN, *torchvision.models.list_models(module=torchvision.models))


def build_model(name: str, *, num_classes: int, channels: int, image_size: int) -> nn.Module:
    """A model with fresh weights, drawn from the global generator of torch.

    A torchvision model is changed in its stem, as is usual since ResNet met CIFAR (He et al. 2016,
    arXiv 1512.03385, section 4.2). Its first convolution takes `channels`; for images of up to 64
    pixels, one that strides becomes 3x3 with stride 1, and the first max-pooling after it goes. The
    new convolution is initialised as torchvision's ResNet does it. ViT and MaxViT keep their stem
    and are built for `image_size`. GoogLeNet and Inception go without their auxiliary heads.

    Args:
        name: one of `model_names()`.
        num_classes: length of the output.
        channels: of the input images.
        image_size: side of the square input images in pixels.

    Returns:
        A model from (B, channels, image_size, image_size) to logits (B, num_classes). Whether
        it really takes such images is for `check_model` to say: that costs a forward pass, and has
        to be done once and not for every trial.

    Raises:
        InputError: no such model, or one that cannot be built for such images.
    """
    if name in _OWN:
        return _OWN[name](num_classes, channels, image_size)
    names = model_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=5) or names[:5]
        raise InputError(
            f"`model` must be {' or '.join(_OWN)} or a classification model of torchvision, but "
            f"got {name!r}; "
            f"close to it are {', '.join(close)}."
        )
    import torchvision

    arguments = _build_arguments(name, image_size)
    try:
        model: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes, **arguments
        )
    except (AssertionError, ValueError) as error:
        raise _refusal(name, channels, image_size, error) from error
    _adapt_stem(
        model, channels, may_shrink=image_size > SMALL_IMAGE or name.startswith(_OF_ONE_SIZE)
    )
    return model


def check_model(name: str, *, num_classes: int, channels: int, image_size: int) -> None:
    """Makes sure that the model takes such images: builds it and shows it a black one.

    The global generator is left as it was.

    Raises:
        InputError: no such model, or it cannot take such images, and why.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build_model(
            name, num_classes=num_classes, channels=channels, image_size=image_size
        ).eval()
        try:
            model(torch.zeros(1, channels, image_size, image_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _refusal(name, channels, image_size, error) from error


def _build_arguments(name: str, image_size: int) -> dict[str, Any]:
    match name.split("_")[0]:
        case "vit":
            return {"image_size": image_size}
        case "maxvit":
            return {"input_size": (image_size, image_size)}
        case "googlenet" | "inception":
            return {"aux_logits": False, "init_weights": True}
    return {}


def _refusal(name: str, channels: int, image_size: int, error: Exception) -> InputError:
    reason = re.sub(r"\s+", " ", str(error)).strip().rstrip(".!")
    if isinstance(error, RuntimeError):  # of torch, about a layer
        reason = "they are too small for its layers"
    return InputError(
        f"`model` {name!r} cannot take {image_size}x{image_size} images with "
        f"{count(channels, 'channel')}: {reason}. small-cnn, mlp and resnet18 take all from 4x4, "
        "and `image_size` scales the images."
    )


def _adapt_stem(model: nn.Module, channels: int, *, may_shrink: bool) -> None:
    """Makes the first convolution take `channels`.

    Unless they may shrink the image, it and the pooling behind it are kept from that.
    """
    path, old = next(
        (path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d)
    )
    replaced = not may_shrink and old.stride != (1, 1)
    if old.in_channels == channels and not replaced:
        return
    geometry: tuple[Any, Any, Any] = (
        (3, 1, 1) if replaced else (old.kernel_size, old.stride, old.padding)
    )
    new = nn.Conv2d(channels, old.out_channels, *geometry, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    model.set_submodule(path, new)
    pooling = [path for path, part in model.named_modules() if isinstance(part, nn.MaxPool2d)]
    if replaced and pooling:
        model.set_submodule(pooling[0], nn.Identity())


def _small_cnn(num_classes: int, channels: int, image_size: int) -> nn.Module:
    """Three 3x3 convolutions with batch norm, two with pooling, for images from 4 pixels up.

    Pooling goes before batch norm and ReLU: these are bound by memory on a CPU and see a quarter of
    the pixels so.
    """
    widths = (24, 48, 96)
    layers: list[nn.Module] = []
    for depth, width in enumerate(widths):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
        if depth < 2:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )


def _mlp(num_classes: int, channels: int, image_size: int) -> nn.Module:
    """Two hidden layers of 256."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * image_size**2, 256), nn.ReLU(inplace=True),
        nn.Linear(256, 256), nn.ReLU(inplace=True),
        nn.Linear(256, num_classes),
    )  # fmt: skip


_OWN = {"small-cnn": _small_cnn, "mlp": _mlp}
