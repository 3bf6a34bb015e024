"""A Lightning callback that watches the learning rates of `Trainer.fit`."""

import math
import warnings
from typing import Any

import lightning.pytorch as pl

from lrtune.auditing.audit import Audit
from lrtune.auditing.watch import watch
from lrtune.core.errors import InputError


class AuditCallback(pl.Callback):
    """Watches the learning rates of each optimizer during `fit`, and warns of faults at its end.

    For an optimizer with several schedulers, or with one that cannot be copied, it sees only the
    LRs, not what wrote them. It warns of everything that it cannot watch, and never stops the
    training.

    Example:
        trainer = lightning.Trainer(max_epochs=30, callbacks=[callback := AuditCallback()])
        trainer.fit(module)
        callback.audits[0].findings
    """

    audits: tuple[Audit, ...] = ()
    """One audit for each optimizer that made a step; empty until `fit` has ended."""
    _watched: tuple[watch, ...] = ()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to watch every optimizer."""
        steps_per_epoch = epochs = None
        if math.isfinite(trainer.estimated_stepping_batches):
            steps_per_epoch = math.ceil(
                trainer.num_training_batches / trainer.accumulate_grad_batches
            )
            epochs = math.ceil(trainer.estimated_stepping_batches / steps_per_epoch)
        self._watched = tuple(
            _watch(optimizer, _only_scheduler(trainer, optimizer), steps_per_epoch, epochs)
            for optimizer in trainer.optimizers
        )
        for watched in self._watched:
            watched.__enter__()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops watching, and warns of every fault."""
        self._let_go()
        audits = []
        for watched in self._watched:
            try:
                audits.append(watched.audit())
            except InputError as error:
                warnings.warn(str(error), stacklevel=2)
        self.audits = tuple(audits)
        for audit in self.audits:
            if not audit.ok:
                warnings.warn(str(audit), stacklevel=2)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stops watching, which leaves optimizers and schedulers as they were."""
        self._let_go()

    def _let_go(self) -> None:
        for watched in self._watched:
            watched.__exit__(None, None, None)


def _watch(
    optimizer: Any, scheduler: Any, steps_per_epoch: int | None, epochs: int | None
) -> watch:
    try:
        return watch(optimizer, scheduler=scheduler, steps_per_epoch=steps_per_epoch, epochs=epochs)
    except InputError as error:
        warnings.warn(f"only the LRs are seen: {error}", stacklevel=2)
        return watch(optimizer, steps_per_epoch=steps_per_epoch, epochs=epochs)


def _only_scheduler(trainer: pl.Trainer, optimizer: Any) -> Any:
    schedulers = [
        c.scheduler for c in trainer.lr_scheduler_configs if c.scheduler.optimizer is optimizer
    ]
    return schedulers[0] if len(schedulers) == 1 else None
