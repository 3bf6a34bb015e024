"""Opens the training of a command in whatever process an engine trains in."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrtune.core.objective import Objective
from lrtune.core.sources import CommandLine
from lrtune.core.study import TrainSettings
from lrtune.core.training import Devices, Training
from lrtune.training.command.recording import Recorded
from lrtune.training.command.training import CommandTraining


@dataclass(frozen=True, kw_only=True)
class OpenCommand:
    """Opens the training of a command; see `OpenTraining`."""

    command: CommandLine
    description: Mapping[str, Any]
    """What tells the command from others."""
    recorded: Recorded
    """What its first run has told."""
    objective: Objective
    folder: Path
    """Of the files of its runs."""
    settings: TrainSettings
    timeout_s: float
    """Seconds without an epoch after which a run is ended; 0: never."""

    def __call__(self, devices: Devices) -> Training:
        """Goes to the folder where the command starts."""
        os.chdir(self.description["folder"])
        return CommandTraining(self)
