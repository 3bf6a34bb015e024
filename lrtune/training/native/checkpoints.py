"""A run's state as a file's content."""

import io

import torch
from torch.utils import serialization

from lrtune.core.errors import StoreError
from lrtune.core.training import State


def state_to_bytes(state: State) -> bytes:
    """A run's state as a file's content."""
    buffer = io.BytesIO()
    # The checkpoint has a checksum of its own.
    with serialization.config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(state, buffer)
    return buffer.getvalue()


def state_from_bytes(content: bytes) -> State:
    """A run's state from `state_to_bytes`; only tensors and plain values are read, no code is run.

    Raises:
        StoreError: the content is not a state.
    """
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers meet
        raise StoreError(f"a checkpoint cannot be read: {error}") from error
    return state
