"""What every engine does around a training, wherever that runs: plan, claim, record, judge, end.

An engine is only a place where runs happen. It takes the next run, hands over each measurement, and
stops when told to; all that is decided is decided here, so a study comes out the same in a loop, in
several processes and on a cluster.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from lrtune.core.errors import LrtuneError, TaskError
from lrtune.core.events import EpochEnded, Event, RunEnded, RunStarted
from lrtune.core.run import Measurement, Run, RunRecord, RunState
from lrtune.core.study import StudyState
from lrtune.decide.plan import Ask
from lrtune.decide.prune import prune

HEARTBEAT_S = 20.0

Emit = Callable[[Event], None]


class Store(Protocol):
    """What an engine needs of a study's store."""

    def state(self) -> StudyState:
        """Everything recorded so far."""

    def claim(self, run: Run, worker: str) -> bool:
        """Makes a worker the owner of a run; false where another was faster."""

    def record(self, run: Run, measurement: Measurement) -> None:
        """Makes a measurement durable."""

    def heartbeat(self, run: Run) -> None:
        """Says that the run's worker is alive."""

    def finish(self, run: Run, state: RunState, reason: str = "") -> None:
        """Records how a run ended."""

    def count_retry(self, run: Run) -> None:
        """Records that a run lost its worker and goes on with another."""

    def release(self, run: Run) -> None:
        """Gives a run back unfinished."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What an engine works with."""

    store: Store
    worker: str
    ask: Ask
    emit: Emit


def begin(run: Run, bench: Bench) -> RunRecord:
    """Begins a run that this worker has claimed, or goes on with it."""
    state = bench.store.state()
    record = next(r for r in state.records if r.run.id == run.id)
    bench.emit(RunStarted(run, record.epochs))
    return _judge(record, state, bench)


def take(record: RunRecord, measurement: Measurement, bench: Bench) -> RunRecord:
    """Records a measurement before it is shown or judged.

    A run that is not `running` after it has ended.
    """
    bench.store.record(record.run, measurement)
    record = replace(record, measurements=(*record.measurements, measurement))
    bench.emit(EpochEnded(record.run, measurement))
    return _judge(record, bench.store.state(), bench)


def end(record: RunRecord, state: RunState, reason: str, bench: Bench) -> RunRecord:
    """Records how a run ended."""
    bench.store.finish(record.run, state, reason)
    record = replace(record, state=state, reason=reason)
    bench.emit(RunEnded(record))
    return record


def fail(record: RunRecord, error: LrtuneError, bench: Bench) -> RunRecord:
    """Ends a run that cannot go on.

    Raises:
        TaskError: not one epoch of this task was ever trained: the fault is not the run's.
    """
    if isinstance(error, TaskError) and not any(
        r.measurements for r in bench.store.state().records
    ):
        raise error
    return end(record, "failed", str(error), bench)


@contextmanager
def heartbeat(store: Store, runs: Callable[[], Iterable[Run]]) -> Iterator[None]:
    """Keeps the claims on the runs at work alive through epochs that are longer than a lease."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            for run in runs():
                with suppress(
                    LrtuneError
                ):  # trouble that does not pass is met by the next measurement
                    store.heartbeat(run)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _judge(record: RunRecord, state: StudyState, bench: Bench) -> RunRecord:
    """Ends a run whose measurements say so; on resuming too, as a kill may come before an end is recorded."""
    if record.measurements and record.measurements[-1].diverged:
        last = record.measurements[-1]
        reason = f"the loss was not finite in epoch {last.epoch}, at an LR of {last.lr_last:.3g}"
        return end(record, "diverged", reason, bench)
    if record.epochs >= record.run.stop_epochs:
        return end(record, "completed", "", bench)
    decision = prune(record, state)
    return end(record, "pruned", decision.reason, bench) if decision.prune else record
