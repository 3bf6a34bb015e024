"""What fresh seeds say of several recipes: differences with their intervals, and who is the best.

The score of recipe k with seed s is `mu_k + b_s + e_ks`: seeds give initial weights and data order,
so the runs of one seed share `b_s`, and what chance adds is normal with one variance for all. The
candidates of a search are the best of many, so their scores flatter the first among them; they are
taken as draws from one normal distribution, which pulls them together by as much as the data allow
(Efron & Morris 1975, doi 10.2307/2285814; the half-Cauchy prior of its width is that of Gelman
2006, doi 10.1214/06-BA117A). The recipe that they are compared with was not chosen for its score,
and is left where it is. A posterior hardly minds which of them is looked at and when one stops to
train more seeds, so the same numbers serve the race, the ties and the report. With one candidate
the interval is that of the paired t test, a little wider. Where a training cannot repeat a run, a
seed does nothing, and there is no `b_s`. `benchmarks/intervals.py` tells how often all this is
right.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from lrtune.decide.noise import Difference

Array = NDArray[np.float64]

TAIL = 0.0075
"""On either side of a 95 % interval. Less than 2.5 %, because choosing the best and looking after
each seed make intervals miss more: they cover 95 times in 100 where all are equal."""
NUM_WIDTHS = 32
"""Points on the prior of the candidates' width, all of the same probability."""
NUM_DRAWS = 20_000
SMALLEST = 1e-30
"""Spread that is taken for none."""
MIN_SEEDS = 2
"""That two recipes must share, or have if seeds do nothing, before their difference has an
interval."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What is known of the true scores, up to a constant that all share. Made by `rank`."""

    scores: Mapping[int, Mapping[int, float]]
    """By recipe and seed, higher is better."""
    weights: Array
    """Posterior probability of each width, shape (w,)."""
    centres: Array
    """Posterior mean of each recipe's score at each width, shape (w, k)."""
    roots: Array
    """Of their scale matrix: `roots @ roots.T`, shape (w, k, q)."""
    noise: float
    """Standard deviation of a score over seeds; nan where it is not known."""
    freedom: int
    """Degrees of freedom of the multivariate t distributions that `centres` and `roots` belong to;
    0: none."""
    paired: bool = True
    """Whether runs of one seed share what that seed did to them."""

    @cached_property
    def means(self) -> Mapping[int, float]:
        """Each recipe's mean score, with what a seed did to all allowed for.

        It is that of least squares by recipe and seed. Where all recipes have the same seeds these
        are the plain means, and also where seeds link no two recipes or do nothing.
        """
        plain = {recipe: fmean(by_seed.values()) for recipe, by_seed in self.scores.items()}
        runs = _runs(self.scores)
        seeds = sorted({seed for _, seed, _ in runs})
        design = np.array(
            [
                [recipe == r for r in self.scores] + [seed == s for s in seeds[1:]]
                for recipe, seed, _ in runs
            ]
        )
        if not self.paired or not runs or np.linalg.matrix_rank(design) < design.shape[1]:
            return plain
        values = np.array([score for *_, score in runs])
        effects = np.linalg.lstsq(design.astype(float), values)[0]
        offset = effects[len(self.scores) :].sum() / len(seeds)
        # Rounded, so that equal ones are equal.
        decimals = 10 - math.floor(math.log10(np.abs(values).max() or 1.0))
        return {
            recipe: round(float(effect + offset), decimals)
            for recipe, effect in zip(self.scores, effects, strict=False)
        }

    @cached_property
    def posterior_means(self) -> Mapping[int, float]:
        """Each recipe's expected score, up to a constant that all share.

        Those of the candidates are pulled together by as much as the data allow. Where nothing is
        known of the noise these are the means as they are.
        """
        if not self.freedom:
            return self.means
        expected = self.weights @ self.centres
        return {recipe: float(mean) for recipe, mean in zip(self.scores, expected, strict=True)}

    def expected_loss(self, recipe: int) -> float:
        """How much worse than the best of all a recipe is, on average; infinite if not known."""
        if not self.freedom:
            return math.inf
        ours = self._draws[:, list(self.scores).index(recipe)]
        return float(np.mean(self._draws.max(axis=1) - ours))

    def difference(self, ours: int, theirs: int) -> Difference | None:
        """Mean of `ours - theirs`, with its 95 % interval; `None` where they cannot be compared.

        It is the mean over the seeds that both have or, where seeds do nothing, that of the means.
        """
        a, b = self.scores[ours], self.scores[theirs]
        shared = sorted(a.keys() & b.keys())
        if self.paired and not shared:
            return None
        num_seeds = len(shared) if self.paired else min(len(a), len(b))
        mean = (
            fmean(a[seed] - b[seed] for seed in shared)
            if self.paired
            else fmean(a.values()) - fmean(b.values())
        )
        if num_seeds < MIN_SEEDS or not self.freedom:
            return Difference(mean=mean, low=-math.inf, high=math.inf)
        low, high = (self._quantile(ours, theirs, p) for p in (TAIL, 1 - TAIL))
        return Difference(mean=mean, low=low, high=high)

    def probability_above(self, ours: int, theirs: int) -> float:
        """That the true score of one recipe is above that of another."""
        return 1 - self._cumulative(ours, theirs, 0.0) if self.freedom else 0.5

    @cached_property
    def probability_best(self) -> Mapping[int, float]:
        """Of each recipe, that its true score is the highest of all these.

        It is empty where nothing is known.
        """
        if not self.freedom:
            return {}
        counts = np.bincount(self._draws.argmax(axis=1), minlength=len(self.scores))
        return {
            recipe: float(count / NUM_DRAWS)
            for recipe, count in zip(self.scores, counts, strict=True)
        }

    @cached_property
    def _draws(self) -> Array:
        """True scores, drawn from the posterior: shape (draws, k)."""
        rng = np.random.default_rng(0)  # of the same data, the same figures
        widths = rng.choice(len(self.weights), size=NUM_DRAWS, p=self.weights)
        normal = rng.standard_normal((NUM_DRAWS, self.roots.shape[2]))
        scale = np.sqrt(self.freedom / rng.chisquare(self.freedom, NUM_DRAWS))
        offsets = np.empty((NUM_DRAWS, len(self.scores)))
        for width in np.unique(widths):
            offsets[widths == width] = normal[widths == width] @ self.roots[width].T
        draws: Array = self.centres[widths] + offsets * scale[:, None]
        return draws

    def _cumulative(self, ours: int, theirs: int, value: float) -> float:
        """Probability that `ours - theirs` is at most `value`."""
        centres, scales = self._contrast(ours, theirs)
        return float(self.weights @ stats.t.cdf((value - centres) / scales, self.freedom))

    def _quantile(self, ours: int, theirs: int, probability: float) -> float:
        centres, scales = self._contrast(ours, theirs)
        ends = stats.t.ppf(probability, self.freedom, loc=centres, scale=scales)
        low, width = float(ends.min()), float(ends.max() - ends.min())
        if width <= 1e-12 * float(np.abs(ends).max()):
            return low
        # In units of the width, so that the solver's tolerance is relative.
        share = optimize.brentq(
            lambda x: self._cumulative(ours, theirs, low + x * width) - probability, -1e-9, 1 + 1e-9
        )
        return low + float(share) * width

    def _contrast(self, ours: int, theirs: int) -> tuple[Array, Array]:
        """Location and scale of `ours - theirs` at each width, shape (w,) each."""
        columns = list(self.scores)
        i, j = columns.index(ours), columns.index(theirs)
        return (
            self.centres[:, i] - self.centres[:, j],
            np.linalg.norm(self.roots[:, i] - self.roots[:, j], axis=1),
        )


def rank(
    scores: Mapping[int, Mapping[int, float]],
    *,
    reference: int | None,
    least_difference: float,
    paired: bool = True,
) -> Ranking:
    """What the final scores of several recipes say of them.

    Args:
        scores: final score by recipe and seed, finite; recipes need not have the same seeds.
        reference: the recipe that was not chosen for its score, if it is among them.
        least_difference: between two scores that an evaluation can show; 0 where it is not known.
            The spread over a few seeds may come out as zero by luck; it is never taken as smaller
            than what the evaluation, or arithmetic in float32, can resolve.
        paired: whether runs of one seed share what that seed did to them.
    """
    scores = {recipe: by_seed for recipe, by_seed in scores.items() if by_seed}
    candidates = [recipe for recipe in scores if recipe != reference]
    runs = _runs(scores)
    seeds = sorted({seed for _, seed, _ in runs}) if paired else [None]
    values = np.array([score for _, _, score in runs])
    drawn = candidates if len(candidates) > 1 else []
    # One column a seed; then how far the candidates as a whole are from the reference; then how far
    # each is from them.
    led = [reference] if candidates and reference in scores else []
    fixed = np.array(
        [
            [not paired or seed == s for s in seeds] + [recipe != r for r in led]
            for recipe, seed, _ in runs
        ],
        dtype=float,
    )
    own = np.array([[recipe == c for c in drawn] for recipe, _, _ in runs], dtype=float).reshape(
        len(runs), len(drawn)
    )
    design = np.hstack([fixed, own]) if runs else np.zeros((0, 0))
    freedom = len(runs) - len(seeds) - len(led)
    if freedom <= 0 or np.linalg.matrix_rank(fixed) < fixed.shape[1]:
        nothing = np.zeros((1, len(scores)))
        return Ranking(
            scores=scores,
            weights=np.ones(1),
            centres=nothing,
            roots=nothing[:, :, None],
            noise=math.nan,
            freedom=0,
            paired=paired,
        )
    # From the columns to the recipes; what a seed adds is the same for all, and left out.
    pick = np.array(
        [
            [0.0] * len(seeds) + [recipe != r for r in led] + [recipe == c for c in drawn]
            for recipe in scores
        ]
    )

    resolution = max(
        least_difference, float(np.finfo(np.float32).eps * np.abs(values).max()), SMALLEST
    )
    # Runs that differ by the least difference are each off by 1 / sqrt(2) of it.
    least = freedom * resolution**2 / 2
    values = values - values.mean()  # the seeds' columns take it up; it would cost digits
    evidence, centres, roots, variances = [], [], [], []
    for ratio in _ratios() if drawn else [1.0]:
        # Henderson's equations of the mixed model (1975, doi 10.2307/2529430), and its restricted
        # likelihood.
        penalty = np.diag([0.0] * fixed.shape[1] + [ratio**-2.0] * len(drawn))
        inverse = np.linalg.inv(design.T @ design + penalty)
        effects = inverse @ design.T @ values
        squares = max(float(values @ (values - design @ effects)), least)
        covariance = np.eye(len(runs)) + ratio**2 * own @ own.T
        information = fixed.T @ np.linalg.solve(covariance, fixed)
        logdets = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
        evidence.append(-(logdets + freedom * math.log(squares)) / 2)
        centres.append(pick @ effects)
        variances.append(squares / freedom)
        sizes, axes = np.linalg.eigh(pick @ inverse @ pick.T * (squares / freedom))
        # The symmetric root: of equal sizes the axes are whatever the processor's library makes
        # them.
        roots.append(axes * np.sqrt(np.clip(sizes, 0, None)) @ axes.T)
    weights = np.exp(np.array(evidence) - max(evidence))
    weights = weights / weights.sum()
    return Ranking(
        scores=scores,
        weights=weights,
        centres=np.array(centres),
        roots=np.array(roots),
        noise=math.sqrt(weights @ np.array(variances)),
        freedom=freedom,
        paired=paired,
    )


def _runs(scores: Mapping[int, Mapping[int, float]]) -> list[tuple[int, int, float]]:
    """Recipe, seed and score of each run."""
    return [
        (recipe, seed, score)
        for recipe, by_seed in scores.items()
        for seed, score in by_seed.items()
    ]


def _ratios() -> Iterator[float]:
    """Widths of the candidates in units of the noise: quantiles of a half-Cauchy of scale 1."""
    for i in range(NUM_WIDTHS):
        yield math.tan(math.pi / 2 * (i + 0.5) / NUM_WIDTHS)
