"""The range test: it leaves nothing behind, sweeps the grid that it says, and its answer trains."""

import math
import random
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_optimizer import Lamb
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lrtune.core.decays import Constant
from lrtune.core.errors import InputError, TaskError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.decide.sweep import NUM_IN_A_ROW
from lrtune.training.native.devices import Arithmetic
from lrtune.training.native.evaluation import Evaluation
from lrtune.training.native.forward import DefaultForward
from lrtune.training.native.lanes.eager import EagerLane
from lrtune.training.native.learner import Learner, Step
from lrtune.training.native.loop import NativeTraining
from lrtune.training.native.range_test import (
    BLOCK,
    for_optimizer,
    range_test,
    sweep,
)
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import measurements_of, range_test_of

CPU = Arithmetic(torch.device("cpu"), None)
INPUTS = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(INPUTS, (INPUTS.sum(1) > 0).long())


# --- nothing is left behind ---


class Net(nn.Module):
    """All kinds of things that a sweep could change."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).requires_grad_(False)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 2)
        self.bias = nn.Parameter(torch.zeros(2))  # of no optimizer, or of another
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)  # another tensor each time
        self.seen += 1  # the same one
        return self.head(self.trunk(self.frozen(inputs - self.mean))) + self.bias


class Scaled(nn.Module):
    """A loss with a parameter of its own, and a draw from every generator."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, labels):
        noise = 1e-3 * (random.random() + np.random.rand() + torch.rand(()))
        return F.cross_entropy(self.scale * logits, labels) + noise


BUILD = {
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "fused sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, fused=True),
    "tensor lr": lambda groups: torch.optim.SGD(
        [g | {"lr": torch.tensor(g["lr"])} for g in groups], momentum=0.9
    ),
    "adagrad": torch.optim.Adagrad,
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, momentum=0.5, centered=True),
    "adam": lambda groups: torch.optim.Adam(groups, amsgrad=True),
    "adamw": torch.optim.AdamW,
    "lamb": Lamb,
}


def owned_by_the_loader(generator):
    return DataLoader(DATA, batch_size=8, shuffle=True, generator=generator)


def owned_by_the_sampler(generator):
    return DataLoader(DATA, batch_size=8, sampler=RandomSampler(DATA, generator=generator))


def owned_by_the_batch_sampler(generator):
    sampler = WeightedRandomSampler([1.0] * 40, 40, generator=generator)
    return DataLoader(DATA, batch_sampler=BatchSampler(sampler, 8, drop_last=False))


def owned_by_nobody(generator):
    return DataLoader(DATA, batch_size=8, shuffle=True)


LOADERS = [owned_by_the_loader, owned_by_the_sampler, owned_by_the_batch_sampler, owned_by_nobody]


def setting(optimizer="sgd", loader=owned_by_the_loader):
    """A caller in mid-training: with moments, a gradient half accumulated, a module frozen."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    model, loss, generator = Net(), Scaled(), torch.Generator().manual_seed(4)
    groups = [
        {"params": [*model.frozen.parameters(), *model.trunk.parameters()], "lr": 0.01},
        {"params": [*model.head.parameters(), *loss.parameters()], "lr": 0.03, "initial_lr": 0.05},
    ]
    caller = SimpleNamespace(
        model=model,
        loss=loss,
        optimizer=BUILD[optimizer](groups),
        loader=loader(generator),
        generator=generator,
    )
    model.frozen.eval()
    steps(caller, 3)
    inputs, labels = next(iter(caller.loader))
    loss(model(inputs), labels).backward()
    return caller


def steps(caller, num_steps):
    """Trains on, and returns the losses."""
    losses = []
    batches = (batch for _ in range(num_steps) for batch in caller.loader)
    for _, (inputs, labels) in zip(range(num_steps), batches, strict=False):
        value = caller.loss(caller.model(inputs), labels)
        value.backward()
        caller.optimizer.step()
        caller.optimizer.zero_grad()
        losses.append(value.item())
    return losses


def values(caller):
    """A copy of all that a caller may read."""
    parameters = [*caller.model.parameters(), *caller.loss.parameters()]
    return [
        [p.detach().clone() for p in parameters],
        [None if p.grad is None else p.grad.clone() for p in parameters],
        {name: buffer.clone() for name, buffer in caller.model.named_buffers()},
        [module.training for module in caller.model.modules()],
        [
            {
                key: value.clone() if isinstance(value, torch.Tensor) else value
                for key, value in state.items()
            }
            for state in (caller.optimizer.state[p] for p in caller.optimizer.state)
        ],
        [
            {key: value for key, value in group.items() if key != "params"}
            for group in caller.optimizer.param_groups
        ],
        [torch.get_rng_state(), caller.generator.get_state(), *np.random.get_state()[1:]],
        random.getstate(),
    ]


def identities(caller):
    """Which objects they are: a scheduler, an EMA or a second optimizer may hold the very same."""
    model, optimizer = caller.model, caller.optimizer
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors += [value for value in states if isinstance(value, torch.Tensor)]
    groups = [(group, *group["params"]) for group in optimizer.param_groups]
    return [
        *map(id, tensors),
        id(optimizer.state),
        *(id(part) for group in groups for part in group),
    ]


class FailingLoss(nn.Module):
    """Goes wrong in step `at` of a sweep."""

    def __init__(self, loss, error, at):
        super().__init__()
        self.loss, self.error, self.left = loss, error, at

    def forward(self, logits, labels):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.loss(logits, labels)


def numpy_to_torch(nest):
    if isinstance(nest, np.ndarray):
        return torch.from_numpy(nest.astype(np.int64))
    return [*map(numpy_to_torch, nest)] if isinstance(nest, list) else nest


@pytest.fixture
def assert_untouched(identical):
    """That what is done inside changes nothing of a caller, and nothing of how it trains on."""

    def check(build, act):
        caller, undisturbed = build(), build()
        expected = [
            numpy_to_torch(values(undisturbed)),
            steps(undisturbed, 6),
            numpy_to_torch(values(undisturbed)),
        ]

        caller = build()
        before, objects = numpy_to_torch(values(caller)), identities(caller)
        act(caller)
        assert identities(caller) == objects
        assert identical(numpy_to_torch(values(caller)), before)
        assert identical([before, steps(caller, 6), numpy_to_torch(values(caller))], expected)

    return check


def test_the_setting_would_notice(identical):
    """The same calls without protection change each of the values, so each comparison can fail."""
    caller = setting()
    before = numpy_to_torch(values(caller))
    caller.model.train()
    steps(caller, 4)
    caller.optimizer.param_groups[0]["lr"] = 7.0
    assert [
        identical(a, b) for a, b in zip(before, numpy_to_torch(values(caller)), strict=True)
    ] == [False] * 8


@pytest.mark.parametrize("optimizer", BUILD)
def test_nothing_is_left_behind(assert_untouched, optimizer):
    def act(caller):
        result = range_test(
            caller.model, caller.optimizer, caller.loader, caller.loss, num_steps=30, num_seeds=2
        )
        assert [len(curve.lrs) >= 16 for curve in result.curves] == [True, True]

    assert_untouched(lambda: setting(optimizer), act)


@pytest.mark.parametrize("loader", LOADERS)
def test_the_order_of_the_data_is_left_alone(assert_untouched, loader):
    def act(caller):
        range_test(
            caller.model, caller.optimizer, caller.loader, caller.loss, num_steps=16, num_seeds=2
        )

    assert_untouched(lambda: setting(loader=loader), act)


@pytest.mark.parametrize("error", [ValueError("bad batch"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adamw", "lamb"])
def test_nothing_is_left_behind_when_it_breaks_off(assert_untouched, optimizer, error):
    def act(caller):
        with pytest.raises(type(error)) as caught:
            range_test(
                caller.model, caller.optimizer, caller.loader, FailingLoss(caller.loss, error, at=7)
            )
        assert caught.value is error

    assert_untouched(lambda: setting(optimizer), act)


def test_nothing_is_left_behind_when_the_data_run_out(assert_untouched):
    def act(caller):
        once = iter([(INPUTS[:8], DATA.tensors[1][:8])] * 10)
        with pytest.raises(
            InputError,
            match=r"data must give batches each time they are read, but epoch 1 had none\.",
        ):
            range_test(caller.model, caller.optimizer, once, caller.loss)

    assert_untouched(setting, act)


def test_a_range_test_is_the_same_each_time():
    results = []
    for seed in (1, 2):
        caller = setting()
        torch.manual_seed(seed)  # what the caller has drawn so far is of no account
        caller.loss = F.cross_entropy
        results.append(
            range_test(caller.model, caller.optimizer, caller.loader, caller.loss, num_steps=30)
        )
    assert results[0] == results[1]
    assert len({curve.losses for curve in results[0].curves}) == 3  # one order of the data a seed


# --- on a task ---


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


@pytest.fixture(scope="module")
def all_digits():
    from lrtune.training.native.data.datasets import load_dataset

    return load_dataset("digits")


@pytest.fixture
def training_of(all_digits):
    def build(model=mlp, loss=None, parameters=None, **settings):
        task = Task(
            model=model, train=all_digits.train, validation=all_digits.validation, num_classes=10,
            loss=loss, parameters=parameters,
        )  # fmt: skip
        return NativeTraining(task, TrainSettings(**{"batch_size": 64, "device": "cpu"} | settings))

    return build


def random_states():
    return numpy_to_torch([random.getstate(), *np.random.get_state()[1:], torch.get_rng_state()])


def test_a_task_is_swept_without_touching_the_random_states(training_of, identical):
    before = random_states()
    training = training_of(loss=Scaled().requires_grad_(False))
    results = [range_test_of(training, Recipe(), seeds=(0, 1), num_steps=20) for _ in range(2)]
    assert identical(random_states(), before)
    assert [curve.seed for curve in results[0].curves] == [0, 1]
    assert results[0].curves[0].losses != results[0].curves[1].losses


@pytest.mark.parametrize("error", [ValueError("bad batch"), KeyboardInterrupt()], ids=repr)
def test_a_task_that_breaks_off_leaves_the_random_states_alone(training_of, identical, error):
    before = random_states()
    message = "the task failed in the range test: ValueError: bad batch"
    with pytest.raises((TaskError, KeyboardInterrupt)) as caught:
        range_test_of(
            training_of(loss=FailingLoss(Scaled().requires_grad_(False), error, at=7)),
            Recipe(),
            seeds=(0,),
        )
    assert isinstance(caught.value, KeyboardInterrupt) or str(caught.value).startswith(message)
    assert identical(random_states(), before)


def test_a_sweep_of_a_task_is_the_same_each_time(training_of):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(range_test_of(training_of(), Recipe(), seeds=(0,), num_steps=40))
    assert results[0] == results[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_answer_on_the_digits_trains_well(training_of, optimizer):
    recipe = replace(for_optimizer(default_recipe("sgd"), optimizer), weight_decay=0.0)
    training = training_of()
    result = range_test_of(training, recipe, seeds=(0, 1, 2))
    assert result.optimizer == optimizer
    interval = result.interval
    assert interval is not None
    assert (
        OPTIMIZERS[optimizer].swept[0]
        < interval.low
        < interval.suggestion
        <= interval.high
        < OPTIMIZERS[optimizer].swept[1]
    )
    assert any(
        curve.diverged for curve in result.curves
    )  # which of them may be a matter of the last bit

    def top1(peak_lr):
        found = replace(recipe, peak_lr=peak_lr)
        run = full_run(found, 4, seed=7)
        return [m.metrics["top1"] for m in measurements_of(training, run)][-1]

    assert top1(interval.suggestion) > 75  # chance is 10
    assert top1(interval.low / 30) < top1(interval.suggestion) - 20


def test_a_task_that_teaches_nothing_gives_no_signal():
    inputs, labels = (
        torch.zeros(400, 8),
        torch.randint(10, (400,), generator=torch.Generator().manual_seed(0)),
    )
    data = TensorDataset(inputs, labels)
    task = Task(model=lambda: nn.Linear(8, 10), train=data, validation=data, num_classes=10)
    training = NativeTraining(task, TrainSettings(batch_size=40, device="cpu"))
    result = range_test_of(training, Recipe(momentum=0.0), seeds=(0, 1, 2))
    assert result.interval is None
    assert "which its noise" in result.reason


# --- what a loss may look like ---


@pytest.fixture
def digits_test(all_digits):
    """Range tests of a small network on digits, which may have been trained before."""
    digits = all_digits.train
    data = TensorDataset(digits.images.float() / 255, digits.labels)

    def loader(batch_size):
        generator = torch.Generator().manual_seed(0)
        return DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)

    def act(loss=F.cross_entropy, *, build=torch.optim.SGD, batch_size=64, trained_epochs=0):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(trained_epochs):
            for inputs, labels in loader(64):
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
        optimizer = build(model.parameters(), lr=0.01)
        return range_test(model, optimizer, loader(batch_size), loss)

    return act


@pytest.mark.parametrize("offset", [-2.3, -5.0, 100.0])
def test_an_offset_of_the_loss_moves_nothing(digits_test, offset):
    """It changes no gradient, but makes the loss almost zero, negative or large."""
    as_it_was = digits_test()
    moved = digits_test(lambda logits, labels: F.cross_entropy(logits, labels) + offset)
    assert as_it_was.interval is not None
    assert moved.interval == as_it_was.interval
    assert [len(c.lrs) for c in moved.curves] == [len(c.lrs) for c in as_it_was.curves]


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_a_tiny_or_huge_loss_moves_nothing(digits_test, scale):
    """Adam takes the same steps where its `eps` is scaled too, bit for bit by a power of two."""
    as_it_was = digits_test(build=partial(torch.optim.Adam, eps=2.0**-26))
    scaled = digits_test(
        lambda logits, labels: scale * F.cross_entropy(logits, labels),
        build=partial(torch.optim.Adam, eps=scale * 2.0**-26),
    )
    assert as_it_was.interval is not None
    assert scaled.interval == as_it_was.interval


@pytest.mark.parametrize("batch_size", [8, 64])
@pytest.mark.parametrize("build", [torch.optim.SGD, torch.optim.Adam])
def test_a_trained_model_gives_no_signal_and_says_why(digits_test, build, batch_size):
    """Its losses are low and heavy-tailed: most batches have no mistake, and some have one."""
    result = digits_test(build=build, batch_size=batch_size, trained_epochs=30)
    assert result.interval is None
    assert result.reason.startswith("The loss falls at no LR of the sweep, and rises above ")
    assert "like one that is trained already" in result.reason
    assert all(len(curve.lrs) > 60 for curve in result.curves)  # no low loss ends a sweep early


# --- the sweep ---


@dataclass
class Same:
    """Epochs of one batch over and over."""

    num_batches: int

    def epoch(self, seed, epoch):
        return ((INPUTS, DATA.tensors[1]) for _ in range(self.num_batches))


def lane_of(
    model, optimizer, num_batches, *, loss=F.cross_entropy, accumulate=1, clip_norm=math.inf
):
    learner = Learner(model=model, averaged=None, optimizer=optimizer, scaler=CPU.scaler())
    forward = DefaultForward(loss)
    step = Step(learner=learner, forward=forward, model=model, arithmetic=CPU, clip_norm=clip_norm)
    batches = Same(num_batches)
    evaluation = Evaluation(forward=forward, arithmetic=CPU)
    return EagerLane(
        step=step, batches=batches, validation=batches, evaluation=evaluation,
        accumulate=accumulate,
    )  # fmt: skip


def linear_with_base_lr():
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["base_lr"] = 1.0
    return model, optimizer


def watch(optimizer):
    lrs = []
    optimizer.register_step_pre_hook(
        lambda used, *_: lrs.append([group["lr"] for group in used.param_groups])
    )
    return lrs


def test_the_sweep_is_an_exponential_grid():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    groups = [
        {"params": model[0].parameters(), "lr": 0.02},
        {"params": model[1].parameters(), "lr": 0.1},
    ]
    optimizer = torch.optim.SGD(groups)
    used = watch(optimizer)
    loader = DataLoader(DATA, batch_size=8)
    result = range_test(
        model, optimizer, loader, F.cross_entropy, low=1e-6, high=1e-2, num_steps=17, num_seeds=1
    )
    curve = result.curves[0]
    grid = [10 ** (-6 + step / 4) for step in range(17)]
    assert curve.lrs == pytest.approx(grid)
    assert [lr for _, lr in used] == pytest.approx(grid)  # of the group with the largest LR
    assert [lr for lr, _ in used] == pytest.approx([lr / 5 for lr in grid])
    assert not curve.diverged


def test_a_task_is_swept_over_its_groups_and_its_range(training_of):
    used = []

    def two_groups(model):
        return [
            {"params": model[1].parameters()},
            {"params": model[3].parameters(), "lr_scale": 0.5},
        ]

    training = training_of(parameters=two_groups)
    build = training.task.build_optimizer

    def build_watched(recipe, model, **kwargs):
        optimizer = build(recipe, model, **kwargs)
        used.append(watch(optimizer))
        return optimizer

    training.task.build_optimizer = build_watched
    curve = training.sweep(Recipe(peak_lr=0.7), seed=5, num_steps=21, low=1e-4, high=1e-2)
    grid = [10 ** (-4 + step / 10) for step in range(21)]
    assert curve.lrs == pytest.approx(grid)
    assert np.array(used[0]) == pytest.approx(np.array([(lr, lr / 2) for lr in grid]))


def test_a_loss_is_that_before_the_step_at_its_lr():
    model, optimizer = linear_with_base_lr()
    expected = F.cross_entropy(model(INPUTS), DATA.tensors[1]).item()
    curve = sweep(lane_of(model, optimizer, 2), [0.5, 0.6], 1.0, seed=3)
    assert curve.losses[0] == expected
    assert curve.losses[1] < expected
    assert (curve.seed, curve.lrs, curve.diverged) == (3, (0.5, 0.6), False)


# the losses that a sweep of 30 meets: how many are kept, whether it diverged
STOPPED = [
    ([1.0] * 30, 30, False),
    ([1.0] * 9 + [math.nan] + [1.0] * 20, 9, True),
    ([math.nan] * 30, 0, True),
    ([1.0, 0.9] * 6 + [9.0] * 18, 12, True),
    ([1.0, 0.9] * 6 + [9.0] * 4 + [1.0, 0.9] * 7, 30, False),
]


@pytest.mark.parametrize(("losses", "kept", "diverged"), STOPPED)
def test_a_sweep_ends_where_its_loss_does(losses, kept, diverged):
    model, optimizer = linear_with_base_lr()
    used, coming = watch(optimizer), iter(losses)
    lane = lane_of(model, optimizer, 30, loss=lambda logits, _: 0 * logits.sum() + next(coming))
    curve = sweep(lane, [0.1] * 30, 1.0, seed=0)
    assert curve.losses == pytest.approx(losses[:kept])
    assert len(curve.lrs) == kept
    assert kept <= len(used) <= kept + NUM_IN_A_ROW + BLOCK
    assert curve.diverged is diverged


def test_a_step_of_a_sweep_takes_accumulated_batches():
    model, optimizer = linear_with_base_lr()
    losses = [
        F.cross_entropy(model(inputs), labels).item()
        for inputs, labels in islice(Same(6).epoch(0, 0), 3)
    ]
    used, lane = watch(optimizer), lane_of(model, optimizer, 6, accumulate=3)
    begun = []
    begin_epoch = lane.begin_epoch
    lane.begin_epoch = lambda seed, epoch: (begun.append((seed, epoch)), begin_epoch(seed, epoch))
    curve = sweep(lane, [0.1, 0.2, 0.3], 1.0, seed=0)
    assert curve.losses[0] == pytest.approx(sum(losses) / 3)
    assert len(curve.losses) == len(used) == 3
    assert begun == [(0, 0), (0, 1)]  # an epoch has batches for two


def test_data_without_batches_is_refused():
    with pytest.raises(InputError, match="epoch 0 had none"):
        sweep(lane_of(*linear_with_base_lr(), 0), [0.1, 0.2], 1.0, seed=0)


def test_the_gradient_of_a_sweep_is_clipped():
    model, optimizer = linear_with_base_lr()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    sweep(lane_of(model, optimizer, 1, clip_norm=1e-3), [0.5], 1.0, seed=0)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert moved.norm().item() == pytest.approx(0.5e-3, rel=1e-2)


def test_a_sweep_that_is_not_finite_from_the_start_gives_no_signal():
    model, optimizer = linear_with_base_lr()
    result = range_test(
        model, optimizer, DataLoader(DATA, batch_size=8), lambda logits, _: logits.sum() * math.nan
    )
    assert result.interval is None
    assert "not finite before the first step" in result.reason


# --- what is refused ---


IMPOSSIBLE = [
    ({"low": 0.0}, ["`0 < low < high` must hold, but got low=0.0, high=1.0."]),
    ({"low": 1.0}, ["`0 < low < high` must hold, but got low=1.0, high=1.0."]),
    ({"low": math.nan}, ["`0 < low < high` must hold, but got low=nan, high=1.0."]),
    ({"high": math.inf}, ["`0 < low < high` must hold, but got low=0.01, high=inf."]),
    ({"num_steps": 15}, ["`16 <= num_steps` must hold, but got 15."]),
    ({"num_seeds": 0}, ["`1 <= num_seeds <= 1000` must hold, but got 0."]),
    (
        {"low": 2.0, "num_steps": 0},
        [
            "`0 < low < high` must hold, but got low=2.0, high=1.0.",
            "`16 <= num_steps` must hold, but got 0.",
        ],
    ),
]


@pytest.mark.parametrize(("changes", "problems"), IMPOSSIBLE)
def test_impossible_sweeps_are_refused_with_all_that_is_wrong(training_of, changes, problems):
    asked = {"low": 0.01, "high": 1.0, "num_steps": 20, "num_seeds": 1} | changes
    model, optimizer = linear_with_base_lr()
    with pytest.raises(InputError) as caught:
        range_test(model, optimizer, DataLoader(DATA, batch_size=8), F.cross_entropy, **asked)
    assert list(caught.value.problems) == problems
    problems = [problem for problem in problems if "num_seeds" not in problem]
    del asked["num_seeds"]
    if problems:
        with pytest.raises(InputError) as caught:
            training_of().sweep(Recipe(), seed=0, **asked)
        assert list(caught.value.problems) == problems


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_another_optimizer_is_swept_from_the_middle(optimizer):
    recipe = Recipe(optimizer="adam", peak_lr=0.02, momentum=0, weight_decay=0.1, decay=Constant())
    middle = math.sqrt(math.prod(OPTIMIZERS[optimizer].swept))
    expected = recipe if optimizer == "adam" else replace(default_recipe(optimizer), peak_lr=middle)
    assert for_optimizer(recipe, optimizer) == expected


PAIRS = r"Make it a pair in the `collate_fn` of the loader, or in a generator around it\."
ONE_NUMBER = "the loss of a batch must be a tensor of one number, but it is"
LABELS = DATA.tensors[1]


def as_dicts(*keys):
    return [dict(zip(keys, (INPUTS, LABELS), strict=True))]


# what is given in place of the sound part, and the message
STRANGE = {
    "a triple": (
        {"loader": [(INPUTS, LABELS, LABELS)]},
        rf"pair \(inputs, targets\) or a dict .* \[\(40, 8\), \(40,\), \(40,\)\]\. {PAIRS}",
    ),
    "inputs alone": (
        {"loader": [INPUTS]},
        rf"a batch must be a pair .* but the data gave \(40, 8\)\. {PAIRS}",
    ),
    "inputs alone, in a list": (
        {"loader": DataLoader(TensorDataset(INPUTS), batch_size=8)},
        rf"a batch must be a pair .* but the data gave a list of \[\(8, 8\)\]\. {PAIRS}",
    ),
    "a dict without the inputs": (
        {"loader": as_dicts("x", "y")},
        r"arguments of the model's `forward`, but \{x: \(40, 8\), y: \(40,\)\} does not fit: "
        rf"missing a required argument: 'input'\. {PAIRS}",
    ),
    "a dict with more than the inputs": (
        {"loader": as_dicts("input", "labels")},
        rf"does not fit: got an unexpected keyword argument 'labels'\. {PAIRS}",
    ),
    "a loss of two": (
        {"loss": lambda logits, labels: (F.cross_entropy(logits, labels), logits)},
        rf"{ONE_NUMBER} a tuple of \[\(\), \(40, 2\)\]\. Return the mean loss alone\.",
    ),
    "a loss of each example": (
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        rf"{ONE_NUMBER} \(40,\)\. Return the mean loss alone\.",
    ),
    "a loss that is a number": (
        {"loss": lambda logits, labels: F.cross_entropy(logits, labels).item()},
        rf"{ONE_NUMBER} a float\. Return the mean loss alone\.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), STRANGE.values(), ids=STRANGE)
def test_a_first_batch_that_cannot_be_trained_on_is_named_before_a_step(changes, message):
    model, optimizer = linear_with_base_lr()
    used = watch(optimizer)
    given = {"loader": [(INPUTS, LABELS)], "loss": F.cross_entropy} | changes
    with pytest.raises(TaskError, match=message):
        range_test(model, optimizer, **given)
    assert used == []


def test_a_dict_of_the_models_arguments_is_swept():
    class Named(nn.Linear):
        def forward(self, inputs, labels):
            return super().forward(inputs)

    model = Named(8, 2)
    result = range_test(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        as_dicts("inputs", "labels"),
        F.cross_entropy,
        num_steps=20,
    )
    assert [len(curve.lrs) for curve in result.curves] == [20, 20, 20]


def test_a_loss_that_needs_gradients_is_swept():
    """The look at the first batch has none, so it leaves such a loss to the sweep."""
    model, optimizer = linear_with_base_lr()

    def penalized(logits, labels):
        loss = F.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(loss, model.weight, create_graph=True)
        return loss + gradient.square().sum()

    result = range_test(model, optimizer, [(INPUTS, LABELS)], penalized, num_steps=20)
    assert [len(curve.lrs) for curve in result.curves] == [20, 20, 20]


NO_PARAMETER = "must hold a parameter of `model` that requires a gradient, but this SGD holds none"
# the model, the optimizer, and the message
UNSWEEPABLE = {
    "one that needs a closure": (
        linear_with_base_lr,
        torch.optim.LBFGS,
        "`optimizer` must step without a closure, but LBFGS needs one: .* Test another optimizer",
    ),
    "one of another model": (
        linear_with_base_lr,
        lambda _: torch.optim.SGD(nn.Linear(8, 2).parameters(), lr=0.1),
        f"{NO_PARAMETER} of this Linear",
    ),
    "one of a frozen model": (
        lambda: (nn.Linear(8, 2).requires_grad_(False), None),
        torch.optim.SGD,
        f"{NO_PARAMETER} of this Linear",
    ),
    "one of a model without parameters": (
        lambda: (nn.Flatten(), None),
        lambda _: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1),
        f"{NO_PARAMETER} of this Flatten",
    ),
}


@pytest.mark.parametrize(("build", "optimizer", "message"), UNSWEEPABLE.values(), ids=UNSWEEPABLE)
def test_an_optimizer_that_cannot_be_swept_is_refused_with_all_else(build, optimizer, message):
    model, _ = build()
    used = optimizer(list(model.parameters()))
    with pytest.raises(InputError) as caught:
        range_test(model, used, [(INPUTS, LABELS)], F.cross_entropy, low=2.0, high=1.0)
    unsweepable, impossible = caught.value.problems
    assert re.search(message, unsweepable)
    assert impossible == "`0 < low < high` must hold, but got low=2.0, high=1.0."


# --- on a GPU ---


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_answer_on_a_gpu_trains(training_of, precision):
    training = training_of(device="cuda", precision=precision)
    before = torch.cuda.get_rng_state()
    interval = range_test_of(training, Recipe(), seeds=(0, 1, 2)).interval
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert interval is not None
    recipe = Recipe(peak_lr=interval.suggestion)
    run = full_run(recipe, 4, seed=7)
    assert [m.metrics["top1"] for m in measurements_of(training, run)][-1] > 75
    assert (training.pool.why_eager(recipe) == "") == (precision != "fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_nothing_is_left_behind_on_a_gpu(identical, optimizer):
    caller = setting(optimizer)
    caller.model.cuda()
    caller.loss.cuda()
    caller.optimizer.zero_grad()
    caller.optimizer.state.clear()
    before = numpy_to_torch(values(caller))
    with suppress(ValueError):
        range_test(
            caller.model,
            caller.optimizer,
            caller.loader,
            FailingLoss(caller.loss, ValueError(), at=40),
            num_steps=30,
        )
    assert identical(numpy_to_torch(values(caller)), before)
