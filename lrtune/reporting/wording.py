"""How numbers and schedules are put into words, the same way in every rendering.

What is not known (nan) is a dash.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, assert_never

from lrtune.core.optimizers import ABOUT
from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.core.run import BASELINE, Run
from lrtune.core.study import RangeResult, Rung, StudyConfig
from lrtune.decide.convergence import Convergence
from lrtune.decide.noise import Difference

UNKNOWN = "–"
OPTIMIZER_NAMES = {name: about.title for name, about in ABOUT.items()}


def number(value: float, digits: int = 2) -> str:
    """`93.12`, or a dash."""
    return f"{value:.{digits}f}" if math.isfinite(value) else UNKNOWN


def lr(value: float) -> str:
    """A learning rate to three digits: `0.213`, `2.1e-05`."""
    return f"{value:.3g}" if math.isfinite(value) else UNKNOWN


def mean_and_spread(top1s: Sequence[float]) -> str:
    """`93.12 ± 0.08`: mean and standard deviation; the mean alone where one value has no spread."""
    if not top1s or any(map(math.isnan, top1s)):
        return UNKNOWN
    return f"{fmean(top1s):.2f}" + (f" ± {stdev(top1s):.2f}" if len(top1s) > 1 else "")


def difference(found: Difference | None) -> str:
    """`+0.53 [+0.21, +0.85]`: points of Top-1 with the 95 % interval; a run that diverged, or one seed, gives none."""
    if found is None:
        return UNKNOWN
    if math.isinf(found.low):
        return f"{found.mean:+.2f} (no interval)"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def convergence(found: Convergence, target: float) -> str:
    """`7 [6, 9] of 12`; a dash where there is no target."""
    return UNKNOWN if math.isnan(target) else str(found)


def probability(value: float) -> str:
    """`74 %`; `< 1 %` and `> 99 %` where the digits would claim to be certain."""
    if math.isnan(value):
        return UNKNOWN
    return "< 1 %" if value < 0.01 else "> 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def count(amount: float, noun: str) -> str:
    """`1 epoch`, `1.5 epochs`, `12,400 epochs`."""
    digits = f"{amount:,.0f}" if float(amount).is_integer() else f"{amount:.4g}"
    return f"{digits} {noun}" + ("" if amount == 1 else "s")


def recipe_name(config: StudyConfig, trial: int) -> str:
    """`baseline` or `trial 7`; in a comparison what the recipe is called there."""
    if config.is_comparison:
        return config.recipes[max(trial, 0)].name
    return "baseline" if trial == BASELINE else f"trial {trial}"


def run_name(config: StudyConfig, run: Run) -> str:
    """`trial-0007 on rung c3`, or `adamw, seed 2` in a comparison; of any other run its id."""
    if config.is_comparison:
        return f"{recipe_name(config, run.trial)}, seed {run.seed}"
    if run.kind != "rung":
        return run.id
    rung = Rung(run.stop_epochs, compressed=run.horizon_epochs < run.recipe_epochs)
    return f"trial-{run.trial:04d} on rung {rung}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def task(source: Mapping[str, Any]) -> str:
    """`small-cnn on fashion-mnist`, or the file or object that the task comes from."""
    if "model" in source and "data" in source:
        return f"{source['model']} on {source['data']}"
    return str(next(iter(source.values()), "unnamed task"))


def range_result(result: RangeResult) -> str:
    """What a range test found, or that it found nothing and why."""
    name, sweeps = (
        OPTIMIZER_NAMES.get(result.optimizer, result.optimizer),
        count(len(result.curves), "sweep"),
    )
    if result.interval is None:
        return f"{name}: no signal in {sweeps}. {result.reason}"
    low, high, start = map(
        lr, (result.interval.low, result.interval.high, result.interval.suggestion)
    )
    return f"{name}: peak LR from {low} to {high}, beginning with {start}, by {sweeps} ({result.rule})."


def schedule_sentence(recipe: Recipe, epochs: int) -> str:
    """The whole recipe in one sentence, for someone who will set it up by hand."""
    optimizer = OPTIMIZER_NAMES[recipe.optimizer]
    start = f"Train {count(epochs, 'epoch')} with {optimizer} at a peak learning rate of {lr(recipe.peak_lr)}"
    warmup = (
        f"warm up linearly over {count(recipe.warmup_epochs, 'epoch')}, then "
        if recipe.warmup_epochs
        else ""
    )
    return f"{start}: {warmup}{_decay(recipe, epochs)}."


def _decay(recipe: Recipe, epochs: int) -> str:
    decay, floor = recipe.decay, recipe.final_frac
    decay_epochs = epochs - recipe.warmup_epochs
    end = f"{100 * floor:.3g} % of the peak" if floor else "zero"
    above = f", above a floor of {end}" if floor else ""
    match decay:
        case Constant():
            return (
                "hold it to the end"
                if recipe.warmup_epochs
                else "hold it from the first step to the last"
            )
        case StepDecay():
            return f"multiply it by {decay.factor:.3g} every {count(decay.every_epochs, 'epoch')}{above}"
        case MultiStep():
            *most, last = (f"{epoch:.4g}" for epoch in decay.milestones_epochs)
            listed = f"epochs {', '.join(most)} and {last}" if most else f"epoch {last}"
            return f"multiply it by {decay.factor:.3g} after {listed}{above}"
        case Cosine():
            return f"follow half a cosine down to {end}"
        case Linear():
            return f"go down in a straight line to {end}"
        case Polynomial():
            return f"go down to {end} by a polynomial of power {decay.power:.3g}"
        case Exponential():
            return f"decay exponentially to {100 * (floor + (1 - floor) * decay.end_frac):.3g} % of the peak"
        case WSD():
            cooldown = count(decay.cooldown_frac * decay_epochs, "epoch")
            return f"hold it, and cool down by 1 − √x over the last {cooldown} to {end}"
        case HoldPower():
            held = decay.hold_frac * decay_epochs
            power = (
                "in a straight line"
                if decay.power == 1
                else f"by a polynomial of power {decay.power:.3g}"
            )
            return (
                f"hold it for {count(held, 'epoch')}, and " if held else ""
            ) + f"go down to {end} {power}"
        case Plateau():
            watched = "validation loss" if decay.monitor == "val_loss" else "Top-1"
            patience = count(decay.patience_epochs, "epoch")
            return f"multiply it by {decay.factor:.3g} after more than {patience} without a better {watched}{above}"
        case _:
            assert_never(decay)
