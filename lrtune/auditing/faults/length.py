"""Rules that compare the length of a scheduler's curve with the number of calls in the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lrtune.auditing.faults.driving import unwarmed_start
from lrtune.auditing.faults.trace import (
    VISIBLE,
    Array,
    Called,
    Finding,
    Pace,
    Severity,
    Stepped,
    Trace,
)

NEAR = 0.05
"""Two lengths count as equal within this fraction, and two LRs within this fraction of the peak."""
NOTHING = 1e-6
"""An LR of at most this fraction of its peak counts as 0."""


def wrong_length(trace: Trace) -> Finding | None:
    """Reports a scheduler whose length, in calls, is not that of the run.

    Several rules may hold; the finding is that of the first in `RULES`. A run that was resumed is
    right if one of the lengths that it may have is right.
    """
    if trace.pace is None or not len(trace.curve) or trace.curve.max() <= 0:
        return None
    if (trace.scheduler is not None and not trace.scheduler.attached) or unwarmed_start(trace):
        return None  # that says it all
    if not trace.is_cut and (too_often := _called_too_often(trace)) is not None:
        return too_often
    rules = HAPPENED if trace.is_cut else RULES
    findings = [_first_finding(_Fit(trace=run, pace=trace.pace), rules) for run in trace.lengths]
    return None if None in findings else findings[-1]


def _first_finding(fit: "_Fit", rules: "Sequence[Rule]") -> Finding | None:
    return next((finding for rule in rules if (finding := rule(fit)) is not None), None)


def _called_too_often(trace: Trace) -> Finding | None:
    """Reports calls that are several a step where one a step would be right."""
    times, scheduler, pace = trace.calls_at_once, trace.scheduler, trace.pace
    if times == 1 or scheduler is None or pace is None or not len(scheduler.curve):
        return None
    often = _Fit(trace=trace, pace=pace)
    once = _Fit(trace=replace(trace, events=_once(trace)), pace=pace)
    is_over = often.shape.end is not None and often.shape.end <= 0.9 * often.calls
    if not (_first_finding(often, RULES) or is_over) or _first_finding(once, RULES) is not None:
        return None
    if is_over and not _near(once.shape.end or 0, once.calls):
        return None
    ran, meant = trace.ran, once.trace.read(pace)
    unit = f"a{'n epoch' if pace == 'epoch' else ' step'}"
    at = int(np.argmax(np.abs(ran - meant[: len(ran)])))
    return Finding(
        name="called-too-often",
        severity="wrong",
        what=f"{scheduler.name} is called {len(trace.calls)} times for {trace.num_steps} optimizer "
        f"steps, {times:.2g} times {unit}, and is as long as one call {unit} would make it: the LR "
        f"of step {at} is {ran[at]:.3g}, and {meant[at]:.3g} is due.",
        fix="Call scheduler.step() where the optimizer steps: "
        "not for each micro-batch of an accumulation, nor for each device.",
        ran=ran,
        meant=meant,
    )


def _once(trace: Trace) -> tuple[Stepped | Called, ...]:
    """Leaves out the calls that are followed by another call before the next step."""
    return tuple(
        event
        for event, following in zip(trace.events, (*trace.events[1:], None), strict=True)
        if not trace.is_call(event) or following is None or not trace.is_call(following)
    )


class Shape(NamedTuple):
    """The landmarks of a curve, in calls of the scheduler."""

    peak: int
    """Calls until the LR is highest before it first falls."""
    end: int | None = None
    """Calls until the decay is over; `None`: the curve shows no end."""
    turns_up: bool = False
    """From its end on the curve rises, little by little."""
    fades: bool = False
    """The curve nears its end ever more slowly, so that no call is the last."""
    raises: bool = False
    """The call after its end raises."""
    restart: int | None = None
    """Calls until one call first brings the LR back up."""


def shape_of(curve: Array, *, rises: bool = False, raises: bool = False) -> Shape:
    """Finds the peak, the end and the restart of a curve.

    Args:
        curve: LR after 0, 1, 2, ... calls, shape (calls + 1,); the highest must be above 0.
        rises: it goes up and down by design, so that nothing can be told from where it turns.
        raises: the call after the last one of the curve raised.
    """
    top = curve.max()
    highest = np.maximum.accumulate(curve)
    falls = highest - curve > VISIBLE * top
    until = int(np.argmax(falls)) if falls.any() else len(curve) - 1
    peak = int(np.argmax(curve >= highest[until] * (1 - 1e-9)))
    if rises:
        return Shape(peak)
    turn, restart = _turns(curve[peak:], VISIBLE * top)
    if turn is not None:
        return Shape(peak, peak + turn, turns_up=True)
    if raises:
        return Shape(peak, len(curve) - 1, raises=True)
    if restart is not None:
        return Shape(peak, restart=peak + restart)
    if curve[-1] < -NOTHING * top:
        return Shape(peak, int(np.argmax(curve < -NOTHING * top)) - 1)
    moving = np.flatnonzero(np.abs(curve - curve[-1]) > NOTHING * top)
    end = int(moving[-1]) + 1 if len(moving) else 0
    if curve[-1] > top * (1 - NOTHING) or end > 0.9 * len(curve):
        return Shape(peak)  # no decay, or one that is still going on
    last_tenth = curve[peak + int(0.9 * (end - peak))] - curve[end]
    return Shape(peak, end, fades=bool(last_tenth < 1e-3 * top))


def _turns(decay: Array, least: float) -> tuple[int | None, int | None]:
    """Finds where a curve turns up again after its peak, and where it restarts before that.

    Both are calls after the peak, or `None`. A rise of at most `least` counts as neither.
    """
    # rising[k]: from decay[k - 1] to decay[k]
    rising = np.concatenate(([0], np.diff(decay) > 1e-9 * decay[0], [0])).astype(int)
    edges = np.diff(rising)
    restart = None
    for begin, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        rise = decay[end] - decay[begin]
        if rise <= least:
            continue
        if np.diff(decay[begin : end + 1]).max() < 0.9 * rise:
            return int(begin), restart
        restart = restart or int(end)
    return None, restart


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A curve and the run whose length it should have."""

    trace: Trace
    pace: Pace

    @cached_property
    def shape(self) -> Shape:
        scheduler = self.trace.scheduler
        if scheduler is None:
            return shape_of(self.curve)
        return shape_of(self.curve, rises=scheduler.rises, raises=bool(scheduler.error))

    @property
    def curve(self) -> Array:
        return self.trace.curve

    @cached_property
    def calls(self) -> int:
        """Calls of the scheduler in the whole run."""
        return self.trace.num_calls(self.pace)

    @property
    def steps_per_epoch(self) -> int:
        return self.trace.epoch_steps or 1

    @property
    def top(self) -> float:
        return float(self.curve.max())

    @cached_property
    def never_warm(self) -> bool:
        """Whether the run ends within a warmup.

        Only a rise that is gradual and comes to its end is known to be one.
        """
        peak = self.shape.peak
        if self.trace.handed_over is not None or self.trace.idle_steps:
            return False  # it is one of several, and the others may do the rest
        rises = int(np.count_nonzero(np.diff(self.curve[: peak + 1]) > 0))
        return self.calls <= peak <= 0.5 * len(self.curve) and rises >= 0.5 * peak

    @property
    def last(self) -> float:
        """LR of the run's last step."""
        return float(self.curve[min(self.calls, len(self.curve)) - 1])

    @property
    def is_over(self) -> bool:
        """Whether there is nothing good to come after the curve's end."""
        end = self.shape.end
        return end is not None and (
            self.shape.turns_up or self.shape.raises or bool(self.curve[end] <= NOTHING * self.top)
        )

    @property
    def name(self) -> str:
        return self.trace.scheduler.name if self.trace.scheduler else "The schedule"

    def right_at(self, pace: Pace) -> Array | None:
        """Returns the LRs of the run at another pace; `None` where they would be wrong as well."""
        other = _Fit(trace=self.trace, pace=pace)
        return self.trace.read(pace) if not _first_finding(other, WRONG_AT_ANY_PACE) else None

    def finding(
        self, name: str, severity: Severity, what: str, fix: str = "", meant: Array | None = None
    ) -> Finding:
        """Builds a finding; by default the same curve, stretched to the run, was meant."""
        if meant is None and self.shape.end:
            meant = self.trace.read(self.pace, stretch=self.calls / self.shape.end)
        fix = fix or (
            f"Build the scheduler with the length of the run: {self.calls} calls, "
            "the warmup among them."
        )
        return Finding(
            name=name,
            severity=severity,
            what=what,
            fix=fix,
            ran=self.trace.ran if self.trace.has_ended else self.trace.read(self.pace),
            meant=meant,
        )

    def length(self, end: int) -> str:
        unit = "an optimizer step" if self.pace == "step" else "an epoch"
        return f"{self.name} is {end} calls long, and the run has {self.calls} (one {unit})"


def _counted_in_steps(fit: _Fit) -> Finding | None:
    trace, peak, end = fit.trace, fit.shape.peak, fit.shape.end
    if fit.pace == "step" or fit.steps_per_epoch == 1:
        return None
    never_warm = fit.never_warm and peak <= trace.total_steps
    warm_too_late = trace.warmup_steps is not None and abs(peak - trace.warmup_steps) <= 1 < peak
    as_long = end is not None and not fit.shape.fades and _near(end, trace.total_steps)
    if not (never_warm or warm_too_late or as_long):
        return None
    length = f"warmup takes {peak} calls" if peak > 1 else f"decay takes {end} calls"
    outcome = (
        f"comes to {fit.last / fit.top:.2g} of its peak"
        if never_warm
        else f"ends at {fit.last:.3g}"
    )
    by_step = fit.right_at("step")
    fix = (
        "Call scheduler.step() after every optimizer step "
        '(Lightning: "interval": "step" in the dictionary that configure_optimizers returns), '
        "or build the scheduler with epochs."
    )
    return fit.finding(
        "warmup-once-an-epoch" if peak > 1 else "decay-once-an-epoch",
        "wrong",
        f"{fit.name} is called once an epoch, but counts optimizer steps: its {length}, "
        f"the run has {fit.calls} epochs of {fit.steps_per_epoch} steps, and the LR {outcome}.",
        "" if by_step is None else fix,
        by_step,
    )


def _counted_in_epochs(fit: _Fit) -> Finding | None:
    shape, epochs = fit.shape, fit.calls / fit.steps_per_epoch
    if fit.pace == "epoch" or fit.steps_per_epoch == 1 or epochs <= 1:
        return None
    meant = fit.right_at("epoch")
    fix = (
        "Call scheduler.step() once an epoch, or build the scheduler with steps "
        f"(T_max, total_steps, milestones times {fit.steps_per_epoch})."
    )
    if shape.restart is not None and shape.restart < min(fit.steps_per_epoch, epochs):
        what = (
            f"{fit.name} is called once an optimizer step and restarts first at step "
            f"{shape.restart}, within the first epoch of {fit.steps_per_epoch} steps."
        )
        return fit.finding(
            "counted-in-epochs",
            "suspicious",
            what,
            f"If its cycle is meant in epochs: {fix}",
            meant,
        )
    if shape.end is None or shape.end > 0.9 * fit.calls:
        return None
    as_long = fit.is_over and _near(shape.end, epochs)
    at_once = 1 < shape.end <= min(0.1 * fit.calls, epochs + 1)
    if not as_long and not at_once and not (shape.fades and shape.end <= 0.25 * fit.calls):
        return None
    what = (
        f"{fit.name} is called once an optimizer step, but counts epochs: "
        f"its decay is over at step {shape.end} of {fit.calls} "
        f"(epoch {shape.end / fit.steps_per_epoch:.2g} of {epochs:g})"
    )
    what += ", and the next call raises." if shape.raises else "."
    return fit.finding("counted-in-epochs", "wrong", what, "" if meant is None else fix, meant)


def _told_in_other_units(fit: _Fit) -> Finding | None:
    scheduler, end = fit.trace.scheduler, fit.shape.end
    if scheduler is None or fit.pace != "step" or end is None:
        return None
    if not _near(end * scheduler.rate, fit.calls) or 0.75 <= scheduler.rate <= 1.5:
        return None
    told = f"{fit.name} is told positions that rise by {scheduler.rate:.3g} a step, so its decay"
    if scheduler.rate > 1:
        return fit.finding(
            "told-too-fast",
            "wrong",
            f"{told} is over at step {end} of {fit.calls}, at an LR of {fit.curve[end]:.3g}.",
            "Tell it the number of the optimizer step, not that of the micro-batch.",
        )
    return fit.finding(
        "told-too-slowly",
        "wrong",
        f"{told} takes {end} steps and the run has {fit.calls}: the LR ends at {fit.last:.3g}.",
        "Tell it the number of the optimizer step, not that of the epoch.",
    )


def _raises(fit: _Fit) -> Finding | None:
    end, scheduler = fit.shape.end, fit.trace.scheduler
    if scheduler is None or end is None or not fit.shape.raises or end >= fit.calls - 1:
        return None
    return fit.finding(
        "scheduler-raises", "wrong", f"{fit.length(end)}: the next call raises ({scheduler.error})."
    )


def _turns_negative(fit: _Fit) -> Finding | None:
    end, lowest = fit.shape.end, float(fit.curve[: fit.calls].min())
    if end is None or lowest >= 0:
        return None
    return fit.finding(
        "turns-negative", "wrong", f"{fit.length(end)}, so the LR falls to {lowest:.3g}."
    )


def _turns_up(fit: _Fit) -> Finding | None:
    end = fit.shape.end
    if end is None or not fit.shape.turns_up or end >= fit.calls - 1:
        return None
    low = float(fit.curve[end])
    if fit.curve[end : fit.calls].max() - low <= VISIBLE * fit.top:
        return None
    ends_low = fit.last - low <= NEAR * fit.top
    return fit.finding(
        "turns-up-again",
        "suspicious" if ends_low else "wrong",  # waves that end low may be meant
        f"{fit.length(end)}: the LR is down at {low:.3g} after {end} calls, "
        f"turns up again and ends at {fit.last:.3g}.",
    )


def _ends_early(fit: _Fit) -> Finding | None:
    alive = np.flatnonzero(fit.curve[: fit.calls] > NOTHING * fit.top)
    end = int(alive[-1]) + 1 if len(alive) else fit.calls
    if end > 0.9 * fit.calls or end >= fit.calls - 1:
        return None
    return fit.finding(
        "ends-early",
        "suspicious",
        f"{fit.length(end)}: its last {1 - end / fit.calls:.0%} have an LR of 0.",
    )


def _cut_short(fit: _Fit) -> Finding | None:
    peak, end = fit.shape.peak, fit.shape.end
    if fit.trace.handed_over is not None:  # it was not meant to come to its end
        return None
    if fit.never_warm:
        return fit.finding(
            "cut-short",
            "wrong",
            f"The warmup of {fit.name} takes {peak} calls, and the run has {fit.calls}: "
            f"the LR comes to {fit.last / fit.top:.2g} of its peak.",
        )
    restart = fit.shape.restart
    if restart is not None and 1 < fit.calls < restart and fit.last > 0.5 * fit.top:
        return fit.finding(
            "cut-short",
            "suspicious",
            f"The first cycle of {fit.name} takes {restart} calls, and the run has {fit.calls}: "
            f"the LR ends at {fit.last / fit.top:.2g} of its peak.",
        )
    if (
        end is None
        or end <= fit.calls
        or fit.shape.fades
        or fit.last - fit.curve[end] <= NEAR * fit.top
    ):
        return None
    what = f"{fit.length(end)}: the LR ends at {fit.last / fit.top:.2g} of its peak."
    finding = fit.finding("cut-short", "suspicious", what)
    times = round(end / fit.calls)
    if times == 1 or fit.pace == "epoch" or not _near(end / times, fit.calls):
        return finding
    hint = (
        f" It is {times} times too long: "
        "does it count the micro-batches of an accumulation, or devices?"
    )
    return replace(finding, fix=finding.fix + hint)


Rule = Callable[[_Fit], Finding | None]
HAPPENED: tuple[Rule, ...] = (_raises, _turns_negative, _turns_up, _ends_early)
"""What has gone wrong by now is wrong however long the run."""
WRONG_AT_ANY_PACE: tuple[Rule, ...] = (*HAPPENED, _cut_short)
RULES: tuple[Rule, ...] = (
    _told_in_other_units,
    _counted_in_steps,
    _counted_in_epochs,
    *WRONG_AT_ANY_PACE,
)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= max(1, NEAR * b)
