"""Watches of training loops with real steps of torch's optimizers."""

import copy
import functools
import io
import math
import re

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from lrtune.auditing.watch import watch
from lrtune.core.decays import DECAYS, Cosine, MultiStep, Plateau, StepDecay
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.reporting.export.torch import torch_code
from lrtune.schedules import build_schedule

EPOCHS, STEPS_PER_EPOCH = 6, 10
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
RUN = {"steps_per_epoch": STEPS_PER_EPOCH, "epochs": EPOCHS}
BATCHES = [(torch.ones(4, 2), torch.ones(4, 1))] * STEPS_PER_EPOCH


@pytest.fixture
def model():
    return torch.nn.Linear(2, 1)


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture
def train_step(model, optimizer):
    """One real optimizer step."""

    def step():
        optimizer.zero_grad()
        model(BATCHES[0][0]).square().mean().backward()
        optimizer.step()

    return step


def names(seen):
    return [finding.name for finding in seen.audit().findings]


def cosine(optimizer):
    return lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS)


def warmup(step, num_steps=20):
    return min(1.0, (step + 1) / num_steps)


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def test_an_lr_that_is_no_number_is_drawn_as_such(optimizer, train_step):
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            if step >= TOTAL_STEPS // 2:
                set_lr(optimizer, math.nan)
            train_step()
            scheduler.step()
    text = str(seen.audit())
    assert "two-writers" in text
    assert re.search(r"as it ran +[█▇▆▅▄]+\?+  0\.1 → nan", text)


def test_the_lr_of_each_step_is_seen(optimizer, train_step):
    used = []
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            scheduler.step()
    assert seen.audit().lrs.tolist() == [used]
    assert names(seen) == []


@pytest.mark.parametrize("known", [RUN, {}])
def test_a_scheduler_called_once_an_epoch(optimizer, train_step, known):
    scheduler = lrs.CosineAnnealingLR(optimizer, EPOCHS)
    with watch(optimizer, scheduler=scheduler, **known) as seen:
        for _ in range(EPOCHS):
            for _ in range(STEPS_PER_EPOCH):
                train_step()
            scheduler.step()
    assert names(seen) == []


@pytest.mark.parametrize("known", [RUN, {}])
def test_a_warmup_in_steps_called_once_an_epoch(optimizer, train_step, known):
    rise = lrs.LinearLR(optimizer, 0.1, total_iters=20)
    scheduler = lrs.SequentialLR(optimizer, [rise, lrs.CosineAnnealingLR(optimizer, 40)], [20])
    with watch(optimizer, scheduler=scheduler, **known) as seen:
        for _ in range(EPOCHS):
            for _ in range(STEPS_PER_EPOCH):
                train_step()
            scheduler.step()
    assert names(seen) == ["warmup-once-an-epoch"]


def test_the_first_epoch_is_enough_to_tell_the_length(optimizer, train_step):
    scheduler = lrs.CosineAnnealingLR(optimizer, EPOCHS)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(STEPS_PER_EPOCH):
            train_step()
            scheduler.step()
    assert names(seen) == ["counted-in-epochs"]


def test_the_first_epoch_is_not_enough_to_say_that_nothing_changes(optimizer, train_step):
    scheduler = lrs.StepLR(optimizer, 3)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(STEPS_PER_EPOCH):
            train_step()
        assert names(seen) == []
        scheduler.step()
    assert names(seen) == []


def test_a_scheduler_that_is_never_called(optimizer, train_step):
    with watch(optimizer, scheduler=cosine(optimizer), **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
    assert names(seen) == ["never-changes"]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_scheduler_of_another_optimizer(model, optimizer, train_step):
    scheduler = cosine(torch.optim.SGD(model.parameters(), lr=0.1))
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            scheduler.step()
    assert names(seen) == ["never-changes"]
    assert "another optimizer" in seen.audit().findings[0].what


@pytest.mark.parametrize(("after", "found"), [(True, ["first-step-unwarmed"]), (False, [])])
def test_an_lr_written_after_the_step_leaves_the_first_one_unwarmed(
    optimizer, train_step, after, found
):
    with watch(optimizer, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            if not after:
                set_lr(optimizer, 0.1 * warmup(step))
            train_step()
            if after:
                set_lr(optimizer, 0.1 * warmup(step))
    assert names(seen) == found


@pytest.mark.parametrize(
    ("scheduler_last", "found"), [(True, ["first-step-unwarmed"]), (False, [])]
)
def test_an_optimizer_state_loaded_after_the_scheduler_was_built(
    optimizer, train_step, scheduler_last, found
):
    saved = copy.deepcopy(optimizer.state_dict())
    if scheduler_last:
        scheduler = lrs.LambdaLR(optimizer, warmup)
        optimizer.load_state_dict(saved)
    else:
        optimizer.load_state_dict(saved)
        scheduler = lrs.LambdaLR(optimizer, warmup)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            scheduler.step()
    assert names(seen) == found


@pytest.mark.parametrize(("per", "length"), [("step", TOTAL_STEPS), ("epoch", EPOCHS)])
@pytest.mark.parametrize(("first", "found"), [(True, ["scheduler-before-optimizer"]), (False, [])])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_scheduler_before_optimizer(optimizer, train_step, per, length, first, found):
    scheduler = lrs.CosineAnnealingLR(optimizer, length)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            if first and (per == "step" or step % STEPS_PER_EPOCH == 0):
                scheduler.step()
            train_step()
            if not first and (per == "step" or step % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1):
                scheduler.step()
    assert names(seen) == found
    for finding in seen.audit().findings:
        calls = np.arange(TOTAL_STEPS) // (TOTAL_STEPS // length)
        np.testing.assert_allclose(
            finding.meant, 0.05 * (1 + np.cos(np.pi * calls / length)), atol=1e-12
        )
        np.testing.assert_allclose(
            finding.ran, 0.05 * (1 + np.cos(np.pi * (calls + 1) / length)), atol=1e-12
        )


def ramp_before_the_step(optimizer, step, num_steps):
    if step < num_steps:
        set_lr(optimizer, 0.1 * (step + 1) / num_steps)


@pytest.mark.parametrize(
    ("build", "num_steps", "found"),
    [
        # a ramp for 20 steps and a cosine that is called from the first step on
        (cosine, 20, [("two-writers", "wrong")]),
        # a schedule that knows where it is takes over at the end of the ramp
        (
            lambda o: lrs.LambdaLR(o, lambda t: 1 - t / TOTAL_STEPS),
            20,
            [("two-writers", "suspicious")],
        ),
        # no end of it
        (cosine, 60, [("two-writers", "wrong")]),
        (cosine, 0, []),
    ],
)
def test_a_warmup_by_hand_beside_a_scheduler(optimizer, train_step, build, num_steps, found):
    scheduler = build(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            ramp_before_the_step(optimizer, step, num_steps)
            train_step()
            scheduler.step()
    assert [(finding.name, finding.severity) for finding in seen.audit().findings] == found


def test_a_warmup_by_hand_that_the_scheduler_overwrites(optimizer, train_step):
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            train_step()
            ramp_before_the_step(optimizer, step, 20)
            scheduler.step()
    assert "two-writers" in names(seen)
    (finding,) = (finding for finding in seen.audit().findings if finding.name == "two-writers")
    assert "overwritten before any step used them" in finding.what


def test_a_warmup_by_hand_that_is_over_before_the_scheduler_is_called(optimizer, train_step):
    scheduler = lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS - 10)
    with watch(optimizer, scheduler=scheduler) as seen:
        for step in range(TOTAL_STEPS):
            ramp_before_the_step(optimizer, step, 10)
            train_step()
            if step >= 10:
                scheduler.step()
    assert names(seen) == []


@pytest.mark.parametrize(("own", "found"), [(True, []), (False, ["group-ratio-lost"])])
def test_one_lr_for_all_groups(model, own, found):
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    with watch(optimizer, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = (base_lr if own else 0.1) * (1 - step / TOTAL_STEPS)
            model(BATCHES[0][0]).square().mean().backward()
            optimizer.step()
    assert names(seen) == found


def test_one_cycle_gives_all_groups_one_lr(model):
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    with watch(optimizer, **RUN) as seen:
        scheduler = lrs.OneCycleLR(optimizer, max_lr=0.1, total_steps=TOTAL_STEPS)
        for _ in range(TOTAL_STEPS):
            model(BATCHES[0][0]).square().mean().backward()
            optimizer.step()
            scheduler.step()
    assert names(seen) == ["group-ratio-lost"]


def test_a_group_that_comes_later_is_not_looked_at(model):
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    with watch(optimizer, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            if step == 5:
                optimizer.add_param_group({"params": [model.bias], "lr": 0.01})
            set_lr(optimizer, 0.1 * (1 - step / TOTAL_STEPS))
            optimizer.step()
    assert seen.audit().lrs.shape == (1, TOTAL_STEPS)


def amp_loop(model, optimizer, scheduler, *, overflows, careful, zero_last=False):
    """Mixed precision as PyTorch's notes have it, with infinite gradients in some iterations."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for iteration in range(TOTAL_STEPS + len(overflows)):
        if not zero_last:
            optimizer.zero_grad()
        loss = model(BATCHES[0][0]).square().mean() * (math.inf if iteration in overflows else 1)
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if zero_last:
            optimizer.zero_grad()
        if not careful or scaler.get_scale() >= scale:
            scheduler.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("overflows", "careful", "found"),
    [
        ((), False, []),
        ((0, 1, 30), True, []),
        ((0, 1, 30), False, [("skipped-steps-counted", "wrong")]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_steps_that_a_scaler_skipped(model, fused, overflows, careful, found):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        amp_loop(model, optimizer, scheduler, overflows=overflows, careful=careful)
    report = seen.audit()
    assert [(finding.name, finding.severity) for finding in report.findings] == found
    assert report.lrs.shape == (1, TOTAL_STEPS)
    if found:
        assert (
            f"counted {len(overflows)} steps that a gradient scaler skipped"
            in report.findings[0].what
        )


def test_skipped_steps_whose_gradients_are_gone(model, optimizer):
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        amp_loop(model, optimizer, scheduler, overflows=(20, 30), careful=False, zero_last=True)
    (finding,) = seen.audit().findings
    assert (finding.name, finding.severity) == ("skipped-steps-counted", "suspicious")


def test_a_step_with_infinite_gradients_that_was_made_is_no_skipped_one(model, optimizer):
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            (model(BATCHES[0][0]).mean() * math.inf).backward()
            optimizer.step()
            scheduler.step()
    assert names(seen) == []


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("length", "found"),
    [(1, ["called-too-often"]), (4, []), (8, ["cut-short"]), (2, ["turns-up-again"])],
)
def test_a_scheduler_called_for_each_micro_batch(optimizer, train_step, length, found):
    scheduler = lrs.CosineAnnealingLR(optimizer, length * TOTAL_STEPS)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            for _ in range(3):
                scheduler.step()
            train_step()
            scheduler.step()
    assert names(seen) == found


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], []),
        ([0.9, 0.8, 0.7, 0.7, 0.7, 0.7], []),
        ([torch.tensor(0.9), torch.tensor(0.8), 0.7, 0.6, 0.5, math.nan], []),
        ([math.nan] * EPOCHS, ["plateau-without-metric"]),
        ([0.5] * EPOCHS, ["plateau-without-metric"]),
        ([], ["plateau-without-metric"]),
    ],
)
def test_a_plateau_and_its_metric(optimizer, train_step, metrics, found):
    scheduler = lrs.ReduceLROnPlateau(optimizer, patience=1)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for epoch in range(EPOCHS):
            for _ in range(STEPS_PER_EPOCH):
                train_step()
            if metrics:
                scheduler.step(metrics[epoch])
    assert names(seen) == found


PARAMETERS = {"step": StepDecay(every_epochs=2), "multistep": MultiStep(milestones_epochs=(2, 4))}


@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_nothing_is_wrong_with_exported_code(model, decay, warmup_epochs):
    recipe = Recipe(
        peak_lr=0.1, warmup_epochs=warmup_epochs, decay=PARAMETERS.get(decay) or DECAYS[decay]()
    )
    code = torch_code(recipe, EPOCHS, STEPS_PER_EPOCH, TrainSettings())
    before_the_loop, loop = code.split("\nfor epoch in ")
    here = {
        "model": model,
        "train_loader": BATCHES,
        "loss_function": torch.nn.functional.mse_loss,
        "validate": lambda model: model(BATCHES[0][0]).square().mean().item(),
    }
    exec(before_the_loop, here)
    meant = None if isinstance(recipe.decay, Plateau) else recipe
    with watch(here["optimizer"], scheduler=here["scheduler"], meant=meant, **RUN) as seen:
        exec(f"for epoch in {loop}", here)
    assert [finding for finding in seen.audit().findings if finding.severity == "wrong"] == []


def test_the_loop_is_held_against_what_was_meant(optimizer, train_step):
    recipe = Recipe(peak_lr=0.1, decay=Cosine(), warmup_epochs=1)
    schedule = build_schedule(recipe, **RUN)
    with watch(optimizer, meant=schedule, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            set_lr(optimizer, 0.1 * schedule(max(0, step - 1)))
            train_step()
    (finding,) = seen.audit().findings
    assert finding.name == "not-as-meant"
    assert finding.what.endswith("It is the meant curve one step late.")


def test_state_dicts_are_as_without_it_and_everything_is_given_back(optimizer, train_step):
    scheduler = cosine(optimizer)
    kind, state = type(scheduler), repr(scheduler.state_dict())
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        assert isinstance(scheduler, lrs.CosineAnnealingLR)
        assert repr(scheduler.state_dict()) == state
        torch.save(
            {"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, io.BytesIO()
        )
        train_step()
        scheduler.step()
    assert type(scheduler) is kind
    assert not optimizer._optimizer_step_post_hooks
    num_seen = seen.audit().lrs.shape[1]
    train_step()
    assert seen.audit().lrs.shape[1] == num_seen


def test_an_exception_in_the_loop_gives_everything_back_too(optimizer):
    scheduler = cosine(optimizer)
    with pytest.raises(ZeroDivisionError), watch(optimizer, scheduler=scheduler, **RUN):
        1 / 0  # noqa: B018
    assert type(scheduler) is lrs.CosineAnnealingLR
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_a_copy_of_the_scheduler_is_not_noted(optimizer, train_step):
    scheduler = cosine(optimizer)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        other = copy.deepcopy(scheduler)
        train_step()
        scheduler.step()
        other.step()
        train_step()
        scheduler.step()
    assert names(seen) == []


def test_a_loop_without_a_step_is_said(optimizer):
    with watch(optimizer) as seen:
        pass
    with pytest.raises(
        InputError, match="at least one optimizer step must be watched, but there was none"
    ):
        seen.audit()


def test_lengths_come_together(optimizer):
    with pytest.raises(InputError, match="`steps_per_epoch` and `epochs` must be given together"):
        watch(optimizer, epochs=3)


def test_what_was_meant_needs_the_length(optimizer, train_step):
    with watch(optimizer, meant=lambda step: 1.0) as seen:
        train_step()
    with pytest.raises(InputError, match="`meant` needs the length of the run"):
        seen.audit()


class Wrapper:
    """An optimizer of another library around one of torch."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


class Outer(torch.optim.Optimizer):
    """A wrapper that is an optimizer as accelerate's is: without torch's own constructor."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [Outer, lambda o: Outer(Outer(o)), Wrapper])
def test_an_optimizer_in_a_wrapper(optimizer, train_step, wrap):
    scheduler = cosine(optimizer)
    with watch(wrap(optimizer), scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            scheduler.step()
    assert seen.audit().ok
    assert seen.audit().lrs.shape == (1, TOTAL_STEPS)


class Scheduled:
    """A scheduler of another library around one of torch."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def step(self):
        self.scheduler.step()


def test_a_scheduler_in_a_wrapper(optimizer, train_step):
    scheduler = Scheduled(lrs.CosineAnnealingLR(optimizer, EPOCHS))
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            scheduler.step()
    assert names(seen) == ["counted-in-epochs"]


def test_a_scheduler_that_cannot_be_copied_is_a_note(optimizer, train_step):
    scheduler = cosine(optimizer)
    scheduler.values = (value for value in ())
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            scheduler.step()
    report = seen.audit()
    assert report.ok
    (note,) = report.notes
    assert note.startswith("Only the LRs were seen, not what wrote them: `scheduler` must be such")
    assert "Note: Only the LRs were seen" in str(report)
    assert report.to_dict()["notes"] == [note]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.asked = 0

    def multiplier(self, step):
        self.asked += 1
        return 1 - step / TOTAL_STEPS

    def __deepcopy__(self, memo):
        raise AssertionError("a module was copied with its weights")


@pytest.mark.parametrize(
    "function",
    [
        lambda model: model.multiplier,
        lambda model: functools.partial(model.multiplier),
        lambda model: lambda step: model.multiplier(step),
    ],
)
def test_a_schedule_that_is_a_method_of_the_model(function):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lrs.LambdaLR(optimizer, function(model))
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            model.layer(BATCHES[0][0]).square().mean().backward()
            optimizer.step()
            scheduler.step()
    asked = model.asked
    assert seen.audit().ok
    assert model.asked == asked or function(model).__name__ == "<lambda>"


def test_a_method_without_the_wrong_length_is_judged_as_any_other():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lrs.LambdaLR(optimizer, lambda step: 1 - step / 40)
    with watch(optimizer, scheduler=scheduler, **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            optimizer.step()
            scheduler.step()
    assert names(seen) == ["turns-negative"]


@pytest.mark.parametrize("overwrites", [False, True])
def test_two_schedulers_at_the_same_steps(optimizer, train_step, overwrites):
    decay = cosine(optimizer)
    if overwrites:
        other = lrs.LambdaLR(optimizer, warmup)
    else:
        other = lrs.LinearLR(optimizer, 0.1, total_iters=20)
    with watch(optimizer, scheduler=[decay, other], **RUN) as seen:
        for _ in range(TOTAL_STEPS):
            train_step()
            decay.step()
            other.step()
    assert names(seen) == (["no-product"] if overwrites else [])


@pytest.mark.parametrize("shown", ["the first", "the second", "both"])
def test_a_scheduler_that_takes_over_from_another(optimizer, train_step, shown):
    rise = lrs.LinearLR(optimizer, 0.1, total_iters=20)
    decay = lrs.ExponentialLR(optimizer, 0.95)
    given = {"the first": rise, "the second": decay, "both": [rise, decay]}[shown]
    with watch(optimizer, scheduler=given, **RUN) as seen:
        for step in range(TOTAL_STEPS):
            train_step()
            (rise if step < 20 else decay).step()
    assert names(seen) == []


@pytest.mark.parametrize(
    ("length", "steps", "found"),
    [
        (45, 45, []),
        (4, 4, []),
        (TOTAL_STEPS, 45, ["cut-short"]),
        (30, 45, ["turns-up-again"]),
    ],
)
def test_a_run_that_ends_within_an_epoch(optimizer, train_step, length, steps, found):
    scheduler = lrs.CosineAnnealingLR(optimizer, length)
    with watch(optimizer, scheduler=scheduler) as seen:
        for _ in range(steps):
            train_step()
            scheduler.step()
    found_names = [
        finding.name
        for finding in seen.audit(steps_per_epoch=STEPS_PER_EPOCH, total_steps=steps).findings
    ]
    assert found_names == found
