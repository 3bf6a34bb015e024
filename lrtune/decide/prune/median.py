"""The median rule (Golovin et al. 2017, "Google Vizier", section 3.3.2), on the raw Top-1 of the unfinished run."""

import math
from statistics import median

from lrtune.core.study import StudyState
from lrtune.core.trial import GO_ON, PruneDecision, RunRecord

MIN_PEERS = 5
"""Finished trials before anything is pruned, as in `optuna.pruners.MedianPruner`."""


def median_rule(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run whose best Top-1 so far is below the median of the finished trials at the same epoch.

    Not during its warmup. NaN counts as 0.
    """
    epoch = record.epochs
    finished = [r for r in state.of_kind("search") if r.state == "completed"]
    if len(finished) < MIN_PEERS or epoch <= record.run.recipe.warmup_epochs:
        return GO_ON
    best = max(_or_zero(m.top1) for m in record.measurements)
    middle = median(_or_zero(r.measurements[epoch - 1].top1) for r in finished)
    if best < middle:
        below = f"is below the median {middle:.2f} of {len(finished)} finished trials"
        return PruneDecision(prune=True, reason=f"best Top-1 {best:.2f} up to epoch {epoch} {below}")
    return GO_ON


def _or_zero(top1: float) -> float:
    return 0.0 if math.isnan(top1) else top1
