"""The options of engines: runs happen on this machine, or on a Ray cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lrtune.core.errors import InputError, check

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs happen on this machine.

    Raises:
        InputError: numbers that cannot be, all of them at once.
    """

    jobs: int = 0
    """Worker processes; 0: one for each GPU, or one on a machine without a GPU."""
    gpus: str = "all"
    """The GPUs to use, as `CUDA_VISIBLE_DEVICES` names them, such as `0,2`; `all`: all that are
    visible."""
    lanes: str | int = "auto"
    """Trials side by side in each worker process, on its GPU; `auto` tries out how many pay."""

    def __post_init__(self) -> None:
        is_number = str(self.lanes).isdecimal() and int(self.lanes) >= 1
        names = self._named_gpus
        check([
            (self.jobs >= 0, f"`0 <= jobs` must hold, but got {self.jobs}."),
            (
                all(names) and len(set(names)) == len(names),
                f"`gpus` must be all, or name different GPUs like 0,2, but got {self.gpus!r}.",
            ),
            (
                self.lanes == "auto" or is_number,
                f"`lanes` must be auto or a whole number from 1, but got {self.lanes!r}.",
            ),
        ])  # fmt: skip

    def chosen_gpus(self, visible: Sequence[str]) -> tuple[str, ...]:
        """Returns the GPUs to use out of those that are visible.

        Raises:
            InputError: one was chosen that is not visible.
        """
        if self.gpus == "all":
            return tuple(visible)
        chosen = self._named_gpus
        if strange := [name for name in chosen if name not in visible]:
            raise InputError(
                f"`gpus` must be among those that are visible ({', '.join(visible) or 'none'}), "
                f"but got {', '.join(strange)}."
            )
        return chosen

    @property
    def _named_gpus(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in str(self.gpus).split(","))

    def num_jobs(self, gpus: Sequence[str]) -> int:
        """Returns the number of worker processes on these GPUs."""
        return self.jobs or max(1, len(gpus))


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Runs happen on a Ray cluster, as trials of Ray Tune.

    Raises:
        InputError: numbers that cannot be, all of them at once.
    """

    address: str = ""
    """`auto` for the cluster that this machine is a node of, or `host:port`; empty: `RAY_ADDRESS`,
    which a Ray job has, or else a new cluster on this machine."""
    cpus_per_trial: float = 1.0
    """CPU cores of a trial; a whole number is also the number of its threads."""
    gpus_per_trial: float | None = None
    """GPUs of a trial. A fraction shares a GPU, but does not limit the memory. `None`: one GPU if
    the cluster has any."""
    max_concurrent: int = 0
    """Trials side by side; 0: as many as the cluster's nodes can hold."""
    reuse_actors: bool = True
    """A worker process takes one run after the other, instead of one run only."""
    trial_timeout_s: float = 0.0
    """Seconds without an epoch after which a worker is ended, and its run goes on elsewhere; 0:
    never."""
    max_retries: int = 3
    """Times that one run may lose its worker."""
    storage_path: str = ""
    """Place of the checkpoints: a folder that all nodes share, or an fsspec URL; empty: in the
    study's home."""

    def __post_init__(self) -> None:
        gpus = self.gpus_per_trial
        check([
            (
                0 < self.cpus_per_trial < math.inf,
                f"`0 < cpus_per_trial` must hold, but got {self.cpus_per_trial}.",
            ),
            (
                gpus is None or 0 <= gpus < math.inf,
                f"`0 <= gpus_per_trial` must hold, but got {gpus}.",
            ),
            (
                gpus is None or not 1 < gpus < math.inf or gpus == int(gpus),
                f"`gpus_per_trial` must be whole above 1, but got {gpus}.",
            ),
            (
                self.max_concurrent >= 0,
                f"`0 <= max_concurrent` must hold, but got {self.max_concurrent}.",
            ),
            (
                0 <= self.trial_timeout_s < math.inf,
                f"`0 <= trial_timeout_s` must hold, but got {self.trial_timeout_s}.",
            ),
            (self.max_retries >= 0, f"`0 <= max_retries` must hold, but got {self.max_retries}."),
        ])  # fmt: skip


EngineOptions = Local | Ray
