"""Training without training on a cluster, where things go wrong on purpose; workers import this by name.

A measurement's `images_per_s` is the id of the process that it comes from.
"""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from lrtune.core.engines import Ray
from lrtune.core.errors import TaskError, TrialError
from lrtune.store.ledger import Ledger
from lrtune.store.workers import this_worker
from lrtune.tuning.cluster import connect
from lrtune.tuning.engine import Bench
from lrtune.tuning.sampler import ask
from lrtune.tuning.sweep import Sweep
from lrtune.tuning.tune import sweep_cluster
from tests.tuning.fake_objective import measurement


@dataclass(frozen=True)
class Training:
    """Opens made-up training. `folder` holds a file for each misfortune that has struck already."""

    folder: Path
    epoch_s: float = 0.0
    hangs: str = ""
    """Run that hangs in its third epoch, as often as `times` says."""
    times: int = 1
    fails: str = ""
    """Run that fails in its second epoch, out of memory say."""
    task_fails: bool = False
    """Whether the task never trains an epoch."""

    def __call__(self):
        return self.train

    def train(self, assignment):
        run = assignment.run
        for epoch in range(1, run.stop_epochs + 1):
            if epoch > assignment.num_recorded:
                time.sleep(self.epoch_s)
                if self.task_fails:
                    raise TaskError("the task is broken")
                if (run.id, epoch) == (self.fails, 2):
                    raise TrialError("out of memory on cpu")
                if (run.id, epoch) == (self.hangs, 3) and self._strikes("hang"):
                    time.sleep(3600)
            yield replace(measurement(run, epoch), images_per_s=float(os.getpid()))

    def _strikes(self, what):
        for count in range(self.times):
            try:
                (self.folder / f"{what}-{count}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def url_of(folder):
    return f"sqlite:///{folder / 'lrtune.db'}"


def sweep(store, training, address, *, emit=lambda event: None, ground=lambda run: "", **options):
    """Trains a study on a cluster; also the sweep, for what it counted."""
    bench = Bench(store=Ledger(store), worker=this_worker(), ask=ask, emit=emit)
    ray = Ray(**options)
    one = Sweep(bench, ground=ground, max_retries=ray.max_retries)
    with connect(address, cpus_per_trial=ray.cpus_per_trial, gpus_per_trial=0) as cluster:
        done = sweep_cluster(one, training, cluster, ray, emit)
    return done, one


def records_of(store):
    """Everything recorded but the processes and the retries; nan to be compared as well."""
    records = store.state().records
    return sorted(
        repr(
            replace(
                r,
                retries=0,
                measurements=tuple(replace(m, images_per_s=100.0) for m in r.measurements),
            )
        )
        for r in records
    )


def processes_of(store):
    """The processes that trained each run, in order."""
    return {
        r.run.id: list(dict.fromkeys(int(m.images_per_s) for m in r.measurements))
        for r in store.state().records
    }


def node_of(pid):
    """The raylet, and so the node, that a worker process belongs to."""
    return psutil.Process(pid).ppid()
