"""What a worker process of a cluster does for Ray Tune.

It is imported there, and so imports little itself.
"""

import faulthandler
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.run import Assignment, Measurement

Training = Callable[[Assignment], Iterator[Measurement]]
"""The measurements of a run from its first epoch on."""
OpenTraining = Callable[[], Training]
"""Opens the training in a worker process; picklable."""


class RunTrainable(tune.Trainable):  # type: ignore[misc]
    """One run after the other in a worker process; a step is an epoch."""

    def setup(
        self, config: dict[str, Any], *, open_training: OpenTraining, timeout_s: float
    ) -> None:
        """Opens the training, and begins the first run."""
        self._timeout_s = timeout_s
        with self._watched():
            self._train = open_training()
        self._assignment: Assignment = config["assignment"]
        self._measurements = self._train(self._assignment)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leaves one run, and begins another in the same process."""
        self.cleanup()
        self._assignment = new_config["assignment"]
        self._measurements = self._train(self._assignment)
        return True

    def step(self) -> dict[str, Any]:
        """Trains an epoch, and says what it gave or why there is none."""
        with self._watched():
            try:
                for measurement in self._measurements:
                    if measurement.epoch > self._assignment.num_recorded:
                        return {"measurement": measurement}
            except (TrialError, TaskError, InputError) as error:
                return {"failure": error}
        return {"failure": TrialError("the training ended before its last epoch")}

    def cleanup(self) -> None:
        """Leaves the run in the middle, if it is there."""
        self._measurements.close()  # type: ignore[attr-defined]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Ends the process where this takes too long, whatever it hangs in: Python's own watchdog needs no lock."""
        if self._timeout_s:
            faulthandler.dump_traceback_later(
                self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr
            )
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
