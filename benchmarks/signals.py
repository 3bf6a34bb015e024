"""Measures how well looks at a recipe foretell its final Top-1, from the bank.

    python benchmarks/signals.py --json benchmarks/results/signals.json

Kendall's tau over the recipes of one optimizer between the mean of one, two or three looks of one
length, by validation loss and by Top-1, and the true final Top-1, with a 95 % interval by bootstrap
over recipes; a run that diverged ranks last. The truth is the mean over full runs that decided
nothing: a recipe of the best third is in it by its full run with seed 0, so the others are its
truth, and over all recipes, of which many have no other, it is the mean of all full runs. No look
is one of them. What one full run says is measured on the best third alone, by that of seed 0. A
recipe that has fewer looks than are wanted is left out; the table says how many are left.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from bank.contents import BANKS
from replay.signals import NUM_BOOTSTRAPS, measure

from lrtune.training.native.devices import describe_environment


def main() -> None:
    """Prints a table for each optimizer, over all recipes and over the best third."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", choices=BANKS, default="fashion-mnist")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bank = BANKS[arguments.bank]
    environment = dict(describe_environment(bank.settings, bank.recipes[0]))
    print("\n".join(f"{key}: {value}" for key, value in environment.items()))
    taus, title = [], ""
    for row in measure(pd.read_csv(bank.table), bank.recipes):
        taus.append(row)
        if title != (title := f"{row['optimizer']}, {row['recipes']}"):
            print(f"\n{title}")
        low, high = row["interval"]
        print(f"  {row['signal']:40} {row['tau']:5.2f} [{low:5.2f}, {high:5.2f}]  n = {row['n']}")
    if arguments.json:
        result = {"benchmark": "signals", "environment": environment, "bank": bank.name}
        result |= {"bootstraps": NUM_BOOTSTRAPS}
        arguments.json.write_text(json.dumps(result | {"taus": taus}, indent=1) + "\n")


if __name__ == "__main__":
    main()
