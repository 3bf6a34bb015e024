"""The code to paste is pasted and run: the LR at every optimizer step is that of the schedule."""

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

from lrtune.core.decays import DECAYS as ALL_DECAYS
from lrtune.core.decays import WSD, Constant, Linear, Plateau
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe
from lrtune.reporting.export.parts import optimizer_code, optimizer_import
from lrtune.reporting.export.torch import torch_code
from lrtune.stepping.applied import Applied
from lrtune.training.native.optimizers import build_optimizer
from tests.peers.cases import (
    BATCH_SIZE,
    DECAYS,
    EPOCHS,
    GROUPS,
    LOADERS,
    NUM_EXAMPLES,
    PLAIN,
    PLATEAUS,
    SHAPES,
    STEPS_PER_EPOCH,
    UNUSUAL,
    exported,
    filled,
    group_deviation,
    lrs_planned,
    metrics_of,
    recipe_of,
    settings_of,
    steps_of,
)


class Run:
    """The names that the code needs, and the LRs of each optimizer step once it has run."""

    def __init__(self, keeps=True, metrics=()):
        data = torch.ones(NUM_EXAMPLES, 1, dtype=torch.float64)
        self.model = torch.nn.Linear(1, 1, dtype=torch.float64)
        self.loader = DataLoader(TensorDataset(data, data), BATCH_SIZE, drop_last=not keeps)
        self.remaining = iter(metrics)
        self.used = []
        self.names = {
            "model": self.model,
            "train_loader": self.loader,
            "loss_function": torch.nn.functional.mse_loss,
            "validate": lambda model: next(self.remaining),
            "PARAMETERS": dict(self.model.named_parameters()),
        }

    def execute(self, code):
        hook = register_optimizer_step_pre_hook(
            lambda optimizer, *_: self.used.append(
                tuple(float(group["lr"]) for group in optimizer.param_groups)
            )
        )
        try:
            exec(filled(code, self.model), self.names)
        finally:
            hook.remove()
        return self.used


def lrs_applied(recipe, keeps, accumulate):
    """The LRs of each step where `lrtune.apply` sets them in a loop without a scheduler."""
    run = Run(keeps)
    weight, bias = run.model.parameters()
    optimizer = torch.optim.SGD(
        [{"params": [weight], "lr": GROUPS[0].lr_scale}, {"params": [bias], "lr": 1.0}]
    )
    used, metrics = [], iter(metrics_of(recipe))
    steps_per_epoch = steps_of(keeps, accumulate)
    with Applied(optimizer, recipe, steps_per_epoch=steps_per_epoch, epochs=EPOCHS) as applied:
        for _ in range(EPOCHS):
            for batch, (x, _) in enumerate(run.loader, start=1):
                run.model(x).sum().backward()
                if batch % accumulate == 0 or batch == len(run.loader):
                    optimizer.step()
                    used.append(applied.lrs)
            applied.observe(next(metrics))
    return used


@pytest.mark.parametrize(("keeps", "accumulate"), LOADERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_each_step_of_pasted_code_has_the_lr_of_the_schedule(decay, shape, keeps, accumulate):
    recipe = recipe_of(decay, shape)
    code = exported(recipe, "torch", settings_of(accumulate), GROUPS).text
    used = Run(keeps, metrics_of(recipe)).execute(code)
    planned = lrs_planned(recipe, steps_of(keeps, accumulate))
    assert group_deviation(used, planned) <= 1e-9
    assert group_deviation(lrs_applied(recipe, keeps, accumulate), planned) <= 1e-9


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS, ids=str)
def test_a_step_past_the_planned_end_has_the_lr_of_the_last_one(decay, shape):
    run = Run()
    run.execute(exported(recipe_of(decay, shape), "torch").text)
    multiplier, total_steps = run.names["multiplier"], EPOCHS * steps_of(True, 1)
    last = multiplier(total_steps - 1)
    assert 0 < last <= 1
    assert [multiplier(total_steps + n) for n in (0, 1, 100)] == [last] * 3


def test_a_warmup_too_short_for_the_search_is_there_for_a_longer_loader():
    recipe = recipe_of(Linear(), (0.2, 0.0))
    code = torch_code(recipe, EPOCHS, 2, PLAIN)  # a warmup of no steps there
    used = Run().execute(code)
    assert [lr for (lr,) in used] == pytest.approx(lrs_planned(recipe, 7), rel=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pasted_code_builds_the_optimizer_that_was_trained(optimizer):
    recipe = recipe_of(
        Constant(), (1, 0.0), optimizer, momentum=0.8, nesterov=False, weight_decay=0.01
    )
    model = torch.nn.Linear(1, 1)
    given = {"model": model}
    exec(f"{optimizer_import(recipe)}\n{optimizer_code(recipe, ())}", given)
    pasted, trained = given["optimizer"], build_optimizer(recipe, model.parameters())
    assert type(pasted) is type(trained)
    assert pasted.defaults | {"fused": True} == trained.defaults | {"fused": True}
    used = Run().execute(exported(recipe, "torch").text)
    assert [lr for (lr,) in used] == pytest.approx(lrs_planned(recipe, 7), rel=1e-12)


def test_parameter_groups_have_the_scales_of_the_recipe():
    recipe = Recipe(group_scales=(("backbone", 0.01),))
    code = torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, PLAIN, GROUPS)
    assert '    {"params": ..., "lr": 0.1 * 0.01, "name": "backbone"},\n' in code
    assert '    {"params": ..., "lr": 0.1 * 1.0, "name": "head"},\n' in code


@pytest.mark.parametrize("decay", [Constant(), Plateau()])
@pytest.mark.parametrize("optimizer", ["sgd", "prodigy"])
def test_pasted_code_clips_as_the_search_did(optimizer, decay, monkeypatch):
    norms = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm)
    )
    recipe = recipe_of(decay, optimizer=optimizer)
    Run(metrics=metrics_of(recipe)).execute(exported(recipe, "torch", UNUSUAL).text)
    assert norms == [0.5] * EPOCHS * steps_of(True, 3)
    assert "clip" not in exported(recipe, "torch").text


@pytest.mark.parametrize("decay", [Constant(), Plateau(patience_epochs=0)])
@pytest.mark.parametrize("optimizer", ["schedule-free-sgd", "schedule-free-adamw"])
def test_schedule_free_is_switched_around_the_epoch(optimizer, decay):
    code = exported(recipe_of(decay, optimizer=optimizer), "torch").text
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
steps_per_epoch = len(train_loader)  # optimizer steps
warmup_steps = round(0.5 * steps_per_epoch)
total_steps = epochs * steps_per_epoch
cooldown_frac = 0.2
hold = 1 - cooldown_frac

optimizer = torch.optim.SGD(
    model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.0
)


def multiplier(step):
    """What the peak learning rate is multiplied by for step 0, 1, 2, ..."""
    step = min(step, total_steps - 1)  # past the end the last value holds
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    p = (step - warmup_steps) / (total_steps - warmup_steps)  # share of the decay done
    return 1.0 if p < hold else 1 - math.sqrt((p - hold) / (1 - hold))


scheduler = LambdaLR(optimizer, multiplier)

for epoch in range(epochs):
    for inputs, targets in train_loader:
        loss_function(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()  # after every optimizer step, not once an epoch
        optimizer.zero_grad()
'''
    )


def test_plateau_code_as_a_reader_sees_it():
    recipe = recipe_of(Plateau(monitor="f1:max"), (1, 0.1))
    code = torch_code(recipe, 12, 79, settings_of(3), GROUPS)
    assert (
        code.partition("peaks = ")[2]
        == """\
[group["lr"] for group in optimizer.param_groups]
scheduler = ReduceLROnPlateau(
    optimizer,
    mode="max",
    factor=0.1,
    patience=3,
    threshold=0.0001,
    threshold_mode="rel",
    cooldown=0,
    min_lr=[0.1 * group["lr"] for group in optimizer.param_groups],
    eps=0,
)

step = 0
for epoch in range(epochs):
    for batch, (inputs, targets) in enumerate(train_loader, start=1):
        (loss_function(model(inputs), targets) / accumulate).backward()
        if batch % accumulate and batch < len(train_loader):
            continue  # the last step of an epoch may have fewer batches
        if step < warmup_steps:
            for group, peak in zip(optimizer.param_groups, peaks):
                group["lr"] = peak * (step + 1) / warmup_steps
        optimizer.step()
        step += 1
        optimizer.zero_grad()
    metric = validate(model)  # f1, of which higher is better
    if step >= warmup_steps:  # earlier epochs say nothing of the peak
        scheduler.step(metric)
"""
    )


def test_the_decays_of_the_tests_are_all_there_are():
    assert {decay.name for decay in [*DECAYS, *PLATEAUS]} == set(ALL_DECAYS)
