"""The data of the rules: the trace of a run's learning rates, and a finding."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pace = Literal["step", "epoch"]
Severity = Literal["wrong", "suspicious"]
WRONG: Severity = "wrong"

VISIBLE = 0.01
"""Two curves differ if they are further apart than this fraction of the peak LR."""
SOME, MUCH = 1.1, 1.5
"""A ratio of two LRs that is off by `SOME` is visibly off; off by `MUCH`, it is another ratio."""


class Stepped(NamedTuple):
    """The optimizer was called."""

    lrs: tuple[float, ...]
    """LR of each parameter group."""
    skipped: bool = False
    """The optimizer, a fused one, skipped the step."""


class Called(NamedTuple):
    """The scheduler was called."""

    before: tuple[float, ...]
    """LR of each parameter group before the call."""
    after: tuple[float, ...]
    position: float | None = None
    """Step or epoch passed to the scheduler (timm); `None`: it counts its calls (torch)."""
    metric: float | None = None
    """Metric passed to a plateau scheduler; NaN or `None`: no metric."""
    overflow: bool = False
    """A gradient scaler skipped the step: there was no optimizer step since the call before, and
    the gradients are not finite."""
    by: int = 0
    """Index of the scheduler among those of the run."""
    error: str = ""
    """What the call raised."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheduler:
    """The facts about a scheduler of any library."""

    name: str
    curve: Array
    """LR of the leading parameter group after 0, 1, 2, ... calls, shape (calls + 1,); empty for a
    plateau. The calls are such as the loop makes: where it tells positions, they rise as there."""
    error: str = ""
    """The error of the call after the last one of the curve."""
    attached: bool = True
    """The scheduler writes to the optimizer of the run."""
    made: int = 0
    """Calls that had been made when the run began, as where it was resumed."""
    begin: int = 0
    """Where the run begins on the curve: `made` where its past is known, else 0."""
    due: float | None = None
    """LR that the scheduler's own past leads to, where the run begins with another one."""
    rate: float = 1.0
    """By how much the position that it is told rises from call to call."""
    multipliers: Array | None = None
    """What it multiplies the base LR by after 0, 1, 2, ... calls from its own beginning, where its
    product with others is to be looked at; that of a `ChainedScheduler` is of its parts."""
    patience: int | None = None
    """Of a plateau, in calls; `None`: it is no plateau."""
    mode: str | None = None
    """Of a plateau: min or max."""
    rises: bool = False
    """The LR goes up and down by design."""
    splits_groups: bool = False
    """Each parameter group has a rule of its own."""

    @property
    def plateau(self) -> bool:
        """It waits for a metric."""
        return self.patience is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """One thing that is wrong with the learning rates, or may be."""

    name: str
    severity: Severity
    what: str
    """One sentence, with the numbers."""
    fix: str
    ran: Array = field(repr=False)
    """LR at each optimizer step of the parameter group that shows it best, shape (steps,)."""
    meant: Array | None = field(default=None, repr=False)
    """The LRs that were probably meant instead; `None`: not known."""

    def in_words(self) -> dict[str, str]:
        """Returns what is said of it, without the curves."""
        return {"name": self.name, "severity": self.severity, "what": self.what, "fix": self.fix}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """The events of a run that have to do with its learning rates, and the facts about the run."""

    events: tuple[Stepped | Called, ...]
    """The events in their order; at least one is an optimizer step."""
    start_lrs: tuple[float, ...]
    """LR of each parameter group before the first event."""
    base_lrs: tuple[float, ...]
    """LR of each parameter group before any schedule."""
    scheduler: Scheduler | None
    """The run's scheduler; `None`: it was not shown, so it is not known what writes the LR."""
    steps_per_epoch: int | None = None
    """Optimizer steps in an epoch; `None`: not known."""
    length: int | None = None
    """Optimizer steps of the run, which may be more than the events cover; `None`: the events are
    all."""
    is_cut: bool = False
    """The run would have gone on, so that nothing can be told of its length."""
    warmup_steps: int | None = None
    """Calls of the scheduler that were meant as its warmup; `None`: not known."""
    meant: Array | None = None
    """LR of the leading group at each step as it was meant."""
    by: int = 0
    """Index of the scheduler among those of the run."""
    product: Array | None = None
    """LR at each optimizer step as the product of all schedulers that multiply, shape (steps,)."""

    @property
    def lead(self) -> int:
        """The parameter group that stands for all: the one with the highest base LR."""
        return int(np.argmax(self.base_lrs))

    @cached_property
    def lrs(self) -> Array:
        """LR at each real optimizer step, shape (groups, steps)."""
        steps = [
            event.lrs for event in self.events if isinstance(event, Stepped) and not event.skipped
        ]
        return np.array(steps, dtype=np.float64).T

    @property
    def num_steps(self) -> int:
        """Real optimizer steps among the events."""
        return int(self.lrs.shape[1])

    @property
    def ran(self) -> Array:
        """LR of the leading group at each real optimizer step, shape (steps,)."""
        lead: Array = self.lrs[self.lead]
        return lead

    def is_call(self, event: Stepped | Called) -> bool:
        """Tells whether an event is a call of this scheduler, not of another one of the run."""
        return isinstance(event, Called) and event.by == self.by

    @cached_property
    def calls(self) -> tuple[Called, ...]:
        """The calls of the scheduler."""
        return tuple(e for e in self.events if isinstance(e, Called) and e.by == self.by)

    @cached_property
    def calls_before(self) -> NDArray[np.int64]:
        """Calls of the scheduler before each real optimizer step, shape (steps,)."""
        counts = np.cumsum([self.is_call(event) for event in self.events])
        return counts[[isinstance(event, Stepped) and not event.skipped for event in self.events]]

    @cached_property
    def steps_before_first_call(self) -> int:
        """Optimizer steps that were made before the scheduler was first called."""
        return int((self.calls_before == 0).sum())

    @cached_property
    def called_at(self) -> NDArray[np.int64]:
        """Optimizer steps that were made before each call, shape (calls,)."""
        return np.searchsorted(self.calls_before, np.arange(1, len(self.calls) + 1))

    @cached_property
    def handed_over(self) -> int | None:
        """The step from which on something else writes the LR and the scheduler is not called.

        `None`: there is none.
        """
        called_at = self.called_at
        if not len(called_at):
            return None
        since, longest_pause = int(called_at[-1]), int(np.diff(called_at, prepend=0).max())
        if self.num_steps - since <= longest_pause:
            return None
        others = (self.lrs[:, since:] != np.array(self.calls[-1].after)[:, None]).any(axis=0)
        return since + int(np.argmax(others)) if others.any() else None

    @cached_property
    def calls_at_once(self) -> float:
        """Calls between two steps, where there are several again and again; else 1."""
        made = [
            at for at, call in zip(self.called_at, self.calls, strict=True) if not call.overflow
        ]
        times = len(made) / len(set(made)) if made else 1.0
        return times if times > 1.5 and len(made) > 3 else 1.0

    @cached_property
    def pace(self) -> Pace | None:
        """The unit in which the scheduler is called.

        `None`: it is not called yet, or it is called neither once a step nor once an epoch.
        """
        if self.scheduler is None:
            return "step"
        followed = self.calls[: self.calls_before[-1]]  # with a step after them
        num_calls = sum(not call.overflow for call in followed) / self.calls_at_once
        if num_calls < 2:
            return (
                None if not self.calls else "step" if self.steps_before_first_call <= 1 else "epoch"
            )
        num_steps = self.called_at[len(followed) - 1] + 1 - self.steps_before_first_call
        if 0.75 <= num_calls / max(1, num_steps) <= 1.5:
            return "step"
        num_epochs = num_steps / self.steps_per_epoch if self.steps_per_epoch else num_calls
        return "epoch" if num_calls <= min(1.25 * num_epochs + 1, num_steps) else None

    @cached_property
    def epoch_steps(self) -> int | None:
        """Optimizer steps of an epoch, if they are known.

        Where they are not given, a scheduler that is called once an epoch shows them.
        """
        if self.steps_per_epoch is None and self.pace == "epoch":
            return self._steps_between_calls  # a call ends an epoch
        return self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.length or self.num_steps

    @property
    def has_ended(self) -> bool:
        """The events are those of the whole run."""
        return self.num_steps >= self.total_steps

    @property
    def begin(self) -> int:
        """Where the run begins on the curve, in calls."""
        return round(self.scheduler.begin / self.calls_at_once) if self.scheduler else 0

    def num_calls(self, pace: Pace) -> int:
        """Counts the calls of the scheduler in the whole run, were it called at this pace.

        Those before the run began count too, where the curve has them.
        """
        if self.handed_over is not None and pace == self.pace:
            return self.begin + round(len(self.calls) / self.calls_at_once)
        return self.begin + math.ceil(
            (self.total_steps - self.idle_steps) / self._steps_a_call(pace)
        )

    def _steps_a_call(self, pace: Pace | None) -> int:
        if pace == "step":
            return 1
        # It may be called every second epoch.
        return (self._steps_between_calls if pace == self.pace else self.epoch_steps) or 1

    @property
    def _steps_between_calls(self) -> int | None:
        """Optimizer steps from one call to the next, in the median."""
        pauses = np.diff(np.unique(self.called_at), prepend=0)
        return round(float(np.median(pauses))) if len(pauses) else self.steps_per_epoch

    @property
    def idle_steps(self) -> int:
        """Steps at the beginning for which the scheduler is not called, as in a warmup by hand."""
        if self.scheduler is None or not self.calls:
            return 0
        return max(0, self.steps_before_first_call - self._steps_a_call(self.pace))

    @cached_property
    def curve(self) -> Array:
        """The scheduler's curve; without a scheduler, the LRs of the events.

        Where it is called several times a step, this is its curve by the step.
        """
        if self.scheduler is None:
            return self.ran
        curve = self.scheduler.curve
        if self.calls_at_once == 1 or not len(curve):
            return curve
        calls = np.arange(0, len(curve) - 1, self.calls_at_once)
        by_step: Array = np.interp(calls, np.arange(len(curve)), curve)
        return by_step

    @cached_property
    def lengths(self) -> "tuple[Trace, ...]":
        """The run as it may have been meant: of the length that is given, or of what is left of it.

        Of a run that was resumed nobody knows whether the given length is that of the whole run.
        """
        made = round(self.scheduler.made / self.calls_at_once) if self.scheduler else 0
        left = self.total_steps - made * self._steps_a_call(self.pace)
        if not made or left < self.num_steps - self._steps_a_call(self.pace) or left <= 0:
            return (self,)
        return (self, replace(self, length=left))

    def read(self, pace: Pace, stretch: float = 1.0) -> Array:
        """Returns the LR at each step of the whole run, were the scheduler called at this pace.

        Args:
            pace: how often it is called.
            stretch: factor by which its curve is made longer.
        """
        scheduled_steps = np.maximum(0, np.arange(self.total_steps) - self.idle_steps)
        calls = self.begin + scheduled_steps // self._steps_a_call(pace)
        lrs: Array = np.interp(calls / stretch, np.arange(len(self.curve)), self.curve)
        return lrs


def same(a: Array, b: Array) -> bool:
    """Tells whether two curves agree visibly over the length that both have.

    The tolerance is a fraction of the highest LR of `b`, the curve that was meant.
    """
    size = min(len(a), len(b))
    return size > 0 and float(np.abs(a[:size] - b[:size]).max()) <= VISIBLE * float(np.abs(b).max())
