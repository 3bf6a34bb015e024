"""Keeps what the trainers of Lightning and transformers log, and what TensorBoard is given."""

from __future__ import annotations

import functools
import importlib
from typing import Any, Callable

from . import note_error, report


def watch_lightning(module: Any) -> None:
    """Gives each trainer of this module (`lightning.pytorch.trainer.trainer`) the callback."""
    package = module.__name__.rsplit(".trainer.", 1)[0]
    _after_init(module.Trainer, lambda trainer: trainer.callbacks.append(lightning(package)))


def watch_transformers(module: Any) -> None:
    """Gives each trainer of this module (`transformers.trainer`) the callback."""
    _after_init(module.Trainer, lambda trainer: trainer.add_callback(transformers()))


def watch_tensorboard(module: Any) -> None:
    """Keeps the scalars that writers of `torch.utils.tensorboard.writer` are given."""
    original = module.SummaryWriter.add_scalar

    @functools.wraps(original)
    def add_scalar(self: Any, tag: Any, scalar_value: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, tag, scalar_value, *args, **kwargs)
        try:
            _report({tag: scalar_value}, "tensorboard")
        except Exception:
            note_error()
        return result

    module.SummaryWriter.add_scalar = add_scalar


def _after_init(trainer: Any, then: Callable[[Any], None]) -> None:
    original = trainer.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        try:
            then(self)
        except Exception:
            note_error()

    trainer.__init__ = init


def _report(metrics: Any, source: str) -> None:
    values = {}
    for name, value in metrics.items():
        try:
            values[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue  # it is no number
    if values:
        report(values, source)


def lightning(package: str) -> Any:
    """A callback for the trainer of `lightning.pytorch` or `pytorch_lightning`."""
    base: Any = importlib.import_module(package + ".callbacks").Callback

    class KeepMetrics(base):  # type: ignore[misc]
        """Keeps the metrics that are new after each validation and each training epoch.

        A trainer shows all metrics it has had so far; those that were not computed anew are the
        same objects as before.
        """

        def __init__(self) -> None:
            self._before: dict[str, Any] = {}

        def __reduce__(self) -> Any:  # a trainer may be sent to another process
            return lightning, (package,)

        def _start(self, trainer: Any, *_: Any) -> None:
            try:
                self._before = dict(trainer.callback_metrics)
            except Exception:
                note_error()

        def _end(self, trainer: Any, *_: Any) -> None:
            try:
                # On every rank, since computing a metric may wait for the other ranks.
                metrics, before = dict(trainer.callback_metrics), self._before
                self._before = metrics
                if not trainer.sanity_checking:
                    new = {k: v for k, v in metrics.items() if before.get(k) is not v}
                    _report(new, "lightning")
            except Exception:
                note_error()

        on_validation_start = on_test_start = _start
        on_validation_end = on_test_end = on_train_epoch_end = _end

    return KeepMetrics()


def transformers() -> Any:
    """A callback for the trainer of transformers."""
    base: Any = importlib.import_module("transformers.trainer_callback").TrainerCallback

    class KeepLogs(base):  # type: ignore[misc]
        """Keeps the numbers that a trainer logs, the metrics of an evaluation among them."""

        def __reduce__(self) -> Any:
            return transformers, ()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            try:
                _report(logs or {}, "transformers")
            except Exception:
                note_error()

    return KeepLogs()
