"""How many lanes: the rule as a table, and the trying out with lanes that record nothing."""

import threading

import pytest
import torch

from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.lanes import calibration
from lrtune.training.native.lanes.calibration import best_num_lanes, calibrate_lanes
from lrtune.training.native.models import build_model
from lrtune.training.task import Task
from tests.training.test_captured import CallsAgain, CapturingTraining

# steps a second of 1, 2, 4, 8 lanes together; the lanes that are used
RATES = [
    ([100, 105, 400, 800], 1),  # twice the lanes do not pay, whatever comes after
    ([100, 111, 120, 800], 2),
    ([100, 190, 360, 390], 4),
    ([100, 190, 360, 700], 8),
    ([100, 190, 0, 0], 2),  # four do not fit
    ([100, 0, 0, 0], 1),
]


@pytest.mark.parametrize(("rates", "expected"), RATES)
def test_lanes_are_doubled_while_it_pays(rates, expected):
    assert best_num_lanes(dict(zip((1, 2, 4, 8), rates, strict=True)).__getitem__) == expected


@pytest.fixture
def training_of(digits, monkeypatch):
    monkeypatch.setattr(calibration, "TRIAL_S", 0.01)

    def build(player=CallsAgain, **settings):
        task = Task(
            model=lambda: build_model("mlp", num_classes=10, channels=1, image_size=8),
            train=digits.train, validation=digits.validation, num_classes=10,
        )  # fmt: skip
        kind = type("Trying", (CapturingTraining,), {"new_player": player})
        return kind(
            task,
            TrainSettings(**{"batch_size": 36, "precision": "fp32", "device": "cpu"} | settings),
        )

    return build


@pytest.mark.parametrize("chosen", [1, 2, 8])
def test_as_many_lanes_are_kept_as_are_used(training_of, monkeypatch, chosen):
    tried = []

    def rule(rate):
        tried.extend(rate(num_lanes) for num_lanes in (1, 2, 8))
        return chosen

    monkeypatch.setattr(calibration, "best_num_lanes", rule)
    training = training_of()
    assert calibrate_lanes(training.pool, Recipe()) == chosen
    assert all(rate > 0 for rate in tried)
    assert len(training.pool._idle) == chosen


def test_recipes_that_are_not_captured_have_one_lane(training_of):
    assert calibrate_lanes(training_of().pool, default_recipe("adagrad")) == 1
    assert calibrate_lanes(training_of(precision="fp16").pool, Recipe()) == 1


def test_lanes_that_do_not_fit_are_not_used(training_of, monkeypatch):
    made, tried = [], []

    class Small(CallsAgain):
        """A device with room for three lanes."""

        def __init__(self, device):
            super().__init__(device)
            made.append(self)

        def record(self, function):
            if len(made) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return super().record(function)

    before = threading.active_count()
    monkeypatch.setattr(
        calibration, "best_num_lanes", lambda rate: tried.extend(map(rate, (1, 2, 4))) or 2
    )
    assert calibrate_lanes(training_of(Small).pool, Recipe()) == 2
    assert [rate > 0 for rate in tried] == [True, True, False]
    assert threading.active_count() == before


def test_several_lanes_of_which_some_are_eager_are_not_used(training_of, monkeypatch):
    training, tried = training_of(), []
    new_lane = training.pool.captured_lane

    def only_one(recipe):
        return new_lane(recipe) if training.pool._idle or not training.pool._has_captured else None

    monkeypatch.setattr(training.pool, "captured_lane", only_one)
    monkeypatch.setattr(
        calibration, "best_num_lanes", lambda rate: tried.extend(map(rate, (1, 4))) or 1
    )
    calibrate_lanes(training.pool, Recipe())
    assert [rate > 0 for rate in tried] == [True, False]


def test_a_further_lane_that_cannot_be_captured_is_not_used(training_of):
    made = []

    class Single(CallsAgain):
        """Of two in a process, the second records nothing."""

        def __init__(self, device):
            super().__init__(device)
            made.append(self)

        def record(self, function):
            if len(made) > 1:
                raise RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")
            return super().record(function)

    training = training_of(Single)
    assert calibrate_lanes(training.pool, Recipe()) == 1
    assert training.pool.why_eager(Recipe()) == ""


def test_a_failed_capture_leaves_one_lane(training_of):
    class Uncapturable(CallsAgain):
        def record(self, function):
            raise RuntimeError("operation not permitted when stream is capturing")

    training = training_of(Uncapturable)
    assert calibrate_lanes(training.pool, Recipe()) == 1
    assert training.pool.why_eager(Recipe()).startswith("the capture failed")
