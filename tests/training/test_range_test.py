"""The range test: it leaves nothing behind, sweeps the grid that it says, and its answer trains."""

import math
import random
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_optimizer import Lamb
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from lrtune.core.errors import InputError, TaskError
from lrtune.core.recipe import OPTIMIZERS, Constant, Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.core.trial import Run
from lrtune.training.loop import Trainer
from lrtune.training.precision import Arithmetic
from lrtune.training.range_test import SWEEPS, for_optimizer, range_test, sweep, task_range_test
from lrtune.training.task import Task

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
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)  # another tensor each time
        self.seen += 1  # the same one
        return self.head(self.trunk(self.frozen(inputs - self.mean)))


class Scaled(nn.Module):
    """A loss with a parameter of its own, and a draw from every generator."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, labels):
        noise = 1e-3 * (random.random() + np.random.rand() + torch.rand(()))  # noqa: NPY002
        return F.cross_entropy(self.scale * logits, labels) + noise


BUILD = {
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "fused sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, fused=True),
    "tensor lr": lambda groups: torch.optim.SGD([g | {"lr": torch.tensor(g["lr"])} for g in groups], momentum=0.9),
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
    """A caller in the middle of training: moments in the optimizer, a gradient half accumulated, a module frozen."""
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    model, loss, generator = Net(), Scaled(), torch.Generator().manual_seed(4)
    groups = [
        {"params": [*model.frozen.parameters(), *model.trunk.parameters()], "lr": 0.01},
        {"params": [*model.head.parameters(), *loss.parameters()], "lr": 0.03, "initial_lr": 0.05},
    ]
    caller = SimpleNamespace(
        model=model, loss=loss, optimizer=BUILD[optimizer](groups), loader=loader(generator), generator=generator
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
            {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
            for state in (caller.optimizer.state[p] for p in caller.optimizer.state)
        ],
        [{key: value for key, value in group.items() if key != "params"} for group in caller.optimizer.param_groups],
        [torch.get_rng_state(), caller.generator.get_state(), *np.random.get_state()[1:]],  # noqa: NPY002
        random.getstate(),
    ]


def identities(caller):
    """Which objects they are: a scheduler, an EMA or a second optimizer may hold the very same."""
    model, optimizer = caller.model, caller.optimizer
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors += [value for value in states if isinstance(value, torch.Tensor)]
    groups = [(group, *group["params"]) for group in optimizer.param_groups]
    return [*map(id, tensors), id(optimizer.state), *(id(part) for group in groups for part in group)]


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
        expected = [numpy_to_torch(values(undisturbed)), steps(undisturbed, 6), numpy_to_torch(values(undisturbed))]

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
    assert [identical(a, b) for a, b in zip(before, numpy_to_torch(values(caller)), strict=True)] == [False] * 8


@pytest.mark.parametrize("optimizer", BUILD)
def test_nothing_is_left_behind(assert_untouched, optimizer):
    def act(caller):
        result = range_test(caller.model, caller.optimizer, caller.loader, caller.loss, num_steps=30, num_seeds=2)
        assert [len(curve.lrs) >= 16 for curve in result.curves] == [True, True]

    assert_untouched(lambda: setting(optimizer), act)


@pytest.mark.parametrize("loader", LOADERS)
def test_the_order_of_the_data_is_left_alone(assert_untouched, loader):
    def act(caller):
        range_test(caller.model, caller.optimizer, caller.loader, caller.loss, num_steps=16, num_seeds=2)

    assert_untouched(lambda: setting(loader=loader), act)


@pytest.mark.parametrize("error", [ValueError("bad batch"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adamw", "lamb"])
def test_nothing_is_left_behind_when_it_breaks_off(assert_untouched, optimizer, error):
    def act(caller):
        with pytest.raises(type(error)) as caught:
            range_test(caller.model, caller.optimizer, caller.loader, FailingLoss(caller.loss, error, at=7))
        assert caught.value is error

    assert_untouched(lambda: setting(optimizer), act)


def test_nothing_is_left_behind_when_the_data_run_out(assert_untouched):
    def act(caller):
        with pytest.raises(InputError, match=r"data must give batches each time they are read, but epoch 1 had none\."):
            range_test(caller.model, caller.optimizer, iter(caller.loader), caller.loss)

    assert_untouched(setting, lambda caller: (caller.generator.get_state(), act(caller), restore_order(caller)))


def restore_order(caller):
    """The caller itself has read its loader once: that draws a seed and an order."""
    caller.generator.set_state(setting().generator.get_state())
    torch.set_rng_state(torch_state_of_a_new_setting())


def torch_state_of_a_new_setting():
    state = (random.getstate(), np.random.get_state())  # noqa: NPY002
    setting()
    found = torch.get_rng_state()
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    return found
