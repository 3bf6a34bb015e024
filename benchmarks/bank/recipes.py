"""The contents of the bank: a full grid of recipes for one task.

Each recipe was trained at several horizons.
"""

from dataclasses import asdict, replace
from itertools import product
from typing import Any

from torch import nn

from lrtune.core.decays import WSD, Constant, Cosine, Decay, Linear, Plateau, StepDecay
from lrtune.core.recipe import Recipe
from lrtune.core.sources import NamedTask
from lrtune.core.study import TrainSettings
from lrtune.training.task import Task, load_task

EPOCHS = 27
HORIZONS = (1, 3, 9, 27)
PEAK_LRS: dict[str, tuple[float, ...]] = {  # three a decade
    "sgd": (0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0, 2.15),
    "adamw": (2.15e-4, 4.64e-4, 1e-3, 2.15e-3, 4.64e-3, 0.01, 0.0215, 0.0464),
}
WEIGHT_DECAYS: dict[str, float] = {"sgd": 5e-4, "adamw": 0.01}
WARMUPS_EPOCHS = (0.0, 2.0)
DECAYS: tuple[Decay, ...] = (
    Constant(), Cosine(), Linear(), WSD(cooldown_frac=0.3), StepDecay(every_epochs=9.0, factor=0.1),
    *(Plateau(patience_epochs=patience, factor=0.2) for patience in (1, 2, 4)),
)  # fmt: skip
SETTINGS = TrainSettings(batch_size=64, threads=1)
TASK = (
    "4,000 images of Fashion-MNIST at 14 x 14 pixels, validated on 4,000 others, and a CNN of "
    "14,000 weights."
)


def recipes() -> list[Recipe]:
    """All recipes; a recipe's number in the bank is its place in this list."""
    return [
        Recipe(
            optimizer=optimizer, peak_lr=peak_lr, warmup_epochs=warmup, decay=decay,
            weight_decay=WEIGHT_DECAYS[optimizer],
        )
        for optimizer, peak_lrs in PEAK_LRS.items()
        for peak_lr, warmup, decay in product(peak_lrs, WARMUPS_EPOCHS, DECAYS)
    ]  # fmt: skip


def bank_task() -> Task:
    """The task of every recipe in the bank, as `TASK` describes it."""
    task = load_task(NamedTask(data="fashion-mnist", train_size=4000, val_size=4000, image_size=14))
    return replace(task, model=_tiny_cnn)


def described() -> dict[str, Any]:
    """The settings that go with the table."""
    return {
        "task": TASK,
        "epochs": EPOCHS,
        "horizons": HORIZONS,
        "settings": asdict(SETTINGS),
    }


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
