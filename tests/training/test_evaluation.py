"""What is measured: exact on odd last batches, by function or torchmetrics, and for constants."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn import metrics as reference
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, R2Score
from torchmetrics.classification import MulticlassF1Score, MultilabelAveragePrecision

from lrtune.core.decays import Constant
from lrtune.core.errors import TaskError
from lrtune.core.objective import Objective, averaged
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native import constant as constant_module
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import train

RANDOM = torch.Generator().manual_seed(0)
INPUTS = torch.randn(107, 6, generator=RANDOM)
CLASSES = (INPUTS[:, :3] @ torch.randn(3, 4, generator=RANDOM)).argmax(1)
NUMBERS = INPUTS @ torch.randn(6, 2, generator=RANDOM) + 0.1
LABELS = (NUMBERS > 0.3).long()


def training_of(targets, *, outputs=4, batch_size=25, **task):
    """The last of the five validation batches has 7 examples."""
    data = TensorDataset(INPUTS, targets)
    values = {
        "model": lambda: nn.Linear(6, outputs),
        "train": data,
        "validation": DataLoader(data, batch_size=batch_size),
    }
    settings = TrainSettings(batch_size=20, device="cpu", ema_half_life_epochs=0.5)
    return NativeTraining(Task(**values | task), settings)


def outputs_of(training):
    """A model, and what it makes of all examples at once."""
    model = training.task.build_model(3)
    with torch.no_grad():
        return model, model.eval()(INPUTS)


def classification(**task):
    return training_of(CLASSES, num_classes=4, **task)


def regression(**task):
    return training_of(NUMBERS, outputs=2, loss=F.mse_loss, **task)


def test_a_classification_is_measured_exactly():
    def weighted(outputs, targets):
        return reference.f1_score(targets, outputs.argmax(1), average="weighted")

    training = classification(
        metrics={"running": MulticlassF1Score(4, average="weighted"), "function": weighted}
    )
    model, outputs = outputs_of(training)
    measured = training.task.evaluation(model, training.task.validation)
    expected = weighted(outputs, CLASSES)
    assert measured["function"] == expected
    assert measured["running"] == pytest.approx(expected, rel=1e-6)
    share = reference.accuracy_score(CLASSES, outputs.argmax(1))
    assert measured["top1"] == pytest.approx(100 * share)
    assert measured["val_loss"] == pytest.approx(F.cross_entropy(outputs, CLASSES).item())


def test_a_regression_is_measured_exactly():
    training = regression(
        metrics={
            "r2": R2Score(),
            "mse": MeanSquaredError(),
            "mae": lambda o, t: (o - t).abs().mean(),
        }
    )
    model, outputs = outputs_of(training)
    measured = training.task.evaluation(model, training.task.validation)
    outputs, wanted = outputs.double().numpy(), NUMBERS.double().numpy()
    assert measured["r2"] == pytest.approx(reference.r2_score(wanted, outputs), rel=1e-5)
    assert measured["mse"] == pytest.approx(reference.mean_squared_error(wanted, outputs), rel=1e-5)
    assert measured["val_loss"] == pytest.approx(measured["mse"], rel=1e-5)
    assert measured["mae"] == pytest.approx(
        reference.mean_absolute_error(wanted, outputs), rel=1e-5
    )
    assert "top1" not in measured


def test_labels_of_which_several_hold_are_measured_exactly():
    training = training_of(
        LABELS, outputs=2, loss=lambda o, t: F.binary_cross_entropy_with_logits(o, t.float()),
        metrics={"map": MultilabelAveragePrecision(2)}, objective="map",
    )  # fmt: skip
    model, outputs = outputs_of(training)
    measured = training.task.evaluation(model, training.task.validation)
    expected = reference.average_precision_score(LABELS.numpy(), outputs.sigmoid().numpy())
    assert measured["map"] == pytest.approx(expected, rel=1e-5)


def test_a_metric_starts_anew_each_time_and_the_users_own_is_left_alone():
    own = MeanSquaredError()
    own.update(torch.zeros(3), torch.ones(3))
    training = regression(metrics={"mse": own})
    model, _ = outputs_of(training)
    first, second = (
        training.task.evaluation(model, training.task.validation)["mse"] for _ in range(2)
    )
    assert first == second
    assert own.compute() == 1


def test_top1_is_counted_for_each_element_where_cross_entropy_is():
    """Outputs (B, C, T), labels (B, T), of which the ignored ones are left out."""
    inputs = torch.randn(9, 5, generator=RANDOM)
    labels = torch.randint(3, (9, 4), generator=RANDOM)
    labels[0] = -100
    data = TensorDataset(inputs, labels)
    task = Task(
        model=lambda: nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (3, 4))),
        train=data, validation=data, num_classes=3,
    )  # fmt: skip
    training = NativeTraining(task, TrainSettings(batch_size=4, device="cpu"))
    model = training.task.build_model(0)
    measured = training.task.evaluation(model, training.task.validation)
    right = (model(inputs).argmax(1) == labels)[1:]
    assert measured["top1"] == pytest.approx(100 * right.double().mean().item())
    assert training.facts.objective.num_counted == 0  # its error is not that of so many examples
    assert training.facts.objective.guessing == pytest.approx(100 / 3)


@pytest.mark.parametrize("value", [torch.zeros(3), {"map": 0.5}, None])
def test_a_metric_of_more_than_one_number_is_refused(value):
    training = classification(metrics={"odd": lambda *_: value})
    model, _ = outputs_of(training)
    with pytest.raises(TaskError, match="one number each, but 'odd' gave"):
        training.task.evaluation(model, training.task.validation)


def test_a_measurement_has_every_metric_of_both_weights():
    training = regression(metrics={"r2": R2Score()}, objective="r2")
    (m, *_), _ = train(training, full_run(Recipe(peak_lr=0.01), 1))
    of_both = {"val_loss", "r2"}
    assert set(m.metrics) == {"train_loss", *of_both, *map(averaged, of_both)}
    assert training.facts.metrics == ("train_loss", "val_loss", "r2")


def test_a_run_that_diverges_in_training_is_not_evaluated():
    training = regression(metrics={"r2": lambda *_: pytest.fail("evaluated")})
    run = full_run(Recipe(peak_lr=1e15, decay=Constant()), 3)
    training.facts  # noqa: B018  # which tries the metric on constants
    (m,), _ = train(training, run)
    assert set(m.metrics) == {"train_loss", "val_loss"}
    assert math.isnan(m.metrics["val_loss"])
    assert m.diverged


# --- the best constant

SHARES = np.bincount(CLASSES.numpy()) / len(CLASSES)
POSITIVE = LABELS.double().mean(0)


def bce(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs, targets.float())


# the training, and the value of the best constant
CONSTANTS = {
    "Top-1": (classification, {}, 100 * SHARES.max()),
    "cross-entropy": (classification, {"objective": "val_loss"}, -(SHARES * np.log(SHARES)).sum()),
    "mean squared error": (
        regression,
        {"objective": "val_loss"},
        NUMBERS.double().var(0, unbiased=False).mean().item(),
    ),
    "R2": (regression, {"metrics": {"r2": R2Score()}, "objective": "r2"}, 0.0),
    "a metric that cannot be": (
        regression,
        {"metrics": {"x": lambda *_: 1 / 0}, "objective": "x:max"},
        None,
    ),
    "a forward that hides its outputs": (
        lambda **task: training_of(CLASSES, **task),
        {"forward": lambda model, batch: (model(batch[0]).sum(), None, None)},
        None,
    ),
}


@pytest.mark.parametrize(("build", "task", "expected"), CONSTANTS.values(), ids=CONSTANTS)
def test_the_best_constant_prediction_is_worked_out(build, task, expected):
    constant = build(**task).facts.objective.constant
    if expected is None:
        assert constant is None
    else:
        assert constant == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_best_constant_for_several_labels_is_the_logit_of_their_share():
    training = training_of(LABELS, outputs=2, loss=bce)
    entropy = -(POSITIVE * POSITIVE.log() + (1 - POSITIVE) * (1 - POSITIVE).log()).mean()
    assert training.facts.objective.constant == pytest.approx(entropy.item(), rel=1e-5)


def test_the_best_constant_of_images_is_that_of_their_labels(digits):
    task = Task(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        train=digits.train, validation=digits.validation, num_classes=10,
    )  # fmt: skip
    objective = NativeTraining(task, TrainSettings(device="cpu")).facts.objective
    share = torch.bincount(digits.validation.labels).max().item()
    assert objective.constant == pytest.approx(100 * share / len(digits.validation))
    expected = Objective().counted(num_examples=100, num_classes=10)
    assert replace(objective, constant=None) == expected


def test_a_constant_that_takes_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr(constant_module, "PATIENCE_S", -1.0)
    assert classification().facts.objective.constant is None


def test_working_out_the_constant_draws_no_random_number():
    data = TensorDataset(INPUTS, CLASSES)
    training = training_of(CLASSES, num_classes=4, validation=DataLoader(data, shuffle=True))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    training.facts  # noqa: B018
    assert torch.rand(1) == expected
