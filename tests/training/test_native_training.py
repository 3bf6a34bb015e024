"""What our own loop states of itself, besides what it trains."""

import pytest
from torch import nn

from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.sources import NamedTask
from lrtune.core.study import TrainSettings
from lrtune.core.training import ABILITIES, Devices, Training
from lrtune.training.native.loop import NativeTraining
from lrtune.training.native.opening import OpenNative
from lrtune.training.task import Task, describe_source
from tests.studies import full_run
from tests.training.runs import train


@pytest.fixture
def task(digits):
    return Task(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        train=digits.train, validation=digits.validation, test=digits.test, num_classes=10,
        epochs=7,
    )  # fmt: skip


def opened(task, description=None, **settings):
    values = {"batch_size": 36, "device": "cpu", "precision": "fp32"} | settings
    return NativeTraining(task, TrainSettings(**values), description=description)


def test_it_states_its_facts(task):
    training: Training = opened(task)  # mypy checks the protocol where it is opened
    facts = training.facts
    assert (facts.steps_per_epoch, facts.epochs, facts.num_validation) == (6, 7, 100)
    assert facts.metrics == ("train_loss", "val_loss", "top1")
    assert (str(facts.objective), facts.groups, facts.device) == ("top1:max", (), "cpu, fp32")
    assert facts.abilities == ABILITIES


def test_without_a_test_split_there_is_no_test(digits):
    task = Task(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        train=digits.train, validation=digits.validation, num_classes=10,
    )  # fmt: skip
    assert opened(task).facts.abilities == ABILITIES - {"test"}


def test_the_metrics_on_the_test_split_have_the_names_of_the_validation(task):
    training = opened(task)
    _, (state,) = train(training, full_run(Recipe(), 1))
    model = training.task.build_model(0)
    model.load_state_dict(state["model"])
    split = training.task.evaluation_batches(task.test)
    assert training.test(state) == training.task.evaluation(model, split)
    assert set(training.test(state)) == {"val_loss", "top1"}


IDENTITIES = [
    ({"data_on_device": "no"}, True),
    ({"batch_size": 18}, False),
    ({"precision": "bf16"}, False),
    ({"threads": 1}, False),
]


@pytest.mark.parametrize(("settings", "is_same"), IDENTITIES)
def test_a_run_is_identified_by_what_moves_its_numbers(task, monkeypatch, settings, is_same):
    monkeypatch.setattr("lrtune.training.native.devices.cpu_has_bf16", lambda: True)
    before = opened(task).identity(Recipe())
    assert (opened(task, **settings).identity(Recipe()) == before) == is_same


def test_a_run_is_identified_by_its_task_and_the_library_of_its_optimizer(task):
    plain, described = opened(task), opened(task, description={"data": "digits"})
    assert described.identity(Recipe())["task"] == {"data": "digits"}
    assert plain.identity(Recipe()) != plain.identity(default_recipe("lamb"))
    assert plain.identity(Recipe()) == plain.identity(Recipe(peak_lr=3.0))


def test_eager_runs_have_one_lane(task):
    training = opened(task)
    assert training.lanes(Recipe(), "auto") == (1, "")
    assert training.lanes(Recipe(), 1) == (1, "")
    message = (
        "`lanes` above 1 need trials that CUDA graphs can hold, but got 2, and there is no GPU"
    )
    with pytest.raises(InputError, match=message):
        training.lanes(Recipe(), 2)


@pytest.mark.parametrize("named", [True, False])
def test_a_process_opens_it_anew(task, named):
    source = NamedTask(data="digits", model="mlp", train_size=200, val_size=50) if named else task
    settings = TrainSettings(batch_size=50, device="cpu")
    opening = OpenNative(source=source, description=describe_source(source), settings=settings)
    training = opening(Devices())
    assert training.facts.steps_per_epoch == 4
    assert training.identity(Recipe())["task"] == describe_source(source)
