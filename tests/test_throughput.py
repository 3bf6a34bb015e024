"""The throughput benchmark: the bytes it counts, its ratios and verdicts, and failing loops."""

from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.loops.cases import CASES, NarrowResNet18, Workload, learning_rates
from benchmarks.loops.floor import ByteCounter
from benchmarks.loops.ours import Lanes, side_by_side
from benchmarks.loops.processes import LoopError, LoopProcess
from benchmarks.loops.results import (
    TARGETS,
    CaseResult,
    Floor,
    LoopResult,
    Target,
    judge,
    render,
    spread,
)
from lrtune.core.recipe import default_recipe
from lrtune.training.native.models import build_model
from lrtune.training.native.optimizers import build_optimizer

TEN = torch.ones(10)  # 40 bytes
MATRIX, OTHER, FIFTY = torch.ones(2, 3), torch.ones(3, 4), torch.ones(5, 10)  # 24, 48 and 200 bytes
ONE = torch.ones(())  # 4 bytes

MOVED = {
    "nothing": (lambda: None, 0),
    "reads two, writes one": (lambda: TEN + TEN, 120),
    "writes one": (lambda: torch.zeros(10), 40),
    "in place": (lambda: TEN.relu_(), 80),
    "broadcast": (lambda: TEN + ONE, 40 + 4 + 40),
    "a list in place": (lambda: torch._foreach_add_([TEN, TEN], 1.0), 160),
    "to half the size": (lambda: TEN.half(), 40 + 20),
    "matrix product": (lambda: MATRIX @ OTHER, 24 + 48 + 32),
    "only reserved": (lambda: torch.empty(10), 0),
    "views": (
        lambda: (TEN.view(2, 5).t()[1:], TEN.expand(5, 10), TEN.detach(), TEN.reshape(5, 2)),
        0,
    ),
    "of what is expanded only what there is": (lambda: TEN.expand(5, 10) + FIFTY, 40 + 200 + 200),
    "a reshape that copies": (lambda: MATRIX.t().reshape(6), 48),
}


@pytest.mark.parametrize("name", MOVED)
def test_bytes_of_an_operator(name):
    run, expected = MOVED[name]
    with ByteCounter() as counter:
        run()
    assert counter.num_bytes == expected


def test_bytes_of_a_training_step():
    weight = nn.Parameter(torch.ones(3, 1))
    optimizer = build_optimizer(default_recipe("sgd"), [weight])
    (MATRIX @ weight).sum().backward()
    optimizer.step()  # makes the momentum
    with ByteCounter() as forward:
        loss = (MATRIX @ weight).sum()
    with ByteCounter() as backward:
        weight.grad = None
        loss.backward()
    with ByteCounter() as step:
        optimizer.step()
    assert forward.num_bytes == (24 + 12 + 8) + (8 + 4)
    assert backward.num_bytes == (4 + 4) + (
        24 + 4 + 12
    )  # a one for the loss; the product, whose gradient is expanded
    assert (
        step.num_bytes == 3 * 12 + 2 * 12
    )  # reads weights, gradients and momentum, writes weights and momentum


def test_floor():
    count = {"images": 128, "flops": 2e9, "bytes": 4e9}
    floor = Floor.of(count, {"flops_per_s": 1e12, "bytes_per_s": 1e12})
    assert floor == Floor(by_arithmetic=64_000, by_bytes=32_000)


def case_of(name="small-cnn", *, by_bytes=0.0, synthetic=False, **loops):
    """A case, from each loop's group and its images/s and trials/h."""
    case = CaseResult(name=name, about={"synthetic": synthetic})
    if by_bytes:
        case.floor = Floor(by_arithmetic=1, by_bytes=by_bytes)
    for loop, (images, trials) in loops.items():
        group = loop.rstrip("0123456789").replace("_", " ")
        case.loops.append(
            LoopResult(name=loop, group=group, images_per_s=images, trials_per_hour=trials)
        )
    return case


TWO_WORKERS = case_of(
    ours=([30, 40, 60], []), reference1=([10, 20, 99], []), reference2=([5, 10, 15], [])
)

RATIOS = {
    "of rounds, to the better by the median": (TWO_WORKERS, "ours", ["reference"], [3, 2, 60 / 99]),
    "to the best of several groups": (
        case_of(ours=([8], []), optuna=([2], []), ray=([4], [])), "ours", ["optuna", "ray"], [2],
    ),
    "one group is missing": (
        case_of(ours=([8], []), ray=([4], [])), "ours", ["optuna", "ray"], [2],
    ),
    "all are missing": (case_of(ours=([8], [])), "ours", ["optuna", "ray"], []),
    "ours is missing": (case_of(ray=([8], [])), "ours", ["ray"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", RATIOS)
def test_ratios(name):
    case, ours, theirs, expected = RATIOS[name]
    assert case.ratios(ours, theirs, "images_per_s") == expected


# device, case, and the values of the verdicts on the case's own targets, in the order of TARGETS
VERDICTS = {
    "nothing measured": ("cpu", case_of(), [(None, None), (None, None)]),
    "met": (
        "cpu", case_of(ours=([3, 4, 6], []), reference=([2, 2, 2], [])), [(2, True), (1.5, True)],
    ),
    "met at the limit": (
        "cpu", case_of(ours=([3, 3], []), reference=([2, 2], [])), [(1.5, True), (1.5, True)],
    ),
    "slower once": (
        "cpu", case_of(ours=([3, 4, 1], []), reference=([2, 2, 2], [])),
        [(1.5, True), (0.5, False)],
    ),
    "without a floor": (
        "cuda", case_of("resnet18-w64-b128", ours=([60], []), reference=([10], [])),
        [(6, True), (None, None)],
    ),
    "far from the floor": (
        "cuda", case_of("resnet18-w64-b512", by_bytes=120, ours=([60], []), reference=([20], [])),
        [(3, False), (0.5, False)],
    ),
    "trials, by the better of two": (
        "cuda", case_of(ours_side_by_side=([], [100]), optuna=([], [5]), ray=([], [8])),
        [(12.5, True)],
    ),
    "trials, one lane does not count": (
        "cuda", case_of(ours=([], [100]), optuna=([], [5])), [(None, None)],
    ),
    "resnet50": (
        "cuda",
        case_of(
            "resnet50-224", by_bytes=13, ours=([10], []), tuned=([10], []), reference=([99], [])
        ),
        [(1, True), (10 / 13, True)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts(name):
    device, case, expected = VERDICTS[name]
    verdicts = [verdict for verdict in judge(device, [case]) if verdict.case == case.name]
    assert [(verdict.value, verdict.met) for verdict in verdicts] == expected


def test_targets_are_of_cases_that_there_are():
    assert {target.case for target in TARGETS} <= set(CASES)


def test_a_verdict_says_what_it_rests_on():
    target = Target(
        device="cpu", case="tiny", text="images/s", values=lambda case: [1.5, 2.5], at_least=2
    )
    words = [
        str(judge("cpu", cases, [target])[0]) for cases in ([case_of("tiny", synthetic=True)], [])
    ]
    assert words == [
        "met          tiny (synthetic images): images/s, at least 2: 2",
        "met          tiny: images/s, at least 2: 2",
    ]
    assert judge("cuda", [case_of("tiny")], [target]) == []


SPREADS = [
    ([], 0, "-"),
    ([3.0], 0, "3 [3, 3]"),
    ([1234.5, 1.0, 9999.0], 1, "1,234.5 [1.0, 9,999.0]"),
]


@pytest.mark.parametrize(("values", "digits", "expected"), SPREADS)
def test_spread(values, digits, expected):
    assert spread(values, digits) == expected


def test_a_failed_round_takes_the_others_along():
    loop = LoopResult(name="reference", group="reference")
    loop.take("images_per_s", 100.0)
    loop.take("trials_per_hour", 5.0)
    loop.take("images_per_s", None)
    assert (loop.images_per_s, loop.trials_per_hour) == ([], [5.0])


def test_table():
    case = CaseResult(
        name="tiny", about={"batch": 2, "synthetic": True},
        step={"images": 2, "flops": 2e9, "bytes": 2**20},
        floor=Floor(by_arithmetic=1000, by_bytes=800),
        loops=[
            LoopResult(
                name="theirs", group="reference", images_per_s=[100, 200],
                memory_mib={"process": 7.4},
            ),
            LoopResult(
                name="ours", group="ours", images_per_s=[300, 300], trials_per_hour=[7],
                note="eager",
            ),
            LoopResult(name="absent", group="ray", problem="ray is not installed"),
        ],
    )  # fmt: skip
    assert [" ".join(line.split()) for line in render(case).splitlines()] == [
        "== tiny: batch 2",
        "floor of a step: 2.00 GFLOP = 1,000 images/s, 1.0 MiB unfused = 800 images/s",
        "images per second, training alone: median [least, largest], ratio to theirs, "
        "share of the floor by arithmetic and by bytes",
        "theirs 150 [100, 200] x 1.00 [1.00, 1.00] floors 15.0%, 18.8%",
        "ours 300 [300, 300] x 2.25 [1.50, 3.00] floors 30.0%, 37.5%",
        "trials per hour, whole trials: median [least, largest]",
        "ours 7.0 [7.0, 7.0]",
        "peak memory, MiB: process",
        "theirs 7",
        "ours: eager",
        "absent: ray is not installed",
    ]


def test_epochs_side_by_side_last_as_long_as_the_slowest():
    assert side_by_side([100.0, 80.0, 90.0]) == 240


def test_learning_rates_span_a_decade():
    assert learning_rates(3) == pytest.approx([0.005, 0.005 * 10**0.5, 0.05])
    assert learning_rates(1) == [0.005]
    assert learning_rates(0) == []


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_narrow_resnet_is_resnet18_at_width_64():
    ours = build_model("resnet18", num_classes=10, channels=3, image_size=32)
    assert shapes(NarrowResNet18(64, 10, 3)) == shapes(ours)
    images = torch.rand(2, 3, 32, 32)
    torch.manual_seed(0)
    narrow = NarrowResNet18(64, 10, 3).eval()
    ours.load_state_dict(narrow.state_dict())
    assert torch.equal(narrow(images), ours.eval()(images))


def test_the_narrow_resnet_has_a_quarter_of_the_channels_everywhere():
    narrow, wide = (shapes(NarrowResNet18(width, 10, 3)) for width in (16, 64))
    assert {
        name: tuple(4 * n for n in narrow[name]) for name in narrow if name.endswith("bn2.weight")
    } == {name: wide[name] for name in wide if name.endswith("bn2.weight")}
    assert narrow["fc.weight"] == (10, 128)


NO_IMAGES = Workload(
    case=CASES["resnet50-160"], device="cpu", num_images=0, num_validation=1, lanes=1
)


@pytest.mark.slow
def test_a_loop_that_fails_says_why_and_harms_no_other():
    impossible, process = (
        LoopProcess(partial(Lanes, NO_IMAGES)),
        LoopProcess(partial(dict, answer=42)),
    )
    try:
        with pytest.raises(LoopError, match="InputError: `images` must be uint8"):
            impossible.ask("epoch")
        with pytest.raises(LoopError, match="KeyError: 'question'"):
            process.ask("pop", "question")
        assert process.ask("pop", "answer") == 42
        assert set(process.ask("memory")) == {"process", "with_children"}
    finally:
        impossible.close()
        process.close()
