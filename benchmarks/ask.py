"""Measures what one turn of the engine costs as a study grows.

    python benchmarks/ask.py --json benchmarks/results/ask.json

Builds studies of made-up trials in a temporary database, through the store and the plan themselves,
and times the parts of one turn of the engine: reading the study, planning, asking the sampler,
recording an epoch.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrtune.core.objective import Objective
from lrtune.core.recipe import default_recipe
from lrtune.core.run import BASELINE, Measurement, Run
from lrtune.core.study import Rung, StudyConfig, StudyState, TrainSettings
from lrtune.decide.plan import next_run
from lrtune.decide.rungs import first_run, promotion
from lrtune.store.database import StudyDatabase, StudyStore
from lrtune.store.spaces import read_space
from lrtune.training.native.devices import describe_environment
from lrtune.tuning.sampler import ask

EPOCHS = 27
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
        found[num_trials] = measured = _measure(num_trials)
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


def _measure(num_trials: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        name, toml = read_space("default")
        config = StudyConfig(
            name="made-up", task={}, space_name=name, space_toml=toml, epochs=EPOCHS,
            steps_per_epoch=62, num_validation=4000,
            objective=Objective(num_counted=4000, guessing=10.0), rungs=Rung.parse("c1,c3,9"),
            baseline=default_recipe("sgd"),
        )  # fmt: skip
        store = StudyDatabase(f"sqlite:///{folder}/lrtune.db").open(config)
        state = _fill(store, num_trials)
        in_full = replace(
            state, config=replace(config, pruner="none", rungs=())
        )  # of several suggestions the cheapest
        run = first_run(state, num_trials, config.baseline)
        store.claim(run, "here/1/1.0")
        epochs = iter(range(1, 10**6))
        return {
            "read": _time(store.state),
            "plan": _time(lambda: next_run(state, lambda _state, _number: config.baseline)),
            "ask": _time(lambda: ask(state, num_trials)),
            "ask where epochs can be shared": _time(lambda: ask(in_full, num_trials)),
            "record": _time(lambda: store.record(run, _measured(next(epochs), 50.0))),
        }


def _fill(store: StudyStore, num_trials: int) -> StudyState:
    """Records trials of the sampler's first recipes, over and over.

    Their scores follow from the peak LR and the decay.
    """
    for seed in range(3):
        run = Run(
            id=f"baseline-{seed}", kind="baseline", trial=BASELINE, recipe=store.config.baseline,
            recipe_epochs=EPOCHS, horizon_epochs=EPOCHS, stop_epochs=EPOCHS, seed=seed + 1,
        )  # fmt: skip
        _record(store, run)
    state = store.state()
    recipes = [ask(state, number) for number in range(30)]
    number = 0
    while number < num_trials or promotion(state) is not None:
        run = promotion(state)
        if run is None:
            run = first_run(state, number, recipes[number % len(recipes)])
            number += 1
        _record(store, run)
        if number % 10 == 0 or number >= num_trials or promotion(state) is not None:
            state = store.state()
    return state


def _record(store: StudyStore, run: Run) -> None:
    store.claim(run, "here/1/1.0")
    store.record(run, _measured(run.stop_epochs, 40 + hash((run.recipe, run.trial)) % 5000 / 100))
    store.finish(run, "completed")


def _measured(epoch: int, top1: float) -> Measurement:
    return Measurement(
        epoch=epoch, step=epoch, lr_first=0.1, lr_last=0.1,
        metrics={"train_loss": 1.0, "val_loss": 1.0, "top1": top1, "averaged_top1": top1},
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
