"""A character language model in nanoGPT's style that lrtune searches as it is.

The script sets its LR by hand before each step, and evaluates every 20 steps. An epoch of the
search is what lies between two evaluations.

    python examples/commands/characters.py
    lrtune search --metric "val loss:min" --budget 12 -- python examples/commands/characters.py
"""

import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

MAX_ITERS, EVAL_INTERVAL, WARMUP_ITERS = 160, 20, 10
BATCH_SIZE, BLOCK_SIZE, WIDTH = 16, 32, 32
LEARNING_RATE, MIN_LR = 1e-3, 1e-4

torch.manual_seed(1337)
sources = sorted(Path(torch.__file__).parent.glob("nn/modules/l*.py"))  # text that is there
text = "".join(path.read_text() for path in sources)
characters = sorted(set(text))
ids = torch.tensor([characters.index(character) for character in text[:100_000]])
splits = {"train": ids[:90_000], "val": ids[90_000:]}


class Model(nn.Module):
    """One block of causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(len(characters), WIDTH)
        self.position = nn.Embedding(BLOCK_SIZE, WIDTH)
        self.block = nn.TransformerEncoderLayer(
            WIDTH,
            nhead=2,
            dim_feedforward=4 * WIDTH,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.head = nn.Linear(WIDTH, len(characters))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(BLOCK_SIZE))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Returns the loss of a batch."""
        hidden = self.token(inputs) + self.position.weight
        logits = self.head(self.block(hidden, src_mask=self.mask, is_causal=True))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def get_batch(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws a batch."""
    data = splits[split]
    starts = torch.randint(len(data) - BLOCK_SIZE, (BATCH_SIZE,))
    inputs = torch.stack([data[start : start + BLOCK_SIZE] for start in starts])
    return inputs, torch.stack([data[start + 1 : start + 1 + BLOCK_SIZE] for start in starts])


@torch.no_grad()
def estimate_loss(split: str) -> float:
    """Averages the loss of a few batches."""
    return sum(model(*get_batch(split)).item() for _ in range(8)) / 8


def get_lr(iteration: int) -> float:
    """A linear warmup, then a cosine down to a tenth."""
    if iteration < WARMUP_ITERS:
        return LEARNING_RATE * (iteration + 1) / (WARMUP_ITERS + 1)
    ratio = (iteration - WARMUP_ITERS) / (MAX_ITERS - WARMUP_ITERS)
    return MIN_LR + 0.5 * (1 + math.cos(math.pi * ratio)) * (LEARNING_RATE - MIN_LR)


model = Model()
matrices = [p for p in model.parameters() if p.dim() >= 2]
others = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
    lr=LEARNING_RATE,
    betas=(0.9, 0.99),
)

for iteration in range(MAX_ITERS + 1):
    for group in optimizer.param_groups:
        group["lr"] = get_lr(iteration)
    if iteration % EVAL_INTERVAL == 0:
        train_loss, val_loss = estimate_loss("train"), estimate_loss("val")
        print(f"step {iteration}: train loss {train_loss:.4f}, val loss {val_loss:.4f}")
    if iteration == MAX_ITERS:
        break
    loss = model(*get_batch("train"))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if iteration % 10 == 0:
        print(f"iter {iteration}: loss {loss.item():.4f}")
