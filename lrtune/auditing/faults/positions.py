"""Rules for the steps or epochs that a training loop tells its scheduler.

The schedulers of timm are told all of them; torch's `CosineAnnealingWarmRestarts` may be told a
fraction of an epoch.
"""

import numpy as np

from lrtune.auditing.faults.trace import VISIBLE, Finding, Trace


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


def begins_again(trace: Trace) -> Finding | None:
    """Reports positions that fall back, as the index of a batch does with each epoch."""
    told = [call.position for call in trace.calls if call.position is not None]
    backs = [index for index in range(1, len(told)) if told[index] < told[index - 1]]
    if trace.scheduler is None or trace.pace is None or not backs:
        return None
    meant = trace.read(trace.pace)[: trace.num_steps]
    off = np.abs(trace.ran[: len(meant)] - meant)
    if off.max() <= VISIBLE * trace.curve.max():
        return None
    at = int(np.argmax(off))
    times = "once" if len(backs) == 1 else f"{len(backs)} times"
    return Finding(
        name="positions-begin-again",
        severity="suspicious" if len(backs) == 1 else "wrong",
        what=f"{trace.scheduler.name} is told positions that fall back {times}, first from "
        f"{told[backs[0] - 1]:g} to {told[backs[0]]:g}, so its schedule begins again: the LR of "
        f"step {at} is {trace.ran[at]:.3g}, and {meant[at]:.3g} is due.",
        fix="Tell it a number that counts on through all epochs: "
        "epoch * steps_per_epoch + index + 1 after each step.",
        ran=trace.ran,
        meant=meant,
    )
