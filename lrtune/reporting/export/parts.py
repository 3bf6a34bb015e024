"""What the code for several frameworks shares: optimizer, lengths, multiplier, plateau."""

import ast
import json
import math
import re
from collections.abc import Sequence
from textwrap import indent
from typing import Any

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import ParameterGroup, Recipe, optimizer_arguments
from lrtune.core.study import TrainSettings
from lrtune.schedules import Schedule

EXACT = "Exact at every step."
LAMBDA_IMPORT = "from torch.optim.lr_scheduler import LambdaLR"
PLATEAU_IMPORT = "from torch.optim.lr_scheduler import ReduceLROnPlateau"


def found_with(settings: TrainSettings) -> str:
    """A sentence on the settings that the recipe was trained with, on which its LR depends."""
    clipped = (
        f", gradients clipped to a norm of {settings.clip_norm:g}"
        if math.isfinite(settings.clip_norm)
        else ""
    )
    smoothed = (
        f", labels smoothed by {settings.label_smoothing:g}" if settings.label_smoothing else ""
    )
    return f"Found with batches of {settings.batch_size}{clipped}{smoothed}."


def swaps_weights(recipe: Recipe) -> bool:
    """Whether the optimizer evaluates other weights than those it takes its steps at."""
    return OPTIMIZERS[recipe.optimizer].swaps_weights


def optimizer_import(recipe: Recipe) -> str:
    """The import that `optimizer_code` needs."""
    facts = OPTIMIZERS[recipe.optimizer]
    return (
        "import torch" if facts.is_of_torch else f"from {facts.library} import {facts.class_name}"
    )


def optimizer_code(
    recipe: Recipe, groups: Sequence[ParameterGroup], parameters: str = "model.parameters()"
) -> str:
    """`optimizer = ...`, after the list of its parameter groups where there are several.

    A group's LR is the peak LR times its scale. `LambdaLR` multiplies each group's own LR, so that
    the groups keep their ratio.
    """
    facts = OPTIMIZERS[recipe.optimizer]
    name = f"{facts.library}.{facts.class_name}" if facts.is_of_torch else facts.class_name
    lines = []
    if groups:
        parameters = "groups"
        lines = ["groups = [  # put the parameters of each group in place of the ..."]
        for group in groups:
            lr = f"{recipe.peak_lr!r} * {group.lr_scale!r}"
            lines.append(f'    {{"params": ..., "lr": {lr}, "name": {json.dumps(group.name)}}},')
        lines.append("]")
    arguments = ", ".join(named(**optimizer_arguments(recipe)))
    return "\n".join([*lines, f"optimizer = {name}(", f"    {parameters}, {arguments}", ")"])


def named(**arguments: Any) -> list[str]:
    """`lr=0.1`, `nesterov=True`, ... with strings in double quotes."""
    return [f"{name}={repr(value).replace(chr(39), chr(34))}" for name, value in arguments.items()]


def call(function: str, *arguments: str) -> str:
    """A call with one argument a line."""
    return "\n".join([f"{function}(", *(f"    {argument}," for argument in arguments), ")"])


def program(imports: Sequence[str], *parts: str) -> str:
    """Imports, once each, and parts, as a file.

    A function or a class stands between two empty lines.
    """
    code = "".join(
        f"\n\n{part}\n\n\n" if part.startswith(("def ", "class ")) else f"{part}\n"
        for part in parts
    )
    library = [f"import {name}" for name in ("bisect", "math") if f"{name}." in code]
    ordered = sorted(set(imports), key=lambda line: (line.startswith("from"), line))
    text = "\n".join([*library, *[""] * bool(library), *ordered, "", code])
    return re.sub(r"\n{4,}", "\n\n\n", text).rstrip("\n") + "\n"


def lengths(schedule: Schedule, steps_per_epoch: str) -> list[str]:
    """The lengths of the run and of the warmup, in optimizer steps.

    Args:
        schedule: for its epochs and those of its warmup.
        steps_per_epoch: the expression for the optimizer steps in an epoch of the user's program.
    """
    lines = [f"epochs = {schedule.epochs}", f"steps_per_epoch = {steps_per_epoch}"]
    if schedule.recipe.warmup_epochs:
        lines.append(f"warmup_steps = round({schedule.recipe.warmup_epochs!r} * steps_per_epoch)")
    return lines


_MULTIPLIER = '''\
def multiplier(step):
    """What the peak learning rate is multiplied by for step 0, 1, 2, ..."""
{body}'''


def multiplier_code(schedule: Schedule) -> tuple[list[str], str]:
    """Constants to follow `lengths`, and the function from a step to its multiplier.

    `LambdaLR` asks for one step more than there are. That step, and any other past the planned end,
    has the multiplier of the last one.
    """
    recipe, decay = schedule.recipe, schedule.recipe.decay
    variables = _variables(decay.shape)
    constants, body = [], []
    if variables & {"p", "step"}:
        constants.append("total_steps = epochs * steps_per_epoch")
        body.append("step = min(step, total_steps - 1)  # past the end the last value holds")
    constants += [f"{name} = {value!r}" for name, value in decay.parameters.items()]
    constants += [f"{name} = {expression}" for name, expression in decay.where.items()]
    if recipe.warmup_epochs:
        body += ["if step < warmup_steps:", "    return (step + 1) / warmup_steps"]
    if "p" in variables:
        done = "(step - warmup_steps) / (total_steps - warmup_steps)"
        done = done if recipe.warmup_epochs else "step / total_steps"
        body.append(f"p = {done}  # share of the decay done")
    if recipe.final_frac:
        constants.append(f"final_frac = {recipe.final_frac!r}")
        body += [f"shape = {decay.shape}", "return final_frac + (1 - final_frac) * shape"]
    else:
        body.append(f"return {decay.shape}")
    return constants, _MULTIPLIER.format(body=indent("\n".join(body), "    "))


def _variables(expression: str) -> set[str]:
    """Names of the variables in an expression."""
    return {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}


def monitored(decay: Plateau) -> Objective:
    """The metric that a plateau monitors, and its direction."""
    return Objective.parse(decay.monitor)


PEAKS = 'peaks = [group["lr"] for group in optimizer.param_groups]'
"""For the warmup of a plateau, which starts from each group's own LR."""

RAMP = """\
for group, peak in zip(optimizer.param_groups, {peaks}):
    group["lr"] = peak * ({step} + 1) / {warmup_steps}"""


def plateau_code(
    schedule: Schedule, decay: Plateau, groups: Sequence[ParameterGroup], name: str = "scheduler"
) -> str:
    """`scheduler = ReduceLROnPlateau(...)`, which is stepped with a metric after every epoch."""
    floor = schedule.recipe.final_frac
    min_lr = f"{floor!r} * {schedule.recipe.peak_lr!r}" if floor else "0.0"
    if floor and groups:
        min_lr = f'[{floor!r} * group["lr"] for group in optimizer.param_groups]'
    arguments = named(
        mode=monitored(decay).direction,
        factor=decay.factor,
        patience=decay.patience_epochs,
        threshold=decay.threshold,
        threshold_mode=decay.threshold_mode,
        cooldown=decay.cooldown_epochs,
    )
    ends = (f"min_lr={min_lr}", "eps=0")
    return call(f"{name} = ReduceLROnPlateau", "optimizer", *arguments, *ends)
