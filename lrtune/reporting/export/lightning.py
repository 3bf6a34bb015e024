"""Lightning: `configure_optimizers`, and the hooks that a recipe needs besides."""

from textwrap import indent

from lrtune.core.recipe import Plateau
from lrtune.reporting.export.parts import (
    is_schedule_free,
    lengths,
    optimizer_code,
    optimizer_import,
    program,
)
from lrtune.reporting.export.result import Export
from lrtune.reporting.export.torch import (
    PLATEAU_IMPORT,
    PLATEAU_METRICS,
    plateau_code,
    scheduler_code,
)
from lrtune.schedules import Schedule

_STEPS = "batches of an epoch, divided by accumulate_grad_batches"

_CLASS = '''\
class Schedule:
    """Put it first among the bases: class Model(Schedule, lightning.LightningModule)."""

    def configure_optimizers(self):
{body}
        return {{"optimizer": optimizer, "lr_scheduler": {config}}}
{hooks}'''

_PLATEAU_WARMUP = """
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        if self.trainer.global_step < warmup_steps:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * (self.trainer.global_step + 1) / warmup_steps
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def lr_scheduler_step(self, scheduler, metric):
        if self.trainer.global_step >= warmup_steps:  # earlier epochs say nothing of the peak
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


def export(schedule: Schedule) -> Export:
    """A class to inherit from; always exact."""
    recipe = schedule.recipe
    if isinstance(recipe.decay, Plateau):
        metric = recipe.decay.monitor
        imports, scheduler = PLATEAU_IMPORT, plateau_code(schedule, recipe.decay)
        definitions: tuple[str, ...] = ()
        constants = lengths(schedule, steps=_STEPS) if schedule.warmup_steps else []
        constants += [f"peak_lr = {recipe.peak_lr!r}"] if schedule.warmup_steps else []
        config = f'{{"scheduler": scheduler, "interval": "epoch", "frequency": 1, "monitor": "{metric}"}}'
        hooks = _PLATEAU_WARMUP if schedule.warmup_steps else ""
        note = f'Exact at every step. Log the {PLATEAU_METRICS[metric]}, as `self.log("{metric}", ...)`,'
        note += " and validate once an epoch: the rule reads it there."
    else:
        code = scheduler_code(schedule, steps=_STEPS)
        imports, definitions, constants = code.imports, code.definitions, code.constants
        scheduler = f"scheduler = {code.expression}"
        config, hooks = '{"scheduler": scheduler, "interval": "step", "frequency": 1}', ""
        note = (
            'Exact at every step. `interval="step"` matters: Lightning\'s default is once an epoch.'
        )
    if is_schedule_free(recipe):
        hooks += _SCHEDULE_FREE
        note += " Save checkpoints from the validation loop: between the hooks the model has the weights to keep."
    body = indent("\n".join([optimizer_code(recipe, "self.parameters()"), scheduler]), "        ")
    text = program(
        [optimizer_import(recipe), imports],
        *constants,
        *definitions,
        _CLASS.format(body=body, config=config, hooks=hooks),
    )
    return Export(to="lightning", text=text, note=note)
