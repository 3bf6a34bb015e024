"""Opens the training of a command in whatever process an engine trains in."""

from dataclasses import dataclass

from lrtune.core.training import Devices, Training
from lrtune.training.command.training import CommandTraining


@dataclass(frozen=True)
class OpenCommand:
    """Opens the training of a command; see `OpenTraining`."""

    training: CommandTraining

    def __call__(self, devices: Devices) -> Training:
        """Returns the training, which has nothing to open."""
        return self.training
