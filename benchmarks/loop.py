"""Images per second of our trial loop against the loop of torchvision's classification reference, side by side.

    python benchmarks/loop.py --rounds 5 --json benchmarks/results/loop.json

The reference loop is what torchvision's `references/classification/train.py` does for one epoch: a `DataLoader` over
PIL images with random crop, flip, conversion and normalisation per image, SGD with momentum, `loss.item()` for its
meters. It runs with 0 and with 2 loader workers. Both train the same model on the same 10,000 images of
Fashion-MNIST, batch 128; evaluation is not timed. Rounds are interleaved, so that noise of the machine meets all of
them; the figure is the median over rounds, with the least and the largest.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lrtune.core.trial import Run
from lrtune.training.environment import describe_environment
from lrtune.training.loop import Trainer
from lrtune.training.task import NamedTask, Task, load_task


class PilImages(Dataset[tuple[torch.Tensor, int]]):
    """The training images as PIL images, with the reference's transforms."""

    def __init__(self, task: Task):
        source = task.train
        self.images = [Image.fromarray(image.squeeze(0).numpy()) for image in source.images]
        self.labels = source.labels.tolist()
        self.transform = v2.Compose([
            v2.RandomCrop(28, padding=4), v2.RandomHorizontalFlip(0.5), v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=source.mean, std=source.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def reference_epoch(task: Task, num_workers: int) -> Callable[[], float]:
    """One epoch of the reference loop; returns images per second."""
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(
        PilImages(task), batch_size=128, shuffle=True, drop_last=True, num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )  # fmt: skip

    def epoch() -> float:
        model.train()
        start, count = time.perf_counter(), 0
        for images, labels in loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            count += len(labels)
        return count / (time.perf_counter() - start)

    return epoch


def our_epoch(task: Task) -> Callable[[], float]:
    """One epoch of our loop, LR schedule and all; returns images per second as the measurement gives them."""
    trainer = Trainer(task, task.settings)
    run = Run(id="benchmark", kind="search", trial=0, recipe=task.baseline, horizon_epochs=10_000, seed=0)
    measurements = trainer.train(run)
    return lambda: next(measurements).images_per_s


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    task = load_task(NamedTask(data="fashion-mnist", train_size=10_000, val_size=100))
    loops = {
        "reference, 0 workers": reference_epoch(task, 0),
        "reference, 2 workers": reference_epoch(task, 2),
        "lrtune": our_epoch(task),
    }
    for epoch in loops.values():  # warm up
        epoch()
    measured: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.rounds):
        for name, epoch in loops.items():
            measured[name].append(epoch())

    environment = describe_environment(task.settings, task.baseline) | {"CPU threads": str(torch.get_num_threads())}
    best_reference = max((name for name in loops if name != "lrtune"), key=lambda name: median(measured[name]))
    ratios = [ours / theirs for ours, theirs in zip(measured["lrtune"], measured[best_reference], strict=True)]
    for key, value in environment.items():
        print(f"{key}: {value}")
    print(f"\nsmall-cnn on 10,000 Fashion-MNIST images, batch 128, n = {arguments.rounds} rounds")
    print("images per second, median [least, largest]:")
    for name, values in measured.items():
        print(f"  {name:22} {median(values):8.0f}  [{min(values):.0f}, {max(values):.0f}]")
    print(f"  ratio to {best_reference}: {median(ratios):.2f}  [{min(ratios):.2f}, {max(ratios):.2f}]")
    if arguments.json:
        result = {
            "benchmark": "loop", "environment": dict(environment), "rounds": arguments.rounds,
            "images_per_s": measured, "reference": best_reference, "ratio_median": median(ratios), "ratios": ratios,
        }  # fmt: skip
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
