"""Decoded image folders on disk, so that the next study decodes nothing.

One `.npy` file each, mapped into memory: processes that read the same one share its pages, and a
set that is larger than the memory can be used all the same. Any of them may be deleted at any time.
"""

import hashlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrtune.training.native.data.rows import Rows

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Shape = tuple[int, ...]
Decode = Callable[[list[Path]], Iterable[Pixels | None]]

MIN_BYTES = 16 * 2**20
"""Of the pixels of a set that is kept; smaller ones are decoded each time."""


class Kept(NamedTuple):
    """What a file of the cache holds: two arrays, one after the other."""

    images: Tensor
    """(N, C, H, W); those that are missing are black."""
    missing: list[int]
    """Places of the images that could not be decoded."""


def decoded_once(
    files: list[Path],
    *,
    root: Path,
    shape: Shape,
    decoder: str,
    decode: Decode,
) -> tuple[Tensor | Rows, Tensor]:
    """The images of `files`, from the cache if they are there, and kept there if not.

    Where the cache cannot be written, they are decoded into memory. A file that could not be
    decoded is tried again each time, since it may have been out of reach only for a while.

    Args:
        files: below `root`; they are told from others by relative path, size and time of change.
        root: where they lie.
        shape: (N, C, H, W) of all of them together.
        decoder: what decodes them, in which version, by which rules.
        decode: gives each image, (C, H, W), in the order of the files that it is given, or `None`
            for one that cannot be decoded.

    Returns:
        The images that can be decoded, uint8, (M, C, H, W), and their places in `files`, (M,).
    """
    if math.prod(shape) >= MIN_BYTES:
        with suppress(OSError, RuntimeError):  # the latter where there is no home directory
            path = _folder() / f"{_key(files, root, shape, decoder)}.npy"
            kept = _read(path, shape)
            if kept is None or any(
                image is not None for image in decode([files[place] for place in kept.missing])
            ):
                _write(path, shape, decode(files))
                kept = _read(path, shape)
            if kept is not None:
                return Rows(kept.images, places := _others(kept.missing, len(files))), places
    pixels, missing = np.empty(shape, np.uint8), []
    for place, image in enumerate(decode(files)):
        if image is None:
            missing.append(place)
        else:
            pixels[place] = image
    images, places = torch.from_numpy(pixels), _others(missing, len(files))
    return images[places] if missing else images, places


def _others(missing: list[int], length: int) -> Tensor:
    """The places from 0 to `length` that are not missing."""
    is_there = torch.ones(length, dtype=torch.bool)
    is_there[missing] = False
    return is_there.nonzero()[:, 0]


def _folder() -> Path:
    """By the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrtune" / "decoded"


def _key(files: list[Path], root: Path, shape: Shape, decoder: str) -> str:
    digest = hashlib.sha256(repr((shape, decoder)).encode())
    for path in files:
        stat = path.stat() if path.exists() else path.lstat()  # of a link that leads nowhere
        digest.update(
            os.fsencode(path.relative_to(root)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()


def _read(path: Path, shape: Shape) -> Kept | None:
    """What a file holds; `None` where there is no file, or a damaged one."""
    try:
        # Mapped for reading only, since a private copy of a set that is larger than the memory is
        # refused by Linux.
        pixels = np.lib.format.open_memmap(path, mode="r")  # which unpickles nothing
        with path.open("rb") as file:
            file.seek(pixels.offset + pixels.nbytes)
            missing = np.lib.format.read_array(file, allow_pickle=False)
    except Exception:  # a damaged header makes numpy raise almost anything
        return None
    if pixels.dtype != np.uint8 or pixels.shape != shape or not pixels.flags.c_contiguous:
        return None
    if missing.dtype != np.int64 or not np.isin(missing, np.arange(len(pixels))).all():
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The given NumPy array is not writable"
        )  # `Rows` does not write
        return Kept(torch.from_numpy(pixels), missing.tolist())


def _write(path: Path, shape: Shape, images: Iterable[Pixels | None]) -> None:
    """Writes a file, or none.

    Image by image and not through a map: a full disk is an `OSError` here, and there a signal that
    kills the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < math.prod(shape):
        raise OSError(f"{path.parent} has no room for {path.name}")
    with TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        written = Path(folder) / path.name
        with written.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            missing = []
            for place, image in enumerate(images):
                if image is None:
                    missing.append(place)
                file.write(bytes(math.prod(shape[1:])) if image is None else image.tobytes())
            np.lib.format.write_array(file, np.array(missing, np.int64), allow_pickle=False)
            file.flush()
            os.fsync(
                file.fileno()
            )  # or a power cut could leave a file of the right length that is empty
        written.replace(path)
