"""Batches of any structure: what is moved, counted and put together."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from lrtune.training.native.data.structure import (
    concatenated,
    count_examples,
    describe,
    leaves,
    mapped,
    to_device,
)

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Sample:
    image: Tensor
    boxes: list


@dataclass(frozen=True)
class Frozen:
    image: Tensor
    size: int = field(init=False, default=3)


class Encoding(UserDict):
    """As the `BatchEncoding` of transformers: a mapping with attributes of its own."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self.encodings = encodings


class Graph:
    """An object that only knows how to move itself."""

    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device):
        return Graph(device)


def ones(*shape):
    return torch.ones(*shape)


STRUCTURES = {
    "tensor": lambda: ones(4),
    "pair": lambda: [ones(4, 2), ones(4)],
    "dict": lambda: {"ids": ones(4, 2), "labels": ones(4), "names": ["a", "b"]},
    "ordered": lambda: OrderedDict(b=ones(4), a=(ones(4), None)),
    "named tuple": lambda: Pair(ones(4), {"x": ones(4)}),
    "dataclass": lambda: Sample(ones(4, 3), [ones(4), 7]),
    "frozen dataclass": lambda: Frozen(ones(4)),
    "encoding": lambda: Encoding({"ids": ones(4, 2)}, encodings="kept"),
    "nested": lambda: ({"a": [ones(4), (ones(4),)]}, Pair(1, "x")),
}


@pytest.mark.parametrize("build", STRUCTURES.values(), ids=STRUCTURES)
def test_every_tensor_is_moved_and_all_else_is_kept(build):
    batch = build()
    moved = to_device(batch, "meta")
    assert type(moved) is type(batch)
    for before, after in zip(leaves(batch), leaves(moved), strict=True):
        if isinstance(before, Tensor):
            assert (after.device.type, after.shape) == ("meta", before.shape)
            assert before.device.type == "cpu"  # the user's own batch is left alone
        else:
            assert after is before
    assert count_examples(moved) == 4


def test_what_a_mapping_or_a_dataclass_has_besides_is_kept():
    assert to_device(STRUCTURES["encoding"](), "meta").encodings == "kept"
    assert to_device(STRUCTURES["frozen dataclass"](), "meta").size == 3


def test_an_object_moves_itself():
    inputs, targets = to_device((Graph(), ones(3)), "meta")
    assert (inputs.device, targets.device.type) == ("meta", "meta")


def test_the_batches_of_transformers_are_moved():
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": ones(5, 2), "labels": ones(5)})
    moved = to_device(batch, "meta")
    assert isinstance(moved, transformers.BatchEncoding)
    assert {value.device.type for value in moved.values()} == {"meta"}
    assert count_examples(moved) == 5


@pytest.mark.parametrize(
    ("batch", "num_examples"),
    [((ones(3, 2), ones(3)), 3), ({"scale": ones(()), "x": ones(6)}, 6), (("x", 1), 1), ([], 1)],
)
def test_examples_are_counted_by_the_first_tensor(batch, num_examples):
    assert count_examples(batch) == num_examples


@pytest.mark.parametrize("build", STRUCTURES.values(), ids=STRUCTURES)
def test_batches_are_put_together(build):
    whole = concatenated([build(), build(), mapped(_half, build())])
    sizes = [len(leaf) for leaf in leaves(whole) if isinstance(leaf, Tensor)]
    assert set(sizes) == {10}


def _half(leaf):
    return leaf[:2] if isinstance(leaf, Tensor) else leaf


def test_a_structure_in_words():
    batch = {"ids": ones(8, 32), "rest": [ones(8), 3]}
    assert describe(batch) == "{ids: (8, 32), rest: a list of [(8,), a int]}"
