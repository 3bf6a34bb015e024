"""The default: end only what no decay can save.

An unfinished schedule's raw Top-1 says little of its end: it favours early decay and punishes high LRs that would win. So a run is ended
only where it is still guessing well after its warmup, or far below every good run *with the same kind of decay* at the same epoch.
"""

from lrtune.core.study import StudyState
from lrtune.core.trial import GO_ON, PruneDecision, RunRecord
from lrtune.decide.noise import counting_error

MIN_PROGRESS = 0.25
"""Share of the run, counted from the end of the warmup, before anything is said."""
MIN_PEERS = 4
"""Finished runs with the same decay before they are compared with."""
SIGMAS = 3.0
"""Counting errors between hopeless and merely worse."""


def hopeless(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run at chance, or below the better half of its kind by `SIGMAS` counting errors. NaN Top-1 is below everything."""
    config, epoch, top1 = state.config, record.epochs, record.top1
    if epoch < record.run.recipe.warmup_epochs + MIN_PROGRESS * config.epochs:
        return GO_ON
    chance = 100 / config.num_classes
    ceiling = chance + SIGMAS * counting_error(chance, config.num_validation)
    if not top1 > ceiling:
        return PruneDecision(prune=True, reason=f"Top-1 {top1:.2f} is at chance ({chance:.1f}) after {epoch} epochs")

    kind = record.run.recipe.decay.name
    peers = [r for r in state.of_kind("search") if r.state == "completed" and r.run.recipe.decay.name == kind]
    if len(peers) < MIN_PEERS:
        return GO_ON
    better_half = sorted(peers, key=lambda r: r.top1)[len(peers) // 2 :]
    lowest = min(r.measurements[epoch - 1].top1 for r in better_half)
    if top1 < lowest - SIGMAS * counting_error(lowest, config.num_validation):
        reason = f"Top-1 {top1:.2f} at epoch {epoch} is far below {lowest:.2f}, the lowest of the better half of {kind} runs there"
        return PruneDecision(prune=True, reason=reason)
    return GO_ON
