"""Patience: no progress for so long, no hope.

It is `optuna.pruners.PatientPruner` around no other pruner.
"""

from lrtune.core.run import GO_ON, PruneDecision, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.trials import signal_of, warmup_epochs_of

PATIENCE = 0.3
"""Share of the run that may pass without progress. A step decay waits for half of it, and gains
most after."""


def patient(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run whose best signal is more than `PATIENCE` of its horizon ago; not in its warmup.

    A signal that is nan is no progress.
    """
    signals = [signal_of(state.config, m.metrics) for m in record.measurements]
    patience = max(1, round(PATIENCE * record.run.horizon_epochs))
    best = max(range(len(signals)), key=lambda epoch: signals[epoch])
    since = len(signals) - 1 - best
    if since <= patience or record.epochs <= warmup_epochs_of(record.run):
        return GO_ON
    objective = state.config.objective
    value = objective.score_text(signals[best])
    reason = f"no {objective.title} better than {value} for {since} epochs"
    return PruneDecision(prune=True, reason=reason)
