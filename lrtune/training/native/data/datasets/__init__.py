"""Data sets by name, decoded once: from this machine, or else downloaded by torchvision.

Nothing is ever unpickled, since unpickling runs whatever code the file holds: of CIFAR, the binary
version is read. torchvision, scikit-learn and PIL are imported where they are used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lrtune.core.errors import InputError, check
from lrtune.training.native.data.datasets.archives import ARCHIVES, find
from lrtune.training.native.data.datasets.decoded import Decoded, Part, stratified
from lrtune.training.native.data.datasets.embedded import cluttered_digits, digits
from lrtune.training.native.data.datasets.folder import folder_of, read_folder
from lrtune.training.native.data.images import Images
from lrtune.training.native.data.rows import CHUNK, Rows, slices
from lrtune.training.native.randomness import derive_seed

EMBEDDED = {"cluttered-digits": cluttered_digits, "digits": digits}
DATASETS = (*EMBEDDED, *ARCHIVES, "folder:PATH")


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set, ready for training."""

    name: str
    train: Images
    validation: Images
    test: Images | None
    """`None`: the data set has none of its own."""
    num_classes: int
    facts: Mapping[str, str]
    """What was taken for what, by what people call it; empty where its files are of a fixed form.
    """


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    download: bool = True,
    image_size: int | None = None,
    strict: bool = False,
) -> Splits:
    """A data set by name.

    `digits` is embedded in scikit-learn (1,797 images of 8x8), and `cluttered-digits` is made of
    it (see `embedded.py`). `mnist`, `fashion-mnist`, `cifar10` and `cifar100` are looked for in
    `data_dir`, `./data`, `~/data`, torch's cache (`$TORCH_HOME/datasets`) and Debian's
    `/usr/share/datasets`, then downloaded into `data_dir` or else torch's cache.

    `folder:PATH` is a folder of images: `PATH/train/CLASS/*` and, where they exist,
    `PATH/val/CLASS/*` and `PATH/test/CLASS/*`, by any usual name (see `listing.py`); or just
    `PATH/CLASS/*`. Its images are decoded to RGB, scaled until they just cover a square of
    `image_size` (by default the median of the training images' shorter sides, and at most 160), and
    cut to that square. Of those that cannot be read up to 1 % are left out. Large folders are
    decoded once only: their pixels are kept in `$XDG_CACHE_HOME/lrtune/decoded`, by default below
    `~/.cache`.

    Validation is split off the training images unless the data set has its own: a tenth of them and
    at most 10,000 (of `digits`, 300), each class in proportion. The split, and the part that
    `train_size` keeps, belong to the data set and not to a seed, so that all studies share them.
    The test images are never touched.

    Args:
        name: one of `DATASETS`.
        data_dir: where to look first, and where to download to.
        train_size: images to train on, each class in proportion; `None`: all.
        val_size: validation images; `None`: as above.
        download: whether to try the network.
        image_size: side in pixels to which the images are scaled; `None`: as they are (but see
            `folder:PATH`).
        strict: whether one image of a folder that cannot be read is an error.

    Raises:
        InputError: no such data set, or impossible sizes.
        DataError: files that are missing (it says which, where they were looked for, and how to get
            them) or damaged.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"`1 <= image_size` must hold, but got {image_size}.")
    if name in EMBEDDED:
        decoded = EMBEDDED[name]()
    elif folder := folder_of(name):
        decoded = read_folder(folder, image_size, strict=strict)
    elif name in ARCHIVES:
        archive = ARCHIVES[name]
        decoded = archive.read(find(name, archive, data_dir, download))
    else:
        raise InputError(f"`data` must be one of {', '.join(DATASETS)}, but got {name!r}.")

    train, validation = (
        part.resized(image_size) for part in _split(name, decoded, train_size, val_size)
    )
    test = decoded.test.resized(image_size) if decoded.test else None
    mean, std = _moments(train.images)

    def as_images(part: Part) -> Images:
        return Images(
            images=part.images, labels=part.labels, mean=mean, std=std, flips=decoded.flips
        )

    return Splits(
        name=name,
        train=as_images(train),
        validation=as_images(validation),
        test=as_images(test) if test else None,
        num_classes=decoded.num_classes,
        facts=decoded.reading.facts(train, validation, test) if decoded.reading else {},
    )


def _split(
    name: str, decoded: Decoded, train_size: int | None, val_size: int | None
) -> tuple[Part, Part]:
    """Training and validation images, of the sizes that are wanted."""
    train, own = decoded.train, decoded.validation
    most = len(own) if own else len(train) - 1
    default = len(own) if own else decoded.val_size or min(10_000, math.ceil(len(train) / 10))
    num_validation = default if val_size is None else val_size
    taken = (
        num_validation if not own and 1 <= num_validation <= most else 0
    )  # from the training images
    remaining = len(train) - taken
    num_train = remaining if train_size is None else train_size
    check([
        (
            1 <= num_validation <= most,
            f"`1 <= val_size <= {most}` must hold for {name}, but got {num_validation}.",
        ),
        (
            1 <= num_train <= remaining,
            f"`1 <= train_size <= {remaining}` must hold for {name} (validation aside), but got "
            f"{num_train}.",
        ),
    ])  # fmt: skip
    order = stratified(train.labels, derive_seed(0, name, "train"))
    held_out = (
        own[stratified(own.labels, derive_seed(0, name, "validation"))[:num_validation]]
        if own
        else None
    )
    return train[order[taken : taken + num_train]], held_out or train[order[:taken]]


def _moments(images: Tensor | Rows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels / 255.

    They are exact, since they come from the counts of the 256 values.

    A channel that is the same everywhere gets 1 for its standard deviation: it is 0 whatever it is
    divided by.
    """
    num_images, num_channels, height, width = images.shape
    counts = torch.zeros(num_channels, 256, dtype=torch.int64)
    for places in slices(
        num_images, CHUNK
    ):  # not all at once, since it may be more than the memory holds
        for count, channel in zip(counts, images[places].unbind(1), strict=True):
            count += torch.bincount(channel.flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for count in counts:
        frequencies = count.double() / (num_images * height * width)
        mean = float(frequencies @ values)
        means.append(mean)
        stds.append(math.sqrt(float(frequencies @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(stds)
