"""Recommendations and studies in a terminal, or in the file that its output goes to."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrtune.core.objective import UNKNOWN
from lrtune.core.study import StudyState
from lrtune.decide.plan import outcome
from lrtune.decide.recommend import recommend
from lrtune.reporting import wording
from lrtune.reporting.console import PlainConsole
from lrtune.reporting.document import Document, Report, compose
from lrtune.reporting.trials import unconfirmed_value

NUM_COLUMNS_FOR_ALL = 110
NARROW = ("value", "difference", "probability_best", "convergence", "test_value")
"""Fields of the contenders that 80 columns have room for, mostly; the last go first."""
NAME_COLUMNS = 11
"""Room that is left for the names of the contenders, which may take several lines."""
LOOK_LEGEND = "Tau is Kendall's: 1 where two rankings agree, 0 where they have nothing in common."


def print_recommendation(report: Report, console: Console, folder: Path | None = None) -> None:
    """Prints the recommendation: the schedule, how it compares, and what it cost.

    Args:
        report: whatever stage its study is at.
        console: where to; 80 columns are enough.
        folder: of the written report; `None`: it was not written.
    """
    document = compose(report)
    console.print()
    console.print(Text(f"{report.state.config.name} · {document.task}", style="dim"))
    console.print(Text(document.headline, style="bold"))
    if document.compares and document.schedule:
        console.print(Text(f"In the lead: {document.contenders[0].name}. {document.schedule}"))
    if document.verdict:
        console.print(Text(document.verdict))
    for note in filter(None, (document.own_faults, document.failures)):
        console.print(Text(note))
    if document.contenders and not document.contenders[0].num_seeds:
        fact = document.facts[0]
        console.print(Text(f"{fact.label}: {fact.value} ({fact.note})"))
    if any(row.num_seeds for row in document.contenders):
        console.print()
        wide = console.width >= NUM_COLUMNS_FOR_ALL
        console.print(_table(document, console.width, wide=wide))
        console.print()
        for row in document.contenders:
            console.print(Text(f"{row.name}: {row.recipe}"))
        console.print()
        best = "in the lead" if document.compares else "recommended"
        ties = any("tie" in row.marks for row in document.contenders)
        legend = f"> {best}   = ties with it   " * ties
        objective = report.state.config.objective
        metric = f"{objective.title}{wording.reading(objective)}"
        text = f"{legend}{metric}; best: probability that nothing here is better"
        console.print(Text(text, style="dim"))
        seeds = [row.num_seeds for row in document.contenders]
        if len(set(seeds)) > 1 and not wide:
            console.print(Text(f"Seeds, from the top: {', '.join(map(str, seeds))}.", style="dim"))
        console.print(Text(document.target, style="dim"))
        if document.optimism:
            console.print(Text(document.optimism, style="dim"))
    console.print(Text(str(document.cost), style="dim"))
    if any(look.num_trials for look in document.looks):
        console.print()
        console.print(_look_table(document))
        console.print(Text(LOOK_LEGEND, style="dim"))
        console.print()
    if folder is not None:
        console.print(Text(f"Report: {folder / 'report.html'}"), soft_wrap=True)


def print_studies(states: Sequence[StudyState], console: Console | None = None) -> None:
    """Prints one line a study: how far it is, and the best of it so far.

    Args:
        states: the studies.
        console: where to; `None`: to stdout.
    """
    console = console or PlainConsole()
    table = _plain_table()
    table.add_column("Study", overflow="fold")  # whole, to be copied
    for heading in ("Runs", "Epochs", "Best", "State"):
        table.add_column(heading, justify="left" if heading == "State" else "right", no_wrap=True)
    for state in states:
        objective, best = state.config.objective, UNKNOWN
        if recommendation := recommend(state):
            contender = recommendation.best
            if contender.values:
                best = f"{objective.title} {objective.summary(contender.values)}"
            else:
                metric, value, _ = unconfirmed_value(state, contender)
                best = f"{metric.title} {metric.text(value)}, not confirmed"
        running = any(record.state == "running" and not record.orphaned for record in state.records)
        if ended := outcome(state):
            stage = "given up" if ended.failed else "done"
        else:
            stage = "running" if running else "stopped"
        cells = (state.config.name, str(len(state.records)), str(state.epochs_trained), best, stage)
        table.add_row(*map(Text, cells))
    console.print(table if states else Text("There are no studies yet."))


def _table(document: Document, width: int, *, wide: bool) -> Table:
    """The contenders side by side.

    A narrow one has as many of the columns of `NARROW` as fit, so that no number is broken.
    """
    gap = 2 if wide else 1
    rows = document.contenders
    columns = [column for column in document.columns if wide or column.field in NARROW]
    sizes = [
        max(len(word) for word in (*column.heading.split(), *column.texts(rows)))
        for column in columns
    ]
    while len(sizes) > 1 and NAME_COLUMNS + sum(gap + size for size in sizes) > width:
        columns.pop()
        sizes.pop()
    whole = [max(size, len(column.heading)) for column, size in zip(columns, sizes, strict=True)]
    if max(2 + len(row.name) for row in rows) + sum(gap + size for size in whole) <= width:
        sizes = whole  # no heading needs two lines
    table = _plain_table(gap=gap)
    table.add_column("", overflow="fold")
    for column, size in zip(columns, sizes, strict=True):
        table.add_column(column.heading, justify="right", overflow="fold", width=size)
    for row, *values in zip(rows, *(column.texts(rows) for column in columns), strict=True):
        mark = ">" if row.recommended else "=" if "tie" in row.marks else " "
        cells = [f"{mark} {row.name}", *values]
        table.add_row(*map(Text, cells), style="bold" if row.recommended else "")
    return table


def _look_table(document: Document) -> Table:
    looks, table = document.tables["looks"], _plain_table()
    for heading, side in zip(looks.headings, looks.alignment, strict=True):
        table.add_column(heading, justify="left" if side == "l" else "right")
    for row in looks.rows:
        table.add_row(*(Text(str(cell)) for cell in row), style="dim")
    return table


def _plain_table(gap: int = 2) -> Table:
    return Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)
