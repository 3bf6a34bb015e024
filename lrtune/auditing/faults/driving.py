"""Rules for how a training loop drives its scheduler.

They look at the order of the calls, their number, their arguments, and at other code that writes
the learning rate.
"""

import math
from itertools import pairwise

import numpy as np

from lrtune.auditing.faults.trace import (
    VISIBLE,
    Array,
    Called,
    Finding,
    Severity,
    Stepped,
    Trace,
    same,
)

SOME, MUCH = 1.1, 1.5
"""A ratio of two LRs that is off by `SOME` is visibly off; off by `MUCH`, it is another ratio."""


def never_changes(trace: Trace) -> Finding | None:
    """Reports a scheduler under which the LR is the same throughout."""
    scheduler, ran = trace.scheduler, trace.ran
    if (
        scheduler is None
        or scheduler.plateau
        or trace.num_steps < 2
        or np.ptp(trace.lrs, axis=1).any()
    ):
        return None
    if not trace.calls and trace.num_steps <= (trace.steps_per_epoch or 1):
        return None  # too early to tell
    by_epoch, by_step = trace.read("epoch"), trace.read("step")
    severity: Severity = "wrong"
    meant: Array | None = max((by_epoch, by_step), key=np.ptp)
    if not scheduler.attached:
        what = f"{scheduler.name} writes to another optimizer"
        fix = "Build the scheduler after the optimizer that is trained with, from that very object."
    elif not trace.calls:
        what = f"{scheduler.name} is never called"
        fix = (
            "Call scheduler.step() after optimizer.step(), or once an epoch (timm: step_update() "
            "does nothing unless t_in_epochs=False, and step() nothing then)."
        )
    elif np.ptp(by_step if trace.pace == "step" else by_epoch):
        return None  # only the beginning was seen
    elif np.ptp(scheduler.curve):
        first = int(np.argmax(scheduler.curve != scheduler.curve[0]))
        what = (
            f"{scheduler.name} changes it first after {first} calls, "
            f"and the run has {len(trace.calls)}"
        )
        fix = "Build the scheduler with the length of the run, in the unit in which it is called."
    else:
        what, fix = f"{scheduler.name} never changes it", "None, if a constant LR is meant."
        severity, meant = "suspicious", None
    what = f"The LR is {ran[0]:.3g} at all {trace.num_steps} optimizer steps: {what}."
    return Finding(
        name="never-changes", severity=severity, what=what, fix=fix, ran=ran, meant=meant
    )


def unwarmed_start(trace: Trace) -> Finding | None:
    """Reports a warmup that begins only after some steps at a high LR."""
    ran = trace.ran
    changes = np.flatnonzero(np.diff(ran))
    if not len(changes) or (trace.scheduler and trace.scheduler.rises):
        return None
    first = int(changes[0]) + 1
    peak = first + int(np.argmax(ran[first:]))
    rises = np.diff(ran[first : peak + 1])
    if (
        first > (trace.epoch_steps or 1)
        or ran[first] >= 0.5 * ran[0]
        or (rises < 0).any()
        or (rises > 0).sum() < 2
    ):
        return None
    steps = (
        "the first optimizer step runs" if first == 1 else f"the first {first} optimizer steps run"
    )
    return Finding(
        name="first-step-unwarmed",
        severity="wrong",
        what=f"The warmup begins too late: {steps} at an LR of {ran[0]:.3g}, "
        f"the next at {ran[first]:.3g}.",
        fix="Write the LR of a step before that step: the first one before the loop begins; "
        "and build the scheduler after loading the optimizer's state.",
        ran=ran,
        meant=np.append(ran[first:], np.full(first, ran[-1])),
    )


def late(trace: Trace) -> Finding | None:
    """Reports a scheduler that is given the number of the last step or epoch, not of the next."""
    positions = [call.position for call in trace.calls]
    if trace.scheduler is None or trace.pace is None or len(positions) < 2 or None in positions:
        return None
    unit = 1 if trace.pace == "step" else trace.epoch_steps or 1
    told = np.array([*positions], dtype=float)[trace.calls_before[trace.calls_before > 0] - 1]
    steps = np.arange(trace.num_steps)[trace.calls_before > 0]
    if not len(told) or not (told == steps // unit - 1).all() or not np.ptp(trace.ran):
        return None
    count = "num_updates" if trace.pace == "step" else "epoch"
    return Finding(
        name="one-step-late" if trace.pace == "step" else "one-epoch-late",
        severity="suspicious",
        what=f"{trace.scheduler.name} is told the {trace.pace} that has ended, "
        f"so each LR comes one {trace.pace} late, and the first one twice.",
        fix=f"Call it with {count} + 1 after the {trace.pace}: "
        "it wants the number of the one to come.",
        ran=trace.ran,
        meant=trace.read(trace.pace),
    )


def scheduler_first(trace: Trace) -> Finding | None:
    """Reports a loop that always calls `scheduler.step()` before `optimizer.step()`."""
    first, last = trace.events[0], trace.events[-1]
    if (
        trace.scheduler is None
        or trace.scheduler.plateau
        or not trace.pace
        or not isinstance(first, Called)
    ):
        return None
    if (
        first.position is not None
        or first.overflow
        or isinstance(last, Called)
        or first.before == first.after
    ):
        return None
    ran, lead = trace.ran, trace.lead
    return Finding(
        name="scheduler-before-optimizer",
        severity="wrong",
        what=f"{trace.scheduler.name} is called before the optimizer: its first LR, "
        f"{first.before[lead]:.3g}, is used by no step, and each LR comes one {trace.pace} early.",
        fix="Call optimizer.step() first and scheduler.step() after it.",
        ran=ran,
        meant=trace.read(trace.pace)[: len(ran)],
    )


def two_writers(trace: Trace) -> Finding | None:
    """Reports other code that writes the LR after the scheduler was first called."""
    if trace.scheduler is None or not trace.scheduler.attached:
        return None
    changed, num_overwritten = _writes_of_others(trace)
    if not changed and not num_overwritten:
        return None
    handed_over, meant = True, None
    if trace.pace and len(trace.curve):
        meant = trace.read(trace.pace)
        since = changed[-1] + 1 if changed else 0
        alone = trace.curve[np.minimum(trace.calls_before, len(trace.curve) - 1)]
        handed_over = same(trace.ran[since:], alone[since:])
    seen = []
    if changed:
        seen.append(
            f"other code changed the LR before {len(changed)} steps "
            f"(the first of them step {changed[0]})"
        )
    if num_overwritten:
        seen.append(
            f"{num_overwritten} values that other code wrote were overwritten "
            "before any step used them"
        )
    return Finding(
        name="two-writers",
        severity="suspicious" if handed_over and not num_overwritten else "wrong",
        what=f"{trace.scheduler.name} is not alone in writing the LR: {', and '.join(seen)}.",
        fix="Let one mechanism write it: put the warmup into the schedule "
        "(torch: SequentialLR or one LambdaLR; "
        "ChainedScheduler for two that are to be multiplied).",
        ran=trace.ran,
        meant=meant,
    )


def _writes_of_others(trace: Trace) -> tuple[list[int], int]:
    """Returns the steps whose LR other code wrote, and the number of LRs that were overwritten.

    An LR is by other code if it changed between two events. The number counts such LRs that the
    scheduler replaced before any step used them. A warmup by hand that is over before the scheduler
    is first called is not counted.
    """
    last_lrs, step, called = trace.start_lrs, 0, False
    changed: list[int] = []
    num_overwritten = 0
    for event in trace.events:
        if isinstance(event, Called):
            is_by_others = _differ(event.before, last_lrs)
            num_overwritten += is_by_others and _differ(event.after, event.before)
            last_lrs, called = event.after, True
        else:
            if called and _differ(event.lrs, last_lrs):
                changed.append(step)
            last_lrs = event.lrs
            step += not event.skipped
    return changed, num_overwritten


def _differ(lrs: tuple[float, ...], others: tuple[float, ...]) -> bool:
    """Compares the LRs of two moments; NaN is the same as NaN."""
    return not np.array_equal(lrs, others, equal_nan=True)


def group_ratio_lost(trace: Trace) -> Finding | None:
    """Reports parameter groups whose LRs do not keep the ratio they began with."""
    if trace.scheduler is not None and trace.scheduler.splits_groups:
        return None
    base = np.array(trace.base_lrs)
    used = np.flatnonzero(base > 0)
    lead = trace.ran
    alive = lead > 0
    if len(used) < 2 or not alive.any():
        return None
    meant = lead * base[used, None] / base[trace.lead]  # (groups, steps)
    with np.errstate(divide="ignore"):  # of an LR of 0: infinitely far off
        off = np.abs(np.log(np.maximum(trace.lrs[used][:, alive], 0) / meant[:, alive]))
    shares = (off > math.log(SOME)).mean(axis=1)
    worst = int(np.argmax(shares))
    if shares[worst] == 0:
        return None
    group = int(used[worst])
    at = int(np.flatnonzero(alive)[np.argmax(off[worst])])
    ratio = base[group] / base[trace.lead]
    return Finding(
        name="group-ratio-lost",
        severity="wrong" if (off[worst] > math.log(MUCH)).mean() > 0.5 else "suspicious",
        what=f"Parameter group {group} begins with {ratio:.3g} times the LR of group {trace.lead}, "
        f"but has not that at {shares[worst]:.0%} of the steps "
        f"(step {at}: {trace.lrs[group, at]:.3g} beside {lead[at]:.3g}).",
        fix='Write group["initial_lr"] * multiplier to each group; '
        "of a floor (eta_min, min_lr) or a max_lr, give one a group.",
        ran=trace.lrs[group],
        meant=meant[worst],
    )


def skipped_steps_counted(trace: Trace) -> Finding | None:
    """Reports a scheduler that is called for steps that a gradient scaler skipped."""
    if trace.scheduler is None or trace.scheduler.plateau or trace.pace != "step":
        return None
    if any(call.position is not None for call in trace.calls):
        return None
    num_proven, num_likely = _calls_without_a_step(trace)
    count = num_proven + num_likely
    if not count:
        return None
    why = (
        "that a gradient scaler skipped"
        if num_proven
        else "that were not made, skipped by a scaler, perhaps"
    )
    return Finding(
        name="skipped-steps-counted",
        severity="wrong" if num_proven and count > VISIBLE * trace.total_steps else "suspicious",
        what=f"{trace.scheduler.name} counted {count} steps {why}; "
        f"{trace.num_steps} were made, so it is ahead.",
        fix="Call scheduler.step() only if the step was made: "
        "`scale = scaler.get_scale(); scaler.step(optimizer); scaler.update()`, "
        "then `if scaler.get_scale() >= scale: scheduler.step()`.",
        ran=trace.ran,
        meant=trace.read("step")[: trace.num_steps],
    )


def _calls_without_a_step(trace: Trace) -> tuple[int, int]:
    """Counts the calls after a skipped step, and the calls with no step since the call before."""
    num_proven = num_likely = 0
    for before, event in pairwise((None, *trace.events)):
        if isinstance(event, Called):
            proven = event.overflow or (isinstance(before, Stepped) and before.skipped)
            num_proven += proven
            num_likely += isinstance(before, Called) and not proven
    return num_proven, num_likely


def called_too_often(trace: Trace) -> Finding | None:
    """Reports a scheduler that is called several times an optimizer step."""
    num_calls = len(trace.calls) - sum(call.overflow for call in trace.calls)
    times = num_calls / trace.num_steps
    if trace.scheduler is None or trace.scheduler.plateau or times <= 1.5 or num_calls <= 3:
        return None
    return Finding(
        name="called-too-often",
        severity="wrong",
        what=f"{trace.scheduler.name} is called {num_calls} times for {trace.num_steps} "
        f"optimizer steps, {times:.2g} times a step.",
        fix="Call scheduler.step() where the optimizer steps: "
        "not for each micro-batch of an accumulation, nor for each device.",
        ran=trace.ran,
        meant=trace.read("step"),
    )


def plateau_without_metric(trace: Trace) -> Finding | None:
    """Reports a plateau scheduler that is not called, or gets no metric; NaN is no metric."""
    if trace.scheduler is None or not trace.scheduler.plateau:
        return None
    name = trace.scheduler.name
    metrics = [math.nan if call.metric is None else call.metric for call in trace.calls]
    num_missing = sum(map(math.isnan, metrics))
    severity: Severity = "wrong"
    if not trace.calls:
        if trace.num_steps <= (trace.steps_per_epoch or 1):
            return None
        what = (
            f"{name} is never called in {trace.num_steps} optimizer steps, so the LR cannot fall."
        )
    elif num_missing > 0.5 * len(metrics):
        what = (
            f"{name} was called {len(metrics)} times, "
            f"{num_missing} of them without a metric or with NaN."
        )
    elif len(metrics) >= 3 and len(set(metrics)) == 1:
        what, severity = (
            f"{name} was given {metrics[0]:.4g} at each of {len(metrics)} calls.",
            "suspicious",
        )
    else:
        return None
    return Finding(
        name="plateau-without-metric",
        severity=severity,
        what=what,
        fix="Call scheduler.step(metric) after each validation, with the number just measured "
        '(Lightning: log what "monitor" names, in every epoch; timm: step(epoch + 1, metric)).',
        ran=trace.ran,
    )
