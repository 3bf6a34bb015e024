"""A recipe as code to paste: plain PyTorch, without lrtune."""

from textwrap import indent
from typing import assert_never

from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Decay,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    OptimizerName,
    Plateau,
    Polynomial,
    Recipe,
    Step,
)

_CLASSES: dict[OptimizerName, str] = {
    "sgd": "torch.optim.SGD",
    "adagrad": "torch.optim.Adagrad",
    "rmsprop": "torch.optim.RMSprop",
    "adam": "torch.optim.Adam",
    "adamw": "torch.optim.AdamW",
    "lamb": "Lamb",
    "adabound": "AdaBound",
}


def torch_code(recipe: Recipe, epochs: int, steps_per_epoch: int) -> str:
    """A training loop with the optimizer and the learning rates of `recipe`.

    It takes `model`, `train_loader` and `loss_function` from where it is pasted and, for a plateau, `validate(model)`.
    The LR at each optimizer step is that of `lrtune.schedules.build_schedule`.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps.
    """
    if isinstance(recipe.decay, Plateau):
        constants, rest = _plateau_loop(recipe, recipe.decay)
    else:
        constants, rest = _lambda_loop(recipe)
    lengths = [
        f"epochs = {epochs}",
        "# Optimizer steps: len(train_loader), unless gradients are accumulated.",
        f"steps_per_epoch = {steps_per_epoch}",
    ]
    if recipe.warmup_epochs:
        lengths.append(f"warmup_steps = round({recipe.warmup_epochs!r} * steps_per_epoch)")
    code = "\n".join([*lengths, *constants, "", _optimizer(recipe), rest])
    imports = ["import math", ""] if "math." in code else []
    imports.append("import torch")
    if recipe.optimizer in ("lamb", "adabound"):
        imports.append(f"from pytorch_optimizer import {_CLASSES[recipe.optimizer]}")
    return "\n".join([*imports, "", code])


def _optimizer(recipe: Recipe) -> str:
    # At the peak LR, whatever the schedule: AdaBound reads its base LR when it is built.
    nesterov = recipe.nesterov and recipe.momentum > 0  # torch refuses the one without the other
    momentum = f", momentum={recipe.momentum!r}, nesterov={nesterov}" if recipe.optimizer == "sgd" else ""
    arguments = f"lr={recipe.peak_lr!r}{momentum}, weight_decay={recipe.weight_decay!r}"
    return f"optimizer = {_CLASSES[recipe.optimizer]}(\n    model.parameters(), {arguments}\n)"


_LAMBDA_LOOP = '''

def multiplier(step):
    """What the peak learning rate is multiplied by for step 0, 1, 2, ..."""
{body}


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)

for epoch in range(epochs):
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss_function(model(images), labels).backward()
        optimizer.step()
        scheduler.step()  # after every optimizer step, not once an epoch
'''


def _lambda_loop(recipe: Recipe) -> tuple[list[str], str]:
    """Constants, and `LambdaLR` stepped once an optimizer step."""
    constants, shape = _shape(recipe.decay)
    body = []
    if recipe.warmup_epochs:
        body += ["if step < warmup_steps:", "    return (step + 1) / warmup_steps"]
    if "progress" in shape:
        constants.insert(0, "total_steps = epochs * steps_per_epoch")
        done = "(step - warmup_steps) / (total_steps - warmup_steps)" if recipe.warmup_epochs else "step / total_steps"
        body.append(f"progress = {done}")
    if recipe.final_frac:
        body += [f"shape = {shape}", f"return {recipe.final_frac!r} + (1 - {recipe.final_frac!r}) * shape"]
    else:
        body.append(f"return {shape}")
    return constants, _LAMBDA_LOOP.format(body=indent("\n".join(body), "    "))


def _shape(decay: Decay) -> tuple[list[str], str]:
    """Constants, and the decay as an expression in `progress`, 0 to 1 after warmup, or in `step`."""
    match decay:
        case Constant():
            return [], "1.0"
        case Step(every_epochs=every, factor=factor):
            times = f"range(1, math.ceil(epochs / {every!r}) + 1)"
            drops = f"drops = [round(n * {every!r} * steps_per_epoch) for n in {times}]"
            return [drops], f"{factor!r} ** sum(step >= drop for drop in drops)"
        case MultiStep(milestones_epochs=milestones, factor=factor):
            drops = f"drops = [round(epoch * steps_per_epoch) for epoch in {list(milestones)!r}]"
            return [drops], f"{factor!r} ** sum(step >= drop for drop in drops)"
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
            return [hold], "1.0 if progress < hold else 1 - math.sqrt((progress - hold) / (1 - hold))"
        case HoldPower(hold_frac=hold_frac, power=power):
            hold = f"hold = {hold_frac!r}"
            return [hold], f"1.0 if progress < hold else (1 - (progress - hold) / (1 - hold)) ** {power!r}"
        case Plateau():
            raise AssertionError("a plateau is no function of the step")
        case _:
            assert_never(decay)


_PLATEAU_LOOP = """scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
    optimizer,
    mode="{mode}",
    factor={decay.factor!r},
    patience={decay.patience_epochs!r},
    threshold={decay.threshold!r},
    threshold_mode="{decay.threshold_mode}",
    cooldown={decay.cooldown_epochs!r},
    min_lr={min_lr!r},
    eps=0,
)

for epoch in range(epochs):
    for {batch} in {batches}:{ramp}
        optimizer.zero_grad()
        loss_function(model(images), labels).backward()
        optimizer.step()
    {metric} = validate(model)  # {meaning}
    {observe}
"""

_RAMP = """
        if step < warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * (step + 1) / warmup_steps"""


def _plateau_loop(recipe: Recipe, decay: Plateau) -> tuple[list[str], str]:
    """Constants, a ramp by hand, and `ReduceLROnPlateau` stepped once an epoch; it knows no warmup (pytorch#68978)."""
    metric, meaning, mode = {
        "val_loss": ("val_loss", "validation loss of this epoch", "min"),
        "top1": ("top1", "validation Top-1 of this epoch, percent", "max"),
    }[decay.monitor]
    loop = _PLATEAU_LOOP.format(
        decay=decay,
        mode=mode,
        min_lr=recipe.final_frac * recipe.peak_lr,
        metric=metric,
        meaning=meaning,
        batch="step, (images, labels)" if recipe.warmup_epochs else "images, labels",
        batches="enumerate(train_loader, epoch * steps_per_epoch)" if recipe.warmup_epochs else "train_loader",
        ramp=_RAMP if recipe.warmup_epochs else "",
        observe=(
            f"if (epoch + 1) * steps_per_epoch >= warmup_steps:  # earlier epochs say nothing of the peak\n"
            f"        scheduler.step({metric})"
            if recipe.warmup_epochs
            else f"scheduler.step({metric})"
        ),
    )
    return ([f"peak_lr = {recipe.peak_lr!r}"] if recipe.warmup_epochs else []), loop
