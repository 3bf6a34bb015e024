"""From a task's data to batches on the device: for each kind of data, what gives its batches."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lrtune.core.errors import InputError, check
from lrtune.core.study import DataOnDevice
from lrtune.training.native.data.images import (
    Batches,
    EvaluationBatches,
    Images,
    ResidentBatches,
    StreamedBatches,
)
from lrtune.training.native.data.loaders import (
    LoaderBatches,
    StreamBatches,
    batches_of_dataset,
    check_own,
    has_length,
    loader_of,
)

Source = (
    Images | Dataset[Any] | DataLoader[Any] | Iterable[Any] | Callable[[int, int], Iterable[Any]]
)
"""A resident set of images, a map-style dataset, a loader of batches, or a stream: an iterable of
batches without a length, or a function of (seed, epoch) that returns one."""


def training_batches(
    source: Source,
    *,
    batch_size: int,
    augment: bool,
    device: torch.device | str,
    data_on_device: DataOnDevice = "auto",
    cutout: int = 0,
    num_batches: int = 0,
) -> Batches:
    """Shuffled batches to train on.

    The last one is dropped where it is incomplete, unless it is the only one.

    Args:
        source: the data.
        batch_size: examples a batch; loaders and streams have their own.
        augment: whether to crop and flip; for `Images` only, the others bring their own transforms.
        device: where the batches are wanted.
        data_on_device: whether `Images` lie there or are streamed; `auto`: they lie there if they
            take at most half of a GPU's free memory. It changes no number.
        cutout: side in pixels of the square that is cut out of each of the `Images`; 0: none.
        num_batches: batches of an epoch of a stream.

    Raises:
        InputError: no such source, a batch size below 1, or what is for `Images` only.
    """
    check_source(source)
    check([(batch_size >= 1, f"`1 <= batch_size` must hold, but got {batch_size}.")])
    if isinstance(source, Images):
        side = min(source.images.shape[2:])
        if not 0 <= cutout <= side:
            rule = f"`0 <= cutout <= {side}` must hold, the side of the images"
            raise InputError(f"{rule}, but got {cutout}.")
        streamed = _is_streamed(source, device, data_on_device)
        images = source if streamed else source.to(device)
        batches = ResidentBatches(
            images=images, batch_size=batch_size, augment=augment, cutout=cutout
        )
        return (
            StreamedBatches(batches=batches, device=torch.device(device)) if streamed else batches
        )
    _check_unused(source, data_on_device, cutout)
    if is_stream(source):
        if isinstance(source, IterableDataset):
            source = loader_of(source, batch_size, device)
        return StreamBatches(stream=source, device=device, num_batches=num_batches)
    if isinstance(source, DataLoader):
        return LoaderBatches(loader=source, device=device)
    drop = len(source) >= batch_size  # type: ignore[arg-type]
    return batches_of_dataset(source, batch_size, device, shuffle=True, drop_last=drop)


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    device: torch.device | str,
    data_on_device: DataOnDevice = "auto",
) -> Batches:
    """Batches to evaluate on: every example once, in fixed order, without augmentation.

    A loader is taken as it is: that it gives every example once is its owner's business. A stream
    must end by itself. The arguments are those of `training_batches`.

    Raises:
        InputError: no such source, a batch size below 1, or what is for `Images` only.
    """
    check_source(source)
    check([(batch_size >= 1, f"`1 <= batch_size` must hold, but got {batch_size}.")])
    if isinstance(source, Images):
        streamed = _is_streamed(source, device, data_on_device)
        batches = EvaluationBatches(
            images=source if streamed else source.to(device), batch_size=batch_size
        )
        return (
            StreamedBatches(batches=batches, device=torch.device(device)) if streamed else batches
        )
    _check_unused(source, data_on_device)
    if is_stream(source):
        if isinstance(source, IterableDataset):
            source = loader_of(source, batch_size, device)
        return StreamBatches(stream=source, device=device)
    if isinstance(source, DataLoader):
        return LoaderBatches(loader=source, device=device)
    return batches_of_dataset(source, batch_size, device, shuffle=False)


def is_stream(source: Source) -> bool:
    """Whether data have no length, so that somebody has to say how long an epoch is."""
    return (callable(source) or isinstance(source, Iterable)) and not has_length(source)


def check_source(source: Source) -> None:
    """Checks that batches can be had of a source, without reading any.

    Raises:
        InputError: they cannot.
    """
    if not isinstance(source, Images):
        check_own(source)


def _check_unused(source: Source, data_on_device: DataOnDevice, cutout: int = 0) -> None:
    """Refuses settings that are for `Images` where the data are a user's own."""
    kind = type(source).__name__
    check([
        (
            data_on_device != "yes",
            f"`data_on_device` can be yes for `Images` only, but the data are a {kind}.",
        ),
        (cutout == 0, f"`cutout` is for `Images` only, but the data are a {kind}."),
    ])  # fmt: skip


def _is_streamed(images: Images, device: torch.device | str, data_on_device: DataOnDevice) -> bool:
    """Whether a set stays in memory, and `device` is given its batches one by one."""
    if images.images.device.type != "cpu" or data_on_device == "yes":
        return False
    if data_on_device == "no":
        return True
    if torch.device(device).type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images.images.nbytes > free_bytes / 2
