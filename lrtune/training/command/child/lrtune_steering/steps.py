"""Sets the learning rate of every real optimizer step, counts the steps, and keeps their losses.

Torch calls global hooks around the `step()` of each optimizer. An optimizer that is not fused is
not called at all where a gradient scaler skips a step. A fused one is: its kernel skips the step by
itself, and `optimizer.found_inf` tells. On a GPU the number of real steps is then known to the
device alone, and so the table of LRs and the position in it live there (`Position`).
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import platform
import sys
import time
import weakref
from collections import deque
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable

import torch

from .files import MAX_LINE_CHARACTERS, Files
from .groups import Check, Groups, Mismatch
from .losses import Losses, Number, is_capturing, is_late, numbers_of
from .output import Output
from .plan import rank_by_environment

if TYPE_CHECKING:
    from .auditing import Auditing
    from .plan import Plan
    from .session import Session

BLOCK_STEPS = 50
"""So many steps are kept before a device is waited for."""

_MAX_EARLY = 1000  # lines and values before the first step
_MAX_OPTIMIZERS = 64  # so many are listed; a program may build one for each batch
_MIN_PAUSE_S = 1.0  # between two blocks or documents that are not due


class Position:
    """The number of real steps that an optimizer has made, and the LR of its next one."""

    def __init__(self, plan: Plan) -> None:
        self.num_steps = 0
        """Real steps as known here; `settle()` brings it up to date."""
        self._plan, self._table = plan, plan.table
        self._num_planned = len(plan.table)
        self._on_device: torch.Tensor | None = None
        self._table_on_device: torch.Tensor | None = None

    def next_lr(self, overflow: torch.Tensor | None) -> Number:
        """The LR of the next step; beyond the end of the table its last value holds.

        Args:
            overflow: not 0 where the step will not be a real one; `None` where it certainly is.
        """
        if self._table is not self._plan.table:  # lrtune has answered
            self._table, self._num_planned = self._plan.table, len(self._plan.table)
            self._table_on_device = None
        if overflow is None or not is_late(overflow):
            if self._on_device is not None:
                self._leave_device()
            step = self.num_steps
            return self._table[step] if step < self._num_planned else self._table[-1]
        if self._on_device is None or self._on_device.device != overflow.device:
            self.settle()
            self._on_device = torch.tensor(self.num_steps, device=overflow.device)
        table = self._table_on_device
        if table is None or table.device != overflow.device:
            table = torch.tensor(self._table, dtype=torch.float64).to(overflow.device)
            self._table_on_device = table
        return table.take(self._on_device.clamp(max=self._num_planned - 1))

    def advance(self, overflow: torch.Tensor | None) -> bool:
        """Counts a step that has ended. Returns false if it is known to be none."""
        if overflow is not None and is_late(overflow):
            if self._on_device is None:
                self._on_device = torch.tensor(self.num_steps, device=overflow.device)
            self._on_device += overflow.reshape(()) == 0
            return True
        if self._on_device is not None:
            self._leave_device()
        if overflow is not None and overflow.item():
            return False
        self.num_steps += 1
        return True

    def settle(self) -> None:
        """Reads the number of steps from the device, if it is there."""
        if self._on_device is not None:
            self.num_steps = int(self._on_device.item())

    def _leave_device(self) -> None:
        self.settle()
        self._on_device = None


class Steered:
    """An optimizer that has made a step.

    Args:
        optimizer: held weakly.
        index: in the order of first steps.
        plan: of the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, index: int, plan: Plan) -> None:
        self.reference = weakref.ref(optimizer)
        self.index = index
        self.inside: int | None = None
        """The index of the optimizer within whose steps this one steps."""
        self.groups = Groups(plan, index)
        self.position = Position(plan)
        self.lr: Number = math.nan
        """Of the current step, for a group of ratio 1; the largest one where none is set."""
        self.sets = plan.sets and plan.optimizer_index in (None, index)
        """Whether its LRs are set, or only read."""
        self._kind = type(optimizer)

    def begin(self, optimizer: torch.optim.Optimizer, lr: Number | None) -> None:
        """Writes or reads the LRs before a step; `lr` is that of the step around it, if any."""
        if not self.sets:
            self.lr = self.groups.read(optimizer.param_groups)
            return
        if lr is None:
            lr = self.position.next_lr(getattr(optimizer, "found_inf", None))
        self.lr = lr
        self.groups.write(optimizer.param_groups, lr)

    def document(self) -> dict[str, Any]:
        """As it stands in `groups.json`."""
        return {
            "class": self._kind.__name__,
            "module": self._kind.__module__,
            "num_steps": self.position.num_steps,
            "inside": self.inside,
            "groups": [group.document() for group in self.groups.known],
        }


class Steering:
    """The steering of the optimizers of this process.

    Args:
        session: of this process.
        plan: of the run.
    """

    def __init__(self, session: Session, plan: Plan) -> None:
        self._session, self._plan = session, plan
        self._losses = Losses(session.note_error)
        self._output = Output(self._keep_line, session.note_error)
        self._optimizers: list[Steered] = []
        self._by_id: dict[int, Steered] = {}
        self._main_index = plan.optimizer_index or 0
        self._off = False  # after an error of our own

        self._frame: FrameType | None = None  # of the outer step, while it runs
        self._current: Steered | None = None  # the optimizer whose step it is
        self._inner: list[tuple[torch.optim.Optimizer, Steered | None]] = []  # steps inside it

        self._stood_for_election = False
        self._files: Files | None = None  # only the writer has them
        self._rows: list[tuple[Number, Number, torch.Tensor | None]] = []  # LR, loss, overflow
        self._checks: list[Check] = []
        self._early: deque[Callable[[Files], None]] = deque(maxlen=_MAX_EARLY)
        self._documents: dict[str, Any] = {}  # as written last
        self._flushed_s = -math.inf
        self._line_waits = False  # a line was written whose steps are not
        self._documented_s = -math.inf
        self._auditing: Auditing | None = None  # where the plan has it

    # ---- Getting in

    def watch(self, kind: Any) -> None:
        """Starts with the first optimizer of this process; `kind` is the class `Optimizer`."""
        self._output.watch()
        atexit.register(self._at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)
        originals = {name: vars(kind).get(name) for name in ("__init__", "__setstate__")}

        def first(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                for name, function in originals.items():
                    if function is not None:
                        setattr(kind, name, function)
                self._install()
                return original(*args, **kwargs)

            return call

        for name, function in originals.items():
            if function is not None:
                setattr(kind, name, first(function))

    def _install(self) -> None:
        """Registers the hooks; torch has been imported as a whole by now."""
        try:
            from torch.optim import optimizer

            if hasattr(torch, "compiler") and hasattr(torch.compiler, "disable"):
                uncompiled: Any = torch.compiler.disable
            else:
                from torch import _dynamo

                uncompiled = _dynamo.disable
            optimizer.register_optimizer_step_pre_hook(uncompiled(self._before))
            optimizer.register_optimizer_step_post_hook(uncompiled(self._after))
            self._losses.watch()
            self._wrap_exit()
            if self._plan.auditor is not None:
                from .auditing import Auditing

                self._auditing = Auditing(self._plan.auditor)
        except Exception:
            self._session.note_error()

    def _wrap_exit(self) -> None:
        """`os._exit` runs no exit handlers."""
        leave = os._exit

        @functools.wraps(leave)
        def leave_after_writing(status: int) -> Any:
            self._at_exit()
            leave(status)

        os._exit = leave_after_writing

    # ---- Around each step

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._off:
            return
        try:
            if self._frame is not None:
                if _is_running(self._frame):
                    self._begin_inner(optimizer)
                    return
                self._abandon()
            steered = self._by_id.get(id(optimizer))
            if steered is None or steered.reference() is not optimizer:
                steered = self._meet(optimizer)
            if torch.cuda._initialized and is_capturing():
                return
            if self._plan.sets and self._plan.answers is not None:
                self._plan.table = self._plan.answers.new_table() or self._plan.table
            self._frame, self._current = _caller(), steered
            steered.begin(optimizer, None)
            self._losses.begin_step()
        except Exception as error:
            self._give_up(error)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        steered = self._current
        if self._off or steered is None:
            return
        try:
            if self._inner and self._end_inner(optimizer):
                return
            if steered.reference() is not optimizer:
                return
            self._frame = self._current = None
            self._verify(steered)
            # A tensor that is not 0 where a fused optimizer has skipped the step.
            overflow = getattr(optimizer, "found_inf", None)
            is_real = steered.position.advance(overflow)
            if not self._stood_for_election:
                self._stand_for_election()
            if steered.index == self._main_index and self._files is not None:
                self._keep_step(steered, is_real, overflow)
                return
            self._losses.end_step()
            if len(self._checks) > 20 * BLOCK_STEPS:
                self._flush()
        except Exception as error:
            self._give_up(error)

    def _begin_inner(self, optimizer: torch.optim.Optimizer) -> None:
        """A step within another one.

        A subclass that calls its parent's `step()` and a wrapper that shares its groups with the
        optimizer inside it have their LRs already. An optimizer with groups of its own has not.
        """
        assert self._current is not None
        outer = self._current.reference()
        groups = {id(group) for group in outer.param_groups} if outer is not None else set()
        if all(id(group) in groups for group in optimizer.param_groups):
            self._inner.append((optimizer, None))
            return
        steered = self._by_id.get(id(optimizer))
        if steered is None or steered.reference() is not optimizer:
            steered = self._meet(optimizer)
            steered.inside, steered.sets = self._current.index, self._current.sets
        self._inner.append((optimizer, steered))
        steered.begin(optimizer, self._current.lr if self._plan.sets else None)

    def _end_inner(self, optimizer: torch.optim.Optimizer) -> bool:
        """Ends the latest step of an optimizer within another one, if there is one."""
        if all(inner is not optimizer for inner, _ in self._inner):
            self._drop_inner()  # they have raised, and the outer step has gone on
            return False
        while self._inner:
            inner, steered = self._inner.pop()
            if steered is not None:
                self._verify(steered)
                assert self._current is not None
                steered.position.num_steps = self._current.position.num_steps + 1
            if inner is optimizer:
                break
        return True

    def _drop_inner(self) -> None:
        for _, steered in self._inner:
            if steered is not None:
                steered.groups.put_back()
        self._inner.clear()

    def _abandon(self) -> None:
        """The step has raised: its hook after the step was never called."""
        self._drop_inner()
        if self._current is not None:
            self._current.groups.put_back()
        self._frame = self._current = None
        self._losses.end_step()

    def _meet(self, optimizer: torch.optim.Optimizer) -> Steered:
        steered = Steered(optimizer, len(self._optimizers), self._plan)
        if steered.index < _MAX_OPTIMIZERS:
            self._optimizers.append(steered)
        else:
            self._by_id = {i: s for i, s in self._by_id.items() if s.reference() is not None}
        self._by_id[id(optimizer)] = steered
        return steered

    def _verify(self, steered: Steered) -> None:
        if steered.groups.put_back_floats():
            return
        checks, mismatch = steered.groups.verify(steered.position.num_steps)
        self._checks += checks
        if mismatch is not None:
            self._fail(steered.position.num_steps, mismatch)

    # ---- What is written

    def _stand_for_election(self) -> None:
        self._stood_for_election = True
        if _rank() == 0:
            self._files = Files.elect(self._session.folder)
        if self._files is None:
            self._output.stop()
            self._early.clear()
            return
        while self._early:
            self._early.popleft()(self._files)

    def _keep_step(self, steered: Steered, is_real: bool, overflow: torch.Tensor | None) -> None:
        loss = self._losses.take()
        if not is_real:
            return
        assert self._files is not None
        skipped = None if overflow is None or not is_late(overflow) else overflow.clone()
        lr = steered.lr
        self._rows.append((lr, loss, skipped))
        if skipped is None and type(lr) is float and type(loss) is float:
            self._files.write_board(steered.position.num_steps, lr, loss)
        if steered.position.num_steps == self._plan.audited_steps:
            self._write_audit(is_cut=True)
        if len(self._rows) >= BLOCK_STEPS or not self._documents or self._is_due():
            self._flush()

    def _is_due(self) -> bool:
        """Whether a line was written a while after the last block, which lrtune may wait for."""
        return self._line_waits and time.monotonic() - self._flushed_s >= _MIN_PAUSE_S

    def _num_steps(self) -> int:
        """Real steps of the main optimizer; those that are not known yet are taken to be real."""
        if self._main_index >= len(self._optimizers):
            return 0
        position = self._optimizers[self._main_index].position
        late = sum(overflow is not None for _, _, overflow in self._rows)
        return position.num_steps + late

    def keep_values(self, when: float, source: str, values: dict[str, float]) -> None:
        """Keeps values of metrics."""
        if self._files is None:
            if not self._stood_for_election:
                document = {"step": 0, "time": when, "source": source, "values": values}
                self._early.append(lambda files: files.append_values(document))
            return
        self._flush()
        step = self._num_steps()
        self._files.append_values({"step": step, "time": when, "source": source, "values": values})
        if self._plan.answers is not None and self._plan.waits_for in values:
            self._plan.answers.wait_for(self._files.num_values)

    def _keep_line(self, when: float, stream: str, line: str) -> None:
        line = line[:MAX_LINE_CHARACTERS]
        if self._files is None:
            if not self._stood_for_election:
                document = {"step": 0, "time": when, "stream": stream, "line": line}
                self._early.append(lambda files: files.append_line(document))
            return
        if time.monotonic() - self._flushed_s >= _MIN_PAUSE_S and self._current is None:
            self._flush()
        self._line_waits = bool(self._rows)
        step = self._num_steps()
        self._files.append_line({"step": step, "time": when, "stream": stream, "line": line})

    def _flush(self, at_exit: bool = False) -> None:
        """Writes the steps so far; waits for the devices that have numbers of theirs."""
        files, rows, checks = self._files, self._rows, self._checks
        self._rows, self._checks = [], []
        self._flushed_s = time.monotonic()
        self._line_waits = False
        for steered in self._optimizers:
            steered.position.settle()
        self._compare(checks)
        if files is None:
            return
        if rows:
            overflows = [0.0 if overflow is None else overflow for _, _, overflow in rows]
            numbers = numbers_of(
                [lr for lr, _, _ in rows] + [loss for _, loss, _ in rows] + overflows
            )
            lrs, losses, skipped = (numbers[i * len(rows) : (i + 1) * len(rows)] for i in range(3))
            real = [(lr, loss) for lr, loss, skip in zip(lrs, losses, skipped) if not skip]
            files.append_steps([number for row in real for number in row])
            if real:
                files.write_board(self._num_steps(), *real[-1])
        is_due = time.monotonic() - self._documented_s >= _MIN_PAUSE_S
        if at_exit or is_due or not self._documents:
            self._write_documents(files)

    def _compare(self, checks: list[Check]) -> None:
        numbers = numbers_of([check.wanted for check in checks] + [check.got for check in checks])
        wanted, got = numbers[: len(checks)], numbers[len(checks) :]
        for check, *values in zip(checks, wanted, got):
            mismatch = check.mismatch(*values)
            if mismatch is not None:
                self._fail(check.step, mismatch)
                return

    def _write_documents(self, files: Files) -> None:
        self._documented_s = time.monotonic()
        for steered in self._optimizers:
            for group in steered.groups.known:
                group.settle()
        documents: dict[str, Any] = {
            "groups.json": {
                "version": 1, "torch": str(torch.__version__),
                "python": platform.python_version(),
                "optimizers": [steered.document() for steered in self._optimizers],
            }
        }  # fmt: skip
        seeds = self._session.seeds
        if seeds is not None:
            documents["seeds.json"] = {
                "seeded": list(seeds.seeded), "not_offset": list(seeds.not_offset),
                "offset": seeds.offset,
            }  # fmt: skip
        for name, document in documents.items():
            if self._documents.get(name) != document:
                files.replace(name, document)
        self._documents = documents

    def _write_audit(self, is_cut: bool) -> None:
        if self._auditing is not None and self._files is not None:
            self._files.write_once("audit.json", self._auditing.document(is_cut))

    def _fail(self, step: int, mismatch: Mismatch) -> None:
        """Tells that a step was not made with the value that was asked for."""
        document = {
            "step": step, "group": mismatch.group, "key": mismatch.key,
            "wanted": mismatch.wanted, "got": mismatch.got,
        }  # fmt: skip
        if not self._stood_for_election:
            self._stand_for_election()
        if self._files is not None:
            self._files.write_once("failed.json", document)

    def _give_up(self, error: Exception) -> None:
        """An error of our own: the program goes on by itself, and the run has failed."""
        self._session.note_error()
        self._off = True
        try:
            self._abandon()
            if not self._stood_for_election:
                self._stand_for_election()
            if self._plan.sets and self._files is not None:
                step = self._num_steps()
                self._files.write_once("failed.json", {"step": step, "error": repr(error)})
        except Exception:
            self._session.note_error()

    # ---- Processes

    def _at_exit(self) -> None:
        try:
            if self._files is not None:
                self._flush(at_exit=True)
                self._write_audit(is_cut=hasattr(sys, "last_value"))  # it has failed
        except Exception:
            self._session.note_error()

    def _after_fork(self) -> None:
        """A child of this process is another one: it writes nothing of what its parent has."""
        self._files = None
        self._rows, self._checks = [], []
        self._early.clear()


def _rank() -> int:
    """The rank of this process; 0 where it is alone."""
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return rank_by_environment() or 0


def _caller() -> FrameType | None:
    """The frame that called the hook: torch's wrapper of the optimizer's `step()`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "_dynamo" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame


def _is_running(frame: FrameType) -> bool:
    """Whether a frame is on the stack; that of a step that raised is not."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is frame
