"""What a run is computed on: device, arithmetic and threads, and the versions that go with them."""

import math
import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version

import torch

from lrtune.core.errors import InputError, first_line
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.optimizers import library_of
from lrtune.training.native.randomness import seed_all


@dataclass(frozen=True)
class Arithmetic:
    """How forward passes are computed on one device."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """`None`: fp32 throughout."""

    @property
    def name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.autocast_dtype]

    def autocast(self) -> AbstractContextManager[object]:
        """Around each forward pass and its loss."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler; it does nothing but for fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype is torch.float16)


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU.

    Raises:
        InputError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # `meta` has tensors and no values
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(
            f"`device` must be auto or a device that is there, but got {name!r}: "
            f"{first_line(error)}"
        ) from None
    return device


def cpu_has_bf16() -> bool:
    """Whether this processor has bf16 units.

    Without them autocast to bf16 is about ten times slower than fp32.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """`auto` is bf16 on a GPU that computes in it, fp16 on an older one, and fp32 on a CPU.

    On a CPU without bf16 units it is refused.

    Raises:
        InputError: the device cannot compute in the precision asked for.
    """
    on_gpu = device.type == "cuda"
    if precision == "auto":
        precision = (
            ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
            if on_gpu
            else "fp32"
        )
    if precision == "fp32":
        return Arithmetic(device, None)
    if precision == "bf16":
        if device.type == "cpu" and not cpu_has_bf16():
            raise InputError(
                "`precision` bf16 needs a processor that computes in bf16, and this one does not: "
                "use fp32 or auto."
            )
        return Arithmetic(device, torch.bfloat16)
    if precision == "fp16":
        return Arithmetic(device, torch.float16)
    raise InputError(f"`precision` must be one of auto, fp32, bf16, fp16, but got {precision!r}.")


def describe_environment(settings: TrainSettings, recipe: Recipe) -> Mapping[str, str]:
    """Hardware and versions that a run's numbers depend on, in the order of their display."""
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
    """Leaves nothing of the run before in this process.

    That is random numbers, the casts of AMP, and memory on the GPU.

    What lrtune draws depends on the run's seed and epoch alone; this is for the task's own code.
    """
    seed_all(seed)
    torch.clear_autocast_cache()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib(process: int | str = "self") -> float:
    """The most that a process has had in main memory so far, MiB; nan if the system is not Linux.

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
    """The most that torch has reserved of a GPU so far in this process, MiB; nan elsewhere."""
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
