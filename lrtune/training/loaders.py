"""Batches of a user's own data: a map-style `Dataset`, or a `DataLoader` as it is."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lrtune.core.errors import InputError, TaskError
from lrtune.core.interrupts import interrupts_held_back
from lrtune.training.randomness import derive_seed, generators_of


@dataclass(frozen=True, kw_only=True)
class LoaderBatches:
    """Batches of a user's own `DataLoader`, moved to the device.

    The loader's generator, and its sampler's, are seeded from (seed, epoch) when an epoch starts. A
    loader without one draws from the global generator of torch, and so do transforms that draw,
    from any of the global ones: the caller seeds those. Workers that persist over epochs keep
    generators of their own, and with them an epoch is no function of (seed, epoch).
    """

    loader: Any
    """A `DataLoader`; of a range test, whatever gives batches each time that it is read."""
    device: torch.device | str

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives."""
        return len(self.loader)

    @property
    def num_images(self) -> int:
        """Images that one epoch gives: as many as the sampler, less those of a dropped batch.

        Of an iterable dataset that is not known, and all its batches count as full.
        """
        counts = [self.num_batches * self.loader.batch_size] if self.loader.batch_size else []
        with contextlib.suppress(TypeError):  # the sampler of an iterable dataset has no length
            counts.append(len(self.loader.sampler))
        return min(counts, default=self.num_batches)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels as the loader gives them.

        Raises:
            TaskError: a batch that is no pair of tensors.
        """
        for generator in generators_of(self.loader):
            generator.manual_seed(derive_seed(seed, "batches", epoch))
        with (
            interrupts_held_back()
        ):  # the loader's workers would die of one, and the run would fail
            batches = iter(self.loader)
        for batch in batches:
            if not isinstance(batch, list | tuple) or [
                isinstance(part, Tensor) for part in batch
            ] != [True, True]:
                raise TaskError(
                    f"a batch must be a pair of tensors (inputs, labels), but the loader gave {_describe(batch)}."
                )
            inputs, labels = (part.to(self.device, non_blocking=True) for part in batch)
            yield inputs, labels


def batches_of_dataset(
    dataset: Any, batch_size: int, device: torch.device | str, **order: Any
) -> LoaderBatches:
    """Batches of a map-style dataset, in the order that `DataLoader` is asked for."""
    # With a generator of its own the loader leaves the global one alone, even where it does not
    # shuffle.
    pinned = torch.device(device).type == "cuda"
    loader = DataLoader(
        dataset, batch_size=batch_size, generator=torch.Generator(), pin_memory=pinned, **order
    )
    return LoaderBatches(loader=loader, device=device)


def check_own(source: object) -> None:
    """A user's data must be a map-style dataset or a loader, and not empty.

    Raises:
        InputError: they are not.
    """
    if isinstance(source, DataLoader):
        try:
            num_batches = len(source)
        except TypeError:
            raise InputError(
                "a `DataLoader` must know its length, but its dataset or sampler has none."
            ) from None
        if not num_batches:
            raise InputError("a `DataLoader` must give at least 1 batch, but this one has none.")
        return
    kind = type(source).__name__
    if isinstance(source, IterableDataset) or not (
        hasattr(source, "__getitem__") and hasattr(source, "__len__")
    ):
        wanted = "`Images`, a map-style `Dataset` or a `DataLoader`"
        raise InputError(f"data must be {wanted}, but got {kind}.")
    if not len(source):
        raise InputError(f"a dataset must have at least 1 image, but this {kind} has none.")


def check_labels(labels: Tensor, num_images: int, num_classes: int) -> None:
    """The labels of a batch must be classes, by number.

    Raises:
        TaskError: they are not.
    """
    wanted = f"labels must be whole numbers from 0 to {num_classes - 1}"
    if labels.dtype not in (torch.int64, torch.uint8) or labels.shape != (num_images,):
        raise TaskError(
            f"{wanted}, int64 of shape ({num_images},), but a batch has {labels.dtype} of shape {tuple(labels.shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise TaskError(f"{wanted}, but a batch has labels from {low} to {high}.")


def check_logits(logits: object, num_images: int, num_classes: int) -> None:
    """What a model makes of a batch must be a logit for each of its images and classes.

    Raises:
        TaskError: it is not.
    """
    got = (
        f"a tensor of shape {tuple(logits.shape)}"
        if isinstance(logits, Tensor)
        else f"a {type(logits).__name__}"
    )
    if not isinstance(logits, Tensor) or logits.shape != (num_images, num_classes):
        raise TaskError(
            f"the model must return logits of shape ({num_images}, {num_classes}), images by classes, but it returned "
            f"{got}."
        )


def _describe(batch: object) -> str:
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {[type(part).__name__ for part in batch]}"
    return f"a {type(batch).__name__}"
