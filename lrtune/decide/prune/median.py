"""The median rule (Golovin et al. 2017, "Google Vizier", section 3.3.2)."""

import math
from statistics import median

from lrtune.core.run import GO_ON, PruneDecision, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.trials import signal_of, warmup_epochs_of

MIN_PEERS = 5
"""Finished trials before anything is pruned, as in `optuna.pruners.MedianPruner`."""


def median_rule(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run whose best signal so far is below the median of the finished trials at the same epoch.

    Not during its warmup. NaN counts as 0.
    """
    epoch = record.epochs
    finished = [r for r in state.of_kind("full") if r.state == "completed"]
    if len(finished) < MIN_PEERS or epoch <= warmup_epochs_of(record.run):
        return GO_ON

    def score(one: RunRecord, index: int) -> float:
        top1 = signal_of(state.config, one.measurements[index])
        return 0.0 if math.isnan(top1) else top1

    best = max(score(record, index) for index in range(epoch))
    middle = median(score(r, epoch - 1) for r in finished)
    if best < middle:
        below = f"is below the median {middle:.2f} of {len(finished)} finished trials"
        return PruneDecision(
            prune=True, reason=f"best Top-1 {best:.2f} up to epoch {epoch} {below}"
        )
    return GO_ON
