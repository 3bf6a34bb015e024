"""What is said of the machine and the libraries."""

import math
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.devices import (
    describe_environment,
    peak_gpu_memory_mib,
    peak_memory_mib,
    shaping_environment,
)

CPU = TrainSettings(device="cpu", threads=2)


@pytest.mark.parametrize(
    ("optimizer", "extra"), [("sgd", []), ("adam", []), ("lamb", ["pytorch-optimizer"])]
)
def test_what_numbers_depend_on_is_named(optimizer, extra):
    described = describe_environment(CPU, Recipe(optimizer=optimizer))
    packages = ["lrtune", "torch", "torchvision", "optuna", *extra]
    assert [*described] == ["Device", "Precision", "CPU threads", "System", "Python", *packages]
    assert {package: described[package] for package in packages} == {
        name: version(name) for name in packages
    }
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


@pytest.mark.slow
def test_peak_memory_is_the_most_that_there_was_of_this_process_alone():
    before = peak_memory_mib()
    taking = "from lrtune.training.native.devices import peak_memory_mib; print(peak_memory_mib())"
    taking += "; block = bytearray(300 << 20); del block; print(peak_memory_mib())"
    said = subprocess.run(
        [sys.executable, "-c", taking], capture_output=True, text=True, check=True
    ).stdout
    empty, full = map(float, said.split())
    assert 200 < full - empty < 400
    assert peak_memory_mib() < before + 290


def test_a_cpu_has_no_gpu_memory():
    assert math.isnan(peak_gpu_memory_mib(torch.device("cpu")))


@pytest.mark.gpu
def test_gpu_memory_is_what_torch_reserved():
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = peak_gpu_memory_mib(device)
    block = torch.empty(300 << 20, dtype=torch.uint8, device=device)
    del block
    assert 290 < peak_gpu_memory_mib(device) - before < 400
