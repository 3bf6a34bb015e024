"""Rules for how a training loop drives its scheduler.

They look at the order of the calls, their number, their arguments, and at other code that writes
the learning rate.
"""

import math
from itertools import pairwise

import numpy as np

from lrtune.auditing.faults.trace import (
    MUCH,
    SOME,
    VISIBLE,
    WRONG,
    Called,
    Finding,
    Stepped,
    Trace,
    same,
)


def raised(trace: Trace) -> Finding | None:
    """Reports a call of the scheduler that raised."""
    count = next((count for count, call in enumerate(trace.calls, start=1) if call.error), None)
    if trace.scheduler is None or count is None:
        return None
    return Finding(
        name="scheduler-raises",
        severity="wrong",
        what=f"{trace.scheduler.name} raised at its call {count}, after "
        f"{int(trace.called_at[count - 1])} steps: {trace.calls[count - 1].error}",
        fix="Build the scheduler with the length of the run, or call it no more than that.",
        ran=trace.ran,
    )


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
    if trace.is_cut or (not trace.calls and trace.num_steps <= (trace.steps_per_epoch or 1)):
        return None  # too early to tell
    by_epoch, by_step = trace.read("epoch"), trace.read("step")
    meant, severity = max((by_epoch, by_step), key=np.ptp), WRONG
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
    elif trace.pace and trace.num_calls(trace.pace) - scheduler.begin <= 1:
        return None  # its first call ends the run
    elif not np.ptp(to_come := scheduler.curve[scheduler.begin :]):
        return None  # constant by design
    elif scheduler.made:
        return None  # what it does was done before
    else:
        severity = "suspicious"  # of a run that is short for once
        first = int(np.argmax(to_come != to_come[0]))
        what = (
            f"{scheduler.name} changes it first after {first} calls, "
            f"and the run has {len(trace.calls)}"
        )
        fix = "Build the scheduler with the length of the run, in the unit in which it is called."
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
    if first.position is not None or first.overflow or isinstance(last, Called):
        return None
    ran, meant, lead = trace.ran, trace.read(trace.pace), trace.lead
    if same(ran, meant):
        return None
    skipped = (
        f"its first LR, {first.before[lead]:.3g}, is used by no step, and "
        if first.before != first.after
        else ""
    )
    return Finding(
        name="scheduler-before-optimizer",
        severity="wrong",
        what=f"{trace.scheduler.name} is called before the optimizer: {skipped}each LR comes one "
        f"{trace.pace} early.",
        fix="Call optimizer.step() first and scheduler.step() after it.",
        ran=ran,
        meant=meant[: len(ran)],
    )


def two_writers(trace: Trace) -> Finding | None:
    """Reports other code that writes the LR while the scheduler is called.

    Code that writes it only before the scheduler is first called, or after its last call, has
    handed over to it, or taken over from it.
    """
    if trace.scheduler is None or not trace.scheduler.attached or _is_undisturbed(trace):
        return None
    changed, num_overwritten = _writes_of_others(trace)
    if not changed and not num_overwritten:
        return None
    alone, meant = True, None
    if trace.pace and len(trace.curve):
        meant = trace.read(trace.pace)
        since = changed[-1] + 1 if changed else 0
        calls = trace.scheduler.begin + trace.calls_before
        curve = trace.scheduler.curve
        own = curve[np.minimum(calls, len(curve) - 1)]
        alone = same(trace.ran[since:], own[since:])
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
        severity="suspicious" if alone and not num_overwritten else "wrong",
        what=f"{trace.scheduler.name} is not alone in writing the LR: {', and '.join(seen)}.",
        fix="Let one mechanism write it: join the warmup to the schedule (torch: SequentialLR), "
        "or give one LambdaLR a function that returns the product of both multipliers.",
        ran=trace.ran,
        meant=meant,
    )


def _is_undisturbed(trace: Trace) -> bool:
    """Tells whether every call finds the LR that the scheduler would have alone.

    So it is where other code, such as a warmup that dampens, takes its factor off before each call.
    """
    scheduler = trace.scheduler
    assert scheduler is not None
    curve, calls = scheduler.curve, scheduler.begin + np.arange(len(trace.calls))
    if not len(calls) or calls[-1] >= len(curve):
        return False
    found = np.array([call.before[trace.lead] for call in trace.calls])
    return bool(np.allclose(found, curve[calls], rtol=1e-6, atol=1e-12))


def _writes_of_others(trace: Trace) -> tuple[list[int], int]:
    """Returns the steps whose LR other code wrote, and the number of LRs that were overwritten.

    An LR is by other code if it changed between two events. The number counts such LRs that a
    scheduler replaced before any step used them. The steps are those between the first call of the
    scheduler and its last one.
    """
    last_lrs, step, num_calls = trace.start_lrs, 0, 0
    changed: list[int] = []
    num_overwritten = 0
    for event in trace.events:
        if isinstance(event, Called):
            is_by_others = _differ(event.before, last_lrs)
            num_overwritten += is_by_others and _differ(event.after, event.before)
            last_lrs = event.after
            num_calls += trace.is_call(event)
        else:
            if 0 < num_calls < len(trace.calls) and _differ(event.lrs, last_lrs):
                changed.append(step)
            last_lrs = event.lrs
            step += not event.skipped
    return changed, num_overwritten


def no_product(trace: Trace) -> Finding | None:
    """Reports a scheduler that overwrites the LR where it should multiply it."""
    scheduler, meant = trace.scheduler, trace.product
    if scheduler is None or meant is None or same(trace.ran, meant):
        return None
    at = int(np.argmax(np.abs(trace.ran - meant)))
    return Finding(
        name="no-product",
        severity="wrong",
        what="The LR is not the product of the schedulers, since one of them writes it without "
        f"regard to the others: at step {at} it is {trace.ran[at]:.3g}, and the product is "
        f"{meant[at]:.3g}.",
        fix="Give one LambdaLR a function that returns the product of all multipliers. (A LambdaLR "
        "cannot be chained; LinearLR, ConstantLR and CosineAnnealingLR can.)",
        ran=trace.ran,
        meant=meant,
    )


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
    if trace.calls_at_once > 1:
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
        if isinstance(event, Called) and trace.is_call(event):
            proven = event.overflow or (isinstance(before, Stepped) and before.skipped)
            num_proven += proven
            num_likely += before is not None and trace.is_call(before) and not proven
    return num_proven, num_likely
