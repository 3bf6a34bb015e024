"""Data sets by name, decoded once into memory: found on this machine, or else downloaded by torchvision.

Nothing is ever unpickled, since unpickling runs whatever code the file holds: of CIFAR, the binary version is read.
torchvision, scikit-learn and PIL are imported where they are used.
"""

import gzip
import math
import os
import statistics
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lrtune.core.errors import DataError, InputError
from lrtune.training.batches import Images, derive_seed

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder:PATH")
SYSTEM_DIR = Path("/usr/share/datasets")
"""Where Debian's packages put data sets."""
FOLDER_SIZE = 160
"""Largest side, in pixels, to which an image folder is decoded unless another is asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set, ready for training."""

    name: str
    train: Images
    validation: Images
    test: Images | None
    """`None`: the data set has none of its own."""
    num_classes: int


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    download: bool = True,
    image_size: int | None = None,
) -> Splits:
    """A data set by name.

    `digits` is embedded in scikit-learn (1,797 images of 8x8). `mnist`, `fashion-mnist`, `cifar10` and `cifar100` are
    looked for in `data_dir`, `./data`, `~/data`, torch's cache (`$TORCH_HOME/datasets`) and Debian's
    `/usr/share/datasets`, then downloaded into `data_dir` or else torch's cache.

    `folder:PATH` is a folder of images: `PATH/train/CLASS/*` and, where there are such, `PATH/val/CLASS/*` (or
    `validation`) and `PATH/test/CLASS/*`; or just `PATH/CLASS/*`. Its images are decoded to RGB, scaled until they
    just cover a square of `image_size` (by default the median of the training images' shorter sides, and at most
    160), and cut to that square.

    Validation is split off the training images unless the folder has its own: a tenth of them and at most 10,000 (of
    `digits`, 300), each class in proportion. The split, and the part that `train_size` keeps, belong to the data set
    and not to a seed, so that all studies share them. The test images are never touched.

    Args:
        name: one of `DATASETS`.
        data_dir: where to look first, and where to download to.
        train_size: images to train on, each class in proportion; `None`: all.
        val_size: validation images; `None`: as above.
        download: whether to try the network.
        image_size: side in pixels to which the images are scaled; `None`: as they are (but see `folder:PATH`).

    Raises:
        InputError: no such data set, or impossible sizes.
        DataError: files that are missing (it says which, where they were looked for, and how to get them) or damaged.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"`1 <= image_size` must hold, but got {image_size}.")
    match name.partition(":"):
        case "digits", "", "":
            decoded = _digits()
        case "folder", ":", path if path:
            decoded = _folder(Path(path).expanduser(), image_size)
        case _ if name in _ARCHIVES:
            archive = _ARCHIVES[name]
            decoded = archive.read(_find(name, archive, data_dir, download))
        case _:
            raise InputError(f"`data` must be one of {', '.join(DATASETS)}, but got {name!r}.")

    train, validation = (part.resized(image_size) for part in _split(name, decoded, train_size, val_size))
    mean, std = _moments(train.images)

    def as_images(part: _Part) -> Images:
        return Images(images=part.images, labels=part.labels, mean=mean, std=std, flips=decoded.flips)

    return Splits(
        name=name,
        train=as_images(train),
        validation=as_images(validation),
        test=as_images(decoded.test.resized(image_size)) if decoded.test else None,
        num_classes=decoded.num_classes,
    )


# From decoded images to splits


@dataclass(frozen=True, eq=False)
class _Part:
    """Images (N, C, H, W), uint8, and labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, indices: Tensor) -> "_Part":
        return _Part(self.images[indices], self.labels[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def resized(self, size: int | None) -> "_Part":
        """Scaled to `size` x `size` pixels, bilinear with anti-aliasing; `None`: as they are."""
        if size is None or self.images.shape[2:] == (size, size):
            return self
        return _Part(F.interpolate(self.images, (size, size), mode="bilinear", antialias=True), self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """A data set as its files have it."""

    train: _Part
    validation: _Part | None = None
    test: _Part | None
    num_classes: int
    flips: bool
    val_size: int | None = None
    """Default size of a validation split that has to be made; `None`: a tenth, at most 10,000."""


def _split(name: str, decoded: _Decoded, train_size: int | None, val_size: int | None) -> tuple[_Part, _Part]:
    """Training and validation images, of the sizes that are wanted."""
    train, own = decoded.train, decoded.validation
    most = len(own) if own else len(train) - 1
    default = len(own) if own else decoded.val_size or min(10_000, math.ceil(len(train) / 10))
    num_validation = default if val_size is None else val_size
    taken = num_validation if not own and 1 <= num_validation <= most else 0  # from the training images
    left = len(train) - taken
    num_train = left if train_size is None else train_size
    rules = [
        (
            1 <= num_validation <= most,
            f"`1 <= val_size <= {most}` must hold for {name}, but got {num_validation}.",
        ),
        (
            1 <= num_train <= left,
            f"`1 <= train_size <= {left}` must hold for {name} (validation aside), but got {num_train}.",
        ),
    ]
    problems = [message for holds, message in rules if not holds]
    if problems:
        raise InputError(problems)
    order = _stratified(train.labels, derive_seed(0, name, "train"))
    held_out = own[_stratified(own.labels, derive_seed(0, name, "validation"))[:num_validation]] if own else None
    return train[order[taken : taken + num_train]], held_out or train[order[:taken]]


def _stratified(labels: Tensor, seed: int) -> Tensor:
    """A random order of which every prefix holds each class in proportion, to within one image.

    Within its class of n images the k-th drawn one stands at (k + 1/2) / n of the way.
    """
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = drawn[torch.argsort(labels[drawn], stable=True)]
    counts = torch.bincount(labels)
    sizes = counts[labels[by_class]]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    return by_class[torch.argsort((rank + 0.5) / sizes, stable=True)]


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels / 255, exactly, from the counts of the 256 values.

    A channel that is the same everywhere gets 1 for its standard deviation: it is 0 whatever it is divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        frequencies = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float(frequencies @ values)
        means.append(mean)
        stds.append(math.sqrt(float(frequencies @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(stds)


# The embedded digits


def _digits() -> _Decoded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]  # from 0..16
    part = _Part(images, torch.from_numpy(digits.target).long())
    order = _stratified(part.labels, derive_seed(0, "digits", "test"))
    return _Decoded(train=part[order[300:]], test=part[order[:300]], num_classes=10, flips=False, val_size=300)


# Data sets that come as files of a fixed name


@dataclass(frozen=True, kw_only=True)
class _Archive:
    """Where a data set's files are, how they are read, and how they are got."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    """Below the places where data lie; the usual one first."""
    read: Callable[[Path], _Decoded]
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


def _find(name: str, archive: _Archive, data_dir: Path | None, download: bool) -> Path:
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
    pickled = [place / archive.pickled for place in places if archive.pickled and (place / archive.pickled).is_dir()]
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


def _read_mnist(folder: Path, *, flips: bool) -> _Decoded:
    train, test = (_read_idx_pair(folder, prefix) for prefix in ("train", "t10k"))
    return _Decoded(train=train, test=test, num_classes=10, flips=flips)


def _read_idx_pair(folder: Path, prefix: str) -> _Part:
    images_path, labels_path = (
        _plain_or_compressed(folder / f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{images_path} must hold images (N, H, W) and {labels_path.name} as many labels (N,), "
            f"but they hold {images.shape} and {labels.shape}."
        )
    _check_labels(labels, 10, labels_path)
    return _Part(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


def read_idx(path: Path) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """An array of bytes from an IDX file, compressed (`.gz`) or not.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension (4 bytes, big-endian),
    the values.

    Raises:
        DataError: the file cannot be read, or is none of bytes, or is longer or shorter than it says.
    """
    content = _content(path)
    num_dims = content[3] if len(content) > 3 else 0
    header = 4 + 4 * num_dims
    if content[:3] != b"\0\0\x08" or not num_dims or len(content) < header:
        begin = content[:3].hex(" ") or "nothing"
        raise DataError(f"{path} must be an IDX file of bytes and begin with 00 00 08, but it begins with {begin}.")
    shape = tuple(np.frombuffer(content, ">u4", num_dims, offset=4).tolist())
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} must hold {math.prod(shape)} values, by its shape {shape}, but it holds {len(content) - header}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _read_cifar(folder: Path, *, train: tuple[str, ...], test: str, num_classes: int) -> _Decoded:
    parts = [_read_cifar_file(_plain_or_compressed(folder / file), num_classes) for file in train]
    return _Decoded(
        train=_Part(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])),
        test=_read_cifar_file(_plain_or_compressed(folder / test), num_classes),
        num_classes=num_classes,
        flips=True,
    )


def _read_cifar_file(path: Path, num_classes: int) -> _Part:
    """Images of one file: each is its label (of CIFAR-100: the coarse label, then the label) and 3 x 32 x 32 bytes."""
    content = _content(path)
    num_labels = 2 if num_classes == 100 else 1
    record = num_labels + 3 * 32 * 32
    if not content or len(content) % record:
        raise DataError(f"{path} must hold records of {record} bytes, but it holds {len(content)} bytes.")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, num_labels - 1].copy()
    _check_labels(labels, num_classes, path)
    images = records[:, num_labels:].reshape(-1, 3, 32, 32).copy()
    return _Part(torch.from_numpy(images), torch.from_numpy(labels).long())


def _check_labels(labels: "np.ndarray[Any, np.dtype[np.uint8]]", num_classes: int, path: Path) -> None:
    if labels.size and labels.max() >= num_classes:
        raise DataError(f"{path} must hold labels below {num_classes}, but it holds {labels.max()}.")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


_IDX_FILES = tuple(f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_IDX_HINT = "Put these files, compressed (.gz) or not, into a folder and give it as --data-dir"
_CIFAR_HINT = "Put the binary version, {}, into a folder, unpacked or not, and give it as --data-dir."
_CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))

_ARCHIVES = {
    "mnist": _Archive(
        files=_IDX_FILES,
        folders=("MNIST/raw", "mnist"),
        read=partial(_read_mnist, flips=False),
        download=partial(_download_mnist, "MNIST"),
        hint=f"{_IDX_HINT}.",
    ),
    "fashion-mnist": _Archive(
        files=_IDX_FILES,
        folders=("FashionMNIST/raw", "fashion-mnist"),
        read=partial(_read_mnist, flips=True),
        download=partial(_download_mnist, "FashionMNIST"),
        hint=f"{_IDX_HINT}, or install Debian's package of them: apt install dataset-fashion-mnist.",
    ),
    "cifar10": _Archive(
        files=(*_CIFAR10_TRAIN, "test_batch.bin"),
        folders=("cifar-10-batches-bin",),
        read=partial(_read_cifar, train=_CIFAR10_TRAIN, test="test_batch.bin", num_classes=10),
        download=partial(_download_cifar, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        hint=_CIFAR_HINT.format("cifar-10-binary.tar.gz"),
        pickled="cifar-10-batches-py",
    ),
    "cifar100": _Archive(
        files=("train.bin", "test.bin"),
        folders=("cifar-100-binary",),
        read=partial(_read_cifar, train=("train.bin",), test="test.bin", num_classes=100),
        download=partial(_download_cifar, "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        hint=_CIFAR_HINT.format("cifar-100-binary.tar.gz"),
        pickled="cifar-100-python",
    ),
}


# Image folders


def _folder(root: Path, image_size: int | None) -> _Decoded:
    if not root.is_dir():
        raise DataError(
            f"{root.absolute()} must be a folder of images, PATH/train/CLASS/* or PATH/CLASS/*, but it is not there."
        )
    train_dir = root / "train" if (root / "train").is_dir() else root
    split_dirs = {"train": train_dir}
    if train_dir != root:
        for split, names in {"validation": ("val", "validation"), "test": ("test",)}.items():
            found = [root / name for name in names if (root / name).is_dir()]
            split_dirs |= {split: found[0]} if found else {}
    classes = tuple(_class_names(train_dir))
    if len(classes) < 2:
        raise DataError(
            f"{train_dir.absolute()} must hold a folder for each of 2 classes or more, but it holds {len(classes)}."
        )
    labelled = {split: _labelled_files(folder, classes) for split, folder in split_dirs.items()}
    if image_size is None:
        sides = _in_threads(_shorter_side, [path for path, _ in labelled["train"]])
        image_size = min(FOLDER_SIZE, int(statistics.median(sides)))
    parts = {split: _decode(files, image_size) for split, files in labelled.items()}
    return _Decoded(
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        num_classes=len(classes),
        flips=True,
    )


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _labelled_files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Image files below `folder` with the number of their class, in sorted order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    present = _class_names(folder)
    files = {
        name: sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        for name in present
    }
    rules = [
        (bool(present), "must hold a folder for each class, but it holds none."),
        (set(present) <= set(classes), f"must hold classes of train, but got {sorted(set(present) - set(classes))}."),
        (all(files.values()), f"must hold images ({', '.join(IMG_EXTENSIONS)}) in each folder, but some have none: "
         f"{', '.join(name for name in present if not files[name])}."),
    ]  # fmt: skip
    problems = [f"{folder.absolute()} {message}" for holds, message in rules if not holds]
    if problems:
        raise DataError("\n".join(problems))
    return [(path, classes.index(name)) for name in present for path in files[name]]


def _shorter_side(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as image:  # reads the header only
        return min(image.size)


def _decode(files: list[tuple[Path, int]], size: int) -> _Part:
    from PIL import Image, ImageOps

    def decode(path: Path) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # a JPEG far larger than this is decoded at a fraction of its size
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    images = np.empty((len(files), 3, size, size), np.uint8)
    for index, pixels in enumerate(_in_threads(decode, [path for path, _ in files])):
        images[index] = pixels
    return _Part(torch.from_numpy(images), torch.tensor([label for _, label in files]))


def _in_threads(function: Callable[[Path], Any], paths: Iterable[Path]) -> Iterator[Any]:
    """`function` of each image file, in order. PIL gives up the interpreter's lock while it decodes."""

    def attempt(path: Path) -> Any:
        try:
            return function(path)
        except Exception as error:  # a damaged image makes PIL raise almost anything
            raise DataError(f"{path.absolute()} cannot be read as an image: {error}.") from error

    with ThreadPoolExecutor() as pool:
        yield from pool.map(attempt, paths)
