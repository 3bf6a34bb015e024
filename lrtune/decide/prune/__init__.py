"""Pruning rules: whether a run that has just been measured goes on. One file a rule.

A rule sees the run's record and the study, decides on the objective alone, and gives its reason.
Runs of the baseline and of the confirmation are never pruned; a run that diverged is ended by the
engine, whatever the rule. What goes up from rung to rung is not decided here but in
`lrtune.decide.rungs`: nothing has to be ended for that.
"""

from collections.abc import Callable

from lrtune.core.run import GO_ON, PruneDecision, RunRecord
from lrtune.core.study import PrunerName, StudyState
from lrtune.decide.prune.hopeless import hopeless
from lrtune.decide.prune.median import median_rule
from lrtune.decide.prune.patient import patient

Rule = Callable[[RunRecord, StudyState], PruneDecision]


def never(record: RunRecord, state: StudyState) -> PruneDecision:
    """No pruning."""
    return GO_ON


PRUNERS: dict[PrunerName, Rule] = {
    "fair": hopeless,
    "halving": never,
    "hyperband": never,
    "hopeless": hopeless,
    "median": median_rule,
    "patient": patient,
    "none": never,
}


def prune(record: RunRecord, state: StudyState) -> PruneDecision:
    """What the study's rule says of a run after its latest epoch."""
    unfinished = record.epochs < record.run.stop_epochs
    if not record.run.is_of_search or not record.measurements or not unfinished:
        return GO_ON
    return PRUNERS[state.config.pruner](record, state)
