"""What to train next: a pure function of the study's state.

Orphans first (a run whose process is gone goes on from its last epoch), then the baseline's seeds, then recipes from
the sampler while the budget lasts, then the best of them again with fresh seeds. An engine asks, trains, records and
asks again; kill it at any time, and the plan goes on from what was recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from lrtune.core.recipe import Recipe
from lrtune.core.study import StudyState
from lrtune.core.trial import Run, RunKind, RunRecord

Ask = Callable[[StudyState, int], Recipe]
"""The sampler: the recipe of trial number n, given the study so far."""

MAX_FAILURES = 3
"""Runs that fail one after another before the study is given up: the fault is then not in a recipe."""


@dataclass(frozen=True)
class Wait:
    """Nothing to start before some running run ends."""


@dataclass(frozen=True)
class Done:
    """Nothing is left to start, and nothing is running."""

    reason: str
    failed: bool = False


def next_run(state: StudyState, ask: Ask) -> Run | Wait | Done:
    """The run to start or to go on with now."""
    for record in state.records:
        if record.orphaned:
            return record.run
    running = any(record.state == "running" for record in state.records)
    failure = _hopeless_failure(state)
    if failure:
        return Wait() if running else Done(failure, failed=True)

    known = {record.run.id for record in state.records}
    for run in _baseline_runs(state):
        if run.id not in known:
            return run
    if _search_goes_on(state):
        number = len(state.of_kind("search"))
        return _run(state, "search", number, ask(state, number), state.config.seed, f"trial-{number:04d}")
    if any(record.state == "running" for record in state.of_kind("search")):
        return Wait()  # the best few are known only when every trial has ended
    for run in _confirmation_runs(state):
        if run.id not in known:
            if not _affordable(state, reserve=0.0):
                break
            return run
    return Wait() if running else Done("the budget is spent and the best recipes are confirmed")


def is_done(state: StudyState) -> bool:
    """Whether nothing is left to train."""
    return isinstance(next_run(state, lambda _state, _number: state.config.baseline), Done)


def finished_trials(state: StudyState) -> list[RunRecord]:
    """Search runs that went to their end, best Top-1 first; the earlier one first where they are equal."""
    finished = (record for record in state.of_kind("search") if record.state == "completed")
    return sorted(finished, key=lambda record: record.top1, reverse=True)


def fresh_seeds(state: StudyState) -> range:
    """Seeds that the search does not use. The baseline and the confirmations share them, so that they can be paired."""
    return range(state.config.seed + 1, state.config.seed + 1 + state.config.num_seeds)


def _baseline_runs(state: StudyState) -> list[Run]:
    recipe = state.config.baseline
    return [_run(state, "baseline", -1, recipe, seed, f"baseline-{i}") for i, seed in enumerate(fresh_seeds(state))]


def _confirmation_runs(state: StudyState) -> list[Run]:
    """The best few that differ from one another and the baseline, each with every fresh seed; the best one first."""
    seen = {state.config.baseline}
    runs = []
    for record in finished_trials(state):
        if len(seen) > state.config.num_confirmed:
            break
        if record.run.recipe not in seen:
            seen.add(record.run.recipe)
            trial, recipe = record.run.trial, record.run.recipe
            runs += [
                _run(state, "confirm", trial, recipe, seed, f"trial-{trial:04d}-confirm-{i}")
                for i, seed in enumerate(fresh_seeds(state))
            ]
    return runs


def _search_goes_on(state: StudyState) -> bool:
    budget = state.config.budget
    if budget.unit == "trials":
        return state.spent("trials") < budget.amount
    wanted = state.config.num_confirmed * state.config.num_seeds * _full_run_cost(state)
    return _affordable(state, reserve=min(wanted, budget.amount / 3))


def _affordable(state: StudyState, *, reserve: float) -> bool:
    """Whether one more full run fits into the budget, with what is running now and `reserve` set aside."""
    budget = state.config.budget
    if budget.unit == "trials":
        return True
    cost = _full_run_cost(state)
    if budget.unit == "seconds" and not cost:  # nothing was measured yet
        return True
    running = (record for record in state.records if record.state == "running")
    committed = sum(cost * (1 - record.epochs / record.run.horizon_epochs) for record in running)
    return state.spent(budget.unit) + committed + cost + reserve <= budget.amount + 1e-9


def _full_run_cost(state: StudyState) -> float:
    """One full run, in the unit of the budget."""
    match state.config.budget.unit:
        case "epochs":
            return state.config.epochs
        case "runs" | "trials":
            return 1.0
        case "seconds":
            seconds = [m.seconds for record in state.records for m in record.measurements]
            return state.config.epochs * fmean(seconds) if seconds else 0.0


def _hopeless_failure(state: StudyState) -> str:
    ended = [record for record in state.records if record.state != "running"]
    last = ended[-MAX_FAILURES:]
    if len(last) == MAX_FAILURES and all(record.state == "failed" for record in last):
        return f"{MAX_FAILURES} runs in a row failed, the last one with: {last[-1].reason}"
    return ""


def _run(state: StudyState, kind: RunKind, trial: int, recipe: Recipe, seed: int, run_id: str) -> Run:
    return Run(id=run_id, kind=kind, trial=trial, recipe=recipe, horizon_epochs=state.config.epochs, seed=seed)
