"""A study as a value for programs: its best recipe, ready to use, and its runs as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.core.errors import LrtuneError
from lrtune.core.printing import printable
from lrtune.core.recipe import Recipe
from lrtune.core.run import BASELINE, Measurement
from lrtune.core.study import StudyState
from lrtune.decide.convergence import Convergence
from lrtune.decide.recommend import Recommendation
from lrtune.reporting.document import Report, compose
from lrtune.reporting.wording import recipe_name
from lrtune.schedules import Schedule, build_schedule

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Best:
    """The recommended recipe, ready to use."""

    recipe: Recipe
    schedule: Schedule
    """`schedule(step)` is the multiplier for optimizer step `step`; a plateau's as its first
    confirmed run had it."""
    value: float
    """Mean of the objective over fresh seeds; that of the search's own full run while there are
    none, and nan without that too."""
    convergence: Convergence


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A study as far as it has come."""

    state: StudyState
    recommendation: Recommendation | None
    folder: Path
    """Of the report."""
    report: Report

    def __repr__(self) -> str:
        document = compose(self.report)
        return f"{self.state.config.name}: {document.headline}\n{document.verdict}"

    @property
    def best(self) -> Best:
        """The recommended recipe.

        Raises:
            LrtuneError: no run has finished.
        """
        if self.recommendation is None:
            raise LrtuneError(
                f"no run of study {self.state.config.name!r} has finished, so there is no best one."
            )
        chosen = self.recommendation.best
        config = self.state.config
        epochs = config.horizon_of(chosen.trial)
        schedule = build_schedule(
            chosen.recipe, epochs=epochs, steps_per_epoch=config.steps_per_epoch
        )
        for m in measurements_of(self.state, chosen.trial):
            schedule = schedule.observe(m.metrics)
        value = chosen.mean if chosen.values else chosen.search_value
        return Best(
            recipe=chosen.recipe, schedule=schedule, value=value, convergence=chosen.convergence
        )

    def trials_dataframe(self) -> "pd.DataFrame":
        """One row a run: what it was for, its recipe, its state, its final metrics."""
        return runs_dataframe(self.state)


def measurements_of(state: StudyState, trial: int) -> tuple[Measurement, ...]:
    """The epochs of a trial's first completed run with a fresh seed.

    They are those of the search's own run where there is none, and empty without that. Of the
    baseline, that is the run of a trial with its recipe.
    """
    kinds = {"confirm": 0, "baseline": 0, "full": 1}
    numbers = {trial}
    if trial == BASELINE:
        numbers |= {r.run.trial for r in state.records if r.run.recipe == state.config.baseline}
    of_trial = (r for r in state.records if r.run.trial in numbers and r.run.kind in kinds)
    records = [r for r in of_trial if r.state == "completed"]
    return min(records, key=lambda r: kinds[r.run.kind]).measurements if records else ()


def runs_dataframe(state: StudyState) -> "pd.DataFrame":
    """One row a run, in the order in which they were planned."""
    import pandas as pd

    rows = []
    for record in state.records:
        recipe = record.run.recipe.to_dict()
        decay, scales = recipe.pop("decay"), recipe.pop("group_scales")
        command = recipe.pop("command", {})
        rows.append(
            {"run": record.run.id, "name": recipe_name(state.config, record.run.trial)}
            | {"kind": record.run.kind, "trial": record.run.trial, "seed": record.run.seed}
            | {
                "horizon": record.run.horizon_epochs,
                "stop": record.run.stop_epochs,
                "reused": record.epochs_reused,
            }
            | {"state": record.state, "epochs": record.epochs}
            | dict(record.metrics)
            | {f"test_{name}": value for name, value in (record.test or {}).items()}
            | recipe
            | {"decay": decay.pop("name")}
            | {f"decay_{key}": value for key, value in decay.items()}
            | {f"group_scale_{group}": scale for group, scale in scales.items()}
            | {f"command_{name}": value for name, value in command.items()}
            | {"seconds": record.seconds, "retries": record.retries, "reason": record.reason}
        )
    return pd.DataFrame([
        {
            printable(key): printable(value) if isinstance(value, str) else value
            for key, value in row.items()
        }
        for row in rows
    ])  # fmt: skip
