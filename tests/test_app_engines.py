"""What the wiring gives the engines: GPUs, threads, places, what is told before the first run."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lrtune.app.arguments import num_jobs, splits, threads_of, visible_gpus
from lrtune.app.engines import notes_before, open_engine, open_native, places_of
from lrtune.app.places import Places
from lrtune.app.subjects import _of_task
from lrtune.core.engines import Local, Ray
from lrtune.core.errors import InputError
from lrtune.core.objective import Objective
from lrtune.core.recipe import NamedRecipe, default_recipe
from lrtune.core.sources import CommandLine, NamedTask, TaskFile
from lrtune.core.study import TrainSettings
from lrtune.core.training import ABILITIES, Devices, Facts
from lrtune.training.task import load_task
from tests.studies import config_of

SETTINGS = TrainSettings(device="cpu", threads=1)
MLP = NamedTask(data="digits", model="mlp")


@pytest.fixture
def gpus(monkeypatch):
    """Makes this machine one of so many GPUs, of which a variable shows some."""

    def make(count, variable=None, *, cores=16):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr("lrtune.app.arguments.num_cores", lambda: cores)
        monkeypatch.setattr("lrtune.app.engines.num_cores", lambda: cores)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if variable is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)

    return make


# GPUs that torch counts, the variable, the device that was asked for: those to deal out
VISIBLE = [
    (0, None, "auto", ()),
    (1, None, "auto", ("0",)),
    (3, None, "cuda", ("0", "1", "2")),
    (2, "5, 3", "auto", ("5", "3")),
    (1, "5,-1,3", "auto", ("5",)),  # CUDA stops at the first that is none
    (0, "", "auto", ()),
    (2, "GPU-5ab,GPU-77c", "auto", ("GPU-5ab", "GPU-77c")),
    (3, None, "cpu", ()),
    (3, None, "cuda:1", ()),  # whoever names one means that one
]


@pytest.mark.parametrize(("count", "variable", "device", "wanted"), VISIBLE)
def test_the_gpus_to_deal_out(gpus, count, variable, device, wanted):
    gpus(count, variable)
    assert visible_gpus(device) == wanted


TASK = load_task(MLP)
# options, GPUs, what is trained: worker processes, threads of a run on 16 cores
SHARES = [
    (Local(), 4, MLP, 4, 4),
    (Local(gpus="1,2"), 4, MLP, 2, 8),
    (Local(jobs=8), 4, MLP, 8, 2),
    (Local(jobs=1), 4, MLP, 1, 16),
    # on a CPU, of what other processes can load: the same for any number of jobs
    (Local(), 0, MLP, 1, 2),
    (Local(jobs=1), 0, MLP, 1, 2),
    (Local(jobs=4), 0, MLP, 4, 2),
    (Local(jobs=4), 0, TaskFile(path=Path("task.py")), 4, 2),
    # of what other processes may not be able to load, or must not run by themselves
    (Local(), 0, TASK, 1, 16),
    (Local(jobs=4), 0, TASK, 4, 4),
    (Local(), 0, CommandLine(("python", "train.py")), 1, 16),
]


@pytest.mark.parametrize(("options", "count", "source", "jobs", "threads"), SHARES)
def test_a_run_has_its_share_of_the_cores(gpus, options, count, source, jobs, threads):
    gpus(count)
    assert num_jobs(options, "auto") == jobs
    assert threads_of(options, "auto", source=source) == threads


@pytest.mark.parametrize(
    ("source", "count", "device", "expected"),
    [
        (MLP, 0, "auto", True),
        (MLP, 1, "cpu", True),
        (MLP, 1, "auto", False),
        (MLP, 1, "cuda:0", False),
        (TaskFile(path=Path("task.py")), 0, "auto", True),
        (TASK, 0, "auto", False),
        (CommandLine(("python", "train.py")), 0, "auto", False),
    ],
)
def test_what_several_processes_may_train_without_being_asked_to(
    gpus, source, count, device, expected
):
    gpus(count)
    assert splits(source, device) is expected


def facts(**changes):
    values = {"steps_per_epoch": 10, "epochs": 4, "metrics": ("top1",), "objective": Objective()}
    return Facts(**values | changes)


def test_what_is_told_before_the_first_run(gpus):
    gpus(0, cores=2)
    config = config_of(settings=SETTINGS)
    assert notes_before(Local(), config, facts()) == []
    assert notes_before(Local(jobs=2), config, facts()) == []
    (crowded,) = notes_before(Local(jobs=3), config, facts())
    assert crowded.startswith("3 jobs x 1 threads > 2 cores: fewer jobs may be faster")
    (limit,) = notes_before(Ray(), config, facts(abilities=ABILITIES - {"sweep"}))
    assert "no range test" in limit


def test_checkpoints_lie_where_all_nodes_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = Places(home=Path("home"))
    assert places_of(Local(), places) == places
    assert places_of(Ray(), places).storage_path == str(tmp_path / "home" / "checkpoints")
    assert places_of(Ray(storage_path="there"), places).storage_path == str(tmp_path / "there")
    assert places_of(Ray(storage_path="s3://b/p"), places).storage_path == "s3://b/p"


def test_our_own_loop_trains_on_one_gpu(tmp_path):
    pytest.importorskip("ray")
    task = load_task(MLP)
    options = Ray(gpus_per_trial=2.0)
    training = open_native(options, task, MLP, SETTINGS)
    words = "`gpus_per_trial <= 1` must hold for lrtune's own training loop.*but got 2"
    with (
        pytest.raises(InputError, match=words),
        open_engine(options, training, Places(home=tmp_path), device="cpu", modules=()),
    ):
        pass


def test_a_task_is_loaded_again_elsewhere_or_goes_there_by_value():
    task = load_task(MLP)
    here = open_native(Local(), task, MLP, SETTINGS)
    there = pickle.loads(pickle.dumps(here))
    assert (here.task, there.task, there.source) == (task, None, MLP)
    assert open_native(Ray(), task, MLP, SETTINGS).source is task
    identities = [opening(Devices()).identity(task.baseline) for opening in (here, there)]
    assert identities[0] == identities[1]


ADAMW = default_recipe("adamw")
TWO = (NamedRecipe(name="a", recipe=ADAMW), NamedRecipe(name="b", recipe=ADAMW))
# what is trained, the name of a task in Python, what differs from its defaults: the name's words
NAMES = [
    (NamedTask(data="digits"), None, {}, "digits"),
    (NamedTask(data="digits", model="mlp"), None, {"epochs": 5}, "digits-mlp-5ep"),
    (TaskFile(path=Path("a/my net.py")), "task", {}, "my-net"),
    (TaskFile(path=Path("a/net.py")), "pets", {"baseline": ADAMW}, "pets-adamw"),
    (None, "task", {"space_name": "quick"}, "task-quick"),
    (None, "日本 net", {"space_name": "my/wide.toml"}, "net-wide"),
    (None, "net", {"recipes": TWO, "space_name": "", "epochs": 2}, "net-2ep-compare"),
    (None, "x" * 200, {}, "x" * 60),
]


@pytest.mark.parametrize(("source", "name", "changes", "words"), NAMES)
def test_a_study_is_named_by_what_was_typed(source, name, changes, words):
    task = load_task(NamedTask(data="digits") if name else source)
    task = replace(task, name=name or task.name)
    subject = _of_task(task, source or task, print)
    usual = {"epochs": task.epochs, "baseline": task.baseline, "space_name": "default"}
    made = subject.study_name(config_of(**usual | changes))
    assert re.fullmatch(re.escape(words) + "-[0-9a-f]{4}", made)
    assert made == subject.study_name(config_of(**usual | changes))
    assert made != subject.study_name(config_of(**usual | changes, seed=7))
