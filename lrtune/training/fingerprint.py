"""What tells a task that is a Python object from another of the same name."""

import hashlib
import re
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from lrtune.training.native.data.batches import Source
from lrtune.training.native.data.images import Images
from lrtune.training.native.data.structure import leaves
from lrtune.training.native.randomness import preserved_random_states, seed_all

if TYPE_CHECKING:
    from lrtune.training.task import Task

NUM_SAMPLES = 8
"""Of each set, evenly spread."""


def fingerprint(task: "Task") -> str:
    """SHA-256 of what is trained, as much of it as a look can tell; the same in every process.

    It covers the model's layers, the names and shapes of its weights, and the code of its own
    forward passes; the code of the loss, of `forward`, of the metrics and of the parameter groups;
    and of the data their number and a few samples. A part that fails counts as nothing: it says so
    when it is trained.
    """
    with preserved_random_states():
        parts = [
            _model(task),
            _loss(task),
            _code(task.parameters),
            _data(task.train),
            _data(task.validation),
            _code(task.forward),
            sorted((name, _code(metric)) for name, metric in task.metrics.items()),
            task.steps_per_epoch,
        ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _model(task: "Task") -> object:
    seed_all(0)
    try:
        model = task.model()
        return _layers(model), [
            (name, tuple(value.shape)) for name, value in model.state_dict().items()
        ]
    except Exception:
        return None


def _loss(task: "Task") -> object:
    if not isinstance(task.loss, nn.Module):
        return _code(task.loss)
    return _layers(task.loss), [
        (name, _plain(value.cpu())) for name, value in task.loss.state_dict().items()
    ]


def _data(source: Source) -> object:
    """The number of samples, and some of them; a stream is known by its code alone.

    Where samples differ each time, for the same seed, only their labels and shapes count.
    """
    dataset: Any = source.dataset if isinstance(source, DataLoader) else source
    if hasattr(dataset, "__code__"):
        return _code(dataset)
    try:
        places = np.linspace(0, len(dataset) - 1, NUM_SAMPLES).astype(int).tolist()
        once, again = ([_sample(dataset, place) for place in places] for _ in range(2))
    except Exception:
        return None
    if once == again:
        return len(dataset), once
    return len(dataset), [([part[:2] for part in parts[:-1]], parts[-1]) for parts in once]


def _sample(dataset: Any, place: int) -> list[tuple[object, ...]]:
    """Inputs and label, plain; the label comes last."""
    seed_all(0)
    if isinstance(dataset, Images):
        sample = dataset.images[place : place + 1].cpu(), dataset.labels[place].cpu()
    else:
        sample = dataset[place]
    return [_plain(leaf) for leaf in leaves(sample)]


def _layers(module: nn.Module) -> object:
    kinds = {type(part) for part in module.modules()}
    own = [
        kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "torchvision")
    ]
    return _text(module), sorted(_code(kind.forward) for kind in own)


def _code(function: Any) -> str:
    """What a function does; its name, where it has no code in Python."""
    code = getattr(function, "__code__", function)
    if not isinstance(code, CodeType):
        return _text(function)
    constants = [
        _code(value) if isinstance(value, CodeType) else _text(value) for value in code.co_consts
    ]
    return repr(
        (code.co_code, code.co_names, constants, _text(getattr(function, "__defaults__", None)))
    )


def _plain(value: Any) -> tuple[object, ...]:
    """Type, shape, and a hash of the values."""
    array = np.asarray(value)
    values = _text(value).encode() if array.dtype == object else array.tobytes()
    return str(array.dtype), array.shape, hashlib.sha256(values).hexdigest()


def _text(value: object) -> str:
    """Without what differs from process to process: addresses, and the order of a set of words."""
    text = repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
    return re.sub(" at 0x[0-9a-f]+", "", text)
