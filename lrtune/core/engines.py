"""Where the runs of a study happen: on this machine, or on a Ray cluster."""

import math
from dataclasses import dataclass
from typing import Literal

from lrtune.core.errors import check

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs happen on this machine.

    Raises:
        InputError: numbers that cannot be, all of them at once.
    """

    jobs: int = 1
    """Trials side by side, each in a process of its own."""
    lanes: str | int = "auto"
    """Trials side by side on one GPU; `"auto"` tries out how many pay."""

    def __post_init__(self) -> None:
        known = self.lanes == "auto" or (str(self.lanes).isdecimal() and int(self.lanes) >= 1)
        many = known and self.lanes != "auto" and int(self.lanes) > 1
        check([
            (self.jobs >= 1, f"`1 <= jobs` must hold, but got {self.jobs}."),
            (known, f"`lanes` must be auto or a whole number from 1, but got {self.lanes!r}."),
            (
                not many or self.jobs <= 1,
                f"`lanes` share one process, so `jobs` must be 1 with them, but got {self.jobs}.",
            ),
        ])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Runs happen on a Ray cluster, as trials of Ray Tune.

    Raises:
        InputError: numbers that cannot be, all of them at once.
    """

    address: str = ""
    """`auto` for the cluster that this machine is a node of, or `host:port`; empty: `RAY_ADDRESS`,
    which a Ray job has, or else a cluster of one's own on this machine."""
    cpus_per_trial: float = 1.0
    """CPU cores; also the threads of a run, where they are whole."""
    gpus_per_trial: float | None = None
    """GPUs, also fractions, which share a GPU without sharing its memory out; `None`: one where the
    cluster has any."""
    max_concurrent: int = 0
    """Trials side by side; 0: as many as the nodes that are there can hold."""
    reuse_actors: bool = True
    """Whether a worker process takes one run after the other."""
    trial_timeout_s: float = 0.0
    """A worker that is longer without an epoch is ended, and its run goes on elsewhere; 0: never.
    """
    max_retries: int = 3
    """How often one run may lose its worker."""
    storage_path: str = ""
    """Of checkpoints: a folder that all nodes share, or an fsspec URL; empty: in the study's home.
    """

    def __post_init__(self) -> None:
        gpus = self.gpus_per_trial
        check([
            (0 < self.cpus_per_trial < math.inf, f"`0 < cpus_per_trial` must hold, but got {self.cpus_per_trial}."),
            (gpus is None or 0 <= gpus < math.inf, f"`0 <= gpus_per_trial` must hold, but got {gpus}."),
            (
                gpus is None or not 1 < gpus < math.inf or gpus == int(gpus),
                f"`gpus_per_trial` must be whole above 1, but got {gpus}.",
            ),
            (self.max_concurrent >= 0, f"`0 <= max_concurrent` must hold, but got {self.max_concurrent}."),
            (
                0 <= self.trial_timeout_s < math.inf,
                f"`0 <= trial_timeout_s` must hold, but got {self.trial_timeout_s}.",
            ),
            (self.max_retries >= 0, f"`0 <= max_retries` must hold, but got {self.max_retries}."),
        ])  # fmt: skip


Engine = Local | Ray
