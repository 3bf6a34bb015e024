"""Regret of search strategies against the epochs that they train, replayed on recorded trainings.

    python benchmarks/search.py --json results/search.json --plot results/search.svg
    python benchmarks/search.py --banks characters --worlds recorded --budgets 1 2 3 5

Pools are the optimizers of each bank (`bank/contents.py`, made by `bank/make.py`). Regret is what
the recommended recipe lacks of the best one, in points of Top-1 at the full horizon. What a recipe
is worth never comes from a run that a search was shown; `replay/bank.py` says how. Replay number r
is a search with seed r in world r, and all strategies meet the same worlds. Budgets are in full
runs; what a pruned, resumed or shortened run trains counts by the epoch, and so does lrtune's
baseline. lrtune plans for its budget, so it is replayed for each; of a peer smaller budgets are the
beginning of the largest one.
"""

import argparse
import json
import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from bank.contents import BANKS
from replay.bank import Bank, WorldKind, banks
from replay.ledger import Strategy
from replay.measure import CLOSE, Regrets, Row, mean_and_error, quartiles, regrets_of
from replay.ours import OURS
from replay.peers import NEED_RAY, PEERS, SIZED
from replay.plots import draw

from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.devices import describe_environment

BUDGETS = (1, 2, 3, 5, 10, 20, 50)
"""In full runs."""
CLOSE_WITHIN = 20
"""Budget whose searches are asked when they came close for good."""
STRATEGIES: dict[str, Strategy] = {**OURS, **PEERS}
DEFAULT = (*OURS, "random", "TPE + median", "TPE + Hyperband", "ASHA")
"""The others take as long again, and none of them is better."""


def main() -> None:
    """Replays and prints a table for each optimizer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--banks", nargs="+", metavar="NAME", choices=BANKS, default=list(BANKS))
    parser.add_argument(
        "--strategies", nargs="+", metavar="NAME", choices=STRATEGIES, default=list(DEFAULT)
    )
    parser.add_argument("--seeds", type=int, default=30, help="replays of each strategy")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--worlds", choices=["resampled", "recorded"], default="resampled")
    parser.add_argument("--jobs", type=int, default=2, help="replays at the same time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    if min(given.seeds, given.jobs, *given.budgets) < 1:
        parser.error("`1 <= seeds`, `1 <= jobs` and `1 <= budgets` must hold.")
    found = _pools(given.banks)
    names = given.strategies
    environment = dict(describe_environment(TrainSettings(threads=1), default_recipe("sgd")))
    if find_spec("ray"):
        environment["ray"] = version("ray")
    elif without := NEED_RAY.intersection(names):
        names = [name for name in names if name not in without]
        print(f"ray is not installed, so without {', '.join(sorted(without))}\n")
    for key, value in environment.items():
        print(f"{key}: {value}")

    budgets, start = sorted(set(given.budgets)), time.perf_counter()
    measured: dict[str, dict[str, Regrets]] = {}
    result: dict[str, Any] = {
        "benchmark": "search", "environment": environment, "seeds": given.seeds,
        "worlds": given.worlds, "budgets": budgets,
    }  # fmt: skip
    with get_context("spawn").Pool(
        given.jobs, initializer=_open, initargs=(given.banks, given.worlds)
    ) as pool:
        for pool_name, bank in found.items():
            _print_head(pool_name, bank, budgets, given.seeds, given.worlds)
            measured[pool_name] = {}
            for name in names:
                jobs = (
                    Job(pool=pool_name, strategy=name, seed=seed, budgets=tuple(budgets))
                    for seed in range(given.seeds)
                )
                regrets = Regrets.of(pool.imap(_replay, jobs), bank.horizon_epochs)
                measured[pool_name][name] = regrets
                _print_row(name, regrets, budgets)
                if given.json:  # after each, so that a run that is cut short leaves what it has
                    result["seconds"] = round(time.perf_counter() - start)
                    result["pools"] = {
                        title: _as_json(found[title], strategies, budgets)
                        for title, strategies in measured.items()
                    }
                    given.json.parent.mkdir(parents=True, exist_ok=True)
                    given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{time.perf_counter() - start:.0f} s with {given.jobs} jobs")
    if given.plot:
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        given.plot.write_text(draw(measured))


class Job(NamedTuple):
    """One strategy in one world."""

    pool: str
    strategy: str
    seed: int
    budgets: tuple[int, ...]


def _pools(names: Sequence[str]) -> dict[str, Bank]:
    """The recorded recipes of each bank and optimizer, by `BANK, OPTIMIZER`."""
    contents = [BANKS[name] for name in names]
    return {
        f"{one.name}, {bank.name}": bank
        for one in contents
        if one.table.exists()
        for bank in banks(one.table, one.recipes)
    }


def _open(names: Sequence[str], worlds: WorldKind) -> None:
    """Makes ready a process that replays."""
    global opened, kind
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)  # on runs that diverged
    warnings.filterwarnings(
        "ignore", message="All-NaN slice"
    )  # the same, by Optuna's median pruner
    opened, kind = _pools(names), worlds


def _replay(job: Job) -> Row:
    bank, name = opened[job.pool], job.strategy
    world = bank.resampled(job.seed) if kind == "resampled" else bank.recorded(job.seed)
    return regrets_of(
        STRATEGIES[name], world, seed=job.seed, budgets=job.budgets, sized=name in {*SIZED, *OURS}
    )


def _print_head(title: str, bank: Bank, budgets: list[int], seeds: int, worlds: WorldKind) -> None:
    best, means = bank.best, bank.posterior.means
    print(
        f"\n{title}: {len(bank.recipes)} recipes, {_recorded(bank)[bank.horizon_epochs]} full "
        f"runs of {bank.horizon_epochs} epochs, one seed has a deviation of "
        f"{np.median(bank.posterior.noise):.2f}, best known {bank.recipes[best].label}: "
        f"{means[best]:.2f} %"
    )
    print(f"mean regret ± its standard error over n = {seeds} {worlds} worlds, by full runs;")
    if CLOSE_WITHIN in budgets:
        print(
            f"epochs until within {CLOSE} for good, in a search of {CLOSE_WITHIN} full runs: "
            "median [quartiles]"
        )
    print(f"{'':18}" + "".join(f"{budget:>13}" for budget in budgets) + f"{'epochs':>19}")


def _print_row(name: str, regrets: Regrets, budgets: list[int]) -> None:
    cells = [_cell(*mean_and_error(regrets.at(budget))) for budget in budgets]
    close = ""
    if CLOSE_WITHIN in budgets:
        ends = regrets.epochs_until_close_for_good(CLOSE_WITHIN)
        low, middle, high = (f"{value:.0f}" for value in quartiles(ends))
        close = f"{middle} [{low}, {high}]"
    print(f"{name:18}" + "".join(f"{cell:>13}" for cell in cells) + f"{close:>19}", flush=True)


def _cell(mean: float, error: float) -> str:
    """Without a mean where some replay had nothing to recommend."""
    return f"{mean:.2f} ± {error:.2f}" if math.isfinite(mean) else "-"


def _recorded(bank: Bank) -> Mapping[int, int]:
    """Runs on record by their horizon."""
    return {horizon: sum(map(len, runs)) for horizon, runs in bank.runs.items()}


def _as_json(bank: Bank, strategies: dict[str, Regrets], budgets: list[int]) -> dict[str, Any]:
    """Means with their errors, and the value of each replay; what is infinite is null."""
    described: dict[str, Any] = {
        "recipes": len(bank.recipes), "recorded_runs": _recorded(bank),
        "noise": round(float(np.median(bank.posterior.noise)), 3),
        "best": round(float(bank.posterior.means.max()), 3), "close": CLOSE, "strategies": {},
    }  # fmt: skip
    for name, regrets in strategies.items():
        figures: dict[str, Any] = {}
        for budget in budgets:
            mean, error = _plain(mean_and_error(regrets.at(budget)))
            figures[f"regret_at_{budget}"] = {
                "mean": mean, "error": error, "replays": _plain(regrets.at(budget)),
            }  # fmt: skip
        if CLOSE_WITHIN in budgets:
            ends = regrets.epochs_until_close_for_good(CLOSE_WITHIN)
            figures["epochs_until_close_for_good"] = {
                "quartiles": _plain(quartiles(ends)), "replays": _plain(ends),
            }  # fmt: skip
        described["strategies"][name] = figures
    return described


def _plain(values: Any) -> list[float | None]:
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main()
