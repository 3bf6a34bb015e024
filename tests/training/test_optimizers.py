"""Optimizers: each is what its name says, at the recipe's settings and at its peak LR."""

from importlib.metadata import version

import pytest
import torch
from pytorch_optimizer import AdaBound, Lamb, Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD
from torch import nn

from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.training.native.optimizers import TwoPoints, build_optimizer, library_of, set_lr

# recipe: class, and settings of its group
BUILT = [
    (
        Recipe(optimizer="sgd", peak_lr=0.3, momentum=0.8, nesterov=True, weight_decay=1e-3),
        torch.optim.SGD,
        {
            "lr": 0.3,
            "momentum": 0.8,
            "nesterov": True,
            "weight_decay": 1e-3,
            "fused": True,
            "dampening": 0,
        },
    ),
    (Recipe(momentum=0.9, nesterov=False), torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    (Recipe(momentum=0.0, nesterov=True), torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
    (
        Recipe(optimizer="adagrad", peak_lr=0.02, weight_decay=1e-3),
        torch.optim.Adagrad,
        {"lr": 0.02, "weight_decay": 1e-3, "lr_decay": 0, "initial_accumulator_value": 0},
    ),
    (
        Recipe(optimizer="rmsprop", peak_lr=0.02, weight_decay=1e-3),
        torch.optim.RMSprop,
        {"lr": 0.02, "weight_decay": 1e-3, "momentum": 0, "alpha": 0.99},
    ),
    (
        Recipe(optimizer="adam", peak_lr=0.02, weight_decay=1e-3),
        torch.optim.Adam,
        {
            "lr": 0.02,
            "weight_decay": 1e-3,
            "betas": (0.9, 0.999),
            "fused": True,
            "decoupled_weight_decay": False,
        },
    ),
    (
        Recipe(optimizer="adamw", peak_lr=0.02, weight_decay=1e-3),
        torch.optim.AdamW,
        {
            "lr": 0.02,
            "weight_decay": 1e-3,
            "betas": (0.9, 0.999),
            "fused": True,
            "decoupled_weight_decay": True,
        },
    ),
    (
        Recipe(optimizer="lamb", peak_lr=0.02, weight_decay=1e-3),
        Lamb,
        {"lr": 0.02, "weight_decay": 1e-3},
    ),
    (
        Recipe(optimizer="adabound", peak_lr=0.02, weight_decay=1e-3),
        AdaBound,
        {"lr": 0.02, "weight_decay": 1e-3},
    ),
    (
        Recipe(
            optimizer="schedule-free-sgd",
            peak_lr=2.0,
            momentum=0.95,
            weight_decay=1e-3,
            warmup_epochs=1,
        ),
        ScheduleFreeSGD,
        {
            "lr": 2.0,
            "momentum": 0.95,
            "weight_decay": 1e-3,
            "warmup_steps": 0,
            "r": 0,
            "weight_lr_power": 2,
        },
    ),
    (
        Recipe(
            optimizer="schedule-free-adamw",
            peak_lr=0.02,
            momentum=0.8,
            weight_decay=1e-3,
            warmup_epochs=1,
        ),
        ScheduleFreeAdamW,
        {
            "lr": 0.02,
            "betas": (0.9, 0.999),
            "weight_decay": 1e-3,
            "warmup_steps": 0,
            "decoupling_c": 0,
        },
    ),
    (
        Recipe(optimizer="prodigy", peak_lr=0.5, weight_decay=1e-3, warmup_epochs=1),
        Prodigy,
        {
            "lr": 0.5,
            "weight_decay": 1e-3,
            "weight_decouple": True,
            "d_coef": 1,
            "safeguard_warmup": False,
        },
    ),
]


def model_of_two():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))


def test_no_optimizer_is_left_out():
    assert {recipe.optimizer for recipe, _, _ in BUILT} == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("recipe", "kind", "settings"), BUILT, ids=lambda value: getattr(value, "optimizer", "")
)
def test_each_is_what_it_should_be(recipe, kind, settings):
    model = model_of_two()
    optimizer = build_optimizer(recipe, model.parameters())
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in settings} == settings
    assert group["base_lr"] == recipe.peak_lr
    assert [*map(id, group["params"])] == [*map(id, model.parameters())]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "prodigy"])
def test_groups_keep_their_ratio_and_their_own_settings(name):
    model = model_of_two()
    given = [
        {"params": [*model[0].parameters()], "lr_scale": 0.25, "weight_decay": 0.5},
        {"params": [*model[1].parameters()]},
    ]
    before = [dict(group) for group in given]
    optimizer = build_optimizer(Recipe(optimizer=name, peak_lr=0.08), given)

    def lrs(key="lr"):
        return [group[key] for group in optimizer.param_groups]

    assert lrs() == lrs("base_lr") == [0.02, 0.08]
    assert lrs("weight_decay") == [0.5, 0.0]
    for multiplier in (0.5, 1e-6, 1.0):
        set_lr(optimizer, multiplier)
        assert lrs() == [0.02 * multiplier, 0.08 * multiplier]
    assert lrs("base_lr") == [0.02, 0.08]
    assert given == before  # the task's own dictionaries are not written to


def test_prodigy_has_one_lr_for_all_groups():
    model = model_of_two()

    def build(*scales):
        groups = [
            {"params": [*part.parameters()], "lr_scale": scale}
            for part, scale in zip(model, scales, strict=True)
        ]
        return build_optimizer(Recipe(optimizer="prodigy", peak_lr=0.08), groups)

    assert [group["base_lr"] for group in build(0.5, 0.5).param_groups] == [0.04, 0.04]
    with pytest.raises(InputError) as caught:
        build(0.25, 1.0)
    assert caught.value.problems == (
        "`lr_scale` must be the same in all groups for prodigy, but got [0.25, 1.0].",
    )


def test_a_group_has_no_lr_of_its_own():
    with pytest.raises(InputError) as caught:
        build_optimizer(Recipe(), [{"params": [*model_of_two().parameters()], "lr": 1e-4}])
    assert caught.value.problems == (
        "a group's LR is `peak_lr * lr_scale`: give `lr_scale`, not `lr`, but got lr=0.0001.",
    )


def test_only_schedule_free_has_two_points():
    built = {
        name: build_optimizer(Recipe(optimizer=name), model_of_two().parameters())
        for name in OPTIMIZERS
    }
    two = {name for name, optimizer in built.items() if isinstance(optimizer, TwoPoints)}
    assert two == {"schedule-free-sgd", "schedule-free-adamw"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_may_have_its_first_gradient_late(name):
    """As where layers are dropped at random: each step is then for the others."""
    torch.manual_seed(0)
    model = model_of_two()
    optimizer = build_optimizer(default_recipe(name), model.parameters())
    before = [parameter.clone() for parameter in model.parameters()]
    for layers in (model[:1], model):
        optimizer.zero_grad()
        layers(torch.randn(32, 4)).square().mean().backward()
        optimizer.step()
    assert not any(
        torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_sweep_of_the_multiplier_stays_finite(name):
    """A warmup from a millionth of the peak: AdaBound built at its first LR gives NaN here."""
    torch.manual_seed(0)
    model = model_of_two()
    inputs = torch.randn(32, 4)
    targets = inputs.sum(1, keepdim=True)
    peak_lr = 1.0 if name == "prodigy" else 0.01
    optimizer = build_optimizer(Recipe(optimizer=name, peak_lr=peak_lr), model.parameters())
    losses = []
    for step in range(300):
        set_lr(optimizer, min(1.0, 10 ** (step / 25 - 6)))
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.isfinite().all() for p in model.parameters())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("name", "package"),
    [
        (name, "torch" if facts.is_of_torch else "pytorch-optimizer")
        for name, facts in OPTIMIZERS.items()
    ],
)
def test_the_library_is_the_one_that_the_class_comes_from(name, package):
    assert library_of(Recipe(optimizer=name)) == {package: version(package)}
    module = type(build_optimizer(Recipe(optimizer=name), model_of_two().parameters())).__module__
    assert module.startswith(package.replace("-", "_"))
