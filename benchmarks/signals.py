"""Measures how well an early look at a run foretells its final Top-1, from the bank.

    python benchmarks/signals.py --json benchmarks/results/signals.json

Kendall's tau over the recipes of one optimizer between a signal after some epochs and the final
Top-1 of the full run (the same seed), with a 95 % interval by bootstrap over recipes; a diverged
run ranks last. Of truncated runs: the raw weights and the averaged ones. Of compressed runs: their
own end. The noise floor: the same full run with another seed, which only the best third has,
against all signals on that third.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from bank.recipes import EPOCHS, HORIZONS, SETTINGS, recipes
from scipy.stats import kendalltau

from lrtune.training.native.devices import describe_environment

BANK = Path(__file__).parent / "bank" / "curves.csv"
LOOKS = (1, 3, 9, 18, 24)
"""Epochs of the full run."""
NUM_BOOTSTRAPS = 500


def main() -> None:
    """Prints a table for each optimizer, over all recipes and over the best third."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", type=Path, default=BANK)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    curves = pd.read_csv(arguments.bank)
    environment = dict(describe_environment(SETTINGS, recipes()[0]))
    print("\n".join(f"{key}: {value}" for key, value in environment.items()))
    result = {
        "benchmark": "signals",
        "environment": environment,
        "bootstraps": NUM_BOOTSTRAPS,
        "taus": [],
    }
    optimizers = pd.Series([recipe.optimizer for recipe in recipes()])
    for optimizer, numbers in optimizers.groupby(optimizers).groups.items():
        of_optimizer = curves[curves.recipe.isin(numbers)]
        full = _full(of_optimizer, seed=0)
        final = _at(full, EPOCHS, "top1")
        again = _at(_full(of_optimizer, seed=1), EPOCHS, "top1")
        for name, chosen in (("all", final.index), ("best third", again.index)):
            if len(chosen) < 3:
                continue
            print(
                f"\n{optimizer}, {name}: n = {len(chosen)} recipes, median final Top-1 "
                f"{final[chosen].median():.2f}"
            )
            for signal, values in _signals(of_optimizer, full, again):
                tau, low, high = _tau(values.reindex(chosen).dropna(), final)
                print(f"  {signal:34} {tau:5.2f} [{low:5.2f}, {high:5.2f}]")
                result["taus"].append(
                    {"optimizer": optimizer, "recipes": name, "n": len(chosen), "signal": signal,
                     "tau": tau, "interval": [low, high]}
                )  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def _signals(
    curves: pd.DataFrame, full: pd.DataFrame, again: pd.Series
) -> list[tuple[str, pd.Series]]:
    """Every signal by name: higher is better."""
    found = []
    for horizon in HORIZONS[:-1]:
        run = curves[(curves.horizon == horizon) & (curves.seed == 0)]
        found += [
            (f"compressed to {horizon}, Top-1", _at(run, horizon, "top1")),
            (f"compressed to {horizon}, averaged Top-1", _at(run, horizon, "averaged_top1")),
            (f"compressed to {horizon}, - val. loss", -_at(run, horizon, "val_loss")),
        ]
    for epoch in LOOKS:
        found += [
            (f"epoch {epoch}, raw Top-1", _at(full, epoch, "top1")),
            (f"epoch {epoch}, averaged Top-1", _at(full, epoch, "averaged_top1")),
            (f"epoch {epoch}, - averaged val. loss", -_at(full, epoch, "averaged_val_loss")),
        ]
    return [*found, ("the full run with another seed", again)]


def _full(curves: pd.DataFrame, seed: int) -> pd.DataFrame:
    return curves[(curves.horizon == EPOCHS) & (curves.seed == seed)]


def _at(run: pd.DataFrame, epoch: int, column: str) -> pd.Series:
    """By recipe; -inf (a loss: inf) from the epoch in which a run diverged."""
    worst = np.inf if column.endswith("loss") else -np.inf
    there = run[run.epoch == epoch].set_index("recipe")[column]
    return there.reindex(run.recipe.unique()).fillna(worst)


def _tau(values: pd.Series, final: pd.Series) -> tuple[float, float, float]:
    """Kendall's tau and its interval."""
    pairs = pd.DataFrame({"signal": values, "final": final}).dropna().to_numpy()
    rng = np.random.default_rng(0)
    samples = [pairs[rng.integers(len(pairs), size=len(pairs))] for _ in range(NUM_BOOTSTRAPS)]
    low, high = np.nanquantile(
        [kendalltau(*sample.T).statistic for sample in samples], (0.025, 0.975)
    )
    return (
        round(float(kendalltau(*pairs.T).statistic), 3),
        round(float(low), 3),
        round(float(high), 3),
    )


if __name__ == "__main__":
    main()
