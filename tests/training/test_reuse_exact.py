"""Reuse with the real training: a run that takes over epochs ends like one from the start.

To the last bit, in all that training changes: weights, averaged weights, the optimizer's state and
the scaler's.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lrtune.core.decays import WSD, Constant, Cosine, Plateau, StepDecay
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import default_recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import TrainSettings
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from lrtune.tuning import reuse
from tests.studies import full_run
from tests.training.runs import Files, timeless

EPOCHS = 6
SETTINGS = {"batch_size": 36, "precision": "fp32", "device": "cpu", "ema_half_life_epochs": 0.5}


def lively():
    """Convolution, batch norm and dropout: all that could make a repeat differ."""
    body = (
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
    )
    return nn.Sequential(*body, nn.Linear(36, 10))


def weights_and_biases(model):
    """Two parameter groups, the second at a tenth of the LR."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": weights},
        {"params": [p for p in model.parameters() if p.ndim == 1], "lr_scale": 0.1},
    ]


class Kept(Files):
    """Checkpoints, of which the latest one saved is the end of a run."""

    latest = ""

    def save(self, key, state, epochs):
        super().save(key, state, epochs)
        self.latest = key

    def end(self):
        """What the last run ended in, but for the time it took."""
        state = self.load(self.latest)
        return {part: state[part] for part in ("model", "averaged", "optimizer", "scaler")}


@pytest.fixture
def train_all(digits):
    """Trains runs one after the other, each by a training of its own, as another process would."""

    def train(*runs, lost=False, **settings):
        files, known, measurements = Kept(), {}, []
        for run in runs:
            settings = SETTINGS | settings
            task = Task(
                model=lively, train=digits.train, validation=digits.validation, num_classes=10,
                parameters=weights_and_biases if run.recipe.optimizer != "prodigy" else None,
            )  # fmt: skip
            training = NativeTraining(task, TrainSettings(**settings))
            if lost:
                files.contents.clear()
            torch.manual_seed(len(known))  # what was drawn before is of no account
            record = RunRecord(run=run, state="running")
            identity = training.identity(run.recipe)
            assignment = reuse.assignment_of(record, known, identity, training.facts)
            measurements = list(reuse.train(assignment, training, files))
            known |= {m.prefix: m for m in measurements if not m.reused}
        return measurements, files.end()

    return train


def alike(measurements):
    """What of a run does not depend on what was known before it."""
    return timeless(measurements, reused=False, again_epochs=0)


def shared_trunk(optimizer):
    """A constant LR, and then WSD, which has that LR for four epochs of six."""
    recipe = replace(default_recipe(optimizer), warmup_epochs=0.5)
    constant, wsd = (replace(recipe, decay=decay) for decay in (Constant(), WSD(cooldown_frac=0.3)))
    return [
        full_run(constant, EPOCHS, id="trial-0000"),
        full_run(wsd, EPOCHS, id="trial-0001", trial=1),
    ]


def ended_early(optimizer):
    """Two runs that end after two epochs of six and after four, and then one that does not."""
    full = full_run(replace(default_recipe(optimizer), warmup_epochs=1.5, decay=Cosine()), EPOCHS)
    return [replace(full, id=f"trial-000{stop}", stop_epochs=stop) for stop in (2, 4)] + [full]


def two_plateaus(optimizer):
    """One that lets its LR down at each epoch that is not much better, and a more patient one."""
    rule = Plateau(patience_epochs=0, factor=0.5, threshold=0.5)
    recipe = default_recipe(optimizer)
    decays = (rule, replace(rule, patience_epochs=1))
    return [
        full_run(replace(recipe, decay=decay), EPOCHS, id=f"trial-{i}")
        for i, decay in enumerate(decays)
    ]


def looked_at(optimizer):
    """A look at a constant LR, which is the beginning of a full run too."""
    recipe = replace(default_recipe(optimizer), warmup_epochs=0)
    short = full_run(
        replace(recipe, decay=Constant()),
        EPOCHS,
        id="trial-0000-look-1",
        kind="look",
        horizon_epochs=2,
        stop_epochs=2,
    )
    return [short, full_run(replace(recipe, decay=StepDecay(every_epochs=3)), EPOCHS)]


# the runs, and of the last one the epochs that are taken over
TRUNK, EARLY, LOOK = (shared_trunk, 4), (ended_early, 4), (looked_at, 2)
CLIPPED = {"accumulate": 3, "clip_norm": 0.5, "label_smoothing": 0.1, "augment": False}
FP16 = {"precision": "fp16", "accumulate": 2}
CASES = {
    "trunk": (*TRUNK, {}),
    "trunk, accumulated and clipped": (*TRUNK, CLIPPED),
    "trunk, fp16": (*TRUNK, FP16),
    "ended early, fp16": (*EARLY, FP16),
    "look": (*LOOK, {}),
}


def check_exact(train_all, identical, runs, num_reused, **settings):
    measurements, end = train_all(*runs, **settings)
    expected, expected_end = train_all(runs[-1], **settings)
    assert [m.reused for m in measurements] == [True] * num_reused + [False] * (EPOCHS - num_reused)
    assert not any(m.reused for m in expected)
    assert alike(measurements) == alike(expected)
    assert end["averaged"]["moments"]
    assert end["optimizer"]["state"]
    assert identical(end, expected_end)


@pytest.mark.parametrize(("runs_of", "num_reused", "settings"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_takes_over_epochs_ends_like_one_from_the_start(
    train_all, identical, optimizer, runs_of, num_reused, settings
):
    check_exact(train_all, identical, runs_of(optimizer), num_reused, **settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_lost_states_are_trained_again_to_the_same_end(train_all, identical, optimizer):
    runs = shared_trunk(optimizer)
    measurements, end = train_all(*runs, lost=True)
    expected, expected_end = train_all(runs[-1])
    assert [m.again_epochs for m in measurements] == [0, 0, 0, 0, 4, 0]
    assert alike(measurements) == alike(expected)
    assert identical(end, expected_end)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_plateaus_share_what_they_share_and_end_as_if_alone(train_all, identical, optimizer):
    runs = two_plateaus(optimizer)
    measurements, end = train_all(*runs)
    expected, expected_end = train_all(runs[-1])
    assert 1 <= sum(m.reused for m in measurements) < EPOCHS
    assert alike(measurements) == alike(expected)
    assert identical(end, expected_end)


# --- on a GPU


@pytest.fixture
def deterministic(monkeypatch):
    """Only algorithms that give the same bits each time; cuBLAS needs to be told by a variable."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("runs_of", "num_reused"), [TRUNK, EARLY, LOOK], ids=["trunk", "ended early", "look"]
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_takes_over_epochs_ends_like_one_from_the_start_on_a_gpu(
    train_all, identical, deterministic, optimizer, runs_of, num_reused, precision
):
    settings = {"device": "cuda", "precision": precision, "accumulate": 2, "clip_norm": 0.5}
    check_exact(train_all, identical, runs_of(optimizer), num_reused, **settings)
