"""A recipe file, as `lrtune.store.recipes` reads it: the keys of `Recipe`, and the epochs that it is meant for."""

import json

from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule


def export(schedule: Schedule) -> Export:
    """The recipe and the epochs that its lengths are meant for."""
    values = {"epochs": schedule.epochs} | schedule.recipe.to_dict()
    decay = values.pop("decay")
    lines = [*map(_line, values.items()), "", "[decay]", *map(_line, decay.items())]
    note = "Exact: `--baseline`, `--try` and `lrtune compare` read it, and scale its lengths to runs of other lengths."
    return Export(to="toml", text="\n".join(lines) + "\n", note=note)


def _line(item: tuple[str, object]) -> str:
    """TOML writes numbers, truths, words and lists of them as JSON does."""
    key, value = item
    return f"{key} = {json.dumps(value)}"
