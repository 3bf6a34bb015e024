"""Errors in a user's own code: what is said of them, in this process and from others."""

import os
import pickle
import re
import subprocess
import sys
import textwrap

import pytest

from lrtune.core.errors import TaskError, WorkerTraceback, raised
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import load_task_file
from tests.training.runs import measurements_of

TASK = textwrap.dedent(
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset, default_collate

    import lrtune


    def fail(there):
        if there == {where!r}:
            raise LookupError("not here")  # of the user


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            fail("model")
            self.layer = nn.Linear(6, 3)

        def forward(self, inputs):
            fail("forward" if self.training else "forward, validation")
            return self.layer(inputs)


    class Data(Dataset):
        def __init__(self, split):
            self.split = split

        def __len__(self):
            fail("length, " + self.split)
            return 20

        def __getitem__(self, index):
            fail(self.split)
            return torch.ones(6), index % 3


    def collate(items):
        fail("collate")
        return default_collate(items)


    def loss(outputs, targets):
        fail("loss")
        return nn.functional.cross_entropy(outputs, targets)


    def f1(outputs, targets):
        fail("metric")
        return 0.5


    def task():
        return lrtune.Task(
            model=Net,
            train=DataLoader(
                Data("train"), batch_size=10, collate_fn=collate, num_workers={workers}
            ),
            validation=Data("validation"), num_classes=3, loss=loss, metrics={{"f1": f1}}, epochs=2,
        )
    """
)
RUN = Run(
    id="trial-0000",
    trial=0,
    kind="full",
    recipe=Recipe(),
    recipe_epochs=2,
    horizon_epochs=2,
    stop_epochs=2,
    seed=0,
)


def written(folder, where, workers=0):
    path = folder / "net.py"
    path.write_text(TASK.format(where=where, workers=workers))
    return path


def first_measurement(path):
    task = load_task_file(path)
    return next(measurements_of(NativeTraining(task, task.settings), RUN))


TRAIN_BATCH, VALIDATION_BATCH = "a list of [(10, 6), (10,)]", "a list of [(20, 6), (20,)]"

# where it fails, and the loader's workers: what failed; the user's own frames; what is noted
FAILING = [
    ("model", 0, "the task's model could not be built", ["__init__"], ""),
    ("length, validation", 0, "the length of the data, a Data, could not be read", ["__len__"], ""),
    ("train", 0, "the task failed in training (epoch 1)", ["__getitem__"], ""),
    ("train", 1, "the task failed in training (epoch 1)", ["__getitem__"], ""),
    ("collate", 0, "the task failed in training (epoch 1)", ["collate"], ""),
    ("collate", 1, "the task failed in training (epoch 1)", ["collate"], ""),
    ("forward", 0, "the task failed in training (epoch 1)", ["forward"], f"batch: {TRAIN_BATCH}"),
    ("loss", 0, "the task failed in training (epoch 1)", ["loss"], f"batch: {TRAIN_BATCH}"),
    ("validation", 0, "the task failed in validation (epoch 1)", ["__getitem__"], ""),
    ("forward, validation", 0, "the task failed in validation (epoch 1)", ["forward"],
     f"batch: {VALIDATION_BATCH}"),
    ("metric", 0, "the metric 'f1' failed", ["f1"],
     "outputs and targets: a tuple of [(20, 3), (20,)]"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "workers", "failed", "functions", "noted"), FAILING)
def test_the_message_has_the_users_own_frames_and_the_batch(
    tmp_path, where, workers, failed, functions, noted
):
    path = written(tmp_path, where, workers)
    with pytest.raises(TaskError) as caught:
        first_measurement(path)
    first, *frames = str(caught.value).removeprefix(f"{path}: ").splitlines()
    assert first == f"{failed}: LookupError: not here"
    if noted:
        assert frames.pop() == noted
    lines = path.read_text().splitlines()
    shown = [line for line in frames if line.startswith("  File ")]
    assert [line.rpartition(", in ")[2] for line in shown] == [*functions, "fail"]
    assert all(f'"{path}"' in line for line in shown)
    assert frames[-1].strip() == lines[10].strip() == 'raise LookupError("not here")  # of the user'
    if not workers:  # a loader's worker sends a text
        assert isinstance(caught.value.__cause__, LookupError)


def test_a_sweep_that_fails_is_one_of_the_range_test(tmp_path):
    task = load_task_file(written(tmp_path, "forward"))
    with pytest.raises(TaskError, match=r"^the task failed in the range test: LookupError: not he"):
        NativeTraining(task, task.settings).sweep(Recipe(), seed=0)


def test_only_the_last_frames_are_shown():
    def even(depth):
        return odd(depth - 1) if depth else {}["here"]

    def odd(depth):
        return even(depth - 1)

    with pytest.raises(KeyError) as caught:
        even(20)
    assert raised(caught.value).startswith("KeyError: 'here'\n")
    assert raised(caught.value).count("  File ") == 5


def test_an_error_of_another_process_has_the_text_of_its_traceback_as_its_cause(tmp_path):
    with pytest.raises(TaskError) as caught:
        first_measurement(written(tmp_path, "loss"))
    arrived = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(caught.value))))
    assert str(arrived) == str(caught.value)
    assert isinstance(arrived.__cause__, WorkerTraceback)
    text = str(arrived.__cause__)
    assert "learner.py" in text  # where the user's own frames are not all
    assert 'raise LookupError("not here")  # of the user' in text
    assert text.rstrip().endswith(f"batch: {TRAIN_BATCH}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shows_all"),
    [
        (["find"], False),
        (["search", "--jobs", "2", "--budget", "1", "--pruner", "none", "--traceback"], True),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_the_command_shows_all_frames_where_it_is_told_to(tmp_path, words, shows_all):
    path = written(tmp_path, "forward, validation" if "search" in words else "forward")
    done = subprocess.run(
        [sys.executable, "-m", "lrtune", *words, "--task", path],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    before, failed, message = done.stderr.partition("lrtune: the task failed in ")
    assert failed
    assert re.match(r".*: LookupError: not here\n  File .*\n.*\n.*\n.*\nbatch: a list", message)
    assert ("learner.py" in before or "evaluation.py" in before) == shows_all
    assert ("`--traceback` shows" in message) != shows_all
