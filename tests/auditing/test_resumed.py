"""Runs that go on from a checkpoint, and learning rates that jump."""

import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from lrtune.auditing.audit import audit
from lrtune.auditing.watch import watch

STEPS, EPOCHS = 10, 20


def sgd(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def train(optimizer, scheduler, epochs, *, advanced="epoch", steps=STEPS):
    for _ in range(epochs):
        for _ in range(steps):
            optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
            optimizer.step()
            if advanced == "step":
                scheduler.step()
        if advanced == "epoch":
            scheduler.step()


def names(report):
    return [finding.name for finding in report.findings]


def warmup_and_cosine(optimizer, warmup, length):
    rise = lrs.LinearLR(optimizer, 0.01, total_iters=warmup)
    return lrs.SequentialLR(
        optimizer, [rise, lrs.CosineAnnealingLR(optimizer, length - warmup)], [warmup]
    )


BUILDS = {
    "cosine": lambda o, n: lrs.CosineAnnealingLR(o, n),
    "line": lambda o, n: lrs.LinearLR(o, 1, 0, total_iters=n),
    "polynomial": lambda o, n: lrs.PolynomialLR(o, n, power=0.9),
    "lambda": lambda o, n: lrs.LambdaLR(o, lambda k: max(0.0, 1 - k / n)),
    "exponential": lambda o, n: lrs.ExponentialLR(o, 0.01 ** (1 / n)),
    "steps": lambda o, n: lrs.StepLR(o, n // 3),
    "milestones": lambda o, n: lrs.MultiStepLR(o, [n // 2, 3 * n // 4]),
    "one cycle": lambda o, n: lrs.OneCycleLR(o, 0.1, total_steps=n + 1),
    "warm restarts": lambda o, n: lrs.CosineAnnealingWarmRestarts(o, n // 2),
    "warmup and cosine": lambda o, n: warmup_and_cosine(o, n // 4, n),
    "a product": lambda o, n: lrs.ChainedScheduler(
        [lrs.LinearLR(o, 0.1, total_iters=n // 4), lrs.CosineAnnealingLR(o, n)]
    ),
}


@pytest.mark.parametrize("done", [1, 4, 8, 17])
@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("advanced", ["step", "epoch"])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_run_that_goes_on_is_right_by_what_is_left_of_it(name, done, advanced, states):
    length = EPOCHS * (STEPS if advanced == "step" else 1)
    optimizer = sgd()
    scheduler = BUILDS[name](optimizer, length)
    train(optimizer, scheduler, done, advanced=advanced)
    if states:
        old, optimizer = (optimizer.state_dict(), scheduler.state_dict()), sgd()
        scheduler = BUILDS[name](optimizer, length)
        optimizer.load_state_dict(old[0])
        scheduler.load_state_dict(old[1])
    for epochs in (EPOCHS, EPOCHS - done):
        report = audit(
            optimizer, scheduler, steps_per_epoch=STEPS, epochs=epochs, advanced=advanced
        )
        assert names(report) == []
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=EPOCHS) as seen:
        train(optimizer, scheduler, EPOCHS - done, advanced=advanced)
    assert names(seen.audit()) == []


def test_what_is_left_may_be_too_long_or_too_short():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 20)
    train(optimizer, scheduler, 8)
    for epochs, found in ((40, ["turns-up-again"]), (9, ["cut-short"])):
        report = audit(optimizer, scheduler, steps_per_epoch=STEPS, epochs=epochs, advanced="epoch")
        assert names(report) == found


def cosine_by_lambda(optimizer):
    return lrs.LambdaLR(optimizer, lambda epoch: (1 + math.cos(epoch * math.pi / 100)) / 2)


def by_last_epoch_alone(optimizer):
    optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
    return lrs.CosineAnnealingLR(optimizer, 100, last_epoch=44)


def built_after_the_state_was_loaded(optimizer):
    scheduler = cosine_by_lambda(optimizer)
    scheduler.last_epoch = 49
    return scheduler


def at_another_length(optimizer):
    scheduler = cosine_by_lambda(optimizer)
    train(optimizer, scheduler, 50, steps=1)
    scheduler.lr_lambdas = [lambda epoch: (1 + math.cos(epoch * math.pi / 200)) / 2]
    return scheduler


def without_the_optimizer(optimizer):
    old = lrs.ExponentialLR(optimizer, 0.9)
    train(optimizer, old, 30, steps=1)
    optimizer.param_groups[0]["lr"] = 0.1
    return old


@pytest.mark.parametrize(
    "build",
    [by_last_epoch_alone, built_after_the_state_was_loaded, at_another_length,
     without_the_optimizer],
)  # fmt: skip
@pytest.mark.parametrize("epochs", [50, 100])
def test_a_run_that_goes_on_at_another_lr(build, epochs):
    optimizer = sgd()
    scheduler = build(optimizer)
    has = optimizer.param_groups[0]["lr"]
    report = audit(optimizer, scheduler, steps_per_epoch=STEPS, epochs=epochs, advanced="epoch")
    assert names(report) == ["lr-jumps"]
    assert report.findings[0].what.endswith(f"begins at step 0 with {has:.3g}.")


@pytest.mark.parametrize(
    ("function", "epochs", "advanced"),
    [
        (lambda epoch: epoch // 35, 100, "epoch"),
        (lambda epoch: 1 + epoch // 7, 30, "epoch"),
        (lambda epoch: min(3, epoch // 35), 100, "epoch"),
        (lambda epoch: 1.01**epoch, 50, "epoch"),
        (lambda epoch: 0.1 if epoch < 60 else 1.0, 50, "epoch"),
        (lambda step: 1.001**step, 20, "step"),
    ],
)
def test_an_lr_that_rises_is_no_warmup(function, epochs, advanced):
    optimizer = sgd()
    scheduler = lrs.LambdaLR(optimizer, function)
    report = audit(optimizer, scheduler, steps_per_epoch=4, epochs=epochs, advanced=advanced)
    assert not [name for name in names(report) if "warmup" in name or name == "cut-short"]


def by_hand(lrs_of_steps):
    optimizer = sgd()
    with watch(optimizer, steps_per_epoch=STEPS, epochs=len(lrs_of_steps) // STEPS) as seen:
        for lr in lrs_of_steps:
            optimizer.param_groups[0]["lr"] = float(lr)
            optimizer.step()
    return seen.audit()


COSINE = 0.05 * (1 + np.cos(np.pi * np.arange(100) / 100))
RISE = np.linspace(0.01, 0.1, 10)


@pytest.mark.parametrize(
    ("curve", "found"),
    [
        (COSINE, []),
        (np.repeat([0.1, 0.01, 0.001], [40, 30, 30]), []),  # milestones
        (np.tile(COSINE[::5], 5), []),  # restarts from the floor
        (np.concatenate([RISE, COSINE[:90]]), []),
        (np.concatenate([np.full(10, 0.01), COSINE[:90]]), []),  # a constant warmup
        (np.concatenate([COSINE[:50], COSINE[:50]]), [("lr-jumps", "suspicious")]),
        (np.concatenate([RISE, COSINE[:40], RISE, COSINE[40:80]]), [("lr-jumps", "suspicious")]),
        (np.tile(RISE, 10), [("lr-jumps", "wrong")]),  # the warmup counts each epoch's batches
    ],
)  # fmt: skip
def test_jumps_of_an_lr_that_is_written_by_hand(curve, found):
    findings = by_hand(curve).findings
    assert [(f.name, f.severity) for f in findings if f.name == "lr-jumps"] == found
    if found == [("lr-jumps", "suspicious")] and len(curve) == 100 and curve[0] == 0.1:
        assert "jumps from 0.0516 at step 49 to 0.1 at step 50" in findings[0].what


def test_a_scheduler_that_starts_over_in_the_middle():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 100)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=10) as seen:
        train(optimizer, scheduler, 5, advanced="step")
        optimizer.param_groups[0]["lr"] = 0.1
        train(optimizer, lrs.CosineAnnealingLR(optimizer, 100), 5, advanced="step")
    assert names(seen.audit()) == ["lr-jumps"]
    assert "from 0.0516 at step 49 to 0.1 at step 50" in seen.audit().findings[0].what


@pytest.mark.parametrize(
    "build", [lambda o: lrs.StepLR(o, 6), lambda o: lrs.LambdaLR(o, lambda e: 0.1 ** (e // 6))]
)
@pytest.mark.parametrize("told", [20, 2])
def test_a_staircase_that_is_resumed_after_its_last_step(build, told):
    optimizer = sgd()
    scheduler = build(optimizer)
    train(optimizer, scheduler, 18)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=told) as seen:
        train(optimizer, scheduler, 2)
    assert names(seen.audit()) == []


@pytest.mark.parametrize(
    "build",
    [
        lambda o: lrs.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: lrs.LambdaLR(o, lambda k: max(0.0, 1 - k / 20)),
    ],
)
def test_a_scheduler_whose_state_was_forgotten(build):
    optimizer = sgd()
    train(optimizer, scheduler := build(optimizer), 14)
    old, optimizer = optimizer.state_dict(), sgd()
    scheduler = build(optimizer)
    optimizer.load_state_dict(old)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=6) as seen:
        train(optimizer, scheduler, 6)
    assert {"lr-jumps", "first-step-unwarmed"} & set(names(seen.audit()))


@pytest.mark.peers
@pytest.mark.parametrize("first", [3, 20, 60])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", ["StepLRScheduler", "CosineLRScheduler", "PolyLRScheduler"])
def test_a_run_of_timm_that_goes_on(first, told, name):
    timm_scheduler = pytest.importorskip("timm.scheduler")
    own = {"decay_t": 30} if name == "StepLRScheduler" else {"t_initial": 90}
    optimizer = sgd()
    scheduler = getattr(timm_scheduler, name)(optimizer, warmup_t=5, warmup_lr_init=1e-5, **own)
    if told:
        scheduler.step(first)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=4, epochs=90) as seen:
        for epoch in range(first, 90):
            for _ in range(4):
                optimizer.step()
            scheduler.step(epoch + 1)
    assert names(seen.audit()) == ([] if told else ["lr-jumps"])


@pytest.mark.parametrize("done", [5, 12])
@pytest.mark.filterwarnings("ignore:Detected call")
def test_a_run_that_goes_on_with_several_calls_a_step(done):
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 4 * EPOCHS * STEPS)
    for _ in range(4 * done * STEPS):
        scheduler.step()
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=EPOCHS) as seen:
        for _ in range((EPOCHS - done) * STEPS):
            optimizer.step()
            for _ in range(4):
                scheduler.step()
    assert names(seen.audit()) == []
