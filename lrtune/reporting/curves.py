"""The curves of a report: learning rates, and what they led to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lrtune.core.decays import Own, Plateau
from lrtune.core.objective import Objective
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
"""Of a comparison, where each of them was asked for: more than this are not told apart at all."""
NUM_CURVE_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a plot, with the band from `lows` to `highs` where it is of several seeds.

    All of its sequences have the same length.
    """

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


def lr_curves(state: StudyState, recommendation: Recommendation | None) -> tuple[Curve, ...]:
    """LR by epoch of the recommended recipe and of the baseline; in a comparison of all."""
    if recommendation is None:
        return ()
    shown = [recommendation.best]
    if state.config.is_comparison:
        shown = list(compared(recommendation))[:NUM_COMPARED_CURVES]
    elif (
        recommendation.baseline is not None
        and recommendation.baseline.trial != recommendation.best.trial
    ):
        shown.append(recommendation.baseline)
    return tuple(_lr_curve(state, contender) for contender in shown)


def _lr_curve(state: StudyState, contender: Contender) -> Curve:
    """The LR over the epochs of a full run; that of a plateau decay as its best run went."""
    recipe, config = contender.recipe, state.config
    runs = _full_runs(state, contender.trial)
    score = state.config.objective.score
    best = max(runs, key=lambda record: score(record.metrics), default=None)
    return lr_curve(
        contender.name,
        recipe,
        config.horizon_of(contender.trial),
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

    Args:
        label: name of the curve.
        recipe: whose LR.
        epochs: horizon.
        steps_per_epoch: optimizer steps.
        measurements: of one run, from its first epoch; a plateau and the LRs of a training command
            need them, and end where they end.
    """
    if isinstance(recipe.decay, Own):
        points = [
            point
            for m in measurements
            for point in ((m.epoch - 1, m.lr_first), (m.epoch - 1 / steps_per_epoch, m.lr_last))
        ]
        return Curve(
            label=label, xs=tuple(float(x) for x, _ in points), ys=tuple(y for _, y in points)
        )
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
        if isinstance(recipe.decay, Plateau):
            if epoch >= len(measurements):
                break
            schedule = schedule.observe(measurements[epoch].metrics)
    return Curve(label=label, xs=tuple(xs), ys=tuple(ys))


def learning_curves(state: StudyState, recommendation: Recommendation | None) -> tuple[Curve, ...]:
    """The objective by epoch of the confirmed contenders and of the baseline.

    Where no trial was confirmed, they are those of the best trials of the search.
    """
    if recommendation is None:
        return ()
    if state.config.is_comparison:
        shown = [(c.name, _full_runs(state, c.trial)) for c in compared(recommendation)][
            :NUM_COMPARED_CURVES
        ]
        return tuple(
            _learning_curve(state.config.objective, name, runs) for name, runs in shown if runs
        )
    shown = [(c.name, _full_runs(state, c.trial)) for c in compared(recommendation)]
    confirmed = {contender.trial for contender in compared(recommendation)}
    if not any(c.values and c.trial != BASELINE for c in recommendation.contenders):
        shown += [
            (f"trial {t.number}", [t.runs[-1]])
            for t in finished_trials(state)
            if t.number not in confirmed
        ]
    others = [(name, runs) for name, runs in shown if name != "baseline"][:NUM_LEARNING_CURVES]
    baseline = [(name, runs) for name, runs in shown if name == "baseline"]
    return tuple(
        _learning_curve(state.config.objective, name, runs)
        for name, runs in others + baseline
        if runs
    )


def _full_runs(state: StudyState, trial: int) -> list[RunRecord]:
    """The measured runs of a trial with fresh seeds, or the search's own where there are none."""
    whole = (r for r in state.records if r.run.trial == trial and r.run.kind != "look")
    runs = [r for r in whole if r.measurements and r.state != "failed"]
    fresh = [r for r in runs if not r.run.is_of_search]
    return fresh or runs


def _learning_curve(objective: Objective, label: str, runs: Sequence[RunRecord]) -> Curve:
    """The mean by epoch with the band from the worst seed to the best.

    It ends with the shortest run that completed. Epochs with a value that is nan are gaps.
    """
    whole = [r for r in runs if r.state == "completed"] or list(runs)
    epochs = min(record.epochs for record in whole)
    by_epoch = [
        [objective.value(record.measurements[i].metrics) for record in whole] for i in range(epochs)
    ]
    measured = [values if not any(map(math.isnan, values)) else [math.nan] for values in by_epoch]
    return Curve(
        label=label,
        xs=tuple(float(i + 1) for i in range(epochs)),
        ys=tuple(map(fmean, measured)),
        lows=tuple(map(min, measured)),
        highs=tuple(map(max, measured)),
    )
