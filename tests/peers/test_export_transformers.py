"""Exports to transformers: its Trainer steps with the LRs of the schedule."""

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe
from lrtune.stepping.applied import Applied
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    GROUPS,
    LOADERS,
    METRICS,
    NUM_EXAMPLES,
    PLATEAUS,
    SHAPES,
    UNUSUAL,
    deviation,
    exported,
    filled,
    group_deviation,
    lrs_planned,
    recipe_of,
    settings_of,
    steps_of,
)

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.peers


class Tiny(torch.nn.Module):
    """Whose validation losses are those of the tests."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.losses = iter(METRICS["val_loss"])

    def forward(self, x, labels=None):
        output = self.layer(x)
        loss = output.square().mean() if self.training else torch.tensor(next(self.losses))
        return {"loss": loss, "output": output}


def trainer_of(recipe, path, accumulate=1, keeps=True, groups=()):
    """The `trainer` that the code builds, before it trains."""
    mine = {
        "output_dir": str(path),
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "dataloader_drop_last": not keeps,
    }
    top1s, model = iter(METRICS["top1"]), Tiny()
    data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * NUM_EXAMPLES
    names = {
        "model": model,
        "train_dataset": data,
        "eval_dataset": data[:8],  # one batch, also of a loader that drops the last
        "compute_metrics": lambda _: {"top1": next(top1s)},
        "mine": mine,
        "PARAMETERS": dict(model.named_parameters()),
    }
    text = exported(recipe, "transformers", settings_of(accumulate), groups).text
    text = text.removesuffix("trainer.train()\n").replace('output_dir="output"', "**mine")
    exec(filled(text, model), names)
    return names["trainer"]


def trained(trainer):
    """The LRs of each optimizer step of a real `Trainer.train`."""
    used = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: used.append(tuple(g["lr"] for g in optimizer.param_groups))
    )
    try:
        trainer.train()
    finally:
        hook.remove()
    return used


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_trainer_has_the_lrs_of_the_schedule(decay, shape, tmp_path):
    recipe = recipe_of(decay, shape)
    used = trained(trainer_of(recipe, tmp_path, groups=GROUPS))
    assert group_deviation(used, lrs_planned(recipe, steps_of(True, 1))) <= 1e-9


@pytest.mark.parametrize(("keeps", "accumulate"), LOADERS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_batches_are_counted_as_the_trainer_counts_them(decay, keeps, accumulate, tmp_path):
    recipe = recipe_of(decay, SHAPES[1])
    used = trained(trainer_of(recipe, tmp_path, accumulate, keeps, GROUPS))
    assert group_deviation(used, lrs_planned(recipe, steps_of(keeps, accumulate))) <= 1e-9


class Drive(transformers.TrainerCallback):
    """`lrtune.apply` to accelerate's wrapper, beside a scheduler that has no effect."""

    def __init__(self, recipe, steps_per_epoch):
        self.recipe, self.steps_per_epoch, self.used = recipe, steps_per_epoch, []

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.applied = Applied(
            optimizer, self.recipe, steps_per_epoch=self.steps_per_epoch, epochs=EPOCHS
        )

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.used.append(self.applied.lrs[0])

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.applied.observe(metrics["eval_loss"])


@pytest.mark.parametrize(("keeps", "accumulate"), LOADERS)
def test_apply_has_the_same_lrs(keeps, accumulate, tmp_path):
    recipe, steps_per_epoch = recipe_of(PLATEAUS[1], SHAPES[1]), steps_of(keeps, accumulate)
    trainer = trainer_of(Recipe(decay=PLATEAUS[0]), tmp_path, accumulate, keeps)
    trainer.add_callback(drive := Drive(recipe, steps_per_epoch))
    trained(trainer)
    assert deviation(drive.used, lrs_planned(recipe, steps_per_epoch)) <= 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_with_the_settings_of_the_recipe(optimizer, tmp_path):
    recipe = recipe_of(DECAYS[0], SHAPES[1], optimizer, weight_decay=0.01, momentum=0.8)
    trainer = trainer_of(recipe, tmp_path)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.01
    used = trained(trainer)
    assert deviation([lr for (lr,) in used], lrs_planned(recipe, steps_of(True, 1))) <= 1e-9
    assert trainer.args.max_grad_norm == 0


def test_trainer_is_told_how_the_search_trained():
    names = {"train_dataset": [0] * NUM_EXAMPLES, "model": Tiny()}
    exec(
        exported(recipe_of(DECAYS[0]), "transformers", UNUSUAL).text.partition("trainer = ")[0],
        names,
    )
    arguments = names["arguments"]
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 3)
    assert (arguments.max_grad_norm, arguments.label_smoothing_factor) == (0.5, 0.1)
