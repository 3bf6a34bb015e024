"""The code to paste is pasted and run: the LR at every optimizer step is that of the schedule."""

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtune.core.recipe import (
    OPTIMIZERS,
    WSD,
    Constant,
    Cosine,
    Exponential,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
)
from lrtune.reporting.export.parts import optimizer_code, optimizer_import
from lrtune.reporting.export.torch import torch_code
from lrtune.training.optimizers import build_optimizer
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    PLAIN,
    PLATEAUS,
    STEPS_PER_EPOCH,
    TOP1S,
    UNUSUAL,
    VAL_LOSSES,
    deviation,
    lrs_planned,
)


def lrs_used(code: str, metrics: tuple[float, ...]) -> list[float]:
    """Runs `code` on a model of one weight and returns the LR of each optimizer step."""
    used: list[float] = []
    remaining = iter(metrics)
    weight = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    batch = torch.ones(1, 1, dtype=torch.float64)
    given = {
        "model": weight,
        "train_loader": [(batch, batch)] * STEPS_PER_EPOCH,
        "loss_function": torch.nn.functional.mse_loss,
        "validate": lambda model: next(remaining),
    }
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, args, kwargs: used.append(optimizer.param_groups[0]["lr"])
    )
    try:
        exec(code, given)
    finally:
        hook.remove()
    return used


@pytest.mark.parametrize("final_frac", [0.0, 0.05])
@pytest.mark.parametrize("warmup_epochs", [0.0, 0.2, 1.5, 2])
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_pasted_code_uses_the_lr_of_the_schedule_at_every_step(decay, warmup_epochs, final_frac):
    recipe = Recipe(peak_lr=0.03, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac)
    metrics = TOP1S if getattr(decay, "monitor", "") == "top1" else VAL_LOSSES
    used = lrs_used(torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, PLAIN), metrics)
    assert deviation(used, recipe) <= 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pasted_code_builds_every_optimizer(optimizer):
    recipe = Recipe(optimizer=optimizer, peak_lr=0.003, warmup_epochs=1, weight_decay=0.01)
    assert lrs_used(torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, PLAIN), ()) == pytest.approx(
        lrs_planned(recipe), rel=1e-12
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pasted_code_builds_the_optimizer_that_was_trained(optimizer):
    recipe = Recipe(
        optimizer=optimizer, peak_lr=0.003, momentum=0.8, nesterov=False, weight_decay=0.01
    )
    given = {"model": torch.nn.Linear(1, 1)}
    exec(f"{optimizer_import(recipe)}\n{optimizer_code(recipe)}", given)
    pasted, trained = given["optimizer"], build_optimizer(recipe, given["model"].parameters())
    assert type(pasted) is type(trained)
    assert pasted.defaults | {"fused": True} == trained.defaults | {"fused": True}


def test_sgd_keeps_its_momentum():
    code = torch_code(
        Recipe(momentum=0.85, nesterov=False, weight_decay=5e-4), EPOCHS, STEPS_PER_EPOCH, PLAIN
    )
    assert (
        "model.parameters(), lr=0.1, momentum=0.85, nesterov=False, weight_decay=0.0005\n" in code
    )


@pytest.mark.parametrize("decay", [Constant(), Plateau()])
@pytest.mark.parametrize("optimizer", ["sgd", "prodigy"])
def test_pasted_code_clips_as_the_search_did(optimizer, decay, monkeypatch):
    norms = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm)
    )
    recipe = Recipe(optimizer=optimizer, decay=decay)
    lrs_used(torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, UNUSUAL), VAL_LOSSES)
    assert norms == [0.5] * EPOCHS * STEPS_PER_EPOCH
    assert "clip" not in torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, PLAIN)


def test_nesterov_without_momentum_is_plain_sgd():
    assert (
        len(lrs_used(torch_code(Recipe(momentum=0.0), EPOCHS, STEPS_PER_EPOCH, PLAIN), ()))
        == EPOCHS * STEPS_PER_EPOCH
    )


@pytest.mark.parametrize(
    ("recipe", "scheduler"),
    [
        (Recipe(decay=Cosine()), "CosineAnnealingLR(optimizer, T_max=total_steps)"),
        (
            Recipe(decay=Linear()),
            "LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=total_steps)",
        ),
        (Recipe(decay=Exponential()), "ExponentialLR(optimizer, gamma=0.01 ** (1 / total_steps))"),
        (
            Recipe(decay=MultiStep(milestones_epochs=(3, 6))),
            "MultiStepLR(optimizer, milestones=drops, gamma=0.1)",
        ),
        (Recipe(decay=Cosine(), warmup_epochs=1), "SequentialLR("),
        (Recipe(decay=Polynomial(), final_frac=0.1), "LambdaLR(optimizer, multiplier)"),
        (
            Recipe(decay=MultiStep(milestones_epochs=(3, 6)), warmup_epochs=1),
            "LambdaLR(optimizer, multiplier)",
        ),
        (Recipe(decay=MultiStep(milestones_epochs=(0.01, 6))), "LambdaLR(optimizer, multiplier)"),
        (Recipe(decay=WSD()), "LambdaLR(optimizer, multiplier)"),
    ],
)
def test_torchs_own_scheduler_where_it_has_the_same_lrs(recipe, scheduler):
    assert f"\nscheduler = {scheduler}" in torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, PLAIN)


@pytest.mark.parametrize("decay", [Constant(), Plateau(patience_epochs=0)])
@pytest.mark.parametrize("optimizer", ["schedule-free-sgd", "schedule-free-adamw"])
def test_schedule_free_is_switched_around_the_epoch(optimizer, decay):
    code = torch_code(Recipe(optimizer=optimizer, decay=decay), EPOCHS, STEPS_PER_EPOCH, PLAIN)
    epoch = code.partition("for epoch in range(epochs):\n")[2]
    assert epoch.startswith("    optimizer.train()  #")
    assert "\n    optimizer.eval()  #" in epoch.partition("optimizer.step()")[2]


def test_code_as_a_reader_sees_it():
    code = torch_code(Recipe(peak_lr=0.2, warmup_epochs=0.5, decay=WSD()), 12, 79, PLAIN)
    assert (
        code
        == '''\
import math

import torch
from torch.optim.lr_scheduler import LambdaLR

epochs = 12
# Optimizer steps: len(train_loader), unless gradients are accumulated.
steps_per_epoch = 79
warmup_steps = round(0.5 * steps_per_epoch)
total_steps = epochs * steps_per_epoch
hold = 1 - 0.2

optimizer = torch.optim.SGD(
    model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.0
)


def multiplier(step):
    """What the peak learning rate is multiplied by for step 0, 1, 2, ..."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1.0 if progress < hold else 1 - math.sqrt((progress - hold) / (1 - hold))


scheduler = LambdaLR(optimizer, multiplier)

for epoch in range(epochs):
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss_function(model(images), labels).backward()
        optimizer.step()
        scheduler.step()  # after every optimizer step, not once an epoch
'''
    )
