"""What tells a task that is a Python object from another of the same name."""

import hashlib
import re
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from lrtune.training.batches import Images, Source
from lrtune.training.randomness import preserved_random_states, seed_all

if TYPE_CHECKING:
    from lrtune.training.task import Task

NUM_SAMPLES = 8
"""Of each set, evenly spread."""


def fingerprint(task: "Task") -> str:
    """SHA-256 of what is trained, as far as a look at it tells; the same in every process.

    Of the model its layers, its weights' names and shapes, and the code of its own forward passes;
    of the loss and the parameter groups their code; of the data their number and a few samples. A
    part that fails counts as nothing: it says so when it is trained.
    """
    with preserved_random_states():
        parts = [
            _model(task),
            _loss(task),
            _code(task.parameters),
            _data(task.train),
            _data(task.validation),
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
    """Where samples are not the same each time, of the same seed, only their labels and shapes count."""
    dataset: Any = source.dataset if isinstance(source, DataLoader) else source
    try:
        places = np.linspace(0, len(dataset) - 1, NUM_SAMPLES).astype(int).tolist()
        once, again = ([_sample(dataset, place) for place in places] for _ in range(2))
    except Exception:
        return None
    return len(dataset), once if once == again else [(inputs[:2], label) for inputs, label in once]


def _sample(dataset: Any, place: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Inputs and label, plain."""
    seed_all(0)
    if isinstance(dataset, Images):
        return _plain(dataset.images[place : place + 1].cpu()), _plain(dataset.labels[place].cpu())
    inputs, label = dataset[place]
    return _plain(inputs), _plain(label)


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
    said = repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
    return re.sub(" at 0x[0-9a-f]+", "", said)
