"""timm: a command line of its train.py where that can say the recipe, and code to put into train.py."""

import shlex
from bisect import bisect_right
from collections.abc import Callable
from math import isfinite, sqrt
from textwrap import indent
from typing import Any

from lrtune.core.errors import InputError
from lrtune.core.optimizers import ABOUT
from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.parts import (
    call,
    is_schedule_free,
    lengths,
    multiplier_code,
    named,
    optimizer_code,
    optimizer_import,
    program,
)
from lrtune.reporting.export.result import Export, largest_deviation
from lrtune.reporting.export.torch import PLATEAU_IMPORT, plateau_code
from lrtune.schedules import Schedule

_CLASS = '''\
class Schedule(Scheduler):
    """train.py calls `step_update(num_updates)` after each optimizer step."""

    def __init__(self, optimizer):
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.step_update(0)

    def _get_lr(self, t):
        return [base * multiplier(t) for base in self.base_values]'''

_PLATEAU_CLASS = '''\
class Schedule(Scheduler):
    """train.py calls `step_update` after each optimizer step, and `step` after each epoch."""

    def __init__(self, optimizer):
        super().__init__(optimizer, "lr")
{rule}
        self.step_update(0)

    def _get_lr(self, t):
        return [base * (t + 1) / warmup_steps for base in self.base_values]

    def step_update(self, num_updates, metric=None):
        if num_updates < warmup_steps:
            self.update_groups(self._get_lr(num_updates))

    def step(self, epoch, metric=None):
        if epoch * steps_per_epoch >= warmup_steps:  # earlier epochs say nothing of the peak
            self.plateau.step(metric)'''


def export(schedule: Schedule, settings: TrainSettings) -> Export:
    """Code, under the command line that comes closest to it.

    Raises:
        InputError: an optimizer that train.py cannot drive.
    """
    recipe = schedule.recipe
    if is_schedule_free(recipe):
        raise InputError(
            f"timm's train.py must call the optimizer's `train()` and `eval()` for {recipe.optimizer}, and does not; "
            "use the loop of `--to torch`, with a timm model."
        )
    training = _training(settings)
    in_place = "Put the code in place of train.py's optimizer and lr_scheduler, and run it with `--sched-on-updates"
    in_place += f" {shlex.join(training)}`"
    has_command = ABOUT[recipe.optimizer].is_of_torch and float(recipe.warmup_epochs).is_integer()
    said = _arguments(schedule) if has_command else None
    if said is None:
        note = f"Exact at every step. train.py has no command line for this recipe. {in_place}"
        if isinstance(recipe.decay, Plateau):
            note += (
                f" and `--eval-metric {'loss' if recipe.decay.monitor == 'val_loss' else 'top1'}`"
            )
        return Export(to="timm", text=_code(schedule), note=f"{note}.")
    arguments, theirs = said
    deviation = largest_deviation(schedule, theirs)
    command = f"# {_command(recipe, arguments, training)}\n"
    if deviation == 0:
        text, note = (
            command + _factories(schedule, arguments),
            f"Exact at every step. {_SAME_LENGTH}",
        )
    else:
        text = command + _code(schedule)
        note = f"The command line is up to {deviation:.2g} of the peak LR off: {_why(schedule, theirs)}."
        note += f" The code is exact. {in_place}. {_SAME_LENGTH}"
    if recipe.weight_decay:
        note += " train.py takes biases and norms out of the weight decay."
    return Export(to="timm", text=text, deviation=deviation, note=note)


_SAME_LENGTH = "It holds for the same number of updates an epoch."


def _why(schedule: Schedule, theirs: Callable[[int], float]) -> str:
    off = [
        step for step in range(schedule.total_steps) if abs(theirs(step) - schedule(step)) > 1e-9
    ]
    reasons = (
        ["its warmup comes to the peak one update late"] if off[0] < schedule.warmup_steps else []
    )
    if off[-1] >= schedule.warmup_steps:
        early = isinstance(schedule.recipe.decay, MultiStep)
        reasons.append(
            "it drops one update early" if early else "its decay is counted in whole updates"
        )
    return " and ".join(reasons)


def _arguments(schedule: Schedule) -> tuple[dict[str, Any], Callable[[int], float]] | None:
    """Arguments of `create_scheduler_v2` that train.py has too, and the multiplier that they lead to; or nothing.

    train.py counts epochs, warmup epochs and milestones in whole ones. With `warmup_prefix` its
    `epochs` are without the warmup, and the decay begins after it.
    """
    recipe, floor = schedule.recipe, schedule.recipe.final_frac
    warmup_epochs, warmup_steps = int(recipe.warmup_epochs), schedule.warmup_steps
    prefix = {"num_epochs": schedule.epochs - warmup_epochs, "warmup_prefix": warmup_steps > 0}
    min_lr = {"min_lr": floor * recipe.peak_lr}
    after: Callable[[int], float] = schedule
    match recipe.decay:
        case Constant():
            chosen = {"sched": "constant", "num_epochs": schedule.epochs}
        case Cosine():
            chosen = {"sched": "cosine", **prefix, **min_lr}
        case Linear():
            chosen = {"sched": "poly", "decay_rate": 1.0, **prefix, **min_lr}
        case Polynomial(power=power):
            chosen = {"sched": "poly", "decay_rate": power, **prefix, **min_lr}
        case WSD(cooldown_frac=cooldown_frac) if round(
            cooldown_frac * (schedule.total_steps - warmup_steps)
        ):
            # A number below 1 is a fraction, any other is epochs.
            length = cooldown_frac if cooldown_frac < 1 else float(schedule.epochs - warmup_epochs)
            chosen = {
                "sched": "wsd",
                "decay_epochs": length,
                "num_epochs": schedule.epochs,
                **min_lr,
            }
            after = _wsd(schedule, cooldown_frac)
        case StepDecay(every_epochs=every, factor=factor) if not floor:
            chosen = {
                "sched": "step",
                "decay_epochs": every,
                "decay_rate": factor,
                "num_epochs": schedule.epochs,
            }
            after = _step(every * schedule.steps_per_epoch, factor)
        case MultiStep(milestones_epochs=milestones, factor=factor) if not floor and _are_whole(
            milestones
        ):
            whole = [int(epoch) for epoch in milestones]
            chosen = {"sched": "multistep", "decay_milestones": whole, "decay_rate": factor}
            chosen |= {"num_epochs": schedule.epochs}
            after = _multistep([epoch * schedule.steps_per_epoch for epoch in whole], factor)
        case _:
            return None
    warmup: dict[str, float] = {"warmup_epochs": warmup_epochs}
    if warmup_steps:
        warmup |= {"warmup_lr": recipe.peak_lr / warmup_steps}
    return chosen | warmup, lambda t: _ramp(t, warmup_steps) if t < warmup_steps else after(t)


def _are_whole(epochs: tuple[float, ...]) -> bool:
    return all(float(epoch).is_integer() for epoch in epochs)


def _ramp(step: int, warmup_steps: int) -> float:
    """From `warmup_lr = peak / W`, what timm adds a step would come to the peak at step W (`Scheduler._get_lr`)."""
    first = 1 / warmup_steps
    return first + step * (1 - first) / warmup_steps


def _step(decay_t: float, factor: float) -> Callable[[int], float]:
    """`StepLRScheduler._get_lr`, counted from the start of training."""
    return lambda t: factor ** (t // decay_t)


def _multistep(decay_t: list[int], factor: float) -> Callable[[int], float]:
    """`MultiStepLRScheduler._get_lr`: milestone `m` holds from step `m - 1` on."""
    return lambda t: factor ** bisect_right(decay_t, t + 1)


def _wsd(schedule: Schedule, cooldown_frac: float) -> Callable[[int], float]:
    """`WSDLRScheduler._get_lr`, with the cooldown in whole steps as `create_scheduler_v2` rounds it."""
    warmup_steps, floor = schedule.warmup_steps, schedule.recipe.final_frac
    steps = schedule.total_steps - warmup_steps
    cooldown_steps = round(cooldown_frac * steps)

    def multiplier(step: int) -> float:
        cooled = step - warmup_steps - (steps - cooldown_steps)
        return 1.0 if cooled <= 0 else floor + (1 - floor) * (1 - sqrt(cooled / cooldown_steps))

    return multiplier


def _optimizer_arguments(recipe: Recipe) -> dict[str, Any]:
    """Of `create_optimizer_v2`, with torch's own defaults where timm has others."""
    name: dict[str, Any] = {
        "opt": recipe.optimizer,
        "lr": recipe.peak_lr,
        "weight_decay": recipe.weight_decay,
    }
    match recipe.optimizer:
        case "sgd":
            return name | {
                "opt": "sgd" if recipe.uses_nesterov else "momentum",
                "momentum": recipe.momentum,
            }
        case "adagrad":
            return name | {"eps": 1e-10}
        case "rmsprop":
            return name | {"momentum": 0.0, "alpha": 0.99}
        case _:
            return name


def _training(settings: TrainSettings) -> list[str]:
    """The flags of train.py for how a recipe was trained; by itself it smooths labels by 0.1."""
    flags: dict[str, float] = {"batch-size": settings.batch_size // settings.accumulate}
    flags["smoothing"] = settings.label_smoothing
    if settings.accumulate > 1:
        flags["grad-accum-steps"] = settings.accumulate
    if isfinite(settings.clip_norm):
        flags["clip-grad"] = settings.clip_norm
    return [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]


def _command(recipe: Recipe, arguments: dict[str, Any], training: list[str]) -> str:
    flags = {"eps": "--opt-eps", "num_epochs": "--epochs"}
    words = ["python", "train.py", "--data-dir", "DATA", "--model", "MODEL"]
    for name, value in (
        _optimizer_arguments(recipe) | arguments | {"cooldown_epochs": 0, "sched_on_updates": True}
    ).items():
        flag = flags.get(name, "--" + name.replace("_", "-"))
        if name == "alpha":
            words += ["--opt-kwargs", f"alpha={value}"]
        elif isinstance(value, bool):
            words += [flag] * value
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words + training)


def _factories(schedule: Schedule, arguments: dict[str, Any]) -> str:
    per_update = {"step_on_epochs": False, "updates_per_epoch": schedule.steps_per_epoch}
    return program(
        [
            "from timm.optim import create_optimizer_v2",
            "from timm.scheduler import create_scheduler_v2",
        ],
        _create_optimizer(schedule.recipe),
        call(
            "lr_scheduler, num_epochs = create_scheduler_v2",
            "optimizer",
            *named(**arguments, **per_update),
        ),
    )


def _create_optimizer(recipe: Recipe) -> str:
    return call(
        "optimizer = create_optimizer_v2",
        "model",
        *named(**_optimizer_arguments(recipe), filter_bias_and_bn=False),
    )


def _code(schedule: Schedule) -> str:
    recipe = schedule.recipe
    imports = ["from timm.scheduler.scheduler import Scheduler"]
    if isinstance(recipe.decay, Plateau):
        rule = plateau_code(schedule, recipe.decay).replace("scheduler = ", "self.plateau = ")
        definitions = [_PLATEAU_CLASS.format(rule=indent(rule, "        "))]
        constants = lengths(schedule, steps="train.py's updates_per_epoch")
        constants += [] if schedule.warmup_steps else ["warmup_steps = 0"]
        imports.append(PLATEAU_IMPORT)
    else:
        constants, multiplier = multiplier_code(schedule, steps="train.py's updates_per_epoch")
        definitions = [multiplier, _CLASS]
    theirs = ABOUT[recipe.optimizer].is_of_torch
    return program(
        [
            "from timm.optim import create_optimizer_v2" if theirs else optimizer_import(recipe),
            *imports,
        ],
        *constants,
        *definitions,
        "",
        _create_optimizer(recipe) if theirs else optimizer_code(recipe),
        "lr_scheduler, num_epochs = Schedule(optimizer), epochs",
    )
