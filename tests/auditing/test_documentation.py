"""The set-ups of the libraries' own documentation, none of which may be called wrong.

They are rebuilt from the pages of torch, torchvision, timm, transformers, accelerate and diffusers.
Each is audited beforehand, where that is possible, and watched in its own loop. Lightning's are in
`test_lightning.py`.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from lrtune.auditing.audit import audit
from lrtune.auditing.watch import watch

STEPS = 5


def sgd(lr=0.1, *other_lrs):
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr_of_group}
        for lr_of_group in (lr, *other_lrs)
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def train_step(optimizer):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def wrong(report):
    return [f"{f.name}: {f.what}" for f in report.findings if f.severity == "wrong"]


def sequence(optimizer, first, second, at):
    return lrs.SequentialLR(optimizer, [first, second], [at])


BY_EPOCH = {
    # torch.optim.lr_scheduler, the example of each class
    "LambdaLR": (lambda o: lrs.LambdaLR(o, lambda epoch: 0.95**epoch), 100),
    "LambdaLR, a staircase": (lambda o: lrs.LambdaLR(o, lambda epoch: epoch // 30), 100),
    "MultiplicativeLR": (lambda o: lrs.MultiplicativeLR(o, lambda epoch: 0.95), 100),
    "StepLR": (lambda o: lrs.StepLR(o, 30, 0.1), 100),
    "MultiStepLR": (lambda o: lrs.MultiStepLR(o, [30, 80], 0.1), 100),
    "ConstantLR": (lambda o: lrs.ConstantLR(o, 0.5, total_iters=40), 100),
    "LinearLR": (lambda o: lrs.LinearLR(o, 0.05, total_iters=40), 100),
    "ExponentialLR": (lambda o: lrs.ExponentialLR(o, 0.95), 100),
    "SequentialLR": (
        lambda o: sequence(o, lrs.ConstantLR(o, 0.1, 20), lrs.ExponentialLR(o, 0.9), 20), 100,
    ),
    "PolynomialLR": (lambda o: lrs.PolynomialLR(o, total_iters=50, power=0.9), 100),
    "CosineAnnealingLR": (lambda o: lrs.CosineAnnealingLR(o, T_max=100), 100),
    "ChainedScheduler": (
        lambda o: lrs.ChainedScheduler([lrs.ConstantLR(o, 0.1, 20), lrs.ExponentialLR(o, 0.9)]),
        100,
    ),
    "CosineAnnealingWarmRestarts": (lambda o: lrs.CosineAnnealingWarmRestarts(o, 20), 100),
    "CosineAnnealingWarmRestarts, doubling": (
        lambda o: lrs.CosineAnnealingWarmRestarts(o, 10, T_mult=2), 70,
    ),
    # the tutorials and examples of torch and torchvision
    "transfer learning": (lambda o: lrs.StepLR(o, step_size=7, gamma=0.1), 25),
    "a transformer on WikiText": (lambda o: lrs.StepLR(o, 1.0, gamma=0.95), 20),
    "MNIST": (lambda o: lrs.StepLR(o, step_size=1, gamma=0.7), 14),
    "ImageNet": (lambda o: lrs.StepLR(o, step_size=30, gamma=0.1), 90),
    "ImageNet by multiplication": (lambda o: lrs.LambdaLR(o, lambda e: 0.1 ** (e // 30)), 90),
    "torchvision, classification": (
        lambda o: sequence(o, lrs.LinearLR(o, 0.01, total_iters=5),
                           lrs.CosineAnnealingLR(o, T_max=595), 5), 600,
    ),
    "torchvision, classification, constant warmup": (
        lambda o: sequence(o, lrs.ConstantLR(o, 0.01, 5), lrs.ExponentialLR(o, 0.9), 5), 90,
    ),
    "torchvision, detection": (lambda o: lrs.MultiStepLR(o, milestones=[16, 22], gamma=0.1), 26),
    "torchvision, video": (lambda o: lrs.MultiStepLR(o, milestones=[20, 30, 40], gamma=0.1), 45),
    "super resolution, constant": (lambda o: lrs.ConstantLR(o, 1.0, 1), 30),
    "a GAN that is constant, then falls": (
        lambda o: lrs.LambdaLR(o, lambda e: 1 - max(0, e - 100) / 101), 200,
    ),
    "word language model": (lambda o: lrs.ExponentialLR(o, 0.25), 6),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_EPOCH)
@pytest.mark.filterwarnings("ignore:The epoch parameter", "ignore:Detected call")
def test_once_an_epoch(name):
    build, epochs = BY_EPOCH[name]
    optimizer = sgd()
    report = audit(
        optimizer, build(optimizer), steps_per_epoch=STEPS, epochs=epochs, advanced="epoch"
    )
    assert wrong(report) == []
    optimizer = sgd()
    scheduler = build(optimizer)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=epochs) as seen:
        for _ in range(epochs):
            for _ in range(STEPS):
                train_step(optimizer)
            scheduler.step()
    assert wrong(seen.audit()) == []


NUM_STEPS = 1000


def multiplier(function):
    return lambda optimizer: lrs.LambdaLR(optimizer, function)


def piecewise(step):
    """The rules "1:100,0.1:500,0.01:800,0.005" of diffusers."""
    return next((value for end, value in ((100, 1), (500, 0.1), (800, 0.01)) if step < end), 0.005)


def warmed(step, after):
    return step / 100 if step < 100 else after((step - 100) / (NUM_STEPS - 100))


BY_STEP = {
    # torch.optim.lr_scheduler
    "CyclicLR": lambda o: lrs.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=10),
    "CyclicLR, triangular2": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 100, mode="triangular2"),
    "CyclicLR, exp_range": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 100, mode="exp_range", gamma=0.99),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.1, steps_per_epoch=STEPS, epochs=200),
    "OneCycleLR, three phases": lambda o: lrs.OneCycleLR(
        o, 0.1, total_steps=NUM_STEPS, three_phase=True
    ),
    "OneCycleLR, linear": lambda o: lrs.OneCycleLR(
        o, 0.1, total_steps=NUM_STEPS, anneal_strategy="linear"
    ),
    "torchvision, segmentation": lambda o: sequence(
        o, lrs.LinearLR(o, 0.01, total_iters=50), lrs.PolynomialLR(o, NUM_STEPS - 50, 0.9), 50
    ),
    "nanoGPT by LambdaLR": multiplier(
        lambda t: (t + 1) / 101 if t < 100
        else 0.1 + 0.45 * (1 + math.cos(math.pi * (min(t, 999) - 100) / 900))
    ),
    "Noam": multiplier(lambda t: 512**-0.5 * min((t + 1) ** -0.5, (t + 1) * 400**-1.5)),
    # diffusers.optimization.get_scheduler, by name
    "diffusers, constant": multiplier(lambda step: 1),
    "diffusers, constant_with_warmup": multiplier(lambda step: min(1.0, step / 100)),
    "diffusers, piecewise_constant": multiplier(piecewise),
    "diffusers, linear": multiplier(lambda t: warmed(t, lambda done: max(0.0, 1 - done))),
    "diffusers, cosine": multiplier(
        lambda t: warmed(t, lambda done: max(0.0, 0.5 * (1 + math.cos(math.pi * done))))
    ),
    "diffusers, cosine_with_restarts": multiplier(
        lambda t: warmed(
            t, lambda done: 0 if done >= 1 else 0.5 * (1 + math.cos(math.pi * (3 * done % 1)))
        )
    ),
    "diffusers, polynomial": multiplier(
        lambda t: warmed(t, lambda done: 1e-6 + (1 - 1e-6) * max(0.0, 1 - done))
    ),
}  # fmt: skip


def check_by_step(build, *, times=1, num_steps=NUM_STEPS, lr=0.1):
    optimizer = sgd(lr)
    scheduler = build(optimizer)
    lengths = {"steps_per_epoch": STEPS, "epochs": num_steps // STEPS}
    if times == 1:
        assert wrong(audit(optimizer, scheduler, **lengths)) == []
    with watch(optimizer, scheduler=scheduler, **lengths) as seen:
        for _ in range(num_steps):
            train_step(optimizer)
            for _ in range(times):
                scheduler.step()
    assert wrong(seen.audit()) == []


@pytest.mark.parametrize("name", BY_STEP)
@pytest.mark.filterwarnings("ignore:Detected call")
def test_once_a_step(name):
    if name.startswith("OneCycleLR"):  # it raises once it is called beyond its end
        optimizer = sgd()
        report = audit(
            optimizer, BY_STEP[name](optimizer), steps_per_epoch=STEPS, epochs=NUM_STEPS // STEPS
        )
        assert wrong(report) == []
    else:
        check_by_step(BY_STEP[name])


TRANSFORMERS = {
    "constant": {},
    "constant_with_warmup": {"num_warmup_steps": 100},
    "linear": {"num_warmup_steps": 100, "num_training_steps": NUM_STEPS},
    "cosine": {"num_warmup_steps": 100, "num_training_steps": NUM_STEPS},
    "cosine_with_restarts": {"num_warmup_steps": 100, "num_training_steps": NUM_STEPS},
    "polynomial": {"num_warmup_steps": 100, "num_training_steps": NUM_STEPS},
    "inverse_sqrt": {"num_warmup_steps": 100},
    "cosine_with_min_lr": {
        "num_warmup_steps": 100, "num_training_steps": NUM_STEPS,
        "scheduler_specific_kwargs": {"min_lr_rate": 0.1},
    },
    "warmup_stable_decay": {
        "num_warmup_steps": 100, "num_training_steps": NUM_STEPS,
        "scheduler_specific_kwargs": {"num_decay_steps": 200},
    },
    "cosine_warmup_with_min_lr": {
        "num_warmup_steps": 100, "num_training_steps": NUM_STEPS,
        "scheduler_specific_kwargs": {"min_lr_rate": 0.1},
    },
}  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.filterwarnings("ignore:Detected call")
def test_a_schedule_of_transformers(name):
    get_scheduler = pytest.importorskip("transformers").get_scheduler
    check_by_step(lambda optimizer: get_scheduler(name, optimizer, **TRANSFORMERS[name]))


@pytest.mark.peers
@pytest.mark.parametrize("num_processes", [2, 4, 8])
def test_the_calls_of_accelerate_on_several_processes(num_processes):
    """accelerate calls the scheduler once for each process, and its length is scaled to that."""
    get_scheduler = pytest.importorskip("transformers").get_scheduler
    check_by_step(
        lambda optimizer: get_scheduler(
            "linear", optimizer, num_warmup_steps=100 * num_processes,
            num_training_steps=NUM_STEPS * num_processes,
        ),
        times=num_processes,
    )  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("split_batches", [False, True])
def test_a_training_of_accelerate(accumulated, split_batches):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=accumulated,
        dataloader_config=accelerate.DataLoaderConfiguration(split_batches=split_batches),
    )  # fmt: skip
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    batches = torch.utils.data.DataLoader(torch.ones(40, 2), batch_size=2)
    scheduler = lrs.CosineAnnealingLR(optimizer, 5 * 20 // accumulated)
    model, optimizer, batches, scheduler = accelerator.prepare(model, optimizer, batches, scheduler)
    steps = 20 // accumulated
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=steps, epochs=5) as seen:
        for _ in range(5):
            for batch in batches:
                with accelerator.accumulate(model):
                    accelerator.backward(model(batch).square().mean())
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
    assert wrong(seen.audit()) == []
    assert seen.audit().lrs.shape == (1, 5 * steps)


TIMM = {
    "cosine, three cycles": ("CosineLRScheduler", {"t_initial": 20, "cycle_limit": 3}, 60),
    "cosine, cycles that decay": (
        "CosineLRScheduler", {"t_initial": 20, "cycle_limit": 3, "cycle_decay": 0.5}, 60,
    ),
    "cosine with k-decay": ("CosineLRScheduler", {"t_initial": 50, "k_decay": 1.5}, 50),
    "cosine, warmup and floor": (
        "CosineLRScheduler",
        {"t_initial": 50, "lr_min": 1e-5, "warmup_t": 3, "warmup_lr_init": 1e-4}, 50,
    ),
    "cosine after a warmup with prefix": (
        "CosineLRScheduler",
        {"t_initial": 50, "warmup_t": 5, "warmup_lr_init": 1e-4, "warmup_prefix": True}, 55,
    ),
    "cosine, cooldown": ("CosineLRScheduler", {"t_initial": 50, "lr_min": 1e-5}, 60),
    "cosine with noise": ("CosineLRScheduler", {"t_initial": 50, "noise_range_t": (10, 40)}, 50),
    "step": ("StepLRScheduler", {"decay_t": 30, "decay_rate": 0.1}, 90),
    "multistep": ("MultiStepLRScheduler", {"decay_t": [30, 60], "decay_rate": 0.1}, 90),
    "tanh": ("TanhLRScheduler", {"t_initial": 50}, 50),
    "poly": ("PolyLRScheduler", {"t_initial": 50, "power": 0.9}, 50),
}  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("name", TIMM)
def test_a_schedule_of_timm_by_epochs(name):
    scheduler_module = pytest.importorskip("timm.scheduler")
    class_name, values, epochs = TIMM[name]
    optimizer = sgd()
    scheduler = getattr(scheduler_module, class_name)(optimizer, **values)
    report = audit(optimizer, scheduler, steps_per_epoch=STEPS, epochs=epochs, advanced="epoch")
    assert wrong(report) == []
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=epochs) as seen:
        for epoch in range(epochs):
            for _ in range(STEPS):
                train_step(optimizer)
            scheduler.step(epoch + 1)
    assert wrong(seen.audit()) == []


def test_warm_restarts_that_are_told_the_fraction_of_the_epoch():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=20, epochs=30) as seen:
        for epoch in range(30):
            for index in range(20):
                train_step(optimizer)
                scheduler.step(epoch + index / 20)
    assert seen.audit().ok


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_averaged_weights_take_over():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, T_max=100)
    averaging = SWALR(optimizer, anneal_strategy="linear", anneal_epochs=5, swa_lr=0.05)
    lengths = {"steps_per_epoch": STEPS, "epochs": 100}
    with (
        watch(optimizer, scheduler=[scheduler, averaging], **lengths) as of_both,
        watch(optimizer, scheduler=scheduler, **lengths) as of_one,
    ):
        for epoch in range(100):
            for _ in range(STEPS):
                train_step(optimizer)
            (averaging if epoch > 53 else scheduler).step()
    assert wrong(of_one.audit()) == []
    assert wrong(of_both.audit()) == []


def test_two_schedulers_that_multiply():
    optimizer = sgd()
    both = [lrs.ExponentialLR(optimizer, 0.9), lrs.MultiStepLR(optimizer, [30, 80])]
    with watch(optimizer, scheduler=both, steps_per_epoch=STEPS, epochs=100) as seen:
        for _ in range(100):
            for _ in range(STEPS):
                train_step(optimizer)
            for scheduler in both:
                scheduler.step()
    assert wrong(seen.audit()) == []


def test_a_warmup_of_the_first_epoch_by_a_scheduler_of_its_own():
    """torchvision's detection reference warms up in its first epoch, by the step."""
    optimizer = sgd()
    scheduler = lrs.StepLR(optimizer, 3, 0.1)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=50, epochs=10) as seen:
        for epoch in range(10):
            warmup = lrs.LinearLR(optimizer, 1 / 1000, total_iters=49) if epoch == 0 else None
            for _ in range(50):
                train_step(optimizer)
                if warmup is not None:
                    warmup.step()
            scheduler.step()
    assert wrong(seen.audit()) == []


def test_each_group_has_its_function():
    optimizer = sgd(0.1, 0.01)
    functions = [lambda epoch: epoch // 30, lambda epoch: 0.95**epoch]
    scheduler = lrs.LambdaLR(optimizer, functions)
    report = audit(optimizer, scheduler, steps_per_epoch=STEPS, epochs=100, advanced="epoch")
    assert wrong(report) == []


def test_a_plateau_of_the_validation_loss():
    optimizer = sgd()
    scheduler = lrs.ReduceLROnPlateau(optimizer, "min")
    losses = [1 / (epoch + 1) + 0.01 * math.sin(7 * epoch) for epoch in range(100)]
    report = audit(
        optimizer, scheduler, steps_per_epoch=STEPS, epochs=100, advanced="epoch", metric=losses
    )
    assert wrong(report) == []


def test_a_checkpoint_is_gone_on_from():
    """The tutorial "Saving and loading a general checkpoint", with a scheduler."""
    states = SimpleNamespace()
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 20)
    for _ in range(8):
        train_step(optimizer)
        scheduler.step()
    states.optimizer, states.scheduler = optimizer.state_dict(), scheduler.state_dict()
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 20)
    optimizer.load_state_dict(states.optimizer)
    scheduler.load_state_dict(states.scheduler)
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=20) as seen:
        for _ in range(8, 20):
            for _ in range(STEPS):
                train_step(optimizer)
            scheduler.step()
    assert seen.audit().ok
