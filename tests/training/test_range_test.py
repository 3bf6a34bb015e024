"""The range test: it leaves nothing behind, sweeps the grid that it says, and its answer trains."""

import math
import random
from contextlib import suppress
from dataclasses import dataclass, replace
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
    ([1.0] * 9 + [math.inf] + [1.0] * 20, 9, True),
    ([1.0] * 9 + [-math.inf] + [1.0] * 20, 9, True),
    ([math.nan] * 30, 0, True),
    ([1.0] * 20 + [2.99] * 9 + [3.01], 29, True),
    (
        [1.0, 9.0, 1.0, 9.0, 1.0] + [2.9] * 24 + [3.1],
        29,
        True,
    ),  # the median of the first 5 is where it began
    (
        [1.0, 1.0, 1.0, 1.0, 50.0] + [1.0] * 25,
        30,
        False,
    ),  # among the first 5 only a loss that is not finite ends it
]


@pytest.mark.parametrize(("losses", "kept", "diverged"), STOPPED)
def test_a_sweep_ends_where_its_loss_does(losses, kept, diverged):
    model, optimizer = linear_with_base_lr()
    used, coming = watch(optimizer), iter(losses)
    lane = lane_of(model, optimizer, 30, loss=lambda logits, _: 0 * logits.sum() + next(coming))
    curve = sweep(lane, [0.1] * 30, 1.0, seed=0)
    assert curve.losses == pytest.approx(losses[:kept])
    assert len(curve.lrs) == kept
    assert kept <= len(used) <= kept + BLOCK
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
