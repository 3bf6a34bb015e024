"""Patience: no progress for so long, no hope (`optuna.pruners.PatientPruner` around no other pruner)."""

from lrtune.core.run import GO_ON, PruneDecision, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.trials import signal_of, warmup_epochs_of

PATIENCE = 0.3
"""Share of the run that may pass without progress. A step decay waits for half of it, and gains
most after."""


def patient(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run whose best Top-1 is more than `PATIENCE` of its horizon ago; not in its warmup.

    NaN is no progress.
    """
    tops = [signal_of(state.config, m) for m in record.measurements]
    patience = max(1, round(PATIENCE * record.run.horizon_epochs))
    best = max(range(len(tops)), key=lambda i: tops[i] if tops[i] == tops[i] else -1.0)
    since = len(tops) - 1 - best
    if since <= patience or record.epochs <= warmup_epochs_of(record.run):
        return GO_ON
    return PruneDecision(prune=True, reason=f"no Top-1 above {tops[best]:.2f} for {since} epochs")
