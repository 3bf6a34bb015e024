"""Seeds, and the random states of Python, NumPy and torch."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *words: int | str) -> int:
    """A seed of its own for each use: 63 bits of SHA-256 over `seed` and `words`.

    The same in every process and version of Python, and unrelated for neighbouring seeds, where
    `seed + epoch` would make epoch 1 of seed 0 the twin of epoch 0 of seed 1.

    Example:
        >>> torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
    """
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_all(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch, also on the GPU.

    A task's own code may draw from any of them.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def host_random_states(device: torch.device) -> tuple[object, ...]:
    """The states of the global generators of the host, to be compared.

    That of torch is left out where it is the device's own.
    """
    _, keys, position, *_ = np.random.get_state()
    own = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), np.asarray(keys).tobytes(), position, own


def generators_of(loader: object) -> list[torch.Generator]:
    """The random generators of a loader and its samplers; none where they draw from torch's own."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    own = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in own if isinstance(g, torch.Generator)}.values())


@contextmanager
def preserved_random_states(loader: object = None) -> Iterator[None]:
    """Gives back the random states of Python, NumPy, torch (CPU, GPU) and a loader as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    generators = [(generator, generator.get_state()) for generator in generators_of(loader)]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for generator, state in generators:
                generator.set_state(state)
