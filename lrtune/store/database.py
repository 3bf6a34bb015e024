"""The database of studies: configurations, range tests, runs and measurements.

A run belongs to the worker that inserted its row; two workers that plan the same run collide on its
key, and one of them plans again. SQLite is opened in WAL mode, where readers and a writer do not
block each other and a killed process loses nothing committed.
"""

import json
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from lrtune.core.errors import InputError, StoreError, first_line
from lrtune.core.objective import Metrics
from lrtune.core.printing import is_name, printable
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run, RunRecord, RunState
from lrtune.core.study import RULES, RangeResult, StudyConfig, StudyState
from lrtune.core.urls import shown, without
from lrtune.store.encoding import (
    compared,
    config_from_json,
    config_to_json,
    metrics_from_json,
    metrics_to_json,
    ranges_from_json,
    ranges_to_json,
)
from lrtune.store.migration import migrate
from lrtune.store.workers import NOBODY, is_gone

BUSY_S = 30.0
"""How long a locked database is waited for."""

_metadata = sa.MetaData()
_studies = sa.Table(
    "lrtune_studies",
    _metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("range_results", sa.Text, nullable=False),
)
_runs = sa.Table(
    "lrtune_runs",
    _metadata,
    sa.Column("study", sa.String(200), sa.ForeignKey("lrtune_studies.name"), primary_key=True),
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("recipe_epochs", sa.Integer, nullable=False),
    sa.Column("horizon_epochs", sa.Integer, nullable=False),
    sa.Column("stop_epochs", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("worker", sa.String(300), nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("test", sa.Text),  # metrics as JSON
)
_measurements = sa.Table(
    "lrtune_measurements",
    _metadata,
    sa.Column("study", sa.String(200), primary_key=True),
    sa.Column("run", sa.String(100), primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("prefix", sa.String(40), nullable=False),
    sa.Column("reused", sa.Boolean, nullable=False),
    sa.Column("again_epochs", sa.Integer, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),  # as JSON
    # NULL stands for nan, which not every database takes.
    *(sa.Column(field.name, sa.Float) for field in fields(Measurement) if field.type is float),
)


def missing_file(url: str) -> str:
    """The file that opening a SQLite URL would make; empty where it exists already."""
    try:
        parsed = sa.make_url(url)
    except (SQLAlchemyError, ValueError):
        return ""  # opening it says what is wrong
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.query
    return str(parsed.database) if is_file and not Path(str(parsed.database)).exists() else ""


def check_rules(config: StudyConfig) -> None:
    """Whether a study was begun under the rules of search that hold today.

    Raises:
        InputError: it was not, so it cannot be continued.
    """
    if config.rules != RULES:
        raise InputError(
            f"study {config.name!r} was begun under the rules of an earlier version of lrtune, and "
            "cannot be continued under today's. It can be reported, exported and compared with; "
            "begin a study of another name."
        )


class StudyDatabase:
    """All the studies of one database."""

    def __init__(self, url: str):
        """Opens the database at an SQLAlchemy URL, and makes it where it does not exist.

        Raises:
            StoreError: it cannot be opened, is locked, is read-only, or is no database.
        """
        self.url = url
        connect_args = {"timeout": BUSY_S} if url.startswith("sqlite") else {}
        try:
            self.engine: Engine = sa.create_engine(url, connect_args=connect_args)
            if self.engine.dialect.name == "sqlite":
                sa.event.listen(self.engine, "connect", _tune_sqlite)
            self.engine.connect().close()
        except DBAPIError as error:
            raise self._failure(error) from None
        except Exception as error:  # each driver has errors of its own
            reason = without(url, first_line(error))
            raise StoreError(f"{shown(url)} cannot be used as a database: {reason}") from None
        with self.begin() as connection:
            for table in (
                _metadata.sorted_tables
            ):  # not create_all(): it looks first, and of two processes one fails
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            migrate(connection, _metadata)
            inspector = sa.inspect(connection)
            for table in _metadata.sorted_tables:
                columns = {column["name"] for column in inspector.get_columns(table.name)}
                if columns != set(table.columns.keys()):
                    raise StoreError(
                        f"{shown(url)} holds studies of another version of lrtune: use another "
                        "place."
                    )

    def create(self, config: StudyConfig) -> None:
        """Records a new study.

        Raises:
            StoreError: there is one of that name.
        """
        row = {
            "name": config.name,
            "created_at": time.time(),
            "config": config_to_json(config),
            "range_results": "[]",
        }
        try:
            with self.begin() as connection:
                connection.execute(_studies.insert().values(row))
        except IntegrityError:
            raise StoreError(
                f"there is a study named {config.name!r} already in {shown(self.url)}."
            ) from None

    def config(self, name: str) -> StudyConfig | None:
        """The configuration of a study; `None` where there is none of that name.

        Raises:
            StoreError: another version of lrtune wrote it.
        """
        if not is_name(name):
            return None  # not every database takes such a text
        with self.begin() as connection:
            text = connection.execute(
                sa.select(_studies.c.config).where(_studies.c.name == name)
            ).scalar()
        try:
            return None if text is None else config_from_json(text)
        except (KeyError, TypeError, InputError):  # a field, a choice or a unit more or less
            raise StoreError(f"study {name!r} is of another version of lrtune.") from None

    def names(self) -> list[str]:
        """The studies, oldest first."""
        with self.begin() as connection:
            return list(
                connection.execute(
                    sa.select(_studies.c.name).order_by(_studies.c.created_at)
                ).scalars()
            )

    def study(self, name: str) -> "StudyStore":
        """One study.

        Raises:
            InputError: there is none of that name.
        """
        config = self.config(name)
        if config is None:
            raise self._unknown(name)
        return StudyStore(self, config)

    def open(self, config: StudyConfig) -> "StudyStore":
        """The study of this configuration, with this budget and command from now on.

        It is a new one, or the one that was begun so.

        Raises:
            InputError: the study is there with another configuration, and every difference is
                listed; or it was begun under other rules.
        """
        recorded = self.config(config.name)
        if recorded is None:
            try:
                self.create(config)
            except StoreError:
                if self.config(config.name) is None:
                    raise  # else another process was faster, with the same command
            return self.study(config.name)
        check_rules(recorded)
        ours, theirs = compared(config), compared(recorded)
        different = [key for key in ours if ours[key] != theirs.get(key)]
        if different:
            study = f"study {config.name!r} has"
            raise InputError([
                f"{study} {key}={theirs.get(key)!r}, but got {ours[key]!r}: that takes a study of "
                "another name."
                for key in different
            ])  # fmt: skip
        now = replace(recorded, budget=config.budget, command=config.command)
        if now != recorded:
            self.update_config(now)
        return self.study(config.name)

    def update_config(self, config: StudyConfig) -> None:
        """Replaces a study's configuration, for a larger budget say."""
        with self.begin() as connection:
            where = _studies.c.name == config.name
            connection.execute(_studies.update().where(where).values(config=config_to_json(config)))

    def delete(self, name: str) -> None:
        """Forgets a study, of whatever version of lrtune, and everything recorded of it.

        Raises:
            InputError: there is none of that name, or a worker is at it.
        """
        if name not in self.names():
            raise self._unknown(name)
        running = sa.select(_runs.c.worker, _runs.c.seen_at).where(
            _runs.c.study == name, _runs.c.state == "running"
        )
        with self.begin() as connection:
            if not all(is_gone(worker, seen_at) for worker, seen_at in connection.execute(running)):
                raise InputError(f"a worker is training for study {name!r}: stop it first.")
            for table in (_measurements, _runs):
                connection.execute(table.delete().where(table.c.study == name))
            connection.execute(_studies.delete().where(_studies.c.name == name))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: all of it is recorded, or nothing.

        Raises:
            IntegrityError: a row of the same key is there.
            StoreError: anything else that goes wrong with the database.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise self._failure(error) from None

    def _failure(self, error: SQLAlchemyError) -> StoreError:
        return StoreError(f"{shown(self.url)}: {without(self.url, _in_words(error))}")

    def _unknown(self, name: str) -> InputError:
        names = ", ".join(self.names()) or "none"
        return InputError(f"there is no study {name!r} in {shown(self.url)}; there are: {names}.")


class StudyStore:
    """One study: what was recorded of it, and the recording."""

    def __init__(self, database: StudyDatabase, config: StudyConfig):
        self._database = database
        self.config = config
        self._ended: dict[
            str, RunRecord
        ] = {}  # read once: only their test metrics are still to come; none that failed

    def state(self) -> StudyState:
        """Everything recorded so far."""
        name = self.config.name
        with self._database.begin() as connection:
            ranges = connection.execute(
                sa.select(_studies.c.range_results).where(_studies.c.name == name)
            ).scalar_one()
            rows = connection.execute(
                sa.select(_runs).where(_runs.c.study == name).order_by(_runs.c.position, _runs.c.id)
            ).all()
            unread = [row.id for row in rows if row.id not in self._ended]
            measured: dict[str, list[Measurement]] = {run_id: [] for run_id in unread}
            where = sa.and_(_measurements.c.study == name, _measurements.c.run.in_(unread))
            for row in connection.execute(
                sa.select(_measurements).where(where).order_by(_measurements.c.epoch)
            ):
                measured[row.run].append(_measurement(row))
        ended = self._ended
        records = tuple(
            replace(ended[row.id], test=_metrics(row.test))
            if row.id in ended
            else _record(row, measured[row.id])
            for row in rows
        )
        self._ended = {
            record.run.id: record for record in records if record.state not in ("running", "failed")
        }
        return StudyState(
            config=self.config, range_results=ranges_from_json(ranges), records=records
        )

    def claim(self, run: Run, worker: str) -> bool:
        """Makes `worker` the owner of a run that nobody has, or whose owner is gone.

        False where another was faster.
        """
        key = {"study": self.config.name, "id": run.id}
        with self._database.begin() as connection:
            row = connection.execute(sa.select(_runs).filter_by(**key)).one_or_none()
            if row is not None:
                if row.state != "running" or not (
                    row.worker == worker or is_gone(row.worker, row.seen_at)
                ):
                    return False
                mine = _runs.update().filter_by(**key, worker=row.worker, state="running")
                return (
                    connection.execute(mine.values(worker=worker, seen_at=time.time())).rowcount
                    == 1
                )
        values = asdict(run) | {
            "study": self.config.name, "recipe": json.dumps(run.recipe.to_dict()),
            "state": "running", "reason": "", "worker": worker, "seen_at": time.time(),
            "retries": 0,
        }  # fmt: skip
        position = (
            sa.select(sa.func.count())
            .select_from(_runs)
            .filter_by(study=self.config.name)
            .scalar_subquery()
        )
        try:
            with self._database.begin() as connection:
                connection.execute(_runs.insert().values(**values, position=position))
        except IntegrityError:
            return False
        return True

    def record(self, run: Run, measurement: Measurement) -> None:
        """Makes a measurement durable.

        Recording an epoch again changes nothing: the first value stays.
        """
        values = {
            name: None if _is_nan(value) else value for name, value in asdict(measurement).items()
        } | {"metrics": metrics_to_json(measurement.metrics)}
        try:
            with self._database.begin() as connection:
                connection.execute(
                    _measurements.insert().values(study=self.config.name, run=run.id, **values)
                )
                connection.execute(self._row(run.id).values(seen_at=time.time()))
        except IntegrityError:
            return

    def heartbeat(self, run: Run) -> None:
        """Says that the run's worker is alive, between measurements."""
        self._update(run.id, seen_at=time.time())

    def finish(self, run: Run, state: RunState, reason: str = "") -> None:
        """Records how a run ended."""
        self._update(run.id, state=state, reason=printable(reason))

    def count_retry(self, run: Run) -> None:
        """Records that a run lost its worker and goes on with another."""
        self._update(run.id, retries=_runs.c.retries + 1)

    def release(self, run: Run) -> None:
        """Gives a run back unfinished, for whoever comes next."""
        self._update(run.id, worker=NOBODY)

    def retry_failed(self) -> None:
        """Gives the failed runs back unfinished, so that the plan takes them first."""
        failed = _runs.update().where(_runs.c.study == self.config.name, _runs.c.state == "failed")
        with self._database.begin() as connection:
            connection.execute(failed.values(state="running", reason="", worker=NOBODY))

    def record_test(self, run_id: str, metrics: Metrics) -> None:
        """Records the metrics on the test split."""
        self._update(run_id, test=metrics_to_json(metrics))

    def record_ranges(self, results: tuple[RangeResult, ...]) -> None:
        """Records the range tests, unless another process has recorded its own."""
        mine = sa.and_(_studies.c.name == self.config.name, _studies.c.range_results == "[]")
        with self._database.begin() as connection:
            connection.execute(
                _studies.update().where(mine).values(range_results=ranges_to_json(results))
            )

    def _update(self, run_id: str, **values: object) -> None:
        with self._database.begin() as connection:
            connection.execute(self._row(run_id).values(**values))

    def _row(self, run_id: str) -> sa.Update:
        return _runs.update().where(_runs.c.study == self.config.name, _runs.c.id == run_id)


def _record(row: Any, measurements: list[Measurement]) -> RunRecord:
    values: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(Run)}
    kind = "look" if row.kind == "rung" else row.kind  # as earlier versions called it
    return RunRecord(
        run=Run(**values | {"kind": kind, "recipe": Recipe.from_dict(json.loads(row.recipe))}),
        state=row.state,
        reason=row.reason,
        measurements=tuple(measurements),
        orphaned=row.state == "running" and is_gone(row.worker, row.seen_at),
        retries=row.retries,
        test=_metrics(row.test),
    )


def _measurement(row: Any) -> Measurement:
    values = {field.name: getattr(row, field.name) for field in fields(Measurement)}
    unknown = {name: math.nan for name, value in values.items() if value is None}
    return Measurement(**values | unknown | {"metrics": _metrics(row.metrics)})


def _metrics(text: str | None) -> Metrics | None:
    return None if text is None else metrics_from_json(text)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
    _turn_on_wal(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _turn_on_wal(cursor: Any) -> None:
    """Turns on WAL mode; SQLite refuses it without waiting while another process does."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _in_words(error: SQLAlchemyError) -> str:
    message = first_line(getattr(error, "orig", None) or error)
    for sign, words in (
        ("locked", f"the database is locked by another program (waited {BUSY_S:.0f} s)"),
        ("readonly", "the database cannot be written: it, or its folder, is read-only"),
        ("not a database", "the file is not a database"),
        (
            "unable to open",
            "the database cannot be opened: its folder is missing or not accessible",
        ),
    ):
        if sign in message:
            return f"{words}."
    return f"the database failed: {message}"
