"""The objective: its direction, its scores, what chance explains, and how values are printed."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lrtune.core.errors import InputError
from lrtune.core.objective import Objective, averaged, directions_of

NAN, INF = math.nan, math.inf
TOP1, LOSS, F1 = Objective(), Objective.parse("val_loss"), Objective.parse("f1")
COUNTED = Objective(num_counted=1000, guessing=10.0)

DIRECTIONS = {
    "top1": "max", "Top5": "max", "val_acc": "max", "accuracy": "max", "weighted f1": "max",
    "roc_auc": "max", "mAP@50": "max", "mean-iou": "max", "val/miou": "max", "r2": "max",
    "val_loss": "min", "loss": "min", "top5_error": None, "mse": "min", "val.mae": "min",
    "rmse": "min", "perplexity": "min", "token_ppl": "min", "nll": "min", "wer": "min",
    "error_loss": "min", "loss_score": None, "accuracy_error": None, "banana": None,
    "flossy": None, "f1score": None, "f1_score": "max", "": None,
}  # fmt: skip
"""Names of metrics and the direction that they tell; `None`: none, or a contradiction."""


@pytest.mark.parametrize(("name", "direction"), DIRECTIONS.items())
def test_the_direction_that_a_name_tells(name, direction):
    if direction is None:
        assert len(directions_of(name)) != 1
        with pytest.raises(InputError, match="a metric must say its direction where its name does"):
            Objective.parse(name)
    else:
        assert Objective.parse(f" {name} ") == Objective(metric=name, direction=direction)


@pytest.mark.parametrize(
    ("text", "metric", "direction"),
    [
        ("banana:max", "banana", "max"),
        ("banana:min", "banana", "min"),
        ("val_loss:max", "val_loss", "max"),  # what is said beats what the name tells
        ("accuracy_error:min", "accuracy_error", "min"),
        (" my metric :min", "my metric", "min"),
    ],
)
def test_a_direction_that_is_said_holds(text, metric, direction):
    objective = Objective.parse(text)
    assert (objective.metric, objective.direction) == (metric, direction)
    assert Objective.parse(str(objective)) == objective


NAME = (
    "a metric's name must be a text of one line without hidden characters, colons, or blanks at "
    "its ends"
)
REFUSED = {
    "banana": (
        "a metric must say its direction where its name does not, but got 'banana': write "
        "banana:max if higher is better, or banana:min if lower is."
    ),
    "loss:up": "a metric must be NAME, NAME:max or NAME:min, but got 'loss:up'.",
    "loss:": "a metric must be NAME, NAME:max or NAME:min, but got 'loss:'.",
    ":min": f"{NAME}, but got ''.",
    "a:b:min": f"{NAME}, but got 'a:b'.",
    "f\x1b[31m1:max": f"{NAME}, but got 'f\\x1b[31m1'.",
    "f\u202e1:max": f"{NAME}, but got 'f\\u202e1'.",
    "f\udce91:max": f"{NAME}, but got 'f\\udce91'.",
    "f\n1:max": f"{NAME}, but got 'f\\n1'.",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_is_no_objective_is_refused(text, message):
    with pytest.raises(InputError) as refused:
        Objective.parse(text)
    assert refused.value.problems == (message,)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as refused:
        Objective(metric=" f1", direction="up")
    assert len(refused.value.problems) == 2


# objective, metrics: value, score
SCORES = [
    (TOP1, {"top1": 90.0, "val_loss": 1.0}, 90.0, 90.0),
    (LOSS, {"top1": 90.0, "val_loss": 0.25}, 0.25, -0.25),
    (LOSS, {"val_loss": INF}, INF, -INF),
    (TOP1, {"top1": NAN}, NAN, -INF),
    (LOSS, {"val_loss": NAN}, NAN, -INF),
    (TOP1, {"val_loss": 1.0}, NAN, -INF),
    (LOSS, {}, NAN, -INF),
]


@pytest.mark.parametrize(("objective", "metrics", "value", "score"), SCORES)
def test_a_value_and_its_score(objective, metrics, value, score):
    assert objective.value(metrics) == pytest.approx(value, nan_ok=True)
    assert objective.score(metrics) == score


@given(value=st.floats(allow_nan=False), other=st.floats(allow_nan=False))
def test_scores_are_in_the_order_of_the_values_for_one_direction_and_against_it_for_the_other(
    value, other
):
    up, down = Objective(metric="m", direction="max"), Objective(metric="m", direction="min")
    assert (up.score({"m": value}) < up.score({"m": other})) == (value < other)
    assert (down.score({"m": value}) < down.score({"m": other})) == (value > other)
    for objective in (up, down):
        assert objective.signed(objective.signed(value)) == value
        assert objective.signed(objective.worst) <= objective.signed(value)


@pytest.mark.parametrize(
    ("objective", "value", "target", "reached"),
    [
        (TOP1, 90.0, 90.0, True), (TOP1, 89.99, 90.0, False), (TOP1, NAN, 90.0, False),
        (TOP1, 90.0, NAN, False), (LOSS, 0.3, 0.3, True), (LOSS, 0.31, 0.3, False),
        (LOSS, 0.1, 0.3, True), (LOSS, NAN, 0.3, False), (LOSS, INF, 0.3, False),
    ],
)  # fmt: skip
def test_reached(objective, value, target, reached):
    assert objective.reached(value, target) == reached


@pytest.mark.parametrize(
    ("objective", "values", "best"),
    [
        (TOP1, [1.0, 3.0, NAN, 2.0], 3.0),
        (LOSS, [1.0, 3.0, NAN, 2.0], 1.0),
        (LOSS, [NAN], NAN),
        (TOP1, [], NAN),
    ],
)
def test_the_best_of_some_values(objective, values, best):
    assert objective.best(values) == pytest.approx(best, nan_ok=True)


@given(
    direction=st.sampled_from(["min", "max"]),
    mode=st.sampled_from(["rel", "abs"]),
    threshold=st.floats(0, 2),
    best=st.floats(-1e6, 1e6) | st.just(None),
    value=st.floats(),
)
@example(direction="min", mode="abs", threshold=1.0, best=3.0, value=2.0)
@example(direction="max", mode="rel", threshold=0.5, best=-2.0, value=-1.0)
@example(direction="max", mode="abs", threshold=0.1, best=None, value=NAN)
def test_progress_is_that_of_torchs_plateau_scheduler(direction, mode, threshold, best, value):
    optimizer = torch.optim.SGD([torch.zeros(1)])
    scheduler = ReduceLROnPlateau(
        optimizer, mode=direction, threshold=threshold, threshold_mode=mode
    )
    objective = Objective(metric="m", direction=direction)
    assert objective.worst == scheduler.best
    best = scheduler.best if best is None else best
    ours = objective.improves(value, best, threshold=threshold, relative=mode == "rel")
    assert ours == scheduler._is_better(value, best)


@pytest.mark.parametrize(
    ("objective", "value", "error", "least"),
    [
        (COUNTED, 50.0, 100 * math.sqrt(0.25 / 1000), 0.1),
        (COUNTED, 90.0, 100 * math.sqrt(0.09 / 1000), 0.1),
        (COUNTED, 100.0, 0.0, 0.1),
        (COUNTED, 100.0001, 0.0, 0.1),
        (TOP1, 50.0, 0.0, 0.0),
        (LOSS, 0.5, 0.0, 0.0),
    ],
)
def test_only_what_is_counted_has_a_counting_error(objective, value, error, least):
    assert objective.counting_error(value) == pytest.approx(error)
    assert objective.least_difference == least


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (TOP1, Objective(num_counted=500, guessing=25.0)),
        (Objective.parse("top1:min"), Objective(direction="min", num_counted=500, guessing=25.0)),
        (LOSS, LOSS),
        (F1, F1),
        (Objective.parse("top5"), Objective.parse("top5")),
    ],
)
def test_only_top1_is_counted(objective, expected):
    assert objective.counted(num_examples=500, num_classes=4) == expected


@pytest.mark.parametrize(
    ("objective", "guessing", "constant", "trivial"),
    [
        (TOP1, None, None, None), (TOP1, 10.0, None, 10.0), (TOP1, 10.0, 60.0, 60.0),
        (LOSS, None, 2.0, 2.0), (LOSS, 2.3, 2.0, 2.0), (LOSS, 1.9, 2.0, 1.9),
    ],
)  # fmt: skip
def test_the_better_one_of_guessing_and_a_constant(objective, guessing, constant, trivial):
    assert replace(objective, guessing=guessing, constant=constant).trivial == trivial


@pytest.mark.parametrize(
    ("objective", "value", "shortfall"),
    [
        (TOP1, 90.0, 10.0), (Objective.parse("top5"), 99.0, 1.0), (LOSS, 0.25, 0.25),
        (LOSS, 0.0, 0.0), (LOSS, -1.0, NAN), (F1, 0.9, NAN), (LOSS, NAN, NAN),
    ],
)  # fmt: skip
def test_how_far_a_value_is_from_perfect(objective, value, shortfall):
    assert objective.shortfall(value) == pytest.approx(shortfall, nan_ok=True)


@pytest.mark.parametrize(
    ("objective", "value", "tolerance"),
    [
        (COUNTED, 90.0, 200 * math.sqrt(0.09 / 1000)), (TOP1, 90.0, 0.2), (LOSS, 2.0, 0.04),
        (LOSS, -2.0, 0.04), (F1, 0.5, 0.01),
    ],
)  # fmt: skip
def test_what_is_near(objective, value, tolerance):
    assert objective.tolerance(value) == pytest.approx(tolerance)


@pytest.mark.parametrize(
    ("objective", "ends"), [(TOP1, ("worst", "best")), (LOSS, ("best", "worst"))]
)
def test_the_ends_of_an_axis(objective, ends):
    assert objective.ends("worst", "best") == ends


# --- in words

# objective, value: its text, its text with the unit
TEXTS = [
    (TOP1, 93.126, "93.13", "93.13 %"), (TOP1, NAN, "–", "–"), (TOP1, 0.0, "0.00", "0.00 %"),
    (LOSS, 0.25, "0.2500", "0.2500"), (LOSS, 12.3456, "12.35", "12.35"),
    (LOSS, 1295.0, "1,295", "1,295"), (LOSS, 123456.7, "123,457", "123,457"),
    (LOSS, 1e6, "1.000e+06", "1.000e+06"), (LOSS, 0.000123456, "0.0001235", "0.0001235"),
    (LOSS, 1.23456e-5, "1.235e-05", "1.235e-05"), (LOSS, -0.5, "-0.5000", "-0.5000"),
    (LOSS, 0.0, "0.000", "0.000"), (LOSS, INF, "inf", "inf"), (LOSS, NAN, "–", "–"),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "value", "text", "with_unit"), TEXTS)
def test_a_value_in_words(objective, value, text, with_unit):
    assert (objective.text(value), objective.text(value, unit=True)) == (text, with_unit)


@pytest.mark.parametrize(
    ("objective", "score", "text"),
    [(TOP1, 90.0, "90.00"), (LOSS, -0.25, "0.2500"), (TOP1, -INF, "–"), (LOSS, -INF, "–")],
)
def test_a_score_in_words(objective, score, text):
    assert objective.score_text(score) == text


@pytest.mark.parametrize(
    ("objective", "values", "text"),
    [
        (TOP1, [93.04, 93.20], "93.12 ± 0.11"), (TOP1, [93.0], "93.00"), (TOP1, [], "–"),
        (TOP1, [90.0, NAN], "1 of 2 diverged"), (TOP1, [NAN, NAN], "diverged"),
        (TOP1, [NAN], "diverged"), (LOSS, [0.25, 0.27], "0.2600 ± 0.014"),
        (LOSS, [0.25, 0.25], "0.2500 ± 0.0"), (LOSS, [1e-5, 3e-5], "2.000e-05 ± 1.4e-05"),
    ],
)  # fmt: skip
def test_a_summary(objective, values, text):
    assert objective.summary(values) == text


@pytest.mark.parametrize(
    ("objective", "difference", "text"),
    [
        (TOP1, 0.3, "+0.30"), (TOP1, -0.3, "-0.30"), (TOP1, NAN, "+nan"), (TOP1, INF, "+inf"),
        (LOSS, -0.01234, "-0.0123"), (LOSS, 0.01234, "+0.0123"), (LOSS, 0.0, "+0.00"),
        (F1, 123.456, "+123"), (LOSS, -INF, "-inf"), (LOSS, -3.21e-6, "-3.21e-06"),
    ],
)  # fmt: skip
def test_a_difference_in_words(objective, difference, text):
    assert objective.difference_text(difference) == text


@pytest.mark.parametrize(
    ("objective", "title", "heading", "unit", "bound"),
    [
        (TOP1, "Top-1", "Top-1, %", "points of Top-1", "at least 93.00 %"),
        (LOSS, "validation loss", "validation loss", "in validation loss", "at most 93.00"),
        (F1, "f1", "f1", "in f1", "at least 93.00"),
        (Objective.parse("top5"), "top5", "top5, %", "points of top5", "at least 93.00 %"),
    ],
)
def test_a_metric_in_words(objective, title, heading, unit, bound):
    assert (objective.title, objective.heading) == (title, heading)
    assert (objective.difference_unit, objective.bound_text(93)) == (unit, bound)


@pytest.mark.parametrize(
    ("objective", "target", "problem"),
    [
        (TOP1, 93, ""), (TOP1, 93.5, ""), (TOP1, 100, ""), (LOSS, 0.3, ""), (LOSS, -5, ""),
        (F1, 0.9, ""), (F1, 90, ""),
        (TOP1, 0.93, "`1 < target <= 100` must hold, in percent, but got 0.93: did you mean 93?"),
        (TOP1, 1, "`1 < target <= 100` must hold, in percent, but got 1: did you mean 100?"),
        (TOP1, 0, "`1 < target <= 100` must hold, in percent, but got 0."),
        (TOP1, 101, "`1 < target <= 100` must hold, in percent, but got 101."),
        (TOP1, "93", "`target` must be a number, but got '93'."),
        (TOP1, True, "`target` must be a number, but got True."),
        (LOSS, NAN, "`target` must be a number, but got nan."),
        (LOSS, INF, "`target` must be a number, but got inf."),
    ],
)  # fmt: skip
def test_targets(objective, target, problem):
    assert objective.target_problem(target) == problem


def test_the_name_of_a_metric_of_the_averaged_weights():
    assert averaged("top1") == "averaged_top1"
