"""The Ray engine: runs happen on the nodes of a Ray cluster.

The training is opened there. What opens it, with all its data, lies once in each node's object
store.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from operator import methodcaller
from types import ModuleType

from lrtune.core.engines import Ray
from lrtune.core.errors import InputError
from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe
from lrtune.core.study import RangeCurve
from lrtune.core.training import Environment, Facts, OpenTraining, States
from lrtune.core.urls import shown
from lrtune.decide.plan import Done
from lrtune.tuning.cluster import Cluster, Serializer, share
from lrtune.tuning.cluster_runs import ClusterRuns
from lrtune.tuning.engine import Emit, OpenWorker, test_states
from lrtune.tuning.trainable import SharedTraining, look_around, statements, versions, with_training
from lrtune.tuning.tune import train_on_cluster


class RayEngine:
    """Trains on a cluster; see `Engine`.

    Args:
        options: resources, retries, and where states are kept.
        open_training: opens what is trained in each worker process.
        cluster: the connection to it.
        probe: a place for states like the one of a study, to see whether all nodes share it.
        modules: whose functions and classes go with the training, since workers cannot import them.
        serializers: see `share`.

    Raises:
        InputError: nodes with other versions, or which do not see the states; all of them by name.
        TaskError: the training holds something that cannot be sent to another process.
    """

    def __init__(
        self,
        options: Ray,
        open_training: OpenTraining,
        *,
        cluster: Cluster,
        probe: States,
        modules: Sequence[ModuleType] = (),
        serializers: Mapping[type, Serializer] | None = None,
    ):
        self._options, self._cluster = options, cluster
        self._modules, self._serializers = modules, serializers
        self._check_nodes(probe)
        self.use(open_training)

    @property
    def facts(self) -> Facts:
        """See `Engine`."""
        device = f"Ray, {self._cluster.described()}; {self._statements.facts.device}"
        return replace(self._statements.facts, device=device)

    def use(self, open_training: OpenTraining) -> None:
        """See `Engine`."""
        shared = share(open_training, modules=self._modules, serializers=self._serializers)
        self._open_training = SharedTraining(shared)
        self._statements = self._cluster.call(
            partial(with_training, self._open_training, statements)
        )

    def environment(self, recipe: Recipe) -> Environment:
        """See `Engine`."""
        cluster = f"Ray {version('ray')}, {self._cluster.described()}"
        return {**self._statements.environments[recipe.optimizer], "Cluster": cluster}

    def sweep(self, recipe: Recipe, *, seed: int) -> RangeCurve:
        """See `Engine`."""
        sweep = methodcaller("sweep", recipe, seed=seed)
        curve: RangeCurve = self._cluster.call(partial(with_training, self._open_training, sweep))
        return curve

    def work(self, open_worker: OpenWorker, emit: Emit) -> Done:
        """See `Engine`. This process is the only worker."""
        worker = open_worker(0, emit)
        runs = ClusterRuns(
            worker,
            facts=self._statements.facts,
            identify=lambda recipe: self._statements.identities[recipe.optimizer],
            max_retries=self._options.max_retries,
        )
        return train_on_cluster(
            runs,
            self._open_training,
            worker.states,
            cluster=self._cluster,
            options=self._options,
            emit=emit,
        )

    def test(self, keys: Sequence[str], states: States) -> dict[str, Metrics]:
        """See `Engine`."""
        test = partial(test_states, keys=keys, states=states)
        return self._cluster.call(partial(with_training, self._open_training, test))

    def _check_nodes(self, probe: States) -> None:
        """Whether every node sees the states that are saved here, and has the same versions.

        Raises:
            InputError: the nodes that do not, by name.
        """
        key = f"probe-{uuid.uuid4().hex}"
        probe.save(key, {}, 0)
        try:
            answers = self._cluster.call_everywhere(partial(look_around, probe, key))
        finally:
            probe.drop(key)
        problems = []
        for node, (theirs, is_shared) in answers.items():
            problems += [
                f"node {node} has {package} {theirs[package]}, but this machine has {ours}."
                for package, ours in versions().items()
                if theirs[package] != ours
            ]
            if not is_shared:
                problems.append(
                    f"`storage_path` must be shared by all nodes, but node {node} does not see "
                    f"what is written to {shown(self._options.storage_path)} here: give a shared "
                    "folder, or a URL such as s3://bucket/path."
                )
        if problems:
            raise InputError(problems)
