"""The default: end only what no decay can save.

An unfinished schedule's raw Top-1 says little of its end: it favours early decay and punishes high
LRs that would win. So a run is ended only where it is still guessing well after its warmup, or
where, in its second half, it makes several times the errors of every good run *with the same kind
of decay* at the same epoch.
"""

from lrtune.core.run import GO_ON, PruneDecision, Run, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.noise import counting_error
from lrtune.decide.trials import warmup_epochs_of

GUESSING_FROM, COMPARED_FROM = 0.25, 0.5
"""Shares of the run, its warmup not counted, from which a run at chance is ended, and one far
behind its kind."""
MIN_STEPS = 100
"""Optimizer steps before a run can be at chance: until then batch norm's running statistics still
hold their start."""
LEARNT = 0.1
"""Share of the way from chance to 100 % that says a run has learnt something."""
MIN_PEERS = 4
"""Finished runs with the same decay before they are compared with."""
ERROR_RATIO = 3.0
"""So many times the errors of the worst of the better half is far behind."""
SIGMAS = 3.0
"""Counting errors that a run at chance may lie above it, and that it must lie below one that has
learnt something."""


def hopeless(record: RunRecord, state: StudyState) -> PruneDecision:
    """Ends a run at chance, or with `ERROR_RATIO` times the errors of the better half of its kind. NaN is at chance.

    A run is at chance where neither its raw weights nor the averaged ones are told from guessing,
    and both are told from weights that have learnt something. On few images nothing is: there a run
    must be below chance to be ended.
    """
    config, run, epoch, top1 = state.config, record.run, record.epochs, record.top1
    if epoch < warmup_epochs_of(run) + GUESSING_FROM * run.horizon_epochs:
        return GO_ON
    chance, latest = 100 / config.num_classes, record.measurements[-1]
    error = counting_error(chance, config.num_validation)
    highest = chance + min(SIGMAS * error, LEARNT * (100 - chance) - SIGMAS * error)
    if latest.step >= MIN_STEPS and not (top1 > highest or latest.averaged_top1 > highest):
        reason = f"Top-1 {top1:.2f} is not told from chance ({chance:.1f} ± {error:.1f}) at epoch {epoch}"
        return PruneDecision(prune=True, reason=reason)

    kind = run.recipe.decay.name
    peers = [r for r in state.of_kind(run.kind) if r.state == "completed" and _alike(r.run, run)]
    if len(peers) < MIN_PEERS or epoch < warmup_epochs_of(run) + COMPARED_FROM * run.horizon_epochs:
        return GO_ON
    better_half = sorted(peers, key=lambda r: r.top1)[len(peers) // 2 :]
    lowest = min(r.measurements[epoch - 1].top1 for r in better_half)
    if 100 - top1 > ERROR_RATIO * max(100 - lowest, 100 / config.num_validation):
        reason = f"Top-1 {top1:.2f} at epoch {epoch}, where the better half of {kind} runs had {lowest:.2f} and more"
        return PruneDecision(prune=True, reason=reason)
    return GO_ON


def _alike(one: Run, other: Run) -> bool:
    """Whether epochs of two runs may be compared: the same progress of the same kind of schedule."""
    return (one.recipe.decay.name, one.horizon_epochs, one.stop_epochs) == (
        other.recipe.decay.name, other.horizon_epochs, other.stop_epochs,
    )  # fmt: skip
