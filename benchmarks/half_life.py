"""Measures which half-life of the averaged weights foretells the final Top-1 best.

    python -m benchmarks.half_life --recipes 48 --json benchmarks/results/half_life.json

Trains recipes of the bank for a third of their horizon, with an average of each half-life beside
the raw weights, and compares the Top-1 of each average with what the bank has for the same recipe
at its end. Reports Kendall's tau by optimizer, half-life and epoch.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import kendalltau
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.bank.recipes import EPOCHS, SETTINGS, bank_task, recipes
from benchmarks.loops.runs import train
from lrtune.core.objective import TOP1
from lrtune.core.run import Run
from lrtune.training.native.averaging import AveragedWeights
from lrtune.training.native.devices import describe_environment
from lrtune.training.native.loop import NativeTraining

BANK = Path(__file__).parent / "bank" / "curves.csv"
HALF_LIVES_EPOCHS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
LOOKS = (1, 3, 6, 9)
"""Epochs, of the full run, after which the averages are measured."""


def main() -> None:
    """Trains, measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=int, default=64, help="of both optimizers together")
    parser.add_argument("--bank", type=Path, default=BANK)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    curves = pd.read_csv(arguments.bank)
    final = curves[(curves.seed == 0) & (curves.horizon == EPOCHS)].groupby("recipe").last().top1
    chosen = final.sample(arguments.recipes, random_state=0).index
    measured = pd.DataFrame([row for number in chosen for row in _train(int(number))])
    measured["final"] = measured.recipe.map(final)
    taus = (
        measured.groupby(["optimizer", "half_life", "epoch"])
        .apply(_tau, include_groups=False)
        .unstack()
    )
    environment = dict(describe_environment(SETTINGS, recipes()[0]))
    counts = measured.groupby("optimizer").recipe.nunique().to_dict()
    print("\n".join(f"{key}: {value}" for key, value in environment.items()))
    print(f"\nKendall's tau with the final Top-1, after epochs of {EPOCHS}; n = {counts} recipes")
    print(taus.round(2).to_string())
    if arguments.json:
        rows = taus.stack().rename("tau").reset_index().round(3).to_dict("records")
        result = {"benchmark": "half_life", "environment": environment, "n": counts, "taus": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def _train(number: int) -> list[dict[str, Any]]:
    """Top-1 of every average, and of the raw weights (half-life 0), at every look."""
    models: list[nn.Module] = []
    averages: dict[float, AveragedWeights] = {}
    task = bank_task()

    def model() -> nn.Module:
        models.append(task.model())
        return models[-1]

    settings = replace(SETTINGS, ema_half_life_epochs=0.0)
    training = NativeTraining(replace(task, model=model), settings)
    recipe = recipes()[number]
    run = Run(
        id="", kind="full", trial=number, recipe=recipe, recipe_epochs=EPOCHS,
        horizon_epochs=EPOCHS, stop_epochs=max(LOOKS), seed=0,
    )  # fmt: skip

    def after_step(*_: object) -> None:
        if not averages:
            averages.update(
                {
                    h: AveragedWeights(models[-1], h * training.task.steps_per_epoch)
                    for h in HALF_LIVES_EPOCHS
                }
            )
        for average in averages.values():
            average.update()
            average.num_steps += 1

    hook = register_optimizer_step_post_hook(after_step)
    rows = []
    evaluation, validation = training.task.evaluation, training.task.validation
    for m in train(training, run):
        if m.epoch in LOOKS and not m.diverged:
            averaged = {
                h: evaluation(average.refresh(), validation)[TOP1]
                for h, average in averages.items()
            }
            tops = {0.0: m.metrics[TOP1]} | averaged
            about = {"recipe": number, "optimizer": recipe.optimizer, "epoch": m.epoch}
            rows += [
                about | {"half_life": half_life, "top1": top1} for half_life, top1 in tops.items()
            ]
    hook.remove()
    return rows


def _tau(group: pd.DataFrame) -> float:
    return float(kendalltau(group.top1, group.final).statistic)


if __name__ == "__main__":
    main()
