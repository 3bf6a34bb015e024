r"""An image script in timm's style that lrtune searches as it is.

The script takes arguments, can use automatic mixed precision, and writes its metrics to a
summary.csv. `{run_dir}` in the command gives each run a folder of its own.

    python examples/commands/images.py --output out --amp
    lrtune search --metric eval_top1:max --read {run_dir}/summary.csv:eval_top1 --budget 12 -- \
        python examples/commands/images.py --output {run_dir} --amp
"""

import argparse
import csv
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder of summary.csv")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    return parser.parse_args()


def stripes(count: int, seed: int) -> TensorDataset:
    """Makes noisy images of 8 x 8 pixels, whose stripes have one of ten directions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    angles = (math.pi / 10 * labels)[:, None, None]
    phases = 2 * math.pi * torch.rand((count, 1, 1), generator=generator)
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    waves = torch.sin(rows * angles.cos() + columns * angles.sin() + phases)
    images = waves + 0.5 * torch.randn(waves.shape, generator=generator)
    return TensorDataset(images[:, None], labels)


def main() -> None:
    """Trains and validates."""
    args = parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val = stripes(1347, seed=1), stripes(450, seed=2)
    train_loader = DataLoader(train, batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(val, batch_size=256)

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=args.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp and device.type == "cuda")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.amp)

    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / "summary.csv").open("w", newline="") as file:
        summary = csv.writer(file)
        summary.writerow(["epoch", "train_loss", "eval_loss", "eval_top1", "lr"])
        for epoch in range(args.epochs):
            lr = optimizer.param_groups[0]["lr"]
            start, train_loss = time.perf_counter(), 0.0
            model.train()
            for inputs, targets in train_loader:
                inputs, targets = inputs.to(device), targets.to(device)
                with autocast:
                    loss = functional.cross_entropy(model(inputs), targets)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                train_loss += loss.item() / len(train_loader)
            scheduler.step()
            eval_loss, top1 = validate(model, val_loader, device)
            summary.writerow([epoch, train_loss, eval_loss, top1, lr])
            file.flush()
            speed = len(train) / (time.perf_counter() - start)
            print(f"Train: {epoch} Loss: {train_loss:.3g} LR: {lr:.3e} ({speed:.0f} img/s)")


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader, device: torch.device) -> tuple[float, float]:
    """Returns the mean loss and the Top-1 in percent."""
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    for inputs, targets in loader:
        logits, targets = model(inputs.to(device)), targets.to(device)
        loss_sum += functional.cross_entropy(logits, targets, reduction="sum").item()
        correct += int((logits.argmax(1) == targets).sum())
        count += len(targets)
    return loss_sum / count, 100 * correct / count


if __name__ == "__main__":
    main()
