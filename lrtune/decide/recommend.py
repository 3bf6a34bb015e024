"""The recommendation: which recipe, how sure, and against what."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev

from lrtune.core.counts import count
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import BASELINE, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.budget import LOOKS_ALONE, num_finalists, num_rounds
from lrtune.decide.convergence import Convergence, convergence_epoch, settling_epoch
from lrtune.decide.noise import Difference
from lrtune.decide.plan import outcome
from lrtune.decide.race import (
    Entrant,
    baseline_of,
    entrants,
    final_score,
    fresh_scores,
    fresh_seeds,
    has_outcome,
    idle_seeds,
    standings,
)
from lrtune.decide.ranking import Ranking
from lrtune.decide.trials import best_first, trials_of

LIKELY = 0.05
"""Probability of being the best that a recipe needs to be named as the simplest of a tie."""
BEYOND_CHANCE = 2.0
"""Counting errors by which a value must be better than guessing."""
Scores = Mapping[int, Mapping[int, float]]
"""Final score by trial and fresh seed."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A recipe that was trained with fresh seeds, or the best of an unfinished search."""

    trial: int
    """Its number, or `BASELINE`."""
    name: str
    """`baseline`, `trial 7`, or in a comparison what it is called there."""
    recipe: Recipe
    search_value: float
    """Of the full run that the search saw; nan where it saw none, and for the baseline."""
    seeds: tuple[int, ...]
    """The fresh seeds that it was trained with."""
    values: tuple[float, ...]
    """What the runs with fresh seeds ended with, in the order of the seeds; nan of one that
    diverged."""
    val_losses: tuple[float, ...]
    """Final validation loss of the same runs; nan of one that diverged, or where there is none."""
    seconds: float
    """Time that one of these runs takes, what was reused counted in; the mean of them, nan without
    any."""
    convergence: Convergence
    settling_epoch: float
    """Median over the seeds; nan without any."""
    test_values: tuple[float, ...] = ()
    """The same runs on the test split; only the recommended recipe and the baseline have any."""
    difference: Difference | None = None
    """To the baseline; `None` for the baseline itself, and where they share no seed."""
    probability_best: float = math.nan
    """That no other of those confirmed is better in truth; nan where nothing is known of it."""

    @property
    def mean(self) -> float:
        """Mean final value over fresh seeds; nan without any, and where one diverged."""
        return fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over fresh seeds; nan with fewer than two, and where one diverged."""
        is_known = len(self.values) > 1 and all(map(math.isfinite, self.values))
        return stdev(self.values) if is_known else math.nan

    @property
    def num_diverged(self) -> int:
        """Runs with fresh seeds that diverged, or have no value for another reason."""
        return sum(map(math.isnan, self.values))

    def optimism(self, objective: Objective) -> float:
        """How much better the search's value is than the confirmed mean; nan where not known.

        It is the selection bias of the best of many, or the winner's curse.
        """
        return objective.signed(self.search_value - self.mean)

    @property
    def num_parts(self) -> int:
        """What there is to set in its schedule: a warmup, a floor, the decay's parameters."""
        parts = (self.recipe.warmup_epochs > 0) + (self.recipe.final_frac > 0)
        return parts + len(self.recipe.decay.parameters)


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
    """Value that convergence is measured against; nan while there is none."""
    target_source: str
    final: bool
    """Whether the study is done and `best` was confirmed."""
    verdict: str
    """How sure we are, in a sentence or two."""


def recommend(state: StudyState) -> Recommendation | None:
    """The recipe to use: the one with the highest posterior mean over fresh seeds.

    Until there are any, it is the best by the looks of the search, and not confirmed.

    Returns:
        `None` where no trial has finished and no baseline either.
    """
    config, objective = state.config, state.config.objective
    target, source = target_of(state)
    scores, ranking = fresh_scores(state), standings(state)
    runs: dict[int, list[RunRecord]] = {}
    for record in state.fresh:
        if has_outcome(record):
            runs.setdefault(record.run.trial, []).append(record)

    def contender(entrant: Entrant, search_value: float) -> Contender:
        number = entrant.number
        records = runs.get(number, [])
        curves = [[objective.value(m.metrics) for m in record.measurements] for record in records]
        settling = [settling_epoch(objective, curve) for curve in curves]
        settled = [epoch for epoch in settling if epoch is not None]
        probabilities = ranking.probability_best
        unlikely = 0.0 if number in scores and probabilities else math.nan
        return Contender(
            trial=number,
            name=entrant.name,
            recipe=entrant.recipe,
            search_value=search_value,
            seeds=tuple(record.run.seed for record in records),
            values=tuple(_final_value(objective, record) for record in records),
            val_losses=tuple(record.metrics.get("val_loss", math.nan) for record in records),
            seconds=_mean_seconds(records),
            convergence=Convergence(
                epochs=tuple(convergence_epoch(objective, curve, target) for curve in curves),
                horizon_epochs=config.horizon_of(number),
            ),
            settling_epoch=median(settled) if settled else math.nan,
            test_values=tuple(
                objective.value(record.test) for record in records if record.test is not None
            ),
            difference=(
                None if number == BASELINE else _difference(number, BASELINE, scores, ranking)
            ),
            probability_best=probabilities.get(number, unlikely),
        )

    baseline = contender(baseline_of(state), math.nan) if BASELINE in runs else None
    if state.config.is_comparison:
        candidates = [contender(entrant, math.nan) for entrant in entrants(state)]
        candidates = [candidate for candidate in candidates if candidate.values]
    else:
        candidates = [
            contender(
                Entrant(number=trial.number, name=f"trial {trial.number}", recipe=trial.recipe),
                objective.value(trial.final_metrics),
            )
            for trial in best_first(trials_of(state))
        ]

    def place(candidate: Contender) -> tuple[bool, float]:
        """What is highest is the best; of those that diverged with a seed, the fewest times."""
        means = ranking.posterior_means
        is_sound = candidate.trial in means
        return is_sound, means[candidate.trial] if is_sound else -candidate.num_diverged

    # The baseline comes first, so that it keeps its place where a new recipe only equals it.
    proven = ([baseline] if baseline else []) + [c for c in candidates if c.values]
    ranked = sorted(proven, key=place, reverse=True)
    is_alone = baseline is not None and not candidates
    if any(c.trial != BASELINE for c in ranked) or (
        is_alone and baseline and baseline.num_diverged < len(baseline.values)
    ):
        best = ranked[0]
    elif candidates:
        best = candidates[0]
        if best.recipe == config.baseline:  # which is among the trials
            best = baseline or contender(baseline_of(state), best.search_value)
    else:
        return None
    ended = outcome(state)
    final = ended is not None and not ended.failed and bool(best.values)
    ties = tuple(
        c for c in ranked if c is not best and best.values and _is_tie(best, c, scores, ranking)
    )
    plausible = [c for c in ties if not c.probability_best < LIKELY]  # nan: nothing is known of it
    simplest = min((best, *plausible), key=_upkeep) if ties else None
    recommendation = Recommendation(
        best=best,
        baseline=baseline,
        contenders=tuple(ranked),
        ties=ties,
        simplest=simplest,
        target=target,
        target_source=source,
        final=final,
        verdict="",
    )
    return replace(recommendation, verdict=_verdict(state, recommendation))


def target_of(state: StudyState) -> tuple[float, str]:
    """The value that convergence is measured against, and its source; nan while there is none.

    It is that of the baseline's seeds in the rounds that there are at least, and is not known
    before all of them are: later ones do not move it.
    """
    objective = state.config.objective
    if state.config.target is not None:
        return state.config.target, "asked for"
    least, _ = num_rounds(state.config)
    first = fresh_seeds(state.config)[:least]
    scores = [
        final_score(objective, record)
        for record in state.of_kind("baseline")
        if has_outcome(record) and record.run.seed in first
    ]
    whose = state.config.recipes[0].name if state.config.is_comparison else "the baseline"
    if len(scores) < least:
        return math.nan, f"{whose} has fewer than {count(least, 'seed')}"
    if median(scores) == -math.inf:
        return math.nan, f"{whose} diverged"
    final = f"final {objective.title} of {whose}"
    source = f"the {final}" if len(scores) == 1 else f"the median {final} over {len(scores)} seeds"
    return objective.signed(median(scores)), source


def untrained_reason(state: StudyState) -> str:
    """That no epoch of any run is better than guessing, in words; empty where one is.

    A constant prediction is a guess, too. It is empty where nothing is known of guesses.
    """
    objective = state.config.objective
    guess, measurements = objective.trivial, [m for r in state.records for m in r.measurements]
    if guess is None or not measurements:
        return ""
    margin = BEYOND_CHANCE * objective.counting_error(guess)
    values = (objective.value(m.metrics) for m in measurements)
    if any(objective.improves(value, guess, threshold=margin) for value in values):
        return ""
    kind = "a constant prediction" if guess == objective.constant else "guessing"
    chance = ", by more than chance explains" if margin else ""
    return (
        f"No epoch of any run is better than {kind} ({objective.title} "
        f"{objective.text(guess, unit=True)}){chance}: look for a fault in the data, the model or "
        "the loss before you use any of this."
    )


def _final_value(objective: Objective, record: RunRecord) -> float:
    """Nan of a run that diverged."""
    return math.nan if record.state == "diverged" else objective.value(record.metrics)


def _mean_seconds(records: Sequence[RunRecord]) -> float:
    """Time of a run, what was reused counted in; nan without any."""
    times = [sum(m.seconds for m in record.measurements) for record in records]
    return fmean(times) if times else math.nan


def _difference(ours: int, theirs: int, scores: Scores, ranking: Ranking) -> Difference | None:
    """The difference of two recipes, `None` where they cannot be compared.

    It has no mean and no bounds where one of them diverged once.
    """
    if {ours, theirs} <= ranking.scores.keys():
        return ranking.difference(ours, theirs)
    if not scores.get(ours, {}).keys() & scores.get(theirs, {}).keys():
        return None
    return Difference(mean=math.nan, low=-math.inf, high=math.inf)


def _is_tie(best: Contender, other: Contender, scores: Scores, ranking: Ranking) -> bool:
    """Whether fresh seeds do not tell them apart. What diverged is no tie of what did not."""
    if best.trial in ranking.scores and other.trial not in ranking.scores:
        return False
    difference = _difference(best.trial, other.trial, scores, ranking)
    return difference is None or difference.includes_zero


def _upkeep(contender: Contender) -> tuple[float, float]:
    """What is least is the simplest, and of equals the cheapest: the first to reach the target."""
    epochs = [math.inf if epoch is None else epoch for epoch in contender.convergence.epochs]
    return contender.num_parts, median(epochs) if epochs else math.inf


def _verdict(state: StudyState, recommendation: Recommendation) -> str:
    """How sure the recommendation is, in sentences."""
    best, baseline, simplest = recommendation.best, recommendation.baseline, recommendation.simplest
    compared, sentences = state.config.is_comparison, []
    if reason := untrained_reason(state):
        sentences.append(reason)
    if same := idle_seeds(state):
        sentences.append(same)
    if not best.values:
        by = "by the looks" if state.of_kind("look") else "by the full runs"
        sentences.append(f"It is the best {by} of the search, and not confirmed with fresh seeds.")
        if state.fresh and all(record.state == "failed" for record in state.fresh):
            runs = count(len(state.fresh), "run")
            sentences.append(f"All {runs} with fresh seeds failed.")
        ended = outcome(state)
        if not ended:
            sentences.append("The study is not finished.")
        elif not ended.failed and state.config.confirm == "full" and not num_finalists(state):
            sentences.append(
                f"A budget of up to {LOOKS_ALONE} full runs leaves no room for that; "
                "`--confirm quick` makes some."
            )
        return " ".join(sentences)
    if best is baseline and not compared:
        so_far = "" if recommendation.final else " so far"
        if any(trial.recipe != best.recipe for trial in trials_of(state)):
            sentences.append(f"No recipe that was confirmed beats the baseline{so_far}.")
        elif recommendation.final:
            sentences.append("The budget had no room for another recipe.")
    elif baseline is not None and best.difference and math.isfinite(best.difference.low):
        sentences.append(_gain(state, best.difference, baseline))
    if recommendation.ties:
        *others, last = (
            "the baseline" if c is baseline and not compared else c.name
            for c in recommendation.ties
        )
        names = f"{', '.join(others)} and {last}" if others else last
        name = best.name if compared else _at_start(best)
        seeds = _shared_seeds(best, recommendation.ties)
        sentences.append(f"{name} ties with {names}: {seeds} not tell them apart.")
    elif compared:
        sentences.append(f"{best.name} is told apart from all others.")
    if simplest is not None and simplest is not best and len(simplest.values) > 1:
        label = simplest.recipe.label
        sentences.append(f"The simplest that may well be the best is {simplest.name}: {label}.")
    if not recommendation.final:
        sentences.append(f"The {'comparison' if compared else 'study'} is not finished.")
    return " ".join(sentences)


def _gain(state: StudyState, difference: Difference, baseline: Contender) -> str:
    """The difference to the baseline in a sentence."""
    objective = state.config.objective
    mean, interval = difference.text(objective)
    against = baseline.name if state.config.is_comparison else "the baseline"
    if difference.includes_zero:
        judged = "no gain is proved"
    else:
        judged = "better" if difference.mean > 0 else "worse"
    unit = objective.difference_unit
    return f"{mean} {unit} against {against}, 95 % interval {interval}: {judged}."


def _shared_seeds(best: Contender, ties: tuple[Contender, ...]) -> str:
    numbers = {len(set(best.seeds) & set(c.seeds)) for c in ties}
    if len(numbers) > 1:
        return "the fresh seeds that they share do"
    return "one fresh seed does" if numbers == {1} else f"{max(numbers)} fresh seeds do"


def _at_start(contender: Contender) -> str:
    """`Trial 7` or `The baseline`, at the beginning of a sentence."""
    return "The baseline" if contender.trial == BASELINE else contender.name.capitalize()
