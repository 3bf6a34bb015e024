"""`audit` predicts the learning rates of a scheduler, and reports what is wrong with them."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from textwrap import fill
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ChainedScheduler

from lrtune.auditing.faults import (
    Called,
    Finding,
    Pace,
    Scheduler,
    Stepped,
    Trace,
    find_faults,
)
from lrtune.auditing.faults.trace import Array
from lrtune.auditing.schedulers import (
    Meant,
    advance,
    calls_made,
    copies_of,
    facts_of,
    inner_scheduler,
    is_plateau,
    meant_lrs,
    method_of,
    wants_position,
)
from lrtune.core.errors import Problems
from lrtune.stepping.hooks import torch_optimizer
from lrtune.stepping.rates import base_lrs_of, lrs_of

WIDTH = 80
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """The learning rates of a run, and what is wrong with them; `print` shows both."""

    title: str
    """Length, optimizer and scheduler of the run, in one line."""
    lrs: Array = field(repr=False)
    """LR used for each optimizer step, shape (groups, steps)."""
    findings: tuple[Finding, ...]
    lead: int = 0
    """The parameter group that stands for all: the one with the highest base LR."""
    notes: tuple[str, ...] = ()
    """What could not be seen, and why."""

    @property
    def ok(self) -> bool:
        """There are no findings."""
        return not self.findings

    def __str__(self) -> str:
        lines = [self.title, *(_paragraph(f"Note: {note}") for note in self.notes)]
        for finding in self.findings:
            lines += ["", f"{finding.severity.upper()}: {finding.name}"]
            lines += [_paragraph(finding.what), _paragraph(f"Fix: {finding.fix}")]
            lines += _drawing(finding.ran, finding.meant)
        if self.ok:
            lines += [
                *_drawing(self.lrs[self.lead], None),
                "",
                "The audit found nothing wrong.",
            ]
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """Returns plain values for JSON, without any curve; `text` is what `print` shows."""
        return {
            "title": self.title,
            "notes": list(self.notes),
            "findings": [finding.in_words() for finding in self.findings],
            "text": str(self),
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "title": self.title,
            "notes": list(self.notes),
            "lrs": self.lrs.tolist(),
            "findings": [
                finding.in_words()
                | {
                    "ran": finding.ran.tolist(),
                    "meant": None if finding.meant is None else finding.meant.tolist(),
                }
                for finding in self.findings
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Intended:
    """What a run was meant to be. `None` stands for what is not known."""

    steps_per_epoch: int | None
    """Optimizer steps."""
    epochs: int | None
    meant: Meant | None
    """The schedule: a recipe, its schedule, or a function from the step to the multiplier."""
    warmup_steps: int | None
    """Calls of the scheduler that its warmup was meant to take."""
    length: int | None = None
    """Optimizer steps of the run, where it does not end with an epoch."""
    is_cut: bool = False
    """Whether the run would have gone on, for a time that is not known."""

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the run."""
        if self.length is not None or self.epochs is None or self.steps_per_epoch is None:
            return self.length
        return self.epochs * self.steps_per_epoch


def audit(
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    *,
    steps_per_epoch: int,
    epochs: int,
    advanced: Pace = "step",
    meant: Meant | None = None,
    warmup_steps: int | None = None,
    metric: Sequence[float] | Callable[[int], float] | None = None,
) -> Audit:
    """Predicts the learning rates of a run, and reports what is wrong with them.

    It steps copies of optimizer and scheduler through the run, without a model or data. The
    originals stay as they are.

    Args:
        optimizer: as the training would begin with it.
        scheduler: of torch or timm, or any with a `step()` that writes to the optimizer.
        steps_per_epoch: optimizer steps; micro-batches of an accumulation are not steps.
        epochs: length of the run.
        advanced: whether the loop calls it after each optimizer step or after each epoch.
        meant: the schedule that was meant: a recipe, its schedule, or a function from the step to
            the multiplier.
        warmup_steps: calls of the scheduler that its warmup was meant to take.
        metric: for a plateau scheduler: the metric of each call, as numbers or as a function from
            the number of calls before.

    Raises:
        InputError: a length is below 1, something is missing, or the scheduler cannot be copied.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        >>> [f.name for f in audit(optimizer, scheduler, steps_per_epoch=100, epochs=30).findings]
        ['counted-in-epochs']
    """
    intended = Intended(
        steps_per_epoch=steps_per_epoch, epochs=epochs, meant=meant, warmup_steps=warmup_steps
    )
    optimizer, scheduler = torch_optimizer(optimizer), inner_scheduler(scheduler)
    check(optimizer, (scheduler,), intended)
    problems = Problems()
    if advanced not in ("step", "epoch"):
        problems.append(f"`advanced` must be step or epoch, but got {advanced!r}.")
    if is_plateau(scheduler) and metric is None:
        problems.append(
            f"`metric` must be given for a plateau, but got none for {type(scheduler).__name__}. "
            "`lrtune.watch` sees it in your own loop."
        )
    num_calls = epochs * steps_per_epoch if advanced == "step" else epochs
    if isinstance(metric, Sequence) and len(metric) < num_calls:
        problems.append(
            f"`metric` must have {num_calls} numbers, one a call, but got {len(metric)}."
        )
    problems.raise_any()

    metric_of = metric.__getitem__ if isinstance(metric, Sequence) else metric

    def foretell(num_steps: int) -> Audit:
        copied_optimizer, copied = copies_of(optimizer, scheduler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of an order that a copy cannot show
            events = tuple(
                _rehearsal(
                    copied_optimizer, copied, steps_per_epoch, num_steps, advanced, metric_of
                )
            )
        return judge(
            optimizer,
            (copies_of(optimizer, scheduler),),
            events=events,
            start_lrs=lrs_of(optimizer),
            base_lrs=base_lrs_of(optimizer),
            intended=replace(intended, length=num_steps),
        )

    whole = foretell(epochs * steps_per_epoch)
    made = calls_made(scheduler) * (1 if advanced == "step" else steps_per_epoch)
    if whole.ok or not 0 < made < epochs * steps_per_epoch:
        return whole
    rest = foretell(epochs * steps_per_epoch - made)  # the length may be that of the whole run
    return rest if rest.ok else whole


def _rehearsal(
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    steps_per_epoch: int,
    num_steps: int,
    advanced: Pace,
    metric_of: Callable[[int], float] | None,
) -> Iterator[Stepped | Called]:
    """Yields the events of a run without training, up to a call that raises."""
    moves = not wants_position(scheduler) or (method_of(scheduler) == "step") == (
        advanced == "epoch"
    )
    num_calls = 0
    for step in range(num_steps):
        lrs = lrs_of(optimizer)
        yield Stepped(lrs)
        if not moves or (advanced == "epoch" and (step + 1) % steps_per_epoch):
            continue
        metric = metric_of(num_calls) if metric_of is not None and is_plateau(scheduler) else None
        num_calls += 1
        try:
            advance(scheduler, num_calls if wants_position(scheduler) else None, metric)
            after = lrs_of(optimizer)
        except Exception:
            return
        yield Called(lrs, after, metric=metric)


def judge(
    optimizer: torch.optim.Optimizer,
    copies: Sequence[tuple[torch.optim.Optimizer, Any]],
    *,
    events: tuple[Stepped | Called, ...],
    start_lrs: tuple[float, ...],
    base_lrs: tuple[float, ...],
    intended: Intended,
    notes: tuple[str, ...] = (),
) -> Audit:
    """Makes the audit of a run from its events.

    Args:
        optimizer: for its name.
        copies: optimizer and scheduler as they were before the first event, for each scheduler;
            empty: no scheduler was shown.
        events: at least one optimizer step.
        start_lrs: LR of each parameter group before the first event.
        base_lrs: LR of each parameter group before any schedule.
        intended: what the run was meant to be.
        notes: what could not be seen.
    """
    meant, lead = intended.meant, int(np.argmax(base_lrs))
    traces = [
        Trace(
            events=events,
            start_lrs=start_lrs,
            base_lrs=base_lrs,
            scheduler=scheduler,
            steps_per_epoch=intended.steps_per_epoch,
            length=intended.total_steps,
            is_cut=intended.is_cut,
            warmup_steps=intended.warmup_steps,
            meant=None if meant is None else meant_lrs(
                meant, base_lrs[lead],
                epochs=intended.epochs, steps_per_epoch=intended.steps_per_epoch,
            ),
            by=by,
        )
        for by, scheduler in enumerate(_schedulers(copies, events, lead, intended) or [None])
    ]  # fmt: skip
    product = _product(traces)
    traces = [replace(trace, product=product) for trace in traces]
    words = [f"{traces[0].num_steps:,} optimizer steps", type(optimizer).__name__]
    for trace in traces:
        if trace.scheduler is not None:
            times = "once" if trace.calls_at_once == 1 else f"{trace.calls_at_once:.3g} times"
            pace = f" called {times} {'a step' if trace.pace == 'step' else 'an epoch'}"
            words.append(trace.scheduler.name + (pace if trace.pace else ""))
    findings = {(f.name, f.what): f for trace in traces for f in find_faults(trace)}
    return Audit(
        title=", ".join(words),
        lrs=traces[0].lrs,
        findings=tuple(findings.values()),
        lead=lead,
        notes=notes,
    )


def _schedulers(
    copies: Sequence[tuple[torch.optim.Optimizer, Any]],
    events: tuple[Stepped | Called, ...],
    lead: int,
    intended: Intended,
) -> list[Scheduler | None]:
    """Returns the facts about each scheduler, called as it was in the run."""
    num_steps = sum(isinstance(event, Stepped) for event in events)
    facts: list[Scheduler | None] = []
    for by, copied in enumerate(copies):
        calls = [event for event in events if isinstance(event, Called) and event.by == by]
        facts.append(
            facts_of(
                *copied,
                lead=lead,
                total_steps=max(intended.total_steps or num_steps, len(calls)),
                told=_told(calls),
                alone=len(copies) > 1 or isinstance(copied[1], ChainedScheduler),
            )
        )
    return facts


def _product(traces: Sequence[Trace]) -> Array | None:
    """Returns the LR of each step as the product of all schedulers; `None`: none multiply.

    Two schedulers do not multiply if the second one is called only after the last call of the
    first.
    """
    calls = [trace.calls_before for trace in traces]
    spans = sorted((int(np.argmax(c > 0)), int(np.argmax(c == c[-1]))) for c in calls if c[-1])
    if any(begin >= end for (_, end), (begin, _) in pairwise(spans)) or len(spans) < len(traces):
        return None
    multipliers = []
    for trace, calls_before in zip(traces, calls, strict=True):
        scheduler = trace.scheduler
        if scheduler is None or scheduler.multipliers is None:
            return None
        if len(scheduler.multipliers) <= scheduler.made + calls_before[-1]:
            return None
        multipliers.append(scheduler.multipliers[scheduler.made + calls_before])
    product: Array = traces[0].base_lrs[traces[0].lead] * np.prod(multipliers, axis=0)
    return product


def _told(calls: Sequence[Called]) -> tuple[float, float] | None:
    """Returns the first position that was told, and the mean by which they rise where they do."""
    told = [call.position for call in calls if call.position is not None]
    rises = [b - a for a, b in pairwise(told) if b >= a]
    if not told or len(told) < len(calls) or not np.isfinite(told).all():
        return None
    rate = (sum(rises) / len(rises) if rises else 1.0) or 1.0
    is_even = len(told) < 2 or told[1] != told[0]  # not the number of the epoch at each step
    return (told[0] if is_even else rate), rate


def audit_of_lrs(lrs: Sequence[float], *, is_cut: bool) -> Audit:
    """Audits a run from its LRs alone.

    Args:
        lrs: of each optimizer step, of the leading parameter group.
        is_cut: whether the run would have gone on.
    """
    trace = Trace(
        events=tuple(Stepped((lr,)) for lr in lrs),
        start_lrs=(lrs[0],),
        base_lrs=(max(lrs),),
        scheduler=None,
        is_cut=is_cut,
    )
    title = f"{trace.num_steps:,} optimizer steps"
    return Audit(title=title, lrs=trace.lrs, findings=find_faults(trace))


def check(optimizer: torch.optim.Optimizer, schedulers: Sequence[Any], intended: Intended) -> None:
    """Raises `InputError` with every rule that is broken."""
    steps_per_epoch, epochs = intended.steps_per_epoch, intended.epochs
    problems = Problems()
    if not isinstance(optimizer, torch.optim.Optimizer):
        problems.append(f"`optimizer` must be one of torch's, but got {type(optimizer).__name__}.")
    for scheduler in schedulers:
        if not callable(getattr(scheduler, "step", None)):
            problems.append(
                f"`scheduler` must have a method step(), but got {type(scheduler).__name__}."
            )
    for name, value, least in (
        ("steps_per_epoch", steps_per_epoch, 1),
        ("epochs", epochs, 1),
        ("warmup_steps", intended.warmup_steps, 0),
        ("total_steps", intended.length, 1),
    ):
        if value is not None and not (isinstance(value, int) and value >= least):
            problems.append(f"`{name}` must be a whole number from {least}, but got {value!r}.")
    if (steps_per_epoch is None) != (epochs is None):
        got = f"steps_per_epoch={steps_per_epoch}, epochs={epochs}"
        problems.append(f"`steps_per_epoch` and `epochs` must be given together, but got {got}.")
    problems.raise_any()


def _drawing(ran: Array, meant: Array | None) -> list[str]:
    """Draws each curve in one line, on one scale; `?` stands for an LR that is not finite."""
    curves = {"as it ran": ran} if meant is None else {"as it ran": ran, "as meant": meant}
    top = max(_highest(curve) for curve in curves.values())
    return [
        f"  {name:9}  {_bars(curve, top)}  {_in_words(curve)}" for name, curve in curves.items()
    ]


def _bars(curve: Array, top: float, width: int = 40) -> str:
    shown = curve[np.linspace(0, len(curve) - 1, min(width, len(curve))).round().astype(int)]
    heights = np.clip(shown / top if top > 0 else 0 * shown, 0, 1) * (len(BARS) - 1)
    return "".join(BARS[round(height)] if np.isfinite(height) else "?" for height in heights)


def _highest(curve: Array) -> float:
    return float(curve.max(where=np.isfinite(curve), initial=curve[0]))


def _in_words(curve: Array) -> str:
    """Returns the first, the highest and the last LR: `0.1 → 0.3 → 0`."""
    first, peak, last = (f"{lr:.3g}" for lr in (curve[0], _highest(curve), curve[-1]))
    return " → ".join(
        [first] + [peak] * (peak not in (first, last)) + [last] * (last != first or peak != first)
    )


def _paragraph(text: str) -> str:
    return fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
