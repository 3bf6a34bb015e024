"""Memory: a search of many runs needs no more of it than its first few."""

from statistics import median

import psutil
from torch import nn

from lrtune.core.recipe import OPTIMIZERS, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.loop import Trainer
from lrtune.training.task import Task
from tests.studies import full_run

MOST_GROWTH = 40_000_000
"""Bytes: less than one run that was not let go would hold: 12 MB each of weights, gradients, momentum, averages."""


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1600), nn.ReLU(), nn.Linear(1600, 1800), nn.Linear(1800, 10))


def test_runs_leave_no_memory_behind(digits):
    task = Task(model=wide, train=digits.train, validation=digits.validation, num_classes=10)
    trainer = Trainer(task, TrainSettings(batch_size=108, device="cpu"))
    process, sizes = psutil.Process(), []
    for seed, optimizer in enumerate((*OPTIMIZERS, *OPTIMIZERS)):
        recipe = default_recipe(optimizer)
        for _ in trainer.train(full_run(recipe, 1, seed=seed)):
            break  # as if it were pruned
        sizes.append(process.memory_info().rss)
    once = len(OPTIMIZERS)
    assert median(sizes[once:]) - median(sizes[:once]) < MOST_GROWTH  # single sizes jump by 60 MB, and back
