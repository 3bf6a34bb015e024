"""A folder of images, one folder a class."""

import hashlib
import os
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from lrtune.core.errors import DataError
from lrtune.training.native.data.datasets.cache import Pixels, decoded_once
from lrtune.training.native.data.datasets.decoded import Decoded, Part
from lrtune.training.native.data.rows import ahead

T = TypeVar("T")

FOLDER_SIZE = 160
"""Largest side, in pixels, to which an image folder is decoded unless another is asked for."""
DECODING = 1
"""Version of `_decode`: another one whenever it gives other pixels."""


def read_folder(root: Path, image_size: int | None) -> Decoded:
    """The images of `PATH/train/CLASS/*` (and `val`, `test`), or of `PATH/CLASS/*`.

    They are read as `load_dataset` describes.

    Raises:
        DataError: there is no such folder, or no such images in it.
    """
    if not root.is_dir():
        raise DataError(
            f"{root.absolute()} must be a folder of images, PATH/train/CLASS/* or PATH/CLASS/*, "
            "but it is not there."
        )
    train_dir = root / "train" if (root / "train").is_dir() else root
    split_dirs = {"train": train_dir}
    if train_dir != root:
        for split, names in {"validation": ("val", "validation"), "test": ("test",)}.items():
            existing = [root / name for name in names if (root / name).is_dir()]
            split_dirs |= {split: existing[0]} if existing else {}
    classes = tuple(_class_names(train_dir))
    if len(classes) < 2:
        raise DataError(
            f"{train_dir.absolute()} must hold a folder for each of 2 classes or more, but it "
            f"holds {len(classes)}."
        )
    labelled = {split: _labelled_files(folder, classes) for split, folder in split_dirs.items()}
    if image_size is None:
        sides = _in_threads(_shorter_side, [path for path, _ in labelled["train"]])
        image_size = min(FOLDER_SIZE, int(statistics.median(sides)))
    parts = {
        split: _part(split_dirs[split], files, image_size) for split, files in labelled.items()
    }
    return Decoded(
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        num_classes=len(classes),
        flips=True,
    )


def folder_of(data: str) -> Path | None:
    """The folder of `folder:PATH`; `None` for the name of any other data set."""
    kind, _, path = data.partition(":")
    return Path(path).expanduser() if kind == "folder" and path else None


def listing_digest(root: Path) -> str:
    """SHA-256 of the paths and sizes of the images below a folder."""
    listing = [
        (path.relative_to(root).as_posix(), path.stat().st_size) for path in _images_below(root)
    ]
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def _images_below(folder: Path) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)


def _class_names(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _labelled_files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Image files below `folder` with the number of their class, in sorted order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    present = _class_names(folder)
    files = {name: _images_below(folder / name) for name in present}
    rules = [
        (bool(present), "must hold a folder for each class, but it holds none."),
        (
            set(present) <= set(classes),
            f"must hold classes of train, but got {sorted(set(present) - set(classes))}.",
        ),
        (
            all(files.values()),
            f"must hold images ({', '.join(IMG_EXTENSIONS)}) in each folder, but some have none: "
            f"{', '.join(name for name in present if not files[name])}.",
        ),
    ]  # fmt: skip
    problems = [f"{folder.absolute()} {message}" for holds, message in rules if not holds]
    if problems:
        raise DataError("\n".join(problems))
    return [(path, classes.index(name)) for name in present for path in files[name]]


def _shorter_side(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as image:  # reads the header only
        return min(image.size)


def _part(folder: Path, files: list[tuple[Path, int]], size: int) -> Part:
    import PIL

    paths = [path for path, _ in files]
    images = decoded_once(
        paths, root=folder, shape=(len(paths), 3, size, size),
        decoder=f"PIL {PIL.__version__}, {DECODING}",
        decode=lambda: _in_threads(partial(_decode, size=size), paths),
    )  # fmt: skip
    return Part(images, torch.tensor([label for _, label in files]))


def _decode(path: Path, size: int) -> Pixels:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image.draft(
            "RGB", (size, size)
        )  # a JPEG far larger than this is decoded at a fraction of its size
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)).transpose(
            2, 0, 1
        )


def _in_threads(function: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[T]:
    """`function` of each image file, in order.

    PIL gives up the interpreter's lock while it decodes.
    """

    def attempt(path: Path) -> T:
        try:
            return function(path)
        except Exception as error:  # a damaged image makes PIL raise almost anything
            raise DataError(f"{path.absolute()} cannot be read as an image: {error}.") from error

    num_threads = min(32, (os.cpu_count() or 1) + 4)
    return ahead(attempt, paths, num_threads=num_threads, num_ahead=8 * num_threads)
