"""Measures what one turn of the engine costs as a study grows.

    python benchmarks/ask.py --json benchmarks/results/ask.json

Builds studies of made-up trials in a temporary database, through the store and the plan themselves,
and times the parts of one turn of the engine: reading the study, planning, asking the sampler,
recording an epoch, and naming the best so far.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import Budget, StudyConfig, StudyState, TrainSettings
from lrtune.decide.looks import automatic_looks, look_at
from lrtune.decide.plan import next_run
from lrtune.decide.recommend import recommend
from lrtune.store.database import StudyDatabase, StudyStore
from lrtune.store.spaces import read_space
from lrtune.training.native.devices import describe_environment
from lrtune.tuning.sampler import ask

EPOCHS, STEPS_PER_EPOCH = 27, 62
REPEATS = 15


def main() -> None:
    """Times studies of growing length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    environment = dict(describe_environment(TrainSettings(threads=1), default_recipe("sgd")))
    for key, value in environment.items():
        print(f"{key}: {value}")
    print(f"\nmilliseconds, median [quartiles] of n = {REPEATS}")
    found = {}
    for num_trials in arguments.trials:
        found[num_trials] = measured = measure(num_trials)
        cells = (
            f"{name} {m:.1f} [{low:.1f}, {high:.1f}]" for name, (low, m, high) in measured.items()
        )
        print(f"{num_trials:5} trials: {', '.join(cells)}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {"benchmark": "ask", "environment": environment, "n": REPEATS, "ms": found},
                indent=1,
            )
            + "\n"
        )


def measure(num_trials: int) -> dict[str, list[float]]:
    """Quartiles in milliseconds of each part of a turn, in a study of so many trials."""
    with tempfile.TemporaryDirectory() as folder:
        name, toml = read_space("default")
        config = StudyConfig(
            name="made-up", task={}, space_name=name, space_toml=toml, epochs=EPOCHS,
            steps_per_epoch=STEPS_PER_EPOCH, num_validation=4000,
            objective=Objective(num_counted=4000, guessing=10.0), rank_by="val_loss:min",
            looks=automatic_looks(EPOCHS, STEPS_PER_EPOCH, seed=0),
            baseline=default_recipe("sgd"), budget=Budget(num_trials, "trials"),
        )  # fmt: skip
        store = StudyDatabase(f"sqlite:///{folder}/lrtune.db").open(config)
        state = _fill(store, num_trials)
        run = look_at(config, num_trials, config.baseline, 0)
        store.claim(run, "here/1/1.0")
        epochs = iter(range(1, 10**6))
        return {
            "read": _time(store.state),
            "plan": _time(lambda: next_run(state, _no_ask)),
            "ask": _time(lambda: ask(state, num_trials)),
            "name the best": _time(lambda: recommend(state)),
            "record": _time(lambda: store.record(run, _measured(next(epochs), 50.0))),
        }


def _fill(store: StudyStore, num_trials: int) -> StudyState:
    """Records the looks at trials of the sampler's first recipes, over and over.

    Their scores follow from the recipe and the trial. The race is still to come.
    """
    state = store.state()
    recipes = [ask(state, number) for number in range(30)]
    for number in range(num_trials):
        _record(store, look_at(store.config, number, recipes[number % len(recipes)], 0))
    while isinstance(run := next_run(state := store.state(), _no_ask), Run) and run.is_of_search:
        _record(store, run)
    return state


def _no_ask(state: StudyState, number: int) -> Recipe:
    return state.config.baseline


def _record(store: StudyStore, run: Run) -> None:
    store.claim(run, "here/1/1.0")
    store.record(run, _measured(run.stop_epochs, 40 + hash((run.recipe, run.trial)) % 5000 / 100))
    store.finish(run, "completed")


def _measured(epoch: int, top1: float) -> Measurement:
    return Measurement(
        epoch=epoch, step=epoch, lr_first=0.1, lr_last=0.1,
        metrics={"train_loss": 1.0, "val_loss": 1 - top1 / 100, "top1": top1},
        seconds=1.0, examples_per_s=1.0, ended_at=time.time(),
    )  # fmt: skip


def _time(function: Callable[[], Any]) -> list[float]:
    """Quartiles in milliseconds."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.quantiles(taken, n=4)


if __name__ == "__main__":
    main()
