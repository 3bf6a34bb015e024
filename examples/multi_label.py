"""Several labels for each example: the F1 score of torchmetrics decides.

lrtune search --task examples/multi_label.py --budget 10
"""

import torch
from sklearn.datasets import make_multilabel_classification
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

import lrtune

NUM_LABELS = 5


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Torchmetrics wants whole numbers as targets, and this loss the numbers 0.0 and 1.0."""
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets.float())


def task() -> lrtune.Task:
    """1,000 texts of a made-up language, each about some of five subjects."""
    counts, subjects = make_multilabel_classification(
        n_samples=1000, n_features=40, n_classes=NUM_LABELS, random_state=0
    )
    inputs, targets = torch.tensor(counts, dtype=torch.float32) / 10, torch.tensor(subjects)
    return lrtune.Task(
        name="subjects",
        model=lambda: nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, NUM_LABELS)),
        train=TensorDataset(inputs[:800], targets[:800]),
        validation=TensorDataset(inputs[800:], targets[800:]),
        loss=loss,
        metrics={
            "f1": MultilabelF1Score(num_labels=NUM_LABELS),
            "map": MultilabelAveragePrecision(num_labels=NUM_LABELS),
        },
        objective="f1",
        epochs=8,
        settings=lrtune.TrainSettings(batch_size=32),
        baseline=lrtune.Recipe(optimizer="adamw", peak_lr=1e-3, weight_decay=0.01),
    )
