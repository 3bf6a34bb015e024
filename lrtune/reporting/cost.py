"""What a study has spent, what it has spared, and on what."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lrtune.core.run import RunKind
from lrtune.core.study import StudyState
from lrtune.decide.spending import Spending, spending_of
from lrtune.reporting import wording
from lrtune.reporting.trials import ENDS

PURPOSES: dict[RunKind, str] = {
    "baseline": "baseline",
    "look": "search, looks",
    "full": "search, in full",
    "confirm": "confirmation",
}


class CostRow(NamedTuple):
    """What one kind of run cost, in words."""

    purpose: str
    num_runs: int
    trained: str
    """Epochs."""
    reused: str
    """Epochs."""
    time: str
    """Of training, summed over the runs; what ran side by side counts twice."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the study has spent so far, and what it has not."""

    spending: Spending
    epochs_again: int
    """Trained a second time; counted in `spending.trained`."""
    seconds: float
    """Time in which at least one run was training."""
    num_trials: int
    num_finished: int
    """Trials that were trained in full, by the search or with a fresh seed."""
    retries: int = 0
    """Times that a run lost its worker and went on with another."""
    num_runs: Mapping[str, int]
    """State to number of runs, of every kind of run."""

    def __str__(self) -> str:
        """One sentence."""
        if not self.num_runs:
            return "Nothing has been trained yet."
        spent, time = self.spending, wording.duration(self.seconds)
        epochs = f"{wording.count(spent.trained, 'epoch')} trained in {time}"
        if self.epochs_again:
            epochs += f" ({self.epochs_again:,} of them a second time, their checkpoint gone)"
        if spent.reused:
            epochs += f" and {spent.reused:,} taken over from other runs"
        in_full = "all recipes in full would take"
        if spent.avoided > 0:
            epochs += f", of {spent.asked:,} that {in_full}"
        elif spent.avoided < 0:  # a few trials with looks can cost more than training each in full
            epochs += f", {-spent.avoided:,} more than {in_full}"
        (state, amount), *others = self.num_runs.items()
        runs = [
            f"{wording.count(amount, 'run')} {state}",
            *(f"{amount:,} {state}" for state, amount in others),
        ]
        parts = [epochs]
        if self.num_trials:
            finished = f", {self.num_finished:,} of them" if self.num_finished else ", none of them"
            if self.num_finished == self.num_trials:
                finished = ", all" if self.num_trials > 1 else ""
            parts.append(f"{wording.count(self.num_trials, 'trial')}{finished} in full")
        parts.append(", ".join(runs))
        if self.retries:
            parts.append(
                f"a run lost its worker {wording.count(self.retries, 'time')}, "
                "and went on with another"
            )
        return f"{'; '.join(parts)}."


def cost_of(state: StudyState) -> Cost:
    """The cost of all runs of a study so far."""
    in_full = [r for r in state.records if r.run.kind in ("full", "confirm")]
    numbers = Counter(map(wording.run_state, state.records))
    return Cost(
        spending=spending_of(state),
        epochs_again=sum(m.again_epochs for record in state.records for m in record.measurements),
        seconds=state.busy_seconds,
        num_trials=int(state.spent("trials")),
        num_finished=len({r.run.trial for r in in_full if r.state == "completed"}),
        retries=sum(record.retries for record in state.records),
        num_runs={name: numbers[name] for name in ("completed", *ENDS) if numbers[name]},
    )


def cost_rows(state: StudyState) -> tuple[CostRow, ...]:
    """The cost of each kind of run; empty where all runs were of one kind, and in a comparison."""
    rows = []
    for kind, purpose in PURPOSES.items():
        records = state.of_kind(kind)
        if records:
            trained = f"{sum(record.epochs_trained for record in records):,}"
            reused = f"{sum(record.epochs_reused for record in records):,}"
            seconds = sum(record.seconds for record in records)
            rows.append(CostRow(purpose, len(records), trained, reused, wording.duration(seconds)))
    return tuple(rows) if len(rows) > 1 and not state.config.is_comparison else ()
