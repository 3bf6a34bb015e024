"""Data sets that come as files of fixed names: where they lie, how to read and how to get them."""

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrtune.core.errors import DataError
from lrtune.training.native.data.datasets.decoded import Decoded, Part

LARGEST_BYTES = 1 << 28
"""Of a file, decompressed: CIFAR-100's has 154 million. What holds more is no data set of these."""
SYSTEM_DIR = Path("/usr/share/datasets")
"""Where Debian's packages put data sets."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where a data set's files are, how they are read, and how they are got."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    """Below the places where data lie; the usual one first."""
    read: Callable[[Path], Decoded]
    download: Callable[[Path], None]
    """Into a folder where data lie."""
    hint: str
    pickled: str = ""
    """Folder of the version that is not read because it is pickled."""

    def lies_in(self, folder: Path) -> bool:
        """Whether all the files are in `folder`."""
        return all(_plain_or_compressed(folder / file).is_file() for file in self.files)


def _plain_or_compressed(path: Path) -> Path:
    """`path`, or the same with `.gz` where only that is there."""
    compressed = path.with_name(path.name + ".gz")
    return compressed if compressed.is_file() and not path.is_file() else path


def find(name: str, archive: Archive, data_dir: Path | None, download: bool) -> Path:
    """The folder that holds the files, after a download if need be."""
    cache = Path(torch.hub.get_dir()).parent / "datasets"
    usual = [Path("data"), Path.home() / "data", cache, SYSTEM_DIR]
    places = [data_dir.expanduser(), *usual] if data_dir else usual
    folders = [place / folder for place in places for folder in archive.folders]
    if data_dir:  # only here, since files of MNIST and of Fashion-MNIST have the same names
        folders.insert(len(archive.folders), places[0])
    for folder in folders:
        if archive.lies_in(folder):
            return folder

    target = places[0] if data_dir else cache
    problem = "It was not downloaded, since that was not wanted."
    if download:
        try:
            archive.download(target)
        except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
            problem = f"The download into {target} failed: {' '.join(str(error).split())}."
        else:
            return target / archive.folders[0]
    lines = [
        f"{name} was not found. A folder with all of {', '.join(archive.files)} was looked for at:",
        *(f"  {folder.absolute()}" for folder in folders),
        problem,
    ]
    pickled = [
        place / archive.pickled
        for place in places
        if archive.pickled and (place / archive.pickled).is_dir()
    ]
    if pickled:
        lines.append(
            f"{pickled[0].absolute()} is the Python version of it, which is not read: "
            "it is pickled, and unpickling runs any code that a file holds."
        )
    raise DataError("\n".join([*lines, archive.hint]))


def _download_mnist(class_name: str, root: Path) -> None:
    import torchvision

    getattr(torchvision.datasets, class_name)(root, download=True)


def _download_cifar(archive: str, md5: str, root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(f"https://www.cs.toronto.edu/~kriz/{archive}", root, md5=md5)


def _read_mnist(folder: Path, *, flips: bool) -> Decoded:
    train, test = (_read_idx_pair(folder, prefix) for prefix in ("train", "t10k"))
    return Decoded(train=train, test=test, num_classes=10, flips=flips)


def _read_idx_pair(folder: Path, prefix: str) -> Part:
    images_path, labels_path = (
        _plain_or_compressed(folder / f"{prefix}-{kind}-ubyte")
        for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{images_path} must hold images (N, H, W) and {labels_path.name} as many labels (N,), "
            f"but they hold {images.shape} and {labels.shape}."
        )
    _check_labels(labels, 10, labels_path)
    return Part(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


def read_idx(path: Path) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """An array of bytes from an IDX file, compressed (`.gz`) or not.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension (4
    bytes, big-endian), the values.

    Raises:
        DataError: the file cannot be read, or is none of bytes, or is longer or shorter than it
            says.
    """
    content = _content(path)
    num_dims = content[3] if len(content) > 3 else 0
    header = 4 + 4 * num_dims
    if content[:3] != b"\0\0\x08" or not num_dims or len(content) < header:
        begin = content[:3].hex(" ") or "nothing"
        raise DataError(
            f"{path} must be an IDX file of bytes and begin with 00 00 08, but it begins with "
            f"{begin}."
        )
    shape = tuple(np.frombuffer(content, ">u4", num_dims, offset=4).tolist())
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} must hold {math.prod(shape)} values, by its shape {shape}, but it holds "
            f"{len(content) - header}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _read_cifar(folder: Path, *, train: tuple[str, ...], test: str, num_classes: int) -> Decoded:
    parts = [_read_cifar_file(_plain_or_compressed(folder / file), num_classes) for file in train]
    return Decoded(
        train=Part(
            torch.cat([part.images[:] for part in parts]),
            torch.cat([part.labels for part in parts]),
        ),
        test=_read_cifar_file(_plain_or_compressed(folder / test), num_classes),
        num_classes=num_classes,
        flips=True,
    )


def _read_cifar_file(path: Path, num_classes: int) -> Part:
    """Images of one file: each is its label and 3 x 32 x 32 bytes.

    In CIFAR-100 the coarse label comes before the label.
    """
    content = _content(path)
    num_labels = 2 if num_classes == 100 else 1
    record = num_labels + 3 * 32 * 32
    if not content or len(content) % record:
        raise DataError(
            f"{path} must hold records of {record} bytes, but it holds {len(content)} bytes."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, num_labels - 1].copy()
    _check_labels(labels, num_classes, path)
    images = records[:, num_labels:].reshape(-1, 3, 32, 32).copy()
    return Part(torch.from_numpy(images), torch.from_numpy(labels).long())


def _check_labels(
    labels: "np.ndarray[Any, np.dtype[np.uint8]]", num_classes: int, path: Path
) -> None:
    if labels.size and labels.max() >= num_classes:
        raise DataError(
            f"{path} must hold labels below {num_classes}, but it holds {labels.max()}."
        )


def _content(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if len(content) > LARGEST_BYTES:
        raise DataError(f"{path} must hold at most {LARGEST_BYTES:,} bytes, but it holds more.")
    return content


_IDX_FILES = tuple(
    f"{prefix}-{kind}-ubyte"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_IDX_HINT = "Put these files, compressed (.gz) or not, into a folder and give it as --data-dir"
_CIFAR_HINT = (
    "Put the binary version, {}, into a folder, unpacked or not, and give it as --data-dir."
)
_CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))

ARCHIVES = {
    "mnist": Archive(
        files=_IDX_FILES,
        folders=("MNIST/raw", "mnist"),
        read=partial(_read_mnist, flips=False),
        download=partial(_download_mnist, "MNIST"),
        hint=f"{_IDX_HINT}.",
    ),
    "fashion-mnist": Archive(
        files=_IDX_FILES,
        folders=("FashionMNIST/raw", "fashion-mnist"),
        read=partial(_read_mnist, flips=True),
        download=partial(_download_mnist, "FashionMNIST"),
        hint=f"{_IDX_HINT}, or install Debian's package of them: apt install "
        "dataset-fashion-mnist.",
    ),
    "cifar10": Archive(
        files=(*_CIFAR10_TRAIN, "test_batch.bin"),
        folders=("cifar-10-batches-bin",),
        read=partial(_read_cifar, train=_CIFAR10_TRAIN, test="test_batch.bin", num_classes=10),
        download=partial(
            _download_cifar, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
        ),
        hint=_CIFAR_HINT.format("cifar-10-binary.tar.gz"),
        pickled="cifar-10-batches-py",
    ),
    "cifar100": Archive(
        files=("train.bin", "test.bin"),
        folders=("cifar-100-binary",),
        read=partial(_read_cifar, train=("train.bin",), test="test.bin", num_classes=100),
        download=partial(
            _download_cifar, "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
        ),
        hint=_CIFAR_HINT.format("cifar-100-binary.tar.gz"),
        pickled="cifar-100-python",
    ),
}
