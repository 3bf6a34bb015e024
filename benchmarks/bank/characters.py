"""A task that is no image classification: the next character of English text.

The text is the documentation that comes with Python (`pydoc_data.topics`), so nothing has to be
downloaded; other versions of Python have a slightly different text.
"""

from collections.abc import Iterator
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.task import Task

ALPHABET = "\n" + "".join(map(chr, range(32, 127))) + "\N{WHITE SQUARE}"
"""Its last character stands for all others."""
LENGTH, BATCH_SIZE, STEPS = 64, 16, 60
"""Characters of a sequence, sequences of a batch, and batches of an epoch."""
NUM_VALIDATION = 256
"""Sequences, from the last tenth of the text."""
WIDTH, NUM_HEADS, NUM_LAYERS = 48, 4, 2


class NextCharacter(nn.Module):
    """A causal transformer, (B, LENGTH) characters -> (B, characters, LENGTH) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, NUM_HEADS, 4 * WIDTH, dropout=0.0, norm_first=True, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, NUM_LAYERS, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(ALPHABET)))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, characters: Tensor) -> Tensor:
        """The logits of what follows each character."""
        hidden = self.characters(characters) + self.places
        hidden = self.layers(hidden, mask=self.mask, is_causal=True)
        return self.head(hidden).transpose(1, 2)


def characters_task() -> Task:
    """Trained on a stream, so an epoch is a number of steps."""
    text = _text()
    num_train = len(text) * 9 // 10
    starts = torch.linspace(num_train, len(text) - LENGTH - 2, NUM_VALIDATION).long()

    def stream(seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        for _ in range(STEPS):
            yield _pairs(
                text,
                torch.randint(num_train - LENGTH - 1, (BATCH_SIZE,), generator=generator),
            )

    return Task(
        name="characters",
        model=NextCharacter,
        train=stream,
        validation=torch.utils.data.TensorDataset(*_pairs(text, starts)),
        num_classes=len(ALPHABET),
        steps_per_epoch=STEPS,
        baseline=default_recipe("adamw"),
        settings=TrainSettings(batch_size=BATCH_SIZE),
    )


def _text() -> Tensor:
    """All topics in a row, as numbers of characters."""
    numbers = {character: number for number, character in enumerate(ALPHABET)}
    text = "\n".join(topics[name] for name in sorted(topics))
    return torch.tensor([numbers.get(character, len(ALPHABET) - 1) for character in text])


def _pairs(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences from these places, and the same a character later."""
    places = starts[:, None] + torch.arange(LENGTH)
    return text[places], text[places + 1]
