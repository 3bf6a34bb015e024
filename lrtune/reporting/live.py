"""What is going on, while it goes on: a live display in a terminal, plain lines anywhere else."""

import math
import time
from collections.abc import Iterator, Sequence
from threading import RLock
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lrtune.core.events import EpochEnded, Event, Note, RunEnded, RunStarted, SweepStarted
from lrtune.core.objective import Metrics
from lrtune.core.run import BASELINE, Measurement, Run, RunRecord
from lrtune.core.study import StudyState
from lrtune.reporting import wording
from lrtune.reporting.progress import Progress, unit_of

REFRESHES_PER_S = 4
NUM_COLUMNS_FOR_MOST, NUM_COLUMNS_FOR_ALL = 80, 110
"""Of a terminal that has room for most of what there is to say of a run, and for all of it."""
SLOW_EPOCH_S = 10.0
"""In plain output each epoch that takes longer than this gets a line, as a sign of life."""


class LiveDisplay:
    """Shows events; call it with each of them, from any thread, between `with` and its end.

    Args:
        state: the study, and what was recorded of it before; a resumed one goes on from there.
        console: where to; by custom on stderr, so that results alone go to stdout.
        device: what it trains on, in words.
        quiet: show nothing.

    Example:
        >>> with LiveDisplay(state, Console(stderr=True), device="cpu, fp32") as show:
        ...     show(Note("the range test begins"))
    """

    def __init__(self, state: StudyState, console: Console, *, device: str, quiet: bool = False):
        self._device = device
        self._progress = Progress.of(state)
        self._console = console
        self._quiet = quiet
        self._lock = RLock()  # the display's own thread reads while others report
        self._began = time.monotonic()
        self._trains_since: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if not self._quiet and self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=REFRESHES_PER_S,
                transient=True,  # what remains is the recommendation
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Takes an event, from any thread, and shows it."""
        with self._lock:
            self._progress.take(event)
            if isinstance(event, RunStarted) and self._trains_since is None:
                self._trains_since = time.monotonic()
            if self._live is None and not self._quiet:
                for line in self._lines(event):
                    self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _lines(self, event: Event) -> Iterator[str]:
        """The plain lines that an event is worth."""
        match event:
            case SweepStarted():
                yield f"range test of {self._progress.sweep}"
            case RunStarted(run=run, epochs_done=epochs_done) if epochs_done:
                name = self._name(run)
                done = f"epoch {epochs_done} of {run.stop_epochs}"
                yield f"{name} goes on after {done}: {run.recipe.label}"
            case EpochEnded(run=run, measurement=m) if m.seconds > SLOW_EPOCH_S and not m.reused:
                losses = f"train loss {_train_loss(m)}, {self._value(m.metrics)}"
                epoch = f"{self._name(run)} epoch {m.epoch} of {run.stop_epochs}"
                yield f"{epoch}: LR {wording.lr(m.lr_last)}, {losses}"
            case RunEnded(record=record):
                reason, _, details = record.reason.partition("\n")
                why = f" ({reason})" if reason else ""
                done = f"{record.epochs} of {record.run.stop_epochs} epochs"
                if record.epochs_reused:
                    done += f", {record.epochs_reused} of them reused"
                about = filter(None, (done, self._outcome(record), record.run.recipe.label))
                yield f"{self._name(record.run)} {record.state}{why}: {', '.join(about)}"
                if details:
                    yield details
            case Note(text=text):
                yield text

    def _name(self, run: Run) -> str:
        return wording.run_name(self._progress.config, run)

    def _value(self, metrics: Metrics) -> str:
        """The objective, `Top-1 93.10 %` or `f1 0.871`."""
        objective = self._progress.config.objective
        return f"{objective.title} {objective.text(objective.value(metrics), unit=True)}"

    def _outcome(self, record: RunRecord) -> str:
        """The objective, and what a look is ranked by where that is another; empty without it."""
        if math.isnan(self._progress.config.objective.value(record.metrics)):
            return ""
        text = self._value(record.metrics)
        ranked_by = self._progress.config.ranked_by
        value, is_look = ranked_by.value(record.metrics), record.run.kind == "look"
        is_another = ranked_by.metric != self._progress.config.objective.metric
        if is_look and is_another and not math.isnan(value):
            text += f", {wording.with_metric(ranked_by, value)}"
        return text

    def _render(self) -> Group:
        with self._lock:
            wide, narrow = (
                self._console.width >= NUM_COLUMNS_FOR_ALL,
                self._console.width < NUM_COLUMNS_FOR_MOST,
            )
            parts: list[RenderableType] = [self._header(), self._overall(wide, narrow)]
            if self._progress.running:
                parts.append(self._runs(wide, narrow))
            if best := self._best():
                parts.append(best)
            parts += [
                Text(note, style="dim", overflow="ellipsis", no_wrap=True)
                for note in self._progress.notes
            ]
            return Group(*parts)

    def _header(self) -> Text:
        config = self._progress.config
        words = f" · {wording.task(config.task)} · {self._device}"
        return Text.assemble(
            (config.name, "bold"), (words, "dim"), no_wrap=True, overflow="ellipsis"
        )

    def _overall(self, wide: bool, narrow: bool) -> Table:
        elapsed_s = time.monotonic() - self._began
        trained_s = time.monotonic() - self._trains_since if self._trains_since else 0.0
        done, total = self._progress.spent(trained_s)
        elapsed = [Text(f"{wording.duration(elapsed_s)} elapsed")]
        row: Sequence[RenderableType] = (
            Text(self._progress.phase, style="bold"),
            ProgressBar(total=total, completed=min(done, total), width=30 if wide else 16),
            Text(self._counted(done, total)),
            *elapsed * (not narrow),
            Text(self._left(total - done, trained_s)),
        )
        return _grid([row], gives_way=1)

    def _counted(self, done: float, total: float) -> str:
        """How far the study is, in the unit of its budget.

        Where that is trials it counts those of the phase, since nobody can tell how long the race
        will be.
        """
        progress, config = self._progress, self._progress.config
        if progress.phase == "range test":  # no part of a budget
            return progress.sweep
        match unit_of(config):
            case "seconds":
                return f"{wording.duration(done)} of {wording.duration(total)}"
            case "epochs":
                return f"{done:.0f} of {total:.0f} epochs"
            case "runs":
                return f"{math.floor(done)} of {total:g} runs"
            case "trials" if progress.phase == "search":
                return progress.place_in_search
            case "trials":
                return f"{progress.num_ended_of_phase} of {progress.num_expected_of_phase} runs"

    def _left(self, budget: float, trained_s: float) -> str:
        """`about 3 to 8 min left`, by the pace of this session; empty before its first epoch.

        Args:
            budget: what is left of it, in its own unit.
            trained_s: time since the first run of this session began.
        """
        progress = self._progress
        if not progress.epochs_here:
            return ""
        epoch_s = trained_s / progress.epochs_here
        fewest_s, most_s = (epochs * epoch_s for epochs in progress.epochs_left)
        if unit_of(progress.config) == "seconds":
            most_s = max(0.0, budget)
        return f"{wording.about(min(fewest_s, most_s), most_s)} left"

    def _runs(self, wide: bool, narrow: bool) -> Table:
        """One line a run, with as many columns as there is room for.

        The recipe comes last and is cut where the line is too short.
        """
        objective = self._progress.config.objective
        num_measured = 5 if wide else 1 if narrow else 4
        rows = []
        for running in self._progress.running.values():
            run, m = running.run, running.last
            bar: list[RenderableType] = [
                ProgressBar(total=run.stop_epochs, completed=running.epochs, width=12)
            ]
            measured = ("",) * 5
            if m is not None:
                measured = (
                    ("" if objective.is_percentage or narrow else f"{objective.metric} ")
                    + objective.text(objective.value(m.metrics), unit=True),
                    f"LR {wording.lr(m.lr_last)}",
                    f"loss {_train_loss(m)}",
                    f"{wording.duration((run.stop_epochs - running.epochs) * m.seconds)} left",
                    f"{m.examples_per_s:,.0f} ex/s",
                )
            label = Text(run.recipe.label, style="dim", overflow="ellipsis", no_wrap=True)
            epochs = Text(f"{running.epochs}/{run.stop_epochs}")
            rows.append(
                [
                    Text(self._name(run)),
                    *bar * wide,
                    epochs,
                    *map(Text, measured[:num_measured]),
                    label,
                ]
            )
        return _grid(rows, gives_way=len(rows[0]) - 1, gap=2 if wide else 1)

    def _best(self) -> Text | None:
        progress, config = self._progress, self._progress.config
        baseline, parts = wording.recipe_name(config, BASELINE), []
        if progress.leader is not None:
            leader = wording.recipe_name(config, progress.leader)
            recipe = "" if config.is_comparison else f" ({progress.recipe_of(progress.leader)})"
            parts.append(f"in the lead: {leader} {self._summary(progress.leader)}{recipe}")
        elif (best := progress.best) is not None:
            ranked_by = config.objective if best.finished else config.ranked_by
            value = ranked_by.signed(best.score)
            text = ranked_by.text(value, unit=True)
            if ranked_by.metric != config.objective.metric:
                text = wording.with_metric(ranked_by, value)
            name = self._name(best.runs[best.level - 1].run)
            parts.append(f"best so far {text} ({name}: {best.recipe.label})")
        if progress.fresh_values(BASELINE) and progress.leader != BASELINE:
            parts.append(f"{baseline} {self._summary(BASELINE)}")
        if not parts:
            return None
        return Text("; ".join(parts), style="green", overflow="ellipsis", no_wrap=True)

    def _summary(self, trial: int) -> str:
        """What the fresh seeds of a recipe have come to."""
        objective, values = self._progress.config.objective, self._progress.fresh_values(trial)
        unit = " %" if objective.is_percentage and not any(map(math.isnan, values)) else ""
        return f"{objective.summary(values)}{unit}"


def _train_loss(measurement: Measurement) -> str:
    return wording.loss(measurement.metrics.get("train_loss", math.nan))


def _grid(rows: Sequence[Sequence[RenderableType]], *, gives_way: int, gap: int = 2) -> Table:
    """Rows of cells in columns.

    Where a line is too short, the column `gives_way` is cut first, and the others after it is gone.
    """
    table = Table.grid(padding=(0, gap, 0, 0))
    for column in range(len(rows[0])):
        table.add_column(no_wrap=column != gives_way)
    for row in rows:
        table.add_row(*row)
    return table
