"""Plain PyTorch, without lrtune: a training loop with the optimizer and the LRs of a recipe."""

import math
from collections.abc import Sequence
from textwrap import indent

from lrtune.core.decays import Plateau
from lrtune.core.recipe import ParameterGroup, Recipe, scaled_groups
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.parts import (
    EXACT,
    LAMBDA_IMPORT,
    PEAKS,
    PLATEAU_IMPORT,
    RAMP,
    lengths,
    monitored,
    multiplier_code,
    optimizer_code,
    optimizer_import,
    plateau_code,
    program,
    swaps_weights,
)
from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule, build_schedule


def export(schedule: Schedule, settings: TrainSettings, groups: Sequence[ParameterGroup]) -> Export:
    """The loop of `torch_code`."""
    recipe = schedule.recipe
    takes = "`model`, `train_loader` and `loss_function`"
    if isinstance(recipe.decay, Plateau):
        takes = "`model`, `train_loader`, `loss_function` and `validate(model)`"
    note = f"{EXACT} The code takes {takes} from where it is pasted."
    if swaps_weights(recipe):
        note += " Validate and save between `optimizer.eval()` and `optimizer.train()`."
    return Export(to="torch", text=_code(schedule, settings, groups), note=note)


def torch_code(
    recipe: Recipe,
    epochs: int,
    steps_per_epoch: int,
    settings: TrainSettings,
    groups: Sequence[ParameterGroup] = (),
) -> str:
    """A training loop with the optimizer and the learning rates of `recipe`.

    It takes `model`, `train_loader` and `loss_function` from where it is pasted and, for a plateau,
    `validate(model)`. The LR at each optimizer step is that of `lrtune.schedules.build_schedule`
    for the length of that loader.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps where the recipe was trained.
        settings: how the recipe was trained.
        groups: the parameter groups that were trained; empty where there was only one.
    """
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return _code(schedule, settings, scaled_groups(recipe, groups))


def _code(schedule: Schedule, settings: TrainSettings, groups: Sequence[ParameterGroup]) -> str:
    recipe = schedule.recipe
    imports = [optimizer_import(recipe), *["import torch"] * math.isfinite(settings.clip_norm)]
    accumulate, steps = [], "len(train_loader)"
    if settings.accumulate > 1:
        accumulate = [f"accumulate = {settings.accumulate}  # batches of an optimizer step"]
        steps = "math.ceil(len(train_loader) / accumulate)"
    constants = [*accumulate, *lengths(schedule, f"{steps}  # optimizer steps")]
    optimizer = optimizer_code(recipe, groups)
    if isinstance(recipe.decay, Plateau):
        rule = plateau_code(schedule, recipe.decay, groups)
        return program(
            [*imports, PLATEAU_IMPORT],
            *constants,
            "",
            optimizer,
            *([PEAKS, rule, "", "step = 0"] if recipe.warmup_epochs else [rule, ""]),
            _plateau_loop(recipe, recipe.decay, settings),
        )
    more, multiplier = multiplier_code(schedule)
    return program(
        [*imports, LAMBDA_IMPORT],
        *constants,
        *more,
        "",
        optimizer,
        multiplier,
        "scheduler = LambdaLR(optimizer, multiplier)",
        "",
        _loop(
            recipe,
            settings,
            after_step="scheduler.step()  # after every optimizer step, not once an epoch",
        ),
    )


def _plateau_loop(recipe: Recipe, decay: Plateau, settings: TrainSettings) -> str:
    """A ramp by hand, and `ReduceLROnPlateau`, which knows no warmup (pytorch#68978)."""
    objective = monitored(decay)
    better = "lower" if objective.direction == "min" else "higher"
    validate = f"metric = validate(model)  # {objective.metric}, of which {better} is better"
    if not recipe.warmup_epochs:
        return _loop(recipe, settings, after_epoch=f"{validate}\nscheduler.step(metric)")
    ramp = RAMP.format(peaks="peaks", step="step", warmup_steps="warmup_steps")
    return _loop(
        recipe,
        settings,
        before_step=f"if step < warmup_steps:\n{indent(ramp, '    ')}",
        after_step="step += 1",
        after_epoch=f"{validate}\n"
        "if step >= warmup_steps:  # earlier epochs say nothing of the peak\n"
        "    scheduler.step(metric)",
    )


_BATCHES = """\
for inputs, targets in train_loader:
    loss_function(model(inputs), targets).backward()"""
_ACCUMULATED_BATCHES = """\
for batch, (inputs, targets) in enumerate(train_loader, start=1):
    (loss_function(model(inputs), targets) / accumulate).backward()
    if batch % accumulate and batch < len(train_loader):
        continue  # the last step of an epoch may have fewer batches"""


def _loop(
    recipe: Recipe,
    settings: TrainSettings,
    *,
    before_step: str = "",
    after_step: str = "",
    after_epoch: str = "",
) -> str:
    """The epochs and steps of a training, with what a schedule adds to them."""
    norm, switches = settings.clip_norm, swaps_weights(recipe)
    clip = f"torch.nn.utils.clip_grad_norm_(model.parameters(), {norm!r})"
    step = [
        clip if math.isfinite(norm) else "",
        before_step,
        "optimizer.step()",
        after_step,
        "optimizer.zero_grad()",
    ]
    epoch = [
        "optimizer.train()  # the weights that it takes its steps at" if switches else "",
        _BATCHES if settings.accumulate == 1 else _ACCUMULATED_BATCHES,
        *(indent(part, "    ") for part in step),
        "optimizer.eval()  # the weights to validate and to keep" if switches else "",
        after_epoch,
    ]
    return "\n".join(
        ["for epoch in range(epochs):", *(indent(part, "    ") for part in epoch if part)]
    )
