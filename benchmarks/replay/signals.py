"""How well looks at a recipe foretell what it comes to: Kendall's tau with the truth."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from lrtune.core.recipe import Recipe

NUM_BOOTSTRAPS = 500
MIN_RECIPES = 10
"""Of which a tau is worth its name."""
SIGNALS = {"val. loss": ("val_loss", -1.0), "Top-1": ("top1", 1.0)}
"""What looks are ranked by: its column, and the sign with which higher is better."""


def measure(curves: pd.DataFrame, recipes: Sequence[Recipe]) -> Iterator[dict[str, Any]]:
    """Kendall's tau of every signal, by optimizer, over all recipes and over the best third."""
    *looks, full_epochs = sorted(int(horizon) for horizon in curves.horizon.unique())
    optimizers = pd.Series([recipe.optimizer for recipe in recipes])
    for optimizer, numbers in optimizers.groupby(optimizers).groups.items():
        of_optimizer = curves[curves.recipe.isin(numbers)]
        full = _ends(of_optimizer, full_epochs, "top1", 1.0).dropna(subset=[0])
        later = full.drop(columns=[0]).dropna(how="all")
        truths = {"all": full.mean(axis=1), "best third": later.mean(axis=1)}
        for name, truth in truths.items():
            signals = dict(_signals(of_optimizer, looks))
            if name == "best third":
                signals["one full run, Top-1"] = full[0]
            for signal, values in signals.items():
                values = values.reindex(truth.index).dropna()
                if len(values) >= MIN_RECIPES:
                    tau, low, high = _tau(values, truth)
                    yield {
                        "optimizer": optimizer, "recipes": name, "n": len(values),
                        "signal": signal, "tau": tau, "interval": [low, high],
                    }  # fmt: skip


def _signals(curves: pd.DataFrame, horizons: Sequence[int]) -> Iterator[tuple[str, pd.Series]]:
    """The mean of so many looks of one length, of each recipe that has them; higher is better."""
    for horizon in horizons:
        for name, (column, sign) in SIGNALS.items():
            ends = _ends(curves, horizon, column, sign)
            for number in (1, 2, 3):
                there = ends[ends.notna().sum(axis=1) >= number]
                first = there.apply(lambda row, n=number: row.dropna().iloc[:n].mean(), axis=1)
                if len(first):
                    yield f"{_count(number, 'look')} of {_count(horizon, 'epoch')}, {name}", first


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ends(curves: pd.DataFrame, horizon: int, column: str, sign: float) -> pd.DataFrame:
    """The last value of each run of a horizon, recipes x seeds; nan where there is no run.

    Of a run that diverged it is worse than all others.
    """
    runs = curves[curves.horizon == horizon].sort_values("epoch")
    last = runs.groupby(["recipe", "seed"])[["epoch", column]].last()
    ended = sign * last[column].where(last.epoch == horizon)
    worst = ended[np.isfinite(ended)].min() - 1
    return ended.where(np.isfinite(ended), worst).unstack()


def _tau(values: pd.Series, truth: pd.Series) -> tuple[float, float, float]:
    """Kendall's tau and its interval."""
    pairs = pd.DataFrame({"signal": values, "truth": truth}).dropna().to_numpy()
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
