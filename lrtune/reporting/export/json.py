"""JSON for programs.

recipe      as `Recipe.from_dict` reads it back: optimizer, peak_lr, warmup_epochs, decay {name,
            parameters}, final_frac, momentum, nesterov, weight_decay, group_scales
optimizer   class ("torch.optim.SGD") and the arguments that it is built with; the rest are its
            defaults
groups      name and lr_scale of each parameter group; its LR is lr_scale times that of `lrs`.
            Empty where there is only one group, with the LR of `lrs`.
schedule    epochs, steps_per_epoch, warmup_steps, total_steps. With W warmup steps of T, the LR
            of step t = 0, 1, ... is peak_lr * (t + 1) / W for t < W, and from there on
            peak_lr * (final_frac + (1 - final_frac) * shape(p)), where p = (t - W) / (T - W)
settings    batch_size (of an optimizer step), clip_norm (null: not clipped) and label_smoothing
            that the recipe was found with
lrs         the LR of each optimizer step. A plateau depends on the metrics of a run: the LRs of
            the run that was measured, up to the last known one; null where none was measured
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from lrtune.core.decays import Plateau
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import ParameterGroup, optimizer_arguments
from lrtune.core.run import Measurement
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule


def export(
    schedule: Schedule,
    settings: TrainSettings,
    groups: Sequence[ParameterGroup],
    measurements: Sequence[Measurement],
) -> Export:
    """The recipe and the LR of every step; for a plateau, those that `measurements` led to."""
    recipe = schedule.recipe
    facts = OPTIMIZERS[recipe.optimizer]
    document = {
        "recipe": recipe.to_dict(),
        "optimizer": {
            "class": f"{facts.library}.{facts.class_name}",
            "arguments": optimizer_arguments(recipe),
        },
        "groups": [asdict(group) for group in groups],
        "schedule": {
            "epochs": schedule.epochs,
            "steps_per_epoch": schedule.steps_per_epoch,
            "warmup_steps": schedule.warmup_steps,
            "total_steps": schedule.total_steps,
        },
        "settings": {
            "batch_size": settings.batch_size,
            "clip_norm": settings.clip_norm if math.isfinite(settings.clip_norm) else None,
            "label_smoothing": settings.label_smoothing,
        },
        "lrs": _lrs(schedule, measurements),
    }
    note = "`lrs` has the LR of every optimizer step."
    if isinstance(recipe.decay, Plateau):
        note = (
            "A plateau depends on the metrics of a run: `lrs` has the LRs of the run that was "
            "measured, or is null."
        )
    # A list of numbers on one line: there may be many thousands.
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
    return Export(to="json", text="{\n" + ",\n".join(lines) + "\n}\n", note=note)


def _lrs(schedule: Schedule, measurements: Sequence[Measurement]) -> list[float] | None:
    num_steps = schedule.total_steps
    if isinstance(schedule.recipe.decay, Plateau):
        if not measurements:
            return None
        for m in measurements[: schedule.epochs - 1]:  # nothing comes after the last
            schedule = schedule.observe(m.metrics)
        num_steps = len(schedule.states) * schedule.steps_per_epoch
    return [schedule.recipe.peak_lr * schedule(step) for step in range(num_steps)]
