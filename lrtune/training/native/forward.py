"""From a model and a batch to loss, outputs and targets; and a look at the first batch."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.core.errors import TaskError, is_of_user, raised
from lrtune.training.native.data.structure import Batch, describe

Loss = Callable[[Any, Any], Tensor]
"""Mean loss of (outputs, targets)."""
Model = Callable[..., Any]
Forward = Callable[[Model, Batch], tuple[Tensor, Any, Any]]
"""(loss, outputs, targets) of a model, which may be compiled, and a batch."""
IGNORED = -100
"""A target that cross-entropy, and so Top-1, leaves out."""


@dataclass(frozen=True)
class DefaultForward:
    """What a batch goes through where the task has no `forward` of its own.

    Of a pair (inputs, targets) the outputs are `model(inputs)`. Of a dict they are the `logits` of
    `model(**batch)`, the targets are its `labels`, and the loss is the model's own where it returns
    one, as the models of transformers do.
    """

    loss: Loss
    is_own: bool = False
    """Whether the task gave the loss, so that it takes the place of the model's."""
    advice: str = "Give the task a `forward` that takes this batch."
    """What helps where a batch does not fit."""

    def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Any, Any]:
        """See `Forward`."""
        loss, outputs, targets = self.outputs(model, batch)
        return self.loss(outputs, targets) if loss is None else loss, outputs, targets

    def outputs(self, model: Model, batch: Batch) -> tuple[Tensor | None, Any, Any]:
        """The loss if the model has reckoned it, the outputs and the targets.

        Raises:
            TaskError: the batch is neither a pair nor a dict.
        """
        if isinstance(batch, Mapping):
            result = model(**batch)
            outputs = _part(result, "logits")
            loss = None if self.is_own else _part(result, "loss")
            return loss, result if outputs is None else outputs, batch.get("labels")
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TaskError(
                "a batch must be a pair (inputs, targets) or a dict of the model's arguments, but "
                f"the data gave {describe(batch)}. {self.advice}"
            )
        inputs, targets = batch
        return None, model(inputs), targets


def _part(result: Any, name: str) -> Any:
    return result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)


@dataclass(frozen=True, kw_only=True)
class FirstBatch:
    """What a model makes of the first batch."""

    outputs: Any
    targets: Any
    loss: Loss | None
    """The loss as a function of them; `None` where the model or the task reckons it otherwise."""


def check_batch(
    forward: Forward, model: nn.Module, batch: Batch, num_classes: int | None
) -> FirstBatch:
    """Tries the first batch.

    It says in words what torch would say in its own, or what it would not say at all.

    Args:
        forward: of a batch.
        model: is called as it is, without gradients.
        batch: on the model's device.
        num_classes: where Top-1 is counted.

    Raises:
        TaskError: outputs and targets do not go together.
    """
    place = _place_of(forward, model)
    function: Loss | None = None
    with torch.no_grad(), _refusing_to_broadcast():
        if isinstance(forward, DefaultForward):
            _check_arguments(model, batch, forward.advice)
            own, outputs, targets = forward.outputs(model, batch)
            if own is None and not forward.is_own:
                _check_classes(outputs, targets, num_classes, place)
            function = forward.loss if own is None else None
            loss = forward.loss(outputs, targets) if own is None else own
        else:
            result = forward(model, batch)
            if not isinstance(result, tuple) or len(result) != 3:
                raise TaskError(
                    f"`forward` must return (loss, outputs, targets), but it returned "
                    f"{describe(result)}{place}."
                )
            loss, outputs, targets = result
    if num_classes is not None:
        check_top1(outputs, targets, num_classes, place)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TaskError(
            f"the loss of a batch must be a tensor of one number, but it is {describe(loss)}"
            f"{place}. Return the mean loss alone."
        )
    if function is not None:
        _check_broadcast(function, loss, outputs, targets, place)
    return FirstBatch(outputs=outputs, targets=targets, loss=function)


def _check_arguments(model: nn.Module, batch: Batch, advice: str) -> None:
    """Whether a model takes the keys of a batch that is a dict."""
    if not isinstance(batch, Mapping):
        return
    try:
        signature(model.forward).bind(**batch)
    except TypeError as error:
        raise TaskError(
            "the keys of a batch that is a dict must be the arguments of the model's `forward`, "
            f"but {describe(batch)} does not fit: {error}. {advice}"
        ) from error


def _check_broadcast(function: Loss, loss: Tensor, outputs: Any, targets: Any, place: str) -> None:
    """Whether a loss takes (B, 1) and (B,) as B pairs, or makes B times B pairs of them.

    It is tried with both in one shape: a loss that squeezes by itself gives the same, or fails.
    """
    are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not are_tensors or outputs.shape == targets.shape or outputs.numel() != targets.numel():
        return
    try:
        paired = function(outputs.reshape(targets.shape), targets)
    except Exception:
        return
    if isinstance(paired, Tensor) and not torch.allclose(paired, loss, rtol=1e-3):
        raise TaskError(
            "outputs and targets must have the same shape for this loss, which would broadcast "
            f"them: the model returned {describe(outputs)} and the targets are {describe(targets)}"
            f"{place}."
        )


@contextmanager
def _refusing_to_broadcast() -> Iterator[None]:
    """Turns torch's warning about targets of another shape into an error; it names both shapes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size")
        try:
            yield
        except UserWarning as warning:
            raise TaskError(
                f"outputs and targets must have the same shape for this loss: {raised(warning)}"
            ) from warning


def explained(error: Exception, batch: Batch) -> TaskError | None:
    """The error if the type of the inputs is why the model failed on its first batch."""
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else None
    if not isinstance(inputs, Tensor) or inputs.dtype in (torch.float32, torch.int64):
        return None
    return TaskError(
        f"inputs must be float32 where the model does not convert them, but a batch has "
        f"{inputs.dtype}, and the model failed on it: {raised(error)}"
    )


def check_top1(outputs: Any, targets: Any, num_classes: int, place: str = "") -> None:
    """Top-1 needs the classes in dimension 1 of the outputs, and one target for all else.

    Raises:
        TaskError: the shapes are others.
    """
    if _are_classes(outputs, targets) and outputs.shape[1] == num_classes:
        return
    raise TaskError(
        f"Top-1 needs logits of shape (B, {num_classes}, ...) and labels of shape (B, ...), but "
        f"the model returned {describe(outputs)} and the labels are {describe(targets)}"
        f"{place}.{_hint(outputs, targets)}"
    )


def _check_classes(outputs: Any, targets: Any, num_classes: int | None, place: str) -> None:
    """What cross-entropy needs."""
    are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if num_classes is not None:
        check_top1(outputs, targets, num_classes, place)
    elif are_tensors and _are_probabilities(outputs, targets):
        return
    elif not _are_classes(outputs, targets):
        raise TaskError(
            "cross-entropy needs logits of shape (B, classes, ...) and labels of shape (B, ...), "
            f"but the model returned {describe(outputs)} and the labels are {describe(targets)}"
            f"{place}.{_hint(outputs, targets)} For another loss, give `task.loss`."
        )
    high = outputs.shape[1] - 1
    rule = f"labels must be whole numbers from 0 to {high}"
    if targets.dtype not in (torch.int64, torch.uint8):
        raise TaskError(
            f"{rule}, int64 of shape {tuple(targets.shape)}, but a batch has {targets.dtype} for "
            f"outputs of shape {describe(outputs)}{place}."
        )
    counted = targets[targets != IGNORED] if targets.dtype == torch.int64 else targets
    if not counted.numel():
        return
    least, most = int(counted.min()), int(counted.max())
    if not 0 <= least <= most <= high:
        raise TaskError(
            f"{rule}, since the outputs have the shape {describe(outputs)}, but a batch has labels "
            f"from {least} to {most}{place}."
        )


def _are_classes(outputs: Any, targets: Any) -> bool:
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and outputs.ndim >= 2
        and targets.shape == outputs.shape[:1] + outputs.shape[2:]
    )


def _are_probabilities(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are the probabilities of the classes, which cross-entropy takes, too."""
    if not targets.is_floating_point() or targets.shape != outputs.shape or outputs.ndim < 2:
        return False
    return bool((targets >= 0).all() and ((targets.sum(dim=1) - 1).abs() < 0.01).all())


def _hint(outputs: Any, targets: Any) -> str:
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return ""
    if outputs.ndim > 2 and targets.shape == outputs.shape[:-1]:
        return " The classes are in the last dimension: return `outputs.movedim(-1, 1)`."
    return ""


def _place_of(forward: Forward, model: nn.Module) -> str:
    """Where the user's code computes the outputs, ` (net.py:12, in forward)`; empty if unknown."""
    functions = [type(module).forward for module in model.modules()]
    if not isinstance(forward, DefaultForward):
        functions.insert(0, forward)
    for function in functions:
        code = getattr(function, "__code__", None)
        if code is not None and is_of_user(code.co_filename):
            name = Path(code.co_filename).name
            return f" ({name}:{code.co_firstlineno}, in {code.co_name})"
    return ""
