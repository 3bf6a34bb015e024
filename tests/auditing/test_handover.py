"""Schedulers that follow one another, wrappers that share groups, and calls at odd paces."""

import functools
import math
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from lrtune.auditing.watch import watch

STEPS = 10


def sgd(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def loop(optimizer, schedulers, epochs, *, each_step=lambda t: None, each_epoch=lambda e: None):
    """Watches a loop of real steps; the functions are called after each step and epoch."""
    with watch(optimizer, scheduler=schedulers, steps_per_epoch=STEPS, epochs=epochs) as seen:
        for epoch in range(epochs):
            for index in range(STEPS):
                optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
                optimizer.step()
                each_step(epoch * STEPS + index)
            each_epoch(epoch)
    return [(finding.name, finding.severity) for finding in seen.audit().findings]


MAINS = {
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 25),
    "steps": lambda o: lrs.StepLR(o, 10),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
}


@pytest.mark.parametrize("main", MAINS)
@pytest.mark.parametrize("shown", ["both", "warmup", "main"])
@pytest.mark.parametrize("factor", [0.1, 0.001])
def test_a_warmup_of_epochs_and_then_another_scheduler(main, shown, factor):
    optimizer = sgd()
    warmup = lrs.LinearLR(optimizer, factor, total_iters=5)
    after = MAINS[main](optimizer)
    given = {"both": [warmup, after], "warmup": warmup, "main": after}[shown]
    findings = loop(
        optimizer, given, 30, each_epoch=lambda epoch: (warmup if epoch < 5 else after).step()
    )
    assert findings == []


@pytest.mark.parametrize("factor", [0.1, 0.01, 0.0001])
def test_a_warmup_of_steps_and_then_a_cosine_of_epochs(factor):
    optimizer = sgd()
    warmup = lrs.LinearLR(optimizer, factor, total_iters=10)
    after = lrs.CosineAnnealingLR(optimizer, 9)
    findings = loop(
        optimizer, [warmup, after], 10,
        each_step=lambda step: warmup.step() if step < 10 else None,
        each_epoch=lambda epoch: after.step() if epoch else None,
    )  # fmt: skip
    assert findings == []


@pytest.mark.parametrize("calls", [4, 5, 20])
def test_averaged_weights_that_anneal_until_the_end(calls):
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 30 - calls)
    averaging = SWALR(optimizer, anneal_epochs=4, swa_lr=0.05)
    findings = loop(
        optimizer, [scheduler, averaging], 30,
        each_epoch=lambda epoch: (averaging if epoch >= 30 - calls else scheduler).step(),
    )  # fmt: skip
    assert [severity for _, severity in findings if severity == "wrong"] == []


class Dampened:
    """The warmup of pytorch_warmup: a factor that is off while the scheduler is called."""

    def __init__(self, optimizer, period):
        self.optimizer, self.period, self.step = optimizer, period, 0
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        self.dampen()

    def dampen(self):
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= min(1.0, self.step / self.period)

    @contextmanager
    def dampening(self):
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr
        yield
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.dampen()


def test_a_factor_that_is_off_while_the_scheduler_is_called():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 100)
    warmup = Dampened(optimizer, 20)

    def each_step(_):
        with warmup.dampening():
            scheduler.step()

    assert [name for name, _ in loop(optimizer, scheduler, 10, each_step=each_step)] == []


@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize(("length", "found"), [(1, []), (2, [("cut-short", "suspicious")])])
def test_a_scheduler_that_is_called_every_few_epochs(every, length, found):
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, length * 30 // every)
    findings = loop(
        optimizer, scheduler, 30,
        each_epoch=lambda epoch: scheduler.step() if (epoch + 1) % every == 0 else None,
    )  # fmt: skip
    assert findings == found


def calls_of(scheduler, times):
    return lambda _: [scheduler.step() for _ in range(times)]


WITH_FLOOR = {
    "line": lambda o, n: lrs.LinearLR(o, 1, 0.1, total_iters=n),
    "cosine": lambda o, n: lrs.CosineAnnealingLR(o, n, eta_min=0.01),
    "lambda": lambda o, n: lrs.LambdaLR(o, lambda step: max(0.1, 1 - 0.9 * step / n)),
}


@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("name", ["line", "lambda"])
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_several_calls_at_once_and_a_floor(times, name, by):
    length = 100 if by == "step" else 10
    for scaled, found in ((length * times, []), (length, [("called-too-often", "wrong")])):
        optimizer = sgd()
        scheduler = WITH_FLOOR[name](optimizer, scaled)
        calls = {f"each_{by}": calls_of(scheduler, times)}
        assert loop(optimizer, scheduler, 10, **calls) == found


def test_calls_that_stop_where_the_scheduler_would_raise():
    """accelerate calls a `OneCycleLR` once for each process, and stops at its end."""
    optimizer = sgd()
    scheduler = lrs.OneCycleLR(optimizer, 0.1, total_steps=101)

    def each_step(_):
        for _ in range(4):
            if scheduler.last_epoch < 100:
                scheduler.step()

    findings = loop(optimizer, scheduler, 10, each_step=each_step)
    assert findings == [("called-too-often", "wrong")]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_the_old_order_by_epochs():
    optimizer = sgd()
    scheduler = lrs.StepLR(optimizer, 3)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        for _ in range(10):
            scheduler.step()
            for _ in range(STEPS):
                optimizer.step()
    assert [finding.name for finding in seen.audit().findings] == ["scheduler-before-optimizer"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_of_a_single_epoch(epochs):
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, epochs)
    assert loop(optimizer, scheduler, epochs, each_epoch=lambda _: scheduler.step()) == []


def test_a_schedule_that_is_at_0_after_a_restart():
    optimizer = sgd()
    scheduler = lrs.LambdaLR(
        optimizer, lambda t: 0 if t >= 50 else 0.5 * (1 + math.cos(math.pi * (t / 25 % 1)))
    )
    findings = loop(optimizer, scheduler, 10, each_step=lambda _: scheduler.step())
    assert findings == [("ends-early", "suspicious")]


# --- optimizers and schedulers of other kinds


class Sharpened(torch.optim.Optimizer):
    """As sharpness-aware minimisation is written: it shares the groups of the optimizer inside."""

    def __init__(self, base):
        super().__init__([torch.nn.Parameter(torch.zeros(1))], {"lr": 0.1})
        self.base_optimizer, self.param_groups = base, base.param_groups

    def step(self, closure=None):
        return self.base_optimizer.step(closure)


@pytest.mark.parametrize(("length", "found"), [(100, []), (10, ["counted-in-epochs"])])
@pytest.mark.parametrize("on", ["wrapper", "base"])
def test_a_scheduler_of_an_optimizer_that_shares_its_groups(length, found, on):
    base = sgd()
    outer = Sharpened(base)
    scheduler = lrs.CosineAnnealingLR(outer if on == "wrapper" else base, length)
    with watch(base, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        for _ in range(100):
            outer.step()
            scheduler.step()
    assert [finding.name for finding in seen.audit().findings] == found


@pytest.mark.peers
@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda o: lrs.CosineAnnealingLR(o, 100), []),
        (lambda o: lrs.CosineAnnealingLR(o, 10), ["counted-in-epochs"]),
        (lambda o: lrs.LambdaLR(o, lambda _: 1.0), []),
        (lambda o: lrs.StepLR(o, 90), []),
    ],
)
@pytest.mark.parametrize("library", ["accelerate", "fabric"])
def test_a_scheduler_of_a_prepared_optimizer(build, found, library):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if library == "accelerate":
        accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
        prepared = accelerator.prepare(optimizer)
    else:
        fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
        _, prepared = fabric.setup(model, optimizer)
    scheduler = build(prepared)
    with watch(prepared, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        for _ in range(100):
            prepared.step()
            scheduler.step()
    assert [finding.name for finding in seen.audit().findings] == found


class OfLogs(lrs.StepLR):
    def step(self, logs=None):
        super().step()


class Slotted:
    __slots__ = ("optimizer",)

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.param_groups[0]["lr"] *= 0.99


def patched(optimizer):
    scheduler = lrs.CosineAnnealingLR(optimizer, 100)
    scheduler.step = functools.partial(scheduler.step)
    return scheduler


@pytest.mark.parametrize(
    ("build", "arguments", "noted"),
    [
        (lambda o: OfLogs(o, 50), ({"loss": 1.0},), False),
        (Slotted, (), True),
        (patched, (), True),
    ],
)
def test_a_scheduler_of_an_odd_kind_trains_on(build, arguments, noted):
    optimizer = sgd()
    scheduler = build(optimizer)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        for _ in range(100):
            optimizer.step()
            scheduler.step(*arguments)
    assert bool(seen.audit().notes) == noted
    assert not [finding for finding in seen.audit().findings if finding.severity == "wrong"]


def test_a_scheduler_is_pickled_as_ever_while_it_is_watched():
    optimizer = sgd()
    scheduler = lrs.StepLR(optimizer, 10)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        again = pickle.loads(pickle.dumps(scheduler))
        for _ in range(100):
            optimizer.step()
            scheduler.step()
    assert type(again) is lrs.StepLR
    assert seen.audit().lrs.shape == (1, 100)


def test_sparse_gradients():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    scheduler = lrs.CosineAnnealingLR(optimizer, 200)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        for _ in range(100):
            embedding(torch.tensor([1, 1, 2])).sum().backward()
            optimizer.step()
            scheduler.step()
            scheduler.step()
    assert seen.audit().ok


def test_a_group_that_is_removed():
    optimizer = sgd()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.01})
    with watch(optimizer, steps_per_epoch=STEPS, epochs=10) as seen:
        for step in range(100):
            if step == 50:
                del optimizer.param_groups[1]
            optimizer.step()
    assert seen.audit().lrs.shape == (2, 100)
