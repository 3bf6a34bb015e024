"""A minimised metric with a known best LR: every sampler finds it, on the local engine."""

from statistics import median
from typing import get_args

import pytest

from lrtune.core.engines import Local
from lrtune.core.study import SamplerName
from lrtune.tuning.local import LocalEngine
from tests.tuning.fake_objective import OpenWorker, open_store
from tests.tuning.made_up_loss import OpenMadeUpLoss, factor_of, make_loss_config


@pytest.mark.slow
@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_a_search_comes_within_a_factor_of_two_of_the_best_lr(sampler, tmp_path):
    factors = []
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        url = f"sqlite:///{folder / 'lrtune.db'}"
        store = open_store(url, make_loss_config(sampler=sampler, seed=seed))
        engine = LocalEngine(Local(), OpenMadeUpLoss())
        done = engine.work(OpenWorker(url, folder / "states"), lambda event: None)
        assert not done.failed
        assert store.state().spent("trials") == 40
        factors.append(factor_of(store))
    assert median(factors) <= 2
