"""Opens the engine that trains a study, lrtune's own training, and the workers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from lrtune.app.arguments import num_cores, num_jobs, splits, visible_gpus
from lrtune.app.places import Places
from lrtune.core.engines import EngineOptions, Local, Ray
from lrtune.core.errors import InputError
from lrtune.core.events import Event, RunEnded
from lrtune.core.sources import TaskSource
from lrtune.core.study import StudyConfig, TrainSettings
from lrtune.core.training import Facts, OpenTraining
from lrtune.decide.abilities import limits
from lrtune.store.ledger import Ledger
from lrtune.store.workers import this_worker
from lrtune.training.command.process import placeholders
from lrtune.training.native.opening import NativeStates, OpenNative
from lrtune.training.native.sharing import TENSORS
from lrtune.training.task import Task, describe_source
from lrtune.tuning.engine import Emit, Engine, Worker
from lrtune.tuning.local import LocalEngine
from lrtune.tuning.sampler import ask
from lrtune.tuning.variables import variables_set

PROBES = "probes"
"""Name in place of a study's, for checking whether the place of checkpoints can be used."""


def open_native(
    options: EngineOptions, task: Task, source: TaskSource, settings: TrainSettings
) -> OpenNative:
    """Returns a factory for a task's training by lrtune's own loop.

    The processes of the local engine load the task from its source again. For a cluster the task is
    loaded once, here, and sent to the nodes by value.
    """
    description = describe_source(source)
    if isinstance(options, Ray):
        folder = _here()
        return OpenNative(source=task, description=description, settings=settings, folder=folder)
    return OpenNative(source=source, description=description, settings=settings, task=task)


@contextmanager
def open_engine(
    options: EngineOptions,
    training: OpenTraining,
    places: Places,
    *,
    device: str,
    modules: Sequence[ModuleType],
) -> Iterator[Engine]:
    """Opens the engine that was asked for, and closes what it opened.

    Args:
        options: which engine.
        training: opens what is trained.
        places: from `places_of`.
        device: from the settings of what is trained.
        modules: those that go to a cluster's nodes with what is trained.

    Raises:
        InputError: the engine cannot be used.
    """
    if isinstance(options, Local):
        gpus = options.chosen_gpus(visible_gpus(device))
        chosen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if options.gpus != "all" else {}
        with variables_set(chosen):  # for what is trained in this process
            shared = isinstance(training, OpenNative) and splits(training.source, device)
            yield LocalEngine(options, training, gpus=gpus, cores=num_cores() if shared else 1)
        return
    try:
        from lrtune.tuning.cluster import connect
        from lrtune.tuning.ray_engine import RayEngine
    except ImportError:
        raise InputError("the Ray engine needs Ray Tune: pip install 'lrtune[ray]'.") from None
    if isinstance(training, OpenNative) and (options.gpus_per_trial or 0) > 1:
        raise InputError(
            f"`gpus_per_trial <= 1` must hold for lrtune's own training loop, which uses one GPU, "
            f"but got {options.gpus_per_trial:g}. Search over a training command to use several."
        )
    if device == "cpu" and options.gpus_per_trial is None:
        options = replace(options, gpus_per_trial=0.0)
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    with connect(
        address, cpus_per_trial=options.cpus_per_trial, gpus_per_trial=options.gpus_per_trial
    ) as cluster:
        yield RayEngine(
            replace(options, storage_path=places.storage_path),
            training,
            cluster=cluster,
            probe=NativeStates(places.checkpoints(PROBES)),
            modules=modules,
            serializers=TENSORS,
        )


def places_of(options: EngineOptions, places: Places) -> Places:
    """Returns the places as all processes of an engine see them, on whatever node."""
    if isinstance(options, Local):
        return places
    home = Path(places.home).resolve()
    path = options.storage_path
    if path and "://" not in path:
        path = str(Path(path).resolve())
    return replace(places, home=home, storage_path=path or str(home / "checkpoints"))


def open_worker(
    name: str, places: Places, in_memory: bool, resumes: bool, lane: int, emit: Emit
) -> Worker:
    """Opens the worker of a lane on a study, in this process; see `OpenWorker`.

    Args:
        name: of the study.
        places: where it is.
        in_memory: whether its records are read once, since this process alone writes them.
        resumes: whether the training can go on from a state.
        lane: its number.
        emit: called with each event.
    """
    store = places.database().study(name)
    return Worker(
        name=this_worker(lane),
        store=Ledger(store) if in_memory else store,
        ask=ask,
        emit=_tidying(emit, places.checkpoints(name).drop),
        states=NativeStates(places.checkpoints(name)) if resumes else None,
    )


_COMMAND_LIMITS = (
    "A command cannot go on from a saved state: looks at a recipe are whole schedules in fewer "
    "epochs, and a run that is interrupted starts again."
)
_NO_PLATEAUS = (
    "Plateau decays are left out: they follow the metric during the run, and this one is read from "
    "what the command writes, while it trains on. `lrtune.report` in the command hands it over."
)
_ONE_PLACE = (
    "Several runs at once, and no {run_dir} in the command: if it writes to a fixed place, they "
    "overwrite each other's files."
)


def notes_before(options: EngineOptions, config: StudyConfig, facts: Facts) -> list[str]:
    """Returns notes to show before training: missing abilities, too many threads."""
    notes = limits(facts.abilities)
    if "command" in config.task:
        notes = [_COMMAND_LIMITS, *[_NO_PLATEAUS] * (not config.follows)]
        is_alone = isinstance(options, Local) and num_jobs(options, config.settings.device) == 1
        if not is_alone and not placeholders([config.task["command"]], ["run_dir"]):
            notes.append(_ONE_PLACE)
    if isinstance(options, Local):
        jobs = num_jobs(options, config.settings.device)
        threads, cores = config.settings.threads, num_cores()
        if jobs > 1 and jobs * threads > cores:
            notes.append(
                f"{jobs} jobs x {threads} threads > {cores} cores: fewer jobs may be faster. "
                "A study keeps its threads, since they move the last bits of "
                "its numbers."
            )
    return notes


def _tidying(emit: Emit, drop: Callable[[str], None]) -> Emit:
    """Wraps `emit` so that it drops the last checkpoint of each completed full run.

    No other run goes on from that checkpoint. The last one of a compressed run is kept, since a
    full run may go on from it: with a plateau decay both have the same LRs until the first drop.
    """

    def emit_and_tidy(event: Event) -> None:
        if isinstance(event, RunEnded):
            record = event.record
            if (record.run.kind, record.state) == ("full", "completed"):
                drop(record.measurements[-1].prefix)
        emit(event)

    return emit_and_tidy


def _here() -> str:
    """Returns the working directory; empty if it was removed, as Ray does after a job."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
