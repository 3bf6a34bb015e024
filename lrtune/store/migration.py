"""Brings the tables of version 0.1.0 to today's: once, in one transaction.

A measurement had a column for each metric then, a run had one for its result on the test images,
and every study was decided by the percentage of the validation images that were right.
"""

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from lrtune.core.objective import Objective, averaged
from lrtune.store.encoding import metrics_to_json

RUNS, MEASUREMENTS = "lrtune_runs", "lrtune_measurements"
_SUFFIX = "_0_1_0"
_RULES = 1
"""Of search, under which its studies were begun."""
_IMAGES_PER_S = "images_per_s"


def migrate(connection: Connection, metadata: sa.MetaData) -> None:
    """Migrates a database of version 0.1.0; leaves any other one alone.

    Args:
        connection: whose transaction it is done in.
        metadata: today's tables.
    """
    if not _is_of_first_version(connection):
        return
    if connection.dialect.name == "sqlite" and not connection.connection.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # else SQLite changes each table by itself
        if not _is_of_first_version(connection):  # another process was faster
            return
    for name in (MEASUREMENTS, RUNS):
        connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {name}{_SUFFIX}")
        metadata.tables[name].create(connection)
    past = sa.MetaData()
    past.reflect(connection, only=[RUNS + _SUFFIX, MEASUREMENTS + _SUFFIX])
    old_runs, old_measurements = past.tables[RUNS + _SUFFIX], past.tables[MEASUREMENTS + _SUFFIX]
    studies = metadata.tables["lrtune_studies"]
    for name, config in connection.execute(sa.select(studies.c.name, studies.c.config)).all():
        changed = studies.update().where(studies.c.name == name)
        connection.execute(changed.values(config=json.dumps(_config(json.loads(config)))))
    for row in connection.execute(sa.select(old_runs)).mappings().all():
        connection.execute(metadata.tables[RUNS].insert().values(_run(dict(row))))
        mine = sa.and_(
            old_measurements.c.study == row["study"], old_measurements.c.run == row["id"]
        )
        measured = connection.execute(sa.select(old_measurements).where(mine)).mappings()
        if rows := [
            _measurement(dict(values), metadata.tables[MEASUREMENTS]) for values in measured
        ]:
            connection.execute(metadata.tables[MEASUREMENTS].insert(), rows)
    for table in (old_measurements, old_runs):
        table.drop(connection)


def _is_of_first_version(connection: Connection) -> bool:
    columns = sa.inspect(connection).get_columns(MEASUREMENTS)
    return _IMAGES_PER_S in {column["name"] for column in columns}


def _config(values: dict[str, Any]) -> dict[str, Any]:
    num_classes, num_examples = values.pop("num_classes"), values["num_validation"]
    objective = Objective().counted(num_examples=num_examples, num_classes=num_classes)
    for named in values["recipes"]:
        named.pop("published", None)
    return {"tried": [], "groups": [], "paired": True, **values} | {
        "objective": asdict(objective),
        "rules": _RULES,
    }


def _run(values: dict[str, Any]) -> dict[str, Any]:
    """The result on the test images, `test_NAME`, becomes the metric NAME on the test split."""
    [column] = [name for name in values if name.startswith("test_")]
    tested = values.pop(column)
    test = {column.removeprefix("test_"): tested} if tested is not None else None
    kind = "full" if values["kind"] == "search" else values["kind"]
    return values | {"kind": kind, "test": metrics_to_json(test) if test else None}


def _measurement(values: dict[str, Any], table: sa.Table) -> dict[str, Any]:
    """Every column that is gone was a metric. NULL was nan, or weights that were not averaged."""
    values["examples_per_s"] = values.pop(_IMAGES_PER_S)
    gone = [name for name in values if name not in table.columns]
    metrics = {name: values.pop(name) for name in gone}
    measured = {
        name: float("nan") if value is None else value
        for name, value in metrics.items()
        if value is not None or not name.startswith(averaged(""))
    }
    return values | {"metrics": metrics_to_json(measured)}
