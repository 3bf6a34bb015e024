"""Memory: a search of many runs needs no more of it than its first few."""

import ctypes
import gc

import pytest
from torch import nn

from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import measurements_of

MOST_GROWTH = 5_000_000
"""Bytes: less than half of what one copy of the weights of :func:`wide` takes."""

MALLINFO2 = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)

libc = ctypes.CDLL(None)


class Mallinfo2(ctypes.Structure):
    """glibc's ``struct mallinfo2``, in bytes."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLINFO2)


def allocated() -> int:
    """Bytes allocated and not freed; a resident size also has what the allocator keeps."""
    libc.mallinfo2.restype = Mallinfo2
    state = libc.mallinfo2()
    return state.uordblks + state.hblkhd


def wide():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 1600), nn.ReLU(), nn.Linear(1600, 1800), nn.Linear(1800, 10)
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(libc, "mallinfo2"), reason="glibc 2.33 or newer says what is allocated"
)
def test_runs_leave_no_memory_behind(digits):
    task = Task(model=wide, train=digits.train, validation=digits.validation, num_classes=10)
    training = NativeTraining(task, TrainSettings(batch_size=108, device="cpu"))
    gc.collect()
    sizes = []
    for seed, optimizer in enumerate((*OPTIMIZERS, *OPTIMIZERS)):
        recipe = default_recipe(optimizer)
        for _ in measurements_of(training, full_run(recipe, 1, seed=seed)):
            break  # as if it were pruned
        sizes.append(allocated())
    once = len(OPTIMIZERS)
    assert max(sizes[once:]) - max(sizes[:once]) < MOST_GROWTH
