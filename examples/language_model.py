"""A language model of characters, trained on a stream: an epoch is a fixed number of steps.

lrtune search --task examples/language_model.py --budget 10
"""

import argparse
import json
import random
import string
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import lrtune

LENGTH, BATCH_SIZE = 32, 16
CHARACTERS = " " + string.ascii_lowercase + string.punctuation + "\n"


def read_text() -> Tensor:
    """The documentation of some modules of Python, as the numbers of its characters."""
    modules = (argparse, json, random, string)
    documented = [value for module in modules for value in vars(module).values()]
    text = "\n".join((getattr(value, "__doc__", None) or "") for value in documented).lower()
    return torch.tensor(
        [CHARACTERS.find(character) for character in text if character in CHARACTERS]
    )


class Model(nn.Module):
    """From characters (B, T) to the logits (B, V, T) of those that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), 32)
        self.recurrent = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, len(CHARACTERS))

    def forward(self, characters: Tensor) -> Tensor:
        """Cross-entropy wants the classes in dimension 1."""
        states, _ = self.recurrent(self.embedding(characters))
        logits: Tensor = self.head(states)
        return logits.movedim(-1, 1)


def task() -> lrtune.Task:
    """The last tenth of the text is for validation."""
    text = read_text()
    split = 9 * len(text) // 10
    windows = text[split:].unfold(0, LENGTH + 1, LENGTH)

    def stream(seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from anywhere in the text, without end: a function of (seed, epoch) alone."""
        generator = torch.Generator().manual_seed(10_000 * seed + epoch)
        while True:
            starts = torch.randint(split - LENGTH, (BATCH_SIZE, 1), generator=generator)
            characters = text[starts + torch.arange(LENGTH + 1)]
            yield characters[:, :-1], characters[:, 1:]

    return lrtune.Task(
        name="characters",
        model=Model,
        train=stream,
        steps_per_epoch=20,
        validation=TensorDataset(windows[:, :-1], windows[:, 1:]),
        metrics={
            "perplexity": lambda outputs, targets: nn.functional.cross_entropy(
                outputs, targets
            ).exp()
        },
        objective="val_loss",
        epochs=6,
        baseline=lrtune.Recipe(optimizer="adamw", peak_lr=3e-3, weight_decay=0.01),
    )
