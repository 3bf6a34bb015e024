"""A minimised metric with a known best LR: every sampler finds it, on a cluster too."""

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import pytest

pytest.importorskip("ray")

from lrtune.core.study import SamplerName
from tests.cluster.fake_training import url_of, work_on_cluster
from tests.tuning.fake_objective import open_store
from tests.tuning.made_up_loss import OpenMadeUpLoss, factor_of, make_loss_config

NUM_SEEDS = 5 if "LRTUNE_EXPLORE" in os.environ else 1
"""One takes half a minute. At one slot a cluster's study is that of the local engine, which is
tested with five."""
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Opening(OpenMadeUpLoss):
    """With a folder that all nodes see."""

    folder: Path


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_a_search_comes_within_a_factor_of_two_of_the_best_lr(sampler, three_nodes, tmp_path):
    factors = []
    for seed in range(NUM_SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        store = open_store(url_of(folder), make_loss_config(sampler=sampler, seed=seed))
        done, _ = work_on_cluster(store, Opening(folder), three_nodes.address)
        assert not done.failed
        assert store.state().spent("trials") == 40
        factors.append(factor_of(store))
    assert median(factors) <= 2
