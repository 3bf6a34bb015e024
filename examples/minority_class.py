"""One class is rare, so the weighted F1 score decides, by a function of scikit-learn.

lrtune search --task examples/minority_class.py --budget 10
"""

import torch
from sklearn.datasets import make_classification
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import lrtune

NUM_CLASSES = 3


def weighted_f1(outputs: Tensor, targets: Tensor) -> float:
    """A metric as a function: it is given all outputs and targets of the validation set."""
    return float(f1_score(targets, outputs.argmax(dim=1), average="weighted"))


def task() -> lrtune.Task:
    """Three classes, of which one has a twentieth of the examples."""
    features, labels = make_classification(
        1200, n_informative=6, n_classes=NUM_CLASSES, weights=[0.6, 0.35, 0.05], random_state=0
    )
    inputs, targets = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    return lrtune.Task(
        name="minority",
        model=lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, NUM_CLASSES)),
        train=TensorDataset(inputs[:900], targets[:900]),
        validation=TensorDataset(inputs[900:], targets[900:]),
        num_classes=NUM_CLASSES,  # so Top-1 is measured beside it
        loss=nn.CrossEntropyLoss(weight=torch.tensor([0.5, 0.7, 3.0])),
        metrics={"weighted_f1": weighted_f1},
        objective="weighted_f1",
        epochs=6,
        settings=lrtune.TrainSettings(batch_size=32),
        baseline=lrtune.Recipe(optimizer="sgd", peak_lr=0.01),
    )
