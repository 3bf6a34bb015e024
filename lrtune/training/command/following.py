"""LRs that follow the metrics of a run: those of an epoch are told once the one before has ended.

The command waits for an answer to each value that it hands over. The table of its LRs is replaced
before the answer is given; see `child/lrtune_steering/answers.py`.
"""

import struct
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from lrtune.core.recipe import Recipe
from lrtune.core.training import Multiplier
from lrtune.schedules import Schedule
from lrtune.training.command.epochs import Epochs
from lrtune.training.command.pace import at_pace, num_steps_at

POLL_S = 0.01
"""How often it is looked whether the command waits for an answer."""


def write_table(folder: Path, lrs: Sequence[float]) -> None:
    """Writes the LR of each step where the command looks for it, whole or not at all."""
    new = folder / "table.bin.new"
    new.write_bytes(array("d", lrs).tobytes())
    new.replace(folder / "table.bin")


def answer(folder: Path, num_values: int) -> None:
    """Tells a command that so many of the values that it has handed over were answered."""
    path = folder / "answers.bin"
    with path.open("r+b" if path.exists() else "wb") as file:  # the command has it mapped
        file.write(struct.pack("<Q", num_values))


def lr_of(recipe: Recipe, multiplier: Multiplier) -> Callable[[int], float]:
    """The LR of a step."""
    return lambda step: recipe.peak_lr * multiplier(step)


def followed(
    lrs: Sequence[float], lr: Callable[[int], float], *, num_steps: int, num_known: int
) -> list[float]:
    """The LRs of a run once those of its next epoch are known.

    Args:
        lrs: before. The last one holds where an epoch has more steps than were planned.
        lr: of a step.
        num_steps: that were made.
        num_known: steps whose LR is known.
    """
    made = [*lrs[:num_steps], *[lrs[-1]] * (num_steps - len(lrs))]
    steps = range(num_steps, max(num_steps + 1, num_known))
    return [*made, *(lr(min(step, num_known - 1)) for step in steps)]


def follow(
    reader: Epochs,
    schedule: Schedule,
    lrs: Sequence[float],
    *,
    pace: float,
    runs: Callable[[], bool],
) -> None:
    """Answers a command until it has ended.

    Args:
        reader: of its metrics.
        schedule: whose decay depends on them.
        lrs: of the first epoch.
        pace: of the run.
        runs: whether the command still runs.
    """
    num_answered, num_epochs = 0, 0
    while runs():
        for evaluation in reader.read():
            num_epochs += 1
            if num_epochs < schedule.epochs:
                schedule = schedule.observe(evaluation.values)
                num_known = num_steps_at(pace, (num_epochs + 1) * schedule.steps_per_epoch)
                lr = at_pace(lr_of(schedule.recipe, schedule), pace)
                lrs = followed(lrs, lr, num_steps=evaluation.step, num_known=num_known)
                write_table(reader.folder, lrs)
        if reader.num_handed_over > num_answered:
            num_answered = reader.num_handed_over
            answer(reader.folder, num_answered)
        time.sleep(POLL_S)
