"""Plain PyTorch, without lrtune: a training loop with the optimizer and the learning rates of a recipe."""

import math
from dataclasses import dataclass
from typing import Any

from lrtune.core.recipe import (
    Cosine,
    Exponential,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.parts import (
    IN_A_LOOP,
    call,
    drops_code,
    is_schedule_free,
    lengths,
    multiplier_code,
    named,
    optimizer_code,
    optimizer_import,
    program,
)
from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule, build_schedule

PLATEAU_IMPORT = "from torch.optim.lr_scheduler import ReduceLROnPlateau"
PLATEAU_METRICS = {
    "val_loss": "validation loss of this epoch",
    "top1": "validation Top-1 of this epoch, percent",
}
"""What each monitored metric means."""


def export(schedule: Schedule, settings: TrainSettings) -> Export:
    """The loop of `torch_code`; always exact."""
    recipe = schedule.recipe
    note = "Exact at every step. It takes `model`, `train_loader` and `loss_function` from where it is pasted"
    note += (
        " and, for the plateau, `validate(model)`." if isinstance(recipe.decay, Plateau) else "."
    )
    if is_schedule_free(recipe):
        note += " Validate and save between `optimizer.eval()` and `optimizer.train()`."
    return Export(to="torch", text=_code(schedule, settings), note=note)


def torch_code(recipe: Recipe, epochs: int, steps_per_epoch: int, settings: TrainSettings) -> str:
    """A training loop with the optimizer and the learning rates of `recipe`, its gradients clipped as they were.

    It takes `model`, `train_loader` and `loss_function` from where it is pasted and, for a plateau,
    `validate(model)`. The LR at each optimizer step is that of `lrtune.schedules.build_schedule`.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps.
        settings: how the recipe was trained.
    """
    return _code(build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch), settings)


def _code(schedule: Schedule, settings: TrainSettings) -> str:
    recipe = schedule.recipe
    imports = [optimizer_import(recipe), *["import torch"] * math.isfinite(settings.clip_norm)]
    if isinstance(recipe.decay, Plateau):
        return _with_plateau(schedule, recipe.decay, settings, imports)
    scheduler = scheduler_code(schedule)
    return program(
        [*imports, scheduler.imports],
        *scheduler.constants,
        "",
        optimizer_code(recipe),
        *scheduler.definitions,
        f"scheduler = {scheduler.expression}",
        "",
        _loop(recipe, settings, after_step=_SCHEDULER_STEP),
    )


@dataclass(frozen=True, kw_only=True)
class SchedulerCode:
    """A scheduler of torch that is stepped after every optimizer step, as code."""

    imports: str
    constants: list[str]
    definitions: tuple[str, ...] = ()
    """Functions that the expression uses."""
    expression: str
    """Builds the scheduler of `optimizer`."""


def scheduler_code(schedule: Schedule, *, steps: str = IN_A_LOOP) -> SchedulerCode:
    """The scheduler of torch that has the very LRs of `schedule`, or `LambdaLR` where none has them."""
    decay_steps = "total_steps - warmup_steps" if schedule.warmup_steps else "total_steps"
    native = _native(schedule, decay_steps)
    if native is None:
        constants, multiplier = multiplier_code(schedule, steps=steps)
        return SchedulerCode(
            imports="from torch.optim.lr_scheduler import LambdaLR",
            constants=constants,
            definitions=(multiplier,),
            expression="LambdaLR(optimizer, multiplier)",
        )
    classes = [native.partition("(")[0]]
    if schedule.warmup_steps:
        classes += ["LinearLR", "SequentialLR"]
        native = _WARMUP.format(native=native)
    decay = schedule.recipe.decay
    return SchedulerCode(
        imports=f"from torch.optim.lr_scheduler import {', '.join(sorted(set(classes)))}",
        constants=[
            *lengths(schedule, steps=steps, total="total_steps" in native),
            *([drops_code(decay)] if isinstance(decay, StepDecay | MultiStep) else []),
        ],
        expression=native,
    )


# LinearLR is (t + 1) / W for t < W, and the decay starts anew at step W.
_WARMUP = """SequentialLR(
    optimizer,
    [
        LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=warmup_steps - 1),
        {native},
    ],
    milestones=[warmup_steps],
)"""


def _native(schedule: Schedule, decay_steps: str) -> str | None:
    """The decay as a scheduler of torch, where one has its LRs; of them only cosine and line know a floor."""
    recipe, warmup_steps = schedule.recipe, schedule.warmup_steps
    if warmup_steps == 1:  # a line of one point
        return None
    floor = recipe.final_frac
    match recipe.decay:
        case Cosine():
            eta_min = f", eta_min={floor * recipe.peak_lr!r}" if floor else ""
            return f"CosineAnnealingLR(optimizer, T_max={decay_steps}{eta_min})"
        case Linear():
            return f"LinearLR(optimizer, start_factor=1.0, end_factor={floor!r}, total_iters={decay_steps})"
        case Polynomial(power=power) if not floor:
            return f"PolynomialLR(optimizer, total_iters={decay_steps}, power={power!r})"
        case Exponential(end_frac=end_frac) if not floor:
            steps = f"({decay_steps})" if schedule.warmup_steps else decay_steps
            return f"ExponentialLR(optimizer, gamma={end_frac!r} ** (1 / {steps}))"
        case StepDecay(every_epochs=every) | MultiStep(milestones_epochs=(every, *_)) if (
            not floor and not warmup_steps
        ):
            starts_at_once = (
                round(every * schedule.steps_per_epoch) == 0
            )  # MultiStepLR looks from step 1 on
            factor = recipe.decay.factor
            return (
                None
                if starts_at_once
                else f"MultiStepLR(optimizer, milestones=drops, gamma={factor!r})"
            )
        case _:
            return None


def _with_plateau(
    schedule: Schedule, decay: Plateau, settings: TrainSettings, imports: list[str]
) -> str:
    """A ramp by hand, and `ReduceLROnPlateau` stepped once an epoch; it knows no warmup (pytorch#68978)."""
    recipe, metric = schedule.recipe, decay.monitor
    validate = f"\n    {metric} = validate(model)  # {PLATEAU_METRICS[metric]}"
    if schedule.warmup_steps:
        peak = [f"peak_lr = {recipe.peak_lr!r}"]
        loop = _loop(
            recipe,
            settings,
            batches="step, (images, labels) in enumerate(train_loader, epoch * steps_per_epoch)",
            before_step=_RAMP,
            after_epoch=validate + _PLATEAU_STEP_AFTER_WARMUP.format(metric=metric),
        )
    else:
        peak = []
        loop = _loop(recipe, settings, after_epoch=f"{validate}\n    scheduler.step({metric})")
    return program(
        [*imports, PLATEAU_IMPORT],
        *lengths(schedule),
        *peak,
        "",
        optimizer_code(recipe),
        plateau_code(schedule, decay),
        "",
        loop,
    )


def plateau_code(schedule: Schedule, decay: Plateau) -> str:
    """`scheduler = ReduceLROnPlateau(...)`, which is stepped with a metric after every epoch."""
    return call(
        "scheduler = ReduceLROnPlateau", "optimizer", *named(**plateau_arguments(schedule, decay))
    )


def plateau_arguments(schedule: Schedule, decay: Plateau) -> dict[str, Any]:
    """What `ReduceLROnPlateau` is built with, besides the optimizer."""
    return {
        "mode": "min" if decay.monitor == "val_loss" else "max",
        "factor": decay.factor,
        "patience": decay.patience_epochs,
        "threshold": decay.threshold,
        "threshold_mode": decay.threshold_mode,
        "cooldown": decay.cooldown_epochs,
        "min_lr": schedule.recipe.final_frac * schedule.recipe.peak_lr,
        "eps": 0,
    }


_LOOP = """\
for epoch in range(epochs):{train}
    for {batches}:{before_step}
        optimizer.zero_grad()
        loss_function(model(images), labels).backward(){clip}
        optimizer.step(){after_step}{eval}{after_epoch}"""
_TRAIN = "\n    optimizer.train()  # the weights that it takes its steps at"
_EVAL = "\n    optimizer.eval()  # the weights to validate and to keep"
_SCHEDULER_STEP = "\n        scheduler.step()  # after every optimizer step, not once an epoch"
_RAMP = """
        if step < warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * (step + 1) / warmup_steps"""
_PLATEAU_STEP_AFTER_WARMUP = """
    if (epoch + 1) * steps_per_epoch >= warmup_steps:  # earlier epochs say nothing of the peak
        scheduler.step({metric})"""


def _loop(
    recipe: Recipe, settings: TrainSettings, *, batches: str = "images, labels in train_loader",
    before_step: str = "", after_step: str = "", after_epoch: str = "",
) -> str:  # fmt: skip
    """The epochs and steps of a training, with what a schedule adds to them."""
    norm, switches = settings.clip_norm, is_schedule_free(recipe)
    return _LOOP.format(
        batches=batches,
        before_step=before_step,
        clip=f"\n        torch.nn.utils.clip_grad_norm_(model.parameters(), {norm!r})"
        if math.isfinite(norm)
        else "",
        after_step=after_step,
        train=_TRAIN if switches else "",
        eval=_EVAL if switches else "",
        after_epoch=after_epoch,
    )
