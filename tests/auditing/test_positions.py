"""Schedulers that are told where they are: in steps, in epochs, and wrongly."""

import pytest
import torch
from torch.optim import lr_scheduler as lrs

from lrtune.auditing.watch import watch

STEPS, EPOCHS = 10, 10
TOTAL = STEPS * EPOCHS


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def told(scheduler, optimizer, position, *, each="step"):
    """Watches a loop that tells its scheduler `position(epoch, index)`."""
    method = "step" if getattr(scheduler, "t_in_epochs", True) else "step_update"
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=EPOCHS) as seen:
        for epoch in range(EPOCHS):
            for index in range(STEPS):
                optimizer.step()
                if each == "step":
                    getattr(scheduler, method)(position(epoch, index))
            if each == "epoch":
                getattr(scheduler, method)(position(epoch, 0))
    return [(finding.name, finding.severity) for finding in seen.audit().findings]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("position", "length", "found"),
    [
        (lambda epoch, index: STEPS * epoch + index + 1, TOTAL, []),
        (lambda epoch, index: 4 * (STEPS * epoch + index + 1), 4 * TOTAL, []),
        (lambda epoch, index: 4 * (STEPS * epoch + index + 1), TOTAL, [("told-too-fast", "wrong")]),
        (lambda epoch, index: 2 * (STEPS * epoch + index + 1), TOTAL, [("told-too-fast", "wrong")]),
        (lambda epoch, index: index + 1, TOTAL, [("positions-begin-again", "wrong")]),
        (
            lambda epoch, index: STEPS * (epoch % 5) + index + 1, TOTAL,
            [("positions-begin-again", "suspicious")],
        ),
        (lambda epoch, index: STEPS * epoch + index, TOTAL, [("one-step-late", "suspicious")]),
        (lambda epoch, index: epoch + 1, TOTAL, [("told-too-slowly", "wrong")]),
    ],
)  # fmt: skip
def test_updates_that_timm_is_told(position, length, found):
    timm_scheduler = pytest.importorskip("timm.scheduler")
    optimizer = sgd()
    scheduler = timm_scheduler.CosineLRScheduler(
        optimizer, t_initial=length, lr_min=1e-4, t_in_epochs=False
    )
    assert told(scheduler, optimizer, position) == found


@pytest.mark.peers
@pytest.mark.parametrize(
    ("position", "found"),
    [
        (lambda epoch, _: epoch + 1, []),
        (lambda epoch, _: epoch, [("one-epoch-late", "suspicious")]),
        (lambda epoch, _: epoch % 3 + 1, [("positions-begin-again", "wrong")]),
    ],
)
def test_epochs_that_timm_is_told(position, found):
    timm_scheduler = pytest.importorskip("timm.scheduler")
    optimizer = sgd()
    scheduler = timm_scheduler.CosineLRScheduler(optimizer, t_initial=EPOCHS)
    assert told(scheduler, optimizer, position, each="epoch") == found


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, T_0=EPOCHS), []),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, T_0=5), []),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, T_0=1), []),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, T_0=TOTAL), [("cut-short", "suspicious")]),
    ],
)
def test_a_fraction_of_the_epoch(build, found):
    optimizer = sgd()
    assert told(build(optimizer), optimizer, lambda epoch, i: epoch + i / STEPS) == found


def test_the_index_of_the_batch_for_the_fraction_of_the_epoch():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingWarmRestarts(optimizer, T_0=EPOCHS)
    found = told(scheduler, optimizer, lambda epoch, index: index / STEPS)
    assert found == [("positions-begin-again", "wrong")]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("warmup", "prefix", "found"),
    [(3, False, []), (50, False, ["lr-jumps"]), (30, False, ["lr-jumps"]), (50, True, [])],
)
def test_a_warmup_of_timm_and_its_prefix(warmup, prefix, found):
    timm_scheduler = pytest.importorskip("timm.scheduler")
    optimizer = sgd()
    scheduler = timm_scheduler.CosineLRScheduler(
        optimizer, t_initial=TOTAL - (warmup if prefix else 0), warmup_t=warmup,
        warmup_lr_init=1e-4, warmup_prefix=prefix, t_in_epochs=False,
    )  # fmt: skip
    findings = told(scheduler, optimizer, lambda epoch, index: STEPS * epoch + index + 1)
    assert [name for name, _ in findings] == found
