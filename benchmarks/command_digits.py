"""The training that `command.py` searches: a script of its own, and the same as a task of lrtune.

    python benchmarks/command_digits.py
    lrtune search --task benchmarks/command_digits.py

Both have the same digits of scikit-learn, the same model, batches, epochs, loss and weight decay,
and SGD with a cosine from a peak LR of 0.01. The script knows nothing of lrtune.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    import lrtune

EPOCHS, BATCH_SIZE, PEAK_LR, MOMENTUM, WEIGHT_DECAY = 9, 16, 0.01, 0.9, 5e-4
NUM_TRAINED = 1024
"""Images to train on, which is a whole number of batches; the other 773 validate."""


def build_model() -> nn.Module:
    """Builds a perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def splits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the images (n, 64) and labels (n,) to train on, and those to validate on.

    The file is read without scikit-learn, since importing that takes longer than training.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.random.default_rng(0).permutation(np.loadtxt(file, delimiter=","))
    images = torch.tensor(rows[:, :-1] / 16, dtype=torch.float32)
    labels = torch.tensor(rows[:, -1], dtype=torch.int64)
    return images[:NUM_TRAINED], labels[:NUM_TRAINED], images[NUM_TRAINED:], labels[NUM_TRAINED:]


def task() -> "lrtune.Task":
    """Returns the training as lrtune's own loop does it."""
    import lrtune

    images, labels, val_images, val_labels = splits()
    return lrtune.Task(
        name="command-digits",
        model=build_model,
        train=torch.utils.data.TensorDataset(images, labels),
        validation=torch.utils.data.TensorDataset(val_images, val_labels),
        num_classes=10,
        objective="val_loss:min",
        epochs=EPOCHS,
        settings=lrtune.TrainSettings(batch_size=BATCH_SIZE, threads=1),
        baseline=lrtune.Recipe(
            optimizer="sgd", peak_lr=PEAK_LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        ),
    )


def train() -> None:
    """Trains as a script does, and prints the validation loss after each epoch."""
    images, labels, val_images, val_labels = splits()
    torch.manual_seed(0)
    model = build_model()
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_LR, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    num_steps = EPOCHS * NUM_TRAINED // BATCH_SIZE
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(NUM_TRAINED).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            val_loss = functional.cross_entropy(model(val_images), val_labels)
        print(f"epoch {epoch}: val_loss {val_loss:.6f}", flush=True)


if __name__ == "__main__":
    train()
