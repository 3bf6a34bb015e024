"""The cases: a model, images and a batch size that every loop gets alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from lrtune.core.errors import DataError
from lrtune.core.study import Precision, TrainSettings
from lrtune.training.native.data.datasets import load_dataset
from lrtune.training.native.data.images import Images
from lrtune.training.native.models import build_model
from lrtune.training.task import Task


class NarrowResNet18(ResNet):
    """torchvision's ResNet-18 for 32x32 images, with `width` channels where it has 64."""

    def __init__(self, width: int, num_classes: int, channels: int):
        self._width = width
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(8 * width, num_classes)

    def _make_layer(
        self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:  # the first of the four, to which the stem gives its channels
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // 64, blocks, stride, dilate)


Build = Callable[[int, int, int], nn.Module]
"""From classes, channels and the side of the images."""
MODELS: dict[str, Build] = {
    "small-cnn": lambda classes, channels, size: _named("small-cnn", classes, channels, size),
    "resnet18-w16": lambda classes, channels, size: NarrowResNet18(16, classes, channels),
    "resnet18-w64": lambda classes, channels, size: _named("resnet18", classes, channels, size),
    "resnet50": lambda classes, channels, size: _named("resnet50", classes, channels, size),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained."""

    model: str
    data: Literal["fashion-mnist", "cifar10", "on the device"]
    """`on the device`: synthetic, and the loops of others get their batches there, ready for the
    model."""
    image_size: int
    channels: int
    num_classes: int
    batch_size: int
    cpu_images: int
    """Training images on a CPU."""
    gpu_images: int
    lanes: int
    """Trials side by side on a GPU; on a CPU there are as many as cores."""
    whole_trials: bool
    """Whether whole trials are compared too, and not only epochs."""


_CIFAR10 = {"data": "cifar10", "image_size": 32, "channels": 3, "num_classes": 10}
_IMAGENET = {
    "model": "resnet50",
    "data": "on the device",
    "channels": 3,
    "num_classes": 1000,
    "batch_size": 128,
}
CASES: dict[str, Case] = {
    "small-cnn": Case(
        model="small-cnn", data="fashion-mnist", image_size=28, channels=1, num_classes=10,
        batch_size=128, cpu_images=10_000, gpu_images=10_240, lanes=8, whole_trials=True,
    ),
    "resnet18-w16": Case(
        model="resnet18-w16", batch_size=128, cpu_images=1280, gpu_images=10_240, lanes=8,
        whole_trials=True, **_CIFAR10,
    ),
    "resnet18-w64-b128": Case(
        model="resnet18-w64", batch_size=128, cpu_images=256, gpu_images=20_480, lanes=4,
        whole_trials=False, **_CIFAR10,
    ),
    "resnet18-w64-b512": Case(
        model="resnet18-w64", batch_size=512, cpu_images=512, gpu_images=20_480, lanes=2,
        whole_trials=False, **_CIFAR10,
    ),
    "resnet50-160": Case(
        image_size=160, cpu_images=128, gpu_images=5120, lanes=2, whole_trials=False, **_IMAGENET
    ),
    "resnet50-224": Case(
        image_size=224, cpu_images=128, gpu_images=5120, lanes=2, whole_trials=False, **_IMAGENET
    ),
}  # fmt: skip
HALF_LIFE_EPOCHS = 0.5
"""Of averaged weights, where our loop keeps them: what they cost does not depend on it."""
CPU_CASES = ("small-cnn", "resnet18-w16")
"""Those that a CPU gets through in minutes."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A case on a device, with its sizes.

    It can be sent to other processes, which load the images themselves.
    """

    case: Case
    device: str
    num_images: int
    num_validation: int
    lanes: int
    data_dir: Path | None = None

    @property
    def data(self) -> "Data":
        """The images, which each process loads once; the workload is sent without them."""
        return load(self.case, self.num_images, self.num_validation, self.data_dir)

    @property
    def num_batches(self) -> int:
        """Batches an epoch; an incomplete one is dropped by every loop."""
        return max(1, self.num_images // self.case.batch_size)

    def build_model(self) -> nn.Module:
        """A model with fresh weights, on the CPU."""
        case = self.case
        return MODELS[case.model](case.num_classes, case.channels, case.image_size)

    def task(self) -> Task:
        """The case as our loop takes it."""
        return Task(
            name=self.case.model, model=self.build_model, train=self.data.train,
            validation=self.data.validation, num_classes=self.case.num_classes,
        )  # fmt: skip

    def settings(
        self, *, averaged: bool = False, precision: Precision = "auto", threads: int = 0
    ) -> TrainSettings:
        """The settings of our loop, by default without averaged weights, as a search has it."""
        return TrainSettings(
            batch_size=self.case.batch_size, device=self.device, precision=precision,
            threads=threads, ema_half_life_epochs=HALF_LIFE_EPOCHS if averaged else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Data:
    """Images, and where they are from."""

    train: Images
    validation: Images
    source: str
    synthetic: bool


@lru_cache(maxsize=1)
def load(case: Case, num_images: int, num_validation: int, data_dir: Path | None) -> Data:
    """The case's images, or synthetic ones of the same shape.

    The latter where there are no others, or they are not on this machine.
    """
    why = "no others are wanted"
    if case.data != "on the device":
        try:
            splits = load_dataset(
                case.data,
                data_dir=data_dir,
                train_size=num_images,
                val_size=num_validation,
                download=False,
            )
        except DataError as error:
            why = str(error).splitlines()[0].split(". ")[0]
        else:
            return Data(
                train=splits.train, validation=splits.validation, source=case.data, synthetic=False
            )
    generator = torch.Generator().manual_seed(0)
    train, validation = (_noise(case, number, generator) for number in (num_images, num_validation))
    return Data(train=train, validation=validation, source=f"synthetic ({why})", synthetic=True)


def learning_rates(number: int) -> list[float]:
    """Peak LRs from 0.005 to 0.05, evenly on a log scale.

    No trial diverges at them, and all cost the same.
    """
    return [0.005 * math.exp(math.log(10) * index / max(1, number - 1)) for index in range(number)]


def _named(name: str, num_classes: int, channels: int, image_size: int) -> nn.Module:
    return build_model(name, num_classes=num_classes, channels=channels, image_size=image_size)


def _noise(case: Case, number: int, generator: torch.Generator) -> Images:
    shape = (number, case.channels, case.image_size, case.image_size)
    return Images(
        images=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        labels=torch.randint(case.num_classes, (number,), generator=generator),
        mean=(0.5,) * case.channels, std=(0.29,) * case.channels, flips=True,
    )  # fmt: skip
