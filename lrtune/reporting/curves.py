"""The curves of a report: learning rates, and what they led to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lrtune.core.recipe import Recipe
from lrtune.core.run import BASELINE, Measurement, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.reporting.contenders import compared
from lrtune.reporting.trials import finished_trials
from lrtune.schedules import build_schedule

NUM_LEARNING_CURVES = 4
"""Beside the baseline's: more lines than this are not told apart in one plot."""
NUM_COMPARED_CURVES = 10
"""Of a comparison, where each of them was asked for: as many as there are colours."""
NUM_CURVE_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a plot: `xs`, `ys` and, over several seeds, the band `lows` to `highs`, all of one length."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


def lr_curves(state: StudyState, found: Recommendation | None) -> tuple[Curve, ...]:
    """LR by epoch: of the recommended recipe and, where it is another, of the baseline; in a comparison of all."""
    if found is None:
        return ()
    shown = [found.best]
    if state.config.is_comparison:
        shown = list(compared(found))[:NUM_COMPARED_CURVES]
    elif found.baseline is not None and found.baseline.trial != found.best.trial:
        shown.append(found.baseline)
    return tuple(_lr_curve(state, contender) for contender in shown)


def _lr_curve(state: StudyState, contender: Contender) -> Curve:
    """The LR over the epochs of a full run; of a plateau, as its best run went, as far as that was measured."""
    recipe, config = contender.recipe, state.config
    runs = _full_runs(state, contender.trial)
    best = max(
        runs, key=lambda record: -math.inf if math.isnan(record.top1) else record.top1, default=None
    )
    return lr_curve(
        contender.name,
        recipe,
        config.epochs,
        config.steps_per_epoch,
        best.measurements if best else (),
    )


def lr_curve(
    label: str,
    recipe: Recipe,
    epochs: int,
    steps_per_epoch: int,
    measurements: Sequence[Measurement],
) -> Curve:
    """LR against epochs.

    Args: label: name of the curve. recipe: whose LR. epochs: horizon. steps_per_epoch: optimizer
        steps. measurements: of one run, from its first epoch; only a plateau needs them, and it
        ends where they end.
    """
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    stride = max(1, epochs * steps_per_epoch // NUM_CURVE_POINTS)
    xs, ys = [], []
    for epoch in range(epochs):
        first, end = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch
        # The last step of each epoch is always there, so that a jump between epochs is drawn
        # upright.
        for step in sorted({*range(first, end, stride), end - 1}):
            xs.append(step / steps_per_epoch)
            ys.append(recipe.peak_lr * schedule(step))
        if recipe.decay.name == "plateau":
            if epoch >= len(measurements):
                break
            schedule = schedule.observe(
                val_loss=measurements[epoch].val_loss, top1=measurements[epoch].top1
            )
    return Curve(label=label, xs=tuple(xs), ys=tuple(ys))


def learning_curves(state: StudyState, found: Recommendation | None) -> tuple[Curve, ...]:
    """Top-1 by epoch of the confirmed contenders; without those, of the best of the search; of the baseline always."""
    if found is None:
        return ()
    if state.config.is_comparison:
        shown = [(c.name, _full_runs(state, c.trial)) for c in compared(found)][
            :NUM_COMPARED_CURVES
        ]
        return tuple(_learning_curve(name, runs) for name, runs in shown if runs)
    shown = [(c.name, _full_runs(state, c.trial)) for c in compared(found)]
    known = {contender.trial for contender in compared(found)}
    if not any(c.top1s and c.trial != BASELINE for c in found.contenders):
        shown += [
            (f"trial {t.number}", [t.runs[-1]])
            for t in finished_trials(state)
            if t.number not in known
        ]
    others = [(name, runs) for name, runs in shown if name != "baseline"][:NUM_LEARNING_CURVES]
    baseline = [(name, runs) for name, runs in shown if name == "baseline"]
    return tuple(_learning_curve(name, runs) for name, runs in others + baseline if runs)


def _full_runs(state: StudyState, trial: int) -> list[RunRecord]:
    """The runs of a trial with something measured: those with fresh seeds, or the search's own where there are none."""
    whole = (r for r in state.records if r.run.trial == trial and r.run.kind != "rung")
    runs = [r for r in whole if r.measurements and r.state != "failed"]
    fresh = [r for r in runs if not r.run.is_of_search]
    return fresh or runs


def _learning_curve(label: str, runs: Sequence[RunRecord]) -> Curve:
    """Mean Top-1 by epoch with the band from the worst seed to the best; ends with the shortest run that completed."""
    whole = [r for r in runs if r.state == "completed"] or list(runs)
    epochs = min(record.epochs for record in whole)
    by_epoch = [[record.measurements[i].top1 for record in whole] for i in range(epochs)]
    return Curve(
        label=label,
        xs=tuple(float(i + 1) for i in range(epochs)),
        ys=tuple(fmean(top1s) for top1s in by_epoch),
        lows=tuple(map(min, by_epoch)),
        highs=tuple(map(max, by_epoch)),
    )
