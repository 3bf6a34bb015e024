"""Watches every optimizer of a process whose program knows nothing of it.

`lrtune audit -- COMMAND` has it run in the command's own process.
"""

import functools
import gc
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from lrtune.auditing.audit import Audit
from lrtune.auditing.watch import watch
from lrtune.core.errors import InputError
from lrtune.stepping.hooks import torch_optimizer

MAX_OPTIMIZERS = 8
"""So many are watched; a program may build one for each batch."""


class ProcessWatch:
    """Watches each optimizer from its first step, or from its scheduler's first call, on.

    The length of an epoch is the number of optimizer steps from one beginning of a data loader to
    the next one of the same data set.
    """

    def __init__(self) -> None:
        self._watches: dict[int, watch] = {}
        self._begun: defaultdict[int, list[int]] = defaultdict(list)  # steps, by data set
        self._added = weakref.WeakSet[Any]()
        self._depth = 0  # of a scheduler's calls within another's

    def start(self) -> None:
        """Begins to watch."""
        register_optimizer_step_pre_hook(lambda optimizer, *_: self._on_step(optimizer))
        for kind in vars(lr_scheduler).values():
            if isinstance(kind, type) and issubclass(kind, LRScheduler) and "step" in vars(kind):
                kind.step = self._before_call(vars(kind)["step"])  # type: ignore[method-assign]
        begin = DataLoader.__iter__

        @functools.wraps(begin)
        def noted(loader: Any) -> Any:
            self._begun[id(loader.dataset)].append(self._num_steps)
            return begin(loader)

        DataLoader.__iter__ = noted  # type: ignore[method-assign]

    def audits(self, *, is_cut: bool) -> list[Audit]:
        """Returns an audit of each optimizer that made a step.

        Args:
            is_cut: whether the program would have gone on.
        """
        audits = []
        self._depth += 1  # the calls of copies are not to be watched
        try:
            for watched in self._watches.values():
                for scheduler in _schedulers_of(watched.optimizer):  # those that were never called
                    self._add(watched, scheduler)
                with suppress(InputError):  # it made no step
                    audits.append(watched.audit(steps_per_epoch=self._epoch_steps(), is_cut=is_cut))
        finally:
            self._depth -= 1
        return audits

    @property
    def _num_steps(self) -> int:
        """Steps of the optimizer that was first seen."""
        return next((watched.num_steps for watched in self._watches.values()), 0)

    def _epoch_steps(self) -> int | None:
        """Returns the steps between two beginnings of the loader that most steps were made in."""
        lengths = [
            [end - begin for begin, end in pairwise((*begun, self._num_steps)) if end > begin]
            for begun in self._begun.values()
        ]
        longest = max(lengths, key=sum, default=[])
        return max(longest) if longest else None

    def _on_step(self, optimizer: Any) -> None:  # what a hook returns would replace its arguments
        self._watch_of(optimizer)

    def _watch_of(self, optimizer: Any) -> watch | None:
        if id(optimizer) not in self._watches:
            if len(self._watches) >= MAX_OPTIMIZERS or not isinstance(
                optimizer, torch.optim.Optimizer
            ):
                return None
            watched = self._watches[id(optimizer)] = watch(optimizer)
            watched.__enter__()
            for scheduler in _schedulers_of(optimizer):
                self._add(watched, scheduler)
        return self._watches[id(optimizer)]

    def _add(self, watched: watch, scheduler: Any) -> None:
        """Watches a scheduler unless it is watched."""
        if scheduler not in self._added:
            self._added.add(scheduler)
            watched.add(scheduler)

    def _before_call(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a `step` of a scheduler that has it watched before its first call.

        The call that a constructor makes, and those of a scheduler within another, are none.
        """

        @functools.wraps(step)
        def call(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            is_built = getattr(scheduler, "_step_count", 1) != 0
            if self._depth == 0 and is_built and scheduler not in self._added:
                watched = self._watch_of(torch_optimizer(getattr(scheduler, "optimizer", None)))
                if watched is not None:
                    self._add(watched, scheduler)
                    if watched.sees(scheduler):
                        return scheduler.step(*args, **kwargs)  # by the class that notes it
            self._depth += 1
            try:
                return step(scheduler, *args, **kwargs)
            finally:
                self._depth -= 1

        return call


def _schedulers_of(optimizer: Any) -> Iterator[Any]:
    """Yields the schedulers of torch and timm that write to an optimizer, but none of their parts.

    A plateau within a scheduler of timm is such a part.
    """
    timm = sys.modules.get("timm.scheduler.scheduler")
    kinds = (LRScheduler, timm.Scheduler) if timm is not None else (LRScheduler,)
    found = [
        thing
        for thing in gc.get_objects()
        if issubclass(type(thing), kinds) and getattr(thing, "optimizer", None) is optimizer
    ]
    parts = {id(part) for thing in found for part in getattr(thing, "_schedulers", ())}
    inside = (getattr(thing, "lr_scheduler", None) for thing in found)
    parts |= {id(part) for part in inside if isinstance(part, ReduceLROnPlateau)}
    yield from (thing for thing in found if id(thing) not in parts)
