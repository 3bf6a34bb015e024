"""What an engine tells whoever is watching, as it happens. Everything in an event is already on disk."""

from dataclasses import dataclass

from lrtune.core.trial import Measurement, Run, RunRecord


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
    """A run is over, one way or another."""

    record: RunRecord


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


Event = RunStarted | EpochEnded | RunEnded | Note
