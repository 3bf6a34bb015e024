"""How a run gets its batches: image sets that lie whole on the device, or a user's own loader.

What is random in an epoch (order, crops, flips) is drawn on the CPU from (seed, epoch) alone. So it is the same on
every device, a run's state holds no position in its data, and the global generators are left as they are.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lrtune.core.errors import InputError, TaskError


def derive_seed(seed: int, *words: int | str) -> int:
    """A seed of its own for each use: 63 bits of SHA-256 over `seed` and `words`.

    The same in every process and version of Python, and unrelated for neighbouring seeds, where `seed + epoch` would
    make epoch 1 of seed 0 the twin of epoch 0 of seed 1.

    Example:
        >>> torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
    """
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """A set of images that is held in memory whole.

    Raises:
        InputError: shapes or types that do not fit together, all of them at once.
    """

    images: Tensor
    """uint8, (N, C, H, W)."""
    labels: Tensor
    """int64, (N,)."""
    mean: tuple[float, ...]
    """Of each channel, of pixels / 255."""
    std: tuple[float, ...]
    """Of each channel, of pixels / 255."""
    flips: bool = False
    """Whether left and right mean the same, so that augmentation may mirror an image."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
            got = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"`images` must be uint8 of shape (N, C, H, W), none of them 0, but got {got}.")
        num_images, channels = images.shape[:2]
        got_labels = f"{labels.dtype} {tuple(labels.shape)}"
        rules = [
            (
                labels.dtype == torch.int64 and labels.shape == (num_images,),
                f"`labels` must be int64 of shape ({num_images},), one for each image, but got {got_labels}.",
            ),
            (len(self.mean) == channels, f"`mean` must have {channels} values, one a channel, but got {self.mean}."),
            (
                len(self.std) == channels and all(value > 0 for value in self.std),
                f"`std` must have {channels} values above 0, one a channel, but got {self.std}.",
            ),
        ]
        problems = [message for holds, message in rules if not holds]
        if problems:
            raise InputError(problems)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "Images":
        """The same set on `device`; nothing is copied if it lies there already."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


class Batches(Protocol):
    """What a run trains or is evaluated on, epoch by epoch."""

    @property
    def num_images(self) -> int:
        """Images that one epoch gives."""

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives."""

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, ...), float32 and normalised, and labels (B,), int64, both on the device."""


@dataclass(frozen=True, kw_only=True)
class ResidentBatches:
    """Training batches of a resident set, in an order drawn from (seed, epoch).

    The last batch is dropped where it is incomplete, unless it is the only one. Augmentation is a random crop out of
    the image with black borders of an eighth of its side (4 pixels for 28 and 32, 1 for 8), then, if the set allows
    it, a mirror image half the time (He et al. 2016, arXiv 1512.03385, section 4.2).
    """

    images: Images
    """On the device that the batches are for."""
    batch_size: int
    augment: bool

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives."""
        return max(1, len(self.images) // self.batch_size)

    @property
    def num_images(self) -> int:
        """Images that one epoch gives; those of a dropped batch do not count."""
        return min(len(self.images), self.num_batches * self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, C, H, W), float32 and normalised, and labels (B,), int64."""
        device, num_images = self.images.images.device, len(self.images)
        padding = max(1, round(min(self.images.images.shape[2:]) / 8))
        generator = torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
        order = torch.randperm(num_images, generator=generator).to(device)
        shifts = torch.randint(2 * padding + 1, (num_images, 2), generator=generator).to(device)
        mirrored = (torch.rand(num_images, generator=generator) < 0.5).to(device)
        normalise = _Normalise(self.images)
        for start in range(0, self.num_images, self.batch_size):
            batch = slice(start, start + self.batch_size)
            pixels = self.images.images[order[batch]]
            if self.augment:
                pixels = _crop(pixels, shifts[batch], padding)
                if self.images.flips:
                    pixels = torch.where(mirrored[batch, None, None, None], pixels.flip(3), pixels)
            yield normalise(pixels), self.images.labels[order[batch]]


@dataclass(frozen=True, kw_only=True)
class EvaluationBatches:
    """Every image of a resident set, once, in its own order and as it is. Seed and epoch change nothing."""

    images: Images
    """On the device that the batches are for."""
    batch_size: int

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives; the last one may be smaller."""
        return -(-len(self.images) // self.batch_size)

    @property
    def num_images(self) -> int:
        """All of them."""
        return len(self.images)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, C, H, W), float32 and normalised, and labels (B,), int64."""
        normalise = _Normalise(self.images)
        for start in range(0, len(self.images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield normalise(self.images.images[batch]), self.images.labels[batch]


@dataclass(frozen=True, kw_only=True)
class LoaderBatches:
    """Batches of a user's own `DataLoader`, moved to the device.

    The loader's generator, and its sampler's, are seeded from (seed, epoch) when an epoch starts. A loader without
    one draws from the global generator of torch, and so do transforms that draw: the caller seeds that one. Workers
    that persist over epochs keep generators of their own, and with them an epoch is no function of (seed, epoch).

    Raises:
        InputError: when built on a loader that does not know its length.
    """

    loader: "DataLoader[Any]"
    device: torch.device | str

    def __post_init__(self) -> None:
        try:
            len(self.loader)
        except TypeError:
            raise InputError("a `DataLoader` must know its length, but its dataset or sampler has none.") from None

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
            counts.append(len(self.loader.sampler))  # type: ignore[arg-type]
        return min(counts, default=self.num_batches)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels as the loader gives them.

        Raises:
            TaskError: a batch that is no pair of tensors.
        """
        for generator in generators_of(self.loader):
            generator.manual_seed(derive_seed(seed, "batches", epoch))
        for batch in self.loader:
            if not isinstance(batch, list | tuple) or [isinstance(part, Tensor) for part in batch] != [True, True]:
                raise TaskError(
                    f"a batch must be a pair of tensors (inputs, labels), but the loader gave {_describe(batch)}."
                )
            inputs, labels = (part.to(self.device, non_blocking=True) for part in batch)
            yield inputs, labels


def generators_of(loader: object) -> list[torch.Generator]:
    """The random generators that a loader and its samplers own; none where they draw from torch's global one."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


Source = Images | Dataset[Any] | DataLoader[Any]


def training_batches(source: Source, *, batch_size: int, augment: bool, device: torch.device | str) -> Batches:
    """Shuffled batches to train on; the last one is dropped where it is incomplete, unless it is the only one.

    Args:
        source: a resident set, a map-style dataset of (input, label) pairs, or a loader.
        batch_size: images a batch; a loader has its own.
        augment: whether to crop and flip; for resident sets only, the others bring their own transforms.
        device: where the batches are wanted.

    Raises:
        InputError: no such source, or a batch size below 1.
    """
    match source:
        case Images():
            _check(batch_size)
            return ResidentBatches(images=source.to(device), batch_size=batch_size, augment=augment)
        case DataLoader():
            return LoaderBatches(loader=source, device=device)
        case _:
            drop = _length(source) >= batch_size
            return _wrapped(source, batch_size, device, shuffle=True, drop_last=drop)


def evaluation_batches(source: Source, *, batch_size: int, device: torch.device | str) -> Batches:
    """Batches to evaluate on: every image once, in fixed order, without augmentation.

    A loader is taken as it is: that it gives every image once is its owner's business.

    Raises:
        InputError: no such source, or a batch size below 1.
    """
    match source:
        case Images():
            _check(batch_size)
            return EvaluationBatches(images=source.to(device), batch_size=batch_size)
        case DataLoader():
            return LoaderBatches(loader=source, device=device)
        case _:
            return _wrapped(source, batch_size, device, shuffle=False)


class _Normalise:
    """`(pixels / 255 - mean) / std`, in one multiplication and one addition."""

    def __init__(self, images: Images):
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (images.mean, images.std))
        device = images.images.device
        self.scale = (1 / (255 * std)).float().to(device)  # (C, 1, 1)
        self.shift = (-mean / std).float().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().mul_(self.scale).add_(self.shift)


def _crop(pixels: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Of each of (B, C, H, W) images with black borders, the (H, W) window at `shifts` (B, 2), 0 to `2 * padding`."""
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, 2 * padding + 1, 2 * padding + 1, H, W)
    return windows[torch.arange(len(pixels), device=pixels.device), :, shifts[:, 0], shifts[:, 1]]


def _wrapped(dataset: Any, batch_size: int, device: torch.device | str, **order: Any) -> LoaderBatches:
    _check(batch_size)
    _length(dataset)
    # With a generator of its own the loader leaves the global one alone, even where it does not shuffle.
    loader = DataLoader(dataset, batch_size=batch_size, generator=torch.Generator(), **order)
    return LoaderBatches(loader=loader, device=device)


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"`1 <= batch_size` must hold, but got {batch_size}.")


def _length(dataset: Any) -> int:
    """Of a map-style dataset, and nothing else."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        wanted = "`Images`, a map-style `Dataset` or a `DataLoader`"
        raise InputError(f"data must be {wanted}, but got {type(dataset).__name__}.")
    length: int = len(dataset)
    if not length:
        raise InputError(f"a dataset must have at least 1 image, but this {type(dataset).__name__} has none.")
    return length


def _describe(batch: object) -> str:
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {[type(part).__name__ for part in batch]}"
    return f"a {type(batch).__name__}"
