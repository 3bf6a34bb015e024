"""The recommendation: which recipe, how sure, and against what."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median, stdev

from lrtune.core.recipe import Recipe
from lrtune.core.study import StudyState
from lrtune.core.trial import RunRecord
from lrtune.decide.convergence import Convergence, convergence_epoch, settling_epoch
from lrtune.decide.noise import Difference, paired_difference
from lrtune.decide.plan import is_done
from lrtune.decide.trials import best_first, trials_of


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A recipe that was trained with fresh seeds, or the best of a search that has not got so far."""

    trial: int
    """-1: the baseline."""
    recipe: Recipe
    search_top1: float
    """Percent, of the full run that the search saw; nan where it saw none, and for the baseline."""
    seeds: tuple[int, ...]
    """The fresh seeds that it was trained with."""
    top1s: tuple[float, ...]
    """Final Top-1 of the runs with fresh seeds, percent, in the order of the seeds."""
    convergence: Convergence
    settling_epoch: float
    """Median over the seeds; nan without any."""
    test_top1s: tuple[float, ...] = ()
    """The same runs on the test images; only the recommended recipe and the baseline have any."""
    difference: Difference | None = None
    """To the baseline, over the seeds that both have; `None` for the baseline itself."""

    @property
    def mean(self) -> float:
        """Mean final Top-1 over fresh seeds; nan without any."""
        return fmean(self.top1s) if self.top1s else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over fresh seeds, points; nan with fewer than two."""
        return stdev(self.top1s) if len(self.top1s) > 1 else math.nan

    @property
    def name(self) -> str:
        """`baseline` or `trial 7`."""
        return "baseline" if self.trial < 0 else f"trial {self.trial}"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The outcome of a study, or its best guess so far."""

    best: Contender
    baseline: Contender | None
    contenders: tuple[Contender, ...]
    """All that were confirmed, best first, the baseline among them."""
    ties: tuple[Contender, ...]
    """Contenders that fresh seeds do not tell from `best`."""
    target: float
    """Top-1 that convergence is measured against, percent; nan while there is none."""
    target_source: str
    final: bool
    """Whether the study is done and `best` was confirmed."""
    verdict: str
    """How sure we are, in a sentence or two."""


def recommend(state: StudyState) -> Recommendation | None:
    """The recipe to use, by the mean Top-1 over fresh seeds; by the search's own Top-1 until there are any.

    Returns:
        `None` where no trial has finished and no baseline either.
    """
    num_images = state.config.num_validation
    target, source = target_of(state)
    baseline_runs = _counted(state.of_kind("baseline"))
    baseline_by_seed = {r.run.seed: _final(r) for r in baseline_runs}
    searched = best_first(trials_of(state))
    confirmed: dict[int, list[RunRecord]] = {}
    for record in _counted(state.of_kind("confirm")):
        confirmed.setdefault(record.run.trial, []).append(record)

    def contender(trial: int, recipe: Recipe, search_top1: float, runs: list[RunRecord]) -> Contender:
        by_seed = {r.run.seed: _final(r) for r in runs}
        epochs = [convergence_epoch([m.top1 for m in r.measurements], target) for r in runs]
        settling = [settling_epoch([m.top1 for m in r.measurements], num_images) for r in runs]
        return Contender(
            trial=trial,
            recipe=recipe,
            search_top1=search_top1,
            seeds=tuple(by_seed),
            top1s=tuple(by_seed.values()),
            convergence=Convergence(epochs=tuple(epochs), horizon_epochs=state.config.epochs),
            settling_epoch=median(settled) if (settled := [s for s in settling if s is not None]) else math.nan,
            test_top1s=tuple(r.test_top1 for r in runs if r.test_top1 is not None),
            difference=None if trial < 0 else _difference(by_seed, baseline_by_seed, num_images),
        )

    baseline = contender(-1, state.config.baseline, math.nan, baseline_runs) if baseline_runs else None
    candidates = [contender(t.number, t.recipe, t.top1, confirmed.get(t.number, [])) for t in searched]
    # The baseline comes first, so that it keeps its place where a new recipe only equals it.
    proven = ([baseline] if baseline else []) + [c for c in candidates if c.top1s]
    ranked = sorted(proven, key=lambda c: c.mean, reverse=True)
    if any(c.top1s and c.trial >= 0 for c in ranked) or (baseline and baseline.mean > 0 and not candidates):
        best = ranked[0]
    elif candidates:
        # The baseline's own recipe is often among the trials; it has its fresh seeds already.
        best = baseline if baseline and candidates[0].recipe == baseline.recipe else candidates[0]
    else:
        return None
    final = is_done(state) and bool(best.top1s)
    ties = tuple(c for c in ranked if c is not best and best.top1s and _is_tie(best, c, num_images))
    return Recommendation(
        best=best,
        baseline=baseline,
        contenders=tuple(ranked),
        ties=ties,
        target=target,
        target_source=source,
        final=final,
        verdict=_verdict(best, baseline, ties, final=final),
    )


def target_of(state: StudyState) -> tuple[float, str]:
    """The Top-1 that convergence is measured against, and where it comes from; nan while there is none."""
    if state.config.target is not None:
        return state.config.target, "asked for"
    finals = [_final(record) for record in _counted(state.of_kind("baseline"))]
    if not finals:
        return math.nan, "no baseline yet"
    seeds = "1 seed" if len(finals) == 1 else f"{len(finals)} seeds"
    return median(finals), f"the baseline's median final Top-1 over {seeds}"


def _counted(records: tuple[RunRecord, ...]) -> list[RunRecord]:
    """The runs that say something of their recipe; leaving out those that diverged would flatter it."""
    return [record for record in records if record.state in ("completed", "diverged")]


def _final(record: RunRecord) -> float:
    """Final Top-1; 0 for a run that diverged, so that it is a loss and not a gap."""
    return 0.0 if record.state == "diverged" else record.top1


def _is_tie(best: Contender, other: Contender, num_images: int) -> bool:
    ours, theirs = (dict(zip(c.seeds, c.top1s, strict=True)) for c in (best, other))
    difference = _difference(ours, theirs, num_images)
    return difference is None or difference.includes_zero


def _difference(ours: Mapping[int, float], theirs: Mapping[int, float], num_images: int) -> Difference | None:
    """Over the seeds that both have; `None` where there is none."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    return paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds], num_images=num_images)


def _verdict(best: Contender, baseline: Contender | None, ties: tuple[Contender, ...], *, final: bool) -> str:
    if not best.top1s:
        return "Best of the search so far, not confirmed with fresh seeds: expect less than its Top-1."
    said = []
    seeds = f"{len(best.top1s)} fresh seeds do" if len(best.top1s) > 1 else "one fresh seed does"
    if best is baseline:
        beaten = "Nothing that was confirmed beats the baseline"
        said.append(f"{beaten}: keep it." if final else f"{beaten} so far.")
    elif best.difference is not None and len(best.top1s) > 1:
        d = best.difference
        interval = f"{d.mean:+.2f} points of Top-1 against the baseline, 95 % interval [{d.low:+.2f}, {d.high:+.2f}]"
        told_apart = "no gain is proved" if d.includes_zero else "better" if d.mean > 0 else "worse"
        said.append(f"{interval}: {told_apart}.")
    if ties:
        names = ", ".join(c.name for c in ties)
        said.append(f"{best.name[0].upper()}{best.name[1:]} is a tie with {names}: {seeds} not tell them apart.")
    if not final:
        said.append("The study is not finished.")
    return " ".join(said)
