"""Image sets in memory, or in a mapped file, of which threads gather what comes next."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

NUM_THREADS = 4
NUM_AHEAD = 4
"""Results that lie ready, or are worked on, while one is used."""
CHUNK = 1024
"""Images that are copied at once where a whole set is gone through."""


def ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    num_threads: int = NUM_THREADS,
    num_ahead: int = NUM_AHEAD,
) -> Iterator[R]:
    """`function` of each item, in order, while threads work on the next ones.

    What `function` raises is raised in place of its result. Once the iterator is closed or let go,
    no more begins.
    """
    pool = ThreadPoolExecutor(num_threads, "ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def slices(length: int, size: int) -> list[slice]:
    """0 to `length` in slices of `size`; the last may reach beyond."""
    return [slice(start, start + size) for start in range(0, length, size)]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some images of a larger set, in some order, copied together when they are asked for.

    Stands for the tensor `base[rows]` where that would be a copy of gigabytes: `base` is mapped
    from a file, and its pages are shared with all the processes that map it.
    """

    base: Tensor
    """(M, C, H, W), on the CPU; must not be written to."""
    rows: Tensor
    """int64, (N,)."""

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self.rows), *self.base.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Of the pixels."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Where they are gathered."""
        return self.base.device

    @property
    def nbytes(self) -> int:
        """Of a copy of them."""
        return self.shape.numel() * self.base.element_size()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: int | slice | Tensor) -> Tensor:
        chosen = self.rows[places]
        images = gather(self.base, chosen.reshape(-1))
        return images if chosen.ndim else images[0]

    def select(self, places: Tensor) -> "Rows":
        """Some of these, without copying an image."""
        return Rows(self.base, self.rows[places])

    def to(self, device: torch.device | str) -> "Tensor | Rows":
        """Themselves on the CPU; a tensor elsewhere."""
        if torch.device(device) == self.device:
            return self
        whole = torch.empty(self.shape, dtype=self.dtype, device=device)
        chunks = slices(len(self), CHUNK)
        for places, images in zip(chunks, ahead(self.__getitem__, chunks), strict=True):
            whole[places] = images
        return whole


def gather(images: Tensor | Rows, chosen: Tensor, *, pinned: bool = False) -> Tensor:
    """`images[chosen]`, where `chosen` is int64, (B,).

    Pinned memory, if wanted, is what a GPU copies from by itself.
    """
    if isinstance(images, Rows):
        return gather(images.base, images.rows[chosen], pinned=pinned)
    if images.device.type != "cpu":
        return images[chosen]
    # On a CPU this copies image by image, and indexing pixel by pixel.
    out = torch.empty((len(chosen), *images.shape[1:]), dtype=images.dtype, pin_memory=pinned)
    return torch.index_select(images, 0, chosen, out=out)
