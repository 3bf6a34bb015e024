"""Where a study's epochs went: those that were asked for are trained, reused, or avoided."""

from dataclasses import dataclass

from lrtune.core.study import StudyState
from lrtune.decide.trials import trials_of


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Epochs, of everything so far."""

    asked: int
    """If each recipe had been trained in full, from its start."""
    trained: int
    """Really: short runs count too, and what was trained twice because a checkpoint was gone."""
    reused: int
    """Taken over from runs with the same first epochs."""
    avoided: int
    """Neither: full runs that were not worth their epochs; negative where the short runs cost more
    than they saved."""


def spending_of(state: StudyState) -> Spending:
    """What the study has spent so far, and what it has not; `asked = trained + reused + avoided`.

    What a look shares with an earlier one of its trial is not reuse: it was asked for once.
    """
    asked = reused = 0
    for trial in trials_of(state):
        measurements = [m for record in trial.runs for m in record.measurements]
        own = {m.prefix for m in measurements if not m.reused}
        taken = {m.prefix for m in measurements if m.reused} - own
        reused += max(0, len(taken) - trial.runs[-1].epochs_missing)
        asked += trial.runs[-1].epochs if trial.running else state.config.epochs
    for record in state.fresh:
        reused += record.epochs_reused
        asked += record.epochs if record.state == "running" else record.run.stop_epochs
    trained = state.epochs_trained
    return Spending(asked=asked, trained=trained, reused=reused, avoided=asked - trained - reused)
