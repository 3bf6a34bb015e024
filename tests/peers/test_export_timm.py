"""Exports to timm: its own schedulers, driven as its train.py drives them, have the LRs that the export says."""

import argparse
import shlex

import pytest
import torch

from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Linear,
    MultiStep,
    Polynomial,
    Recipe,
    StepDecay,
)
from tests.peers.cases import (
    DECAYS,
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

pytest.importorskip("timm")
pytestmark = pytest.mark.peers

COMMAND = "# python train.py "


def trained(optimizer, lr_scheduler, num_epochs, metrics=VAL_LOSSES):
    """The LR of each update in the loop of train.py, which calls the scheduler after the update."""
    used = []
    for epoch in range(num_epochs):
        num_updates = epoch * STEPS_PER_EPOCH
        for _ in range(STEPS_PER_EPOCH):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            num_updates += 1
            lr_scheduler.step_update(num_updates=num_updates, metric=0.0)
        lr_scheduler.step(epoch + 1, metrics[epoch])
    return used


def trained_by_code(recipe):
    found = {"model": torch.nn.Linear(1, 1)}
    exec(exported(recipe, "timm").text, found)
    metrics = TOP1S if getattr(recipe.decay, "monitor", "") == "top1" else VAL_LOSSES
    return trained(found["optimizer"], found["lr_scheduler"], found["num_epochs"], metrics)


def parsed(command):
    """As train.py reads it; the wheel does not ship that file."""
    from timm.utils import ParseKwargs

    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--data-dir", "--model", "--opt", "--sched"):
        parser.add_argument(flag)
    for flag in (
        "--lr",
        "--momentum",
        "--weight-decay",
        "--opt-eps",
        "--warmup-lr",
        "--min-lr",
        "--smoothing",
    ):
        parser.add_argument(flag, type=float)
    for flag in ("--decay-epochs", "--decay-rate"):
        parser.add_argument(flag, type=float)
    for flag in ("--epochs", "--warmup-epochs", "--cooldown-epochs", "--batch-size"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--decay-milestones", type=int, nargs="+")
    parser.add_argument("--opt-kwargs", nargs="*", default={}, action=ParseKwargs)
    for flag in ("--sched-on-updates", "--warmup-prefix"):
        parser.add_argument(flag, action="store_true")
    parser.set_defaults(
        momentum=0.9, weight_decay=2e-5, warmup_epochs=5, warmup_lr=1e-5, min_lr=0.0
    )
    parser.set_defaults(decay_milestones=[90, 180, 270], decay_epochs=90.0, decay_rate=0.1)
    return parser.parse_args(shlex.split(command))


def optimizer_of(arguments, model):
    from timm.optim import create_optimizer_v2, optimizer_kwargs

    return create_optimizer_v2(model, **optimizer_kwargs(arguments), **arguments.opt_kwargs)


def command_of(recipe):
    first = exported(recipe, "timm").text.splitlines()[0]
    return first.removeprefix(COMMAND) if first.startswith(COMMAND) else None


def trained_by_command(recipe):
    from timm.scheduler import create_scheduler_v2
    from timm.scheduler.scheduler_factory import scheduler_kwargs

    arguments = parsed(command_of(recipe))
    optimizer = optimizer_of(arguments, torch.nn.Linear(1, 1))
    kwargs = scheduler_kwargs(arguments)
    lr_scheduler, num_epochs = create_scheduler_v2(
        optimizer, **kwargs, updates_per_epoch=STEPS_PER_EPOCH
    )
    return trained(optimizer, lr_scheduler, num_epochs)


@pytest.mark.parametrize("final_frac", FINAL_FRACS)
@pytest.mark.parametrize("warmup_epochs", WARMUPS_EPOCHS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_code_has_the_lrs_of_the_schedule(decay, warmup_epochs, final_frac):
    recipe = Recipe(
        peak_lr=PEAK_LR, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac
    )
    assert deviation(trained_by_code(recipe), recipe) <= 1e-9


@pytest.mark.parametrize("final_frac", FINAL_FRACS)
@pytest.mark.parametrize("warmup_epochs", WARMUPS_EPOCHS)
@pytest.mark.parametrize("decay", DECAYS, ids=str)
def test_command_line_deviates_as_the_export_says(decay, warmup_epochs, final_frac):
    recipe = Recipe(
        peak_lr=PEAK_LR, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac
    )
    if command_of(recipe) is None:
        assert exported(recipe, "timm").exact
    else:
        assert deviation(trained_by_command(recipe), recipe) == pytest.approx(
            exported(recipe, "timm").deviation, abs=1e-9
        )


@pytest.mark.parametrize(
    ("recipe", "largest"),
    [
        (Recipe(decay=Cosine()), 0),
        (Recipe(decay=Cosine(), final_frac=0.1), 0),
        (Recipe(decay=Linear(), final_frac=0.1), 0),
        (Recipe(decay=Polynomial(), final_frac=0.1), 0),
        (Recipe(decay=Constant(), final_frac=0.1), 0),
        (Recipe(decay=StepDecay(every_epochs=3)), 0),
        (Recipe(decay=WSD(cooldown_frac=0.25), final_frac=0.1), 0),
        (Recipe(decay=Cosine(), warmup_epochs=1), 1 / 5 - 1 / 25),
        (Recipe(decay=StepDecay(every_epochs=3), warmup_epochs=1), 1 / 5 - 1 / 25),
        (Recipe(decay=MultiStep(milestones_epochs=(3, 6))), 0.9),
    ],
)
def test_command_line_is_that_far_off(recipe, largest):
    assert exported(recipe, "timm").deviation == pytest.approx(largest, abs=1e-9)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(momentum=0.8),
        Recipe(nesterov=False),
        Recipe(momentum=0.0),
        Recipe(optimizer="adagrad"),
        Recipe(optimizer="rmsprop", weight_decay=0.01),
        Recipe(optimizer="adam"),
        Recipe(optimizer="adamw", weight_decay=0.1),
    ],
)
def test_optimizer_has_the_settings_of_torchs(recipe):
    torchs, code = ({"model": torch.nn.Linear(2, 2)} for _ in range(2))
    loop = exported(recipe, "torch").text.partition("scheduler = ")[0]
    exec(loop, torchs)
    exec(exported(recipe, "timm").text, code)
    command = optimizer_of(parsed(command_of(recipe)), torch.nn.Linear(2, 2))
    settings = set(torchs["optimizer"].defaults) - {"fused", "foreach"}
    for theirs in (code["optimizer"], command):
        assert type(theirs) is type(torchs["optimizer"])
        assert {key: theirs.defaults[key] for key in settings - {"weight_decay"}} == {
            key: torchs["optimizer"].defaults[key] for key in settings - {"weight_decay"}
        }
        assert max(group["weight_decay"] for group in theirs.param_groups) == recipe.weight_decay


@pytest.mark.parametrize("optimizer", ["lamb", "adabound", "prodigy"])
def test_other_optimizers_are_those_that_were_searched_with(optimizer):
    recipe = Recipe(optimizer=optimizer, peak_lr=PEAK_LR, warmup_epochs=1)
    assert command_of(recipe) is None
    assert deviation(trained_by_code(recipe), recipe) <= 1e-9
