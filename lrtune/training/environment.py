"""What a result was measured on."""

import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version

import torch

from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.optimizers import library_of
from lrtune.training.precision import choose_arithmetic, choose_device
from lrtune.training.randomness import seed_all


def describe_environment(settings: TrainSettings, recipe: Recipe) -> Mapping[str, str]:
    """Hardware and versions that a run's numbers depend on, in the order in which they are shown."""
    device = choose_device(settings.device)
    arithmetic = choose_arithmetic(settings.precision, device)
    described = {
        "Device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {_processor()}",
        "Precision": arithmetic.name,
        "CPU threads": f"{settings.threads} a run, of {os.cpu_count()} cores",
        "System": platform.platform(),
        "Python": platform.python_version(),
    }
    packages = ["lrtune", "torch", "torchvision", "optuna", *library_of(recipe)]
    return described | {package: version(package) for package in dict.fromkeys(packages)}


def shaping_environment(described: Mapping[str, str]) -> Mapping[str, str]:
    """The part of an environment that a run's numbers depend on to the last bit."""
    return {
        name: value
        for name, value in described.items()
        if name not in ("System", "Python", "optuna")
    }


def reset_process(seed: int) -> None:
    """Leaves nothing in this process of the run before: random numbers, the casts of AMP, memory on the GPU.

    What lrtune draws depends on the run's seed and epoch alone; this is for the task's own code.
    """
    seed_all(seed)
    torch.clear_autocast_cache()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib(process: int | str = "self") -> float:
    """The most that a process has had in main memory so far, MiB; nan where the system is not Linux.

    It is the high-water mark itself: a program inherits `ru_maxrss` of the one that started it.

    Args:
        process: its number; by default this one.
    """
    with suppress(OSError), open(f"/proc/{process}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):  # in KiB
                return int(line.split()[1]) / 2**10
    return math.nan


def peak_gpu_memory_mib(device: torch.device) -> float:
    """The most that torch has reserved of a GPU so far in this process, MiB; nan of another device."""
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else math.nan


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
