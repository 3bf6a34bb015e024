"""The race: the finalists and the baseline are trained in full with fresh seeds, round by round.

In each round everyone who is left gets one more seed, the same for all. Who is left is decided
between rounds, from what all have. The race is over when one leads, has seeds enough, and is alone,
or when what may be lost by taking it is small.
"""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from lrtune.core.decays import Own
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import BASELINE, Run, RunRecord
from lrtune.core.study import StudyConfig, StudyState
from lrtune.decide.budget import FEWEST_SEEDS, epochs_left, num_finalists, num_rounds
from lrtune.decide.ranking import Ranking, rank
from lrtune.decide.trials import best_first, trials_of

UNLIKELY = 0.3
"""A finalist whose probability of being better than the leader is below this is out of the race."""
CLEARLY = 0.005
"""The same in a comparison, whose recipes were all asked for; and of the baseline where the leader
is proven better. It is stricter than the interval of the report, because a test that is repeated
after each seed raises false alarms."""
SMALL = 1 / 3
"""Share of the smallest difference that matters which may be lost, on average, by taking the
leader."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A recipe that is confirmed."""

    number: int
    """Of its trial, or in a comparison its place among the recipes."""
    name: str
    recipe: Recipe


def fresh_seeds(config: StudyConfig) -> range:
    """Seeds that the search does not use.

    The baseline and the confirmations share them, so that they can be paired.
    """
    return range(config.seed + 1, config.seed + 1 + config.num_seeds)


def entrants(state: StudyState) -> list[Entrant]:
    """The recipes that race against the baseline, the best one first.

    They differ from one another and from the baseline. In a comparison they are everyone but the
    first, which is its baseline.
    """
    if state.config.is_comparison:
        named = enumerate(state.config.recipes[1:], start=1)
        return [Entrant(number=number, name=r.name, recipe=r.recipe) for number, r in named]
    seen, most = {state.config.baseline}, num_finalists(state)
    field: list[Entrant] = []
    for trial in best_first(trials_of(state)):
        if len(field) < most and trial.recipe not in seen:
            seen.add(trial.recipe)
            field.append(
                Entrant(number=trial.number, name=f"trial {trial.number}", recipe=trial.recipe)
            )
    return field


def certain_runs(state: StudyState) -> list[Run]:
    """Runs that are needed whatever others come to, for workers that would wait.

    The baseline has all rounds that there are at least, where the budget is sure to pay for them.
    In a comparison everyone has. A command's own run is needed even where nothing races.
    """
    config = state.config
    is_command = isinstance(config.baseline.decay, Own)  # whose first run is there anyway
    if not (config.is_comparison or is_command or num_finalists(state)):
        return []
    least, _ = num_rounds(config)
    races = config.is_comparison or num_finalists(state) > 0
    is_sure = races and math.isinf(epochs_left(state))
    field = [baseline_of(state), *(entrants(state) if config.is_comparison else ())]
    return [
        _run(state, entrant, index, config.seed + 1 + index)
        for index in range(least if is_sure else 1)
        for entrant in field
    ]


def rounds(state: StudyState) -> Iterator[list[Run]]:
    """The rounds of the race, up to the first that is not over; each depends on those before."""
    config, records = state.config, {record.run.id: record for record in state.records}
    certain = certain_runs(state)
    if not certain:
        return
    field = [baseline_of(state), *entrants(state)]
    remaining = {entrant.number for entrant in field}
    least, most = num_rounds(config)
    for index in range(most):
        seed = config.seed + 1 + index
        if index:
            ranking = standings(state, before_seed=seed)
            remaining = going_on(ranking, remaining, config, num_seeds=index)
            if not remaining and index >= least:
                return
            field = _by_standing(field, ranking)
        kept = {*remaining} if config.is_comparison else {BASELINE, *remaining}
        racing = [entrant for entrant in field if entrant.number in kept]
        runs, left = [], epochs_left(state, before_seed=seed)
        for entrant in racing:
            run = _run(state, entrant, index, seed)
            left -= run.stop_epochs
            if left >= 0:
                runs.append(run)
        if len(runs) < 2 and not any(run in certain for run in runs):
            return
        yield runs
        if not all(run.id in records and records[run.id].state != "running" for run in runs):
            return


def _by_standing(field: list[Entrant], ranking: Ranking) -> list[Entrant]:
    """Best first, with the baseline among the first two: it is what all are compared with."""
    means = ranking.posterior_means
    ranked = sorted(field, key=lambda e: means.get(e.number, -math.inf), reverse=True)
    first = (BASELINE, ranked[0].number)
    return sorted(ranked, key=lambda e: e.number not in first)


def going_on(
    ranking: Ranking, remaining: Set[int], config: StudyConfig, *, num_seeds: int
) -> set[int]:
    """Who is left for the next round, beside the baseline; nobody once the race is over.

    Args:
        ranking: what the rounds so far say.
        remaining: who was left for the last of them.
        config: of the study.
        num_seeds: rounds so far.
    """
    least, _ = num_rounds(config)
    if config.is_comparison and num_seeds < least:
        return set(remaining)
    if num_seeds < FEWEST_SEEDS:  # but a run that diverged or failed says enough
        return {number for number in remaining if number in ranking.scores}
    remaining = still_open(ranking, remaining, config)
    if num_seeds < least or not is_decided(ranking, remaining, config):
        return remaining
    leader = max(remaining, key=lambda number: ranking.posterior_means[number], default=BASELINE)
    return set() if config.is_comparison or is_proven(ranking, leader, config) else {leader}


def still_open(ranking: Ranking, remaining: Set[int], config: StudyConfig) -> set[int]:
    """Which of those remaining in the race may still win; the leader is one of them.

    Who is out stays out, but for the baseline of a search, which goes on and may come back. A
    recipe that diverged is out, whatever it did with other seeds.
    """
    kept = {*remaining} if config.is_comparison else {BASELINE, *remaining}
    means = {n: mean for n, mean in ranking.posterior_means.items() if n in kept}
    if not means:
        return set()
    leader = max(means, key=lambda number: means[number])
    least = CLEARLY if config.is_comparison else UNLIKELY
    return {n for n in means if n == leader or ranking.probability_above(n, leader) >= least}


def is_decided(ranking: Ranking, remaining: Set[int], config: StudyConfig) -> bool:
    """Whether the leader is alone, or what may be lost by taking it is too small to matter."""
    if len(remaining) < 2:
        return True
    means = ranking.posterior_means
    leader = max(remaining, key=lambda number: means[number])
    loss = ranking.expected_loss(leader)
    return not config.is_comparison and loss < SMALL * _least_that_matters(ranking, config)


def is_proven(ranking: Ranking, leader: int, config: StudyConfig) -> bool:
    """Whether it is known of the leader that it is better than the baseline, or equal to it.

    It is equal where the whole interval of the difference is too small to matter. A baseline that
    leads needs no proof.
    """
    if leader == BASELINE or BASELINE not in ranking.scores:
        return True
    difference = ranking.difference(leader, BASELINE)
    if difference is None:
        return False
    matters = _least_that_matters(ranking, config)
    is_equal = -matters < difference.low and difference.high < matters
    return is_equal or ranking.probability_above(BASELINE, leader) < CLEARLY


def _least_that_matters(ranking: Ranking, config: StudyConfig) -> float:
    """The smallest difference that matters: by default as large as the noise of a run."""
    return ranking.noise if config.matters is None else config.matters


def standings(state: StudyState, *, before_seed: int | None = None) -> Ranking:
    """What fresh seeds say of the baseline and of all that were confirmed.

    Args:
        state: of the study.
        before_seed: leaves out this seed and later ones.
    """
    scores = fresh_scores(state, before_seed=before_seed)
    # A run that diverged is no draw from a normal distribution; it would drown what the others say
    # of each other.
    sound = {
        number: by_seed
        for number, by_seed in scores.items()
        if all(score > -math.inf for score in by_seed.values())
    }
    return rank(
        sound,
        reference=BASELINE,
        least_difference=state.config.objective.least_difference,
        paired=state.config.paired,
    )


def fresh_scores(
    state: StudyState, *, before_seed: int | None = None
) -> Mapping[int, Mapping[int, float]]:
    """Final score by trial and fresh seed; `-inf` of a run that diverged."""
    scores: dict[int, dict[int, float]] = {}
    for record in state.fresh:
        if has_outcome(record) and (before_seed is None or record.run.seed < before_seed):
            of_trial = scores.setdefault(record.run.trial, {})
            of_trial[record.run.seed] = final_score(state.config.objective, record)
    return scores


def has_outcome(record: RunRecord) -> bool:
    """Whether a run says something of its recipe.

    One that diverged does: to leave it out would speak for the recipe.
    """
    return record.state in ("completed", "diverged")


def idle_seeds(state: StudyState) -> str:
    """That the baseline's runs are the same whatever their seed, in words; empty if they are not.

    They are where they have the same losses after each epoch.
    """
    names = (state.config.objective.metric, "train_loss", "val_loss")
    curves = [
        [repr(m.metrics.get(name)) for m in record.measurements for name in names]
        for record in state.of_kind("baseline")
        if record.state == "completed"
    ]
    if len(curves) < 2 or any(curve != curves[0] for curve in curves):
        return ""
    return (
        f"{len(curves)} runs of the baseline with different seeds are the same run, so fresh seeds "
        "prove nothing, and intervals and probabilities know nothing of luck."
    )


def final_score(objective: Objective, record: RunRecord) -> float:
    """The score that a run ended with; `-inf` of one that diverged: a loss, and not a gap."""
    return -math.inf if record.state == "diverged" else objective.score(record.metrics)


def baseline_of(state: StudyState) -> Entrant:
    """The baseline, which nobody has to choose; of a comparison, its first recipe."""
    name = state.config.recipes[0].name if state.config.is_comparison else "baseline"
    return Entrant(number=BASELINE, name=name, recipe=state.config.baseline)


def _run(state: StudyState, entrant: Entrant, index: int, seed: int) -> Run:
    is_baseline = entrant.number == BASELINE
    epochs = state.config.horizon_of(entrant.number)
    return Run(
        id=f"baseline-{index}" if is_baseline else f"trial-{entrant.number:04d}-confirm-{index}",
        kind="baseline" if is_baseline else "confirm",
        trial=entrant.number, recipe=entrant.recipe, recipe_epochs=epochs,
        horizon_epochs=epochs, stop_epochs=epochs, seed=seed,
    )  # fmt: skip
