"""How many worker processes `--jobs auto` starts."""

import math
from types import SimpleNamespace

import psutil
import pytest

from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget, Look, NamedRecipe, TrainSettings
from lrtune.tuning.jobs import automatic_jobs
from tests.studies import state_of

LOOKS = (Look(1, seed=0, one_in=1), Look(3, seed=0, one_in=6), Look(3, seed=10_000, one_in=12))
SEARCH = {
    "epochs": 20, "looks": LOOKS, "budget": Budget(12, "trials"), "num_seeds": 3, "max_seeds": 8,
    "settings": TrainSettings(threads=1),
}  # fmt: skip
EPOCHS = 12 + 2 * 3 + 1 * 3 + 20 * (4 * 2 + 1)
"""Looks at 12 recipes, two rounds of four recipes, and a third run of the leader."""


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """Sets how many further processes of this size the memory holds."""

    def holds(number):
        available = int(number * psutil.Process().memory_info().rss * 1.01)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))

    holds(100)
    return holds


def jobs_of(*, cores=4, epoch_s=1.0, **changes):
    number, sentence = automatic_jobs(state_of(**SEARCH | changes), cores=cores, epoch_s=epoch_s)
    assert sentence.startswith(f"{number} job")
    return number, sentence


def test_as_many_as_the_cores_feed():
    assert jobs_of(cores=4)[0] == 4
    assert jobs_of(cores=4, settings=TrainSettings(threads=2))[0] == 2
    assert jobs_of(cores=4, settings=TrainSettings(threads=9))[0] == 1
    assert jobs_of(cores=4, settings=TrainSettings(threads=0))[0] == 4


def test_no_more_than_can_look_at_recipes_at_the_same_time():
    assert jobs_of(cores=64)[0] == 8
    assert jobs_of(cores=64, lag=3)[0] == 3


def test_no_more_than_the_memory_holds(memory):
    memory(1)
    assert jobs_of(cores=4)[0] == 2
    memory(0)
    assert jobs_of(cores=4)[0] == 1


def test_one_where_little_is_left_to_train():
    number, sentence = jobs_of(epoch_s=19 / EPOCHS)
    assert (number, "only 19 s of training" in sentence) == (1, True)
    number, sentence = jobs_of(epoch_s=21 / EPOCHS)
    assert (number, "about 1 minute of training" in sentence) == (4, True)
    assert "about 3 hours" in jobs_of(epoch_s=3 * 3600 / EPOCHS)[1]
    assert "not known" in jobs_of(epoch_s=math.nan)[1]


def test_a_budget_in_time_says_itself_what_is_left():
    assert jobs_of(epoch_s=math.nan, budget=Budget(60, "seconds"))[0] == 4
    assert jobs_of(epoch_s=0.001, budget=Budget(19, "seconds"))[0] == 1


def test_a_comparison_trains_every_recipe_at_least_so_often():
    named = tuple(
        NamedRecipe(name=str(i), recipe=Recipe(peak_lr=lr)) for i, lr in enumerate((0.1, 0.2))
    )
    state = state_of(**SEARCH | {"looks": (), "recipes": named})
    assert state.config.is_comparison
    runs_s = 3 * 3 * 20  # three recipes, the baseline among them, with three seeds
    assert automatic_jobs(state, cores=2, epoch_s=21 / runs_s)[0] == 2
    assert automatic_jobs(state, cores=2, epoch_s=19 / runs_s)[0] == 1
