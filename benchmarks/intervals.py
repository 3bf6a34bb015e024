"""Whether what a report says of its own certainty is right: made-up studies whose truth is known.

    python benchmarks/intervals.py --only top1 --json benchmarks/results/intervals.json
    python benchmarks/intervals.py --only losses --json benchmarks/results/intervals-losses.json

In each study three candidates and a baseline are raced as `lrtune search` races them: round by
round, those that are unlikely to win drop out, and from 3 fresh seeds up to 8 the race ends as soon
as it is decided; the baseline goes on to the end. What is said is said when it has ended. Top-1s
are normal with a standard deviation of 1, and what a seed does to all is shared. `width` is how
much the true Top-1s of the candidates differ, `gain` how far they lie above the baseline's, and
`interval` how wide the interval is, in deviations of one seed. Then the same with a loss, which is
minimised and has no upper bound: small (about 0.01), far from zero (about 1,000), or with a long
tail, where the logarithm of each factor is normal and the truth is the mean loss. `loss, unpaired`
is of trainings that do not repeat their results for the same seed.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lrtune.core.objective import Objective
from lrtune.core.recipe import default_recipe
from lrtune.core.run import BASELINE
from lrtune.core.study import StudyConfig, TrainSettings
from lrtune.decide.race import going_on
from lrtune.decide.ranking import Ranking, rank
from lrtune.training.native.devices import describe_environment

MAX_SEEDS = 8
CONFIG = StudyConfig(
    name="made-up", task={}, space_name="", space_toml="", epochs=1, steps_per_epoch=1,
    baseline=default_recipe("sgd"), max_seeds=MAX_SEEDS,
)  # fmt: skip
"""The rules of the race, of which only those that follow from no training are asked."""
Array = NDArray[np.float64]
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


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a metric comes from scores whose noise has a standard deviation of 1.

    The value is `offset - scale * score` of a loss, and `offset * exp(-scale * score)` where its
    tail is long.
    """

    objective: Objective
    scale: float = 1.0
    offset: float = 0.0
    is_skewed: bool = False
    paired: bool = True

    @property
    def unit(self) -> float:
        """The value that a noise of 1 is worth."""
        return self.scale * (self.offset if self.is_skewed else 1.0)

    def value(self, score: Array) -> Array:
        """The metric's values of some scores."""
        if self.objective.direction == "max":
            return score
        if self.is_skewed:
            return self.offset * np.exp(-self.scale * score)
        return self.offset - self.scale * score

    def truth(self, score: float, noise: float) -> float:
        """The mean value of a recipe, shared effects of the seeds left out."""
        mean = float(self.value(np.array(score)))
        return mean * math.exp((self.scale * noise) ** 2 / 2) if self.is_skewed else mean


TOP1 = Kind(objective=Objective(num_counted=10**6))
_LOSS = Objective(metric="val_loss", direction="min")
KINDS = {
    "Top-1": TOP1,
    "loss, small": Kind(objective=_LOSS, scale=1e-4, offset=1e-2),
    "loss, far from zero": Kind(objective=_LOSS, scale=0.1, offset=1e3),
    "loss, tail of 5 %": Kind(objective=_LOSS, scale=0.05, offset=1e-2, is_skewed=True),
    "loss, tail of 30 %": Kind(objective=_LOSS, scale=0.3, offset=1e-2, is_skewed=True),
    "loss, unpaired": Kind(objective=_LOSS, scale=1e-4, offset=1e-2, paired=False),
}
"""How scores become values, by what the table calls them; the noise of a tail is in percent."""
KIND_CASES = ((0, 0), (1, 0), (1, 1), (3, 3))
"""Width and gain of the cases that every kind but Top-1 is tried with."""
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
    interval: float
    """Median width of the interval, in deviations of one seed."""
    said: tuple[float, ...]
    """Of each recipe of each study, the probability that it is the best."""
    true: tuple[bool, ...]
    """Whether it is."""


def main() -> None:
    """Prints how often intervals cover, and what comes of those called the best."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000, help="of each kind")
    parser.add_argument("--only", choices=["top1", "losses"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    environment = dict(describe_environment(TrainSettings(threads=1), default_recipe("sgd")))
    console = Console()
    for key, value in environment.items():
        console.print(f"{key}: {value}", highlight=False)
    values = {"benchmark": "intervals", "environment": environment, "studies": given.studies}
    console.print(
        f"{given.studies} studies of each kind; a share is known to "
        f"{_error(given.studies):.1f} points"
    )
    if given.only != "losses":
        values |= _top1s(console, given.studies)
    if given.only != "top1":
        values |= _losses(console, given.studies)
    if given.json:
        given.json.write_text(json.dumps(values, indent=1) + "\n")


def _top1s(console: Console, num_studies: int) -> dict[str, Any]:
    """Prints and returns what studies of a Top-1 say."""
    studied = {case: outcomes(*case, num_studies=num_studies) for case in CASES}
    table = Table(
        "width", "gain", "noise", "covered", "interval", "called better", "wrongly", "runs"
    )
    for (width, gain, noises), one in studied.items():
        noise = " ".join(f"{n:g}" for n in noises)
        table.add_row(f"{width:g}", f"{gain:g}", noise, *_cells(one))
    console.print(table)
    bins = calibration([studied[width, gain, EQUAL] for width, gain in CALIBRATED])
    table = Table("called the best with", "on average", "are the best", "n")
    for one in bins:
        ends = f"{100 * one['low']:.0f} to {min(100 * one['high'], 100):.0f} %"
        table.add_row(
            ends, f"{100 * one['said']:.1f} %", f"{100 * one['true']:.1f} %", f"{one['n']:,}"
        )
    console.print(table)
    cases = [
        {"width": w, "gain": g, "noises": n, "covered": o.covered, "claimed": o.claimed,
         "wrong": o.wrong, "runs": o.runs, "interval": o.interval}
        for (w, g, n), o in studied.items()
    ]  # fmt: skip
    return {"cases": cases, "calibration": bins}


def _losses(console: Console, num_studies: int) -> dict[str, Any]:
    """Prints and returns what studies of a loss say."""
    losses = {
        (name, *case): outcomes(*case, kind=kind, num_studies=num_studies)
        for name, kind in KINDS.items()
        if kind is not TOP1
        for case in KIND_CASES
    }
    table = Table(
        "metric", "width", "gain", "covered", "interval", "called better", "wrongly", "runs"
    )
    for (name, width, gain), one in losses.items():
        table.add_row(name, f"{width:g}", f"{gain:g}", *_cells(one))
    console.print(table)
    of_losses = [
        {"metric": name, "width": w, "gain": g, "covered": o.covered, "claimed": o.claimed,
         "wrong": o.wrong, "runs": o.runs, "interval": o.interval}
        for (name, w, g), o in losses.items()
    ]  # fmt: skip
    return {"losses": of_losses}


def _cells(one: Outcomes) -> tuple[str, ...]:
    covered, claimed, wrong = (
        f"{100 * share:.1f} %" for share in (one.covered, one.claimed, one.wrong)
    )
    return covered, f"{one.interval:.2f}", claimed, wrong, f"{one.runs:.1f}"


def outcomes(
    width: float,
    gain: float,
    noises: Sequence[float] = EQUAL,
    *,
    num_studies: int,
    kind: Kind = TOP1,
) -> Outcomes:
    """Races studies whose true scores are drawn from a normal distribution around `gain`."""
    objective = kind.objective
    rng = np.random.default_rng(0)
    covered, claimed, wrong, runs, widths = [], [], [], [], []
    said: list[float] = []
    true: list[bool] = []
    for _ in range(num_studies):
        scores = [0.0, *rng.normal(gain, width, len(noises) - 1)]
        ranking = race(rng, scores, noises, kind)
        candidates = [recipe for recipe in ranking.scores if recipe != BASELINE]
        leader = max(candidates, key=lambda recipe: ranking.posterior_means[recipe])
        difference = ranking.difference(leader, BASELINE)
        assert difference is not None
        truths = {
            recipe: objective.signed(kind.truth(score, noise))
            for recipe, score, noise in zip(ranking.scores, scores, noises, strict=True)
        }
        truth = truths[leader] - truths[BASELINE]
        covered.append(difference.low <= truth <= difference.high)
        claimed.append(difference.low > 0)
        wrong.append(difference.low > 0 and truth <= 0)
        runs.append(sum(map(len, ranking.scores.values())))
        widths.append((difference.high - difference.low) / kind.unit)
        said += list(ranking.probability_best.values())
        true += [value == max(truths.values()) for value in truths.values()]
    shares = {
        "covered": fmean(covered),
        "claimed": fmean(claimed),
        "wrong": fmean(wrong),
        "runs": fmean(runs),
        "interval": median(widths),
    }
    return Outcomes(**shares, said=tuple(said), true=tuple(true))


def race(
    rng: np.random.Generator, truths: Sequence[float], noises: Sequence[float], kind: Kind
) -> Ranking:
    """What is known of the baseline, and of recipes 0, 1, ..., when the race is over."""
    objective = kind.objective
    # What a seed does to all is added to the value: a factor would make the difference of the true
    # values another one for each seed.
    shared = rng.normal(0, 2, MAX_SEEDS) * (kind.unit if kind.paired else 0.0)
    noise = rng.normal(size=(len(truths), MAX_SEEDS)) * np.asarray(noises)[:, None]
    values = kind.value(np.asarray(truths)[:, None] + noise) + shared
    rows = values if objective.direction == "max" else -values
    final = dict(zip((BASELINE, *range(len(truths) - 1)), rows, strict=True))
    scores: dict[int, dict[int, float]] = {recipe: {} for recipe in final}

    def ranked() -> Ranking:
        return rank(
            scores,
            reference=BASELINE,
            least_difference=objective.least_difference,
            paired=kind.paired,
        )

    remaining = set(scores)
    for seed in range(MAX_SEEDS):  # as in `lrtune.decide.race.rounds`
        if seed:
            ranking = ranked()
            remaining = going_on(ranking, remaining, CONFIG, num_seeds=seed)
            if not remaining:
                return ranking
        for recipe in {BASELINE, *remaining}:
            scores[recipe][seed] = final[recipe][seed]
    return ranked()


def calibration(parts: Sequence[Outcomes]) -> list[Mapping[str, float]]:
    """By how probable it was said to be that a recipe is the best: how often it is."""
    said, true = (
        np.concatenate([np.asarray(getattr(part, name)) for part in parts])
        for name in ("said", "true")
    )
    bins = []
    for low, high in pairwise(EDGES):
        inside = (said >= low) & (said < high)
        if inside.any():
            bins.append(
                {"low": low, "high": high, "said": float(said[inside].mean()),
                 "true": float(true[inside].mean()), "n": int(inside.sum())}
            )  # fmt: skip
    return bins


def _error(num_studies: int) -> float:
    """Standard error of a share near 95 %, points."""
    return 100 * math.sqrt(0.95 * 0.05 / num_studies)


if __name__ == "__main__":
    main()
