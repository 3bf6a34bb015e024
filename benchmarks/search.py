"""Regret of search strategies against the epochs that they train, replayed on recorded trainings.

    python benchmarks/search.py --seeds 30 --json benchmarks/results/search.json --plot
    benchmarks/results/search.svg python benchmarks/search.py --curves FOLDER --pools lcbench
    --budget 20

Pools are the two optimizers of the bank (`bank/curves.csv`, made by `bank/make.py`) and, in a
folder of your own, the public curves of LCBench and TaskSet. On the bank, regret is what the
recommended recipe lacks of the best known one, in points of Top-1: by its final score at the full
horizon, mean over all recorded seeds, of which a strategy sees one only. On public curves it is
what the best loss seen so far lacks of the pool's best, 1 being the best loss of the median
configuration. Budgets are in full runs; what a pruned, resumed or shortened run trains counts by
the epoch.
"""

import argparse
import json
import logging
import math
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from bank.recipes import SETTINGS, recipes
from replay.ledger import Strategy
from replay.measure import CLOSE, Regrets, measure, quartiles
from replay.ours import OURS
from replay.peers import NEED_RAY, PEERS, SIZED
from replay.plots import draw
from replay.pools import Pool, bank_pools, recorded_pools

from lrtune.training.native.devices import describe_environment

BANK = Path(__file__).parent / "bank" / "curves.csv"
MARKS = (5, 10, 20, 50)
"""Budgets that the table shows, in full runs."""
STRATEGIES: dict[str, Strategy] = {**OURS, **PEERS}


def main() -> None:
    """Replays and prints a table for each pool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", type=Path, help="folder of lcbench-*.npz and taskset-*.npz")
    parser.add_argument("--pools", nargs="+", metavar="NAME", help="pools whose names begin so")
    parser.add_argument(
        "--strategies", nargs="+", metavar="NAME", choices=STRATEGIES, default=list(STRATEGIES)
    )
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--budget", type=int, default=50, help="in full runs")
    parser.add_argument("--bank", type=Path, default=BANK)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)  # on runs that diverged
    warnings.filterwarnings(
        "ignore", message="All-NaN slice"
    )  # the same, by Optuna's median pruner

    if min(arguments.seeds, arguments.budget) < 1:
        parser.error("`1 <= seeds` and `1 <= budget` must hold.")
    pools = [
        pool for pool in _pools(arguments) if pool.name.startswith(tuple(arguments.pools or [""]))
    ]
    if not pools:
        parser.error(
            "no such pool, or nothing recorded of it: look at --pools, --bank and --curves."
        )
    names = arguments.strategies
    environment = dict(describe_environment(SETTINGS, recipes()[0]))
    if find_spec("ray"):
        environment["ray"] = version("ray")
    elif without := NEED_RAY.intersection(names):
        names = [name for name in names if name not in without]
        print(f"ray is not installed, so without {', '.join(sorted(without))}\n")
    for key, value in environment.items():
        print(f"{key}: {value}")

    marks = [mark for mark in MARKS if mark < arguments.budget] + [arguments.budget]
    measured: dict[str, dict[str, Regrets]] = {}
    for pool in pools:
        _print_head(pool, marks, arguments.seeds)
        measured[pool.name] = {}
        for name in names:
            budgets = marks if name in {*SIZED, *OURS} else marks[-1:]
            start = time.perf_counter()
            regrets = measure(STRATEGIES[name], pool, seeds=arguments.seeds, budgets=budgets)
            measured[pool.name][name] = regrets
            _print_row(name, pool, regrets, marks, (time.perf_counter() - start) / arguments.seeds)
    if arguments.json:
        result = {"benchmark": "search", "environment": environment, "seeds": arguments.seeds}
        result["pools"] = {pool.name: _as_json(pool, measured[pool.name], marks) for pool in pools}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        arguments.plot.write_text(draw(pools, measured))


def _pools(arguments: argparse.Namespace) -> Iterator[Pool]:
    if arguments.bank.exists():
        yield from bank_pools(arguments.bank, recipes())
    if arguments.curves:
        yield from recorded_pools(arguments.curves)


def _print_head(pool: Pool, marks: list[int], seeds: int) -> None:
    best = (
        f", best known {pool.recipes[int(pool.quality.argmax())].label}: {pool.best:.2f} %"
        if pool.recipes
        else ""
    )
    print(
        f"\n{pool.name}: {len(pool.configurations)} configurations, a full run of "
        f"{pool.horizon_epochs} epochs{best}"
    )
    print(f"median [quartiles] of n = {seeds} seeds")
    columns = [f"regret at {mark}" for mark in marks]
    if pool.regret_of == "incumbent":
        columns += [f"epochs to {CLOSE}", "for good"]
    print(f"{'':18}" + "".join(f"{column:>19}" for column in columns) + "  s a replay")


def _print_row(name: str, pool: Pool, regrets: Regrets, marks: list[int], seconds: float) -> None:
    cells = [_cell(regrets.at(mark), ".2f") for mark in marks]
    if pool.regret_of == "incumbent":
        cells += [
            _cell(epochs, ".0f")
            for epochs in (regrets.epochs_until_close(), regrets.epochs_until_close_for_good())
        ]
    print(f"{name:18}" + "".join(f"{cell:>19}" for cell in cells) + f"{seconds:12.2f}", flush=True)


def _cell(values: np.ndarray, form: str) -> str:
    low, middle, high = (f"{value:{form}}" for value in quartiles(values))
    return f"{middle} [{low}, {high}]"


def _as_json(pool: Pool, strategies: dict[str, Regrets], marks: list[int]) -> dict[str, Any]:
    """Quartiles, and the value of each seed; never is null."""
    described: dict[str, Any] = {
        "configurations": len(pool.configurations), "horizon_epochs": pool.horizon_epochs,
        "best": pool.best, "regret_of": pool.regret_of, "close": CLOSE, "strategies": {},
    }  # fmt: skip
    for name, regrets in strategies.items():
        figures = {f"regret_at_{mark}": regrets.at(mark) for mark in marks}
        if pool.regret_of == "incumbent":
            figures["epochs_until_close"] = regrets.epochs_until_close()
            figures["epochs_until_close_for_good"] = regrets.epochs_until_close_for_good()
        described["strategies"][name] = {
            key: {"quartiles": _plain(quartiles(values)), "seeds": _plain(values)}
            for key, values in figures.items()
        }
    return described


def _plain(values: np.ndarray) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values.tolist()]


if __name__ == "__main__":
    main()
