"""timm: an optimizer and a scheduler to put into its train.py."""

from collections.abc import Sequence
from textwrap import indent

from lrtune.core.decays import Plateau
from lrtune.core.errors import InputError
from lrtune.core.recipe import ParameterGroup
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.parts import (
    EXACT,
    PLATEAU_IMPORT,
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
from lrtune.schedules import Schedule

_STEPS = "updates_per_epoch  # optimizer steps; train.py has counted them"

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


def export(schedule: Schedule, settings: TrainSettings, groups: Sequence[ParameterGroup]) -> Export:
    """Code to put into train.py.

    Raises:
        InputError: an optimizer that train.py cannot drive.
    """
    recipe = schedule.recipe
    if swaps_weights(recipe):
        raise InputError(
            f"timm's train.py must call the optimizer's `train()` and `eval()` for "
            f"{recipe.optimizer}, and does not; use the loop of `--to torch`, with a timm model."
        )
    constants = lengths(schedule, _STEPS)
    flags = f"--sched-on-updates --smoothing {settings.label_smoothing:g}"
    imports = [optimizer_import(recipe), "from timm.scheduler.scheduler import Scheduler"]
    if isinstance(recipe.decay, Plateau):
        rule = plateau_code(schedule, recipe.decay, groups, "self.plateau")
        definitions = [_PLATEAU_CLASS.format(rule=indent(rule, " " * 8))]
        constants += [] if recipe.warmup_epochs else ["warmup_steps = 0"]
        imports.append(PLATEAU_IMPORT)
        flags += f" --eval-metric {monitored(recipe.decay).metric.removeprefix('val_')}"
    else:
        more, multiplier = multiplier_code(schedule)
        constants += more
        definitions = [multiplier, _CLASS]
    text = program(
        imports,
        optimizer_code(recipe, groups),
        "",
        *constants,
        *definitions,
        "lr_scheduler, num_epochs = Schedule(optimizer), epochs",
    )
    note = (
        f"{EXACT} Put the first statement in place of train.py's optimizer, the rest in place of "
        f"its lr_scheduler, and run it with `{flags}`."
    )
    return Export(to="timm", text=text, note=note)
