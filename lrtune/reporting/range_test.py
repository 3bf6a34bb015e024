"""A range test on its own: a plot, the sweeps as CSV, and a few lines in the terminal."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lrtune.core.study import RangeResult
from lrtune.reporting import wording
from lrtune.reporting.console import PlainConsole
from lrtune.reporting.files import write_whole


def write_range_result(result: RangeResult, folder: Path) -> Mapping[str, Path]:
    """Writes the files of a range test.

    They are `range_test.png`, `range_test.svg`, `range_test.csv` (seed, lr, loss) and
    `range_test.json`.

    Args:
        result: with or without a signal.
        folder: made where it is missing.

    Returns:
        The files by their names.

    Raises:
        OSError: `folder` cannot be written to.
    """
    from lrtune.reporting.plots import draw_range_test  # matplotlib takes a while to import

    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("seed", "lr", "loss"))
    for curve in result.curves:
        rows.writerows(
            (curve.seed, lr, loss) for lr, loss in zip(curve.lrs, curve.losses, strict=True)
        )
    plot = draw_range_test(result)
    contents: dict[str, str | bytes] = {
        "range_test.png": plot.png,
        "range_test.svg": plot.svg,
        "range_test.csv": table.getvalue(),
        "range_test.json": range_json(result),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return {name: folder / name for name in contents}


def range_json(result: RangeResult) -> str:
    """The result as JSON, without the sweeps.

    It has `optimizer`, `interval` ({low, high, suggestion} or null), `rule`, `reason` and
    `suggestions` by rule.
    """
    values = asdict(result)
    del values["curves"]
    return json.dumps(values, indent=1) + "\n"


def print_range_result(
    result: RangeResult, folder: Path, *, as_json: bool = False, console: Console | None = None
) -> None:
    """Prints the interval and where it comes from, or that there is no signal and why.

    Args:
        result: with or without a signal.
        folder: of the written files.
        as_json: print `range_json` instead.
        console: where to; `None`: to stdout.
    """
    console = console or PlainConsole()
    if as_json:
        console.out(range_json(result), highlight=False, end="")
        return
    console.print(Text(wording.range_result(result), style="bold"))
    if result.suggestions:
        others = ", ".join(
            f"{rule} {wording.lr(value)}" for rule, value in result.suggestions.items()
        )
        console.print(Text(f"Other rules on the same sweeps: {others}.", style="dim"))
    console.print(Text(f"Plot and sweeps: {folder}"), soft_wrap=True)
