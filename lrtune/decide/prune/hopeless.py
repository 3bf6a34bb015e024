"""The default: end only what no decay can save.

An unfinished schedule's raw score says little of its end: it favours early decay and punishes high
LRs that would win. So a run is ended only where it is still guessing well after its warmup, or
where, in its second half, it makes several times the errors of every good run *with the same kind
of decay* at the same epoch.
"""

import math

from lrtune.core.objective import Metrics, Objective, averaged
from lrtune.core.run import GO_ON, PruneDecision, Run, RunRecord
from lrtune.core.study import StudyState
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
    """Ends a run that is still guessing, or far behind the better half of its kind.

    A run is still guessing where neither its raw weights nor the averaged ones are told from
    guessing, and both are told from weights that have learnt something. On few examples nothing
    is: there a run must be worse than guessing to be ended. A value that is nan is a guess.

    Where guessing, or a perfect value, is not known of the metric, nothing is ended on its account.
    """
    objective, run, epoch = state.config.objective, record.run, record.epochs
    if epoch < warmup_epochs_of(run) + GUESSING_FROM * run.horizon_epochs:
        return GO_ON
    value, latest = objective.value(record.metrics), record.measurements[-1]
    chance, is_warm = objective.guessing, latest.step >= MIN_STEPS
    if chance is not None and is_warm and not _has_learnt(objective, record.metrics):
        error = objective.counting_error(chance)
        reason = (
            f"{objective.title} {objective.text(value)} is not told from chance "
            f"({chance:.1f} ± {error:.1f}) at epoch {epoch}"
        )
        return PruneDecision(prune=True, reason=reason)

    kind = run.recipe.decay.name
    peers = [r for r in state.of_kind(run.kind) if r.state == "completed" and _alike(r.run, run)]
    if len(peers) < MIN_PEERS or epoch < warmup_epochs_of(run) + COMPARED_FROM * run.horizon_epochs:
        return GO_ON
    peers.sort(key=lambda peer: objective.score(peer.metrics))
    better_half = [peer.measurements[epoch - 1].metrics for peer in peers[len(peers) // 2 :]]
    weakest = objective.signed(min(map(objective.score, better_half)))
    allowed = ERROR_RATIO * max(objective.shortfall(weakest), objective.least_difference)
    # What is nan has nothing right, where that is known of the others.
    is_nan = math.isnan(value) and math.isfinite(allowed)
    if is_nan or objective.shortfall(value) > allowed:
        reason = (
            f"{objective.title} {objective.text(value)} at epoch {epoch}, where the better half of "
            f"{kind} runs had {objective.text(weakest)} or better"
        )
        return PruneDecision(prune=True, reason=reason)
    return GO_ON


def _has_learnt(objective: Objective, metrics: Metrics) -> bool:
    """Whether the raw or the averaged weights are told from guessing."""
    chance = objective.guessing
    assert chance is not None
    error, way = SIGMAS * objective.counting_error(chance), objective.shortfall(chance)
    margin = min(error, LEARNT * way - error) if math.isfinite(way) else 0.0
    values = (metrics.get(name, math.nan) for name in _names(objective))
    return any(objective.improves(value, chance, threshold=margin) for value in values)


def _names(objective: Objective) -> tuple[str, str]:
    return objective.metric, averaged(objective.metric)


def _alike(run: Run, other: Run) -> bool:
    """Whether two runs are as far into the same kind of schedule at the same epoch."""
    return (run.recipe.decay.name, run.horizon_epochs, run.stop_epochs) == (
        other.recipe.decay.name, other.horizon_epochs, other.stop_epochs,
    )  # fmt: skip
