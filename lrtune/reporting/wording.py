"""How numbers and schedules are put into words, the same way in every rendering.

What is not known (nan) is a dash.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lrtune.core.counts import count as count
from lrtune.core.objective import UNKNOWN, Objective
from lrtune.core.optimizers import OPTIMIZERS, OWN
from lrtune.core.recipe import ParameterGroup, Recipe, in_words
from lrtune.core.run import BASELINE, Run, RunRecord
from lrtune.core.study import RangeResult, StudyConfig
from lrtune.core.urls import shown_command
from lrtune.decide.horizons import BestLR
from lrtune.decide.noise import Difference


def number(value: float, digits: int = 2) -> str:
    """`93.12`, or a dash."""
    return f"{value:.{digits}f}" if math.isfinite(value) else UNKNOWN


def lr(value: float) -> str:
    """A learning rate to three digits: `0.213`, `2.1e-05`."""
    return f"{value:.3g}" if math.isfinite(value) else UNKNOWN


def best_lr(best: BestLR | None) -> str:
    """`0.213 [0.18, 0.3]`."""
    if best is None:
        return UNKNOWN
    return f"{lr(best.peak_lr)} [{lr(best.low)}, {lr(best.high)}]"


def loss(value: float) -> str:
    """A loss to three decimals, or to three digits where these say little."""
    is_small_or_large = value != 0 and not 0.01 <= abs(value) < 1e4
    return f"{value:.3g}" if math.isfinite(value) and is_small_or_large else number(value, 3)


def title(objective: Objective) -> str:
    """The metric's title at the beginning of a sentence; a name that a user chose is kept."""
    return _capitalised(objective, objective.title)


def heading(objective: Objective) -> str:
    """The metric's title as the heading of a column: `Top-1, %`, `Validation loss`, `f1`."""
    return _capitalised(objective, objective.heading)


def _capitalised(objective: Objective, text: str) -> str:
    own_name = objective.title == objective.metric
    return text if own_name else text[0].upper() + text[1:]


def reading(objective: Objective) -> str:
    """How the metric's values are read: ` in percent` or ` (lower is better)`, after its title."""
    return " in percent" if objective.is_percentage else f" ({direction(objective)})"


def direction(objective: Objective) -> str:
    """Which of two values is better, in words."""
    return f"{'higher' if objective.direction == 'max' else 'lower'} is better"


def validation(objective: Objective, *, first: bool = False) -> str:
    """The metric's title with the split that it is measured on: `validation Top-1`.

    Args:
        objective: its title may name the split itself.
        first: whether it begins a sentence.
    """
    if objective.title.lower().startswith("val"):
        return title(objective) if first else objective.title
    return f"{'Validation' if first else 'validation'} {objective.title}"


def with_metric(objective: Objective, value: float) -> str:
    """A value and what it is of: `92.02 % Top-1`, `validation loss 0.2345`."""
    text = objective.text(value, unit=True)
    return f"{text} {objective.title}" if objective.is_percentage else f"{objective.title} {text}"


def difference(objective: Objective, difference: Difference | None) -> str:
    """`+0.53 [+0.21, +0.85]`: of the metric, with the 95 % interval.

    A run that diverged gives neither, and one seed gives no interval.
    """
    if difference is None or math.isnan(difference.mean):
        return UNKNOWN
    mean, interval = difference.text(objective)
    return f"{mean} {interval or '(no interval)'}"


def probability(value: float) -> str:
    """`74 %`; `< 1 %` and `> 99 %` where the digits would claim to be certain."""
    if math.isnan(value):
        return UNKNOWN
    return "< 1 %" if value < 0.01 else "> 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def optimizer_title(name: str) -> str:
    """What people call an optimizer: `Schedule-Free SGD`; a user's own keeps its name."""
    if name == OWN:
        return "the command's own optimizer"
    return OPTIMIZERS[name].title if name in OPTIMIZERS else name


def recipe_name(config: StudyConfig, trial: int) -> str:
    """`baseline` or `trial 7`; in a comparison what the recipe is called there."""
    if config.is_comparison:
        return config.recipes[max(trial, 0)].name
    return "baseline" if trial == BASELINE else f"trial {trial}"


def run_state(record: RunRecord) -> str:
    """How a run has ended; one that nobody trains any more is `interrupted`."""
    return "interrupted" if record.orphaned else record.state


def run_name(config: StudyConfig, run: Run) -> str:
    """Its id, or `adamw, seed 2` in a comparison."""
    if config.is_comparison:
        return f"{recipe_name(config, run.trial)}, seed {run.seed}"
    return run.id


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


def about(low_s: float, high_s: float) -> str:
    """A time that is not known well: `about 40 s`, `about 3 to 8 min`, `about 50 min to 2 h`."""
    (low, low_unit), (high, high_unit) = _roughly(low_s), _roughly(high_s)
    if (low, low_unit) == (high, high_unit):
        return f"about {high} {high_unit}"
    unit = "" if low_unit == high_unit else f" {low_unit}"
    return f"about {low}{unit} to {high} {high_unit}"


def _roughly(seconds: float) -> tuple[int, str]:
    if seconds < 95:
        return max(10, 10 * round(seconds / 10)), "s"
    minutes = seconds / 60
    if minutes < 95:
        return round(minutes), "min"
    hours = minutes / 60
    return (round(hours), "h") if hours < 48 else (round(hours / 24), "days")


def task(source: Mapping[str, Any]) -> str:
    """`small-cnn on fashion-mnist`, or the command, file or object that the task comes from."""
    if "command" in source:
        return shown_command(shlex.split(source["command"]))
    if "model" in source and "data" in source:
        return f"{source['model']} on {source['data']}"
    return str(next(iter(source.values()), "unnamed task"))


def data_facts(facts: Mapping[str, str]) -> str:
    """What was taken for what in the data, a line each."""
    return "\n".join(f"{name}: {text}" for name, text in facts.items())


def range_result(result: RangeResult) -> str:
    """What a range test found, or that it found nothing and why."""
    name, sweeps = optimizer_title(result.optimizer), count(len(result.curves), "sweep")
    if result.interval is None:
        return f"{name}: no signal in {sweeps}: {result.reason}"
    low, high, start = map(
        lr, (result.interval.low, result.interval.high, result.interval.suggestion)
    )
    advice = f"use a peak LR of {start}, or search from {low} to {high}"
    return f"{name}: {advice}. Found by {sweeps}: the interval goes {result.rule}."


def recipe_label(recipe: Recipe, baseline: Recipe) -> str:
    """The recipe in one line, with its weight decay where that is not the baseline's."""
    decay = _weight_decay(recipe, baseline)
    return f"{recipe.label}, weight decay {decay}" if decay else recipe.label


def _weight_decay(recipe: Recipe, baseline: Recipe) -> str:
    """That of a recipe whose baseline has the same optimizer with another one; else empty."""
    same = recipe.optimizer != baseline.optimizer or recipe.weight_decay == baseline.weight_decay
    return "" if same else in_words(recipe.weight_decay)


def schedule_sentence(
    recipe: Recipe,
    epochs: int,
    groups: Sequence[ParameterGroup] = (),
    baseline: Recipe | None = None,
) -> str:
    """The whole recipe in one sentence, for someone who will set it up by hand."""
    decay = _weight_decay(recipe, baseline) if baseline else ""
    optimizer = optimizer_title(recipe.optimizer)
    start = (
        f"Train {count(epochs, 'epoch')} with {optimizer} at a peak learning rate of "
        f"{lr(recipe.peak_lr)}{_group_scales(recipe, groups)}{_command(recipe)}"
        f"{f' and a weight decay of {decay}' if decay else ''}"
    )
    warmup = (
        f"warm up linearly over {count(recipe.warmup_epochs, 'epoch')}, then "
        if recipe.warmup_epochs
        else ""
    )
    return f"{start}: {warmup}{recipe.decay.phrase(recipe.span(epochs))}."


def _command(recipe: Recipe) -> str:
    """`, with {batch_size} = 64 in the command`; empty where nothing in it varies."""
    values = ", ".join(f"{{{name}}} = {in_words(value)}" for name, value in recipe.command)
    return f", with {values} in the command" if values else ""


def _group_scales(recipe: Recipe, groups: Sequence[ParameterGroup]) -> str:
    """` (backbone: 0.05 times that)`; empty where every parameter has the same LR."""
    scales = {group.name: group.lr_scale for group in groups} | dict(recipe.group_scales)
    others = [f"{name}: {scale:.3g} times that" for name, scale in scales.items() if scale != 1]
    return f" ({', '.join(others)})" if others else ""
