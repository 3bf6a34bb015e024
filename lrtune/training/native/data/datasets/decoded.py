"""A data set as its files have it, before anything is split off."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lrtune.core.counts import some
from lrtune.core.printing import printable
from lrtune.training.native.data.rows import Rows

Split = Literal["train", "validation", "test"]


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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was taken for what where a data set has no fixed form."""

    classes: tuple[str, ...]
    """By their numbers."""
    folders: Mapping[Split, str]
    """Where each split was read."""
    notes: Mapping[str, str]
    """What else there is to say, by what people call it."""

    def facts(self, train: Part, validation: Part, test: Part | None) -> dict[str, str]:
        """All of it in words, by what people call it.

        Args:
            train: the images to train on.
            validation: those to validate on.
            test: those to test on; `None`: there are none.
        """

        def where(split: Split, part: Part) -> str:
            return f"{len(part):,} of {self.folders[split]}"

        height, width = train.images.shape[2:]
        facts = {
            "Classes": f"{len(self.classes):,}: {some(self.classes)}",
            "Images for training": where("train", train),
            "Images for validation": where("validation", validation)
            if "validation" in self.folders
            else f"{len(validation):,}, split off the training images",
            "Images for testing": where("test", test) if test is not None else "none",
            "Image size": f"{width} x {height} pixels",
            **self.notes,
        }
        # The name of a file need not be text of one line, but a fact must be.
        return {name: printable(text).replace("\n", r"\n") for name, text in facts.items()}


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
    reading: Reading | None = None
    """`None`: its files are of a fixed form."""


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
