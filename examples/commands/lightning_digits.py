"""A LightningModule that lrtune searches as it is.

The script prints no metric. lrtune reads what the module logs from the trainer.

    python examples/commands/lightning_digits.py
    lrtune search --metric val_loss:min --budget 12 -- python examples/commands/lightning_digits.py
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(lightning.LightningModule):
    """A small net for images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )

    def training_step(self, batch, _):
        """Returns the loss of a batch."""
        images, labels = batch
        return functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, _):
        """Logs the metrics of a batch."""
        images, labels = batch
        logits = self.net(images)
        self.log("val_loss", functional.cross_entropy(logits, labels))
        self.log("val_acc", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        """Returns AdamW and a one-cycle schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


if __name__ == "__main__":
    lightning.seed_everything(0)
    digits = load_digits()
    data = TensorDataset(
        torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    )
    train, val = random_split(data, [1347, 450], torch.Generator().manual_seed(0))
    trainer = lightning.Trainer(
        max_epochs=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Digits(), DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=450)
    )
