"""Fingerprints: the same for the same task wherever it is taken, another one for another task."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lrtune.training.fingerprint import fingerprint
from lrtune.training.native.data.images import Images
from lrtune.training.task import Task, describe_source

DATA = TensorDataset(torch.arange(60.0).reshape(20, 3), torch.arange(20) % 2)
PIXELS = torch.arange(80, dtype=torch.uint8).reshape(20, 1, 2, 2)


class Net(nn.Module):
    def __init__(self, activation=None):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.activation = activation or nn.ReLU()

    def forward(self, inputs):
        return self.last(self.activation(self.first(inputs)))


class Doubled(Net):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


Doubled.__name__ = "Net"  # to `repr` it is the same


class Unseeded(Dataset):
    """A data set that is augmented from a generator which no one seeds."""

    def __init__(self, labels=2):
        self.labels, self.generator = labels, np.random.default_rng()

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.generator.random(3), index % self.labels


class Seeded(Dataset):
    """A data set that is augmented from the global generators."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.rand(3) + np.random.rand(), index % 2


def images(**changes):
    return Images(
        **{"images": PIXELS, "labels": torch.arange(20) % 2, "mean": (0.5,), "std": (0.5,)}
        | changes
    )


def focal(logits, labels, gamma=2.0):
    return ((1 - F.softmax(logits, 1).gather(1, labels[:, None])) ** gamma).mean()


def other_focal(logits, labels, gamma=3.0):
    return ((1 - F.softmax(logits, 1).gather(1, labels[:, None])) ** gamma).mean()


def a_task(**changes):
    return Task(**{"model": Net, "train": DATA, "validation": DATA, "num_classes": 2} | changes)


def tasks():
    """Tasks that are all trained differently."""
    return [
        a_task(),
        a_task(model=Doubled),
        a_task(model=lambda: Net(nn.GELU())),
        a_task(model=lambda: nn.Linear(3, 2)),
        a_task(model=lambda: 1 / 0),
        a_task(loss=focal),
        a_task(loss=other_focal),
        a_task(loss=partial(focal, gamma=1.0)),
        a_task(loss=nn.CrossEntropyLoss()),
        a_task(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))),
        a_task(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))),
        a_task(parameters=lambda model: [{"params": model.parameters()}]),
        a_task(train=Subset(DATA, range(19))),
        a_task(validation=Subset(DATA, range(19))),
        a_task(train=TensorDataset(*DATA.tensors[:1], 1 - DATA.tensors[1])),
        a_task(train=Unseeded()),
        a_task(train=Unseeded(labels=3)),
        a_task(train=Seeded()),
        a_task(train=images()),
        a_task(train=images(images=PIXELS + 1)),
        a_task(train=images(labels=torch.arange(20) % 3)),
    ]


def test_tasks_that_differ_have_other_fingerprints():
    found = [fingerprint(task) for task in tasks()]
    assert len(set(found)) == len(found)


@pytest.mark.slow
def test_the_same_task_has_the_same_fingerprint_in_every_process():
    code = "from test_fingerprint import fingerprint, tasks; print(*map(fingerprint, tasks()))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.split() == [fingerprint(task) for task in tasks()]


def test_a_loader_is_its_dataset():
    loaders = [DataLoader(DATA, batch_size=4, shuffle=True), DataLoader(DATA, batch_size=5)]
    assert {fingerprint(a_task(train=loader)) for loader in loaders} == {fingerprint(a_task())}


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2), np.random.get_state()[1].tolist()
    torch.manual_seed(3)
    fingerprint(a_task(train=Seeded()))
    assert torch.equal(torch.rand(2), expected[0])
    assert np.random.get_state()[1].tolist() == expected[1]


def test_a_python_task_is_described_by_name_and_fingerprint():
    task = a_task(name="mine")
    assert list(describe_source(task).items()) == [
        ("python", "mine"),
        ("sha256", fingerprint(task)),
    ]
