"""Opens the training of a command in whatever process an engine trains in."""

import os
from dataclasses import dataclass

from lrtune.core.training import Devices, Training
from lrtune.training.command.training import CommandTraining


@dataclass(frozen=True)
class OpenCommand:
    """Opens the training of a command; see `OpenTraining`."""

    training: CommandTraining

    def __call__(self, devices: Devices) -> Training:
        """Goes to the folder in which the command starts."""
        os.chdir(self.training.description["folder"])
        return self.training
