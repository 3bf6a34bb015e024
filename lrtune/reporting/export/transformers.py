"""transformers: a `Trainer` with the optimizer and the scheduler of the recipe."""

from collections.abc import Sequence
from math import isfinite
from textwrap import indent

from lrtune.core.decays import Plateau
from lrtune.core.recipe import ParameterGroup
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.parts import (
    EXACT,
    LAMBDA_IMPORT,
    PEAKS,
    PLATEAU_IMPORT,
    RAMP,
    call,
    lengths,
    monitored,
    multiplier_code,
    named,
    optimizer_code,
    optimizer_import,
    plateau_code,
    program,
    swaps_weights,
)
from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule

# As `Trainer` counts them. It steps at the end of an epoch with fewer batches, too.
_BATCHES = [
    "batch_size = arguments.train_batch_size * arguments.world_size",
    "rounded = math.floor if arguments.dataloader_drop_last else math.ceil",
    "num_batches = rounded(len(train_dataset) / batch_size)",
]
_STEPS = "math.ceil(num_batches / arguments.gradient_accumulation_steps)  # optimizer steps"

_CALLBACK = '''\
class Plateau(TrainerCallback):
    """Warms up, and lowers the learning rate after evaluations without progress."""
{ramp}
    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
{step}'''
_RAMP = """
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step < warmup_steps:
{ramp}
"""


def export(schedule: Schedule, settings: TrainSettings, groups: Sequence[ParameterGroup]) -> Export:
    """`TrainingArguments`, and a `Trainer` that is handed optimizer and scheduler."""
    recipe, decay = schedule.recipe, schedule.recipe.decay
    imports = [optimizer_import(recipe)]
    transformers = "from transformers import Trainer, TrainingArguments"
    arguments = _arguments(schedule, settings)
    trainer = ["model=model", "args=arguments", "train_dataset=train_dataset"]
    note = EXACT
    optimizer = ["", optimizer_code(recipe, groups)]
    if isinstance(decay, Plateau):
        metric = monitored(decay).metric
        logged = f"eval_{metric.removeprefix('val_')}"
        imports.append(PLATEAU_IMPORT.replace("Reduce", "MultiplicativeLR, Reduce"))
        transformers = "from transformers import Trainer, TrainerCallback, TrainingArguments"
        arguments += named(eval_strategy="epoch")
        trainer += ["eval_dataset=eval_dataset", "callbacks=[Plateau()]"]
        if logged != "eval_loss":
            trainer.append("compute_metrics=compute_metrics")
            note += f' `compute_metrics` must return "{metric.removeprefix("val_")}".'
        parts = [*optimizer, plateau_code(schedule, decay, groups, "plateau")]
        if recipe.warmup_epochs:
            parts = ["", *_BATCHES, *lengths(schedule, _STEPS)[1:], *parts, PEAKS]
        parts += [
            "# Changes nothing: the callback sets the learning rate.",
            "scheduler = MultiplicativeLR(optimizer, lambda step: 1.0)",
            _callback(logged, warms_up=recipe.warmup_epochs > 0),
        ]
    else:
        imports.append(LAMBDA_IMPORT)
        constants, multiplier = multiplier_code(schedule)
        parts = ["", *_BATCHES, *lengths(schedule, _STEPS)[1:], *constants, *optimizer]
        parts += [multiplier, "scheduler = LambdaLR(optimizer, multiplier)"]
    if swaps_weights(recipe):
        note += " Trainer calls the optimizer's `train()` and `eval()` itself."
    text = program(
        [*imports, transformers],
        f"epochs = {schedule.epochs}",
        call("arguments = TrainingArguments", *arguments),
        *parts,
        call("trainer = Trainer", *trainer, "optimizers=(optimizer, scheduler)"),
        "trainer.train()",
    )
    return Export(to="transformers", text=text, note=note)


def _callback(logged: str, *, warms_up: bool) -> str:
    step = f'plateau.step(metrics["{logged}"])'
    if not warms_up:
        return _CALLBACK.format(ramp="", step=indent(step, " " * 8)).replace("Warms up, and l", "L")
    ramp = RAMP.format(peaks="peaks", step="state.global_step", warmup_steps="warmup_steps")
    step = (
        "if state.global_step >= warmup_steps:  # earlier epochs say nothing of the peak\n"
        f"    {step}"
    )
    return _CALLBACK.format(
        ramp=_RAMP.format(ramp=indent(ramp, " " * 12)), step=indent(step, " " * 8)
    )


def _arguments(schedule: Schedule, settings: TrainSettings) -> list[str]:
    """`Trainer` has batches of 8 on a device and clips gradients to 1 unless it is told."""
    arguments = {"per_device_train_batch_size": settings.batch_size // settings.accumulate}
    if settings.accumulate > 1:
        arguments["gradient_accumulation_steps"] = settings.accumulate
    clip = settings.clip_norm if isfinite(settings.clip_norm) else 0.0
    smoothing = settings.label_smoothing
    return [
        'output_dir="output"',
        "num_train_epochs=epochs",
        *named(**arguments, max_grad_norm=clip),
        *named(**({"label_smoothing_factor": smoothing} if smoothing else {})),
    ]
