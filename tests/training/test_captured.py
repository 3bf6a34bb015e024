"""Captured lanes: they train what an eager lane trains. On a CPU to the last bit, by a player that records nothing.

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

from lrtune.core.errors import TaskError
from lrtune.core.recipe import Constant, Cosine, Recipe, StepDecay, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.captured import CapturedLane
from lrtune.training.lanes import EagerLane
from lrtune.training.loop import Trainer, state_from_bytes, state_to_bytes
from lrtune.training.optimizers import CAPTURABLE
from lrtune.training.range_test import task_range_test
from lrtune.training.task import Task
from tests.studies import full_run, timeless
from tests.training.test_reuse_exact import lively, weights_and_biases


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


class CapturingTrainer(Trainer):
    """Uses captured lanes on a CPU too, and remembers them."""

    new_player = CallsAgain

    def why_eager(self, recipe):
        return super().why_eager(recipe).replace("there is no GPU", "")

    def _captured_lane(self, recipe):
        lane = super()._captured_lane(recipe)
        self.lanes = [*getattr(self, "lanes", []), lane]
        return lane


@pytest.fixture
def trainers_of(digits):
    """A trainer with captured lanes and one with eager ones, of the same task."""

    def build(*, device="cpu", captured=CapturingTrainer, **settings):
        changes = {name: settings.pop(name) for name in ("loss", "model") if name in settings}
        task = Task(
            train=digits.train, validation=digits.validation, num_classes=10, parameters=weights_and_biases,
            **{"model": lively} | changes,
        )  # fmt: skip
        precision = {} if device == "cuda" else {"precision": "fp32"}
        settings = TrainSettings(**{"batch_size": 36, "device": device} | precision | settings)
        return captured(task, settings), Eager(task, settings)

    return build


class Eager(Trainer):
    def why_eager(self, recipe):
        return "for comparison"


def train(trainer, run, **kwargs):
    files = []
    measurements = list(
        trainer.train(run, save=lambda _, state: files.append(state_to_bytes(state)), **kwargs)
    )
    return timeless(measurements), list(map(state_from_bytes, files))


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
    trainers_of, identical, optimizer, settings
):
    captured, eager = trainers_of(**settings)
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
    assert [type(lane) for lane in captured.lanes] == [CapturedLane] * 2
    assert captured.lanes[0] is captured.lanes[1]  # nothing is built or captured twice


@pytest.mark.parametrize("optimizer", CAPTURABLE)
def test_a_run_goes_on_from_a_state_on_either_lane(trainers_of, identical, optimizer):
    captured, eager = trainers_of()
    run = full_run(replace(default_recipe(optimizer), decay=StepDecay(every_epochs=2)), 4)
    measurements, states = train(eager, run)
    train(captured, full_run(default_recipe(optimizer), 1, seed=9))  # another run was there before
    for trainer, other in ((captured, eager), (eager, captured)):
        state = train(other, run)[1][1]
        again, ends = train(trainer, run, history=measurements[:2], state=state)
        assert repr(again) == repr(measurements[2:])
        assert identical(without_lrs(ends[-1]), without_lrs(states[-1]))


def test_another_optimizers_lane_makes_room(trainers_of):
    captured, _ = trainers_of()
    for recipe in (default_recipe("sgd"), default_recipe("adamw"), default_recipe("sgd")):
        train(captured, full_run(recipe, 1))
    first, second, third = captured.lanes
    assert len({first, second, third}) == 3
    assert (
        first._player is second._player is third._player
    )  # streams are few: who makes room hands its own on
    assert third._player.num_recordings == 3  # a step, and an evaluation of each kind of weights


def test_a_divergence_is_seen_in_its_epoch_and_the_lane_forgets_it(trainers_of, identical):
    captured, eager = trainers_of(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))
    )
    wild, _ = train(captured, full_run(Recipe(peak_lr=1e30, decay=Constant()), 3))
    assert [m.diverged for m in wild] == [True]
    measurements, states = train(captured, RUN)
    expected, expected_states = train(eager, RUN)
    assert repr(measurements) == repr(expected)
    assert identical(without_lrs(states[-1]), without_lrs(expected_states[-1]))


def test_the_range_test_is_the_same_on_either_lane(trainers_of):
    captured, eager = trainers_of()
    found, expected = (
        task_range_test(t, Recipe(), seeds=(0, 1), num_steps=40) for t in (captured, eager)
    )
    assert found == expected
    assert {type(lane) for lane in captured.lanes} == {CapturedLane}


# what keeps a recipe from being captured; the reason that is given
EAGER = [
    ({}, "adagrad", "adagrad reads its LR on the host"),
    ({"precision": "fp16"}, "sgd", "fp16 needs a gradient scaler"),
    ({"data_on_device": "no"}, "sgd", "the data do not lie on the device"),
]


@pytest.mark.parametrize(("settings", "optimizer", "reason"), EAGER)
def test_what_cannot_be_captured_is_trained_eagerly_and_it_is_said_why(
    trainers_of, settings, optimizer, reason
):
    captured, eager = trainers_of(**settings)
    run = full_run(default_recipe(optimizer), 1)
    assert reason in captured.why_eager(run.recipe)
    with captured.lane(run.recipe, 0) as lane:
        assert isinstance(lane, EagerLane)
    assert repr(train(captured, run)[0]) == repr(train(eager, run)[0])


def test_a_failed_capture_is_trained_eagerly_from_then_on(trainers_of):
    class Uncapturable(CallsAgain):
        def record(self, function):
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    class Failing(CapturingTrainer):
        new_player = Uncapturable

    captured, eager = trainers_of(captured=Failing)
    assert captured.why_eager(RUN.recipe) == ""
    assert repr(train(captured, RUN)[0]) == repr(train(eager, RUN)[0])
    reason = "the capture failed: RuntimeError: operation not permitted when stream is capturing"
    assert captured.why_eager(RUN.recipe) == reason


def test_the_reason_of_a_failed_capture_is_not_that_its_end_failed_too(trainers_of):
    class Graph:
        def __enter__(self): ...

        def __exit__(self, *_):
            raise RuntimeError("operation failed due to a previous error during capture")

    class FailingTwice(CallsAgain):
        def record(self, function):
            with Graph():
                raise TypeError("not in a graph")

    captured, _ = trainers_of(
        captured=type("Failing", (CapturingTrainer,), {"new_player": FailingTwice})
    )
    train(captured, RUN)
    assert captured.why_eager(RUN.recipe) == "the capture failed: TypeError: not in a graph"


class DropsLayers(nn.Module):
    """Leaves a layer out at random, as stochastic depth does, by a generator that a recording cannot ask again."""

    def __init__(self, draw):
        super().__init__()
        self.first, self.second, self.draw = nn.Linear(64, 64), nn.Linear(64, 10), draw

    def forward(self, x):
        x = x.flatten(1)
        if self.training and self.draw() < 0.5:
            x = x + self.first(x)
        return self.second(x)


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["Python", "NumPy"])
def test_a_step_that_draws_on_the_host_is_trained_eagerly(trainers_of, draw):
    captured, eager = trainers_of(model=lambda: DropsLayers(draw))
    assert repr(train(captured, RUN)[0]) == repr(train(eager, RUN)[0])
    assert "it draws random numbers on the host" in captured.why_eager(RUN.recipe)


def test_a_trainer_that_is_not_needed_any_more_is_freed_at_once(trainers_of):
    captured, _ = trainers_of()
    train(captured, RUN)
    freed = weakref.ref(captured)
    gc.disable()  # which finds cycles late, and never asks how much of a GPU they hold
    try:
        del captured
        assert freed() is None
    finally:
        gc.enable()


def test_a_capture_that_fails_after_others_is_no_reason_to_train_eagerly(trainers_of):
    class Once(CallsAgain):
        def record(self, function):
            if captured._has_captured:
                raise RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")
            return super().record(function)

    captured, _ = trainers_of(captured=type("Second", (CapturingTrainer,), {"new_player": Once}))
    with (
        captured.lane(RUN.recipe, 0),
        pytest.raises(TaskError, match="could not be captured: RuntimeError: CUDNN"),
    ):
        train(captured, RUN)
    assert captured.why_eager(RUN.recipe) == ""


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(trainers_of):
    _, plain = trainers_of()
    _, compiled = trainers_of(compile=True)
    close(train(compiled, RUN)[0], train(plain, RUN)[0])


# --- on a GPU


def close(measurements, expected):
    """Losses to a few per cent: two eager runs on a GPU differ too."""
    for one, other in zip(measurements, expected, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=0.05)
        assert one.val_loss == pytest.approx(other.val_loss, rel=0.1)
        assert one.averaged_val_loss == pytest.approx(other.averaged_val_loss, rel=0.1)
        assert (one.step, one.lr_first, one.lr_last) == (other.step, other.lr_first, other.lr_last)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [{}, SETTINGS["the last step has fewer"], {"clip_norm": 0.5}, {"compile": True}]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", CAPTURABLE)
def test_a_graph_trains_what_an_eager_lane_trains(trainers_of, optimizer, precision, settings):
    captured, eager = trainers_of(device="cuda", captured=Trainer, precision=precision, **settings)
    recipe = replace(default_recipe(optimizer), warmup_epochs=0.5, decay=Cosine())
    assert captured.why_eager(recipe) == ""
    for run in (
        full_run(recipe, 3),
        full_run(replace(recipe, peak_lr=recipe.peak_lr / 3), 2, seed=5),
    ):
        close(train(captured, run)[0], train(eager, run)[0])
    assert captured.why_eager(recipe) == ""  # the capture did not fail


@pytest.mark.gpu
def test_a_run_goes_on_from_a_state_on_a_gpu(trainers_of):
    captured, eager = trainers_of(device="cuda", captured=Trainer)
    measurements, _ = train(eager, RUN)
    for trainer, other in ((captured, eager), (eager, captured)):
        state = train(other, RUN)[1][0]
        close(train(trainer, RUN, history=measurements[:1], state=state)[0], measurements[1:])


@pytest.mark.gpu
def test_lanes_side_by_side_train_what_each_trains_alone(trainers_of):
    captured, _ = trainers_of(device="cuda", captured=Trainer)
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
def test_what_a_graph_cannot_hold_is_trained_eagerly(trainers_of):
    def reads_back(logits, labels):
        loss = F.cross_entropy(logits, labels)
        assert math.isfinite(loss.item())
        return loss

    captured, eager = trainers_of(device="cuda", captured=Trainer, loss=reads_back)
    close(train(captured, RUN)[0], train(eager, RUN)[0])
    assert captured.why_eager(RUN.recipe).startswith("the capture failed: ")
