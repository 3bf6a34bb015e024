"""One process of a steered command: its plan, what it watches, and its errors."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable

from .imports import ImportHook

if TYPE_CHECKING:
    from .plan import Plan
    from .seeds import Seeds
    from .steps import Steering

_MAX_ERRORS = 20


class Session:
    """What this process does for the run in `folder`.

    The plan is read when it is first needed, so that a process which needs none starts at once.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.seeds: Seeds | None = None
        self._plan: Plan | None = None
        self._plan_read = False
        self._steering: Steering | None = None
        self._num_errors = 0
        self._early: list[tuple[float, str, dict[str, float]]] = []  # values before there are steps

    def start(self) -> None:
        """Watches the imports of this process."""
        watched: dict[str, Callable[[Session, Any], None]] = {
            "torch.optim.optimizer": Session._on_optimizer,
            "lightning.pytorch.trainer.trainer": Session._on_lightning,
            "pytorch_lightning.trainer.trainer": Session._on_lightning,
            "transformers.trainer": Session._on_transformers,
            "torch.utils.tensorboard.writer": Session._on_tensorboard,
        }
        for name in ("random", "numpy.random", "torch.random", "torch.cuda.random", "torch"):
            watched[name] = Session._on_random
        callbacks = {name: self._safely(callback) for name, callback in watched.items()}
        ImportHook(callbacks).install()

    def path(self, name: str) -> str:
        """The path of a file in the run folder."""
        return os.path.join(self.folder, name)

    @property
    def plan(self) -> Plan | None:
        """The plan of the run, or `None` where it cannot be read."""
        if not self._plan_read:
            self._plan_read = True
            try:
                from .plan import read_plan

                self._plan = read_plan(self.folder)
            except Exception:
                self.note_error()
        return self._plan

    def note_error(self) -> None:
        """Writes the exception that is being handled to `child-errors.log`."""
        try:
            self._num_errors += 1
            if self._num_errors > _MAX_ERRORS:
                return
            import traceback

            text = f"process {os.getpid()}\n{traceback.format_exc()}\n"
            with open(self.path("child-errors.log"), "a", encoding="utf-8") as file:
                file.write(text)
        except Exception:  # there is nowhere left to write it
            return

    def report(self, values: dict[str, float], source: str) -> bool:
        """Keeps values of metrics; returns whether training should go on."""
        try:
            if self._steering is not None:
                self._steering.keep_values(time.time(), source, values)
            elif len(self._early) < 1000:
                self._early.append((time.time(), source, values))
            return not os.path.exists(self.path("stop"))
        except Exception:
            self.note_error()
            return True

    def _safely(self, callback: Callable[[Session, Any], None]) -> Callable[[Any], None]:
        def call(module: Any) -> None:
            try:
                callback(self, module)
            except Exception:
                self.note_error()

        return call

    def _on_random(self, module: Any) -> None:
        plan = self.plan
        if plan is None or plan.seed_offset is None:
            return
        if self.seeds is None:
            from .plan import rank_by_environment
            from .seeds import Seeds

            self.seeds = Seeds(plan.seed_offset, rank_by_environment() or 0)
        self.seeds.callbacks()[module.__name__](module)

    def _on_optimizer(self, module: Any) -> None:
        if self.plan is None:
            return
        from .steps import Steering

        self._steering = Steering(self, self.plan)
        self._steering.watch(module.Optimizer)
        for when, source, values in self._early:
            self._steering.keep_values(when, source, values)
        self._early.clear()

    def _on_lightning(self, module: Any) -> None:
        from .trainers import watch_lightning

        watch_lightning(module)

    def _on_transformers(self, module: Any) -> None:
        from .trainers import watch_transformers

        watch_transformers(module)

    def _on_tensorboard(self, module: Any) -> None:
        from .trainers import watch_tensorboard

        watch_tensorboard(module)
