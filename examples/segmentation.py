"""Segmentation: which pixels of a noisy image belong to the digit; the mean IoU decides.

lrtune search --task examples/segmentation.py --budget 10
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassJaccardIndex

import lrtune


def build_model() -> nn.Module:
    """A network from (B, 1, H, W) to logits (B, 2, H, W): background and digit."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)
    )


def task() -> lrtune.Task:
    """400 handwritten digits of 16x16 pixels under noise."""
    digits = torch.tensor(load_digits().images[:400], dtype=torch.float32)[:, None] / 16
    digits = nn.functional.interpolate(digits, scale_factor=2)
    noise = torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    inputs, targets = digits + 0.5 * noise, (digits[:, 0] > 0.5).long()
    return lrtune.Task(
        name="strokes",
        model=build_model,
        train=TensorDataset(inputs[:300], targets[:300]),
        validation=TensorDataset(inputs[300:], targets[300:]),
        metrics={"miou": MulticlassJaccardIndex(num_classes=2)},
        objective="miou",
        epochs=5,
        settings=lrtune.TrainSettings(batch_size=30),
        baseline=lrtune.Recipe(optimizer="adamw", peak_lr=1e-3, weight_decay=0.01),
    )
