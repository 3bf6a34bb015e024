"""Makes the bank: a table of real trainings, for judging search strategies without training again.

    python -m benchmarks.bank.make --jobs 2

Trains every recipe of `recipes.py` at each horizon, its schedule compressed, and at the shortest
two horizons with more seeds; the best third of each optimizer in full with four more seeds, since
the best of many runs is partly luck. One row an epoch goes to `curves.csv` beside this file. Stop
it at any time: it goes on with the runs that the table lacks. About two and a half hours on two
cores. `--only` leaves the other parts for later.
"""

import argparse
import csv
import json
import math
import multiprocessing
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.bank.recipes import EPOCHS, HORIZONS, SETTINGS, bank_task, described, recipes
from benchmarks.loops.runs import train
from lrtune.core.run import Run
from lrtune.training.native.devices import describe_environment
from lrtune.training.native.loop import NativeTraining

FOLDER = Path(__file__).parent
CURVES = FOLDER / "curves.csv"
KEY = ["recipe", "seed", "horizon"]
COLUMNS = [
    *KEY,
    "epoch",
    "train_loss",
    "val_loss",
    "top1",
    "averaged_val_loss",
    "averaged_top1",
    "seconds",
]
LOOKS = ((3, 1), (1, 1), (1, 2), (3, 2), (1, 3), (1, 4))
"""Horizons and further seeds of every recipe, the most useful first."""
Job = tuple[int, int, int]
"""Recipe, seed, horizon."""


def main() -> None:
    """Trains what the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=[part.__name__ for part in PARTS])
    arguments = parser.parse_args()
    _describe(FOLDER / "bank.json")
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, initializer=_open) as pool:
        for wanted in PARTS:
            missing = [] if arguments.only not in (None, wanted.__name__) else list(wanted())
            for done, rows in enumerate(pool.imap_unordered(_train, missing), 1):
                _append(rows)
                print(f"\r{wanted.__name__}: {done} of {len(missing)} runs", end="", flush=True)
            print()


def _describe(file: Path) -> None:
    """Writes what the table holds, and adds this machine to those that trained parts of it."""
    environment = dict(describe_environment(SETTINGS, recipes()[0]))
    before = json.loads(file.read_text())["environments"] if file.exists() else []
    environments = [*(other for other in before if other != environment), environment]
    file.write_text(json.dumps(described() | {"environments": environments}, indent=2) + "\n")


def first_seed() -> Iterator[Job]:
    """Every recipe at every horizon."""
    there = _there()
    for number in _shuffled(len(recipes())):
        yield from (
            (number, 0, horizon) for horizon in HORIZONS if (number, 0, horizon) not in there
        )


def looks() -> Iterator[Job]:
    """Every recipe at the shortest two horizons, with more seeds."""
    there, numbers = _there(), _shuffled(len(recipes()))
    for horizon, seed in LOOKS:
        yield from (
            (number, seed, horizon) for number in numbers if (number, seed, horizon) not in there
        )


def more_seeds() -> Iterator[Job]:
    """The best third of each optimizer, by the first seed."""
    return _best(3, (1, 2, 3, 4))


def _best(share: int, seeds: tuple[int, ...]) -> Iterator[Job]:
    """Full runs of the best recipes of each optimizer.

    The best are those with the highest mean final Top-1 over the seeds before `seeds`.
    """
    there = _there()
    curves = pd.read_csv(CURVES)
    known = curves[(curves.seed < seeds[0]) & (curves.horizon == EPOCHS) & (curves.epoch == EPOCHS)]
    final = known.pivot(index="recipe", columns="seed", values="top1").mean(axis=1, skipna=False)
    by_optimizer = pd.Series([recipe.optimizer for recipe in recipes()]).loc[final.index]
    for _, group in final.groupby(by_optimizer):
        for number, seed in product(group.nlargest(len(group) // share).index, seeds):
            if (number, seed, EPOCHS) not in there:
                yield number, seed, EPOCHS


def _there() -> set[Job]:
    """The runs in the table; one that a kill left unfinished is taken out."""
    if not CURVES.exists():
        with CURVES.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
    curves = pd.read_csv(CURVES)
    ended = curves.groupby(KEY).epoch.transform("max") == curves.horizon
    failed = (
        curves.val_loss.isna().groupby([curves[key] for key in KEY]).transform("any")
    )  # diverged, so shorter
    whole = curves[ended | failed]
    if len(whole) < len(curves):
        whole.to_csv(CURVES, index=False)
    return set(whole[KEY].itertuples(index=False, name=None))


def _shuffled(count: int) -> list[int]:
    """The same order every time; unfinished tables hold a fair sample then."""
    return [int(i) for i in pd.Series(range(count)).sample(frac=1, random_state=0)]


def _open() -> None:
    global training
    training = NativeTraining(bank_task(), SETTINGS)


def _train(job: Job) -> list[dict[str, Any]]:
    number, seed, horizon = job
    run = Run(
        id="", kind="full", trial=number, recipe=recipes()[number], recipe_epochs=EPOCHS,
        horizon_epochs=horizon, stop_epochs=horizon, seed=seed,
    )  # fmt: skip
    rows = []
    for m in train(training, run):
        measured = {**m.metrics, "seconds": m.seconds}
        # An epoch that diverged in training is not evaluated, so it has no Top-1.
        values = {name: round(measured.get(name, math.nan), 4) for name in COLUMNS[len(KEY) + 1 :]}
        rows.append(dict(zip(KEY, job, strict=True)) | {"epoch": m.epoch} | values)
    return rows


def _append(rows: list[dict[str, Any]]) -> None:
    with CURVES.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS).writerows(rows)


PARTS = (first_seed, looks, more_seeds)

if __name__ == "__main__":
    main()
