"""Which arithmetic a run uses: fp32, or autocast to bf16 or fp16, the latter with a gradient scaler."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from lrtune.core.errors import InputError, first_line


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
            f"`device` must be auto or a device that is there, but got {name!r}: {first_line(error)}"
        ) from None
    return device


def cpu_has_bf16() -> bool:
    """Whether this processor has bf16 units; without them autocast to it is about ten times slower than fp32."""
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
                "`precision` bf16 needs a processor that computes in bf16, and this one does not: use fp32 or auto."
            )
        return Arithmetic(device, torch.bfloat16)
    if precision == "fp16":
        return Arithmetic(device, torch.float16)
    raise InputError(f"`precision` must be one of auto, fp32, bf16, fp16, but got {precision!r}.")
