"""The recommendation in a terminal, or in the file that its output goes to."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lrtune.report.document import Document, Report, compose

NUM_COLUMNS_FOR_RECIPES = 110


def print_recommendation(report: Report, console: Console, folder: Path | None = None) -> None:
    """Prints the schedule, how it compares, how sure that is, what it cost, and where the report is.

    Args:
        report: whatever stage its study is at.
        console: where to; 80 columns are enough.
        folder: of the written report; `None`: it was not written.
    """
    document = compose(report)
    console.print()
    console.print(Text(f"{report.state.config.name} · {document.task}", style="dim"))
    console.print(Text(document.headline, style="bold"))
    console.print(Text(document.verdict))
    if document.contenders:
        console.print(Padding(_table(document, console.width), (1, 0)))
        console.print(Text(document.target, style="dim"))
    console.print(Text(str(document.cost), style="dim"))
    if folder is not None:
        console.print(Text(f"Report: {folder / 'report.html'}"), soft_wrap=True)


def _table(document: Document, width: int) -> Table:
    with_recipes = width >= NUM_COLUMNS_FOR_RECIPES
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("Search", "Fresh seeds, %", "To baseline", "Convergence"):
        table.add_column(heading, justify="right", no_wrap=True)
    if document.tested:
        table.add_column("Test, %", justify="right", no_wrap=True)
    if with_recipes:
        table.add_column("Recipe", overflow="fold")
    for row in document.contenders:
        mark = "> " if row.recommended else "= " if row.tie else "  "
        cells = [mark + row.name, row.search_top1, row.top1, row.difference, row.convergence]
        cells += [row.test_top1] if document.tested else []
        cells += [row.recipe] if with_recipes else []
        table.add_row(*map(Text, cells), style="bold" if row.recommended else "")
    return table
