"""Image sets whose pixels can be had at once, and their batches: on the device or streamed to it.

What is random in an epoch (order, crops, flips) is drawn on the CPU from (seed, epoch) alone. So it
is the same on every device, a run's state holds no position in its data, and the global generators
are left as they are.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lrtune.core.errors import InputError, check
from lrtune.training.native.data.rows import Rows, ahead, gather, slices
from lrtune.training.native.data.structure import Batch
from lrtune.training.native.randomness import derive_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """A set of images that are decoded already, in memory or in a mapped file.

    Raises:
        InputError: shapes or types that do not fit together, all of them at once.
    """

    images: Tensor | Rows
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
        if images.dtype != torch.uint8 or len(images.shape) != 4 or 0 in images.shape:
            got = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(
                f"`images` must be uint8 of shape (N, C, H, W), none of them 0, but got {got}."
            )
        num_images, channels = images.shape[:2]
        got_labels = f"{labels.dtype} {tuple(labels.shape)}"
        check([
            (
                labels.dtype == torch.int64 and labels.shape == (num_images,),
                f"`labels` must be int64 of shape ({num_images},), one for each image, but got "
                f"{got_labels}.",
            ),
            (
                len(self.mean) == channels,
                f"`mean` must have {channels} values, one a channel, but got {self.mean}.",
            ),
            (
                len(self.std) == channels and all(value > 0 for value in self.std),
                f"`std` must have {channels} values above 0, one a channel, but got {self.std}.",
            ),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "Images":
        """The same set on `device`; nothing is copied if it lies there already."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


class Batches(Protocol):
    """What a run trains or is evaluated on, epoch by epoch."""

    @property
    def num_examples(self) -> int:
        """Examples that one epoch gives; 0 where their number is not known."""

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives; 0 where their number is not known."""

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Batches on the device; of `Images` inputs (B, C, H, W), normalised, and labels (B,)."""


class Draws(NamedTuple):
    """Everything that is random in one epoch over N images."""

    order: Tensor
    """int64, (N,): which image comes when."""
    shifts: Tensor
    """int64, (N, 2): where the crop of the image that comes then begins, down and right."""
    mirrored: Tensor
    """bool, (N,)."""
    holes: Tensor
    """int64, (N, 2): the pixel in the middle of what is cut out, down and right."""

    @staticmethod
    def of(
        seed: int, epoch: int, num_images: int, *, padding: int, sides: tuple[int, int]
    ) -> "Draws":
        """Draws on the CPU.

        The crops begin at 0 to `2 * padding`, and images are `sides` high and wide.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
        return Draws(
            order=torch.randperm(num_images, generator=generator),
            shifts=torch.randint(2 * padding + 1, (num_images, 2), generator=generator),
            mirrored=torch.rand(num_images, generator=generator) < 0.5,
            holes=torch.stack(
                [torch.randint(side, (num_images,), generator=generator) for side in sides], dim=1
            ),
        )

    @staticmethod
    def none(num_images: int) -> "Draws":
        """Nothing is random: the images in their own order."""
        pairs = torch.zeros(num_images, 2, dtype=torch.int64)
        mirrored = torch.zeros(num_images, dtype=torch.bool)
        return Draws(order=torch.arange(num_images), shifts=pairs, mirrored=mirrored, holes=pairs)

    def to(self, device: torch.device) -> "Draws":
        """The same on `device`."""
        return Draws(*(drawn.to(device) for drawn in self))

    def copy_(self, other: "Draws") -> None:
        """Takes the values of others over, in place."""
        for mine, theirs in zip(self, other, strict=True):
            mine.copy_(theirs)


class Preparation:
    """What happens to pixels on their way into the model.

    The crop is a random one out of the image with black borders of an eighth of its side (4 pixels
    for 28 and 32, 1 for 8); then, if the set allows it, comes a mirror image half the time (He et
    al. 2016, arXiv 1512.03385, section 4.2). Normalising is `(pixels / 255 - mean) / std`, in one
    multiplication and one addition. The hole is a square of zeros around any pixel, so that some of
    it may lie outside (DeVries & Taylor 2017, arXiv 1708.04552).
    """

    def __init__(self, images: Images, *, augment: bool, cutout: int = 0):
        """Prepares the images of a set, where they lie.

        Args:
            images: the set.
            augment: whether to crop and mirror.
            cutout: side of the hole in pixels; 0: none.
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None]
            for values in (images.mean, images.std)
        )
        self.scale = (1 / (255 * std)).float().to(images.images.device)  # (C, 1, 1)
        self.shift = (-mean / std).float().to(images.images.device)
        self.sides: tuple[int, int] = (images.images.shape[2], images.images.shape[3])
        self.padding = max(1, round(min(self.sides) / 8))
        self.augment = augment
        self.flips = images.flips
        self.cutout = cutout

    def to(self, device: torch.device) -> "Preparation":
        """The same on `device`."""
        moved = copy.copy(self)
        moved.scale, moved.shift = self.scale.to(device), self.shift.to(device)
        return moved

    def __call__(self, pixels: Tensor, draws: Draws, places: slice | Tensor) -> Tensor:
        """From uint8 (B, C, H, W), the images that come at `places` of an epoch, to float32."""
        if self.augment:
            pixels = _crop(pixels, draws.shifts[places], self.padding)
            if self.flips:
                pixels = torch.where(
                    draws.mirrored[places][:, None, None, None], pixels.flip(3), pixels
                )
        inputs = self.normalise(pixels)
        return _cut_out(inputs, draws.holes[places], self.cutout) if self.cutout else inputs

    def normalise(self, pixels: Tensor) -> Tensor:
        """From uint8 to float32, and nothing else."""
        return pixels.float().mul_(self.scale).add_(self.shift)


@dataclass(frozen=True, kw_only=True)
class ResidentBatches:
    """Training batches of a resident set; order, crops and flips are drawn from (seed, epoch).

    The last batch is dropped where it is incomplete, unless it is the only one.
    """

    images: Images
    """On the device that the batches are for."""
    batch_size: int
    augment: bool
    cutout: int = 0
    """Side in pixels of the hole that is cut out of each image; 0: none."""

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives."""
        return max(1, len(self.images) // self.batch_size)

    @property
    def num_examples(self) -> int:
        """Examples that one epoch gives; those of a dropped batch do not count."""
        return min(len(self.images), self.num_batches * self.batch_size)

    @cached_property
    def prepare(self) -> Preparation:
        """From pixels to inputs, on the device."""
        return Preparation(self.images, augment=self.augment, cutout=self.cutout)

    def draw(self, seed: int, epoch: int) -> Draws:
        """What is random in an epoch, on the CPU."""
        return Draws.of(
            seed, epoch, len(self.images), padding=self.prepare.padding, sides=self.prepare.sides
        )

    def at(self, draws: Draws, places: slice | Tensor) -> tuple[Tensor, Tensor]:
        """The images that come at `places` of an epoch, ready for the model, and their labels.

        Args:
            draws: of the epoch, on the device.
            places: from 0 to `num_examples`; as a tensor (B,) on the device they cost the host no
                synchronisation.
        """
        chosen = draws.order[places]
        return self.prepare(gather(self.images.images, chosen), draws, places), self.images.labels[
            chosen
        ]

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, C, H, W), float32 and normalised, and labels (B,), int64."""
        draws = self.draw(seed, epoch).to(self.images.images.device)
        for places in slices(self.num_examples, self.batch_size):
            yield self.at(draws, places)


@dataclass(frozen=True, kw_only=True)
class EvaluationBatches:
    """Every image of a resident set, once, in its own order and as it is.

    Seed and epoch change nothing.
    """

    images: Images
    """On the device that the batches are for."""
    batch_size: int

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives; the last one may be smaller."""
        return -(-len(self.images) // self.batch_size)

    @property
    def num_examples(self) -> int:
        """All of them."""
        return len(self.images)

    @cached_property
    def prepare(self) -> Preparation:
        """From pixels to inputs, on the device."""
        return Preparation(self.images, augment=False)

    def draw(self, seed: int, epoch: int) -> Draws:
        """What is random in an epoch: nothing."""
        return Draws.none(len(self.images))

    def at(self, places: slice | Tensor) -> tuple[Tensor, Tensor]:
        """The images at `places`, ready for the model, and their labels."""
        return self.prepare.normalise(self.images.images[places]), self.images.labels[places]

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, C, H, W), float32 and normalised, and labels (B,), int64."""
        for places in slices(self.num_examples, self.batch_size):
            yield self.at(places)


@dataclass(frozen=True, kw_only=True)
class StreamedBatches:
    """Bit for bit the batches of a set that does not lie on the device, given there.

    Threads gather the pixels of the next few batches, the device copies them from pinned memory
    while it is busy with others, and prepares them itself. So no more than a few batches of the set
    are ever on the device.
    """

    batches: ResidentBatches | EvaluationBatches
    """Of a set on the CPU."""
    device: torch.device

    @property
    def num_batches(self) -> int:
        """Batches that one epoch gives."""
        return self.batches.num_batches

    @property
    def num_examples(self) -> int:
        """Examples that one epoch gives."""
        return self.batches.num_examples

    @cached_property
    def prepare(self) -> Preparation:
        """From pixels to inputs, on the device."""
        return self.batches.prepare.to(self.device)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, C, H, W), float32 and normalised, and labels (B,), int64."""
        draws = self.batches.draw(seed, epoch)
        images, pinned = self.batches.images, self.device.type == "cuda"

        def gathered(places: slice) -> tuple[Tensor, Tensor]:
            chosen = draws.order[places]
            return gather(images.images, chosen, pinned=pinned), gather(
                images.labels, chosen, pinned=pinned
            )

        on_device = draws.to(self.device)
        batches = slices(self.num_examples, self.batches.batch_size)
        for places, (pixels, labels) in zip(batches, ahead(gathered, batches), strict=True):
            inputs = self.prepare(pixels.to(self.device, non_blocking=True), on_device, places)
            yield inputs, labels.to(self.device, non_blocking=True)


def _crop(pixels: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """The (H, W) window at `shifts` (B, 2) of each of (B, C, H, W) images with black borders.

    The shifts are from 0 to `2 * padding`.
    """
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(
        3, width, 1
    )  # a view: (B, C, 2 * padding + 1, 2 * padding + 1, H, W)
    return windows[torch.arange(len(pixels), device=pixels.device), :, shifts[:, 0], shifts[:, 1]]


def _cut_out(inputs: Tensor, centres: Tensor, side: int) -> Tensor:
    """(B, C, H, W) images with 0 in a square around `centres` (B, 2), in place."""
    rows, columns = (_covered(centres[:, axis], side, inputs.shape[2 + axis]) for axis in (0, 1))
    return inputs.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0)


def _covered(centres: Tensor, side: int, length: int) -> Tensor:
    """Which of `length` pixels lie in `side` pixels around `centres` (B,): bool, (B, length)."""
    offsets = torch.arange(length, device=centres.device) - (centres[:, None] - side // 2)
    return (offsets >= 0) & (offsets < side)
