"""Finds faults in the learning rates of a run; each rule is one function.

A rule looks at the events of the run, which are optimizer steps and calls of the scheduler in the
order in which they happened, and at the scheduler's *curve*: its LR after 0, 1, 2, ... calls, far
past the end of the run. No rule asks for the class of the scheduler: the curve shows where a decay
ends and whether a warmup is ever over.

A finding is `wrong` where nobody can have meant it, and `suspicious` where somebody may have.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lrtune.auditing.faults import driving, jumps, plateau, positions
from lrtune.auditing.faults.length import wrong_length
from lrtune.auditing.faults.trace import (
    Array,
    Called,
    Finding,
    Pace,
    Scheduler,
    Stepped,
    Trace,
    same,
)

__all__ = ["Called", "Finding", "Pace", "Scheduler", "Stepped", "Trace", "find_faults"]

RULES: tuple[Callable[[Trace], Finding | None], ...] = (
    lambda trace: (
        driving.raised(trace)
        or jumps.resumed_elsewhere(trace)
        or driving.no_product(trace)
        or positions.begins_again(trace)
        or jumps.drops_after_warmup(trace)
        or jumps.breaks(trace)
        or wrong_length(trace)
        or driving.never_changes(trace)
    ),
    driving.unwarmed_start,
    positions.late,
    driving.scheduler_first,
    lambda trace: driving.two_writers(trace) or jumps.jumps_of_others(trace),
    driving.group_ratio_lost,
    driving.skipped_steps_counted,
    lambda trace: (
        plateau.plateau_without_metric(trace)
        or plateau.plateau_each_batch(trace)
        or plateau.plateau_of_wrong_mode(trace)
        or plateau.stale_metric(trace)
        or plateau.patience_too_long(trace)
    ),
)


def find_faults(trace: Trace) -> tuple[Finding, ...]:
    """Returns what is wrong with the learning rates of a run, and what may be.

    Args:
        trace: with at least one optimizer step.
    """
    findings = [finding for rule in RULES if (finding := rule(trace)) is not None]
    meant = trace.meant
    if meant is None:
        return tuple(findings)
    if trace.num_steps >= trace.total_steps and same(trace.ran, meant):
        return tuple(finding for finding in findings if finding.name == "group-ratio-lost")
    if not any(finding.severity == "wrong" for finding in findings):
        findings += [finding] if (finding := _not_as_meant(trace, meant)) is not None else []
    return tuple(f if f.name == "group-ratio-lost" else replace(f, meant=meant) for f in findings)


def _not_as_meant(trace: Trace, meant: Array) -> Finding | None:
    """Reports LRs that are not those of the curve that was given."""
    ran = trace.ran
    if same(ran, meant):
        return None
    size = min(len(ran), len(meant))
    at = int(np.argmax(np.abs(ran[:size] - meant[:size])))
    what = (
        f"The LR is not the one that was meant: {ran[at]:.3g} at step {at}, "
        f"and {meant[at]:.3g} was meant."
    )
    for steps, name in ((1, "one step"), (trace.epoch_steps or 1, "one epoch")):
        if same(ran[steps:], meant):
            what += f" It is the meant curve {name} late."
        elif same(ran, meant[steps:]):
            what += f" It is the meant curve {name} early."
        else:
            continue
        break
    fix = (
        "Compare the two curves; lrtune's export gives a schedule as code that has these very LRs."
    )
    return Finding(name="not-as-meant", severity="wrong", what=what, fix=fix, ran=ran, meant=meant)
