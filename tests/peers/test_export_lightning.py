"""Exports to Lightning: its Trainer steps with the LRs of the schedule."""

import warnings

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtune.core.recipe import OPTIMIZERS, Constant, Recipe
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    FINAL_FRACS,
    PEAK_LR,
    PLATEAUS,
    STEPS_PER_EPOCH,
    TOP1S,
    VAL_LOSSES,
    WARMUPS_EPOCHS,
    deviation,
    exported,
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
            self.log("val_loss", torch.tensor(VAL_LOSSES[self.current_epoch], dtype=torch.float64))
            self.log("top1", torch.tensor(TOP1S[self.current_epoch], dtype=torch.float64))


def fitted(recipe, **trainer_settings):
    """The LR of each optimizer step of a real `Trainer.fit`, and the module."""
    found = {}
    exec(exported(recipe, "lightning").text, found)
    module = type("Model", (found["Schedule"], Tiny), {})()
    used = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, args, kwargs: used.append(optimizer.param_groups[0]["lr"])
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
    batches = torch.utils.data.DataLoader(torch.ones(STEPS_PER_EPOCH, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning: few workers, few batches
        try:
            trainer.fit(module, batches, batches)
        finally:
            hook.remove()
    return used, module


@pytest.mark.parametrize("final_frac", FINAL_FRACS)
@pytest.mark.parametrize("warmup_epochs", WARMUPS_EPOCHS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_trainer_has_the_lrs_of_the_schedule(decay, warmup_epochs, final_frac):
    recipe = Recipe(
        peak_lr=PEAK_LR, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac
    )
    assert exported(recipe, "lightning").exact
    assert deviation(fitted(recipe)[0], recipe) <= 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_built(optimizer):
    recipe = Recipe(optimizer=optimizer, peak_lr=PEAK_LR, warmup_epochs=1, weight_decay=0.01)
    assert deviation(fitted(recipe)[0], recipe) <= 1e-9


@pytest.mark.parametrize("optimizer", ["schedule-free-sgd", "schedule-free-adamw"])
def test_schedule_free_validates_its_averaged_weights_and_trains_the_others(optimizer):
    _, module = fitted(Recipe(optimizer=optimizer, decay=Constant(), warmup_epochs=1))
    assert module.seen
    assert all(module.seen)


def test_an_accumulation_of_gradients_counts_as_one_step():
    recipe = Recipe(peak_lr=PEAK_LR, warmup_epochs=1)
    used, _ = fitted(recipe, accumulate_grad_batches=STEPS_PER_EPOCH)
    assert used == pytest.approx(
        [PEAK_LR / STEPS_PER_EPOCH * (step + 1) for step in range(STEPS_PER_EPOCH)] + used[-3:]
    )
