"""Lightning: `configure_optimizers`, and the hooks that some recipes need beside it."""

from collections.abc import Sequence
from textwrap import indent

from lrtune.core.decays import Plateau
from lrtune.core.recipe import ParameterGroup
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
from lrtune.schedules import Schedule

# With `max_epochs=epochs` a whole number; batches / accumulate_grad_batches, rounded up.
_STEPS = "self.trainer.estimated_stepping_batches / epochs  # optimizer steps"

_CLASS = '''\
class Schedule:
    """Put it first among the bases: class Model(Schedule, lightning.LightningModule)."""

    def configure_optimizers(self):
{body}
        config = {config}
        return {{"optimizer": optimizer, "lr_scheduler": config}}
{hooks}'''

_PLATEAU_WARMUP = """
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        if self.trainer.global_step < self.warmup_steps:
{ramp}
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def lr_scheduler_step(self, scheduler, metric):
        if self.trainer.global_step >= self.warmup_steps:  # earlier epochs say nothing of the peak
            scheduler.step(metric)
"""

_SCHEDULE_FREE = """
    def on_train_start(self):
        self.optimizers(use_pl_optimizer=False).train()

    def on_validation_model_eval(self):
        super().on_validation_model_eval()
        self.optimizers(use_pl_optimizer=False).eval()  # the weights to validate and to keep

    def on_validation_model_train(self):
        super().on_validation_model_train()
        self.optimizers(use_pl_optimizer=False).train()  # the weights that it takes its steps at
"""


def export(schedule: Schedule, groups: Sequence[ParameterGroup]) -> Export:
    """A class to inherit from."""
    recipe = schedule.recipe
    optimizer = optimizer_code(recipe, groups, "self.parameters()")
    note = f"{EXACT} Train with `Trainer(max_epochs={schedule.epochs})`."
    hooks = ""
    if isinstance(recipe.decay, Plateau):
        metric = monitored(recipe.decay).metric
        imports = PLATEAU_IMPORT
        body = [optimizer, plateau_code(schedule, recipe.decay, groups)]
        if recipe.warmup_epochs:
            keep = ["self.warmup_steps = warmup_steps", PEAKS.replace("peaks", "self.peaks", 1)]
            body = [*lengths(schedule, _STEPS), *body, *keep]
            ramp = RAMP.format(
                peaks="self.peaks",
                step="self.trainer.global_step",
                warmup_steps="self.warmup_steps",
            )
            hooks = _PLATEAU_WARMUP.format(ramp=indent(ramp, " " * 12))
        config = f'{{"scheduler": scheduler, "interval": "epoch", "monitor": "{metric}"}}'
        note += (
            f' Log the metric as `self.log("{metric}", ...)` and validate once an epoch: the rule '
            "reads it there."
        )
    else:
        imports, (constants, multiplier) = LAMBDA_IMPORT, multiplier_code(schedule)
        body = [*lengths(schedule, _STEPS), *constants, optimizer, "", multiplier, ""]
        body.append("scheduler = LambdaLR(optimizer, multiplier)")
        config = '{"scheduler": scheduler, "interval": "step"}'
        note += ' `"interval": "step"` matters: Lightning\'s default is once an epoch.'
    if swaps_weights(recipe):
        hooks += _SCHEDULE_FREE
        note += (
            " Save checkpoints from the validation loop: between the hooks the model has the "
            "weights to keep."
        )
    text = program(
        [optimizer_import(recipe), imports],
        _CLASS.format(body=indent("\n".join(body), " " * 8), config=config, hooks=hooks),
    )
    return Export(to="lightning", text=text, note=note)
