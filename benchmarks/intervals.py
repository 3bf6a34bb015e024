"""Whether what a report says of its own certainty is right: made-up studies whose truth is known.

    python benchmarks/intervals.py --json benchmarks/results/intervals.json

In each study three candidates and a baseline are raced as `lrtune search` races them: from 3 fresh
seeds up to 5, those that are told from the leader drop out. Top-1s are normal with a standard
deviation of 1, and what a seed does to all is shared. `width` is how much the true Top-1s of the
candidates differ, `gain` how far they lie above the baseline's.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.decide.race import still_open
from lrtune.decide.ranking import Ranking, rank
from lrtune.training.environment import describe_environment

NUM_SEEDS, MAX_SEEDS = 3, 5
EQUAL = (1.0, 1.0, 1.0, 1.0)
CASES = [
    *(
        (width, gain, EQUAL)
        for width, gain in [(0, 0), (0, 2), (0.5, 0), (0.5, 0.5), (1, 0), (1, 1), (3, 0), (3, 3)]
    ),
    (1, 1, (1.0, 2.0, 1.0, 1.0)),
    (1, 1, (2.0, 1.0, 1.0, 1.0)),
]
"""Width, gain, and the noise of the baseline and of each candidate."""
CALIBRATED = ((0.5, 0), (0.5, 0.5), (1, 0), (1, 1), (3, 0), (3, 3))
"""Width and gain of the cases whose best recipe is one."""
EDGES = (0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.000001)


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What many studies of one kind say, and what is true."""

    covered: float
    """Share whose 95 % interval, of the leading candidate to the baseline, holds the true
    difference."""
    claimed: float
    """Share that calls the leading candidate better than the baseline."""
    wrong: float
    """Share that calls it better although it is not."""
    runs: float
    """Trained with fresh seeds, a study."""
    said: tuple[float, ...]
    """Of each recipe of each study, the probability that it is the best."""
    true: tuple[bool, ...]
    """Whether it is."""


def main() -> None:
    """Prints two tables: how often intervals cover, and what comes of those called the best."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000, help="of each kind")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    environment = dict(describe_environment(TrainSettings(threads=1), default_recipe("sgd")))
    console = Console()
    for key, value in environment.items():
        console.print(f"{key}: {value}", highlight=False)
    found = {case: outcomes(*case, num_studies=given.studies) for case in CASES}
    table = Table("width", "gain", "noise", "covered", "called better", "wrongly", "runs")
    for (width, gain, noises), one in found.items():
        shares = (f"{100 * share:.1f} %" for share in (one.covered, one.claimed, one.wrong))
        table.add_row(
            f"{width:g}",
            f"{gain:g}",
            " ".join(f"{n:g}" for n in noises),
            *shares,
            f"{one.runs:.1f}",
        )
    console.print(
        f"{given.studies} studies of each kind; a share is known to {_error(given.studies):.1f} points",
        table,
    )
    bins = calibration([found[width, gain, EQUAL] for width, gain in CALIBRATED])
    table = Table("called the best with", "on average", "are the best", "n")
    for one in bins:
        ends = f"{100 * one['low']:.0f} to {min(100 * one['high'], 100):.0f} %"
        table.add_row(
            ends, f"{100 * one['said']:.1f} %", f"{100 * one['true']:.1f} %", f"{one['n']:,}"
        )
    console.print(table)
    if given.json:
        cases = [
            {"width": w, "gain": g, "noises": n, "covered": o.covered, "claimed": o.claimed, "wrong": o.wrong,
             "runs": o.runs}
            for (w, g, n), o in found.items()
        ]  # fmt: skip
        values = {"benchmark": "intervals", "environment": environment, "studies": given.studies}
        given.json.write_text(
            json.dumps(values | {"cases": cases, "calibration": bins}, indent=1) + "\n"
        )


def outcomes(
    width: float, gain: float, noises: Sequence[float] = EQUAL, *, num_studies: int
) -> Outcomes:
    """Races studies whose true Top-1s are drawn from a normal distribution around `gain`."""
    rng = np.random.default_rng(0)
    covered, claimed, wrong, runs = [], [], [], []
    said: list[float] = []
    true: list[bool] = []
    for _ in range(num_studies):
        truths = [0.0, *rng.normal(gain, width, len(noises) - 1)]
        found = race(rng, truths, noises)
        leader = max(range(1, len(truths)), key=lambda recipe: found.means[recipe])
        difference = found.difference(leader, 0)
        assert difference is not None
        covered.append(difference.low <= truths[leader] <= difference.high)
        claimed.append(difference.low > 0)
        wrong.append(difference.low > 0 and truths[leader] <= 0)
        runs.append(sum(map(len, found.top1s.values())))
        said += list(found.probability_best.values())
        true += [truth == max(truths) for truth in truths]
    shares = {
        "covered": fmean(covered),
        "claimed": fmean(claimed),
        "wrong": fmean(wrong),
        "runs": fmean(runs),
    }
    return Outcomes(**shares, said=tuple(said), true=tuple(true))


def race(rng: np.random.Generator, truths: Sequence[float], noises: Sequence[float]) -> Ranking:
    """What is known of recipes when nobody gets more seeds."""
    shared = rng.normal(0, 2, MAX_SEEDS)
    noise = rng.normal(size=(len(truths), MAX_SEEDS)) * np.asarray(noises)[:, None]
    scores = np.asarray(truths)[:, None] + shared + noise
    top1s = {recipe: dict(enumerate(row[:NUM_SEEDS])) for recipe, row in enumerate(scores)}
    found, left = rank(top1s, reference=0, num_images=10**6), set(top1s)
    for seed in range(NUM_SEEDS, MAX_SEEDS):
        left = still_open(found, left)
        for recipe in left:
            top1s[recipe][seed] = scores[recipe, seed]
        found = rank(top1s, reference=0, num_images=10**6)
    return found


def calibration(parts: Sequence[Outcomes]) -> list[Mapping[str, float]]:
    """By how probable it was said to be that a recipe is the best: how often it is."""
    said, true = (
        np.concatenate([np.asarray(getattr(part, name)) for part in parts])
        for name in ("said", "true")
    )
    bins = []
    for low, high in pairwise(EDGES):
        there = (said >= low) & (said < high)
        if there.any():
            bins.append(
                {"low": low, "high": high, "said": float(said[there].mean()), "true": float(true[there].mean()),
                 "n": int(there.sum())}
            )  # fmt: skip
    return bins


def _error(num_studies: int) -> float:
    """Standard error of a share near 95 %, points."""
    return 100 * math.sqrt(0.95 * 0.05 / num_studies)


if __name__ == "__main__":
    main()
