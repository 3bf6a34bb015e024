"""The race: the best recipes are trained again with fresh seeds until they are told apart.

Each begins with `num_seeds` of them, like the baseline. Then, seed by seed up to `max_seeds`, those
go on that may still be the best; the baseline is one of them. Who goes on is decided between
rounds, from the seeds that all had.
"""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import BASELINE, Run, RunRecord
from lrtune.core.study import StudyConfig, StudyState
from lrtune.decide.ranking import Ranking, rank
from lrtune.decide.trials import best_first, trials_of

CLEARLY = 0.005
"""A recipe whose probability of being better than the leader is below this is out of the race. It
is stricter than the 95 % interval of the report, because a test that is repeated after each seed
raises false alarms."""


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
    """The recipes that are confirmed beside the baseline, the best one first.

    They differ from one another and from the baseline.

    In a comparison, everyone but the first, which is its baseline.
    """
    if state.config.is_comparison:
        named = enumerate(state.config.recipes[1:], start=1)
        return [Entrant(number=number, name=r.name, recipe=r.recipe) for number, r in named]
    seen = {state.config.baseline}
    field: list[Entrant] = []
    for trial in best_first(trials_of(state)):
        if len(field) == state.config.num_confirmed:
            break
        if trial.recipe not in seen:
            seen.add(trial.recipe)
            field.append(
                Entrant(number=trial.number, name=f"trial {trial.number}", recipe=trial.recipe)
            )
    return field


def baseline_runs(state: StudyState) -> list[Run]:
    """The first runs of a study, whatever comes of them."""
    return [
        _run(state, baseline_of(state), index, seed)
        for index, seed in enumerate(fresh_seeds(state.config))
    ]


def runs_of_race(state: StudyState) -> Iterator[Run]:
    """The runs with fresh seeds in their order, up to the first round that is not over."""
    config, records = state.config, {record.run.id: record for record in state.records}
    field = entrants(state)
    first = list(enumerate(fresh_seeds(config)))
    runs = [
        *baseline_runs(state),
        *(_run(state, entrant, index, seed) for entrant in field for index, seed in first),
    ]
    yield from runs
    remaining = {BASELINE, *(entrant.number for entrant in field)}
    for index in range(config.num_seeds, config.max_seeds if field else 0):
        if not all(run.id in records and records[run.id].state != "running" for run in runs):
            return
        seed = config.seed + 1 + index
        remaining = still_open(standings(state, before_seed=seed), remaining)
        if not remaining:
            return
        runs = [
            _run(state, entrant, index, seed)
            for entrant in (baseline_of(state), *field)
            if entrant.number in remaining
        ]
        yield from runs


def still_open(ranking: Ranking, remaining: Set[int]) -> set[int]:
    """Which of those remaining in the race may still win; empty once it is decided.

    Who is out stays out. A recipe that diverged is out, whatever it did with other seeds.
    """
    means = {number: mean for number, mean in ranking.means.items() if number in remaining}
    if not means:
        return set()
    leader = max(means, key=lambda number: means[number])
    open_ = {n for n in means if n == leader or ranking.probability_above(n, leader) >= CLEARLY}
    return open_ if len(open_) > 1 else set()


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
