"""Makes a bank: a table of real trainings, for judging search strategies without training again.

    python -m benchmarks.bank.make fashion-mnist --jobs 2

Trains every recipe of `contents.py` at each horizon, its schedule compressed, and at the shortest
two horizons with more seeds; the best third of each optimizer in full with more seeds, since the
best of many runs is partly luck. One row an epoch goes to `NAME.csv` beside this file. Stop it at
any time: it goes on with the runs that the table lacks. On two cores it takes about two and a half
hours for fashion-mnist, and an hour for each of the others. `--only` leaves the other parts
for later.
"""

import argparse
import csv
import json
import math
import multiprocessing
from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas as pd

from benchmarks.bank.contents import BANKS, Contents
from benchmarks.loops.runs import train
from lrtune.core.run import Run
from lrtune.training.native.devices import describe_environment
from lrtune.training.native.loop import NativeTraining

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
Job = tuple[int, int, int]
"""Recipe, seed, horizon."""


def main() -> None:
    """Trains what the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bank", choices=BANKS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=[part.__name__ for part in PARTS])
    arguments = parser.parse_args()
    bank = BANKS[arguments.bank]
    _describe(bank)
    with multiprocessing.get_context("spawn").Pool(
        arguments.jobs, initializer=_open, initargs=(bank.name,)
    ) as pool:
        for wanted in PARTS:
            missing = [] if arguments.only not in (None, wanted.__name__) else list(wanted(bank))
            for done, rows in enumerate(pool.imap_unordered(_train, missing), 1):
                _append(bank, rows)
                print(f"\r{wanted.__name__}: {done} of {len(missing)} runs", end="", flush=True)
            print()


def _describe(bank: Contents) -> None:
    """Writes what the table holds, and adds this machine to those that trained parts of it."""
    file = bank.table.with_suffix(".json")
    environment = dict(describe_environment(bank.settings, bank.recipes[0]))
    before = json.loads(file.read_text())["environments"] if file.exists() else []
    environments = [*(other for other in before if other != environment), environment]
    file.write_text(json.dumps(bank.described() | {"environments": environments}, indent=2) + "\n")


def first_seed(bank: Contents) -> Iterator[Job]:
    """Every recipe at every horizon."""
    there = _there(bank)
    for number in _shuffled(bank):
        yield from (
            (number, 0, horizon) for horizon in bank.horizons if (number, 0, horizon) not in there
        )


def looks(bank: Contents) -> Iterator[Job]:
    """Every recipe at the shortest two horizons, with more seeds."""
    there, numbers = _there(bank), _shuffled(bank)
    for horizon, seed in bank.looks:
        yield from (
            (number, seed, horizon) for number in numbers if (number, seed, horizon) not in there
        )


def more_seeds(bank: Contents) -> Iterator[Job]:
    """Full runs of the best third of each optimizer, by the final Top-1 with seed 0."""
    there, curves = _there(bank), pd.read_csv(bank.table)
    full = curves[(curves.seed == 0) & (curves.horizon == bank.epochs)]
    final = full[full.epoch == bank.epochs].set_index("recipe").top1
    by_optimizer = pd.Series([recipe.optimizer for recipe in bank.recipes]).loc[final.index]
    for _, group in final.groupby(by_optimizer):
        best = group.nlargest(len(group) // 3).index
        for number, seed in product(best, range(1, bank.full_seeds + 1)):
            if (number, seed, bank.epochs) not in there:
                yield number, seed, bank.epochs


def _there(bank: Contents) -> set[Job]:
    """The runs in the table; one that a kill left unfinished is taken out."""
    if not bank.table.exists():
        with bank.table.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
    curves = pd.read_csv(bank.table)
    ended = curves.groupby(KEY).epoch.transform("max") == curves.horizon
    failed = (
        curves.val_loss.isna().groupby([curves[key] for key in KEY]).transform("any")
    )  # diverged, so shorter
    whole = curves[ended | failed]
    if len(whole) < len(curves):
        whole.to_csv(bank.table, index=False)
    return set(whole[KEY].itertuples(index=False, name=None))


def _shuffled(bank: Contents) -> list[int]:
    """The same order every time; unfinished tables hold a fair sample then."""
    return [int(i) for i in pd.Series(range(len(bank.recipes))).sample(frac=1, random_state=0)]


def _open(name: str) -> None:
    global opened, training
    opened = BANKS[name]
    training = NativeTraining(opened.task(), opened.settings)


def _train(job: Job) -> list[dict[str, Any]]:
    number, seed, horizon = job
    run = Run(
        id="", kind="full", trial=number, recipe=opened.recipes[number],
        recipe_epochs=opened.epochs, horizon_epochs=horizon, stop_epochs=horizon, seed=seed,
    )  # fmt: skip
    rows = []
    for m in train(training, run):
        measured = {**m.metrics, "seconds": m.seconds}
        # An epoch that diverged in training is not evaluated, so it has no Top-1.
        values = {name: round(measured.get(name, math.nan), 4) for name in COLUMNS[len(KEY) + 1 :]}
        rows.append(dict(zip(KEY, job, strict=True)) | {"epoch": m.epoch} | values)
    return rows


def _append(bank: Contents, rows: list[dict[str, Any]]) -> None:
    with bank.table.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS).writerows(rows)


PARTS = (first_seed, looks, more_seeds)

if __name__ == "__main__":
    main()
