"""Training without training on a cluster, where things go wrong on purpose.

Workers import this by name. A measurement's `examples_per_s` is the id of the process that it comes
from.
"""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from lrtune.core.engines import Ray
from lrtune.core.errors import TaskError, TrialError
from lrtune.core.training import Devices
from lrtune.store.checkpoints import CheckpointStore
from lrtune.store.ledger import Ledger
from lrtune.store.remote import PatientCheckpoints
from lrtune.tuning.cluster import connect
from lrtune.tuning.cluster_runs import ClusterRuns
from lrtune.tuning.tune import train_on_cluster
from tests.tuning.fake_objective import FakeTraining, make_worker, train
from tests.tuning.fake_training import MiniStates, StatesOnDisk


@dataclass(frozen=True)
class OpenFake:
    """Opens made-up training. `folder` holds a file for each misfortune that has struck already."""

    folder: Path
    epoch_s: float = 0.0
    hangs: str = ""
    """Run that hangs in its third epoch, as often as `times` says."""
    times: int = 1
    fails: str = ""
    """Run that fails in its second epoch, out of memory for example."""
    task_fails: bool = False
    """Whether the task never trains an epoch."""

    def __call__(self, devices):
        return FakeTraining(self.train)

    def train(self, run, first):
        for measured in train(run, first):
            time.sleep(self.epoch_s)
            if self.task_fails:
                raise TaskError("the task is broken")
            if (run.id, measured.epoch) == (self.fails, 2):
                raise TrialError("out of memory on cpu")
            if (run.id, measured.epoch) == (self.hangs, 3) and self._strikes("hang"):
                time.sleep(3600)
            yield replace(measured, examples_per_s=float(os.getpid()))

    def _strikes(self, what):
        for count in range(self.times):
            try:
                (self.folder / f"{what}-{count}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


class NotShared(MiniStates):
    """States that no other process sees."""

    def __reduce__(self):
        return NotShared, ()


def url_of(folder):
    return f"sqlite:///{folder / 'lrtune.db'}"


def states_in(folder):
    """States in a folder that all nodes see, and that may go away for a while."""
    return StatesOnDisk(PatientCheckpoints(CheckpointStore(folder)))


def work_on_cluster(store, opening, address, *, emit=lambda event: None, **options):
    """Trains a study on a cluster; also the runs, for what they counted."""
    worker = make_worker(Ledger(store), states=states_in(opening.folder / "states"), emit=emit)
    ray, training = Ray(**options), opening(Devices())
    runs = ClusterRuns(
        worker, facts=training.facts, identify=training.identity, max_retries=ray.max_retries
    )
    with connect(address, cpus_per_trial=ray.cpus_per_trial, gpus_per_trial=0) as cluster:
        done = train_on_cluster(
            runs, opening, worker.states, cluster=cluster, options=ray, emit=emit
        )
    return done, runs


def records_of(store):
    """Everything recorded but the processes and the retries; nan to be compared as well."""
    return sorted(
        repr(replace(r, retries=0, measurements=from_anywhere(r.measurements)))
        for r in store.state().records
    )


def from_anywhere(measurements):
    """Measurements without the processes that they come from."""
    return tuple(replace(m, examples_per_s=100.0) for m in measurements)


def processes_of(store):
    """The processes that trained each run, in order."""
    return {
        r.run.id: list(dict.fromkeys(int(m.examples_per_s) for m in r.measurements))
        for r in store.state().records
    }


def node_of(pid):
    """The raylet, and so the node, that a worker process belongs to."""
    return psutil.Process(pid).ppid()
