"""What can be read off a curve and a list of events, worked out by hand."""

import numpy as np
import pytest

from lrtune.auditing.faults import Called, Scheduler, Stepped, Trace, find_faults
from lrtune.auditing.faults.length import Shape, shape_of

LINE = np.linspace(1, 0, 11)
FALLING = 1 - np.arange(200) / 10  # 0 after 10 calls, and negative from then on
COSINE = (1 + np.cos(np.pi * np.arange(60) / 20)) / 2


@pytest.mark.parametrize(
    ("curve", "shape"),
    [
        (np.ones(50), Shape(0)),
        (np.append(LINE, np.zeros(50)), Shape(0, 10)),
        (np.append(LINE, np.full(50, 0.0)) + 0.5, Shape(0, 10)),
        (LINE, Shape(0)),  # it may go on
        (FALLING, Shape(0, 10)),
        (COSINE, Shape(0, 20, turns_up=True)),
        (COSINE[:21], Shape(0)),
        (np.concatenate([[0.0, 0.5], COSINE]), Shape(2, 22, turns_up=True)),
        (np.tile(COSINE[:20], 3), Shape(0, restart=20)),
        (np.concatenate([COSINE[:20], COSINE]), Shape(0, 40, turns_up=True)),
        (0.5 ** np.arange(100), Shape(0, 20, fades=True)),
        (0.1 ** (np.arange(100) // 10), Shape(0, 60, fades=True)),
        (0.1 ** np.minimum(2, np.arange(100) // 10), Shape(0, 20)),
        (np.minimum(1, np.arange(1, 50) / 5), Shape(4)),
        (np.arange(1.0, 50), Shape(48)),
        (1 - np.arange(100) / 200, Shape(0)),
    ],
)
def test_the_shape_of_a_curve(curve, shape):
    assert shape_of(curve) == shape
    assert shape_of(1e-4 * curve) == shape


def test_a_curve_that_cannot_go_on_ends_there():
    assert shape_of(LINE[:8], raises=True) == Shape(0, 7, raises=True)


def test_nothing_is_read_from_the_turns_of_one_that_goes_up_and_down():
    assert shape_of(COSINE, rises=True) == Shape(0)


def trace(events, *, curve=FALLING, base_lrs=(1.0,), **changes):
    """Steps are given by their LR, calls of the scheduler by the LR before and after."""
    scheduler = Scheduler(name="Line", curve=np.maximum(0, curve))
    if "epochs" in changes:
        changes["length"] = changes.pop("epochs") * changes["steps_per_epoch"]
    return Trace(
        events=tuple(Stepped((event,)) if isinstance(event, float) else event for event in events),
        start_lrs=base_lrs,
        base_lrs=base_lrs,
        **{"scheduler": scheduler} | changes,
    )


def call(before, after, **changes):
    return Called((before,), (after,), **changes)


def in_steps(num_steps, *, every=1):
    """A line over ten calls, called every so many steps."""
    lr, events = 1.0, []
    for step in range(num_steps):
        events.append(lr)
        if (step + 1) % every == 0:
            events.append(call(lr, max(0.0, lr - 0.1)))
            lr = max(0.0, lr - 0.1)
    return events


@pytest.mark.parametrize(
    ("events", "changes", "pace", "epoch_steps"),
    [
        (in_steps(10), {}, "step", None),
        (in_steps(10), {"steps_per_epoch": 5, "epochs": 2}, "step", 5),
        (in_steps(10, every=5), {"steps_per_epoch": 5, "epochs": 2}, "epoch", 5),
        (in_steps(10, every=5), {}, "epoch", 5),
        (
            in_steps(40, every=2),
            {"steps_per_epoch": 20, "epochs": 2},
            None,
            20,
        ),  # ten times an epoch
        ([1.0, 1.0, 1.0], {}, None, None),
        ([1.0, call(1.0, 0.9), 0.9], {}, "step", None),
        ([1.0, 1.0, call(1.0, 0.9), 0.9], {}, "epoch", 2),
        ([1.0, 0.5], {"scheduler": None}, "step", None),
    ],
)
def test_the_pace_at_which_a_scheduler_is_called(events, changes, pace, epoch_steps):
    seen = trace(events, **changes)
    assert (seen.pace, seen.epoch_steps) == (pace, epoch_steps)


def test_a_step_that_was_skipped_is_no_step():
    seen = trace([1.0, Stepped((1.0,), skipped=True), call(1.0, 0.9), 0.9])
    assert seen.lrs.tolist() == [[1.0, 0.9]]
    assert seen.calls_before.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("num_steps", "names"),
    [(5, ["cut-short"]), (10, []), (11, []), (12, ["ends-early"]), (40, ["ends-early"])],
)
def test_a_line_over_ten_calls(num_steps, names):
    assert [finding.name for finding in find_faults(trace(in_steps(num_steps)))] == names


def test_the_curve_of_the_whole_run_at_either_pace():
    seen = trace(in_steps(4), steps_per_epoch=3, epochs=2)
    np.testing.assert_allclose(seen.read("step"), [1, 0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(seen.read("epoch"), [1, 1, 1, 0.9, 0.9, 0.9])
    np.testing.assert_allclose(seen.read("step", stretch=0.5), [1, 0.8, 0.6, 0.4, 0.2, 0])


def test_a_curve_begins_when_the_scheduler_is_first_called():
    seen = trace([0.3, 0.6, 1.0, call(1.0, 0.9), 0.9, call(0.9, 0.8), 0.8])
    np.testing.assert_allclose(seen.read("step"), [1, 1, 1, 0.9, 0.8])
    assert seen.num_calls("step") == 3


@pytest.mark.parametrize(
    ("ran", "found"),
    [
        ([1.0, 0.1, 0.2, 0.3, 1.0], True),
        ([1.0, 0.1, 0.2, 0.3], True),  # only the beginning was seen
        ([1.0, 0.6, 0.7, 0.8, 1.0], False),  # no warmup begins at half of the peak
        ([1.0, 0.1, 1.0, 0.1, 1.0], False),
        ([1.0, 0.1, 0.3, 0.2, 1.0], False),
        ([0.1, 0.2, 0.3, 1.0, 0.9], False),
        ([1.0, 1.0, 0.1, 0.2, 0.3], False),  # unless an epoch has two steps
    ],
)
def test_an_unwarmed_start(ran, found):
    findings = find_faults(trace(ran, scheduler=None))
    assert ("first-step-unwarmed" in [finding.name for finding in findings]) == found


def test_an_unwarmed_start_may_be_an_epoch():
    (finding,) = find_faults(
        trace([1.0, 1.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3], scheduler=None, steps_per_epoch=2, epochs=4)
    )
    assert finding.name == "first-step-unwarmed"
    assert finding.meant.tolist() == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    ("ratios", "severity"),
    [
        ([0.5, 0.5, 0.5, 0.5], None),
        ([0.5, 0.5, 0.5, 0.54], None),
        ([0.5, 0.5, 0.5, 0.6], "suspicious"),
        ([0.5, 0.5, 1.0, 1.0], "suspicious"),
        ([0.5, 1.0, 1.0, 1.0], "wrong"),
        ([0.5, 0.0, 0.0, 0.0], "wrong"),
    ],
)
def test_the_ratio_of_two_groups(ratios, severity):
    lrs = (1.0, 0.8, 0.6, 0.4)
    events = [Stepped((lr, ratio * lr)) for lr, ratio in zip(lrs, ratios, strict=True)]
    findings = find_faults(trace(events, base_lrs=(1.0, 0.5), scheduler=None))
    assert [(f.name, f.severity) for f in findings] == (
        [("group-ratio-lost", severity)] if severity else []
    )


def test_a_group_that_is_frozen_has_no_ratio():
    events = [Stepped((1.0, 0.0)), Stepped((0.5, 0.0))]
    assert find_faults(trace(events, base_lrs=(1.0, 0.0), scheduler=None)) == ()


def test_the_group_with_the_highest_lr_stands_for_all():
    assert trace([Stepped((0.1, 1.0))], base_lrs=(0.1, 1.0)).ran.tolist() == [1.0]


@pytest.mark.parametrize(
    ("num_overflows", "severity"),
    [(0, None), (1, "suspicious"), (10, "suspicious"), (11, "wrong")],
)
def test_skipped_steps_that_hardly_matter(num_overflows, severity):
    events = in_steps(1000) + [call(0.0, 0.0, overflow=True)] * num_overflows
    findings = find_faults(trace(events, curve=np.ones(3000)))
    assert [f.severity for f in findings if f.name == "skipped-steps-counted"] == (
        [severity] if severity else []
    )


@pytest.mark.parametrize(
    ("metrics", "severity"),
    [
        ([], "wrong"),
        ([None, None], "wrong"),
        ([0.5, None, None], "wrong"),
        ([0.5, 0.4, None], None),
        ([0.5, 0.5], None),
        ([0.5, 0.5, 0.5], "suspicious"),
        ([float("nan")] * 2, "wrong"),
    ],
)
def test_the_metric_of_a_plateau(metrics, severity):
    events = [1.0, 1.0, *(call(1.0, 1.0, metric=metric) for metric in metrics)]
    plateau = Scheduler(name="Plateau", curve=np.empty(0), patience=0)
    assert [f.severity for f in find_faults(trace(events, scheduler=plateau))] == (
        [severity] if severity else []
    )
