"""A sweep: many runs at once, trained elsewhere, and one process that plans, records and judges them all.

This is the Ray engine without Ray: what Tune's searcher and scheduler are asked, they ask here.
What is known of a run already is replayed here too, so a trial that was trained before costs the
cluster nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lrtune.core.errors import InputError, LrtuneError, TrialError
from lrtune.core.events import Note
from lrtune.core.run import Assignment, Measurement, Run, RunRecord
from lrtune.decide.plan import Done, Wait, next_run
from lrtune.tuning import reuse
from lrtune.tuning.engine import Bench, begin, fail, heartbeat, take


class Sweep:
    """The runs of a study that are at work on a cluster.

    Args:
        bench: what is worked with.
        ground: a run's key before its first step, on the machines that train it.
        max_retries: how often a run may lose its worker.
    """

    def __init__(self, bench: Bench, *, ground: Callable[[Run], str], max_retries: int):
        self._bench = bench
        self._ground = ground
        self._max_retries = max_retries
        self._at_work: dict[str, RunRecord] = {}
        self._known = reuse.known_measurements(bench.store.state())
        self._steps_per_epoch = bench.store.state().config.steps_per_epoch
        self._waiting = False
        self._reasons: dict[str, str] = {}
        self.retries: dict[str, int] = {}
        """Run id -> how often it lost its worker."""

    @property
    def runs(self) -> list[Run]:
        """Those at work."""
        return [record.run for record in list(self._at_work.values())]

    def is_at_work(self, run_id: str) -> bool:
        """Whether a run has been begun and has not ended."""
        return run_id in self._at_work

    def next(self) -> Assignment | Wait | Done:
        """The next run that has something left to train."""
        if self._waiting:
            return Wait()
        while True:
            step = next_run(self._bench.store.state(), self._bench.ask)
            if isinstance(step, Done):
                return step
            if isinstance(step, Wait):
                self._waiting = bool(
                    self._at_work
                )  # until one of them ends, the answer is the same
                return step
            if self._bench.store.claim(step, self._bench.worker):
                assignment = self._begin(step)
                if assignment is not None:
                    return assignment

    def assignment(self, run_id: str) -> Assignment:
        """What a worker has to know of a run at work as it is now."""
        record = self._at_work[run_id]
        return Assignment(
            run=record.run, num_recorded=record.epochs, known=self._known_epochs(record.run)
        )

    def take(self, run_id: str, measurement: Measurement) -> bool:
        """Records a measurement; false where the run has come to its end."""
        record = take(self._at_work[run_id], measurement, self._bench)
        if not measurement.reused:
            self._known[measurement.prefix] = measurement
        return self._goes_on(run_id, record)

    def fail(self, run_id: str, error: LrtuneError) -> None:
        """Ends a run that cannot go on.

        Raises:
            TaskError: not one epoch of this task was ever trained: the fault is not the run's.
        """
        self._goes_on(run_id, fail(self._at_work[run_id], error, self._bench))

    def lose(self, run_id: str, why: str) -> None:
        """Notes that a run lost its worker, and goes on with another."""
        count = self.retries[run_id] = self.retries.get(run_id, 0) + 1
        left = f"goes on after epoch {self._at_work[run_id].epochs}, retry {count} of {self._max_retries}"
        self._reasons[run_id] = why
        if count <= self._max_retries:
            record = self._at_work[run_id]
            self._bench.store.count_retry(record.run)
            self._at_work[run_id] = replace(record, retries=record.retries + 1)
            self._bench.emit(Note(f"{run_id} lost its worker, because {why}: {left}"))

    def give_up(self, run_id: str) -> None:
        """Ends a run that lost its workers once too often."""
        count = self.retries[run_id]
        times = "once" if count == 1 else f"{count} times, the last time"
        self.fail(run_id, TrialError(f"lost its worker {times} because {self._reasons[run_id]}"))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the claims on the runs alive; what has not ended in the end is given back, for whoever comes next."""
        try:
            with heartbeat(self._bench.store, lambda: self.runs):
                yield
        finally:
            for run in self.runs:
                self._bench.store.release(run)
            self._at_work.clear()
            self._waiting = False

    def _begin(self, run: Run) -> Assignment | None:
        """Begins a run that was claimed, and replays what is known of it; `None` where it ends with that."""
        self._at_work[run.id] = RunRecord(
            run=run, state="running"
        )  # given back, whatever happens next
        record = begin(run, self._bench)
        self._known |= {
            m.prefix: m for m in record.measurements if not m.reused
        }  # it may have been somebody else's
        try:
            known = self._known_epochs(run)
        except InputError as error:  # its recipe has no schedule
            self.fail(run.id, error)
            return None
        for measurement in known:
            if record.state == "running" and measurement.epoch > record.epochs:
                record = take(
                    record, replace(measurement, reused=True, again_epochs=0), self._bench
                )
        if not self._goes_on(run.id, record):
            return None
        return Assignment(run=run, num_recorded=record.epochs, known=known)

    def _known_epochs(self, run: Run) -> tuple[Measurement, ...]:
        return reuse.known_epochs(run, self._ground(run), self._known, self._steps_per_epoch)

    def _goes_on(self, run_id: str, record: RunRecord) -> bool:
        self._at_work[run_id] = record
        if record.state == "running":
            return True
        del self._at_work[run_id]
        self._waiting = False
        return False
