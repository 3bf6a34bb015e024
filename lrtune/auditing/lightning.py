"""A Lightning callback that watches the learning rates of `Trainer.fit`."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from lrtune.auditing.audit import Audit
from lrtune.auditing.watch import watch
from lrtune.core.errors import InputError


class AuditCallback(pl.Callback):
    """Watches the learning rates of each optimizer during `fit`, and warns of faults at its end.

    It never ends a training: what it cannot see is a note of the audit.

    Example:
        trainer = lightning.Trainer(max_epochs=30, callbacks=[callback := AuditCallback()])
        trainer.fit(module)
        callback.audits[0].findings
    """

    audits: tuple[Audit, ...] = ()
    """One audit for each optimizer that made a step; empty until `fit` has ended."""
    _watched: tuple[watch, ...] = ()
    _num_batches, _num_epochs = 0, 0
    _first_step, _first_epoch = 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to watch every optimizer."""
        self._num_batches, self._num_epochs = 0, 0
        self._first_step, self._first_epoch = trainer.global_step, trainer.current_epoch
        self._watched = tuple(
            watch(optimizer, scheduler=_schedulers_of(trainer, optimizer))
            for optimizer in trainer.optimizers
            if optimizer.param_groups  # none, where a module trains without an optimizer
        )
        for watched in self._watched:
            watched.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        """Counts the batches."""
        self._num_batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the epochs."""
        self._num_epochs += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops watching, and warns of every fault."""
        self._end(lambda watched: self._audit(watched, trainer))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stops watching, which leaves optimizers and schedulers as they were, and warns."""
        self._end(lambda watched: watched.audit(is_cut=True))

    def _end(self, audit: Callable[[watch], Audit]) -> None:
        audits = []
        for watched in self._watched:
            watched.__exit__(None, None, None)
            try:
                audits.append(audit(watched))
            except InputError as error:
                warnings.warn(str(error), stacklevel=2)
        self.audits = tuple(audits)
        for found in self.audits:
            if found.notes or not found.ok:
                warnings.warn(str(found), stacklevel=2)

    def _audit(self, watched: watch, trainer: pl.Trainer) -> Audit:
        """Judges a run by the steps that it made, and by those it was to make if it was stopped."""
        num_steps, done = watched.num_steps, self._fraction_done(trainer)
        num_epochs = self._num_batches / trainer.num_training_batches  # 0 of a stream
        return watched.audit(
            steps_per_epoch=max(1, round(num_steps / num_epochs)) if num_epochs else None,
            total_steps=max(num_steps, round(num_steps / done)) if done else None,
        )

    def _fraction_done(self, trainer: pl.Trainer) -> float:
        """Returns the part of this `fit` that is done, from 0 to 1; 0 if it has no end."""
        fractions = []
        if trainer.max_steps > 0:
            steps = trainer.max_steps - self._first_step
            fractions.append((trainer.global_step - self._first_step) / steps)
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            epochs = trainer.max_epochs - self._first_epoch
            num_epochs = self._num_epochs
            if math.isfinite(trainer.num_training_batches):
                num_epochs = self._num_batches / trainer.num_training_batches
            fractions.append(num_epochs / epochs)
        return max(fractions, default=0.0)


def _schedulers_of(trainer: pl.Trainer, optimizer: Any) -> list[Any]:
    return [
        config.scheduler
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", None) is optimizer
    ]
