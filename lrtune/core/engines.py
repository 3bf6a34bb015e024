"""The engines and their options: runs happen on this machine, or on a Ray cluster."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from lrtune.core.errors import InputError
from lrtune.core.options import Conflict, Option, Options, above, at_least, fields_of

EngineName = Literal["local", "ray"]


def _gpu_names(gpus: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in gpus.split(","))


def _names_gpus(name: str, gpus: str) -> str:
    names = _gpu_names(gpus)
    if all(names) and len(set(names)) == len(names):
        return ""
    return f"`{name}` must be all, or name different GPUs like 0,2"


def _is_auto_or_counts(name: str, value: str | int) -> str:
    is_count = value >= 1 if isinstance(value, int) else re.fullmatch("0*[1-9][0-9]*", value)
    return "" if is_count or value == "auto" else f"`{name}` must be auto or a whole number from 1"


def _is_whole_above_1(name: str, value: float) -> str:
    return "" if value <= 1 or value == int(value) else f"`{name}` must be whole above 1"


@dataclass(frozen=True, kw_only=True)
class TrialTimeout(Options):
    """How long a run may be silent."""

    title: ClassVar[str] = "Engine"

    trial_timeout_s: Annotated[
        float,
        at_least(0),
        Option(
            "Seconds without an epoch after which a run goes on elsewhere, or that of a command "
            "has failed.",
            default="never",
            flag="--trial-timeout",
            metavar="S",
        ),
    ] = 0.0
    """0: never."""


@dataclass(frozen=True, kw_only=True)
class Local(TrialTimeout):
    """Runs happen on this machine."""

    title: ClassVar[str] = "Engine: this machine (local)"

    jobs: Annotated[
        str | int,
        _is_auto_or_counts,
        Option(
            "Worker processes, each with runs of its own; auto: one for each GPU, or what the "
            "cores feed.",
            metavar="N",
            essential=True,
        ),
    ] = "auto"
    """`auto` is one for each GPU. Without a GPU it is as many as the cores feed, where the study
    takes long enough and other processes can load what is trained, which is a name or a file; else
    one."""
    gpus: Annotated[
        str,
        _names_gpus,
        Option("GPUs to use, such as 0,2.", metavar="LIST", label="GPUs"),
    ] = "all"
    """As `CUDA_VISIBLE_DEVICES` names them; `all`: all that are visible."""
    lanes: Annotated[
        str | int,
        _is_auto_or_counts,
        Option("Runs side by side in each process, on its GPU.", metavar="N"),
    ] = "auto"
    """`auto` tries out how many pay."""

    def chosen_gpus(self, visible: Sequence[str]) -> tuple[str, ...]:
        """Returns the GPUs to use out of those that are visible.

        Raises:
            InputError: one was chosen that is not visible.
        """
        if self.gpus == "all":
            return tuple(visible)
        chosen = _gpu_names(self.gpus)
        if strange := [name for name in chosen if name not in visible]:
            raise InputError(
                f"`gpus` must be among those that are visible ({', '.join(visible) or 'none'}), "
                f"but got {', '.join(strange)}."
            )
        return chosen

    def num_jobs(self, gpus: Sequence[str]) -> int:
        """Returns the number of worker processes on these GPUs; without one `auto` is 1 so far."""
        return max(1, len(gpus)) if self.jobs == "auto" else int(self.jobs)


@dataclass(frozen=True, kw_only=True)
class SharedCheckpoints(Options):
    """The place of checkpoints that several nodes share."""

    title: ClassVar[str] = "Engine: a Ray cluster (ray)"

    storage_path: Annotated[
        str,
        Option(
            "Place of the checkpoints: a folder that all nodes share, or an fsspec URL.",
            default="in `home`",
            metavar="PATH|URL",
            is_url=True,
        ),
    ] = ""
    """Empty: in the study's home."""


@dataclass(frozen=True, kw_only=True)
class Ray(SharedCheckpoints, TrialTimeout):
    """Runs happen on a Ray cluster, as trials of Ray Tune."""

    title: ClassVar[str] = "Engine: a Ray cluster (ray)"

    address: Annotated[
        str,
        Option(
            "Cluster to use: `auto` for the one that this machine is a node of, or host:port.",
            default="RAY_ADDRESS, or else a new cluster on this machine",
            metavar="ADDR",
            is_url=True,
        ),
    ] = ""
    """Empty: `RAY_ADDRESS`, which a Ray job has, or else a new cluster on this machine."""
    cpus_per_trial: Annotated[float, above(0), Option("CPU cores of a run.", metavar="X")] = 1.0
    """A whole number is also the number of its threads."""
    gpus_per_trial: Annotated[
        float | None,
        at_least(0),
        _is_whole_above_1,
        Option("GPUs of a run, such as 0.5.", default="1 if there are any", metavar="X"),
    ] = None
    """A fraction shares a GPU, but does not limit the memory. `None`: one GPU if the cluster has
    any."""
    max_concurrent: Annotated[
        int, at_least(0), Option("Runs side by side.", default="what fits", metavar="N")
    ] = 0
    """0: as many as the cluster's nodes can hold."""
    reuse_actors: Annotated[bool, Option("Use one process for many runs.")] = True
    """A worker process takes one run after the other, instead of one run only."""
    max_retries: Annotated[
        int, at_least(0), Option("Times that a run may lose its worker.", metavar="N")
    ] = 3


EngineOptions = Local | Ray


@dataclass(frozen=True, kw_only=True)
class _Engine(Options):
    title: ClassVar[str] = "Engine"

    engine: Annotated[
        EngineName | Local | Ray,
        Option("Where runs happen: on this machine, or on a Ray cluster.", essential=True),
    ] = "local"
    """A `Local` or a `Ray` brings its options along."""


@dataclass(frozen=True, kw_only=True)
class EngineChoice(Ray, Local, _Engine):
    """An engine by its name, with the options of each of them."""

    @property
    def chosen_engine(self) -> EngineOptions:
        """The chosen engine with its options."""
        if isinstance(self.engine, Local | Ray):
            return self.engine
        return Local(**self.values(Local)) if self.engine == "local" else Ray(**self.values(Ray))

    def conflicts(self) -> Iterator[Conflict]:
        """Options of another engine than the chosen one; an engine that is a value has its own."""
        yield from super().conflicts()
        usable = _NAMES[self.engine] if isinstance(self.engine, str) else frozenset[str]()
        engine = self.engine if isinstance(self.engine, str) else type(self.engine).__name__
        for name in sorted(self.given & (_NAMES["local"] | _NAMES["ray"]) - usable):
            yield Conflict((name, "engine"), f"`{name}=` does not go with `engine={engine}`.")


_NAMES = {
    name: frozenset(field.name for field in fields_of(kind))
    for name, kind in (("local", Local), ("ray", Ray))
}
