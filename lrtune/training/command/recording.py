"""The first run of a command, as it is: what there is to steer, and what its metric is."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lrtune.core.decays import Own
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.run import Measurement

FILE = "recorded.json"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the first run of a command has told."""

    seed: int
    """What its seeds were offset by."""
    optimizer: str
    """Class of its first optimizer."""
    peak_lr: float
    """Highest LR of all groups of the first optimizer."""
    weight_decay: float
    """Of its first group."""
    ratios: tuple[tuple[float, ...], ...]
    """Of each optimizer and group: its highest LR over `peak_lr`."""
    names: tuple[str, ...]
    """Of the groups of the first optimizer that have one; else their numbers."""
    lrs: tuple[float, ...]
    """LR of each step."""
    measurements: tuple[Measurement, ...]
    """One an epoch."""
    startup_s: float
    """From the start of the command to its first optimizer step."""
    versions: Mapping[str, str]
    """Python and PyTorch in the command."""

    @property
    def epochs(self) -> int:
        """Values of the metric."""
        return len(self.measurements)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps between two values, on average and to the nearest whole one."""
        return max(1, round(self.measurements[-1].step / self.epochs))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all that was measured."""
        return tuple(self.measurements[-1].metrics)

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The parameter groups with their share of the peak LR; empty where there is only one."""
        first = self.ratios[0]
        if len(first) < 2:
            return ()
        pairs = zip(self.names, first, strict=True)
        return tuple(ParameterGroup(name=name, lr_scale=ratio) for name, ratio in pairs)

    @property
    def baseline(self) -> Recipe:
        """The command as it is."""
        known = (
            name for name, facts in OPTIMIZERS.items() if facts.class_name == self.optimizer
        )
        return Recipe(
            optimizer=next(known, "own"),
            peak_lr=self.peak_lr,
            decay=Own(),
            weight_decay=self.weight_decay,
        )

    def save(self, folder: Path) -> None:
        """Keeps it in a folder, whole or not at all."""
        values = asdict(self) | {"measurements": [asdict(m) for m in self.measurements]}
        partial = folder / f"{FILE}.partial"
        partial.write_text(json.dumps(values))
        partial.replace(folder / FILE)

    @staticmethod
    def load(folder: Path) -> "Recorded | None":
        """What was kept in a folder; `None` if nothing was."""
        try:
            values: dict[str, Any] = json.loads((folder / FILE).read_text())
        except (OSError, ValueError):
            return None
        own = {
            "ratios": tuple(map(tuple, values["ratios"])),
            "names": tuple(values["names"]),
            "lrs": tuple(values["lrs"]),
            "measurements": tuple(Measurement(**m) for m in values["measurements"]),
        }
        return Recorded(**values | own)
