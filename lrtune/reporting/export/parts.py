"""What the code for several frameworks is made of: lengths, optimizer, and the multiplier as a function."""

import math
import re
from textwrap import indent
from typing import Any, assert_never

from lrtune.core.optimizers import ABOUT
from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Decay,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
    optimizer_arguments,
)
from lrtune.core.study import TrainSettings
from lrtune.schedules import Schedule


def found_with(settings: TrainSettings) -> str:
    """What a recipe was trained with besides, and its LR depends on, in a sentence."""
    clipped = (
        f", gradients clipped to a norm of {settings.clip_norm:g}"
        if math.isfinite(settings.clip_norm)
        else ""
    )
    smoothed = (
        f", labels smoothed by {settings.label_smoothing:g}" if settings.label_smoothing else ""
    )
    return f"Found with batches of {settings.batch_size}{clipped}{smoothed}."


def is_schedule_free(recipe: Recipe) -> bool:
    """Whether the optimizer has other weights to evaluate than to train (arXiv 2405.15682)."""
    return recipe.optimizer in ("schedule-free-sgd", "schedule-free-adamw")


def optimizer_code(recipe: Recipe, parameters: str = "model.parameters()") -> str:
    """`optimizer = ...`."""
    about = ABOUT[recipe.optimizer]
    name = f"{about.library}.{about.class_name}" if about.is_of_torch else about.class_name
    return f"optimizer = {name}(\n    {parameters}, {', '.join(named(**optimizer_arguments(recipe)))}\n)"


def optimizer_import(recipe: Recipe) -> str:
    """The import that `optimizer_code` needs."""
    about = ABOUT[recipe.optimizer]
    return (
        "import torch" if about.is_of_torch else f"from {about.library} import {about.class_name}"
    )


def named(**arguments: Any) -> list[str]:
    """`lr=0.1`, `nesterov=True`, ... with strings in double quotes."""
    return [f"{name}={repr(value).replace(chr(39), chr(34))}" for name, value in arguments.items()]


def call(function: str, *arguments: str) -> str:
    """A call with one argument a line."""
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in arguments), ")"])


def program(imports: list[str], *parts: str) -> str:
    """Imports, once each, and parts, as a file; a function or class stands between two empty lines."""
    code = "".join(
        f"\n\n{part}\n\n\n" if part.startswith(("def ", "class ", "@")) else f"{part}\n"
        for part in parts
    )
    library = ["import math", ""] if "math." in code else []
    ordered = sorted(set(imports), key=lambda line: (line.startswith("from"), line))
    text = "\n".join([*library, *ordered, "", code])
    return re.sub(r"\n{4,}", "\n\n\n", text).rstrip("\n") + "\n"


IN_A_LOOP = "len(train_loader), unless gradients are accumulated"


def lengths(schedule: Schedule, *, steps: str = IN_A_LOOP, total: bool = False) -> list[str]:
    """The constants that say how long run and warmup are; `steps` says where the steps of an epoch are to be had."""
    lines = [
        f"epochs = {schedule.epochs}",
        f"# Optimizer steps: {steps}.",
        f"steps_per_epoch = {schedule.steps_per_epoch}",
    ]
    if schedule.warmup_steps:
        lines.append(f"warmup_steps = round({schedule.recipe.warmup_epochs!r} * steps_per_epoch)")
    return lines + ["total_steps = epochs * steps_per_epoch"] * total


_MULTIPLIER = '''\
def multiplier(step):
    """What the peak learning rate is multiplied by for step 0, 1, 2, ..."""
{body}'''


def multiplier_code(schedule: Schedule, *, steps: str = IN_A_LOOP) -> tuple[list[str], str]:
    """Constants, and a function from the number of a step to its multiplier."""
    recipe = schedule.recipe
    constants, shape = _shape(recipe.decay)
    body = []
    if schedule.warmup_steps:
        body += ["if step < warmup_steps:", "    return (step + 1) / warmup_steps"]
    if "progress" in shape:
        done = (
            "(step - warmup_steps) / (total_steps - warmup_steps)"
            if schedule.warmup_steps
            else "step / total_steps"
        )
        body.append(f"progress = {done}")
    if recipe.final_frac:
        body += [
            f"shape = {shape}",
            f"return {recipe.final_frac!r} + (1 - {recipe.final_frac!r}) * shape",
        ]
    else:
        body.append(f"return {shape}")
    constants = lengths(schedule, steps=steps, total="progress" in shape) + constants
    return constants, _MULTIPLIER.format(body=indent("\n".join(body), "    "))


def drops_code(decay: StepDecay | MultiStep) -> str:
    """`drops = [...]`: the steps at which a staircase goes down."""
    if isinstance(decay, MultiStep):
        return f"drops = [round(epoch * steps_per_epoch) for epoch in {list(decay.milestones_epochs)!r}]"
    every = decay.every_epochs
    return f"drops = [round(n * {every!r} * steps_per_epoch) for n in range(1, math.ceil(epochs / {every!r}) + 1)]"


def _shape(decay: Decay) -> tuple[list[str], str]:
    """Constants, and the decay as an expression in `progress`, 0 to 1 after warmup, or in `step`."""
    match decay:
        case Constant():
            return [], "1.0"
        case StepDecay(factor=factor) | MultiStep(factor=factor):
            return [drops_code(decay)], f"{factor!r} ** sum(step >= drop for drop in drops)"
        case Cosine():
            return [], "(1 + math.cos(math.pi * progress)) / 2"
        case Linear():
            return [], "1 - progress"
        case Polynomial(power=power):
            return [], f"(1 - progress) ** {power!r}"
        case Exponential(end_frac=end_frac):
            return [], f"{end_frac!r} ** progress"
        case WSD(cooldown_frac=cooldown_frac):
            hold = f"hold = 1 - {cooldown_frac!r}"
            return [
                hold
            ], "1.0 if progress < hold else 1 - math.sqrt((progress - hold) / (1 - hold))"
        case HoldPower(hold_frac=hold_frac, power=power):
            hold = f"hold = {hold_frac!r}"
            return [
                hold
            ], f"1.0 if progress < hold else (1 - (progress - hold) / (1 - hold)) ** {power!r}"
        case Plateau():
            raise AssertionError("a plateau is no function of the step")
        case _:
            assert_never(decay)
