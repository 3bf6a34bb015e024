"""A task of one's own: any model, any data, any loss.

lrtune search --task examples/my_task.py --budget 10 --epochs 5
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import lrtune


def build_model() -> nn.Module:
    """Called once a run, with torch's random numbers seeded."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))


def task() -> lrtune.Task:
    """`lrtune search --task` looks for a Task, or for a function of this name that returns one."""
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    train, validation = (
        torch.utils.data.Subset(data, part) for part in (shuffled[:1400], shuffled[1400:])
    )
    return lrtune.Task(
        name="my-digits",
        model=build_model,
        train=train,
        validation=validation,
        num_classes=10,
        epochs=10,
        baseline=lrtune.Recipe(
            optimizer="adamw", peak_lr=1e-3, weight_decay=0.01
        ),  # what you use today
    )
