"""What a task makes of a batch: dicts, hooks, and messages about shapes that do not go together."""

import re
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import TensorDataset

from lrtune.core.decays import Constant, Plateau
from lrtune.core.errors import InputError, TaskError
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import train

RANDOM = torch.Generator().manual_seed(0)
INPUTS = torch.randn(40, 6, generator=RANDOM)
LABELS = torch.randint(3, (40,), generator=RANDOM)
PAIRS = TensorDataset(INPUTS, LABELS)
DICTS = [{"x": x, "labels": label} for x, label in PAIRS]


def opened(**task):
    values = {"model": lambda: nn.Linear(6, 3), "train": PAIRS, "validation": PAIRS} | task
    return NativeTraining(Task(**values), TrainSettings(batch_size=10, device="cpu"))


RUN = full_run(Recipe(peak_lr=0.05, decay=Constant()), 2)


def losses(training):
    measurements, _ = train(training, RUN)
    return [(m.metrics["train_loss"], m.metrics["val_loss"]) for m in measurements]


class Net(nn.Module):
    """Takes a dict's keys, and returns what `make` builds of loss and logits."""

    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(6, 3), make

    def forward(self, x, labels):
        logits = self.layer(x)
        return self.make(F.cross_entropy(logits, labels), logits)


@dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


MAKES = {
    "dict": lambda loss, logits: {"loss": loss, "logits": logits},
    "object": Output,
    "namespace": lambda loss, logits: SimpleNamespace(loss=loss, logits=logits),
    "logits alone": lambda loss, logits: {"logits": logits},
    "a tensor": lambda loss, logits: logits,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_dict_trains_as_the_pair_does(make):
    data = {"train": DICTS, "validation": DICTS, "num_classes": 3}
    of_dicts = opened(model=lambda: Net(make), **data)
    of_pairs = opened(model=lambda: Net(lambda _, logits: logits), num_classes=3, forward=as_pair)
    assert losses(of_dicts) == losses(of_pairs)


def as_pair(model, batch):
    inputs, labels = batch
    logits = model(inputs, labels)
    return F.cross_entropy(logits, labels), logits, labels


def test_a_loss_of_the_tasks_own_takes_the_place_of_the_models():
    own = opened(
        model=lambda: Net(MAKES["dict"]), train=DICTS, validation=DICTS,
        loss=lambda logits, labels: 2 * F.cross_entropy(logits, labels),
    )  # fmt: skip
    plain = opened(model=lambda: Net(MAKES["dict"]), train=DICTS, validation=DICTS)
    model = plain.task.build_model(0)
    once = plain.task.evaluation(model, plain.task.validation)["val_loss"]
    assert own.task.evaluation(model, own.task.validation)["val_loss"] == pytest.approx(2 * once)


def test_a_forward_knows_training_from_validation():
    """Mixup in training, and another loss in validation."""
    modes = []

    def forward(model, batch):
        inputs, labels = batch
        modes.append(model.training)
        if not model.training:
            logits = model(inputs)
            return torch.tensor(7.0), logits, labels
        mixed = 0.7 * inputs + 0.3 * inputs.flip(0)
        logits = model(mixed)
        loss = 0.7 * F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(logits, labels.flip(0))
        return loss, logits, labels

    training = opened(forward=forward, num_classes=3)
    (m, _), _ = train(training, RUN)
    assert m.metrics["val_loss"] == 7.0
    assert 0 < m.metrics["top1"] < 100
    assert m.metrics["train_loss"] != 7.0
    assert set(modes) == {True, False}
    assert training.facts.objective.constant is None


# --- the first batch


class Words(nn.Module):
    """Logits (B, T, V), as many language models return them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 5)

    def forward(self, words):
        return self.embedding(words)


WORDS = TensorDataset(*(torch.randint(5, (12, 7), generator=RANDOM) for _ in range(2)))
HERE = r"\(test_forward\.py:\d+, in forward\)"


def column(inputs, targets):
    return TensorDataset(inputs, targets)


# what is wrong: the message
SHAPES = {
    "the classes come last": (
        {"model": Words, "train": WORDS, "validation": WORDS, "num_classes": 5},
        rf"Top-1 needs .* returned \(10, 7, 5\) and the labels are \(10, 7\) {HERE}\. The classes "
        r"are in the last dimension: return `outputs\.movedim\(-1, 1\)`",
    ),
    "the classes come last, without Top-1": (
        {"model": Words, "train": WORDS, "validation": WORDS},
        rf"cross-entropy needs .* returned \(10, 7, 5\) and the labels are \(10, 7\) {HERE}",
    ),
    "numbers without a loss for them": (
        {"train": column(INPUTS, INPUTS[:, 0])},
        r"labels must be whole numbers from 0 to 2, .* torch.float32 for outputs of .* \(10, 3\)",
    ),
    "labels beyond the outputs": (
        {"train": column(INPUTS, LABELS + 1)},
        r"labels must be whole numbers from 0 to 2, since .* \(10, 3\), but .* from 1 to 3",
    ),
    "a row where a column is due": (
        {
            "model": lambda: nn.Linear(6, 1),
            "train": column(INPUTS, INPUTS[:, 0]),
            "loss": F.mse_loss,
        },
        r"the same shape for this loss: .*target size \(torch.Size\(\[10\]\)\) .*\(\[10, 1\]\)",
    ),
    "a row where a column is due, in a forward": (
        {"forward": lambda m, batch: (F.mse_loss(m(batch[0]), batch[1].float()), None, None)},
        r"target size \(torch.Size\(\[10\]\)\) .*\(\[10, 3\]\).*\n.*test_forward.py\", line \d+",
    ),
    "a loss for each example": (
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        r"the loss of a batch must be a tensor of one number, but it is \(10,\)",
    ),
    "a forward without targets": (
        {"forward": lambda model, batch: model(batch[0]).sum()},
        r"`forward` must return \(loss, outputs, targets\), but it returned \(\) \(test_forward",
    ),
    "Top-1 of hidden outputs": (
        {"forward": lambda m, batch: (m(batch[0]).sum(), None, None), "num_classes": 3},
        "Top-1 needs logits of shape .* returned a NoneType",
    ),
    "a batch of three": (
        {"train": TensorDataset(INPUTS, LABELS, LABELS)},
        r"must be a pair \(inputs, targets\) or a dict .* \[\(10, 6\), \(10,\), \(10,\)\]",
    ),
}


@pytest.mark.parametrize(("task", "message"), SHAPES.values(), ids=SHAPES)
def test_shapes_that_do_not_go_together_are_told_at_the_start(task, message):
    training = opened(**task)
    with pytest.raises(TaskError, match=message):
        training.facts  # noqa: B018
    with pytest.raises(TaskError, match=message):
        next(training.train(RUN, lambda _: 1.0))


def test_top1_of_another_shape_in_a_later_batch_is_refused_as_well():
    """It would be above 100 % if it were counted."""
    calls = []

    def forward(model, batch):
        calls.append(len(batch))
        logits = model(batch[0])
        labels = batch[1] if model.training else batch[1][:, None].expand(-1, 3)
        return F.cross_entropy(logits, batch[1]), logits, labels

    with pytest.raises(TaskError, match=r"returned \(40, 3\) and the labels are \(40, 3\)"):
        next(opened(forward=forward, num_classes=3).train(RUN, lambda _: 1.0))


# --- the rules of a task


def test_the_objective_is_top1_only_where_there_are_classes():
    def task(**values):
        return Task(model=nn.Identity, train=PAIRS, validation=PAIRS, **values)

    assert task(num_classes=3).decides == Objective()
    assert task().decides == Objective(metric="val_loss", direction="min")
    chosen = task(metrics={"x": len}, objective="x:max").decides
    assert chosen == Objective(metric="x", direction="max")


IMPOSSIBLE = {
    "Top-1 without classes": (
        {"objective": "top1"},
        ["`task.objective` must be one of the metrics that are measured, train_loss, val_loss, but "
         "got top1: give `num_classes`."],
    ),
    "a plateau on Top-1 without classes": (
        {"baseline": Recipe(decay=Plateau(monitor="top1"))},
        ["the plateau of `task.baseline` must be one of the metrics that are measured, .*top1: "],
    ),
    "a name without a direction": (
        {"metrics": {"x": len}, "objective": "x"},
        ["a metric must say its direction where its name does not, but got 'x'"],
    ),
    "names that are taken": (
        {"metrics": {"val_loss": len, "averaged_x": len, "a:b": len}},
        ["must not use the names .* but got 'val_loss'", "but got 'averaged_x'",
         "`task.metrics` must have plain names, but got 'a:b'"],
    ),
    "what is no metric": (
        {"metrics": {"f1": 0.5}},
        ["`task.metrics` must hold functions .* but 'f1' is a float"],
    ),
    "metrics without names": (
        {"metrics": [len]},
        [r"`task.metrics` must be given as a dict of metrics by name, but got \[<built-in"],
    ),
    "two losses": (
        {"loss": F.mse_loss, "forward": as_pair},
        ["`task.loss` must not be given beside `task.forward`"],
    ),
    "an epoch of what has a length": (
        {"steps_per_epoch": 3},
        ["`task.steps_per_epoch` is for streams, .* got 3 with a TensorDataset of 40"],
    ),
    "all together": (
        {"model": 3, "epochs": 0, "objective": "x:max", "metrics": {"top1": len}},
        ["`task.model` must", "`task.epochs` must", "but got 'top1'", "`task.objective` must"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("task", "problems"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_task_is_refused_with_all_that_is_wrong(task, problems):
    with pytest.raises(InputError) as caught:
        Task(**{"model": nn.Identity, "train": PAIRS, "validation": PAIRS} | task)
    assert len(caught.value.problems) == len(problems)
    for problem, pattern in zip(caught.value.problems, problems, strict=True):
        assert re.search(pattern, problem)


REGRESSION = TensorDataset(INPUTS, torch.randn(40, generator=RANDOM))


def squared(outputs, targets):
    return ((outputs - targets) ** 2).mean()


def squeezed(outputs, targets):
    return ((outputs.squeeze(1) - targets) ** 2).mean()


def test_a_loss_that_would_broadcast_is_refused_and_one_that_squeezes_is_not():
    data = {"model": lambda: nn.Linear(6, 1), "train": REGRESSION, "validation": REGRESSION}
    with pytest.raises(TaskError, match=r"would broadcast them: .*\(10, 1\).* \(10,\)"):
        opened(**data, loss=squared).facts  # noqa: B018
    assert opened(**data, loss=squeezed).facts.metrics == ("train_loss", "val_loss")


@pytest.mark.parametrize("num_outputs", [1, 6])
def test_numbers_are_no_probabilities_for_cross_entropy(num_outputs):
    numbers = TensorDataset(INPUTS, torch.randn(40, num_outputs, generator=RANDOM))
    data = {"model": lambda: nn.Linear(6, num_outputs), "train": numbers, "validation": numbers}
    with pytest.raises(TaskError, match=r"cross-entropy needs .* give `task\.loss`"):
        opened(**data).facts  # noqa: B018
    shares = TensorDataset(INPUTS, torch.softmax(torch.randn(40, 3, generator=RANDOM), dim=1))
    assert opened(train=shares, validation=shares).facts.metrics == ("train_loss", "val_loss")


def test_a_loss_that_is_no_tensor_is_refused():
    with pytest.raises(TaskError, match="must be a tensor of one number, but it is a float"):
        opened(loss=lambda outputs, targets: 1.0).facts  # noqa: B018


@pytest.mark.parametrize("fails", ["in its update", "as a function"])
def test_a_metric_that_fails_is_named(fails):
    class Running:
        def update(self, outputs, targets):
            raise ZeroDivisionError("division by zero")

        def compute(self):
            """Is not reached."""

        def reset(self):
            """Has nothing to forget."""

    metric = Running() if fails == "in its update" else lambda outputs, targets: 1 / 0
    training = opened(num_classes=3, metrics={"odd": metric})
    with pytest.raises(
        TaskError, match=r"the metric 'odd' failed: ZeroDivisionError: .*\n.*test_for"
    ):
        losses(training)


@pytest.mark.parametrize("scale", [-1, float("inf"), float("nan"), "x"])
def test_an_impossible_scale_of_a_group_is_refused(scale):
    def groups(model):
        return [{"params": [model.weight], "lr_scale": scale}, {"params": [model.bias]}]

    training = opened(num_classes=3, parameters=groups)
    with pytest.raises(InputError, match="`0 <= lr_scale` must hold in each parameter group"):
        training.facts  # noqa: B018
