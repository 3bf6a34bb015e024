"""A study in memory: read once, and from then on kept as this process writes it."""

from dataclasses import replace

from lrtune.core.run import Measurement, Run, RunRecord, RunState
from lrtune.core.study import StudyConfig, StudyState
from lrtune.store.database import StudyStore


class Ledger:
    """A study's store that answers from memory; every change goes to the database first.

    As long as another process has a run it does ask, since that run may end, or its process may.
    """

    def __init__(self, store: StudyStore):
        self._store = store
        self._state: StudyState | None = None
        self._mine: set[str] = set()
        self._read()

    @property
    def config(self) -> StudyConfig:
        """What was asked for."""
        return self._store.config

    def state(self) -> StudyState:
        """Everything recorded so far."""
        if self._others_at_work:
            self._read()
        if self._state is None:
            self._state = replace(self._begun_with, records=tuple(self._records.values()))
        return self._state

    def claim(self, run: Run, worker: str) -> bool:
        """See `StudyStore.claim`.

        Where another process was faster, there is one, and the study is read again.
        """
        if not self._store.claim(run, worker):
            self._read()
            return False
        self._mine.add(run.id)
        record = self._records.get(run.id, RunRecord(run=run, state="running"))
        self._keep(replace(record, orphaned=False))
        return True

    def record(self, run: Run, measurement: Measurement) -> None:
        """See `StudyStore.record`."""
        self._store.record(run, measurement)
        record = self._records[run.id]
        if measurement.epoch > record.epochs:
            self._keep(replace(record, measurements=(*record.measurements, measurement)))

    def heartbeat(self, run: Run) -> None:
        """See `StudyStore.heartbeat`."""
        self._store.heartbeat(run)

    def finish(self, run: Run, state: RunState, reason: str = "") -> None:
        """See `StudyStore.finish`."""
        self._store.finish(run, state, reason)
        self._keep(replace(self._records[run.id], state=state, reason=reason))

    def count_retry(self, run: Run) -> None:
        """See `StudyStore.count_retry`."""
        self._store.count_retry(run)
        record = self._records[run.id]
        self._keep(replace(record, retries=record.retries + 1))

    def release(self, run: Run) -> None:
        """See `StudyStore.release`."""
        self._store.release(run)
        self._mine.discard(run.id)
        self._keep(replace(self._records[run.id], orphaned=True))

    def _read(self) -> None:
        self._begun_with = self._store.state()
        self._records = {record.run.id: record for record in self._begun_with.records}
        self._state = self._begun_with
        self._others_at_work = any(
            record.state == "running" and not record.orphaned and record.run.id not in self._mine
            for record in self._begun_with.records
        )

    def _keep(self, record: RunRecord) -> None:
        self._records[record.run.id] = record
        self._state = None
