"""The loop: the LR of every step, exact repeats and resumes, and runs that cannot go on."""

import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from lrtune.core.decays import (
    DECAYS,
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
)
from lrtune.core.errors import DataError, InputError, StoreError, TaskError, TrialError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.schedules import build_schedule
from lrtune.training.native.checkpoints import state_from_bytes, state_to_bytes
from lrtune.training.native.data.batches import evaluation_batches
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import measurements_of, timeless, train

NEVER_BETTER = Plateau(
    patience_epochs=0, factor=0.5, monitor="top1", threshold=1000, threshold_mode="abs"
)
ALL_DECAYS = [
    Constant(), StepDecay(every_epochs=1.5), MultiStep(milestones_epochs=(1.0, 2.2)),
    Cosine(), Linear(), Polynomial(), Exponential(), WSD(), HoldPower(), NEVER_BETTER,
]  # fmt: skip


def tiny():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def lively():
    """Batch norm and dropout: all that could make a repeat differ."""
    hidden = (nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 10))


def weights_and_biases(model):
    """Two parameter groups, the second at a tenth of the LR."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": weights},
        {"params": [p for p in model.parameters() if p.ndim == 1], "lr_scale": 0.1},
    ]


class Overflowing:
    """Cross-entropy whose gradient is too large for fp16 in the chosen training batches.

    The loss itself is finite.
    """

    def __init__(self, *batches):
        self.batches, self.seen = batches, 0

    def __call__(self, logits, labels):
        loss = F.cross_entropy(logits, labels)
        if not logits.requires_grad:  # validation
            return loss
        self.seen += 1
        return loss * 1e30 if self.seen - 1 in self.batches else loss


class WatchedTraining(NativeTraining):
    """Keeps the LRs, one a group, and the length of the update over the LR, of each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        build = self.task.build_optimizer

        def build_watched(recipe, model, **kwargs):
            optimizer = build(recipe, model, **kwargs)
            self.lrs, self.gradient_norms = [], []

            def before(optimizer, *_):
                self.lrs.append(tuple(group["lr"] for group in optimizer.param_groups))
                self.weights = flat(model)

            def after(optimizer, *_):
                length = (flat(model) - self.weights).norm().item()
                self.gradient_norms.append(length / self.lrs[-1][0])

            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)
            return optimizer

        self.task.build_optimizer = build_watched


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


@pytest.fixture
def training_of(digits):
    def build(
        kind=NativeTraining,
        *,
        model=tiny,
        train=digits.train,
        test=digits.test,
        loss=None,
        parameters=None,
        **settings,
    ):
        task = Task(
            model=model, train=train, validation=digits.validation, test=test, num_classes=10,
            loss=loss, parameters=parameters,
        )  # fmt: skip
        return kind(
            task,
            TrainSettings(**{"batch_size": 36, "precision": "fp32", "device": "cpu"} | settings),
        )

    return build


def run_of(recipe, *, epochs=3, seed=0):
    return full_run(recipe, epochs, seed=seed)


# --- the LR of every step ---


def test_no_decay_is_left_out():
    assert {decay.name for decay in ALL_DECAYS} == set(DECAYS)


# batch size, accumulation: with 216 images, 6 and 4 steps an epoch, the last of the 4 with 1
# micro-batch of 2
@pytest.mark.parametrize(("batch_size", "accumulate", "steps_per_epoch"), [(36, 1, 6), (63, 3, 4)])
@pytest.mark.parametrize("warmup_epochs", [0, 1.3])
@pytest.mark.parametrize("decay", ALL_DECAYS, ids=lambda decay: decay.name)
def test_the_lr_used_is_the_schedules(
    training_of, decay, warmup_epochs, batch_size, accumulate, steps_per_epoch
):
    recipe = Recipe(peak_lr=0.05, warmup_epochs=warmup_epochs, decay=decay, final_frac=0.01)
    training = training_of(
        WatchedTraining, batch_size=batch_size, accumulate=accumulate, parameters=weights_and_biases
    )
    measurements, _ = train(training, run_of(recipe, epochs=4))

    schedule = build_schedule(recipe, epochs=4, steps_per_epoch=steps_per_epoch)
    expected = []
    for m in measurements:
        expected += [
            schedule(step)
            for step in range((m.epoch - 1) * steps_per_epoch, m.epoch * steps_per_epoch)
        ]
        schedule = schedule.observe(m.metrics)
    assert training.lrs == [(0.05 * multiplier, 0.05 * 0.1 * multiplier) for multiplier in expected]
    assert [m.step for m in measurements] == [steps_per_epoch * epoch for epoch in (1, 2, 3, 4)]
    assert [(m.lr_first, m.lr_last) for m in measurements] == [
        (training.lrs[(m.epoch - 1) * steps_per_epoch][0], training.lrs[m.step - 1][0])
        for m in measurements
    ]


# recipe: the LR of each step of 2 epochs of 3 steps, or of 4 such epochs
WRITTEN_OUT = [
    (Recipe(peak_lr=0.6, decay=Linear()), [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    (Recipe(peak_lr=0.6, warmup_epochs=1, decay=Linear()), [0.2, 0.4, 0.6, 0.6, 0.4, 0.2]),
    (Recipe(peak_lr=0.6, warmup_epochs=1, decay=Constant()), [0.2, 0.4, 0.6, 0.6, 0.6, 0.6]),
    (Recipe(peak_lr=0.6, decay=StepDecay(every_epochs=1)), [0.6, 0.6, 0.6, 0.06, 0.06, 0.06]),
    (Recipe(peak_lr=0.6, decay=NEVER_BETTER), [0.6] * 6 + [0.3] * 3 + [0.15] * 3),
    (
        Recipe(peak_lr=0.6, warmup_epochs=2, decay=NEVER_BETTER),
        [0.1, 0.2, 0.3, 0.4, 0.5] + [0.6] * 4 + [0.3] * 3,
    ),
]


@pytest.mark.parametrize(
    ("recipe", "expected"), WRITTEN_OUT, ids=lambda value: getattr(value, "label", "")
)
def test_the_lrs_written_out(training_of, recipe, expected):
    training = training_of(WatchedTraining, batch_size=72)
    train(training, run_of(recipe, epochs=len(expected) // 3))
    assert [lr for (lr,) in training.lrs] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_the_scaler_skips_does_not_advance_the_schedule(training_of, optimizer):
    recipe = replace(default_recipe(optimizer), warmup_epochs=0.5, decay=Linear())
    training = training_of(
        WatchedTraining, precision="fp16", loss=Overflowing(0, 3, 7)
    )  # of 6 steps an epoch
    measurements, states = train(training, run_of(recipe, epochs=2))
    schedule = build_schedule(recipe, epochs=2, steps_per_epoch=6)
    assert [m.step for m in measurements] == [4, 9]
    used = [recipe.peak_lr * schedule(step) for step in range(9)]
    assert [(m.lr_first, m.lr_last) for m in measurements] == [
        (used[0], used[3]),
        (used[4], used[8]),
    ]
    if optimizer not in (
        "sgd",
        "adam",
        "adamw",
    ):  # these are fused, and their step is entered and does nothing
        assert [lr for (lr,) in training.lrs] == used
    assert all(weight.isfinite().all() for weight in states[-1]["model"].values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_that_are_all_skipped_leave_nothing_behind(training_of, identical, optimizer):
    run = run_of(default_recipe(optimizer), epochs=1)
    training = training_of(precision="fp16", loss=Overflowing(*range(6)))
    (measurement,), (state,) = train(training, run)
    assert measurement.step == 0
    assert math.isnan(measurement.lr_first)
    assert math.isnan(measurement.lr_last)
    assert identical(state["model"], training.task.build_model(run.seed).state_dict())
    moments = [
        value for values in state["optimizer"]["state"].values() for value in values.values()
    ]
    assert all(value.count_nonzero() == 0 for value in moments if value is not None)


# --- repeats and resumes ---


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_is_the_same_each_time(training_of, identical, optimizer):
    run = run_of(default_recipe(optimizer))
    torch.manual_seed(1)
    measurements, states = train(training_of(model=lively), run)
    torch.manual_seed(2)  # what was drawn before is of no account
    again, states_again = train(training_of(model=lively), run)
    assert timeless(again) == timeless(measurements)
    assert identical(states_again, states)

    other, other_states = train(training_of(model=lively), replace(run, seed=1))
    assert other[0].metrics["train_loss"] != measurements[0].metrics["train_loss"]
    assert not identical(other_states[-1]["model"], states[-1]["model"])


def test_eager_lanes_train_in_several_threads_what_each_trains_alone(training_of, identical):
    training = training_of(model=lively)
    runs = [
        run_of(Recipe(peak_lr=lr), epochs=4, seed=seed) for seed, lr in enumerate((0.02, 0.05, 0.1))
    ]
    alone = [train(training, run) for run in runs]
    with ThreadPoolExecutor(len(runs)) as pool:
        together = list(pool.map(lambda run: train(training, run), runs))
    for (measurements, states), (expected, expected_states) in zip(together, alone, strict=True):
        assert timeless(measurements) == timeless(expected)
        assert identical(states, expected_states)


def test_weights_may_be_drawn_from_any_global_generator(training_of, identical):
    def drawn():
        model = tiny()
        with torch.no_grad():
            model[1].bias[:2] = torch.tensor([random.random(), np.random.rand()])
        return model

    training = training_of(model=drawn)
    assert identical(
        training.task.build_model(2**40).state_dict(), training.task.build_model(2**40).state_dict()
    )


def test_seeds_differ_in_weights_order_and_dropout(training_of, identical):
    training = training_of(model=lively)
    assert identical(
        training.task.build_model(3).state_dict(), training.task.build_model(3).state_dict()
    )
    assert not identical(
        training.task.build_model(3).state_dict(), training.task.build_model(4).state_dict()
    )
    orders = [
        [labels.tolist() for _, labels in training.task.batches.epoch(*key)]
        for key in [(3, 0), (4, 0), (3, 1)]
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


class Chance(nn.Module):
    """Keeps a dropout mask for each training batch, and the images that it was shown."""

    def __init__(self):
        super().__init__()
        self.body = tiny()
        self.masks, self.images = [], []

    def forward(self, inputs):
        if self.training:
            self.masks.append(F.dropout(torch.ones(64)).tolist())
            self.images.append(inputs.flatten().tolist())
        return self.body(inputs)


def test_order_and_dropout_are_drawn_anew_for_each_epoch_of_each_seed(training_of):
    def drawn(seed):
        """Of each of 3 epochs of 6 batches: its images, and its masks."""
        models = []
        training = training_of(model=lambda: models.append(Chance()) or models[-1], augment=False)
        train(training, run_of(Recipe(), seed=seed))
        model = models[-1]  # one before it was for trying the layout
        return [
            values[first : first + 6]
            for values in (model.images, model.masks)
            for first in (0, 6, 12)
        ]

    first = drawn(0)
    assert drawn(0) == first
    draws = [*first, *drawn(1)]
    assert all(one != other for i, one in enumerate(draws) for other in draws[:i])


RESUMED = [
    ({"warmup_epochs": 1.5, "decay": Cosine()}, {}),
    ({"decay": Plateau(patience_epochs=0, threshold=0.05)}, {"accumulate": 3, "clip_norm": 1.0}),
    ({"decay": NEVER_BETTER}, {"precision": "fp16", "batch_size": 24, "label_smoothing": 0.1}),
]


@pytest.mark.parametrize(("changes", "settings"), RESUMED, ids=["cosine", "plateau", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_ends_like_an_unbroken_one(
    training_of, identical, optimizer, changes, settings
):
    run = run_of(replace(default_recipe(optimizer), **changes), epochs=4)

    def fresh_training():
        parameters = weights_and_biases if optimizer != "prodigy" else None  # which has one LR
        return training_of(model=lively, parameters=parameters, **settings)

    measurements, states = train(fresh_training(), run)
    assert len(measurements) == 4
    for epochs_done in (1, 3):
        rest, rest_states = train(
            fresh_training(), run, history=measurements[:epochs_done], state=states[epochs_done - 1]
        )
        assert timeless(rest) == timeless(measurements[epochs_done:])
        assert identical(rest_states, states[epochs_done:])


# epochs behind the state that a run goes on from, epochs trained and yielded
GOING_ON = [(0, [1, 2, 3, 4]), (1, [2, 3, 4]), (3, [4]), (4, [])]


@pytest.mark.parametrize(("behind", "trains"), GOING_ON)
def test_what_is_behind_the_state_is_not_yielded_again(training_of, behind, trains):
    run = run_of(Recipe(decay=Plateau(patience_epochs=0)), epochs=4)
    measurements, states = train(training_of(), run)
    rest, rest_states = train(
        training_of(),
        run,
        history=measurements[:behind],
        state=states[behind - 1] if behind else None,
    )
    assert timeless(rest) == timeless(measurements[epoch - 1] for epoch in trains)
    assert len(rest_states) == len(trains)


def test_a_run_that_stops_early_is_the_first_epochs_of_the_full_one(training_of, identical):
    full = run_of(Recipe(warmup_epochs=1, decay=Cosine()), epochs=4)
    measurements, states = train(training_of(model=lively), full)
    stopped, stopped_states = train(training_of(model=lively), replace(full, stop_epochs=2))
    assert timeless(stopped) == timeless(measurements[:2])
    assert identical(stopped_states, states[:2])


def test_the_lr_of_a_compressed_run_is_that_of_the_full_schedule(training_of):
    recipe = Recipe(peak_lr=0.6, warmup_epochs=3, decay=Linear())
    training = training_of(WatchedTraining, batch_size=72)
    train(
        training, full_run(recipe, 6, horizon_epochs=2, stop_epochs=2)
    )  # of 6 epochs 3 are warmup, so 1 of 2
    assert [lr for (lr,) in training.lrs] == pytest.approx([0.2, 0.4, 0.6, 0.6, 0.4, 0.2])


def test_the_state_is_saved_with_its_measurement_before_that_is_yielded(training_of):
    saved = []
    for measurement in measurements_of(
        training_of(), run_of(Recipe()), save=lambda m, _: saved.append(m)
    ):
        assert saved[-1] is measurement
    assert [m.epoch for m in saved] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", state_to_bytes({"model": {}})[:-50]])
def test_a_damaged_checkpoint_is_refused(content):
    with pytest.raises(StoreError, match="a checkpoint cannot be read: "):
        state_from_bytes(content)


def test_a_checkpoint_that_would_run_code_is_refused():
    with pytest.raises(StoreError, match="a checkpoint cannot be read: "):
        state_from_bytes(state_to_bytes({"model": tiny()}))


def test_a_checkpoint_of_another_model_is_refused(training_of):
    run = run_of(Recipe())
    measurements, states = train(training_of(), run)
    with pytest.raises(
        TaskError, match=r"not the one that a checkpoint was saved of: RuntimeError: .*state_dict"
    ):
        next(
            measurements_of(
                training_of(model=lively), run, history=measurements[:1], state=states[0]
            )
        )


# --- the first batch ---


class Given(nn.Module):
    """Gives what a function makes of the images' logits."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = tiny(), change

    def forward(self, inputs):
        return self.change(self.net(inputs))


def examples(inputs=torch.float32, labels=lambda labels: labels):
    return TensorDataset(torch.zeros(40, 64, dtype=inputs), labels(torch.arange(40) % 10))


CLASSES = "labels must be whole numbers from 0 to 9.*, but a batch has"
TOP1 = r"Top-1 needs logits of shape \(B, 10, ...\) and labels of shape \(B, ...\)"
GIVEN = r"\(test_loop.py:\d+, in forward\)"
# what is trained, and the message about it
STRANGE_BATCHES = {
    "labels from 1": (
        {"train": examples(labels=lambda y: y + 1)},
        f"{CLASSES} labels from 1 to 10",
    ),
    "labels of float": (
        {"train": examples(labels=Tensor.float)},
        rf"{CLASSES} torch.float32 for outputs of shape \(36, 10\)",
    ),
    "labels in a column": (
        {"train": examples(labels=lambda y: y[:, None])},
        rf"{TOP1}, but the model returned \(36, 10\) and the labels are \(36, 1\)",
    ),
    "inputs of bytes": (
        {"train": examples(torch.uint8)},
        "inputs must be float32 .*, but a batch has torch.uint8",
    ),
    "fewer classes": (
        {"model": lambda: Given(lambda logits: logits[:, :9])},
        rf"{TOP1}, but the model returned \(36, 9\) and the labels are \(36,\) {GIVEN}",
    ),
    "logits among others": (
        {"model": lambda: Given(lambda logits: {"logits": logits})},
        r"but the model returned \{logits: \(36, 10\)\}",
    ),
}


@pytest.mark.parametrize(("changes", "message"), STRANGE_BATCHES.values(), ids=STRANGE_BATCHES)
def test_a_first_batch_that_cannot_be_trained_on_is_explained(training_of, changes, message):
    with pytest.raises(TaskError, match=message):
        next(measurements_of(training_of(**changes), run_of(Recipe())))


def test_labels_for_a_loss_of_the_tasks_own_may_be_others(training_of):
    losses = []

    def loss(logits, labels):
        losses.append(F.cross_entropy(logits, labels.long() - 1))
        return losses[-1]

    training = training_of(train=examples(labels=lambda y: y.float() + 1), loss=loss)
    training.task.build_model(0)
    assert len(losses) == 1  # tried on the first batch


# --- gradients ---


def final_weights(training, recipe):
    _, states = train(training, run_of(recipe, epochs=2))
    return states[-1]["model"]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(36, 3), (36, 36), (72, 2), (216, 4)])
def test_micro_batches_add_up_to_the_batch(training_of, batch_size, accumulate):
    recipe = Recipe(peak_lr=0.05, weight_decay=1e-3)
    whole = final_weights(training_of(batch_size=batch_size), recipe)
    parts = final_weights(training_of(batch_size=batch_size, accumulate=accumulate), recipe)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-6)


def test_an_incomplete_accumulation_is_a_mean_too(training_of):
    """Of 216 images, 10 micro-batches of 21 are made; the 4th step has one of them."""
    recipe = Recipe(peak_lr=1e-3, momentum=0, decay=Constant())
    accumulated, plain = (
        training_of(WatchedTraining, batch_size=63, accumulate=3),
        training_of(WatchedTraining, batch_size=21),
    )
    for training in (accumulated, plain):
        train(training, run_of(recipe, epochs=1))
    assert len(accumulated.gradient_norms) == 4
    assert accumulated.gradient_norms[3] == pytest.approx(plain.gradient_norms[9], rel=0.05)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_bounds_the_gradient(training_of, precision, accumulate):
    plain = Recipe(peak_lr=1.0, momentum=0, decay=Constant())
    free = training_of(WatchedTraining, precision=precision, accumulate=accumulate)
    clipped = training_of(
        WatchedTraining, precision=precision, accumulate=accumulate, clip_norm=0.01
    )
    for training in (free, clipped):
        train(training, run_of(plain, epochs=1))
    assert min(free.gradient_norms) > 0.02
    assert clipped.gradient_norms == pytest.approx([0.01] * 6, rel=1e-3)


# --- measurements ---


def by_hand(model, images, **kwargs):
    """Mean loss and Top-1 of resident images, one image at a time."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    losses, right = [], 0
    for pixels, label in zip(images.images, images.labels, strict=True):
        logits = model(((pixels / 255 - mean) / std)[None])
        losses.append(F.cross_entropy(logits, label[None], **kwargs).item())
        right += int(logits.argmax()) == int(label)
    return math.fsum(losses) / len(losses), 100 * right / len(losses)


@pytest.mark.parametrize("batch_size", [1, 32, 1024])  # 32 leaves a last batch of 4
def test_evaluation_is_what_one_would_write_by_hand(training_of, digits, identical, batch_size):
    training = training_of(model=lively, label_smoothing=0.2)
    _, states = train(training, run_of(Recipe(peak_lr=0.2), epochs=4))
    model = lively()
    model.load_state_dict(states[-1]["model"])
    batches = evaluation_batches(digits.validation, batch_size=batch_size, device="cpu")
    measured = training.task.evaluation(model.train(), batches)
    val_loss, top1 = measured["val_loss"], measured["top1"]
    expected_loss, expected_top1 = by_hand(model.eval(), digits.validation)
    assert val_loss == pytest.approx(expected_loss, rel=1e-5)
    assert top1 == expected_top1
    assert 20 < top1 < 100
    assert identical(model.state_dict(), states[-1]["model"])


def test_measurements_are_those_of_the_weights(training_of, digits):
    training = training_of(augment=False, label_smoothing=0.2)
    frozen = run_of(Recipe(peak_lr=1e-30), epochs=1)
    (m,), (state,) = train(training, frozen)
    model = training.task.build_model(frozen.seed)
    assert m.metrics["train_loss"] == pytest.approx(
        by_hand(model, digits.train, label_smoothing=0.2)[0], rel=1e-5
    )
    expected_loss, expected_top1 = by_hand(model, digits.validation)
    assert (m.metrics["val_loss"], m.metrics["top1"]) == (
        pytest.approx(expected_loss, rel=1e-5),
        expected_top1,
    )
    assert training.test(state)["top1"] == by_hand(model, digits.test)[1]


def test_label_smoothing_is_for_training_alone(training_of, digits):
    plain, smoothed = training_of(), training_of(label_smoothing=0.1)
    model = plain.task.build_model(0)
    logits, labels = torch.eye(10) * 9, torch.arange(10)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert smoothed.task.forward.loss(logits, labels) == loss
    assert plain.task.forward.loss(logits, labels) == F.cross_entropy(logits, labels)
    assert smoothed.task.evaluation(model, smoothed.task.validation) == plain.task.evaluation(
        model, plain.task.validation
    )


def test_training_learns(training_of):
    measurements, _ = train(training_of(), run_of(Recipe(peak_lr=0.1, warmup_epochs=1), epochs=10))
    assert measurements[-1].metrics["train_loss"] < 0.7 * measurements[0].metrics["train_loss"]
    assert measurements[-1].metrics["top1"] > 60  # chance is 10
    assert all(m.seconds > 0 and m.examples_per_s > 0 and m.memory_mib > 0 for m in measurements)


# --- runs that cannot go on ---


def test_a_run_that_diverges_ends_with_that_epoch(training_of):
    run = run_of(Recipe(peak_lr=1e15, decay=Constant()), epochs=5)
    measurements, states = train(training_of(), run)
    assert [m.diverged for m in measurements] == [True]
    assert math.isnan(measurements[-1].metrics["val_loss"])
    assert "top1" not in measurements[-1].metrics
    assert len(states) == 1


def test_a_validation_loss_that_is_not_finite_is_divergence_too(training_of):
    def loss(logits, labels):
        return F.cross_entropy(logits, labels) if logits.requires_grad else torch.tensor(math.inf)

    measurements, _ = train(training_of(loss=loss), run_of(Recipe()))
    assert [(m.diverged, math.isfinite(m.metrics["train_loss"])) for m in measurements] == [
        (True, True)
    ]


class Raising(nn.Linear):
    def __init__(self, raises):
        super().__init__(64, 10)
        self.raises = raises

    def forward(self, inputs):
        self.raises()
        return super().forward(inputs.flatten(1))


def raising(error):
    def throw(*_):
        raise error

    return throw


OUT_OF_MEMORY = {
    "gpu": raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
    "python": raising(MemoryError()),
    "cpu": lambda: torch.empty(10**15),  # more than a process can address
    "cuda runtime": raising(RuntimeError("CUDA error: out of memory")),
    "cublas": raising(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    ),
}


@pytest.mark.parametrize("raises", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_ends_the_trial_and_says_what_to_change(training_of, raises):
    message = (
        r"out of memory on cpu: try a smaller --batch-size, a higher --accumulate \(now 4\), or "
        "fewer --jobs"
    )
    with pytest.raises(TrialError, match=message):
        next(
            measurements_of(
                training_of(model=lambda: Raising(raises), accumulate=4), run_of(Recipe())
            )
        )
    with pytest.raises(TrialError, match=message):
        next(measurements_of(training_of(model=raises, accumulate=4), run_of(Recipe())))


class Unreadable(Dataset):
    """A data set of which one image cannot be read."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 36

    def __getitem__(self, index):
        if index == 30:
            raise self.error
        return torch.zeros(1, 8, 8), 0


BACKBONE = tiny()


@pytest.mark.parametrize(
    "model", [lambda: BACKBONE, lambda: nn.Sequential(BACKBONE, nn.Linear(10, 10))]
)
def test_weights_are_not_handed_from_run_to_run(training_of, model):
    with pytest.raises(
        TaskError,
        match=r"must build a new model each time, but its [\w.]+ is that of an earlier one",
    ):
        next(measurements_of(training_of(model=model), run_of(Recipe())))


def weightless():
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))


# what is wrong with the task: what is said
FAILING = [
    (
        {"model": raising(KeyError("depth"))},
        "the task's model could not be built: KeyError: 'depth'",
    ),
    (
        {"model": lambda: None},
        "the task's model could not be built: AttributeError: .* no attribute 'to'",
    ),
    (
        {"model": weightless},
        "the task's parameters could not be optimized: ValueError: .* empty parameter list",
    ),
    (
        {"parameters": raising(ZeroDivisionError("ratio"))},
        "could not be optimized: ZeroDivisionError: ratio",
    ),
    ({"parameters": lambda model: [{"lr_scale": 2.0}]}, "could not be optimized: .*params"),
    (
        {"parameters": lambda model: [{"params": [model[1].weight]}, model[1].bias]},
        "could not be optimized: TypeError",
    ),
    (
        {"model": lambda: nn.Linear(63, 10)},
        "failed in training .*: RuntimeError: .*mat1 and mat2 shapes",
    ),
    (
        {"model": lambda: Raising(raising(AssertionError("too small")))},
        "failed in training .*: AssertionError: too small",
    ),
    (
        {"loss": raising(NotImplementedError("focal"))},
        "failed in training .*: NotImplementedError: focal",
    ),
    (
        {"train": Unreadable(FileNotFoundError("7.png"))},
        "failed in training .*: FileNotFoundError: 7.png",
    ),
]


@pytest.mark.parametrize(
    ("changes", "message"), FAILING, ids=[message[:40] for _, message in FAILING]
)
def test_what_the_task_raises_is_said_as_it_was(training_of, changes, message):
    with pytest.raises(TaskError, match=message) as caught:
        next(measurements_of(training_of(**changes), run_of(Recipe())))
    assert str(caught.value).startswith("the task")


def test_what_the_test_images_raise_is_said_too(training_of):
    training = training_of(
        test=TensorDataset(torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64))
    )
    _, (state,) = train(training, run_of(Recipe(), epochs=1))
    with pytest.raises(
        TaskError, match="the task's test data could not be evaluated: RuntimeError: "
    ):
        training.test(state)["top1"]


def test_what_are_no_test_images_is_said_before_anything_is_trained(training_of):
    with pytest.raises(
        InputError,
        match="data must be `Images`, a map-style `Dataset`, a `DataLoader` or a stream of "
        "batches, but got int",
    ):
        training_of(test=7)


def test_an_error_that_speaks_for_itself_is_left_alone(training_of):
    error = DataError("the images in /data are gone")
    with pytest.raises(DataError) as caught:
        next(measurements_of(training_of(train=Unreadable(error)), run_of(Recipe())))
    assert caught.value is error


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("no such run")])
def test_an_error_of_saving_is_not_blamed_on_the_task(training_of, error):
    with pytest.raises(type(error), match=str(error)) as caught:
        next(measurements_of(training_of(), run_of(Recipe()), save=raising(error)))
    assert caught.value is error


# --- on a GPU ---


@pytest.mark.gpu
def test_a_loss_with_weights_goes_to_the_device(training_of):
    loss = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 1.5, 10))
    assert train(training_of(loss=loss, device="cuda"), run_of(Recipe(), epochs=1))[0]
    assert loss.weight.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_learns_on_a_gpu(training_of, optimizer, precision):
    recipe = replace(
        default_recipe(optimizer), warmup_epochs=1, peak_lr={"sgd": 0.1}.get(optimizer, 0.01)
    )
    training = training_of(device="cuda", precision=precision)
    measurements, states = train(training, run_of(recipe, epochs=10))
    assert measurements[-1].metrics["train_loss"] < 0.8 * measurements[0].metrics["train_loss"]
    assert all(weight.isfinite().all() for weight in states[-1]["model"].values())
    assert (training.pool.why_eager(recipe) == "") == (
        OPTIMIZERS[optimizer].is_capturable and precision != "fp16"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_resumed_on_a_gpu_ends_like_an_unbroken_one(training_of, optimizer, precision):
    run = run_of(default_recipe(optimizer), epochs=4)

    def fresh_training():
        return training_of(model=lively, device="cuda", precision=precision)

    measurements, states = train(fresh_training(), run)
    rest, rest_states = train(fresh_training(), run, history=measurements[:2], state=states[1])
    assert [m.epoch for m in rest] == [3, 4]
    assert [m.lr_last for m in rest] == [m.lr_last for m in measurements[2:]]
    torch.testing.assert_close(rest_states[-1]["model"], states[-1]["model"], rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_skipped_on_a_gpu_leaves_nothing_behind(training_of, optimizer):
    run = run_of(default_recipe(optimizer), epochs=1)
    training = training_of(precision="fp16", device="cuda", loss=Overflowing(*range(6)))
    (measurement,), (state,) = train(training, run)
    assert measurement.step == 0
    before = {
        name: weight.cpu()
        for name, weight in training.task.build_model(run.seed).state_dict().items()
    }
    torch.testing.assert_close(state["model"], before, rtol=0, atol=0)
