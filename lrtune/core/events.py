"""The events that an engine reports while it works.

Everything in an event is already on disk.
"""

from dataclasses import dataclass

from lrtune.core.run import Measurement, Run, RunRecord


@dataclass(frozen=True)
class SweepStarted:
    """A sweep of the LR range test began."""

    optimizer: str
    number: int
    """Number of the sweep, from 1."""
    num_sweeps: int
    """Number of sweeps for this optimizer."""


@dataclass(frozen=True)
class RunStarted:
    """A run began, or went on after `epochs_done` epochs that an earlier process had finished."""

    run: Run
    epochs_done: int


@dataclass(frozen=True)
class EpochEnded:
    """A measurement was recorded."""

    run: Run
    measurement: Measurement


@dataclass(frozen=True)
class RunEnded:
    """A run is over: completed, pruned, diverged or failed."""

    record: RunRecord


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


Event = SweepStarted | RunStarted | EpochEnded | RunEnded | Note
