"""Batches of a user's own data: a map-style `Dataset`, a `DataLoader` as it is, or a stream."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from lrtune.core.errors import InputError, TaskError, raised
from lrtune.core.interrupts import interrupts_held_back
from lrtune.training.native.data.structure import Batch, count_examples, to_device
from lrtune.training.native.randomness import derive_seed, generators_of


@dataclass(frozen=True, kw_only=True)
class LoaderBatches:
    """Batches of a user's own `DataLoader`, moved to the device.

    The loader's generator, and its sampler's, are seeded from (seed, epoch) when an epoch starts. A
    loader without one draws from the global generator of torch, and so do transforms that draw,
    from any of the global ones: the caller seeds those. Workers that persist over epochs keep
    generators of their own, and with them an epoch is no function of (seed, epoch).
    """

    loader: Any
    """A `DataLoader`; in a range test, whatever gives batches each time that it is read."""
    device: torch.device | str

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives."""
        return len(self.loader)

    @property
    def num_examples(self) -> int:
        """Examples that one epoch gives: as many as the sampler, less those of a dropped batch.

        The number is not known for an iterable dataset: all its batches count as full.
        """
        counts = [self.num_batches * self.loader.batch_size] if self.loader.batch_size else []
        with contextlib.suppress(TypeError):  # the sampler of an iterable dataset has no length
            counts.append(len(self.loader.sampler))
        return min(counts, default=self.num_batches)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Batches as the loader gives them.

        Raises:
            TaskError: a map-style dataset gave fewer batches than there are.
        """
        for generator in generators_of(self.loader):
            generator.manual_seed(derive_seed(seed, "batches", epoch))
        with interrupts_held_back():  # the loader's workers would die of one, and the run fail
            batches = iter(self.loader)
        num_given = 0
        for batch in batches:
            yield to_device(batch, self.device)
            num_given += 1
        dataset = getattr(self.loader, "dataset", None)
        if not isinstance(dataset, IterableDataset | None) and num_given < self.num_batches:
            raise TaskError(  # Python takes it for the end of the epoch
                f"the data ended after {num_given} of {self.num_batches} batches: the "
                f"`__getitem__` of {type(dataset).__name__} raised StopIteration, or its sampler "
                "gave less than its length."
            )


Stream = Iterable[Batch] | Callable[[int, int], Iterable[Batch]]
"""Batches without a length: an iterable that begins anew each time that it is read, or a function
of (seed, epoch) that returns one."""


@dataclass(kw_only=True)
class StreamBatches:
    """Batches of a stream, moved to the device.

    Epoch `k` of a run with seed `s` is a function of (s, k) where the stream can be positioned: a
    function is called with `(s, k)`; an object with `set_epoch` (or whose dataset or sampler has
    it) is given a number that is drawn from both, and is read from its start. Any other stream is
    read from its start by each run, and read on by the epochs that follow; where it ends, it begins
    again.
    """

    stream: Any
    device: torch.device | str
    num_batches: int = 0
    """Batches that one epoch gives; 0: as many as the stream has, for validation."""
    num_examples: int = 0
    """Examples that the latest epoch gave."""
    _rest: Iterator[Batch] = field(init=False, default_factory=lambda: iter(()))
    """What an epoch has left of a stream that cannot be positioned."""

    @property
    def can_be_positioned(self) -> bool:
        """Whether an epoch is a function of its seed and its number."""
        return not isinstance(self.stream, Iterable) or bool(self._positioned())

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0."""
        self.num_examples = 0
        for batch in self._epoch(seed, epoch):
            self.num_examples += count_examples(batch)
            yield to_device(batch, self.device)

    def _epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        if not self.num_batches:
            return self._from_start(seed, epoch)
        if epoch == 0 or self.can_be_positioned:
            self._rest = self._from_start(seed, epoch)
        return islice(self._endless(seed, epoch), self.num_batches)

    def _from_start(self, seed: int, epoch: int) -> Iterator[Batch]:
        if not isinstance(self.stream, Iterable):
            return iter(self.stream(seed, epoch))
        for generator in generators_of(self.stream):
            generator.manual_seed(derive_seed(seed, "batches", epoch))
        for part in self._positioned():
            part.set_epoch(derive_seed(seed, "batches", epoch) % 2**31)
        with interrupts_held_back():
            return iter(self.stream)

    def _endless(self, seed: int, epoch: int) -> Iterator[Batch]:
        """What is left of the stream, and then the stream from its start, again and again."""
        gave_some = True
        for batch in self._rest:
            yield batch
        while gave_some:
            gave_some = False
            self._rest = self._from_start(seed, epoch)
            for batch in self._rest:
                gave_some = True
                yield batch

    def _positioned(self) -> list[Any]:
        """The parts of the stream that can be told an epoch."""
        names = ("dataset", "sampler", "batch_sampler")
        parts = [self.stream, *(getattr(self.stream, name, None) for name in names)]
        return [part for part in parts if callable(getattr(part, "set_epoch", None))]


def batches_of_dataset(
    dataset: Any, batch_size: int, device: torch.device | str, **order: Any
) -> LoaderBatches:
    """Batches of a map-style dataset, in the order that `DataLoader` is asked for."""
    return LoaderBatches(loader=loader_of(dataset, batch_size, device, **order), device=device)


def loader_of(
    dataset: Any, batch_size: int, device: torch.device | str, **order: Any
) -> DataLoader[Any]:
    """A loader that leaves the global generator alone, even where it does not shuffle."""
    pinned = torch.device(device).type == "cuda"
    return DataLoader(
        dataset, batch_size=batch_size, generator=torch.Generator(), pin_memory=pinned, **order
    )


def has_length(source: object) -> bool:
    """Whether data know how many examples, or batches, they have.

    Raises:
        TaskError: their own `__len__` failed.
    """
    try:
        len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a stream may have a `__len__` that refuses
        return False
    except Exception as error:
        what = f"the length of the data, a {type(source).__name__}, could not be read"
        raise TaskError(f"{what}: {raised(error)}") from error
    return True


def check_own(source: object) -> None:
    """A user's data must be a map-style dataset, a loader or a stream, and not empty.

    Raises:
        InputError: they are not.
    """
    kind = type(source).__name__
    if isinstance(source, DataLoader):
        if has_length(source) and not len(source):
            raise InputError("a `DataLoader` must give at least 1 batch, but this one has none.")
        return
    if isinstance(source, IterableDataset) or callable(source):
        return
    if isinstance(source, Iterator):
        rule = "a stream must begin anew each time that it is read"
        raise InputError(
            f"{rule}, but a {kind} can be read only once: give a function of (seed, epoch) that "
            "returns one."
        )
    if isinstance(source, Iterable) and not has_length(source):
        return
    is_text = isinstance(source, str | bytes)
    if is_text or not hasattr(source, "__getitem__") or not has_length(source):
        wanted = "`Images`, a map-style `Dataset`, a `DataLoader` or a stream of batches"
        raise InputError(f"data must be {wanted}, but got {kind}.")
    if not len(source):  # type: ignore[arg-type]
        raise InputError(f"a dataset must have at least 1 example, but this {kind} has none.")
