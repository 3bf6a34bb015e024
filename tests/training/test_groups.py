"""Named parameter groups: what a training states of them, and the LR of each at each step."""

import pytest
import torch
from torch import nn

from lrtune.core.decays import Linear
from lrtune.core.errors import InputError
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.study import TrainSettings
from lrtune.schedules import build_schedule
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task
from tests.studies import full_run
from tests.training.runs import train
from tests.training.test_captured import CapturingTraining


def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))


def group(index, **keys):
    return lambda net: {"params": net[index].parameters(), **keys}


BODY, HEAD = group(1, name="body", lr_scale=0.1), group(2, name="head")


@pytest.fixture
def training_of(digits):
    def build(*groups, kind=NativeTraining):
        task = Task(
            model=model, train=digits.train, validation=digits.validation, num_classes=10,
            parameters=(lambda net: [of(net) for of in groups]) if groups else None,
        )  # fmt: skip
        return kind(task, TrainSettings(batch_size=72, device="cpu"))

    return build


# the groups, and what is stated
STATED = [
    ((), ()),
    ((group(1),), ()),
    ((group(1, name="body"),), ()),
    ((group(1, lr_scale=0.5),), (ParameterGroup(name="0", lr_scale=0.5),)),
    ((group(1), group(2, lr_scale=2)),
     (ParameterGroup(name="0"), ParameterGroup(name="1", lr_scale=2.0))),
    ((BODY, HEAD), (ParameterGroup(name="body", lr_scale=0.1), ParameterGroup(name="head"))),
]  # fmt: skip


@pytest.mark.parametrize(("groups", "stated"), STATED)
def test_groups_are_stated_where_their_lrs_can_differ(training_of, groups, stated):
    assert training_of(*groups).facts.groups == stated


# scales of the recipe, and the ratios of the groups
SCALES = [
    ((), (0.1, 1.0)),
    ((("body", 0.3),), (0.3, 1.0)),
    ((("body", 2.0), ("head", 0.5)), (2.0, 0.5)),
]


@pytest.mark.parametrize("kind", [NativeTraining, CapturingTraining], ids=["eager", "captured"])
def test_the_ratio_holds_at_each_step_on_either_lane(training_of, kind):
    """On one captured lane after the other run, whose scales were others."""
    training = training_of(BODY, HEAD, kind=kind)
    lrs = []
    build = training.task.build_optimizer

    def build_watched(recipe, net, **kwargs):
        optimizer = build(recipe, net, **kwargs)
        optimizer.register_step_pre_hook(
            lambda used, *_: lrs.append([float(group["lr"]) for group in used.param_groups])
        )
        return optimizer

    training.task.build_optimizer = build_watched
    for scales, ratios in SCALES:
        recipe = Recipe(peak_lr=0.05, decay=Linear(), warmup_epochs=1, group_scales=scales)
        schedule = build_schedule(recipe, epochs=3, steps_per_epoch=3)
        measurements, _ = train(training, full_run(recipe, 3))
        expected = [[0.05 * ratio * schedule(step) for ratio in ratios] for step in range(9)]
        torch.testing.assert_close(torch.tensor(lrs[-9:]), torch.tensor(expected))
        assert measurements[0].lr_last == pytest.approx(0.05)
    if kind is CapturingTraining:
        assert len(set(map(id, training.pool.used))) == 1


def test_the_ratio_holds_in_a_sweep(training_of):
    training, lrs = training_of(BODY, HEAD), []
    build = training.task.build_optimizer

    def build_watched(recipe, net, **kwargs):
        optimizer = build(recipe, net, **kwargs)
        optimizer.register_step_pre_hook(
            lambda used, *_: lrs.append([group["lr"] for group in used.param_groups])
        )
        return optimizer

    training.task.build_optimizer = build_watched
    recipe = Recipe(group_scales=(("body", 0.25),))
    curve = training.sweep(recipe, seed=0, low=1e-4, high=1e-2, num_steps=16)
    torch.testing.assert_close(torch.tensor(lrs), torch.tensor([[lr / 4, lr] for lr in curve.lrs]))


# groups, scales, and what is refused
REFUSED = [
    ((BODY, HEAD), (("neck", 0.3),), "`group_scales.neck` must name .* has the groups body, head"),
    ((), (("body", 0.3),), "`group_scales.body` must name .* has no named groups"),
    ((BODY, group(2, name="body")), (), r"must be a text of its own, but got \['body', 'body'\]"),
    ((BODY, group(2, name=3)), (), r"must be a text of its own, but got \['body', 3\]"),
    ((BODY, group(2, lr=0.1)), (), "give `lr_scale`, not `lr`"),
]


@pytest.mark.parametrize(("groups", "scales", "message"), REFUSED)
def test_impossible_groups_are_refused(training_of, groups, scales, message):
    recipe = Recipe(group_scales=scales)
    with pytest.raises(InputError, match=message):
        next(training_of(*groups).train(full_run(recipe, 1), lambda _: 1.0))


def test_prodigy_has_one_lr_whoever_scales_it(training_of):
    recipe = Recipe(optimizer="prodigy", peak_lr=1.0, group_scales=(("body", 1.0),))
    assert next(training_of(BODY, HEAD).train(full_run(recipe, 1), lambda _: 1.0))
    recipe = Recipe(optimizer="prodigy", peak_lr=1.0, group_scales=(("head", 0.5),))
    with pytest.raises(InputError, match="must be the same in all groups for prodigy"):
        next(training_of(BODY, HEAD).train(full_run(recipe, 1), lambda _: 1.0))
