"""A run trained by our own loop as an engine trains it: by its recipe's schedule."""

from collections.abc import Generator

from lrtune.core.run import Measurement, Run
from lrtune.core.training import Save
from lrtune.schedules.compress import schedule_of
from lrtune.training.native.loop import NativeTraining


def train(
    training: NativeTraining, run: Run, *, save: Save | None = None
) -> Generator[Measurement, None, None]:
    """The measurements of a run from its first epoch on, as they come.

    A plateau decay is told of each epoch before the next one begins.
    """
    schedule = schedule_of(run, training.task.steps_per_epoch)

    def multiplier(step: int) -> float:
        return schedule(step)

    for measurement in training.train(run, multiplier, save=save):
        schedule = schedule.observe(measurement.metrics)
        yield measurement
