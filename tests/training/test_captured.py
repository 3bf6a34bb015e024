"""Captured lanes train what an eager lane trains.

On a CPU they do so to the last bit, by a player that records nothing.

What a step must not do while a CUDA graph is captured can only be seen on a GPU: `pytest -m gpu`.
"""

import gc
import math
import random
import threading
import weakref
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torchmetrics.classification import MulticlassF1Score

from lrtune.core.decays import Constant, Cosine, StepDecay
from lrtune.core.errors import TaskError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.lanes.captured import CapturedLane
from lrtune.training.native.lanes.eager import EagerLane
from lrtune.training.native.lanes.pool import LanePool
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import range_test_of, timeless
from tests.training.runs import train as train_run
from tests.training.test_reuse_exact import lively, weights_and_biases

CAPTURABLE = [name for name, facts in OPTIMIZERS.items() if facts.is_capturable]


class CallsAgain:
    """A player that runs the function itself each time."""

    def __init__(self, device):
        self.num_recordings = 0

    def record(self, function):
        self.num_recordings += 1
        return function

    def play(self, recording, times):
        for _ in range(times):
            recording()

    def alone(self):
        return nullcontext()

    def rehearsal(self):
        return nullcontext()

    def seed(self, seed):
        torch.manual_seed(seed)

    def forget(self):
        self.num_recordings = 0


class CapturingTraining(NativeTraining):
    """Uses captured lanes on a CPU too, and remembers them."""

    new_player = CallsAgain

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pool = CapturingPool(self.task, self.new_player)


class CapturingPool(LanePool):
    def why_eager(self, recipe):
        return super().why_eager(recipe).replace("there is no GPU", "")

    def captured_lane(self, recipe):
        lane = super().captured_lane(recipe)
        self.used = [*getattr(self, "used", []), lane]
        return lane


@pytest.fixture
def trainings_of(digits):
    """A training with captured lanes and one with eager ones, of the same task."""

    def build(*, device="cpu", captured=CapturingTraining, **settings):
        changes = {
            name: settings.pop(name) for name in ("loss", "model", "metrics") if name in settings
        }
        task = Task(
            train=digits.train, validation=digits.validation, num_classes=10,
            parameters=weights_and_biases,
            **{"model": lively} | changes,
        )  # fmt: skip
        given = {"batch_size": 36, "device": device, "ema_half_life_epochs": 0.5}
        precision = {} if device == "cuda" else {"precision": "fp32"}
        settings = TrainSettings(**given | precision | settings)
        return captured(task, settings), Eager(task, settings)

    return build


class Eager(NativeTraining):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pool.why_eager = lambda recipe: "for comparison"


def train(training, run, **kwargs):
    measurements, states = train_run(training, run, **kwargs)
    return timeless(measurements), states


def without_lrs(state):
    """A captured optimizer holds its LRs as tensors."""
    return state | {"optimizer": state["optimizer"]["state"]}


RUN = full_run(Recipe(peak_lr=0.1, warmup_epochs=0.5, decay=Cosine()), 3)
SETTINGS = {
    "plain": {},
    "accumulated": {"accumulate": 4},  # 24 batches of 9, 6 steps of 4
    "the last step has fewer": {"batch_size": 63, "accumulate": 3},  # 10 batches of 21
    "clipped, smoothed": {"clip_norm": 0.5, "label_smoothing": 0.1, "augment": False},
    "without averages": {"ema_half_life_epochs": 0},
    "one batch": {"batch_size": 500},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("optimizer", CAPTURABLE)
def test_a_captured_lane_trains_what_an_eager_one_trains(
    trainings_of, identical, optimizer, settings
):
    captured, eager = trainings_of(**settings)
    recipe = replace(default_recipe(optimizer), warmup_epochs=0.5, decay=Cosine())
    for run in (
        full_run(recipe, 3),
        full_run(replace(recipe, peak_lr=recipe.peak_lr / 3), 2, seed=5),
    ):
        measurements, states = train(captured, run)
        expected, expected_states = train(eager, run)
        assert repr(measurements) == repr(expected)
        for one, other in zip(states, expected_states, strict=True):
            assert identical(without_lrs(one), without_lrs(other))
    assert [type(lane) for lane in captured.pool.used] == [CapturedLane] * 2
    assert captured.pool.used[0] is captured.pool.used[1]  # nothing is built or captured twice


@pytest.mark.parametrize("optimizer", CAPTURABLE)
def test_a_run_goes_on_from_a_state_on_either_lane(trainings_of, identical, optimizer):
    captured, eager = trainings_of()
    run = full_run(replace(default_recipe(optimizer), decay=StepDecay(every_epochs=2)), 4)
    measurements, states = train(eager, run)
    train(captured, full_run(default_recipe(optimizer), 1, seed=9))  # another run was there before
    for training, other in ((captured, eager), (eager, captured)):
        state = train(other, run)[1][1]
        again, ends = train(training, run, history=measurements[:2], state=state)
        assert repr(again) == repr(measurements[2:])
        assert identical(without_lrs(ends[-1]), without_lrs(states[-1]))


def test_another_optimizers_lane_makes_room(trainings_of):
    captured, _ = trainings_of()
    for recipe in (default_recipe("sgd"), default_recipe("adamw"), default_recipe("sgd")):
        train(captured, full_run(recipe, 1))
    first, second, third = captured.pool.used
    assert len({first, second, third}) == 3
    assert (
        first._player is second._player is third._player
    )  # streams are few: who makes room hands its own on
    assert third._player.num_recordings == 3  # a step, and an evaluation of each kind of weights


def test_a_divergence_is_seen_in_its_epoch_and_the_lane_forgets_it(trainings_of, identical):
    captured, eager = trainings_of(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))
    )
    wild, _ = train(captured, full_run(Recipe(peak_lr=1e15, decay=Constant()), 3))
    assert [m.diverged for m in wild] == [True]
    measurements, states = train(captured, RUN)
    expected, expected_states = train(eager, RUN)
    assert repr(measurements) == repr(expected)
    assert identical(without_lrs(states[-1]), without_lrs(expected_states[-1]))


def test_the_range_test_is_the_same_on_either_lane(trainings_of):
    captured, eager = trainings_of()
    found, expected = (
        range_test_of(t, Recipe(), seeds=(0, 1), num_steps=40) for t in (captured, eager)
    )
    assert found == expected
    assert {type(lane) for lane in captured.pool.used} == {CapturedLane}


def own_metrics():
    """One that takes in batch after batch, and one that is a function of all of them."""
    f1 = MulticlassF1Score(10, average="macro")
    return {"f1": f1, "margin": lambda outputs, _: outputs.topk(2).values.diff().abs().mean()}


def test_metrics_of_the_tasks_own_are_measured_on_either_lane(trainings_of):
    captured, eager = trainings_of(metrics=own_metrics())
    measurements, _ = train(captured, RUN)
    assert repr(measurements) == repr(train(eager, RUN)[0])
    assert {type(lane) for lane in captured.pool.used} == {CapturedLane}
    assert {"f1", "margin", "averaged_f1"} <= set(measurements[-1].metrics)


# what keeps a recipe from being captured; the reason that is given
EAGER = [
    ({}, "adagrad", "adagrad reads its LR on the host"),
    ({"precision": "fp16"}, "sgd", "fp16 needs a gradient scaler"),
    ({"data_on_device": "no"}, "sgd", "the data do not lie on the device"),
]


@pytest.mark.parametrize(("settings", "optimizer", "reason"), EAGER)
def test_what_cannot_be_captured_is_trained_eagerly_and_it_is_said_why(
    trainings_of, settings, optimizer, reason
):
    captured, eager = trainings_of(**settings)
    run = full_run(default_recipe(optimizer), 1)
    assert reason in captured.pool.why_eager(run.recipe)
    with captured.pool.lane(run.recipe, 0) as lane:
        assert isinstance(lane, EagerLane)
    assert repr(train(captured, run)[0]) == repr(train(eager, run)[0])


def test_a_failed_capture_is_trained_eagerly_from_then_on(trainings_of):
    class Uncapturable(CallsAgain):
        def record(self, function):
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    class Failing(CapturingTraining):
        new_player = Uncapturable

    captured, eager = trainings_of(captured=Failing)
    assert captured.pool.why_eager(RUN.recipe) == ""
    assert repr(train(captured, RUN)[0]) == repr(train(eager, RUN)[0])
    reason = "the capture failed: RuntimeError: operation not permitted when stream is capturing"
    assert captured.pool.why_eager(RUN.recipe) == reason


def test_the_reason_of_a_failed_capture_is_not_that_its_end_failed_too(trainings_of):
    class Graph:
        def __enter__(self): ...

        def __exit__(self, *_):
            raise RuntimeError("operation failed due to a previous error during capture")

    class FailingTwice(CallsAgain):
        def record(self, function):
            with Graph():
                raise TypeError("not in a graph")

    captured, _ = trainings_of(
        captured=type("Failing", (CapturingTraining,), {"new_player": FailingTwice})
    )
    train(captured, RUN)
    assert captured.pool.why_eager(RUN.recipe) == "the capture failed: TypeError: not in a graph"


class DropsLayers(nn.Module):
    """Leaves a layer out at random, by a generator that a recording cannot ask again."""

    def __init__(self, draw):
        super().__init__()
        self.first, self.second, self.draw = nn.Linear(64, 64), nn.Linear(64, 10), draw

    def forward(self, x):
        x = x.flatten(1)
        if self.training and self.draw() < 0.5:
            x = x + self.first(x)
        return self.second(x)


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["Python", "NumPy"])
def test_a_step_that_draws_on_the_host_is_trained_eagerly(trainings_of, draw):
    captured, eager = trainings_of(model=lambda: DropsLayers(draw))
    assert repr(train(captured, RUN)[0]) == repr(train(eager, RUN)[0])
    assert "it draws random numbers on the host" in captured.pool.why_eager(RUN.recipe)


def test_a_trainer_that_is_not_needed_any_more_is_freed_at_once(trainings_of):
    captured, _ = trainings_of()
    train(captured, RUN)
    freed = weakref.ref(captured)
    gc.disable()  # which finds cycles late, and never asks how much of a GPU they hold
    try:
        del captured
        assert freed() is None
    finally:
        gc.enable()


def test_a_capture_that_fails_after_others_is_no_reason_to_train_eagerly(trainings_of):
    class Once(CallsAgain):
        def record(self, function):
            if captured.pool._has_captured:
                raise RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")
            return super().record(function)

    captured, _ = trainings_of(captured=type("Second", (CapturingTraining,), {"new_player": Once}))
    with (
        captured.pool.lane(RUN.recipe, 0),
        pytest.raises(TaskError, match="could not be captured: RuntimeError: CUDNN"),
    ):
        train(captured, RUN)
    assert captured.pool.why_eager(RUN.recipe) == ""


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(trainings_of):
    _, plain = trainings_of()
    _, compiled = trainings_of(compile=True)
    close(train(compiled, RUN)[0], train(plain, RUN)[0])


# --- on a GPU


def close(measurements, expected):
    """Losses to a few per cent: two eager runs on a GPU differ too."""
    for one, other in zip(measurements, expected, strict=True):
        assert one.metrics["train_loss"] == pytest.approx(other.metrics["train_loss"], rel=0.05)
        assert one.metrics["val_loss"] == pytest.approx(other.metrics["val_loss"], rel=0.1)
        assert one.metrics["averaged_val_loss"] == pytest.approx(
            other.metrics["averaged_val_loss"], rel=0.1
        )
        assert (one.step, one.lr_first, one.lr_last) == (other.step, other.lr_first, other.lr_last)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [{}, SETTINGS["the last step has fewer"], {"clip_norm": 0.5}, {"compile": True}]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", CAPTURABLE)
def test_a_graph_trains_what_an_eager_lane_trains(trainings_of, optimizer, precision, settings):
    captured, eager = trainings_of(
        device="cuda", captured=NativeTraining, precision=precision, **settings
    )
    recipe = replace(default_recipe(optimizer), warmup_epochs=0.5, decay=Cosine())
    assert captured.pool.why_eager(recipe) == ""
    for run in (
        full_run(recipe, 3),
        full_run(replace(recipe, peak_lr=recipe.peak_lr / 3), 2, seed=5),
    ):
        close(train(captured, run)[0], train(eager, run)[0])
    assert captured.pool.why_eager(recipe) == ""  # the capture did not fail


@pytest.mark.gpu
def test_metrics_of_the_tasks_own_are_measured_beside_a_graph(trainings_of):
    captured, eager = trainings_of(
        device="cuda", captured=NativeTraining, metrics=own_metrics(), precision="fp32"
    )
    measurements, _ = train(captured, RUN)
    close(measurements, train(eager, RUN)[0])
    assert captured.pool.why_eager(RUN.recipe) == ""
    assert 0 < measurements[-1].metrics["f1"] <= 1


@pytest.mark.gpu
def test_a_run_goes_on_from_a_state_on_a_gpu(trainings_of):
    captured, eager = trainings_of(device="cuda", captured=NativeTraining)
    measurements, _ = train(eager, RUN)
    for training, other in ((captured, eager), (eager, captured)):
        state = train(other, RUN)[1][0]
        close(train(training, RUN, history=measurements[:1], state=state)[0], measurements[1:])


@pytest.mark.gpu
def test_lanes_side_by_side_train_what_each_trains_alone(trainings_of):
    captured, _ = trainings_of(device="cuda", captured=NativeTraining)
    runs = [
        full_run(Recipe(peak_lr=lr, decay=Cosine()), 3, seed=seed)
        for seed, lr in enumerate((0.02, 0.05, 0.1))
    ]
    alone, together = [train(captured, run)[0] for run in runs], {}

    def work(index):
        together[index] = train(captured, runs[index])[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, expected in enumerate(alone):
        close(together[index], expected)


@pytest.mark.gpu
def test_what_a_graph_cannot_hold_is_trained_eagerly(trainings_of):
    def reads_back(logits, labels):
        loss = F.cross_entropy(logits, labels)
        assert math.isfinite(loss.item())
        return loss

    captured, eager = trainings_of(device="cuda", captured=NativeTraining, loss=reads_back)
    close(train(captured, RUN)[0], train(eager, RUN)[0])
    assert captured.pool.why_eager(RUN.recipe).startswith("the capture failed: ")
