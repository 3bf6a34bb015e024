"""A Ray cluster: starts or finds one, tells what its nodes can hold, and calls functions there."""

import logging
import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lrtune.core.errors import InputError, LrtuneError, TaskError, first_line
from lrtune.core.urls import shown, without

Result = TypeVar("Result")
Serializer = tuple[Callable[[Any], Any], Callable[[Any], Any]]
PROBE_S = 180.0
"""How long a node may take to do something for the first time."""
ANSWER_S = 5.0
"""How long a cluster may take to answer."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection to a cluster, and what each trial is given there."""

    request: Mapping[str, float]
    """Of each resource, in Ray's words: `CPU`, `GPU`."""

    def num_slots(self) -> int:
        """Trials that the nodes which are there now can hold side by side."""
        return sum(_fitting(node, self.request) for node in _nodes())

    def described(self) -> str:
        """What the nodes have: `2 nodes: 16 CPU, 1 GPU; 4 CPU`."""
        nodes = [_in_words(node) for node in _nodes()]
        counted = [
            f"{nodes.count(node)} x {node}" if nodes.count(node) > 1 else node
            for node in dict.fromkeys(nodes)
        ]
        return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {'; '.join(counted)}"

    def call(self, function: Callable[[], Result]) -> Result:
        """Calls a function where a trial would run, and waits for what it returns.

        Raises:
            LrtuneError: what the function raised, or that its worker died.
        """
        remote = ray.remote(num_cpus=self.request["CPU"], num_gpus=self.request["GPU"])(_call)
        result: Result = _awaited(remote.remote(function))
        return result

    def call_everywhere(self, function: Callable[[], Result]) -> dict[str, Result]:
        """Calls a function on every node at once.

        Returns:
            What the nodes return, by their names.

        Raises:
            InputError: nodes cannot call it, for example because they lack packages; all of them
                are named.
        """
        remote = ray.remote(num_cpus=0, max_retries=0)(_call)
        asked = {}
        for node in _nodes():
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            address = f"{node['NodeManagerAddress']}, {node['NodeID'][:6]}"
            name = f"{node['NodeManagerHostname']} ({address})"
            asked[name] = remote.options(scheduling_strategy=on_node).remote(function)
        answers, problems = {}, []
        for name, answer in asked.items():
            try:
                answers[name] = ray.get(answer, timeout=PROBE_S)
            except RayError as error:
                problems.append(f"node {name} cannot do what a trial needs: {_cause(error)}.")
        if problems:
            raise InputError(problems)
        return answers


@contextmanager
def connect(
    address: str, *, cpus_per_trial: float, gpus_per_trial: float | None
) -> Iterator[Cluster]:
    """A cluster of one's own on this machine, or one that is there; what was started here is ended.

    Args:
        address: `local`, `auto` for the one that this machine is a node of, or `host:port`.
        cpus_per_trial: also fractions.
        gpus_per_trial: also fractions; `None`: one, where the cluster has any.

    Raises:
        InputError: there is no such cluster, or none of its nodes can ever hold a trial.
    """
    if address.startswith("ray://"):
        raise InputError(
            "`address` must be that of a cluster which this machine is a node of, but got a Ray "
            f"Client's, {shown(address)!r}: from outside, submit a job: ray job submit --address "
            "http://HEAD:8265 -- lrtune search ..."
        )
    ours = not ray.is_initialized()
    if ours:
        _start(address)
    try:
        has_gpus = any(node["Resources"].get("GPU") for node in _nodes())
        gpus = gpus_per_trial if gpus_per_trial is not None else float(has_gpus)
        cluster = Cluster(request={"CPU": cpus_per_trial, "GPU": gpus})
        if not cluster.num_slots():
            wanted = _in_words({"Resources": cluster.request})
            raise InputError(
                f"a trial asks for {wanted}, which no node has; "
                f"the cluster has {cluster.described()}."
            )
        yield cluster
    finally:
        if ours:
            ray.shutdown()


def share(
    value: Any,
    *,
    modules: Sequence[ModuleType] = (),
    serializers: Mapping[type, Serializer] | None = None,
) -> Any:
    """Puts a value into the object store, once for all workers of a node.

    Args:
        value: what to share; numpy arrays in it are not copied out of the store.
        modules: whose functions and classes go with it, since workers cannot import them.
        serializers: of each type, how to take it apart into values that can be shared, and how to
            put it together.

    Raises:
        TaskError: it holds something that cannot be sent to another process.
    """
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    for kind, (take_apart, put_together) in (serializers or {}).items():
        ray.util.register_serializer(kind, serializer=take_apart, deserializer=put_together)
    try:
        return ray.put(value)
    except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
        raise TaskError(
            f"the task cannot be sent to the workers of a cluster: {first_line(error)}"
        ) from error
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)
        for kind in serializers or {}:
            ray.util.deregister_serializer(kind)


def _start(address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _check_that_it_answers(address)
            ray.init(address=address, **quiet)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = without(address, first_line(error))
        raise InputError(
            f"`address` must be that of a running Ray cluster, but got {shown(address)!r}: {reason}"
        ) from None


def _check_that_it_answers(address: str) -> None:
    """Whether anybody listens there: Ray itself would try for minutes, and then end the process.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    if address == "auto":
        noted = (
            Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
            / "ray"
            / "ray_current_cluster"
        )
        address = os.environ.get("RAY_ADDRESS") or (
            noted.read_text(encoding="utf-8").strip() if noted.exists() else ""
        )
        if not address:
            return  # Ray looks through the processes of this machine, and answers at once
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        raise ValueError("it is neither auto, nor local, nor host:port.")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        reason = f"nobody answers at {shown(address)} ({error.strerror or error})."
        raise ConnectionError(reason) from None


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _fitting(node: Mapping[str, Any], request: Mapping[str, float]) -> int:
    """Trials that a node can hold side by side."""
    shares = [
        node["Resources"].get(name, 0.0) / amount for name, amount in request.items() if amount
    ]
    return int(min(shares) + 1e-9) if shares else 1


def _in_words(node: Mapping[str, Any]) -> str:
    resources = node["Resources"]
    return ", ".join(f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))


def _call(function: Callable[[], Result]) -> Result:
    return function()


def _awaited(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, LrtuneError):
            raise error.cause from None
        raise LrtuneError(f"a worker of the cluster failed: {_cause(error)}.") from error
    except RayError as error:
        raise LrtuneError(f"a worker of the cluster failed: {_cause(error)}.") from None


def _cause(error: RayError) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {first_line(cause)}"
