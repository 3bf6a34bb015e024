"""Rules for a plateau scheduler: what it is given, how often, and what it made of that."""

import math

import numpy as np

from lrtune.auditing.faults.trace import Array, Finding, Severity, Trace

MOST = 0.6
"""Share of the calls above which something holds throughout."""


def plateau_without_metric(trace: Trace) -> Finding | None:
    """Reports a plateau scheduler that is not called, or gets no metric; NaN is no metric."""
    if trace.scheduler is None or not trace.scheduler.plateau:
        return None
    name = trace.scheduler.name
    metrics = _metrics(trace)
    num_missing = int(np.isnan(metrics).sum())
    severity: Severity = "wrong"
    if not trace.calls:
        if trace.is_cut or trace.num_steps <= (trace.steps_per_epoch or 1):
            return None
        what = (
            f"{name} is never called in {trace.num_steps} optimizer steps, so the LR cannot fall."
        )
    elif num_missing > 0.5 * len(metrics):
        what = (
            f"{name} was called {len(metrics)} times, "
            f"{num_missing} of them without a metric or with NaN."
        )
    elif len(metrics) >= 3 and len(set(metrics.tolist())) == 1:
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


def plateau_each_batch(trace: Trace) -> Finding | None:
    """Reports a plateau that is called after each batch, and so counts its patience in batches."""
    scheduler = trace.scheduler
    if scheduler is None or scheduler.patience is None or trace.pace != "step":
        return None
    num_falls, metrics = _falls(trace), _metrics(trace)
    if not num_falls or (trace.steps_per_epoch or 2) == 1 or not np.isfinite(metrics).all():
        return None
    improves = _improves(metrics[_first_fall(trace) :], scheduler.mode)
    return Finding(
        name="plateau-each-batch",
        severity="wrong" if improves else "suspicious",
        what=f"{scheduler.name} is called after each optimizer step, so its patience is "
        f"{scheduler.patience} steps: it lowered the LR {num_falls} times, from {trace.ran[0]:.3g} "
        f"to {trace.ran[-1]:.3g}" + (", while the metric went on improving." if improves else "."),
        fix="Call scheduler.step(metric) once after each validation.",
        ran=trace.ran,
    )


def plateau_of_wrong_mode(trace: Trace) -> Finding | None:
    """Reports a plateau that takes each better metric for a worse one."""
    scheduler, metrics = trace.scheduler, _metrics(trace)
    if scheduler is None or scheduler.mode is None or not np.isfinite(metrics).all():
        return None
    num_falls, sign = _falls(trace), -1 if scheduler.mode == "max" else 1
    if len(metrics) < 4 or not num_falls or trace.pace == "step":
        return None
    rises = sign * metrics  # a plateau waits for these to fall
    until = np.maximum.accumulate(rises[: _first_fall(trace) + 1])
    if rises.min() < rises[0] or len(until) < 3 or (np.diff(until) > 0).mean() < MOST:
        return None
    way, other = ("rises", "max") if sign > 0 else ("falls", "min")
    return Finding(
        name="plateau-wrong-mode",
        severity="wrong" if scheduler.mode == "max" else "suspicious",  # a loss may rise
        what=f'{scheduler.name} has mode="{scheduler.mode}", but its metric {way} from the first '
        f"call on, from {metrics[0]:.4g} to {metrics[-1]:.4g}: it lowered the LR {num_falls} "
        f"times, to {trace.ran[-1]:.3g}.",
        fix=f'Build it with mode="{other}" if a metric that {way} is good; '
        "if not, the training gets worse from its first epoch on.",
        ran=trace.ran,
    )


def stale_metric(trace: Trace) -> Finding | None:
    """Reports a plateau that is given each metric several times, and so loses its patience."""
    scheduler, metrics = trace.scheduler, _metrics(trace)
    if scheduler is None or scheduler.patience is None or not np.isfinite(metrics).all():
        return None
    borders = np.flatnonzero(np.diff(metrics)) + 1
    lengths = np.diff(borders)  # of all blocks but the first and the last
    if len(lengths) < 2 or np.ptp(lengths) or lengths[0] < 2:
        return None
    times, num_falls = int(lengths[0]), _falls(trace)
    return Finding(
        name="plateau-stale-metric",
        severity="wrong" if num_falls else "suspicious",
        what=f"{scheduler.name} is given each metric {times} times, so its patience of "
        f"{scheduler.patience} calls is {scheduler.patience / times:.3g} validations; it lowered "
        f"the LR {num_falls} times, to {trace.ran[-1]:.3g}.",
        fix="Call scheduler.step(metric) only when the metric was measured anew "
        '(Lightning: "frequency" as in check_val_every_n_epoch).',
        ran=trace.ran,
    )


def patience_too_long(trace: Trace) -> Finding | None:
    """Reports a plateau whose patience is longer than the run."""
    scheduler = trace.scheduler
    if scheduler is None or scheduler.patience is None or trace.pace is None or not trace.calls:
        return None
    calls = trace.num_calls(trace.pace)
    if trace.is_cut or scheduler.patience + 1 < calls or calls < 2:
        return None
    return Finding(
        name="plateau-patience-too-long",
        severity="suspicious",
        what=f"{scheduler.name} waits for {scheduler.patience} calls without an improvement, "
        f"and the run has {calls} calls, so the LR cannot fall.",
        fix="Give it a patience of a fraction of the run, in calls.",
        ran=trace.ran,
    )


def _metrics(trace: Trace) -> Array:
    """Returns what the plateau was given, shape (calls,); NaN where it was given nothing."""
    metrics = [math.nan if call.metric is None else call.metric for call in trace.calls]
    return np.array(metrics, dtype=np.float64)


def _falls(trace: Trace) -> int:
    """Counts the calls that lowered the LR."""
    lead = trace.lead
    return sum(call.after[lead] < call.before[lead] for call in trace.calls)


def _first_fall(trace: Trace) -> int:
    """Returns the index of the first call that lowered the LR; there must be one."""
    lead = trace.lead
    return next(i for i, call in enumerate(trace.calls) if call.after[lead] < call.before[lead])


def _improves(metrics: Array, mode: str | None) -> bool:
    """Tells whether the second half is better than the first by more than three standard errors."""
    halves = np.array_split(metrics, 2)
    gain = (halves[1].mean() - halves[0].mean()) * (1 if mode == "max" else -1)
    return bool(gain > 3 * math.hypot(*(half.std() / math.sqrt(len(half)) for half in halves)))
