"""Schedulers of timm and transformers, in the loops of their own scripts and in wrong loops."""

import copy
import math

import pytest
import torch

from lrtune.auditing.audit import audit
from lrtune.auditing.watch import watch

pytestmark = pytest.mark.peers

EPOCHS, STEPS_PER_EPOCH = 12, 10
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
RUN = {"steps_per_epoch": STEPS_PER_EPOCH, "epochs": EPOCHS}


def adamw(lr=1e-3):
    return torch.optim.AdamW([torch.zeros(2, requires_grad=True)], lr=lr)


def names(audit):
    return [finding.name for finding in audit.findings]


def wrong(audit):
    return [finding for finding in audit.findings if finding.severity == "wrong"]


TRANSFORMERS = {
    "constant": {},
    "constant_with_warmup": {"num_warmup_steps": 12},
    "linear": {"num_warmup_steps": 12, "num_training_steps": TOTAL_STEPS},
    "cosine": {"num_warmup_steps": 12, "num_training_steps": TOTAL_STEPS},
    "cosine_with_restarts": {
        "num_warmup_steps": 12,
        "num_training_steps": TOTAL_STEPS,
        "scheduler_specific_kwargs": {"num_cycles": 3},
    },
    "polynomial": {"num_warmup_steps": 12, "num_training_steps": TOTAL_STEPS},
    "inverse_sqrt": {"num_warmup_steps": 12},
    "cosine_with_min_lr": {
        "num_warmup_steps": 12,
        "num_training_steps": TOTAL_STEPS,
        "scheduler_specific_kwargs": {"min_lr_rate": 0.1},
    },
    "warmup_stable_decay": {
        "num_warmup_steps": 12,
        "num_training_steps": TOTAL_STEPS,
        "scheduler_specific_kwargs": {"num_decay_steps": 24},
    },
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_nothing_is_wrong_with_a_schedule_of_transformers_called_each_step(name):
    get_scheduler = pytest.importorskip("transformers").get_scheduler
    optimizer = adamw()
    assert (
        wrong(audit(optimizer, get_scheduler(name, optimizer, **TRANSFORMERS[name]), **RUN)) == []
    )


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name != "constant"])
def test_any_warmup_of_transformers_called_once_an_epoch(name):
    get_scheduler = pytest.importorskip("transformers").get_scheduler
    optimizer = adamw()
    report = audit(
        optimizer, get_scheduler(name, optimizer, **TRANSFORMERS[name]), advanced="epoch", **RUN
    )
    assert names(report) == ["warmup-once-an-epoch"]


@pytest.mark.parametrize(
    ("num_training_steps", "found"),
    [(EPOCHS, "counted-in-epochs"), (80, "turns-up-again"), (4 * TOTAL_STEPS, "cut-short")],
)
def test_a_cosine_of_transformers_of_another_length(num_training_steps, found):
    transformers = pytest.importorskip("transformers")
    optimizer = adamw()
    scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, num_training_steps)
    assert names(audit(optimizer, scheduler, **RUN)) == [found]


def timm_schedule(optimizer, sched, *, on_updates=False, **changes):
    """A scheduler and its epochs, as timm's train.py builds it from its command line."""
    create = pytest.importorskip("timm.scheduler").create_scheduler_v2
    settings = {
        "num_epochs": EPOCHS,
        "warmup_epochs": 2,
        "warmup_prefix": True,
        "warmup_lr": 1e-6,
        "min_lr": 1e-6,
    }
    settings |= {
        "cooldown_epochs": 0,
        "decay_epochs": 4,
        "decay_milestones": [4, 8],
        "patience_epochs": 3,
    }
    if on_updates:
        settings |= {"step_on_epochs": False, "updates_per_epoch": STEPS_PER_EPOCH}
    return create(optimizer, sched, **(settings | changes))


def train_as_timm(
    optimizer,
    scheduler,
    epochs,
    *,
    metric=lambda epoch: 1 - 1 / (epoch + 1),
    next_update=1,
    next_epoch=1,
):
    """Trains like timm's train.py, which calls both methods with the number of what comes next."""
    for epoch in range(epochs):
        for step in range(STEPS_PER_EPOCH):
            optimizer.step()
            scheduler.step_update(num_updates=epoch * STEPS_PER_EPOCH + step + next_update)
        scheduler.step(epoch + next_epoch, metric(epoch))


@pytest.mark.parametrize(
    ("sched", "on_updates"),
    [
        (sched, on_updates)
        for sched in ("cosine", "tanh", "step", "multistep", "poly", "wsd")
        for on_updates in (False, True)
    ]
    + [("plateau", False)],
)
def test_nothing_is_wrong_with_a_schedule_of_timm_in_its_own_loop(sched, on_updates):
    optimizer = adamw()
    scheduler, epochs = timm_schedule(optimizer, sched, on_updates=on_updates)
    with watch(
        optimizer, scheduler=scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs
    ) as seen:
        train_as_timm(optimizer, scheduler, epochs)
    assert wrong(seen.audit()) == []
    assert seen.audit().lrs[0, 0] == 1e-6


@pytest.mark.parametrize("on_updates", [False, True])
def test_a_schedule_of_timm_is_audited_as_it_is_watched(on_updates):
    optimizer = adamw()
    scheduler, epochs = timm_schedule(optimizer, "cosine", on_updates=on_updates)
    advanced = "step" if on_updates else "epoch"
    report = audit(
        optimizer, scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs, advanced=advanced
    )
    with watch(
        optimizer, scheduler=scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs
    ) as seen:
        train_as_timm(optimizer, scheduler, epochs)
    assert report.lrs.tolist() == seen.audit().lrs.tolist()
    assert names(report) == names(seen.audit()) == []


@pytest.mark.parametrize(
    ("on_updates", "stale", "found"),
    [
        (True, {"next_update": 0}, ["one-step-late"]),
        (False, {"next_epoch": 0}, ["one-epoch-late"]),
        (True, {}, []),
        (False, {}, []),
    ],
)
def test_timm_told_what_has_ended(on_updates, stale, found):
    optimizer = adamw()
    scheduler, epochs = timm_schedule(optimizer, "cosine", on_updates=on_updates)
    with watch(
        optimizer, scheduler=scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs
    ) as seen:
        train_as_timm(optimizer, scheduler, epochs, **stale)
    assert names(seen.audit()) == found


def test_timm_with_an_optimizer_state_loaded_after_it_was_built():
    optimizer = adamw()
    saved = copy.deepcopy(optimizer.state_dict())
    scheduler, epochs = timm_schedule(optimizer, "cosine", on_updates=True)
    optimizer.load_state_dict(saved)
    with watch(
        optimizer, scheduler=scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs
    ) as seen:
        train_as_timm(optimizer, scheduler, epochs)
    assert names(seen.audit()) == ["first-step-unwarmed"]


@pytest.mark.parametrize(("timms", "found"), [(True, []), (False, ["group-ratio-lost"])])
def test_an_lr_a_layer_is_kept_by_timm_and_lost_by_torch(timms, found):
    groups = [
        {"params": [torch.zeros(2, requires_grad=True)], "lr_scale": scale}
        for scale in (1.0, 0.5, 0.25)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    if timms:
        scheduler, _ = timm_schedule(optimizer, "cosine", warmup_epochs=0)
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    assert names(audit(optimizer, scheduler, advanced="epoch", **RUN)) == found


@pytest.mark.parametrize(("on_updates", "called"), [(True, "epoch"), (False, "step")])
def test_timm_called_by_the_method_that_does_nothing(on_updates, called):
    optimizer = adamw()
    scheduler, epochs = timm_schedule(optimizer, "cosine", on_updates=on_updates)
    report = audit(
        optimizer, scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs, advanced=called
    )
    assert names(report) == ["never-changes"]
    with watch(
        optimizer, scheduler=scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs
    ) as seen:
        for step in range(epochs * STEPS_PER_EPOCH):
            optimizer.step()
            if called == "step":
                scheduler.step_update(step + 1)
            elif (step + 1) % STEPS_PER_EPOCH == 0:
                scheduler.step((step + 1) // STEPS_PER_EPOCH)
    assert names(seen.audit()) == ["never-changes"]


def test_a_cosine_of_timm_in_epochs_told_updates():
    cosine = pytest.importorskip("timm.scheduler").CosineLRScheduler
    optimizer = adamw()
    report = audit(
        optimizer, cosine(optimizer, t_initial=EPOCHS, t_in_epochs=False), advanced="step", **RUN
    )
    assert names(report) == ["counted-in-epochs"]


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        (lambda epoch: 1 - 1 / (epoch + 1), []),
        (lambda epoch: 1 / (epoch + 1), ["plateau-wrong-mode"]),
        (lambda epoch: None, ["plateau-without-metric"]),
        (lambda epoch: math.nan, ["plateau-without-metric"]),
    ],
)
def test_a_plateau_of_timm_and_its_metric(metric, found):
    optimizer = adamw()
    scheduler, epochs = timm_schedule(optimizer, "plateau", warmup_epochs=0)
    with watch(
        optimizer, scheduler=scheduler, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs
    ) as seen:
        train_as_timm(optimizer, scheduler, epochs, metric=metric)
    assert names(seen.audit()) == found
