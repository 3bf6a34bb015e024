"""A regression: R2 decides, and the mean squared error is the loss.

lrtune search --task examples/regression.py --budget 10
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics import MeanAbsoluteError, R2Score

import lrtune


def task() -> lrtune.Task:
    """442 patients with ten measurements each, and how far their diabetes went in a year."""
    features, targets = load_diabetes(return_X_y=True, scaled=False)
    inputs, wanted = (torch.tensor(values, dtype=torch.float32) for values in (features, targets))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    train, validation = order[:300], order[300:]
    inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0)
    wanted = ((wanted - wanted[train].mean()) / wanted[train].std())[:, None]  # as the outputs are
    return lrtune.Task(
        name="diabetes",
        model=lambda: nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)),
        train=TensorDataset(inputs[train], wanted[train]),
        validation=TensorDataset(inputs[validation], wanted[validation]),
        loss=nn.functional.mse_loss,
        metrics={"r2": R2Score(), "mae": MeanAbsoluteError()},
        objective="r2",
        epochs=10,
        settings=lrtune.TrainSettings(batch_size=32),
        baseline=lrtune.Recipe(optimizer="adamw", peak_lr=1e-3, weight_decay=0.01),
    )
