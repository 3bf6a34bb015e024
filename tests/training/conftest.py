"""Small real data, one thread, and what "bit for bit" means."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lrtune.training.native.data.datasets import load_dataset


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory):
    """Nothing is read from the cache of whoever runs the tests, or written there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits():
    """216 training and 100 validation images of the digits that ship with scikit-learn."""
    return load_dataset("digits", train_size=216, val_size=100)


@pytest.fixture(scope="session")
def identical():
    """Whether two nests of tensors and plain values are the same to the last bit."""

    def same(one, other):
        if isinstance(one, Tensor):
            return (
                isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
            )
        if isinstance(one, Mapping):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(same, one, other))
        return one == other

    return same
