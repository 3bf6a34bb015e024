"""The median rule (Golovin et al. 2017, "Google Vizier", section 3.3.2)."""

from statistics import median

from lrtune.core.run import GO_ON, PruneDecision, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.trials import signal_of, warmup_epochs_of

MIN_PEERS = 5
"""Finished trials before anything is pruned, as in `optuna.pruners.MedianPruner`."""


def median_rule(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run whose best signal so far is below the median of the finished trials.

    The median is that at the same epoch. Nothing is ended during its warmup. A signal that is nan
    counts as the worst.
    """
    epoch, config = record.epochs, state.config
    finished = [r for r in state.of_kind("full") if r.state == "completed"]
    if len(finished) < MIN_PEERS or epoch <= warmup_epochs_of(record.run):
        return GO_ON
    best = max(signal_of(config, m.metrics) for m in record.measurements)
    middle = median(signal_of(config, r.measurements[epoch - 1].metrics) for r in finished)
    if best < middle:
        objective = config.objective
        best_text, middle_text = map(objective.score_text, (best, middle))
        reason = (
            f"best {objective.title} {best_text} up to epoch {epoch} is worse than the median "
            f"{middle_text} of {len(finished)} finished trials"
        )
        return PruneDecision(prune=True, reason=reason)
    return GO_ON
