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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrtune.training.native.data.rows import Rows

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Shape = tuple[int, ...]

MIN_BYTES = 16 * 2**20
"""Of the pixels of a set that is kept; smaller ones are decoded each time."""


def decoded_once(
    files: list[Path],
    *,
    root: Path,
    shape: Shape,
    decoder: str,
    decode: Callable[[], Iterable[Pixels]],
) -> Tensor | Rows:
    """The images of `files`, uint8, from the cache if they are there, and kept there if not.

    Where the cache cannot be written, they are decoded into memory.

    Args:
        files: below `root`; they are told from others by relative path, size and time of change.
        root: where they lie.
        shape: (N, C, H, W) of all of them together.
        decoder: what decodes them, in which version.
        decode: gives each image, (C, H, W), in the order of `files`.
    """
    if math.prod(shape) >= MIN_BYTES:
        with suppress(OSError, RuntimeError):  # the latter where there is no home directory
            path = _folder() / f"{_key(files, root, shape, decoder)}.npy"
            if _mapped(path, shape) is None:
                _write(path, shape, decode)
            if (images := _mapped(path, shape)) is not None:
                return Rows.whole(images)
    pixels = np.empty(shape, np.uint8)
    for index, image in enumerate(decode()):
        pixels[index] = image
    return torch.from_numpy(pixels)


def _folder() -> Path:
    """By the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrtune" / "decoded"


def _key(files: list[Path], root: Path, shape: Shape, decoder: str) -> str:
    digest = hashlib.sha256(repr((shape, decoder)).encode())
    for path in files:
        stat = path.stat()
        digest.update(
            os.fsencode(path.relative_to(root)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()


def _mapped(path: Path, shape: Shape) -> Tensor | None:
    """The images of a file; `None` where there is no file, or a damaged one."""
    try:
        # Mapped for reading only, since a private copy of a set that is larger than the memory is
        # refused by Linux.
        pixels = np.lib.format.open_memmap(path, mode="r")  # which unpickles nothing
    except Exception:  # a damaged header makes numpy raise almost anything
        return None
    if pixels.dtype != np.uint8 or pixels.shape != shape or not pixels.flags.c_contiguous:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The given NumPy array is not writable"
        )  # `Rows` does not write
        return torch.from_numpy(pixels)


def _write(path: Path, shape: Shape, decode: Callable[[], Iterable[Pixels]]) -> None:
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
            for image in decode():
                file.write(image.tobytes())
            file.flush()
            os.fsync(
                file.fileno()
            )  # or a power cut could leave a file of the right length that is empty
        written.replace(path)
