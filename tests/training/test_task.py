"""Tasks: by name, from a file, from Python; what is refused; a user's data train like ours."""

import random
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from lrtune.core.errors import InputError, TaskError
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.loop import NativeTraining
from lrtune.training.native.randomness import seed_all
from lrtune.training.task import (
    NamedTask,
    Task,
    TaskFile,
    build_named_task,
    change_settings,
    describe_source,
    load_task,
    load_task_file,
    settings_for,
    source_from,
)
from tests.studies import full_run
from tests.training.runs import timeless, train

INPUTS = torch.randn(130, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, :3].sum(1) > 0).long() + (INPUTS[:, 3:].sum(1) > 0).long()
VALIDATION = TensorDataset(INPUTS[90:], LABELS[90:])


class Noisy(Dataset):
    """A map-style data set whose transform draws from every generator."""

    def __len__(self):
        return 90

    def __getitem__(self, index):
        noise = 0.05 * torch.randn(6) + 0.01 * float(np.random.randn()) + 0.01 * random.gauss(0, 1)
        return INPUTS[index] + noise, int(LABELS[index])


def net():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def a_task(**changes):
    return Task(
        **({"model": net, "train": Noisy(), "validation": VALIDATION, "num_classes": 3} | changes)
    )


# --- a task's own rules ---


def test_a_model_is_refused_where_a_function_builds_one():
    with pytest.raises(
        InputError, match=r"`task\.model` must be a function .*, but got a model: give its class"
    ):
        a_task(model=net())


def test_a_loss_that_would_have_to_be_trained_is_refused():
    loss = nn.Sequential(nn.Linear(3, 3), nn.CrossEntropyLoss())
    with pytest.raises(InputError, match=r"`task\.loss` must have no trainable parameters"):
        a_task(loss=loss)
    assert a_task(loss=loss.requires_grad_(False)).loss is loss
    a_task(loss=nn.CrossEntropyLoss(weight=torch.ones(3)))


HUGE = "a value of type int"
EPOCHS = "`task.epochs` must be given as a whole number from 1 to 1000000"
NAME = "`task.name` must be given as a text of one line without hidden characters"
DATA = "data must be `Images`, a map-style `Dataset`, a `DataLoader` or a stream of batches"


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        (
            {"model": 3},
            ["`task.model` must be given as a function that returns a model, but got 3."],
        ),
        (
            {"num_classes": 1},
            ["`task.num_classes` must be given as a whole number from 2, but got 1."],
        ),
        (
            {"num_classes": "10"},
            ["`task.num_classes` must be given as a whole number from 2, but got '10'."],
        ),
        (
            {"num_classes": 2.5},
            ["`task.num_classes` must be given as a whole number from 2, but got 2.5."],
        ),
        ({"epochs": 0}, [f"{EPOCHS}, but got 0."]),
        ({"epochs": True}, [f"{EPOCHS}, but got True."]),
        ({"epochs": 10**5000}, [f"{EPOCHS}, but got a value of type int."]),
        ({"epochs": None}, [f"{EPOCHS}, but got None."]),
        (
            {"loss": 3},
            ["`task.loss` must be given as a function of (outputs, targets), but got 3."],
        ),
        (
            {"parameters": []},
            ["`task.parameters` must be given as a function of a model, but got []."],
        ),
        ({"baseline": None}, ["`task.baseline` must be given as a Recipe, but got None."]),
        ({"settings": {}}, ["`task.settings` must be given as TrainSettings, but got {}."]),
        (
            {"data_facts": {"a": 1}},
            ["`task.data_facts` must be given as a dict of texts, but got {'a': 1}."],
        ),
        ({"name": None}, [f"{NAME}, but got None."]),
        ({"name": "a\x1b"}, [f"{NAME}, but got 'a\\x1b'."]),
        ({"metrics": {3: len}}, ["`task.metrics` must have plain names, but got 3."]),
        ({"train": None}, [f"`task.train`: {DATA}, but got NoneType."]),
        ({"validation": "x"}, [f"`task.validation`: {DATA}, but got str."]),
        (
            {"test": 3, "train": b"x"},
            [f"`task.train`: {DATA}, but got bytes.", f"`task.test`: {DATA}, but got int."],
        ),
        (
            {"train": Noisy(), "steps_per_epoch": 10**5000},
            [
                f"`task.steps_per_epoch` must be given as a whole number from 1, but got {HUGE}.",
                "`task.steps_per_epoch` is for streams, whose length is not known, but got "
                f"{HUGE} with a Noisy of 90.",
            ],
        ),
        (
            {"model": None, "num_classes": 0, "epochs": -1},
            [
                "`task.model` must be given as a function that returns a model, but got None.",
                "`task.num_classes` must be given as a whole number from 2, but got 0.",
                f"{EPOCHS}, but got -1.",
            ],
        ),
    ],
    ids=lambda value: None if isinstance(value, list) else "-".join(value),
)
def test_impossible_tasks_are_refused_with_all_that_is_wrong(changes, problems):
    with pytest.raises(InputError) as caught:
        a_task(**changes)
    assert list(caught.value.problems) == problems


class Unmeasured(Noisy):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        raise self.error


def test_a_length_that_cannot_be_read_is_an_error_of_the_task():
    with pytest.raises(
        TaskError,
        match="the length of the data, a Unmeasured, could not be read: RuntimeError: no file",
    ):
        a_task(train=Unmeasured(RuntimeError("no file")))
    with pytest.raises(InputError, match=f"`task.train`: {DATA}, but got Unmeasured"):
        a_task(train=Unmeasured(NotImplementedError()))


def test_a_count_of_numpy_is_a_count():
    task = a_task(num_classes=np.int64(3), epochs=np.int32(2))
    assert (repr(task.num_classes), repr(task.epochs)) == ("3", "2")


# --- by name ---


def test_a_named_task():
    task = build_named_task(NamedTask(data="digits", model="mlp", train_size=200, val_size=50))
    assert (task.name, task.num_classes, task.epochs) == ("digits-mlp", 10, 20)
    assert (len(task.train), len(task.validation)) == (200, 50)
    assert task.test is not None
    assert task.settings.batch_size == 64
    torch.manual_seed(0)
    assert task.model()(task.train.images[:2].float()).shape == (2, 10)


def test_the_images_of_a_named_task_can_be_scaled():
    task = build_named_task(NamedTask(data="digits", image_size=12, train_size=200, val_size=50))
    assert task.train.images.shape[2:] == (12, 12)
    assert task.model()(task.train.images[:2].float()).shape == (2, 10)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (NamedTask(data="mnust"), "mnist"),
        (NamedTask(model="small-cmn"), "small-cnn"),
        (NamedTask(train_size=0), "0"),
    ],
)
def test_unknown_names_are_refused(named, message):
    with pytest.raises(InputError, match=message):
        build_named_task(named)


# --- from a file ---

TASK = """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset
    import lrtune
    data = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64))
"""
BUILD = (
    "lrtune.Task(model=lambda: nn.Linear(4, 2), train=data, validation=data, num_classes=2, "
    "name='mine')"
)


def written(folder, text, name="my_task.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize(
    "definition", [f"task = {BUILD}", f"def task():\n    return {BUILD}", f"task = lambda: {BUILD}"]
)
def test_a_file_gives_its_task(tmp_path, definition):
    path = written(tmp_path, textwrap.dedent(TASK) + definition)
    task = load_task_file(path)
    assert isinstance(task, Task)
    assert (task.name, task.num_classes) == ("mine", 2)
    assert load_task(TaskFile(path=path)).name == "mine"


def test_a_file_may_hold_what_looks_for_its_own_module(tmp_path):
    """Dataclasses with postponed annotations, and pickle, look the module up by its name."""
    text = """
        from __future__ import annotations
        import pickle
        from dataclasses import dataclass
        @dataclass
        class Config:
            width: int = 4
        assert pickle.loads(pickle.dumps(Config(5))) == Config(5)
    """
    path = written(tmp_path, textwrap.dedent(text) + textwrap.dedent(TASK) + f"task = {BUILD}")
    assert load_task_file(path).name == "mine"


# the file: what is said of it
NO_TASK = [
    ("", "must define `task`, an lrtune.Task or a function .*, but it has no `task`."),
    ("task = 3", "must define `task`, .*, but it has a `task` that is a int."),
    ("def task(): return 'x'", "must define `task`, .*, but it has a `task` that is a str."),
    ("def task(): pass", "must define `task`, .*, but it has no `task`."),
    ("def task(size): return size", "reading it failed: TypeError: .*missing 1 .*'size'"),
    ("x = 1\n\nraise KeyError('lr')\n", "failed: KeyError: 'lr'\n.*, line 3, in <module>"),
    ("def task():\n    return inner()\n\ndef inner():\n    return 1 / 0\n",
     "ZeroDivisionError: division by zero\n.*, line 2, in task\n.*\n.*, line 5, in inner"),
    ("import json\n\njson.loads('{')", "failed: JSONDecodeError: .*\n.*, line 3, in <module>"),
    ("import no_such_module_at_all", "failed: ModuleNotFoundError: No module.*\n.*, line 1,"),
    ("x = 1\nx = (\n", r"reading it failed: SyntaxError: .*line 2\)"),
    ("import sys\nsys.exit(3)", "reading it failed: SystemExit: 3\n.*, line 2, in <module>"),
    ("import lrtune\ntask = lrtune.Task(model=1, train=[], validation=[], num_classes=1)",
     r"(?s)InputError: `task.model` must .*\n`task.num_classes` must .*, line 2, in <module>"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), NO_TASK)
@pytest.mark.parametrize("relative", [False, True])
def test_a_file_without_a_task_is_refused(tmp_path, monkeypatch, relative, text, message):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, text)
    given = Path(path.name) if relative else path
    with pytest.raises(TaskError, match=message) as caught:
        load_task_file(given)
    assert str(caught.value).startswith(f"{given}: ")


def test_what_is_no_python_file_is_refused(tmp_path):
    missing, folder, text = (
        tmp_path / "missing.py",
        tmp_path,
        written(tmp_path, TASK, name="task.txt"),
    )
    for path in (missing, folder):
        with pytest.raises(InputError) as caught:
            load_task_file(path)
        assert str(caught.value) == f"`task` must be a Python file, but there is no file {path}."
    with pytest.raises(InputError, match=r"written lrtune.CommandLine\(\['python', 'a.py'\]\)\.$"):
        load_task_file(Path("python a.py"))
    with pytest.raises(InputError) as caught:
        load_task_file(text)
    assert str(caught.value) == f"`task` must be a Python file (.py), but got {text}."


# --- a source and its description ---


@pytest.mark.parametrize(
    ("source", "described"),
    [
        (NamedTask(), {"data": "cluttered-digits", "model": "small-cnn"}),
        (
            NamedTask(
                data="cifar10", model="resnet18", data_dir="/data", train_size=100, val_size=10,
                image_size=16,
            ),
            {
                "data": "cifar10", "model": "resnet18", "data_dir": "/data", "train_size": 100,
                "val_size": 10, "image_size": 16,
            },
        ),
    ],
)  # fmt: skip
def test_names_are_described_and_read_back(source, described):
    assert describe_source(source) == described
    assert source_from(described) == source


def test_a_file_is_described_and_read_back_from_anywhere(tmp_path, monkeypatch):
    path = written(tmp_path, TASK)
    monkeypatch.chdir(tmp_path)
    described = describe_source(TaskFile(path=Path("my_task.py")))
    monkeypatch.chdir("/")
    assert source_from(described) == TaskFile(path=path)


def test_a_changed_file_is_refused(tmp_path):
    path = written(tmp_path, TASK)
    described = describe_source(TaskFile(path=path))
    written(tmp_path, TASK + "# another\n")
    with pytest.raises(InputError) as caught:
        source_from(described)
    assert str(caught.value) == (
        f"{path} has changed since the study began: its new results would not go with the old ones."
    )


def test_a_lost_file_is_missed_when_it_is_loaded(tmp_path):
    path = written(tmp_path, TASK)
    described = describe_source(TaskFile(path=path))
    path.unlink()
    with pytest.raises(InputError, match="there is no file"):
        load_task(source_from(described))


def test_a_changed_folder_of_images_is_refused(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"pixels")
    source = NamedTask(data=f"folder:{tmp_path}")
    described = describe_source(source)
    (tmp_path / "notes.txt").write_text("no image")
    assert source_from(described) == source
    (tmp_path / "cats" / "1.png").write_bytes(b"other pixels")
    with pytest.raises(InputError, match=f"^{tmp_path} has changed since the study began"):
        source_from(described)


def test_a_python_object_cannot_be_read_back():
    task = a_task(name="mine")
    assert load_task(task) is task
    with pytest.raises(
        InputError,
        match=r"this study's task, 'mine', is a Python object: call lrtune\.search with it",
    ):
        source_from(describe_source(task))


# --- a user's own data train like ours ---

SOURCES = {
    "dataset": Noisy,
    "loader": lambda: DataLoader(Noisy(), batch_size=15, shuffle=True),
    "loader with a generator": lambda: DataLoader(
        Noisy(), batch_size=15, shuffle=True, generator=torch.Generator()
    ),
    "loader with a sampler": lambda: DataLoader(
        Noisy(), batch_size=15, sampler=RandomSampler(Noisy(), generator=torch.Generator())
    ),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_own_data_train_repeat_and_resume(identical, source):
    recipe = Recipe(peak_lr=0.2, warmup_epochs=0.5)
    run = full_run(recipe, 6, seed=3)

    def train_again(**kwargs):
        settings = TrainSettings(batch_size=15, device="cpu")
        training = NativeTraining(a_task(train=source()), settings)
        assert training.task.steps_per_epoch == 6
        measurements, states = train(training, run, **kwargs)
        return timeless(measurements), states

    seed_all(1)
    measurements, states = train_again()
    seed_all(2)
    again, states_again = train_again()
    rest, rest_states = train_again(history=measurements[:4], state=states[3])
    assert again == measurements
    assert rest == measurements[4:]
    for other in (states_again[-1], rest_states[-1]):
        assert identical(other["model"], states[-1]["model"])
        assert identical(other["optimizer"], states[-1]["optimizer"])
    assert measurements[-1].metrics["top1"] > 60  # chance is 50: half of the labels are 1
    assert measurements[-1].metrics["train_loss"] < measurements[0].metrics["train_loss"]


def test_a_loader_of_another_batch_size_counts_its_own_steps():
    training = NativeTraining(
        a_task(train=SOURCES["loader"]()), TrainSettings(batch_size=128, accumulate=4, device="cpu")
    )
    assert training.task.steps_per_epoch == 2  # 6 batches of 15: one step of 4, one of 2
    assert training.task.settings.batch_size == 60


# the training data: the batch size that is trained with, where 24 was asked for
BATCH_SIZES = [
    (Noisy(), 24),
    (DataLoader(Noisy(), batch_size=15), 30),
    (DataLoader(Noisy(), batch_sampler=[[0, 1], [2]]), 24),
]


@pytest.mark.parametrize(("source", "batch_size"), BATCH_SIZES)
def test_a_loader_has_a_batch_size_of_its_own(source, batch_size):
    settings = TrainSettings(batch_size=24, accumulate=2)
    assert settings_for(a_task(train=source), settings) == replace(
        settings, batch_size=batch_size, augment=False
    )


def test_only_images_are_augmented_here():
    images = build_named_task(NamedTask(data="digits", train_size=200, val_size=50)).train
    assert [
        settings_for(a_task(train=train), TrainSettings()).augment for train in (images, Noisy())
    ] == [True, False]


# the training data, what is asked for, and the batch size or what is wrong with it
CHANGES = [
    (DataLoader(Noisy(), batch_size=15), {}, 15),
    (DataLoader(Noisy(), batch_size=15), {"batch_size": 15}, 15),
    (DataLoader(Noisy(), batch_size=15), {"accumulate": 3}, 45),
    (DataLoader(Noisy(), batch_size=15), {"accumulate": 3, "batch_size": 45}, 45),
    (
        DataLoader(Noisy(), batch_size=15), {"batch_size": 256},
        ["`batch_size` must be 15, what the task's loader gives a step, but got 256."],
    ),
    (
        DataLoader(Noisy(), batch_sampler=[[0, 1], [2]]), {"batch_size": 256},
        ["`batch_size` must be left to the task's own data, but got 256."],
    ),
    (Noisy(), {"batch_size": 30, "augment": False}, 30),
    (Noisy(), {"augment": True}, ["`augment` is for `Images` only, but the data are a Noisy."]),
    (Noisy(), {"batchsize": 3, "augment": True}, [
        f"`settings` has no 'batchsize'; it has {', '.join(vars(TrainSettings()))}.",
        "`augment` is for `Images` only, but the data are a Noisy.",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("train", "changes", "outcome"), CHANGES)
def test_a_setting_that_would_do_nothing_is_refused(train, changes, outcome):
    task = a_task(train=train)
    if isinstance(outcome, int):
        assert change_settings(task, changes).batch_size == outcome
        return
    with pytest.raises(InputError) as caught:
        change_settings(task, changes)
    assert list(caught.value.problems) == outcome


def test_label_smoothing_beside_a_loss_of_the_tasks_own_is_refused():
    with pytest.raises(InputError) as caught:
        settings_for(a_task(loss=nn.CrossEntropyLoss()), TrainSettings(label_smoothing=0.1))
    assert caught.value.problems == (
        "`label_smoothing` must be 0 where the task has a loss of its own, which has to smooth by "
        "itself, but got 0.1.",
    )


def test_a_task_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "net_beside_it.py").write_text(
        "from torch import nn\n\nbuild = lambda: nn.Linear(4, 2)\n"
    )
    (tmp_path / "t.py").write_text(
        "import torch, lrtune\nfrom torch.utils.data import TensorDataset\n"
        "from net_beside_it import build\n"
        "data = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))\n"
        "task = lrtune.Task(model=build, train=data, validation=data, num_classes=2)\n"
    )
    assert load_task_file(tmp_path / "t.py").model().out_features == 2
