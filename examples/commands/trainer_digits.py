r"""A training by transformers' Trainer that lrtune searches as it is: a tiny BERT.

The script takes the number of epochs as an argument. With `{epochs}` in the command lrtune fills it
in, so that short runs are short for the script too.

    python examples/commands/trainer_digits.py --epochs 4 --output-dir out
    lrtune search --metric eval_loss:min --epochs 4 --budget 12 -- \
        python examples/commands/trainer_digits.py --epochs {epochs} --output-dir {run_dir}
"""

import argparse

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

WORDS, LENGTH, CLASSES = 40, 12, 4


def sentences(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Sentences whose class is the most frequent of the first few words."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(CLASSES, WORDS, (count, LENGTH), generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    is_hint = torch.rand((count, LENGTH), generator=generator) < 0.25
    words = torch.where(is_hint, labels[:, None], words)
    return [{"input_ids": text, "labels": label} for text, label in zip(words, labels, strict=True)]


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output-dir", default="out")
    options = parser.parse_args()
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=options.output_dir,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            learning_rate=5e-4,
            lr_scheduler_type="linear",
            warmup_steps=5,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=sentences(640, seed=1),
        eval_dataset=sentences(256, seed=2),
    )
    trainer.train()


if __name__ == "__main__":
    main()
