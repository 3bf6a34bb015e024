"""Plain PyTorch, without lrtune: a training loop with the optimizer and the learning rates of a recipe."""

import math
from dataclasses import dataclass

from lrtune.core.recipe import Cosine, Exponential, Linear, MultiStep, Plateau, Polynomial, Recipe, Step
from lrtune.core.study import TrainSettings
from lrtune.report.export.parts import (
    IN_A_LOOP,
    drops_code,
    is_schedule_free,
    lengths,
    multiplier_code,
    optimizer_code,
    optimizer_import,
    program,
)
from lrtune.report.export.result import Export
from lrtune.schedules import Schedule, build_schedule

PLATEAU_METRICS = {
    "val_loss": ("val_loss", "validation loss of this epoch", "min"),
    "top1": ("top1", "validation Top-1 of this epoch, percent", "max"),
}
"""By what is monitored: variable, meaning, mode."""


def export(schedule: Schedule, settings: TrainSettings) -> Export:
    """The loop of `torch_code`; always exact."""
    recipe = schedule.recipe
    note = "Exact at every step. It takes `model`, `train_loader` and `loss_function` from where it is pasted"
    note += " and, for the plateau, `validate(model)`." if isinstance(recipe.decay, Plateau) else "."
    if is_schedule_free(recipe):
        note += " Validate and save between `optimizer.eval()` and `optimizer.train()`."
    return Export(to="torch", text=_code(schedule, settings), language="python", note=note)


def torch_code(recipe: Recipe, epochs: int, steps_per_epoch: int, settings: TrainSettings) -> str:
    """A training loop with the optimizer and the learning rates of `recipe`, its gradients clipped as they were.

    It takes `model`, `train_loader` and `loss_function` from where it is pasted and, for a plateau, `validate(model)`.
    The LR at each optimizer step is that of `lrtune.schedules.build_schedule`.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps.
        settings: how the recipe was trained.
    """
    return _code(build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch), settings)


def _code(schedule: Schedule, settings: TrainSettings) -> str:
    recipe = schedule.recipe
    clips = math.isfinite(settings.clip_norm)
    imports = [optimizer_import(recipe), *["import torch"] * clips]
    clip = f"\n        torch.nn.utils.clip_grad_norm_(model.parameters(), {settings.clip_norm!r})" if clips else ""
    if isinstance(recipe.decay, Plateau):
        return _plateau_loop(schedule, recipe.decay, imports, clip)
    scheduler = scheduler_code(schedule)
    return program(
        [*imports, scheduler.imports],
        *scheduler.constants,
        "",
        optimizer_code(recipe),
        *scheduler.definitions,
        f"scheduler = {scheduler.expression}",
        "",
        _LOOP.format(
            batch="images, labels",
            batches="train_loader",
            ramp="",
            train=_TRAIN if is_schedule_free(recipe) else "",
            clip=clip,
            after_step="\n        scheduler.step()  # after every optimizer step, not once an epoch",
            after_epoch=_EVAL if is_schedule_free(recipe) else "",
        ),
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
            *([drops_code(decay)] if isinstance(decay, Step | MultiStep) else []),
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
        case Step(every_epochs=every) | MultiStep(milestones_epochs=(every, *_)) if not floor and not warmup_steps:
            starts_at_once = round(every * schedule.steps_per_epoch) == 0  # MultiStepLR looks from step 1 on
            factor = recipe.decay.factor
            return None if starts_at_once else f"MultiStepLR(optimizer, milestones=drops, gamma={factor!r})"
        case _:
            return None


_TRAIN = "\n    optimizer.train()  # the weights that it takes its steps at"
_EVAL = "\n    optimizer.eval()  # the weights to validate and to keep"
_LOOP = """\
for epoch in range(epochs):{train}
    for {batch} in {batches}:{ramp}
        optimizer.zero_grad()
        loss_function(model(images), labels).backward(){clip}
        optimizer.step(){after_step}{after_epoch}"""

_RAMP = """
        if step < warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * (step + 1) / warmup_steps"""


def plateau_code(schedule: Schedule, decay: Plateau) -> str:
    """`scheduler = ReduceLROnPlateau(...)`, which is stepped with a metric after every epoch."""
    mode = PLATEAU_METRICS[decay.monitor][2]
    return f"""scheduler = ReduceLROnPlateau(
    optimizer,
    mode="{mode}",
    factor={decay.factor!r},
    patience={decay.patience_epochs!r},
    threshold={decay.threshold!r},
    threshold_mode="{decay.threshold_mode}",
    cooldown={decay.cooldown_epochs!r},
    min_lr={schedule.recipe.final_frac * schedule.recipe.peak_lr!r},
    eps=0,
)"""


PLATEAU_IMPORT = "from torch.optim.lr_scheduler import ReduceLROnPlateau"


def _plateau_loop(schedule: Schedule, decay: Plateau, imports: list[str], clip: str) -> str:
    """A ramp by hand, and `ReduceLROnPlateau` stepped once an epoch; it knows no warmup (pytorch#68978)."""
    recipe = schedule.recipe
    metric, meaning, _ = PLATEAU_METRICS[decay.monitor]
    after_epoch = _EVAL if is_schedule_free(recipe) else ""
    after_epoch += f"\n    {metric} = validate(model)  # {meaning}"
    if schedule.warmup_steps:
        after_epoch += (
            "\n    if (epoch + 1) * steps_per_epoch >= warmup_steps:  # earlier epochs say nothing of the peak"
        )
        after_epoch += f"\n        scheduler.step({metric})"
    else:
        after_epoch += f"\n    scheduler.step({metric})"
    return program(
        [*imports, PLATEAU_IMPORT],
        *lengths(schedule),
        *([f"peak_lr = {recipe.peak_lr!r}"] if schedule.warmup_steps else []),
        "",
        optimizer_code(recipe),
        plateau_code(schedule, decay),
        "",
        _LOOP.format(
            batch="step, (images, labels)" if schedule.warmup_steps else "images, labels",
            batches="enumerate(train_loader, epoch * steps_per_epoch)" if schedule.warmup_steps else "train_loader",
            ramp=_RAMP if schedule.warmup_steps else "",
            train=_TRAIN if is_schedule_free(recipe) else "",
            clip=clip,
            after_step="",
            after_epoch=after_epoch,
        ),
    )
