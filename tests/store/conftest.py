"""A study in a real database file, and runs of it."""

import pytest

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import StudyConfig
from lrtune.store.database import StudyDatabase


@pytest.fixture
def make_config():
    def make(**changes):
        values = {
            "name": "study", "task": {"data": "digits", "model": "mlp"}, "baseline": Recipe(),
            "space_name": "quick", "space_toml": "[parameters]",
            "epochs": 4, "steps_per_epoch": 10, "num_validation": 100,
            "objective": Objective(num_counted=100, guessing=10.0),
        }  # fmt: skip
        return StudyConfig(**values | changes)

    return make


@pytest.fixture
def make_run():
    def make(run_id="trial-0000", **changes):
        values = {
            "id": run_id, "kind": "full", "trial": 0,
            "recipe": Recipe(decay=Plateau(patience_epochs=2)),
            "recipe_epochs": 4, "horizon_epochs": 4, "stop_epochs": 4, "seed": 0,
        }  # fmt: skip
        return Run(**values | changes)

    return make


@pytest.fixture
def measured():
    def make(epoch, **changes):
        values = {
            "epoch": epoch, "step": 10 * epoch, "lr_first": 0.1, "lr_last": 0.05,
            "metrics": {"train_loss": 2.0 / epoch, "val_loss": 2.1 / epoch, "top1": 20.0 * epoch},
            "seconds": 0.5, "examples_per_s": 1e3, "ended_at": 1.7e9 + epoch,
        }  # fmt: skip
        return Measurement(**values | changes)

    return make


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lrtune.db"


@pytest.fixture
def database(path):
    return StudyDatabase(f"sqlite:///{path}")


@pytest.fixture
def store(database, make_config):
    database.create(make_config())
    return database.study("study")
