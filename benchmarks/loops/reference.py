"""The loop of torchvision's classification reference under Optuna: plain, and tuned.

It is `train_one_epoch` and `evaluate` of `references/classification/train.py`: a `DataLoader` over
PIL images with transforms for each image, autocast and a gradient scaler on a GPU, loss and
accuracies read for the meters at each step. The tuned one has its model and batches in
channels_last, and the fused optimizer; where a CPU has bf16, a third has that too. All are spared
what can be: the images are decoded beforehand, the workers stay alive.
"""

import time
from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol

import optuna
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lrtune.training.native.data.images import Images

from .cases import Workload

Batch = tuple[Tensor, Tensor]
NUM_DEVICE_BATCHES = 4
"""Different batches on the device, given in turn."""
NUM_WARM_UP_BATCHES = 3


class Loader(Sized, Protocol):
    """Inputs and labels, batch by batch."""

    def __iter__(self) -> Iterator[Batch]: ...


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as PIL images, each transformed when it is wanted."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], Tensor]):
        pixels = images.images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.images = [Image.fromarray(image) for image in pixels]
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def reference_transforms(images: Images, *, train: bool) -> v2.Compose:
    """As in the reference's presets; the crop is that of CIFAR, as in our loop."""
    size = images.images.shape[-1]
    augmentation: list[nn.Module] = []
    if train:
        augmentation.append(v2.RandomCrop(size, padding=round(size / 8)))
        if images.flips:
            augmentation.append(v2.RandomHorizontalFlip(0.5))
    return v2.Compose([
        *augmentation, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=images.mean, std=images.std),
    ])  # fmt: skip


def pil_loader(
    workload: Workload, images: Images, transform: Any, *, train: bool, num_workers: int
) -> Loader:
    """A `DataLoader` as in the reference."""
    return DataLoader(
        PilImages(images, transform), batch_size=workload.case.batch_size, shuffle=train,
        drop_last=train, num_workers=num_workers, pin_memory=workload.device == "cuda",
        persistent_workers=num_workers > 0,
    )  # fmt: skip


class DeviceBatches:
    """A few batches that lie on the device, ready for the model, over and over.

    It costs a loop nothing.
    """

    def __init__(self, workload: Workload, *, channels_last: bool):
        images, size = workload.data.train, workload.case.batch_size
        self._num_batches = workload.num_batches
        self._batches = [
            (
                images.images[start : start + size]
                .to(workload.device, memory_format=_format(channels_last))
                .float().div_(255).sub_(0.5).div_(0.29),
                images.labels[start : start + size].to(workload.device),
            )
            for start in range(0, size * min(NUM_DEVICE_BATCHES, self._num_batches), size)
        ]  # fmt: skip

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self._num_batches):
            yield self._batches[index % len(self._batches)]


def train_loader(workload: Workload, *, channels_last: bool, num_workers: int) -> Loader:
    """Training batches as a loop of others gets them in this case."""
    if workload.case.data == "on the device":
        return DeviceBatches(workload, channels_last=channels_last)
    images = workload.data.train
    return pil_loader(
        workload, images, reference_transforms(images, train=True), train=True,
        num_workers=num_workers,
    )  # fmt: skip


class Reference:
    """The loop: its epochs, and whole trials of it under Optuna."""

    def __init__(self, workload: Workload, *, tuned: bool, bf16: bool = False, num_workers: int):
        self.workload, self.tuned, self.bf16 = workload, tuned, bf16
        self.device = torch.device(workload.device)
        self.train = train_loader(workload, channels_last=tuned, num_workers=num_workers)
        self.num_workers = num_workers
        self.learner: _Learner | None = None

    def epoch(self) -> float:
        """Images a second of one epoch of training."""
        if self.learner is None:
            self.learner = self._learner(lr=0.01)
        on_device = isinstance(self.train, DeviceBatches)
        if (
            on_device
        ):  # these give the device's memory back in the end, so that other loops can have it
            for _, batch in zip(range(NUM_WARM_UP_BATCHES), self.train, strict=False):
                self.learner.step(*batch)
        synchronize(self.device)
        start = time.perf_counter()
        num_images = self.learner.epoch(self.train)
        synchronize(self.device)
        images_per_s = num_images / (time.perf_counter() - start)
        if on_device and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return images_per_s

    def trials(self, num_trials: int, epochs: int) -> float:
        """Seconds that whole trials take, one after the other."""
        self.learner = None
        data = self.workload.data.validation
        validation = pil_loader(
            self.workload,
            data,
            reference_transforms(data, train=False),
            train=False,
            num_workers=self.num_workers,
        )

        def objective(trial: optuna.Trial) -> float:
            learner = self._learner(lr=trial.suggest_float("lr", 0.005, 0.05, log=True))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(learner.optimizer, T_max=epochs)
            top1 = 0.0
            for epoch in range(epochs):
                learner.epoch(self.train)
                schedule.step()
                top1 = learner.evaluate(validation)
                trial.report(top1, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return top1

        return time_study(objective, num_trials, self.device)

    def _learner(self, lr: float) -> "_Learner":
        return _Learner(
            self.workload.build_model(), self.device, lr=lr, tuned=self.tuned, bf16=self.bf16
        )


class _Learner:
    def __init__(
        self, model: nn.Module, device: torch.device, *, lr: float, tuned: bool, bf16: bool
    ):
        self.device, self.format = device, _format(tuned)
        self.model = model.to(device, memory_format=self.format)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr, momentum=0.9, weight_decay=5e-4, fused=tuned
        )
        # A scale that skips no step: fused SGD would take part in the first one with momentum that
        # is not there yet.
        self.scaler = (
            torch.amp.GradScaler(device.type, init_scale=1024.0) if device.type == "cuda" else None
        )
        self.dtype = torch.float16 if self.scaler else torch.bfloat16 if bf16 else None

    def step(self, images: Tensor, labels: Tensor) -> int:
        images, labels = images.to(self.device, memory_format=self.format), labels.to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.model(images)
            loss = self.criterion(output, labels)
        self.optimizer.zero_grad()
        if self.scaler is not None:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.step()
        loss.item()
        for accuracy in _accuracies(output, labels):
            accuracy.item()
        return len(labels)

    def epoch(self, batches: Loader) -> int:
        self.model.train()
        return sum(self.step(*batch) for batch in batches)

    @torch.inference_mode()
    def evaluate(self, batches: Loader) -> float:
        self.model.eval()
        right, num_images = 0.0, 0
        for images, labels in batches:
            images, labels = (
                images.to(self.device, memory_format=self.format),
                labels.to(self.device),
            )
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                output = self.model(images)
                loss = self.criterion(output, labels)
            top1, top5 = _accuracies(output, labels)
            loss.item()
            top5.item()
            right += top1.item() * len(labels)
            num_images += len(labels)
        return right / num_images


def time_study(
    objective: Callable[[optuna.Trial], float],
    num_trials: int,
    device: torch.device,
    *,
    num_jobs: int = 1,
) -> float:
    """Seconds of `study.optimize`.

    Its pruner never prunes, so that all loops do the same work.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
    )
    synchronize(device)
    start = time.perf_counter()
    study.optimize(objective, n_trials=num_trials, n_jobs=num_jobs)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _accuracies(output: Tensor, labels: Tensor) -> list[Tensor]:
    """Top-1 and Top-5 in percent."""
    right = output.topk(5, dim=1).indices.t() == labels[None]
    return [right[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(labels)) for k in (1, 5)]


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
