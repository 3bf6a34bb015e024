"""Pruning: whether a run of the search that has just been measured goes on.

An unfinished schedule's raw score says little of its end: it favours early decay and punishes high
LRs that would win. So a run is ended only where no decay can save it: where it is still guessing
well after its warmup. The baseline and the race are never pruned; a run that diverged is ended by
the engine.
"""

import math

from lrtune.core.objective import Objective, averaged
from lrtune.core.run import RunRecord
from lrtune.core.study import StudyConfig
from lrtune.decide.trials import warmup_epochs_of

GUESSING_FROM = 0.25
"""Share of the run, its warmup not counted, from which a run at chance is ended."""
MIN_STEPS = 100
"""Optimizer steps before a run can be at chance: until then batch norm's running statistics still
hold their start."""
LEARNT = 0.1
"""Share of the way from chance to 100 % that says a run has learnt something."""
SIGMAS = 3.0
"""Counting errors that a run at chance may lie above it, and that it must lie below one that has
learnt something."""


def why_hopeless(record: RunRecord, config: StudyConfig) -> str:
    """Why a run is ended after its latest epoch, in words; empty where it goes on.

    A run is still guessing where neither its raw weights nor the averaged ones are told from
    guessing, and both are told from weights that have learnt something. On few examples nothing
    is: there a run must be worse than guessing to be ended. A value that is nan is a guess.

    Where guessing is not known of the metric, nothing is ended.
    """
    objective, run, epoch = config.objective, record.run, record.epochs
    chance, begins = objective.guessing, GUESSING_FROM * run.horizon_epochs
    if config.pruner == "none" or not run.is_of_search or epoch in (0, run.stop_epochs):
        return ""
    is_early = epoch < warmup_epochs_of(run) + begins or record.measurements[-1].step < MIN_STEPS
    if chance is None or is_early or _has_learnt(objective, chance, record):
        return ""
    value, error = objective.value(record.metrics), objective.counting_error(chance)
    return (
        f"{objective.title} {objective.text(value)} is not told from chance "
        f"({chance:.1f} ± {error:.1f}) at epoch {epoch}"
    )


def _has_learnt(objective: Objective, chance: float, record: RunRecord) -> bool:
    """Whether the raw or the averaged weights are told from guessing."""
    error, way = SIGMAS * objective.counting_error(chance), objective.shortfall(chance)
    margin = min(error, LEARNT * way - error) if math.isfinite(way) else 0.0
    names = (objective.metric, averaged(objective.metric))
    values = (record.metrics.get(name, math.nan) for name in names)
    return any(objective.improves(value, chance, threshold=margin) for value in values)
