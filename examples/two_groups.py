"""Two parameter groups: the backbone learns at a tenth of the head's rate, or as a search finds.

lrtune search --task examples/two_groups.py --budget 10 --space my_space.toml

A space can search the ratio:

    group_scales.backbone = { low = 0.01, high = 1.0, log = true }
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import lrtune


def build_model() -> nn.Module:
    """A backbone and a head; a real backbone would have weights from elsewhere."""
    backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    return nn.Sequential(backbone, nn.Linear(64, 10))


def groups(model: Any) -> list[dict[str, Any]]:
    """The LR of a group is the peak LR times `lr_scale`, which is 1 where it is not given."""
    backbone, head = model
    return [
        {"name": "backbone", "params": backbone.parameters(), "lr_scale": 0.1},
        {"name": "head", "params": head.parameters()},
    ]


def task() -> lrtune.Task:
    """The digits of scikit-learn."""
    pixels, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    return lrtune.Task(
        name="two-groups",
        model=build_model,
        train=TensorDataset(inputs[:1000], targets[:1000]),
        validation=TensorDataset(inputs[1000:], targets[1000:]),
        num_classes=10,
        parameters=groups,
        epochs=4,
        settings=lrtune.TrainSettings(batch_size=50),
        baseline=lrtune.Recipe(optimizer="sgd", peak_lr=0.05),
    )
