"""Batches are dicts, and the model returns its own loss, as the models of transformers do.

lrtune search --task examples/dict_batches.py --budget 10
"""

from typing import Any

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

import lrtune


class Model(nn.Module):
    """Takes the keys of a batch as arguments, and returns `loss` and `logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, analysis: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Analysis (B, 13), labels (B,)."""
        logits = self.layers(analysis)
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = nn.functional.cross_entropy(logits, labels)
        return output


def task() -> lrtune.Task:
    """178 wines from three growers; a map-style data set of dicts."""
    features, growers = load_wine(return_X_y=True)
    analyses = torch.tensor(features, dtype=torch.float32)
    analyses = (analyses - analyses.mean(0)) / analyses.std(0)
    order = torch.randperm(len(analyses), generator=torch.Generator().manual_seed(0)).tolist()
    wines: Any = [{"analysis": analyses[i], "labels": int(growers[i])} for i in order]
    return lrtune.Task(
        name="wines",
        model=Model,
        train=wines[:120],
        validation=wines[120:],
        num_classes=3,
        objective="val_loss",
        epochs=6,
        settings=lrtune.TrainSettings(batch_size=16),
        baseline=lrtune.Recipe(optimizer="adamw", peak_lr=1e-3, weight_decay=0.01),
    )
