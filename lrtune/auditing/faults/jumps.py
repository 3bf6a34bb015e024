"""Rules for an LR that jumps where its schedule does not."""

from collections.abc import Iterator

import numpy as np

from lrtune.auditing.faults.driving import two_writers, unwarmed_start
from lrtune.auditing.faults.trace import MUCH, VISIBLE, Called, Finding, Trace

FAR = 0.25
"""Fraction of the highest LR that a jump has at least."""


def resumed_elsewhere(trace: Trace) -> Finding | None:
    """Reports a scheduler that was resumed at another LR than its own past leads to."""
    scheduler, lead = trace.scheduler, trace.lead
    if scheduler is None or scheduler.due is None or not scheduler.attached:
        return None
    if not scheduler.made and (unwarmed_start(trace) or two_writers(trace)):
        return None  # which says it better
    has = trace.start_lrs[lead]
    return Finding(
        name="lr-jumps",
        severity="wrong",
        what=f"{scheduler.name} goes on after {scheduler.made} calls, at which its schedule has an "
        f"LR of {scheduler.due:.3g}, but the run begins at step 0 with {has:.3g}.",
        fix="Load the state of both, scheduler.load_state_dict() and optimizer.load_state_dict(), "
        "after the scheduler is built; last_epoch alone brings no LR back.",
        ran=trace.ran,
    )


def jumps_of_others(trace: Trace) -> Finding | None:
    """Reports a jump up of the LR that no call of a scheduler made, once one is called."""
    return None if trace.scheduler is None else _jump(trace, list(_jumps_of_others(trace)))


def breaks(trace: Trace) -> Finding | None:
    """Reports an LR that leaves a smooth course, where its writer is not known.

    It begins again from a middle height, or falls and then rises again.
    """
    return None if trace.scheduler is not None else _jump(trace, list(_breaks(trace)))


def _jump(trace: Trace, found: list[tuple[int, float, float]]) -> Finding | None:
    if not found:
        return None
    at, before, after = found[0]
    length = trace.steps_per_epoch
    each_epoch = len(found) > 1 and length is not None and all(not at % length for at, *_ in found)
    more = f" {len(found)} steps are such, each the first of an epoch." if each_epoch else ""
    return Finding(
        name="lr-jumps",
        severity="wrong" if each_epoch else "suspicious",
        what=f"The LR jumps from {before:.3g} at step {at - 1} to {after:.3g} at step {at}, "
        f"which the schedule does not explain.{more}",
        fix="Count the steps on through epochs and resumed runs, "
        "and load the states of optimizer and scheduler after both are built.",
        ran=trace.ran,
    )


def _jumps_of_others(trace: Trace) -> Iterator[tuple[int, float, float]]:
    """Yields the jumps up by code that is none of the schedulers, once those are called.

    A jump down is a milestone of the code that has taken over.
    """
    lead, step, last, by_call = trace.lead, 0, trace.start_lrs[trace.lead], 0.0
    called = False
    for event in trace.events:
        if isinstance(event, Called):
            by_call += event.after[lead] - event.before[lead]
            called = True
        elif not event.skipped:
            lr = event.lrs[lead]
            expected = last + by_call
            if called and step and lr > expected and _is_jump(expected, lr, trace.ran.max()):
                yield step, last, lr
            last, by_call, step = lr, 0.0, step + 1


def _breaks(trace: Trace) -> Iterator[tuple[int, float, float]]:
    """Yields the jumps of a curve whose writer is not known."""
    ran, top = trace.ran, trace.ran.max()
    moves = np.diff(ran)
    for at in np.flatnonzero(np.abs(moves) > FAR * top) + 1:
        before, after = ran[at - 1], ran[at]
        if not _is_jump(before, after, top) or at < 3 or at + 2 >= len(ran):
            continue
        fell_before = (moves[at - 3 : at - 1] < 0).all()
        rises_after, falls_after = moves[at] > 0 and moves[at + 1] > 0, moves[at] < 0
        begins_again = after > before > 0.1 * top and fell_before and falls_after
        if begins_again or (after < before and rises_after):
            yield int(at), float(before), float(after)


def _is_jump(before: float, after: float, top: float) -> bool:
    low, high = sorted((before, after))
    return high - low > FAR * top and high > MUCH * low


def drops_after_warmup(trace: Trace) -> Finding | None:
    """Reports a warmup that ends above the schedule that follows it, which is further on.

    So does timm's without `warmup_prefix`: the steps of the warmup are counted twice.
    """
    curve = trace.curve
    if trace.scheduler is None or trace.pace is None or len(curve) < 4 or trace.scheduler.rises:
        return None
    calls = min(trace.num_calls(trace.pace), len(curve) - 2)
    peak = int(np.argmax(curve[:calls])) if calls > 2 else 0
    drop, following = curve[peak] - curve[peak + 1], curve[peak + 1] - curve[min(peak + 2, calls)]
    rises = np.diff(curve[: peak + 1])
    if peak < 2 or peak >= calls - 2 or np.count_nonzero(rises > 0) < 0.5 * peak:
        return None
    if drop <= 5 * VISIBLE * curve[peak] or following > drop / 3:
        return None
    at = peak * (1 if trace.pace == "step" else trace.epoch_steps or 1)
    return Finding(
        name="lr-jumps",
        severity="suspicious",
        what=f"The warmup of {trace.scheduler.name} comes to {curve[peak]:.3g} at step {at}, and "
        f"the next LR is {curve[peak + 1]:.3g}: the schedule has gone on during the warmup.",
        fix="Let the schedule begin where the warmup ends: warmup_prefix=True in timm, "
        "SequentialLR in torch.",
        ran=trace.ran,
    )
