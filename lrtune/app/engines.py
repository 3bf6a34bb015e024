"""Where a study's training happens: in this process and its children, or on a Ray cluster."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lrtune import worker
from lrtune.app.arguments import num_cores
from lrtune.app.places import Places
from lrtune.core.engines import Engine, Local, Ray
from lrtune.core.errors import InputError
from lrtune.core.events import Event, Note, RunEnded
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import RangeResult, StudyConfig, StudyState, TrainSettings
from lrtune.decide.plan import Done, outcome
from lrtune.store.database import StudyStore
from lrtune.store.ledger import Ledger
from lrtune.store.workers import this_worker
from lrtune.training.calibration import calibrate_lanes
from lrtune.training.environment import describe_environment
from lrtune.training.loop import Trainer
from lrtune.training.range_test import task_range_test
from lrtune.training.sharing import TENSORS
from lrtune.training.task import Task, TaskSource, load_task, modules_of
from lrtune.tuning import reuse
from lrtune.tuning.engine import Bench, Emit
from lrtune.tuning.local import Workbench, work_in_lanes, work_side_by_side
from lrtune.tuning.sampler import ask

if TYPE_CHECKING:
    from lrtune.tuning.cluster import Cluster


class LocalSite:
    """This machine."""

    def __init__(
        self, engine: Local, trainer: Trainer, source: TaskSource, recipe: Recipe, places: Places
    ):
        self._engine, self._trainer, self._source, self.places = engine, trainer, source, places
        self.steps_per_epoch = trainer.steps_per_epoch
        self.num_validation = trainer.validation.num_images
        lanes = engine.lanes
        if lanes != "auto" and int(lanes) > 1 and (reason := trainer.why_eager(recipe)):
            raise InputError(
                f"`lanes` above 1 need trials that CUDA graphs can hold, but got {lanes}, and {reason}."
            )

    @property
    def device(self) -> str:
        """What trains there, in words."""
        return f"{self._trainer.device}, {self._trainer.arithmetic.name}"

    def use(self, settings: TrainSettings) -> None:
        """Trains with these settings from now on."""
        if settings != self._trainer.settings:
            self._trainer = Trainer(self._trainer.task, settings)

    def environment(self, recipe: Recipe) -> worker.Environment:
        """Hardware and versions there."""
        return describe_environment(self._trainer.settings, recipe)

    def range_test(self, recipe: Recipe, seeds: Sequence[int]) -> RangeResult:
        """A range test of the recipe's optimizer."""
        return task_range_test(self._trainer, recipe, seeds=seeds)

    def work(self, store: StudyStore, emit: Emit) -> Done:
        """Trains until nothing is left to start in the study."""
        if done := outcome(store.state()):
            return done
        name = store.config.name
        if self._engine.jobs == 1:
            num_lanes = self._num_lanes(store.config.baseline, emit)
            return work_in_lanes(
                partial(_open_lane, name, self._trainer, self.places), num_lanes, emit
            )
        jobs, threads, cores = self._engine.jobs, store.config.settings.threads, num_cores()
        if jobs * threads > cores:
            kept = "a study keeps its threads, since they move the last bits of its numbers"
            emit(
                Note(
                    f"{jobs} jobs x {threads} threads > {cores} cores: fewer jobs may be faster ({kept})"
                )
            )
        return work_side_by_side(
            partial(_open_workbench, name, self._source, self.places), jobs, emit
        )

    def test_top1s(self, keys: Sequence[str], study: str) -> dict[str, float]:
        """Top-1 on the test images, percent, of a study's states under `keys`, as far as they are there."""
        return worker.test_top1s(self._trainer, keys, self.places.checkpoints(study))

    def _num_lanes(self, recipe: Recipe, emit: Emit) -> int:
        """How many trials share the GPU. Says so, and where they cannot, why."""
        if self._engine.lanes != "auto":
            return int(self._engine.lanes)
        num_lanes = calibrate_lanes(self._trainer, recipe)
        if self._trainer.device.type == "cuda":
            reason = self._trainer.why_eager(recipe)
            emit(
                Note(
                    f"training eagerly, one trial at a time: {reason}"
                    if reason
                    else f"lanes: {num_lanes}"
                )
            )
        return num_lanes


class RaySite:
    """A Ray cluster. The data are read here, once, and lie in each node's object store."""

    def __init__(
        self,
        engine: Ray,
        cluster: "Cluster",
        task: Task,
        source: TaskSource,
        settings: TrainSettings,
        places: Places,
    ):
        from lrtune.tuning.cluster import share

        self._engine, self._cluster = engine, cluster
        self.places = replace(
            places,
            home=places.home.resolve(),
            storage_path=_absolute(engine.storage_path)
            or str(places.home.resolve() / "checkpoints"),
        )
        shared = share(task, modules=modules_of(source), serializers=TENSORS)
        self._task = worker.SharedTask(shared, settings, _here(), self.places.storage_path)
        counting = Trainer(task, replace(settings, device="cpu", precision="fp32", threads=0))
        self.steps_per_epoch = counting.steps_per_epoch
        self.num_validation = counting.validation.num_images
        self._check_storage()
        self._environments = cluster.call(partial(worker.environments, settings))

    @property
    def device(self) -> str:
        """See `LocalSite`."""
        found = next(iter(self._environments.values()))
        return f"Ray, {self._cluster.described()}; {found['Device']}, {found['Precision']}"

    def use(self, settings: TrainSettings) -> None:
        """See `LocalSite`."""
        if settings != self._task.settings:
            self._task = replace(self._task, settings=settings)
            self._environments = self._cluster.call(partial(worker.environments, settings))

    def environment(self, recipe: Recipe) -> worker.Environment:
        """See `LocalSite`."""
        found = self._environments[recipe.optimizer]
        return {**found, "Cluster": f"Ray {version('ray')}, {self._cluster.described()}"}

    def range_test(self, recipe: Recipe, seeds: Sequence[int]) -> RangeResult:
        """See `LocalSite`."""
        return self._cluster.call(partial(worker.range_test, self._task, recipe, seeds))

    def work(self, store: StudyStore, emit: Emit) -> Done:
        """See `LocalSite`."""
        from lrtune.tuning.sweep import Sweep
        from lrtune.tuning.tune import sweep_cluster

        if done := outcome(store.state()):
            return done
        bench = Bench(
            store=Ledger(store),
            worker=this_worker(),
            ask=ask,
            emit=_tidying(emit, store.config, self.places),
        )

        def ground(run: Run) -> str:
            return worker.ground_of(store.config, run, self._environments[run.recipe.optimizer])

        sweep = Sweep(bench, ground=ground, max_retries=self._engine.max_retries)
        open_training = partial(worker.open_training, self._task, store.config)
        return sweep_cluster(sweep, open_training, self._cluster, self._engine, emit)

    def test_top1s(self, keys: Sequence[str], study: str) -> dict[str, float]:
        """See `LocalSite`."""
        return self._cluster.call(partial(worker.shared_test_top1s, self._task, keys, study))

    def _check_storage(self) -> None:
        """Whether every node sees what is written here, and has the same lrtune and torch.

        Raises:
            InputError: the nodes that do not, by name.
        """
        name = f"probe-{uuid.uuid4().hex}"
        checkpoints = self.places.checkpoints(worker.PROBES)
        checkpoints.save(name, b"", 0)
        try:
            answers = self._cluster.call_everywhere(
                partial(worker.look_around, self.places.storage_path, name)
            )
        finally:
            checkpoints.drop(name)
        problems = []
        for node, (theirs, is_shared) in answers.items():
            problems += [
                f"node {node} has {package} {theirs[package]}, but this machine has {ours}."
                for package, ours in worker.versions().items()
                if theirs[package] != ours
            ]
            if not is_shared:
                where = self.places.storage_path
                problems.append(
                    f"`storage_path` must be shared by all nodes, but node {node} does not see what is written to "
                    f"{where} here: give a shared folder, or a URL such as s3://bucket/path."
                )
        if problems:
            raise InputError(problems)


Site = LocalSite | RaySite
"""A place that is ready to train one task."""


@contextmanager
def open_site(
    engine: Engine,
    task: Task,
    source: TaskSource,
    settings: TrainSettings,
    recipe: Recipe,
    places: Places,
) -> Iterator[Site]:
    """Makes a place ready.

    Raises:
        InputError: it cannot be had.
    """
    if isinstance(engine, Local):
        yield LocalSite(engine, Trainer(task, settings), source, recipe, places)
        return
    try:
        from lrtune.tuning import cluster
    except ImportError:
        raise InputError("the Ray engine needs Ray Tune: pip install 'lrtune[ray]'.") from None
    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    gpus = (
        0.0 if settings.device == "cpu" and engine.gpus_per_trial is None else engine.gpus_per_trial
    )
    with cluster.connect(
        address, cpus_per_trial=engine.cpus_per_trial, gpus_per_trial=gpus
    ) as found:
        yield RaySite(engine, found, task, source, settings, places)


def _workbench(
    store: StudyStore, trainer: Trainer, places: Places, emit: Emit, lane: int = 0
) -> Workbench:
    config = store.config
    states = worker.States(places.checkpoints(config.name))

    def train(run: Run, study: StudyState) -> Iterator[Measurement]:
        return reuse.train(
            run, worker.ground_here(config, run), reuse.known_measurements(study), trainer, states
        )

    return Workbench(
        store=store,
        worker=this_worker(lane),
        train=train,
        ask=ask,
        emit=_tidying(emit, config, places),
    )


def _tidying(emit: Emit, config: StudyConfig, places: Places) -> Emit:
    """Drops the last state of a trial's completed full run: no run goes on from there.

    That of a compressed run may be on the way of a full one: a plateau has the same LRs until its
    first drop.
    """
    checkpoints = places.checkpoints(config.name)

    def emit_and_tidy(event: Event) -> None:
        if isinstance(event, RunEnded) and (event.record.run.kind, event.record.state) == (
            "full",
            "completed",
        ):
            checkpoints.drop(event.record.measurements[-1].prefix)
        emit(event)

    return emit_and_tidy


def _open_lane(name: str, trainer: Trainer, places: Places, lane: int, emit: Emit) -> Workbench:
    """The workbench of one lane; all lanes share the trainer."""
    store = places.database().study(name)
    return _workbench(store, trainer, places, emit, lane)


def _open_workbench(name: str, source: TaskSource, places: Places, emit: Emit) -> Workbench:
    """A workbench in a new process."""
    store = places.database().study(name)
    trainer = Trainer(load_task(source), store.config.settings)
    return _workbench(store, trainer, places, emit)


def _absolute(path: str) -> str:
    """A path as every process sees it; URLs, and no path, as they are."""
    return str(Path(path).resolve()) if path and "://" not in path else path


def _here() -> str:
    """The working directory; empty where it was removed, as Ray does with a job's if its nodes share a machine."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
