"""What each bank holds: a grid of recipes for one task, each trained at several horizons."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from lrtune.core.decays import WSD, Constant, Cosine, Decay, Linear, Plateau, StepDecay
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.sources import NamedTask
from lrtune.core.study import TrainSettings
from lrtune.training.task import Task, load_task

from .characters import characters_task

FOLDER = Path(__file__).parent
SGD_LRS = (0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0, 2.15)  # three a decade
ADAMW_LRS = (2.15e-4, 4.64e-4, 1e-3, 2.15e-3, 4.64e-3, 0.01, 0.0215, 0.0464)
WARMUPS_EPOCHS = (0.0, 2.0)
Look = tuple[int, int]
"""Horizon in epochs, and seed."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The task of a bank, its recipes, and how often each is trained."""

    name: str
    title: str
    """The task in words."""
    task: Callable[[], Task]
    peak_lrs: Mapping[str, tuple[float, ...]]
    """By optimizer."""
    patiences_epochs: tuple[int, ...]
    epochs: int
    """Of a full run."""
    looks_epochs: tuple[int, ...]
    """Of the compressed runs, the shortest first."""
    looks: tuple[Look, ...]
    """Those of every recipe beside the ones with seed 0, the most useful first."""
    full_seeds: int
    """Further full runs of the best third of each optimizer."""
    settings: TrainSettings

    @property
    def table(self) -> Path:
        """The recorded epochs."""
        return FOLDER / f"{self.name}.csv"

    @property
    def horizons(self) -> tuple[int, ...]:
        """Of the runs in epochs, the shortest first."""
        return (*self.looks_epochs, self.epochs)

    @cached_property
    def recipes(self) -> list[Recipe]:
        """All recipes; a recipe's number in the bank is its place in this list."""
        decays: tuple[Decay, ...] = (
            Constant(), Cosine(), Linear(), WSD(cooldown_frac=0.3),
            StepDecay(every_epochs=self.epochs / 3, factor=0.1),
            *(Plateau(patience_epochs=p, factor=0.2) for p in self.patiences_epochs),
        )  # fmt: skip
        return [
            replace(default_recipe(optimizer), peak_lr=peak_lr, warmup_epochs=warmup, decay=decay)
            for optimizer, peak_lrs in self.peak_lrs.items()
            for peak_lr, warmup, decay in product(peak_lrs, WARMUPS_EPOCHS, decays)
        ]

    def described(self) -> dict[str, Any]:
        """The settings that go with the table."""
        return {
            "task": self.title, "epochs": self.epochs, "horizons": self.horizons,
            "settings": asdict(self.settings),
        }  # fmt: skip


def bank_task() -> Task:
    """The task of the first bank, as its title describes it."""
    task = load_task(NamedTask(data="fashion-mnist", train_size=4000, val_size=4000, image_size=14))
    return replace(task, model=_tiny_cnn)


def _tiny_cnn() -> nn.Module:
    """The small-cnn of lrtune, half as wide."""
    layers: list[nn.Module] = []
    channels = 1
    for depth, width in enumerate((12, 24, 48)):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
        if depth < 2:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


FASHION = Contents(
    name="fashion-mnist",
    title=(
        "4,000 images of Fashion-MNIST at 14 x 14 pixels, validated on 4,000 others, and a CNN of "
        "14,000 weights."
    ),
    task=bank_task,
    peak_lrs={"sgd": SGD_LRS, "adamw": ADAMW_LRS},
    patiences_epochs=(1, 2, 4),
    epochs=27,
    looks_epochs=(1, 3, 9),
    looks=((3, 1), (1, 1), (1, 2), (3, 2), (1, 3), (1, 4)),
    full_seeds=4,
    settings=TrainSettings(batch_size=64, threads=1),
)
CLUTTERED = Contents(
    name="cluttered-digits",
    title="The default task of lrtune: cluttered digits, and its small CNN.",
    task=lambda: load_task(NamedTask(data="cluttered-digits")),
    peak_lrs={"sgd": SGD_LRS[1:], "adamw": ADAMW_LRS[1:]},
    patiences_epochs=(2,),
    epochs=18,
    looks_epochs=(1, 3),
    looks=((3, 1), (1, 1), (1, 2)),
    full_seeds=2,
    settings=TrainSettings(batch_size=64, threads=1),
)
CHARACTERS = Contents(
    name="characters",
    title=(
        "A transformer of 69,000 weights that learns to tell the next character of Python's own "
        "documentation, by AdamW, 60 steps of 16 x 64 characters an epoch."
    ),
    task=characters_task,
    peak_lrs={"adamw": (*ADAMW_LRS[2:], 0.1)},
    patiences_epochs=(),
    epochs=18,
    looks_epochs=(1, 3),
    looks=((3, 1), (1, 1), (1, 2)),
    full_seeds=2,
    settings=TrainSettings(batch_size=16, threads=1, augment=False),
)
BANKS = {contents.name: contents for contents in (FASHION, CLUTTERED, CHARACTERS)}
