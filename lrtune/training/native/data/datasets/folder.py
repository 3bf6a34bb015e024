"""A folder of images, one folder a class."""

import hashlib
import os
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from lrtune.core.counts import some
from lrtune.core.errors import DataError, first_line
from lrtune.training.native.data.datasets.cache import decoded_once
from lrtune.training.native.data.datasets.decoded import Decoded, Part, Reading
from lrtune.training.native.data.datasets.listing import (
    UNREADABLE,
    Labelled,
    LeftOut,
    Listing,
    list_images,
)
from lrtune.training.native.data.datasets.pixels import (
    DECODING,
    FLOAT_FORMATS,
    UNIT,
    Range,
    decode,
    float_range,
    shorter_side,
    suffixes,
)
from lrtune.training.native.data.rows import ahead

T = TypeVar("T")

FOLDER_SIZE = 160
"""Largest side, in pixels, to which an image folder is decoded unless another is asked for."""
MOST_UNREADABLE = 0.01
"""Share of the images that may be unreadable."""
NUM_NAMED = 10
"""Unreadable images that an error names."""


def read_folder(root: Path, image_size: int | None, *, strict: bool = False) -> Decoded:
    """The images of `PATH/train/CLASS/*` and of other splits beside it, or of `PATH/CLASS/*`.

    They are read as `load_dataset` describes.

    Args:
        root: the folder.
        image_size: side of the images, in pixels; `None`: the median of the training images'
            shorter sides, and at most `FOLDER_SIZE`.
        strict: whether the first unreadable image is an error.

    Raises:
        DataError: there is no such folder, or there are no such images in it.
    """
    listing = list_images(root)
    images = _Images(listing, strict=strict)
    if image_size is None:
        paths = [path for path, _ in listing.files["train"]]
        sides = [side for side in images.each(shorter_side, paths) if side is not None]
        image_size = min(FOLDER_SIZE, int(statistics.median(sides)))
    floats = _range_of_floats(images)
    parts = {
        split: _part(images, listing.folders[split], files, image_size, floats)
        for split, files in listing.files.items()
    }
    return Decoded(
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        num_classes=len(listing.classes),
        flips=True,
        reading=Reading(
            classes=listing.classes,
            folders={split: str(folder) for split, folder in listing.folders.items()},
            notes=_notes(root, floats, images.left_out | listing.left_out),
        ),
    )


def folder_of(data: str) -> Path | None:
    """The folder of `folder:PATH`; `None` for the name of any other data set."""
    kind, _, path = data.partition(":")
    return Path(path).expanduser() if kind == "folder" and path else None


def listing_digest(root: Path) -> str:
    """SHA-256 of the paths and sizes of the images of a folder.

    Raises:
        DataError: there are none.
    """
    listing = [
        (path.relative_to(root).as_posix(), path.stat().st_size if path.exists() else 0)
        for path in sorted(list_images(root).paths)
    ]
    return hashlib.sha256(repr(listing).encode()).hexdigest()


class _Images:
    """Opens the images of a folder, and keeps those that cannot be read with the reason."""

    def __init__(self, listing: Listing, *, strict: bool):
        self.listing = listing
        self.strict = strict
        self.unreadable: dict[Path, str] = {}

    @property
    def left_out(self) -> LeftOut:
        """What cannot be read."""
        return {UNREADABLE: sorted(self.unreadable)} if self.unreadable else {}

    def each(self, function: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[T | None]:
        """`function` of each image, in order; `None` where it cannot be read.

        PIL gives up the interpreter's lock while it decodes.

        Raises:
            DataError: too many of the folder's images cannot be read, or all of a class.
        """

        def attempt(path: Path) -> tuple[Path, T | None, str]:
            try:
                return path, function(path), ""
            except Exception as error:  # a damaged image makes PIL raise almost anything
                return path, None, first_line(error)

        num_threads = min(32, (os.cpu_count() or 1) + 4)
        results = ahead(attempt, paths, num_threads=num_threads, num_ahead=8 * num_threads)
        for path, result, reason in results:
            if reason:
                self.unreadable[path] = reason
                if self.strict:
                    self._refuse("with `strict` no image may be unreadable, but got one")
            yield result
        if self.unreadable:
            self._check()

    def _check(self) -> None:
        """Refuses more unreadable images than may be left out, and a class or a split of them."""
        num_images, num_unreadable = len(self.listing.paths), len(self.unreadable)
        if num_unreadable > MOST_UNREADABLE * num_images:
            most = f"at most {100 * MOST_UNREADABLE:g} % of the {num_images:,} images"
            self._refuse(f"{most} may be unreadable, but got {num_unreadable:,}")
        for split, files in self.listing.files.items():
            readable = {label for path, label in files if path not in self.unreadable}
            wanted = range(len(self.listing.classes)) if split == "train" else []
            if lost := [self.listing.classes[label] for label in wanted if label not in readable]:
                rule = "each class must have a readable image to train on"
                self._refuse(f"{rule}, but got none of {some(lost)}")
            if not readable:
                self._refuse(f"a split must have a readable image, but got none for {split}")

    def _refuse(self, message: str) -> None:
        named = [f"  {path}: {reason}" for path, reason in self.unreadable.items()][:NUM_NAMED]
        num_more = len(self.unreadable) - len(named)
        more = [f"  and {num_more:,} more."] if num_more else []
        text = [f"{self.listing.root.absolute()}: {message}.", "Unreadable are:", *named, *more]
        raise DataError("\n".join(text))


def _range_of_floats(images: _Images) -> Range:
    """The values that become 0 and 255 in floating-point images: one range for the whole set."""
    may_be_floats = suffixes(FLOAT_FORMATS)
    paths = [path for path in images.listing.paths if path.suffix.lower() in may_be_floats]
    ranges = [found for found in images.each(float_range, paths) if found is not None]
    if not ranges:
        return UNIT
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return UNIT if UNIT[0] <= low and high <= UNIT[1] else (low, high)


def _part(images: _Images, folder: Path, files: list[Labelled], size: int, floats: Range) -> Part:
    import PIL

    pixels, places = decoded_once(
        [path for path, _ in files], root=folder, shape=(len(files), 3, size, size),
        decoder=f"PIL {PIL.__version__}, {DECODING}, {floats}",
        decode=partial(images.each, partial(decode, size=size, floats=floats)),
    )  # fmt: skip
    return Part(pixels, torch.tensor([label for _, label in files])[places])


def _notes(root: Path, floats: Range, left_out: LeftOut) -> dict[str, str]:
    """What else there is to say of a folder, by what people call it."""
    notes = {}
    if floats != UNIT:
        low, high = floats
        notes["Range of the floating-point images"] = f"{low:g} to {high:g}, scaled to 0 to 255"
    listed = [
        f"{len(paths):,} {reason} ({some([str(path.relative_to(root)) for path in paths], 3)})"
        for reason, paths in left_out.items()
    ]
    return notes | {"Left out": "; ".join(listed) or "nothing"}
