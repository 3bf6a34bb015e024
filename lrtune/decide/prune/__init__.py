"""Pruning rules: whether a run that has just been measured goes on. One file a rule.

A rule sees the run's record and the study, decides on validation Top-1 alone, and gives its reason. Runs of the
baseline and of the confirmation are never pruned; a run that diverged is ended by the engine, whatever the rule.
"""

from collections.abc import Callable

from lrtune.core.study import PrunerName, StudyState
from lrtune.core.trial import GO_ON, PruneDecision, RunRecord
from lrtune.decide.prune.halving import successive_halving
from lrtune.decide.prune.hopeless import hopeless
from lrtune.decide.prune.median import median_rule

Rule = Callable[[RunRecord, StudyState], PruneDecision]


def never(record: RunRecord, state: StudyState) -> PruneDecision:
    """No pruning."""
    return GO_ON


PRUNERS: dict[PrunerName, Rule] = {
    "hopeless": hopeless,
    "median": median_rule,
    "halving": successive_halving,
    "none": never,
}


def prune(record: RunRecord, state: StudyState) -> PruneDecision:
    """What the study's rule says of a run after its latest epoch."""
    unfinished = record.epochs < record.run.horizon_epochs
    if record.run.kind != "search" or not record.measurements or not unfinished:
        return GO_ON
    return PRUNERS[state.config.pruner](record, state)
