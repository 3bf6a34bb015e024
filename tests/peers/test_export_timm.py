"""Exports to timm: the code has the LRs of the schedule where train.py drives it."""

import pytest
import torch

from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    GROUPS,
    LOADERS,
    PLATEAUS,
    SHAPES,
    UNUSUAL,
    exported,
    filled,
    group_deviation,
    lrs_planned,
    metrics_of,
    recipe_of,
    steps_of,
)

pytest.importorskip("timm")
pytestmark = pytest.mark.peers


def trained(recipe, updates_per_epoch):
    """The LRs of each update in the loop of train.py, which calls the scheduler after the update.

    train.py makes `updates_per_epoch` of the batches and the accumulation, rounded up.
    """
    model = torch.nn.Linear(1, 1)
    names = {
        "model": model,
        "updates_per_epoch": updates_per_epoch,
        "PARAMETERS": dict(model.named_parameters()),
    }
    exec(filled(exported(recipe, "timm", groups=GROUPS).text, model), names)
    optimizer, lr_scheduler = names["optimizer"], names["lr_scheduler"]
    assert names["num_epochs"] == EPOCHS
    used = []
    for epoch in range(EPOCHS):
        num_updates = epoch * updates_per_epoch
        for _ in range(updates_per_epoch):
            used.append(tuple(group["lr"] for group in optimizer.param_groups))
            optimizer.step()
            num_updates += 1
            lr_scheduler.step_update(num_updates=num_updates, metric=0.0)
        lr_scheduler.step(epoch + 1, metrics_of(recipe)[epoch])
    return used


@pytest.mark.parametrize(("keeps", "accumulate"), LOADERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_code_has_the_lrs_of_the_schedule(decay, shape, keeps, accumulate):
    recipe, steps_per_epoch = recipe_of(decay, shape), steps_of(keeps, accumulate)
    planned = lrs_planned(recipe, steps_per_epoch)
    assert group_deviation(trained(recipe, steps_per_epoch), planned) <= 1e-9


def test_train_py_is_told_what_it_would_do_otherwise():
    note = exported(recipe_of(PLATEAUS[0]), "timm", UNUSUAL).note
    assert "`--sched-on-updates --smoothing 0.1 --eval-metric loss`" in note
    assert "--smoothing 0`" in exported(recipe_of(DECAYS[0]), "timm").note
