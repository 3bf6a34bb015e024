"""Parts count their own steps, and a join hands over at the right one."""

import pytest

from lrtune.schedules.compose import join, stretch, warmup
from lrtune.schedules.shapes import linear


@pytest.mark.parametrize(
    ("num_steps", "values"),
    [(1, [1.0]), (2, [0.5, 1.0]), (4, [0.25, 0.5, 0.75, 1.0])],
)
def test_warmup_begins_above_zero_and_ends_at_one(num_steps, values):
    assert [warmup(num_steps)(t) for t in range(num_steps)] == values


def test_stretch_fits_a_shape_to_a_number_of_steps():
    assert [stretch(linear(), 4)(t) for t in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_join_counts_the_second_part_from_zero_again():
    joined = join(lambda t: 10 + t, 3, lambda t: 20 + t)
    assert [joined(t) for t in range(6)] == [10, 11, 12, 20, 21, 22]


def test_join_at_zero_never_asks_the_first_part():
    assert join(warmup(0), 0, stretch(linear(), 2))(0) == 1.0


def test_joins_nest():
    warmup_hold_decay = join(warmup(2), 2, join(lambda t: 1.0, 1, stretch(linear(), 2)))
    assert [warmup_hold_decay(t) for t in range(5)] == [0.5, 1.0, 1.0, 1.0, 0.5]
