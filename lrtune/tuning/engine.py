"""An engine is a place where runs happen; all that is decided about a run is decided here.

Every engine takes the next run of the plan, records each measurement, and stops the run when told
to. These steps are the same in a loop, in several processes and on a cluster, and so is a study.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from lrtune.core.errors import LrtuneError, TaskError
from lrtune.core.events import EpochEnded, Event, RunEnded, RunStarted
from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run, RunRecord, RunState
from lrtune.core.study import RangeCurve, StudyConfig, StudyState
from lrtune.core.training import Environment, Facts, OpenTraining, States, Training
from lrtune.decide.plan import Ask, Done
from lrtune.decide.prune import why_hopeless

HEARTBEAT_S = 20.0

Emit = Callable[[Event], None]


class Store(Protocol):
    """What a worker needs of a study's store."""

    @property
    def config(self) -> StudyConfig:
        """What was asked for."""

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
class Worker:
    """Everything that trains runs of a study needs to know of it."""

    name: str
    """Under which it claims runs."""
    store: Store
    """Used by this worker alone."""
    ask: Ask
    emit: Emit
    states: States | None
    """Where the states of runs are kept; `None` where the training cannot resume."""


OpenWorker = Callable[[int, Emit], Worker]
"""Opens the worker of a lane, by its number, in the process that calls it; picklable."""


class Engine(Protocol):
    """A place where runs happen. It knows nothing of what it trains but its `OpenTraining`."""

    @property
    def facts(self) -> Facts:
        """What the training states."""

    def use(self, open_training: OpenTraining) -> None:
        """Trains with another training from now on."""

    def environment(self, recipe: Recipe) -> Environment:
        """Hardware and versions where the recipe's runs happen."""

    def sweep(self, recipe: Recipe, *, seed: int) -> RangeCurve:
        """One sweep of a range test of the recipe's optimizer."""

    def work(self, open_worker: OpenWorker, emit: Emit) -> Done:
        """Trains runs until nothing is left to start in the study.

        Raises:
            StoreError: the study cannot be recorded any more.
            TaskError: the task failed before any run of the study got through an epoch.
        """

    def test(self, keys: Sequence[str], states: States) -> dict[str, Metrics]:
        """The metrics on the test split of each of these states that is still kept."""


def begin(run: Run, worker: Worker) -> RunRecord:
    """Begins a run that this worker has claimed, or goes on with it."""
    record = next(r for r in worker.store.state().records if r.run.id == run.id)
    worker.emit(RunStarted(run, record.epochs))
    return _judge(record, worker)


def record_measurement(record: RunRecord, measurement: Measurement, worker: Worker) -> RunRecord:
    """Records a measurement before it is shown or judged.

    A run that is not `running` after it has ended.
    """
    worker.store.record(record.run, measurement)
    record = replace(record, measurements=(*record.measurements, measurement))
    worker.emit(EpochEnded(record.run, measurement))
    return _judge(record, worker)


def end(record: RunRecord, state: RunState, reason: str, worker: Worker) -> RunRecord:
    """Records how a run ended."""
    worker.store.finish(record.run, state, reason)
    record = replace(record, state=state, reason=reason)
    worker.emit(RunEnded(record))
    return record


def fail(record: RunRecord, error: LrtuneError, worker: Worker) -> RunRecord:
    """Ends a run that cannot go on.

    Raises:
        TaskError: not one epoch of this task was ever trained: the fault is not the run's.
    """
    if isinstance(error, TaskError) and not any(
        r.measurements for r in worker.store.state().records
    ):
        raise error
    return end(record, "failed", str(error), worker)


def test_states(training: Training, keys: Sequence[str], states: States) -> dict[str, Metrics]:
    """The metrics on the test split of each of these states that is still kept."""
    kept = {key: states.load(key) for key in keys}
    return {key: training.test(state) for key, state in kept.items() if state is not None}


@contextmanager
def heartbeat(store: Store, runs: Callable[[], Iterable[Run]]) -> Iterator[None]:
    """Keeps the claims on the runs at work alive through epochs that are longer than a lease."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            for run in runs():
                with suppress(LrtuneError):  # trouble that stays is met by the next measurement
                    store.heartbeat(run)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _judge(record: RunRecord, worker: Worker) -> RunRecord:
    """Ends a run whose measurements say so.

    A run that is resumed is judged too, as a kill may come before an end is recorded.
    """
    if record.measurements and record.measurements[-1].diverged:
        last = record.measurements[-1]
        reason = f"the loss was not finite in epoch {last.epoch}, at an LR of {last.lr_last:.3g}"
        return end(record, "diverged", reason, worker)
    if record.epochs >= record.run.stop_epochs:
        return end(record, "completed", "", worker)
    reason = why_hopeless(record, worker.store.config)
    return end(record, "pruned", reason, worker) if reason else record
