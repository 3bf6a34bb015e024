"""Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) on the raw Top-1, in its stopping variant."""

from lrtune.core.study import StudyState
from lrtune.core.trial import GO_ON, PruneDecision, RunRecord

REDUCTION_FACTOR = 3


def rungs(horizon_epochs: int) -> tuple[int, ...]:
    """Epochs at which a run is judged: the horizon divided by 3, 9, ... down to 1."""
    found = []
    epoch = horizon_epochs // REDUCTION_FACTOR
    while epoch >= 1:
        found.append(epoch)
        epoch //= REDUCTION_FACTOR
    return tuple(reversed(found))


def successive_halving(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run that at a rung is not among the best third of the trials that reached it. NaN is the worst."""
    epoch = record.epochs
    if epoch not in rungs(record.run.horizon_epochs) or epoch <= record.run.recipe.warmup_epochs:
        return GO_ON
    others = (r for r in state.of_kind("search") if r.epochs >= epoch and r.run.id != record.run.id)
    tops = [record.top1, *(r.measurements[epoch - 1].top1 for r in others)]
    num_promoted = max(1, len(tops) // REDUCTION_FACTOR)
    num_better = sum(not top <= record.top1 for top in tops[1:] if top == top)
    if record.top1 != record.top1 or num_better >= num_promoted:
        reason = (
            f"Top-1 {record.top1:.2f} is not among the best {num_promoted} of {len(tops)} at the rung of epoch {epoch}"
        )
        return PruneDecision(prune=True, reason=reason)
    return GO_ON
