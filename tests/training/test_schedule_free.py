"""Optimizers that need no schedule: they are their authors', and worth what they should be.

In the names of the paper (arXiv 2405.15682): z is what steps, x is the average of z, and y between
the two is where gradients are taken.
"""

import copy
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_optimizer import Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.core.decays import Constant, Linear
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.schedules import build_schedule
from lrtune.training.native.devices import Arithmetic
from lrtune.training.native.forward import DefaultForward
from lrtune.training.native.lanes import eager
from lrtune.training.native.lanes.eager import NUM_STATISTICS, gather_statistics
from lrtune.training.native.loop import NativeTraining
from lrtune.training.native.optimizers import build_optimizer
from lrtune.training.native.range_test import range_test
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import train as train_run

SCHEDULE_FREE = ["schedule-free-sgd", "schedule-free-adamw"]
CPU = SimpleNamespace(
    arithmetic=Arithmetic(torch.device("cpu"), None), forward=DefaultForward(F.cross_entropy)
)
"""Of a step, what gathering statistics needs."""
INPUTS = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS.sum(1) > 0).long()


def tiny():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def normed():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
    )


@pytest.fixture
def training_of(digits):
    def build(model, *, kind=NativeTraining, **settings):
        task = Task(model=model, train=digits.train, validation=digits.validation, num_classes=10)
        return kind(
            task,
            TrainSettings(**{"batch_size": 36, "precision": "fp32", "device": "cpu"} | settings),
        )

    return build


def train(training, recipe, epochs):
    return train_run(training, full_run(recipe, epochs))


def classifier(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)


def trajectory(make, lrs, dtype=torch.float32):
    """The weights after each step at these LRs, (steps, weights), and at the end the deployed."""
    model = classifier(dtype)
    optimizer = make(model.parameters())
    switch = {mode: getattr(optimizer, mode, lambda: None) for mode in ("train", "eval")}
    weights = []

    def note():
        weights.append(
            torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        )

    switch["train"]()
    for lr in lrs:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        F.cross_entropy(model(INPUTS.to(dtype)), LABELS).backward()
        optimizer.step()
        note()
    switch["eval"]()
    note()
    return torch.stack(weights)


# --- whose they are ---


# recipe, class of the authors, and how far the weights may part in 40 steps: Prodigy sums in single
# precision
AUTHORS = [
    (
        Recipe(optimizer="schedule-free-sgd", peak_lr=1.0, weight_decay=0.01),
        "schedulefree.SGDScheduleFree",
        0,
    ),
    (
        Recipe(optimizer="schedule-free-adamw", peak_lr=0.01, weight_decay=0.01),
        "schedulefree.AdamWScheduleFree",
        1e-7,
    ),
    (Recipe(optimizer="prodigy", peak_lr=1.0, weight_decay=0.01), "prodigyopt.Prodigy", 1e-5),
]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("recipe", "name", "apart"), AUTHORS, ids=lambda value: getattr(value, "optimizer", "")
)
def test_each_takes_the_steps_of_its_authors(recipe, name, apart):
    package, kind = name.split(".")
    theirs = getattr(pytest.importorskip(package), kind)
    schedule = build_schedule(
        replace(recipe, warmup_epochs=1, decay=Linear()), epochs=4, steps_per_epoch=10
    )
    lrs = [recipe.peak_lr * schedule(step) for step in range(40)]
    expected = trajectory(
        lambda p: theirs(p, lr=1.0, weight_decay=recipe.weight_decay), lrs, torch.float64
    )
    got = trajectory(lambda p: build_optimizer(recipe, p), lrs, torch.float64)
    torch.testing.assert_close(got, expected, rtol=0, atol=apart)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [("schedule-free-sgd", ScheduleFreeSGD), ("schedule-free-adamw", ScheduleFreeAdamW)],
)
def test_a_warmup_of_the_schedule_is_that_of_the_optimizer(optimizer, kind):
    recipe = Recipe(optimizer=optimizer, peak_lr=0.05, warmup_epochs=1, decay=Constant())
    schedule = build_schedule(recipe, epochs=3, steps_per_epoch=7)
    ours = trajectory(
        lambda p: build_optimizer(recipe, p), [0.05 * schedule(step) for step in range(21)]
    )
    theirs = trajectory(lambda p: kind(p, lr=0.05, warmup_steps=7), [0.05] * 21)
    assert torch.equal(ours, theirs)


# --- where it trains, and what it is worth ---


def test_training_is_the_recursion_of_the_paper(training_of):
    recipe = Recipe(
        optimizer="schedule-free-sgd", peak_lr=0.5, momentum=0.8, warmup_epochs=1, decay=Linear()
    )
    training = training_of(tiny)
    _, states = train(training, recipe, epochs=3)
    schedule = build_schedule(recipe, epochs=3, steps_per_epoch=6)
    model = training.task.build_model(0)
    parameters = list(model.parameters())
    x, z = ([parameter.detach().clone() for parameter in parameters] for _ in range(2))
    total = highest = 0.0
    for epoch, state in enumerate(states):
        for step, (inputs, labels) in enumerate(
            training.task.batches.epoch(0, epoch), start=6 * epoch
        ):
            lr = 0.5 * schedule(step)
            highest = max(highest, lr)
            total += highest**2
            with torch.no_grad():
                for parameter, x_i, z_i in zip(parameters, x, z, strict=True):
                    parameter.copy_(0.2 * z_i + 0.8 * x_i)  # y
            gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)
            for x_i, z_i, gradient in zip(x, z, gradients, strict=True):
                z_i -= lr * gradient
                x_i += highest**2 / total * (z_i - x_i)
        torch.testing.assert_close(list(state["model"].values()), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", SCHEDULE_FREE)
def test_a_checkpoint_holds_the_model_that_was_evaluated(training_of, optimizer):
    training = training_of(normed)
    measurements, states = train(training, default_recipe(optimizer), epochs=3)
    for measurement, state in zip(measurements, states, strict=True):
        assert [group["train_mode"] for group in state["optimizer"]["param_groups"]] == [False]
        model = normed()
        model.load_state_dict(state["model"])
        measured = training.task.evaluation(model, training.task.validation)
        assert measured == {name: measurement.metrics[name] for name in ("val_loss", "top1")}


@pytest.mark.parametrize("optimizer", SCHEDULE_FREE)
def test_averaged_weights_average_where_gradients_are_taken(training_of, identical, optimizer):
    class Watched(NativeTraining):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            build = self.task.build_optimizer

            def build_watched(recipe, model, **kwargs):
                def after(*_):
                    self.y = [parameter.detach().clone() for parameter in model.parameters()]

                optimizer = build(recipe, model, **kwargs)
                optimizer.register_step_post_hook(after)
                return optimizer

            self.task.build_optimizer = build_watched

    training = training_of(
        tiny, kind=Watched, ema_half_life_epochs=1e-3
    )  # next to nothing but the last step
    _, (state,) = train(training, default_recipe(optimizer), epochs=1)
    assert identical(state["averaged"]["moments"], training.y)
    assert not torch.equal(state["model"]["1.weight"], training.y[0])


# --- batch norm ---


class HalfFrozen(nn.Module):
    """Two batch norms, one of which the model keeps from training."""

    def __init__(self):
        super().__init__()
        self.frozen, self.free = nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=0.3)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs):
        return self.free(self.frozen(inputs))


def test_statistics_are_the_mean_over_the_batches_at_the_weights_that_are_evaluated(training_of):
    training = training_of(normed)
    _, states = train(training, default_recipe("schedule-free-sgd"), epochs=2)
    model = normed()
    model.load_state_dict(states[-1]["model"])
    hidden = [
        model[:2](inputs).detach() for inputs, _ in training.task.batches.epoch(0, 1)
    ]  # each (36, 32)
    torch.testing.assert_close(
        model[2].running_mean, torch.stack([batch.mean(0) for batch in hidden]).mean(0)
    )
    torch.testing.assert_close(
        model[2].running_var, torch.stack([batch.var(0) for batch in hidden]).mean(0)
    )


def test_without_them_the_first_epochs_are_worth_less(training_of, monkeypatch):
    recipe = default_recipe("schedule-free-sgd")
    (with_them,), _ = train(training_of(normed), recipe, epochs=1)
    monkeypatch.setattr(eager, "gather_statistics", lambda *_: None)
    (without,), _ = train(training_of(normed), recipe, epochs=1)
    assert with_them.metrics["train_loss"] == without.metrics["train_loss"]
    assert with_them.metrics["top1"] > without.metrics["top1"] + 5


def test_only_batch_norms_that_train_are_given_statistics():
    model = HalfFrozen()
    model.frozen.running_mean += 2
    before = {name: value.clone() for name, value in model.frozen.state_dict().items()}
    gather_statistics(
        model, iter([(INPUTS[:16], LABELS[:16]), (INPUTS[16:32] + 4, LABELS[16:32])]), CPU
    )
    assert all(
        torch.equal(value, before[name]) for name, value in model.frozen.state_dict().items()
    )
    torch.testing.assert_close(model.free.running_mean, INPUTS[:32].mean(0), rtol=1e-4, atol=1e-4)
    assert model.free.momentum == 0.3


@pytest.mark.parametrize(
    ("model", "num_drawn"), [(nn.BatchNorm1d(8), NUM_STATISTICS), (nn.Linear(8, 2), 0)]
)
def test_no_more_batches_are_drawn_than_needed(model, num_drawn):
    drawn = []
    gather_statistics(
        model, ((drawn.append(number) or INPUTS, LABELS) for number in itertools.count()), CPU
    )
    assert len(drawn) == num_drawn


# --- a range test of a caller's own ---


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*itertools.product((ScheduleFreeSGD, ScheduleFreeAdamW), ("train", "eval")), (Prodigy, "")],
)
def test_a_range_test_gives_them_back_as_they_were(identical, kind, mode):
    model = classifier()
    optimizer = kind(model.parameters())
    for _ in range(3):
        F.cross_entropy(model(INPUTS), LABELS).backward()
        optimizer.step()
    getattr(optimizer, mode, lambda: None)()

    def values():
        return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})

    before = values()
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)
    result = range_test(
        model, optimizer, loader, F.cross_entropy, low=1e-3, high=0.1, num_steps=20, num_seeds=2
    )
    assert identical(values(), before)
    assert [len(curve.losses) for curve in result.curves] == [20, 20]
