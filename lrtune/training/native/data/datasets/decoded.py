"""A data set as its files have it, before anything is split off."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lrtune.training.native.data.rows import Rows


@dataclass(frozen=True, eq=False)
class Part:
    """Images (N, C, H, W), uint8, and labels (N,), int64."""

    images: Tensor | Rows
    labels: Tensor

    def __getitem__(self, indices: Tensor) -> "Part":
        images = (
            self.images.select(indices) if isinstance(self.images, Rows) else self.images[indices]
        )
        return Part(images, self.labels[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def resized(self, size: int | None) -> "Part":
        """Scaled to `size` x `size` pixels, bilinear with anti-aliasing; `None`: as they are."""
        if size is None or self.images.shape[2:] == (size, size):
            return self
        return Part(
            F.interpolate(self.images[:], (size, size), mode="bilinear", antialias=True),
            self.labels,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A data set as its files have it."""

    train: Part
    validation: Part | None = None
    test: Part | None
    num_classes: int
    flips: bool
    val_size: int | None = None
    """Default size of a validation split that has to be made; `None`: a tenth, at most 10,000."""


def stratified(labels: Tensor, seed: int) -> Tensor:
    """A random order. Its first n images hold each class in proportion, to within one image.

    Within its class of n images the k-th drawn one stands at (k + 1/2) / n of the way.
    """
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = drawn[torch.argsort(labels[drawn], stable=True)]
    counts = torch.bincount(labels)
    sizes = counts[labels[by_class]]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    return by_class[torch.argsort((rank + 0.5) / sizes, stable=True)]
