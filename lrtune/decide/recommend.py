"""The recommendation: which recipe, how sure, and against what."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median, stdev

from lrtune.core.recipe import Recipe, decay_parameters
from lrtune.core.run import BASELINE, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.convergence import Convergence, convergence_epoch, settling_epoch
from lrtune.decide.noise import Difference
from lrtune.decide.plan import outcome
from lrtune.decide.race import (
    Entrant,
    baseline_of,
    entrants,
    final_top1,
    fresh_seeds,
    fresh_top1s,
    has_outcome,
    standings,
)
from lrtune.decide.ranking import Ranking
from lrtune.decide.trials import best_first, trials_of

LIKELY = 0.05
"""Probability of being the best that a recipe needs to be named as the simplest of a tie."""
Known = Mapping[int, Mapping[int, float]]
"""Final Top-1 by trial and fresh seed."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A recipe that was trained with fresh seeds, or the best of a search that has not got so far."""

    trial: int
    """Its number, or `BASELINE`."""
    name: str
    """`baseline`, `trial 7`, or in a comparison what it is called there."""
    recipe: Recipe
    search_top1: float
    """Percent, of the full run that the search saw; nan where it saw none, and for the baseline."""
    seeds: tuple[int, ...]
    """The fresh seeds that it was trained with."""
    top1s: tuple[float, ...]
    """Final Top-1 of the runs with fresh seeds, percent, in the order of the seeds."""
    val_losses: tuple[float, ...]
    """Final validation loss of the same runs; nan of one that diverged."""
    seconds: float
    """Time that one of these runs takes, what was reused counted in; the mean of them, nan without
    any."""
    convergence: Convergence
    settling_epoch: float
    """Median over the seeds; nan without any."""
    test_top1s: tuple[float, ...] = ()
    """The same runs on the test images; only the recommended recipe and the baseline have any."""
    difference: Difference | None = None
    """To the baseline; `None` for the baseline itself, and where they share no seed."""
    probability_best: float = math.nan
    """That no other of those confirmed has a higher true Top-1; nan where nothing is known of that.
    """

    @property
    def mean(self) -> float:
        """Mean final Top-1 over fresh seeds; nan without any."""
        return fmean(self.top1s) if self.top1s else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over fresh seeds, points; nan with fewer than two."""
        return stdev(self.top1s) if len(self.top1s) > 1 else math.nan

    @property
    def optimism(self) -> float:
        """How far the search's Top-1 lies above the confirmed mean, points: the winner's curse; nan where not known."""
        return self.search_top1 - self.mean

    @property
    def num_parts(self) -> int:
        """What there is to set and explain in its schedule: a warmup, a floor, each parameter of its decay."""
        parts = (self.recipe.warmup_epochs > 0) + (self.recipe.final_frac > 0)
        return parts + len(decay_parameters(self.recipe.decay.name))


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The outcome of a study, or its best guess so far."""

    best: Contender
    baseline: Contender | None
    contenders: tuple[Contender, ...]
    """All that were confirmed, best first, the baseline among them."""
    ties: tuple[Contender, ...]
    """Contenders that fresh seeds do not tell from `best`."""
    simplest: Contender | None
    """Of `best` and its ties, as far as they may well be better, the one with the fewest parts, and
    then the earliest to converge; `None` without ties."""
    target: float
    """Top-1 that convergence is measured against, percent; nan while there is none."""
    target_source: str
    final: bool
    """Whether the study is done and `best` was confirmed."""
    verdict: str
    """How sure we are, in a sentence or two."""


def recommend(state: StudyState) -> Recommendation | None:
    """The recipe to use, by the Top-1 over fresh seeds (`Ranking.means`); by the search's own until there are any.

    Returns:
        `None` where no trial has finished and no baseline either.
    """
    target, source = target_of(state)
    known, ranking = fresh_top1s(state), standings(state)
    best_of = ranking.probability_best
    runs: dict[int, list[RunRecord]] = {}
    for record in state.fresh:
        if has_outcome(record):
            runs.setdefault(record.run.trial, []).append(record)

    def contender(entrant: Entrant, search_top1: float) -> Contender:
        number = entrant.number
        of_it = runs.get(number, [])
        epochs = [convergence_epoch([m.top1 for m in r.measurements], target) for r in of_it]
        settling = [
            settling_epoch([m.top1 for m in r.measurements], state.config.num_validation)
            for r in of_it
        ]
        return Contender(
            trial=number,
            name=entrant.name,
            recipe=entrant.recipe,
            search_top1=search_top1,
            seeds=tuple(r.run.seed for r in of_it),
            top1s=tuple(map(final_top1, of_it)),
            val_losses=tuple(
                r.measurements[-1].val_loss if r.measurements else math.nan for r in of_it
            ),
            seconds=fmean(sum(m.seconds for m in r.measurements) for r in of_it)
            if of_it
            else math.nan,
            convergence=Convergence(epochs=tuple(epochs), horizon_epochs=state.config.epochs),
            settling_epoch=median(settled)
            if (settled := [s for s in settling if s is not None])
            else math.nan,
            test_top1s=tuple(r.test_top1 for r in of_it if r.test_top1 is not None),
            difference=None
            if number == BASELINE
            else _difference(number, BASELINE, known, ranking),
            probability_best=best_of.get(number, 0.0 if number in known and best_of else math.nan),
        )

    baseline = None
    if BASELINE in runs:
        baseline = contender(baseline_of(state), math.nan)
    if state.config.is_comparison:
        candidates = [c for entrant in entrants(state) if (c := contender(entrant, math.nan)).top1s]
    else:
        candidates = [
            contender(
                Entrant(number=trial.number, name=f"trial {trial.number}", recipe=trial.recipe),
                trial.top1,
            )
            for trial in best_first(trials_of(state))
        ]
    # The baseline comes first, so that it keeps its place where a new recipe only equals it.
    proven = ([baseline] if baseline else []) + [c for c in candidates if c.top1s]
    ranked = sorted(
        proven,
        key=lambda c: (c.trial in ranking.means, ranking.means.get(c.trial, c.mean)),
        reverse=True,
    )
    if any(c.top1s and c.trial != BASELINE for c in ranked) or (
        baseline and baseline.mean > 0 and not candidates
    ):
        best = ranked[0]
    elif candidates:
        # The baseline's own recipe is often among the trials; it has its fresh seeds already.
        best = baseline if baseline and candidates[0].recipe == baseline.recipe else candidates[0]
    else:
        return None
    ended = outcome(state)
    final = ended is not None and not ended.failed and bool(best.top1s)
    ties = tuple(
        c for c in ranked if c is not best and best.top1s and _is_tie(best, c, known, ranking)
    )
    plausible = [
        c for c in ties if not c.probability_best < LIKELY
    ]  # nan: nothing is known of that
    simplest = min((best, *plausible), key=_upkeep) if ties else None
    return Recommendation(
        best=best,
        baseline=baseline,
        contenders=tuple(ranked),
        ties=ties,
        simplest=simplest,
        target=target,
        target_source=source,
        final=final,
        verdict=_verdict(
            best, baseline, ties, simplest, final=final, compared=state.config.is_comparison
        ),
    )


def target_of(state: StudyState) -> tuple[float, str]:
    """The Top-1 that convergence is measured against, and where it comes from; nan while there is none.

    It is fixed before the search: seeds that the race adds do not move it.
    """
    if state.config.target is not None:
        return state.config.target, "asked for"
    first = fresh_seeds(state.config)
    finals = [
        final_top1(r) for r in state.of_kind("baseline") if has_outcome(r) and r.run.seed in first
    ]
    whose = state.config.recipes[0].name if state.config.is_comparison else "the baseline"
    if not finals:
        return math.nan, "no baseline yet"
    if median(finals) == 0:
        return math.nan, f"{whose} diverged"
    seeds = "1 seed" if len(finals) == 1 else f"{len(finals)} seeds"
    return median(finals), f"{whose}'s median final Top-1 over {seeds}"


def _difference(ours: int, theirs: int, known: Known, ranking: Ranking) -> Difference | None:
    """Over the seeds that both have, `None` where there is none; unbounded where one of them diverged once."""
    if {ours, theirs} <= ranking.top1s.keys():
        return ranking.difference(ours, theirs)
    shared = known.get(ours, {}).keys() & known.get(theirs, {}).keys()
    if not shared:
        return None
    mean = fmean(known[ours][seed] - known[theirs][seed] for seed in sorted(shared))
    return Difference(mean=mean, low=-math.inf, high=math.inf)


def _is_tie(best: Contender, other: Contender, known: Known, ranking: Ranking) -> bool:
    """Whether fresh seeds do not tell them apart. What diverged is no tie of what did not."""
    if best.trial in ranking.top1s and other.trial not in ranking.top1s:
        return False
    difference = _difference(best.trial, other.trial, known, ranking)
    return difference is None or difference.includes_zero


def _upkeep(contender: Contender) -> tuple[float, float]:
    """What is least is the simplest, and of equals the cheapest: the first to reach the target."""
    epochs = [math.inf if epoch is None else epoch for epoch in contender.convergence.epochs]
    return contender.num_parts, median(epochs) if epochs else math.inf


def _verdict(
    best: Contender, baseline: Contender | None, ties: tuple[Contender, ...], simplest: Contender | None, *,
    final: bool, compared: bool,
) -> str:  # fmt: skip
    if not best.top1s:
        return (
            "Best of the search so far, not confirmed with fresh seeds: expect less than its Top-1."
        )
    said = []
    if best is baseline and not compared:
        beaten = "Nothing that was confirmed beats the baseline"
        said.append(f"{beaten}: keep it." if final else f"{beaten} so far.")
    elif (
        baseline is not None and best.difference is not None and math.isfinite(best.difference.low)
    ):
        d = best.difference
        against = baseline.name if compared else "the baseline"
        interval = f"{d.mean:+.2f} points of Top-1 against {against}, 95 % interval [{d.low:+.2f}, {d.high:+.2f}]"
        told_apart = "no gain is proved" if d.includes_zero else "better" if d.mean > 0 else "worse"
        said.append(f"{interval}: {told_apart}.")
    if ties:
        names = ", ".join(c.name for c in ties)
        name = best.name if compared else best.name.capitalize()
        said.append(
            f"{name} is a tie with {names}: {_shared_seeds(best, ties)} not tell them apart."
        )
    elif compared:
        said.append(f"{best.name} is told apart from all others.")
    if simplest is not None and simplest is not best:
        said.append(
            f"The simplest that may well be the best is {simplest.name}: {simplest.recipe.label}."
        )
    if not final:
        said.append(f"The {'comparison' if compared else 'study'} is not finished.")
    return " ".join(said)


def _shared_seeds(best: Contender, ties: tuple[Contender, ...]) -> str:
    numbers = {len(set(best.seeds) & set(c.seeds)) for c in ties}
    if len(numbers) > 1:
        return "the fresh seeds that they share do"
    return "one fresh seed does" if numbers == {1} else f"{max(numbers)} fresh seeds do"
