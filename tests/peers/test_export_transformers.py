"""Exports to transformers: its Trainer steps with the LRs that the export says."""

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtune.core.recipe import (
    OPTIMIZERS,
    WSD,
    Constant,
    Cosine,
    HoldPower,
    Linear,
    MultiStep,
    Polynomial,
    Recipe,
)
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    FINAL_FRACS,
    PEAK_LR,
    PLATEAUS,
    STEPS_PER_EPOCH,
    TOP1S,
    UNUSUAL,
    VAL_LOSSES,
    WARMUPS_EPOCHS,
    deviation,
    exported,
)

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.peers


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x):
        return {"loss": self.layer(x).square().mean()}


def trainer_of(recipe, path, monkeypatch):
    """The `trainer` that the code builds, before it trains, with the metrics of the tests."""

    def evaluate(self, *args, **kwargs):
        epoch = round(self.state.epoch) - 1
        return {"eval_loss": VAL_LOSSES[epoch], "eval_top1": TOP1S[epoch]}

    monkeypatch.setattr(transformers.Trainer, "evaluate", evaluate)
    data = [{"x": torch.ones(1)} for _ in range(STEPS_PER_EPOCH)]
    mine = {
        "output_dir": str(path),
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    found = {
        "model": Tiny(),
        "train_dataset": data,
        "eval_dataset": data,
        "compute_metrics": None,
        "mine": mine,
    }
    text = exported(recipe, "transformers").text.removesuffix("trainer.train()\n")
    exec(text.replace('output_dir="output"', "**mine"), found)
    return found["trainer"]


def trained(recipe, path, monkeypatch):
    """The LR of each optimizer step of a real `Trainer.train`."""
    trainer = trainer_of(recipe, path, monkeypatch)
    used = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, args, kwargs: used.append(optimizer.param_groups[0]["lr"])
    )
    try:
        trainer.train()
    finally:
        hook.remove()
    return used


@pytest.mark.parametrize("final_frac", FINAL_FRACS)
@pytest.mark.parametrize("warmup_epochs", WARMUPS_EPOCHS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_trainer_deviates_as_the_export_says(
    decay, warmup_epochs, final_frac, tmp_path, monkeypatch
):
    recipe = Recipe(
        peak_lr=PEAK_LR, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac
    )
    used = trained(recipe, tmp_path, monkeypatch)
    assert deviation(used, recipe) == pytest.approx(
        exported(recipe, "transformers").deviation, abs=1e-9
    )


@pytest.mark.parametrize(
    ("recipe", "scheduler", "largest"),
    [
        (Recipe(decay=Constant()), '"constant"', 0),
        (Recipe(decay=Cosine()), '"cosine"', 0),
        (Recipe(decay=Cosine(), final_frac=0.1), '"cosine_with_min_lr"', 0),
        (Recipe(decay=Linear()), '"linear"', 0),
        (Recipe(decay=Linear(), final_frac=0.1), '"polynomial"', 0),
        (Recipe(decay=Polynomial()), '"polynomial"', 0),
        (Recipe(decay=WSD(cooldown_frac=0.25)), '"warmup_stable_decay"', 0),
        (Recipe(decay=WSD(cooldown_frac=0.25), final_frac=0.1), '"warmup_stable_decay"', 0),
        (Recipe(decay=HoldPower(hold_frac=0.75)), '"warmup_stable_decay"', 0),
        (Recipe(decay=Cosine(), warmup_epochs=1), '"cosine"', 1 / STEPS_PER_EPOCH),
        (
            Recipe(decay=WSD(cooldown_frac=1.0), warmup_epochs=1),
            '"warmup_stable_decay"',
            1 / STEPS_PER_EPOCH,
        ),
        (Recipe(decay=WSD(cooldown_frac=1.0), warmup_epochs=1, final_frac=0.1), None, 0),
        (Recipe(decay=WSD(cooldown_frac=0.33)), None, 0),
        (Recipe(decay=MultiStep(milestones_epochs=(3, 6))), None, 0),
    ],
)
def test_scheduler_of_transformers_where_it_has_the_decay(recipe, scheduler, largest):
    export = exported(recipe, "transformers")
    assert export.deviation == pytest.approx(largest, abs=1e-9)
    assert (
        f"lr_scheduler_type={scheduler}" if scheduler else "optimizers=(optimizer, scheduler)"
    ) in export.text


@pytest.mark.parametrize(
    "decay", [Cosine(), HoldPower(power=1.5)]
)  # with its own scheduler, and with torch's
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_built_with_the_settings_of_the_recipe(
    optimizer, decay, tmp_path, monkeypatch
):
    recipe = Recipe(
        optimizer=optimizer, peak_lr=PEAK_LR, decay=decay, weight_decay=0.01, momentum=0.8
    )
    trainer = trainer_of(recipe, tmp_path, monkeypatch)
    trainer.create_optimizer_and_scheduler(EPOCHS * STEPS_PER_EPOCH)
    plain = {"model": Tiny()}
    exec(exported(recipe, "torch").text.partition("scheduler = ")[0], plain)
    assert type(trainer.optimizer) is type(plain["optimizer"])
    group = trainer.optimizer.param_groups[0]
    for key, value in plain["optimizer"].defaults.items():
        assert key in ("fused", "foreach") or group[key] == value
    assert trainer.args.max_grad_norm == 0


def test_trainer_is_told_how_the_search_trained():
    found = {}
    exec(exported(Recipe(), "transformers", UNUSUAL).text.partition("trainer = ")[0], found)
    arguments = found["arguments"]
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 3)
    assert (arguments.max_grad_norm, arguments.label_smoothing_factor) == (0.5, 0.1)


@pytest.mark.parametrize("optimizer", ["schedule-free-sgd", "lamb", "prodigy"])
def test_trainer_takes_the_optimizers_of_pytorch_optimizer(optimizer, tmp_path, monkeypatch):
    recipe = Recipe(optimizer=optimizer, peak_lr=PEAK_LR, decay=Constant())
    assert deviation(trained(recipe, tmp_path, monkeypatch), recipe) <= 1e-9
