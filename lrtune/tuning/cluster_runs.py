"""The runs of a study on a cluster: one process plans, records and judges what others train.

This is the Ray engine without Ray: what Tune's searcher and scheduler are asked, they ask here.
What is known of a run already is replayed here too, so a trial that was trained before costs the
cluster nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lrtune.core.errors import InputError, LrtuneError, TrialError
from lrtune.core.events import Note
from lrtune.core.recipe import Recipe
from lrtune.core.run import Assignment, Measurement, Run, RunRecord
from lrtune.core.training import Facts
from lrtune.decide.plan import Done, Wait, next_run
from lrtune.tuning.engine import Worker, begin, fail, heartbeat, record_measurement
from lrtune.tuning.reuse import assignment_of, measurements_by_key

Identify = Callable[[Recipe], Mapping[str, Any]]
"""See `Training.identity`."""


class ClusterRuns:
    """The runs of a study that are at work on a cluster.

    Args:
        worker: the study, of which this process alone claims and records runs.
        facts: of the training.
        identify: what the runs of a recipe depend on, on the machines that train them.
        max_retries: how often a run may lose the process that trains it.
    """

    def __init__(self, worker: Worker, *, facts: Facts, identify: Identify, max_retries: int):
        self._worker = worker
        self._facts = facts
        self._identify = identify
        self._max_retries = max_retries
        self._at_work: dict[str, RunRecord] = {}
        self._measurements = measurements_by_key(worker.store.state())
        self._waiting = False
        self._reasons: dict[str, str] = {}
        self.retries: dict[str, int] = {}
        """Run id -> how often it lost its worker."""

    @property
    def running(self) -> list[Run]:
        """The runs at work."""
        return [record.run for record in list(self._at_work.values())]

    def is_at_work(self, run_id: str) -> bool:
        """Whether a run has been begun and has not ended."""
        return run_id in self._at_work

    def next(self) -> Assignment | Wait | Done:
        """The next run that has something left to train."""
        if self._waiting:
            return Wait()
        while True:
            step = next_run(self._worker.store.state(), self._worker.ask)
            if isinstance(step, Done):
                return step
            if isinstance(step, Wait):
                # Until one of them ends, the answer is the same.
                self._waiting = bool(self._at_work)
                return step
            if self._worker.store.claim(step, self._worker.name):
                assignment = self._begin(step)
                if assignment is not None:
                    return assignment

    def assignment(self, run_id: str) -> Assignment:
        """What a worker has to know of a run at work as it is now."""
        return self._assignment_of(self._at_work[run_id])

    def record(self, run_id: str, measurement: Measurement) -> bool:
        """Records a measurement; false where the run has come to its end."""
        record = record_measurement(self._at_work[run_id], measurement, self._worker)
        if not measurement.reused:
            self._measurements[measurement.prefix] = measurement
        return self._goes_on(run_id, record)

    def fail(self, run_id: str, error: LrtuneError) -> None:
        """Ends a run that cannot go on.

        Raises:
            TaskError: not one epoch of this task was ever trained: the fault is not the run's.
        """
        self._goes_on(run_id, fail(self._at_work[run_id], error, self._worker))

    def lose(self, run_id: str, why: str) -> None:
        """Notes that a run lost its worker, and goes on with another."""
        count = self.retries[run_id] = self.retries.get(run_id, 0) + 1
        record = self._at_work[run_id]
        self._reasons[run_id] = why
        if count <= self._max_retries:
            self._worker.store.count_retry(record.run)
            self._at_work[run_id] = replace(record, retries=record.retries + 1)
            then = f"goes on after epoch {record.epochs}, retry {count} of {self._max_retries}"
            self._worker.emit(Note(f"{run_id} lost its worker, because {why}: {then}"))

    def give_up(self, run_id: str) -> None:
        """Ends a run that lost its workers once too often."""
        count = self.retries[run_id]
        times = "once" if count == 1 else f"{count} times, the last time"
        self.fail(run_id, TrialError(f"lost its worker {times} because {self._reasons[run_id]}"))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the claims on the runs alive, and gives back those that have not ended in the end.

        Whoever comes next goes on with them.
        """
        try:
            with heartbeat(self._worker.store, lambda: self.running):
                yield
        finally:
            for run in self.running:
                self._worker.store.release(run)
            self._at_work.clear()
            self._waiting = False

    def _begin(self, run: Run) -> Assignment | None:
        """Begins a run that was claimed, and replays what is known of it.

        Returns:
            The rest of it; `None` where it ends with the replay.
        """
        # From here on it is given back, whatever happens next.
        self._at_work[run.id] = RunRecord(run=run, state="running")
        record = begin(run, self._worker)
        # They may have been recorded by another process.
        self._measurements |= {m.prefix: m for m in record.measurements if not m.reused}
        try:
            assignment = self._assignment_of(record)
        except InputError as error:  # its recipe has no schedule
            self.fail(run.id, error)
            return None
        for measurement in assignment.known:
            if record.state == "running" and measurement.epoch > record.epochs:
                replayed = replace(measurement, reused=True, again_epochs=0)
                record = record_measurement(record, replayed, self._worker)
        if not self._goes_on(run.id, record):
            return None
        return replace(assignment, num_recorded=record.epochs)

    def _assignment_of(self, record: RunRecord) -> Assignment:
        identity = self._identify(record.run.recipe)
        return assignment_of(record, self._measurements, identity, self._facts)

    def _goes_on(self, run_id: str, record: RunRecord) -> bool:
        self._at_work[run_id] = record
        if record.state == "running":
            return True
        del self._at_work[run_id]
        self._waiting = False
        return False
