"""Averaged weights: the formula, what is averaged, and that training does not notice."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lrtune.core.decays import Cosine
from lrtune.core.objective import averaged
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.averaging import AveragedWeights
from lrtune.training.native.checkpoints import state_from_bytes, state_to_bytes
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import timeless, train


def toy():
    """Parameters, the statistics of a batch norm, and its counter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def walk(model, num_steps):
    """Changes everything in a model, as optimizer steps do, and yields its state after each."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        model(
            torch.randn(8, 3, generator=generator, dtype=torch.float64)
        ).sum().backward()  # moves the statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        yield {name: tensor.clone() for name, tensor in model.state_dict().items()}


def update(averaged):
    averaged.update()
    averaged.num_steps += 1


def closed_form(states, name, half_life_steps):
    """Step `i` of `n` weighs `d**(n - i) * (1 - d) / (1 - d**n)`."""
    d, n = 0.5 ** (1 / half_life_steps), len(states)
    weights = [d ** (n - i) * (1 - d) / (1 - d**n) for i in range(1, n + 1)]
    assert sum(weights) == pytest.approx(1)
    return sum(weight * state[name] for weight, state in zip(weights, states, strict=True))


@pytest.mark.parametrize("half_life_steps", [0.25, 1, 7.5, 1000])
@pytest.mark.parametrize("num_steps", [1, 2, 30])
def test_the_average_is_the_closed_form(num_steps, half_life_steps):
    model = toy()
    averaged, states = AveragedWeights(model, half_life_steps), []
    for state in walk(model, num_steps):
        states.append(state)
        update(averaged)
    found = averaged.refresh().state_dict()
    assert {name for name, tensor in found.items() if not tensor.is_floating_point()} == {
        "1.num_batches_tracked"
    }
    assert found.pop("1.num_batches_tracked") == num_steps
    assert "1.running_var" in found
    for name, tensor in found.items():
        expected = closed_form(states, name, half_life_steps)
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


def test_the_weights_of_a_half_life_ago_weigh_half_as_much():
    """All steps but one are at zero, so the average is the share of that one."""
    model, shares = nn.Linear(1, 1, bias=False).double(), {}
    for at in (20, 15):
        averaged = AveragedWeights(model, 5)
        for step in range(1, 21):
            nn.init.constant_(model.weight, float(step == at))
            update(averaged)
        shares[at] = averaged.refresh().weight.item()
    assert shares[15] == pytest.approx(shares[20] / 2)


def test_the_averages_need_no_gradient_and_leave_the_model_its_own():
    model = toy()
    averaged = AveragedWeights(model, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    update(averaged)
    averaged.refresh()(torch.randn(8, 3, dtype=torch.float64))
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())
    assert all(parameter.grad_fn is None for parameter in averaged.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    ours, theirs = (
        {t.data_ptr() for t in m.state_dict().values()} for m in (averaged.model, model)
    )
    assert not ours & theirs


def test_a_restored_average_goes_on_as_if_never_stopped(identical):
    model = toy()
    unbroken = AveragedWeights(model, 3)
    for step, _ in enumerate(walk(model, 10), start=1):
        if step == 6:
            kept, weights = state_to_bytes(unbroken.state()), state_to_bytes(model.state_dict())
        update(unbroken)

    model = toy()
    for step, _ in enumerate(walk(model, 10), start=1):
        if step == 6:
            assert identical(dict(model.state_dict()), dict(state_from_bytes(weights)))
            restored = AveragedWeights(model, 3)
            restored.restore(state_from_bytes(kept))
        if step >= 6:
            update(restored)
    assert identical(restored.state(), unbroken.state())


# --- in a training run


def lively():
    hidden = (nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 10))


class WatchedTraining(NativeTraining):
    """Keeps the model after each optimizer step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        build = self.task.build_optimizer

        def build_watched(recipe, model, **kwargs):
            self.snapshots = []
            optimizer = build(recipe, model, **kwargs)
            optimizer.register_step_post_hook(lambda *_: self.snapshots.append(snapshot(model)))
            return optimizer

        self.task.build_optimizer = build_watched


def snapshot(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def training_of(digits):
    def build(**settings):
        task = Task(model=lively, train=digits.train, validation=digits.validation, num_classes=10)
        given = {
            "batch_size": 36,
            "precision": "fp32",
            "device": "cpu",
            "ema_half_life_epochs": 0.5,
        }
        return WatchedTraining(task, TrainSettings(**given | settings))

    return build


def raw(measurements):
    """What the raw weights gave, and nothing of the clock."""
    return [
        replace(m, metrics={k: v for k, v in m.metrics.items() if not k.startswith("averaged_")})
        for m in timeless(measurements)
    ]


RUN = full_run(Recipe(peak_lr=0.1, warmup_epochs=0.5, decay=Cosine()), 3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate": 3, "clip_norm": 1.0}, {"precision": "fp16"}],
    ids=["plain", "clipped", "fp16"],
)
def test_averaging_changes_no_bit_of_the_training(training_of, identical, settings):
    measurements, states = train(training_of(**settings), RUN)
    without, states_without = train(training_of(ema_half_life_epochs=0, **settings), RUN)
    assert raw(without) == raw(measurements)
    for one, other in zip(states, states_without, strict=True):
        assert (one.pop("averaged") != {}, other.pop("averaged")) == (True, {})
        assert identical(one, other)
    assert all(
        math.isfinite(m.metrics["averaged_top1"]) and math.isfinite(m.metrics["averaged_val_loss"])
        for m in measurements
    )
    assert all("averaged_top1" not in m.metrics for m in without)


def test_a_half_life_in_epochs_is_one_of_so_many_steps(training_of):
    training = training_of(ema_half_life_epochs=0.75)
    _, states = train(training, RUN)
    assert training.task.steps_per_epoch == 6
    assert states[-1]["averaged"]["num_steps"] == len(training.snapshots) == 18
    model = restored(lively(), states[-1], half_life_steps=0.75 * 6)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            expected = closed_form(training.snapshots, name, 0.75 * 6)
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def restored(model, state, half_life_steps):
    """The model of the averages in a run's state."""
    weights = AveragedWeights(model, half_life_steps)
    weights.restore(state["averaged"])
    return weights.refresh()


def test_what_is_measured_is_the_model_of_the_averages(training_of):
    training = training_of()
    measurements, states = train(training, RUN)
    for m, state in zip(measurements, states, strict=True):
        model = lively()
        model.load_state_dict(state["model"])
        measured = training.task.evaluation(model, training.task.validation)
        averages = restored(lively(), state, half_life_steps=0.5 * training.task.steps_per_epoch)
        of_average = training.task.evaluation(averages, training.task.validation)
        measured |= {averaged(name): value for name, value in of_average.items()}
        assert measured == {name: m.metrics[name] for name in measured}
        assert set(m.metrics) == {*measured, "train_loss"}
    assert measurements[0].metrics["averaged_val_loss"] != measurements[0].metrics["val_loss"]
