"""A real Ray cluster of three nodes on this machine, started once."""

import os

import pytest

NODES = 3


@pytest.fixture(scope="session")
def ray_cluster():
    """Three nodes of one CPU each; tests may kill all but the first, and bring them back."""
    pytest.importorskip("ray")
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def three_nodes(ray_cluster):
    """The cluster, whole again."""
    while len(ray_cluster.worker_nodes) < NODES - 1:
        ray_cluster.add_node(num_cpus=1)
    return ray_cluster
