"""transformers: `TrainingArguments`, and an optimizer and a scheduler of torch where they have no equal."""

from collections.abc import Callable
from math import ceil, isfinite
from typing import Any

from lrtune.core.recipe import WSD, Constant, Cosine, HoldPower, Linear, Plateau, Polynomial, Recipe
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.parts import (
    call,
    is_schedule_free,
    lengths,
    named,
    optimizer_code,
    optimizer_import,
    program,
)
from lrtune.reporting.export.result import Export, largest_deviation
from lrtune.reporting.export.torch import plateau_arguments, scheduler_code
from lrtune.schedules import Schedule

_STEPS = "batches of an epoch, divided by gradient_accumulation_steps"

_WARMUP = '''\
class Warmup(TrainerCallback):
    """A line up to the peak, which the plateau of transformers has not."""

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step < warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * (state.global_step + 1) / warmup_steps'''


def export(schedule: Schedule, settings: TrainSettings) -> Export:
    """`TrainingArguments` and the `Trainer`; exact but for the warmup of transformers, which comes one step late."""
    recipe, decay = schedule.recipe, schedule.recipe.decay
    imports, parts = ["from transformers import Trainer, TrainingArguments"], []
    trainer = {"model": "model", "args": "arguments", "train_dataset": "train_dataset"}
    deviation, note, optim = 0.0, "Exact at every step.", _optim(recipe)
    if isinstance(decay, Plateau):
        chosen, scheduler = _plateau(schedule, decay), "None"
        trainer["eval_dataset"] = "eval_dataset"
        if decay.monitor == "top1":
            trainer["compute_metrics"] = "compute_metrics"
            note += ' `compute_metrics` must return the Top-1 in percent as "top1".'
        if schedule.warmup_steps:
            imports = ["from transformers import Trainer, TrainerCallback, TrainingArguments"]
            parts = [*lengths(schedule, steps=_STEPS), f"peak_lr = {recipe.peak_lr!r}", _WARMUP]
            trainer["callbacks"] = "[Warmup()]"
    elif native := _native(schedule):
        (chosen, theirs), scheduler = native, "None"
        if deviation := largest_deviation(schedule, theirs):
            note = f"Up to {deviation:.2g} of the peak LR off: the warmup of transformers begins at 0, one step late."
            note += " For the LR of every step, hand `Trainer` the scheduler of `--to torch`, as `optimizers=`."
    else:
        chosen, scheduler, optim = {}, "scheduler", None
        code = scheduler_code(schedule, steps=_STEPS)
        imports.append(code.imports)
        parts = [
            *code.constants,
            *code.definitions,
            "",
            optimizer_code(recipe),
            f"scheduler = {code.expression}",
        ]
    if optim is None:
        imports.append(optimizer_import(recipe))
        parts += [] if scheduler == "scheduler" else [optimizer_code(recipe)]
        trainer["optimizers"] = f"(optimizer, {scheduler})"
    elif recipe.weight_decay:
        note += " Trainer takes biases and norms out of the weight decay."
    if is_schedule_free(recipe):
        note += " Trainer calls the optimizer's `train()` and `eval()` itself."
    arguments = {"output_dir": "output", "num_train_epochs": schedule.epochs, **_training(settings)}
    arguments |= (optim or {}) | chosen
    text = program(
        imports,
        *parts,
        call("arguments = TrainingArguments", *named(**arguments)),
        call("trainer = Trainer", *(f"{name}={value}" for name, value in trainer.items())),
        "trainer.train()",
    )
    return Export(to="transformers", text=text, deviation=deviation, note=note)


def _native(schedule: Schedule) -> tuple[dict[str, Any], Callable[[int], float]] | None:
    """The arguments that name a scheduler of transformers, and the multiplier that it leads to; or nothing.

    All of them warm up by `t / W` (`transformers.optimization._get_*_lambda`), WSD's from its floor
    on, and come from there on to the LRs of `schedule`, provided that the parts of WSD are whole
    steps.
    """
    recipe, floor, warmup_steps = schedule.recipe, schedule.recipe.final_frac, schedule.warmup_steps
    decay_steps = schedule.total_steps - warmup_steps
    first = 0.0
    kwargs: dict[str, Any] = {}
    match recipe.decay:
        case Constant():
            name = "constant_with_warmup" if warmup_steps else "constant"
        case Cosine():
            name = "cosine_with_min_lr" if floor else "cosine"
            kwargs = {"min_lr_rate": floor} if floor else {}
        case Linear() if not floor:
            name = "linear"
        case (Linear() | Polynomial()) as decay if floor < 1:
            power = decay.power if isinstance(decay, Polynomial) else 1.0
            name, kwargs = "polynomial", {"power": power, "lr_end": floor * recipe.peak_lr}
        case WSD(cooldown_frac=part) if _is_whole(part * decay_steps):
            name, first = "warmup_stable_decay", floor
            kwargs = {
                "num_decay_steps": round(part * decay_steps),
                "decay_type": "1-sqrt",
                "min_lr_ratio": floor,
            }
        case HoldPower(hold_frac=part, power=1.0) if _is_whole(part * decay_steps):
            name, first = "warmup_stable_decay", floor
            kwargs = {
                "num_decay_steps": round((1 - part) * decay_steps),
                "decay_type": "linear",
                "min_lr_ratio": floor,
            }
        case _:
            return None
    if warmup_steps and first:  # a warmup from the floor up is another one
        return None
    arguments: dict[str, Any] = {"lr_scheduler_type": name}
    arguments |= {"lr_scheduler_kwargs": kwargs} if kwargs else {}
    arguments |= {"warmup_steps": warmup_steps} if warmup_steps else {}
    return arguments, lambda t: t / warmup_steps if t < warmup_steps else schedule(t)


def _is_whole(steps: float) -> bool:
    return abs(steps - round(steps)) < 1e-9 and round(steps) >= 0


def _plateau(schedule: Schedule, decay: Plateau) -> dict[str, Any]:
    """Arguments that name the plateau; it is torch's, stepped after every evaluation."""
    return {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": plateau_arguments(schedule, decay),
        "eval_strategy": "epoch",
        # Epochs that end before the peak say nothing of it.
        **(
            {"eval_delay": ceil(schedule.warmup_steps / schedule.steps_per_epoch)}
            if schedule.warmup_steps
            else {}
        ),
        "metric_for_best_model": "loss" if decay.monitor == "val_loss" else "top1",
        "greater_is_better": decay.monitor == "top1",
    }


def _training(settings: TrainSettings) -> dict[str, Any]:
    """What `Trainer` does otherwise unless told: batches of 8 on a device, and gradients clipped to 1."""
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": settings.batch_size // settings.accumulate
    }
    if settings.accumulate > 1:
        arguments["gradient_accumulation_steps"] = settings.accumulate
    arguments["max_grad_norm"] = settings.clip_norm if isfinite(settings.clip_norm) else 0.0
    if settings.label_smoothing:
        arguments["label_smoothing_factor"] = settings.label_smoothing
    return arguments


def _optim(recipe: Recipe) -> dict[str, Any] | None:
    """The arguments that name the optimizer, where transformers has the same one."""
    said = {"learning_rate": recipe.peak_lr, "weight_decay": recipe.weight_decay}
    match recipe.optimizer:
        case "sgd":
            settings = f"momentum={recipe.momentum!r},nesterov={recipe.uses_nesterov}"
            return {"optim": "sgd", "optim_args": settings, **said}
        case "adagrad" | "rmsprop":
            return {"optim": recipe.optimizer, **said}
        case "adamw":
            return {"optim": "adamw_torch", **said}
        case "adam" if not recipe.weight_decay:  # with weight decay AdamW is another optimizer
            return {"optim": "adamw_torch", **said}
        case _:
            return None
