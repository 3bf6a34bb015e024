"""Exports to Lightning: its Trainer steps with the LRs of the schedule."""

import warnings

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtune.core.decays import Constant
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.stepping.applied import Applied
from tests.peers.cases import (
    BATCH_SIZE,
    DECAYS,
    EPOCHS,
    GROUPS,
    LOADERS,
    METRICS,
    NUM_EXAMPLES,
    PLATEAUS,
    SHAPES,
    deviation,
    exported,
    filled,
    group_deviation,
    lrs_planned,
    recipe_of,
    steps_of,
)

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.peers


class Tiny(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []
        """Of each validation: whether the optimizer had its weights for evaluation in the model."""

    def training_step(self, batch, index):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, index):
        group = self.optimizers(use_pl_optimizer=False).param_groups[0]
        self.seen.append(not group.get("train_mode", True))
        if not self.trainer.sanity_checking:
            for name, values in METRICS.items():
                self.log(name, torch.tensor(values[self.current_epoch], dtype=torch.float64))


class Driven(Tiny):
    """Whose optimizer has the LRs of `lrtune.apply`, and a scheduler that has no effect."""

    def __init__(self, recipe, steps_per_epoch):
        super().__init__()
        self.recipe, self.steps_per_epoch, self.used = recipe, steps_per_epoch, []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_train_start(self):
        self.applied = Applied(  # to the wrapper around the optimizer
            self.optimizers(), self.recipe, steps_per_epoch=self.steps_per_epoch, epochs=EPOCHS
        )

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.used.append(self.applied.lrs[0])

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            monitor = getattr(self.recipe.decay, "monitor", "val_loss")
            self.applied.observe(METRICS[monitor][self.current_epoch])


def fit(module, keeps=True, **trainer_settings):
    """The LRs of each optimizer step of a real `Trainer.fit`."""
    used = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: used.append(tuple(g["lr"] for g in optimizer.param_groups))
    )
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_settings,
    )
    examples = torch.ones(NUM_EXAMPLES, 1)
    batches = torch.utils.data.DataLoader(examples, BATCH_SIZE, drop_last=not keeps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning: few workers, few batches
        try:
            trainer.fit(module, batches, torch.utils.data.DataLoader(examples[:1]))
        finally:
            hook.remove()
    return used


def fitted(recipe, groups=(), keeps=True, **trainer_settings):
    """The LRs of each step with the exported code, and the module."""
    names = {}
    text = exported(recipe, "lightning", groups=groups).text
    text = filled(text, Tiny()).replace("PARAMETERS", "dict(self.named_parameters())")
    exec(text, names)
    module = type("Model", (names["Schedule"], Tiny), {})()
    return fit(module, keeps, **trainer_settings), module


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_trainer_has_the_lrs_of_the_schedule(decay, shape):
    recipe = recipe_of(decay, shape)
    used, _ = fitted(recipe, GROUPS)
    assert group_deviation(used, lrs_planned(recipe, steps_of(True, 1))) <= 1e-9


@pytest.mark.parametrize(("keeps", "accumulate"), LOADERS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_batches_are_counted_as_the_trainer_counts_them(decay, keeps, accumulate):
    recipe, accumulation = recipe_of(decay, SHAPES[1]), {"accumulate_grad_batches": accumulate}
    planned = lrs_planned(recipe, steps_of(keeps, accumulate))
    used, _ = fitted(recipe, GROUPS, keeps, **accumulation)
    assert group_deviation(used, planned) <= 1e-9
    driven = Driven(recipe, steps_of(keeps, accumulate))
    fit(driven, keeps, **accumulation)
    assert deviation(driven.used, planned) <= 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_built(optimizer):
    recipe = recipe_of(DECAYS[0], SHAPES[1], optimizer, weight_decay=0.01)
    used, _ = fitted(recipe)
    assert deviation([lr for (lr,) in used], lrs_planned(recipe, steps_of(True, 1))) <= 1e-9


@pytest.mark.parametrize("optimizer", ["schedule-free-sgd", "schedule-free-adamw"])
def test_schedule_free_validates_its_averaged_weights_and_trains_the_others(optimizer):
    _, module = fitted(recipe_of(Constant(), (1, 0.0), optimizer))
    assert module.seen
    assert all(module.seen)


def test_the_optimizer_within_fabrics_wrapper_is_driven():
    from lightning.fabric import Fabric

    model = torch.nn.Linear(1, 1)
    fabric = Fabric(accelerator="cpu")
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=1.0))
    recipe, used = recipe_of(DECAYS[-1], SHAPES[1]), []
    with Applied(optimizer, recipe, steps_per_epoch=5, epochs=EPOCHS) as applied:
        for _ in range(5 * EPOCHS):
            fabric.backward(model(torch.ones(1, 1)).sum())
            optimizer.step()
            used.append(applied.lrs[0])
    assert used == lrs_planned(recipe)
    assert optimizer.param_groups[0]["lr"] == 1.0
