"""The floor under every loop: what a training step computes and moves, over what the device can.

Arithmetic: the FLOPs of the convolutions and matrix products of forward and backward pass (torch's
`FlopCounterMode`), over the FLOP/s of a large matrix product in the training precision. Bytes: what
the operators move when none is fused with another, that is the inputs and the outputs of every ATen
operator that is no view, in forward pass, backward pass and fused optimizer, over the bytes/s of a
large copy. Preparing the images counts in neither. Both ceilings are measured in the same run; the
floor in images per second is the batch over that time.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lrtune.core.recipe import default_recipe
from lrtune.training.native.devices import choose_arithmetic
from lrtune.training.native.optimizers import build_optimizer

from .cases import Workload
from .reference import synchronize

NUM_REPEATS = 10
"""Of each ceiling's measurement, of which the fastest counts."""


class ByteCounter(TorchDispatchMode):
    """Adds up the bytes that operators read and write while it is active.

    An operator reads each of its tensors, and writes those that it returns, in place or not; what
    is returned unchanged it does not write. A view moves nothing, and memory that is only reserved
    is not written.

    Example:
        >>> with ByteCounter() as counter:
        ...     torch.zeros(10) + 1
        >>> counter.num_bytes
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator, and counts it."""
        result = func(*args, **(kwargs or {}))
        inputs, outputs = list(_tensors((args, kwargs))), list(_tensors(result))
        if func.is_view or "empty" in func.overloadpacket.__name__:
            return result
        if (
            not func._schema.is_mutable
        ):  # `_unsafe_view` and others return what they got and do not say so
            known = {_place(tensor) for tensor in inputs}
            outputs = [tensor for tensor in outputs if _place(tensor) not in known]
            if not outputs:
                return result
        elif not outputs:  # lists that are written in place, as by a fused optimizer
            outputs = list(_written(func, args, kwargs or {}))
        self.num_bytes += sum(_num_bytes(tensor) for tensor in (*inputs, *outputs))
        return result


class StepCounter:
    """Counts a case's training step, and measures the device."""

    def __init__(self, workload: Workload):
        self.workload = workload
        self.device = torch.device(workload.device)
        self.arithmetic = choose_arithmetic("auto", self.device)

    def count(self) -> dict[str, float]:
        """FLOPs and bytes of one training step, in the precision and memory format of our loop."""
        case = self.workload.case
        model = self.workload.build_model().to(self.device).train()
        shape = (case.batch_size, case.channels, case.image_size, case.image_size)
        images = torch.randn(shape, device=self.device)
        if self.device.type == "cuda":
            model, images = (part.to(memory_format=torch.channels_last) for part in (model, images))
        labels = torch.randint(case.num_classes, (case.batch_size,), device=self.device)
        optimizer = build_optimizer(default_recipe("sgd"), model.parameters())

        def step() -> None:
            with self.arithmetic.autocast():
                loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        step()  # makes the momentum
        with FlopCounterMode(display=False) as flops:
            step()
        with ByteCounter() as counter:
            step()
        return {
            "images": case.batch_size,
            "flops": flops.get_total_flops(),
            "bytes": counter.num_bytes,
        }

    def ceilings(self) -> dict[str, float]:
        """FLOP/s of a large matrix product, and bytes/s of a large copy.

        The product is in the training precision.
        """
        on_gpu = self.device.type == "cuda"
        size, num_bytes = (8192, 2**31) if on_gpu else (2048, 2**28)
        dtype = self.arithmetic.autocast_dtype or torch.float32
        left, right = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        product_s = self._fastest(lambda: torch.mm(left, right))
        source = torch.zeros(num_bytes, dtype=torch.uint8, device=self.device)
        target = torch.zeros_like(source)
        copy_s = self._fastest(lambda: target.copy_(source))
        return {"flops_per_s": 2 * size**3 / product_s, "bytes_per_s": 2 * num_bytes / copy_s}

    def _fastest(self, operation: Any) -> float:
        seconds = []
        for _ in range(NUM_REPEATS):
            synchronize(self.device)
            start = time.perf_counter()
            operation()
            synchronize(self.device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors of the arguments that the operator's schema says it writes.

    A fused optimizer's gradients are among them for the sake of unscaling, which is not done here.
    """
    given = (
        dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
        | kwargs
    )
    for argument in func._schema.arguments:
        if (
            argument.name != "grads"
            and argument.alias_info is not None
            and argument.alias_info.is_write
        ):
            yield from _tensors(given.get(argument.name))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _num_bytes(tensor: Tensor) -> int:
    """Of an expanded tensor only what there is in memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
