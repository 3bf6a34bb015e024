"""The code to paste is pasted and run: the LR at every optimizer step is that of the schedule."""

import pytest

torch = pytest.importorskip("torch")

from torch.optim.optimizer import register_optimizer_step_pre_hook  # noqa: E402

from lrtune.core.recipe import (  # noqa: E402
    OPTIMIZERS,
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    Step,
)
from lrtune.report.code import torch_code  # noqa: E402
from lrtune.schedules import build_schedule  # noqa: E402

EPOCHS, STEPS_PER_EPOCH = 8, 5
DECAYS = [
    Constant(),
    Step(every_epochs=3, factor=0.3),
    Step(every_epochs=0.7),
    MultiStep(milestones_epochs=(1, 4, 6.5)),
    Cosine(),
    Linear(),
    Polynomial(power=1.7),
    Exponential(end_frac=0.02),
    WSD(cooldown_frac=0.3),
    HoldPower(hold_frac=0.4, power=1.5),
    HoldPower(hold_frac=0.0),
]
PLATEAUS = [
    Plateau(patience_epochs=0, factor=0.5),
    Plateau(patience_epochs=1, factor=0.2, cooldown_epochs=1, threshold=0.05, threshold_mode="abs"),
    Plateau(monitor="top1", patience_epochs=1, factor=0.1),
]
# Better, worse, worse, better by less than the thresholds, worse to the end.
VAL_LOSSES = (1.0, 1.1, 1.2, 0.99999, 1.0, 1.3, 1.2, 1.4)
TOP1S = (50.0, 49.0, 48.0, 50.001, 50.0, 47.0, 48.0, 46.0)


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


def lrs_planned(recipe: Recipe) -> list[float]:
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    planned = []
    for epoch in range(EPOCHS):
        planned += [recipe.peak_lr * schedule(epoch * STEPS_PER_EPOCH + i) for i in range(STEPS_PER_EPOCH)]
        schedule = schedule.observe(val_loss=VAL_LOSSES[epoch], top1=TOP1S[epoch])
    return planned


@pytest.mark.parametrize("final_frac", [0.0, 0.05])
@pytest.mark.parametrize("warmup_epochs", [0.0, 1.5, 2])
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_pasted_code_uses_the_lr_of_the_schedule_at_every_step(decay, warmup_epochs, final_frac):
    recipe = Recipe(peak_lr=0.03, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac)
    metrics = TOP1S if getattr(decay, "monitor", "") == "top1" else VAL_LOSSES
    used = lrs_used(torch_code(recipe, EPOCHS, STEPS_PER_EPOCH), metrics)
    assert used == pytest.approx(lrs_planned(recipe), rel=1e-12, abs=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pasted_code_builds_every_optimizer(optimizer):
    if optimizer in ("lamb", "adabound"):
        pytest.importorskip("pytorch_optimizer")
    recipe = Recipe(optimizer=optimizer, peak_lr=0.003, warmup_epochs=1, weight_decay=0.01)
    assert lrs_used(torch_code(recipe, EPOCHS, STEPS_PER_EPOCH), ()) == pytest.approx(lrs_planned(recipe), rel=1e-12)


def test_sgd_keeps_its_momentum():
    code = torch_code(Recipe(momentum=0.85, nesterov=False, weight_decay=5e-4), EPOCHS, STEPS_PER_EPOCH)
    assert "model.parameters(), lr=0.1, momentum=0.85, nesterov=False, weight_decay=0.0005\n" in code


def test_nesterov_without_momentum_is_plain_sgd():
    assert len(lrs_used(torch_code(Recipe(momentum=0.0), EPOCHS, STEPS_PER_EPOCH), ())) == EPOCHS * STEPS_PER_EPOCH


def test_code_as_a_reader_sees_it():
    code = torch_code(Recipe(peak_lr=0.2, warmup_epochs=0.5, decay=WSD()), 12, 79)
    assert (
        code
        == '''\
import math

import torch

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


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)

for epoch in range(epochs):
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss_function(model(images), labels).backward()
        optimizer.step()
        scheduler.step()  # after every optimizer step, not once an epoch
'''
    )
