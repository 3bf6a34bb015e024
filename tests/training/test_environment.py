"""What is said of the machine and the libraries."""

import platform
from importlib.metadata import version

import pytest

from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.environment import describe_environment, shaping_environment

CPU = TrainSettings(device="cpu", threads=2)


@pytest.mark.parametrize(("optimizer", "extra"), [("sgd", []), ("adam", []), ("lamb", ["pytorch-optimizer"])])
def test_what_numbers_depend_on_is_named(optimizer, extra):
    described = describe_environment(CPU, Recipe(optimizer=optimizer))
    packages = ["lrtune", "torch", "torchvision", "optuna", *extra]
    assert [*described] == ["Device", "Precision", "CPU threads", "System", "Python", *packages]
    assert {package: described[package] for package in packages} == {name: version(name) for name in packages}
    assert described["Device"].removeprefix("CPU, ")
    assert described["Precision"] == "fp32"
    assert described["CPU threads"].startswith("2 a run, of ")
    assert described["Python"] == platform.python_version()


def test_what_the_last_bits_depend_on_leaves_out_what_only_decides_what_is_trained():
    described = describe_environment(CPU, Recipe())
    shaping = shaping_environment(described)
    assert described.keys() - shaping.keys() == {"System", "Python", "optuna"}
    assert shaping.items() <= described.items()


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="`device` must be auto or a device that is there"):
        describe_environment(TrainSettings(device="banana"), Recipe())
