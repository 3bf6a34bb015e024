"""Audits of runs that are still to come, with right and wrong schedules of torch."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from lrtune.auditing.audit import audit
from lrtune.core.decays import Cosine, Plateau
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.schedules import build_schedule

EPOCHS, STEPS_PER_EPOCH = 30, 20
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
RUN = {"steps_per_epoch": STEPS_PER_EPOCH, "epochs": EPOCHS}


def sgd(*more_lrs, lr=0.1):
    groups = [
        {"params": [torch.zeros(2, requires_grad=True)], "lr": one} for one in (lr, *more_lrs)
    ]
    return torch.optim.SGD(groups, momentum=0.9)


def names(audit):
    return [finding.name for finding in audit.findings]


def warmup_and_cosine(optimizer, warmup, total):
    rise = lrs.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    return lrs.SequentialLR(
        optimizer, [rise, lrs.CosineAnnealingLR(optimizer, total - warmup)], [warmup]
    )


# for a run of n calls
RIGHT = {
    "lambda": lambda o, n: lrs.LambdaLR(o, lambda call: 1 - call / n),
    "lambda with a root": lambda o, n: lrs.LambdaLR(o, lambda call: math.sqrt(1 - call / n)),
    "lambda with a power": lambda o, n: lrs.LambdaLR(o, lambda call: (1 - call / n) ** 1.5),
    "multiplicative": lambda o, n: lrs.MultiplicativeLR(o, lambda call: 0.01 ** (1 / n)),
    "step": lambda o, n: lrs.StepLR(o, n // 3),
    "multistep": lambda o, n: lrs.MultiStepLR(o, [n // 3, 2 * n // 3]),
    "constant, then free": lambda o, n: lrs.ConstantLR(o, total_iters=n // 6),
    "linear": lambda o, n: lrs.LinearLR(o, 1, 0.01, n),
    "linear to zero": lambda o, n: lrs.LinearLR(o, 1, 0, n),
    "linear warmup": lambda o, n: lrs.LinearLR(o, 0.1, total_iters=n // 6),
    "exponential": lambda o, n: lrs.ExponentialLR(o, 0.01 ** (1 / n)),
    "exponential that ends high": lambda o, n: lrs.ExponentialLR(o, 0.3 ** (1 / n)),
    "polynomial": lambda o, n: lrs.PolynomialLR(o, n, power=2),
    "cosine": lambda o, n: lrs.CosineAnnealingLR(o, n),
    "cosine, all but the last": lambda o, n: lrs.CosineAnnealingLR(o, n - 1),
    "cosine with a floor": lambda o, n: lrs.CosineAnnealingLR(o, n, eta_min=1e-3),
    "warm restarts": lambda o, n: lrs.CosineAnnealingWarmRestarts(o, n // 3),
    "warm restarts, longer each": lambda o, n: lrs.CosineAnnealingWarmRestarts(
        o, n // 7 + 1, T_mult=2
    ),
    "triangles": lambda o, n: lrs.CyclicLR(o, 0.01, 0.1, step_size_up=n // 6),
    "exponential triangles": lambda o, n: lrs.CyclicLR(
        o, 0.01, 0.1, n // 6, mode="exp_range", gamma=0.99
    ),
    "one cycle": lambda o, n: lrs.OneCycleLR(o, 0.1, total_steps=n),
    "one cycle of three phases": lambda o, n: lrs.OneCycleLR(
        o, 0.1, total_steps=n, three_phase=True
    ),
    "warmup and cosine": lambda o, n: warmup_and_cosine(o, max(2, n // 20), n),
    "chained": lambda o, n: lrs.ChainedScheduler(
        [lrs.LinearLR(o, 0.1, total_iters=n // 10), lrs.MultiStepLR(o, [n // 2])], o
    ),
    "averaging": lambda o, n: SWALR(o, swa_lr=0.05, anneal_epochs=n // 6),
}


@pytest.mark.parametrize("advanced", ["step", "epoch"])
@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_where_nothing_is_wrong(name, advanced):
    optimizer = sgd()
    scheduler = RIGHT[name](optimizer, TOTAL_STEPS if advanced == "step" else EPOCHS)
    assert names(audit(optimizer, scheduler, advanced=advanced, **RUN)) == []


@pytest.mark.parametrize(
    ("name", "advanced", "epochs", "steps_per_epoch"),
    [
        # its LR is down to a millionth after about as many calls as there are steps
        ("exponential", "epoch", 30, 3),
        ("multiplicative", "epoch", 90, 3),
        ("step", "epoch", 10, 2),
        ("multistep", "step", 5, 2),  # its last milestone is at as many steps as there are epochs
        ("chained", "step", 30, 2),
        ("averaging", "step", 10, 7),
        ("cosine, all but the last", "epoch", 10, 2),
        ("warm restarts", "step", 2, 50),
        ("warm restarts, longer each", "step", 5, 300),
    ],
)  # fmt: skip
def test_lengths_that_are_alike_by_chance_are_not_mistaken(name, advanced, epochs, steps_per_epoch):
    optimizer = sgd()
    scheduler = RIGHT[name](optimizer, epochs * steps_per_epoch if advanced == "step" else epochs)
    assert (
        names(
            audit(
                optimizer,
                scheduler,
                advanced=advanced,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("build", "advanced", "found"),
    [
        (lambda o: warmup_and_cosine(o, 50, TOTAL_STEPS), "epoch", ["warmup-once-an-epoch"]),
        (lambda o: warmup_and_cosine(o, 5, TOTAL_STEPS), "epoch", ["warmup-once-an-epoch"]),
        (
            lambda o: lrs.OneCycleLR(o, 0.1, total_steps=TOTAL_STEPS), "epoch",
            ["warmup-once-an-epoch"],
        ),
        (lambda o: lrs.LinearLR(o, 0.01, total_iters=100), "epoch", ["warmup-once-an-epoch"]),
        (lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS), "epoch", ["decay-once-an-epoch"]),
        (lambda o: lrs.PolynomialLR(o, TOTAL_STEPS), "epoch", ["decay-once-an-epoch"]),
        (lambda o: lrs.CosineAnnealingLR(o, EPOCHS), "step", ["counted-in-epochs"]),
        (lambda o: warmup_and_cosine(o, 3, EPOCHS), "step", ["counted-in-epochs"]),
        (lambda o: lrs.OneCycleLR(o, 0.1, total_steps=EPOCHS), "step", ["counted-in-epochs"]),
        (lambda o: lrs.OneCycleLR(o, 0.1, total_steps=10), "step", ["counted-in-epochs"]),
        (lambda o: lrs.MultiStepLR(o, [10, 20]), "step", ["counted-in-epochs"]),
        (lambda o: lrs.StepLR(o, 10), "step", ["counted-in-epochs"]),
        (lambda o: lrs.ExponentialLR(o, 0.8), "step", ["counted-in-epochs"]),
        (lambda o: lrs.LambdaLR(o, lambda t: 1 - t / EPOCHS), "step", ["counted-in-epochs"]),
        (
            lambda o: lrs.LambdaLR(o, lambda t: math.sqrt(1 - t / EPOCHS)), "step",
            ["counted-in-epochs"],
        ),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 10), "step", ["counted-in-epochs"]),
        (lambda o: lrs.CosineAnnealingLR(o, 20), "epoch", ["turns-up-again"]),
        (lambda o: lrs.CosineAnnealingLR(o, 15), "epoch", ["turns-up-again"]),
        (lambda o: lrs.CosineAnnealingLR(o, 400), "step", ["turns-up-again"]),
        (lambda o: lrs.OneCycleLR(o, 0.1, total_steps=400), "step", ["scheduler-raises"]),
        (lambda o: lrs.LambdaLR(o, lambda t: 1 - t / 400), "step", ["turns-negative"]),
        (lambda o: lrs.PolynomialLR(o, 400), "step", ["ends-early"]),
        (lambda o: lrs.CosineAnnealingLR(o, 90), "epoch", ["cut-short"]),
        (lambda o: lrs.CosineAnnealingLR(o, 4 * TOTAL_STEPS), "step", ["cut-short"]),
        (lambda o: lrs.MultiStepLR(o, [20, 40]), "epoch", ["cut-short"]),
        (lambda o: lrs.CosineAnnealingWarmRestarts(o, 200), "epoch", ["cut-short"]),
        (lambda o: warmup_and_cosine(o, 1000, 2000), "step", ["cut-short"]),
        (lambda o: lrs.StepLR(o, 30), "epoch", ["never-changes"]),
        (lambda o: lrs.CosineAnnealingLR(sgd(), EPOCHS), "epoch", ["never-changes"]),
        (lambda o: lrs.ExponentialLR(o, 1.0), "epoch", []),
    ],
)  # fmt: skip
def test_a_schedule_of_another_length(build, advanced, found):
    optimizer = sgd()
    assert names(audit(optimizer, build(optimizer), advanced=advanced, **RUN)) == found


def test_a_warmup_whose_length_is_known_is_held_to_it():
    optimizer = sgd()
    scheduler = lrs.LinearLR(optimizer, 0.01, total_iters=10)
    assert names(audit(optimizer, scheduler, advanced="epoch", **RUN)) == []
    assert names(audit(optimizer, scheduler, advanced="epoch", warmup_steps=10, **RUN)) == [
        "warmup-once-an-epoch"
    ]
    assert names(audit(optimizer, scheduler, advanced="step", warmup_steps=10, **RUN)) == []


def test_the_curves_are_those_of_the_run_and_of_what_was_meant():
    optimizer = sgd()
    report = audit(
        optimizer, lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS), advanced="epoch", **RUN
    )
    steps = np.arange(TOTAL_STEPS)
    cosine = 0.05 * (1 + np.cos(np.pi * steps / TOTAL_STEPS))
    np.testing.assert_allclose(report.findings[0].meant, cosine)
    np.testing.assert_allclose(report.findings[0].ran, cosine[steps // STEPS_PER_EPOCH])
    np.testing.assert_array_equal(report.findings[0].ran, report.lrs[0])


def test_a_decay_too_short_is_drawn_as_long_as_the_run():
    optimizer = sgd()
    (finding,) = audit(
        optimizer, lrs.CosineAnnealingLR(optimizer, 20), advanced="epoch", **RUN
    ).findings
    epochs = np.arange(TOTAL_STEPS) // STEPS_PER_EPOCH
    np.testing.assert_allclose(
        finding.meant, 0.05 * (1 + np.cos(np.pi * epochs / EPOCHS)), atol=1e-3
    )


@pytest.mark.parametrize("times", [2, 4, 8])
def test_a_length_in_micro_batches_is_said_to_be_one(times):
    optimizer = sgd()
    scheduler = lrs.LinearLR(optimizer, 1, 0, total_iters=times * TOTAL_STEPS)
    (finding,) = audit(optimizer, scheduler, **RUN).findings
    assert finding.name == "cut-short"
    assert f"{times} times too long" in finding.fix


LR_RATIO = 0.1


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS), []),
        (lambda o: lrs.LinearLR(o, 0.1, total_iters=50), []),
        (lambda o: lrs.LambdaLR(o, [lambda t: 1.0 if t else 0.5, lambda t: 0.9 if t else 0.5]), []),
        (
            lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS, eta_min=1e-3),
            [("group-ratio-lost", "suspicious")],
        ),
        (
            lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS, eta_min=0.05),
            [("group-ratio-lost", "wrong")],
        ),
    ],
)  # fmt: skip
def test_groups_keep_their_ratio_or_it_is_said(build, found):
    optimizer = sgd(LR_RATIO * 0.1)
    report = audit(optimizer, build(optimizer), **RUN)
    assert [(finding.name, finding.severity) for finding in report.findings] == found


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        ([1 / (epoch + 1) for epoch in range(EPOCHS)], []),
        (lambda epoch: 1 / (epoch + 1), []),
        ([1.0, 0.5, *[0.6] * 28], []),
        ([math.nan] * EPOCHS, [("plateau-without-metric", "wrong")]),
        ([0.5] * EPOCHS, [("plateau-without-metric", "suspicious")]),
    ],
)
def test_a_plateau_is_judged_by_what_it_is_given(metric, found):
    optimizer = sgd()
    report = audit(
        optimizer,
        lrs.ReduceLROnPlateau(optimizer, patience=3),
        advanced="epoch",
        metric=metric,
        **RUN,
    )
    assert [(finding.name, finding.severity) for finding in report.findings] == found


def test_a_plateau_reduces_in_the_rehearsal_as_in_the_run():
    optimizer = sgd()
    scheduler = lrs.ReduceLROnPlateau(optimizer, patience=3)
    report = audit(optimizer, scheduler, advanced="epoch", metric=[1.0] * EPOCHS, **RUN)
    by_epoch = []
    for _ in range(EPOCHS):
        by_epoch.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(1.0)
    np.testing.assert_array_equal(report.lrs[0], np.repeat(by_epoch, STEPS_PER_EPOCH))


RECIPE = Recipe(peak_lr=0.1, warmup_epochs=1, decay=Cosine())
SCHEDULE = build_schedule(RECIPE, **RUN)


@pytest.mark.parametrize("meant", [RECIPE, SCHEDULE, lambda step: SCHEDULE(step)])
def test_what_was_meant_is_held_against_what_runs(meant):
    optimizer = sgd()
    right = lrs.LambdaLR(optimizer, lambda step: SCHEDULE(min(step, TOTAL_STEPS - 1)))
    assert names(audit(optimizer, right, meant=meant, **RUN)) == []
    optimizer = sgd()
    (finding,) = audit(
        optimizer, warmup_and_cosine(optimizer, 60, TOTAL_STEPS), meant=meant, **RUN
    ).findings
    assert finding.name == "not-as-meant"
    np.testing.assert_allclose(finding.meant, [0.1 * SCHEDULE(step) for step in range(TOTAL_STEPS)])


def test_a_schedule_that_lags_is_said_to_lag():
    optimizer = sgd()
    lags = lrs.LambdaLR(optimizer, lambda step: SCHEDULE(max(0, min(step, TOTAL_STEPS - 1) - 1)))
    (finding,) = audit(optimizer, lags, meant=RECIPE, **RUN).findings
    assert finding.what.endswith("one step late.")


def test_what_looks_odd_and_is_meant_is_right():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, 3 * EPOCHS)
    assert names(audit(optimizer, scheduler, advanced="epoch", **RUN)) == ["cut-short"]
    third = [(1 + math.cos(math.pi * epoch / 90)) / 2 for epoch in range(EPOCHS)]
    assert (
        names(audit(optimizer, scheduler, advanced="epoch", meant=lambda t: third[t // 20], **RUN))
        == []
    )


def everything(optimizer, scheduler):
    random_state = torch.get_rng_state().tolist()
    return repr(vars(scheduler)), repr(optimizer.state_dict()), repr(vars(optimizer)), random_state


@pytest.mark.parametrize("name", [*RIGHT, "plateau"])
def test_optimizer_and_scheduler_are_as_before(name):
    optimizer = sgd()
    scheduler = (
        lrs.ReduceLROnPlateau(optimizer)
        if name == "plateau"
        else RIGHT[name](optimizer, TOTAL_STEPS)
    )
    for parameter in (group["params"][0] for group in optimizer.param_groups):
        parameter.grad = torch.ones(2)
    optimizer.step()  # momentum
    before, step = everything(optimizer, scheduler), optimizer.step
    audit(optimizer, scheduler, metric=[1.0] * TOTAL_STEPS, **RUN)
    assert everything(optimizer, scheduler) == before
    assert optimizer.step == step
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        scheduler.step(*[1.0] * (name == "plateau"))


def test_they_are_as_before_where_the_schedule_raises():
    optimizer = sgd()
    scheduler = lrs.LambdaLR(optimizer, lambda call: 1 / (300 - call))
    before = everything(optimizer, scheduler)
    assert names(audit(optimizer, scheduler, **RUN)) == ["scheduler-raises"]
    assert everything(optimizer, scheduler) == before


def test_neither_parameters_nor_momentum_are_copied(monkeypatch):
    optimizer = sgd()
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    scheduler = lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("a tensor was copied"))
    monkeypatch.setattr(
        torch.nn.Parameter, "__deepcopy__", lambda *_: pytest.fail("a parameter was copied")
    )
    audit(optimizer, scheduler, **RUN)


def test_a_tensor_lr_is_read_and_left_alone():
    lr = torch.tensor(0.1)
    optimizer = sgd(lr=lr)
    report = audit(optimizer, lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS), **RUN)
    assert report.ok
    assert optimizer.param_groups[0]["lr"] is lr
    assert report.lrs[0, 0] == pytest.approx(0.1)
    assert report.lrs[0, -1] < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a whole number from 1, but got 0."),
        ({"epochs": 2.5}, "`epochs` must be a whole number from 1, but got 2.5."),
        ({"warmup_steps": -1}, "`warmup_steps` must be a whole number from 0, but got -1."),
        ({"advanced": "batch"}, "`advanced` must be step or epoch, but got 'batch'."),
        ({"optimizer": None}, "`optimizer` must be one of torch's, but got NoneType."),
        ({"scheduler": 3}, "`scheduler` must have a method step(), but got int."),
        (
            {"meant": Recipe(decay=Plateau())},
            "`meant` must be a number for each step of the run, known beforehand",
        ),
    ],
)
def test_what_cannot_be_audited_is_said(changes, message):
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS)
    with pytest.raises(InputError) as raised:
        audit(**{"optimizer": optimizer, "scheduler": scheduler, **RUN} | changes)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (None, "`metric` must be given for a plateau, but got none for ReduceLROnPlateau."),
        ([1.0], "`metric` must have 30 numbers, one a call, but got 1."),
    ],
)
def test_a_plateau_needs_its_metric(metric, message):
    optimizer = sgd()
    with pytest.raises(InputError) as raised:
        audit(optimizer, lrs.ReduceLROnPlateau(optimizer), advanced="epoch", metric=metric, **RUN)
    assert str(raised.value).startswith(message)


def test_a_scheduler_that_cannot_be_copied_is_said():
    optimizer = sgd()
    scheduler = lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS)
    scheduler.log = open(__file__)  # noqa: SIM115
    with scheduler.log, pytest.raises(InputError, match="can copy it, but got CosineAnnealingLR"):
        audit(optimizer, scheduler, **RUN)


def test_the_report_is_plain_text_with_the_curves():
    optimizer = sgd()
    text = str(audit(optimizer, lrs.CosineAnnealingLR(optimizer, 17), advanced="epoch", **RUN))
    lines = text.splitlines()
    assert lines[0] == "600 optimizer steps, SGD, CosineAnnealingLR called once an epoch"
    assert lines[2] == "WRONG: turns-up-again"
    assert [line[:14] for line in lines if "→" in line] == ["  as it ran  █", "  as meant   █"]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text


def test_an_lr_that_is_no_number_has_one_writer_all_the_same():
    optimizer = sgd()
    root = lrs.LambdaLR(
        optimizer, lambda call: np.power(np.float64(1 - call / TOTAL_STEPS * 2), 0.9)
    )
    with np.errstate(invalid="ignore"):
        found = audit(optimizer, root, **RUN)
    assert [finding.name for finding in found.findings] == ["scheduler-raises"]
    assert "the next call raises (the LR is nan)" in " ".join(str(found).split())


def test_a_report_without_findings_says_so():
    optimizer = sgd()
    text = str(audit(optimizer, lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS), **RUN))
    assert text.endswith("The audit found nothing wrong.")


def test_the_report_as_plain_values():
    optimizer = sgd(0.01)
    report = audit(optimizer, lrs.CosineAnnealingLR(optimizer, EPOCHS), **RUN)
    values = json.loads(json.dumps(report.to_dict()))
    assert np.shape(values["lrs"]) == (2, TOTAL_STEPS)
    (finding,) = values["findings"]
    assert (finding["name"], finding["severity"]) == ("counted-in-epochs", "wrong")
    assert len(finding["ran"]) == len(finding["meant"]) == TOTAL_STEPS


@pytest.mark.parametrize("order", [1, -1])
def test_a_lambda_in_a_chain_overwrites_the_other(order):
    optimizer = sgd()
    parts = [
        lrs.CosineAnnealingLR(optimizer, 100),
        lrs.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20)),
    ]
    report = audit(optimizer, lrs.ChainedScheduler(parts[::order]), steps_per_epoch=10, epochs=10)
    (finding,) = report.findings
    assert (finding.name, finding.severity) == ("no-product", "wrong")
    assert finding.meant[50] == pytest.approx(0.05)
    assert "ChainedScheduler" not in finding.fix


def test_the_fix_that_is_advised_gives_the_lrs_that_were_meant():
    optimizer = sgd()
    product = lrs.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / 100)) / 2,
    )
    report = audit(optimizer, product, steps_per_epoch=10, epochs=10)
    assert report.ok
    assert report.lrs[0, 50] == pytest.approx(0.05)


def test_another_pace_is_advised_only_where_it_is_right():
    optimizer = sgd()
    right, wrong = (warmup_and_cosine(optimizer, 50, length) for length in (TOTAL_STEPS, 5000))
    for scheduler, fix in ((right, "Call scheduler.step() after every"), (wrong, "Build the sche")):
        (finding,) = audit(optimizer, scheduler, advanced="epoch", **RUN).findings
        assert finding.fix.startswith(fix)
