"""A recipe file as `lrtune.store.recipes` reads it: the keys of `Recipe`, and its epochs."""

import json
from collections.abc import Mapping

from lrtune.core.recipe import TABLES
from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule


def export(schedule: Schedule) -> Export:
    """The recipe and the epochs that its lengths are meant for."""
    values = {"epochs": schedule.epochs} | schedule.recipe.to_dict()
    tables = {name: values.pop(name, {}) for name in ("decay", *TABLES)}
    lines = _lines(values)
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *_lines(table)]
    note = (
        "Exact: `--baseline`, `--try` and `lrtune compare` read it, and scale its lengths to runs "
        "of other lengths."
    )
    return Export(to="toml", text="\n".join(lines) + "\n", note=note)


def _lines(table: Mapping[str, object]) -> list[str]:
    """TOML writes numbers, truths, words and lists of them as JSON does."""
    return [f"{_key(key)} = {_text(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else _text(key)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # TOML has no pairs of surrogates
