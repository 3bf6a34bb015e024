"""The race: the best recipes once more, with fresh seeds, and as many of those as it takes to tell them apart.

Each begins with `num_seeds` of them, like the baseline. Then, seed by seed up to `max_seeds`, those
go on that may still be the best; the baseline is one of them. Who goes on is decided between
rounds, from the seeds that all had.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

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
    """Who is confirmed beside the baseline: the best few that differ from one another and from it, the best one first.

    In a comparison, everyone but the first, which is its baseline.
    """
    if state.config.is_comparison:
        named = enumerate(state.config.recipes[1:], start=1)
        return [Entrant(number=number, name=one.name, recipe=one.recipe) for number, one in named]
    seen = {state.config.baseline}
    found: list[Entrant] = []
    for trial in best_first(trials_of(state)):
        if len(found) == state.config.num_confirmed:
            break
        if trial.recipe not in seen:
            seen.add(trial.recipe)
            found.append(
                Entrant(number=trial.number, name=f"trial {trial.number}", recipe=trial.recipe)
            )
    return found


def baseline_runs(state: StudyState) -> list[Run]:
    """The first runs of a study, whatever comes of them."""
    return [
        _run(state, baseline_of(state), index, seed)
        for index, seed in enumerate(fresh_seeds(state.config))
    ]


def runs_of_race(state: StudyState) -> Iterator[Run]:
    """The runs with fresh seeds in their order, as far as they are known: up to the first round that is not over."""
    config, records = state.config, {record.run.id: record for record in state.records}
    field = entrants(state)
    first = list(enumerate(fresh_seeds(config)))
    runs = [
        *baseline_runs(state),
        *(_run(state, entrant, index, seed) for entrant in field for index, seed in first),
    ]
    yield from runs
    left = {BASELINE, *(entrant.number for entrant in field)}
    for index in range(config.num_seeds, config.max_seeds if field else 0):
        if not all(run.id in records and records[run.id].state != "running" for run in runs):
            return
        seed = config.seed + 1 + index
        left = still_open(standings(state, before_seed=seed), left)
        if not left:
            return
        runs = [
            _run(state, one, index, seed)
            for one in (baseline_of(state), *field)
            if one.number in left
        ]
        yield from runs


def still_open(ranking: Ranking, left: Set[int]) -> set[int]:
    """Who of those left in the race may still win; empty once it is decided. Who is out stays out.

    A recipe that diverged is out, whatever it did with other seeds.
    """
    means = {number: top1 for number, top1 in ranking.means.items() if number in left}
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
    known = fresh_top1s(state, before_seed=before_seed)
    # A loss of everything is no draw from a normal distribution; it would drown what the others say
    # of each other.
    sound = {number: by_seed for number, by_seed in known.items() if 0.0 not in by_seed.values()}
    return rank(sound, reference=BASELINE, num_images=state.config.num_validation)


def fresh_top1s(
    state: StudyState, *, before_seed: int | None = None
) -> Mapping[int, Mapping[int, float]]:
    """Final Top-1 by trial and fresh seed, percent; 0 of a run that diverged."""
    found: dict[int, dict[int, float]] = {}
    for record in state.fresh:
        if has_outcome(record) and (before_seed is None or record.run.seed < before_seed):
            found.setdefault(record.run.trial, {})[record.run.seed] = final_top1(record)
    return found


def has_outcome(record: RunRecord) -> bool:
    """Whether a run says something of its recipe; leaving out those that diverged would flatter it."""
    return record.state in ("completed", "diverged")


def final_top1(record: RunRecord) -> float:
    """Percent; 0 for a run that diverged, so that it is a loss and not a gap."""
    return 0.0 if record.state == "diverged" else record.top1


def baseline_of(state: StudyState) -> Entrant:
    """The baseline, which nobody has to choose; of a comparison, its first recipe."""
    name = state.config.recipes[0].name if state.config.is_comparison else "baseline"
    return Entrant(number=BASELINE, name=name, recipe=state.config.baseline)


def _run(state: StudyState, entrant: Entrant, index: int, seed: int) -> Run:
    epochs, is_baseline = state.config.epochs, entrant.number == BASELINE
    return Run(
        id=f"baseline-{index}" if is_baseline else f"trial-{entrant.number:04d}-confirm-{index}",
        kind="baseline" if is_baseline else "confirm",
        trial=entrant.number, recipe=entrant.recipe, recipe_epochs=epochs, horizon_epochs=epochs, stop_epochs=epochs,
        seed=seed,
    )  # fmt: skip
