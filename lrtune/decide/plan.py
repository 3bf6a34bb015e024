"""What to train next: a pure function of the study's state.

Orphans first (a run whose process is gone goes on from its last epoch), then the baseline's seeds,
then promotions and recipes from the sampler while the budget lasts, then the best of them again
with fresh seeds. A comparison has recipes of its own and no search. An engine asks, trains, records
and asks again; kill it at any time, and the plan goes on from what was recorded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.core.study import StudyState
from lrtune.decide.race import baseline_runs, runs_of_race
from lrtune.decide.rungs import first_run, promotion
from lrtune.decide.trials import trials_of

Ask = Callable[[StudyState, int], Recipe]
"""The sampler: the recipe of trial number n, given the study so far."""

MAX_REPEATS = 10
"""Trials in a row with recipes that were tried before, after which the space is taken to hold
nothing else."""
MAX_FAILURES = 3
"""Runs that fail one after another before the study is given up: the fault is then not in a recipe.
"""
MAX_LATER_FAILURES = 10
"""The same once a run of the search has completed or was pruned: a recipe can make a training fail.
"""
MAX_DIVERGED = 10
"""Trials after which a study is given up in which every run diverged: the fault is then not in the
LR."""


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

    planned = {record.run.id for record in state.records}
    for run in baseline_runs(state):
        if run.id not in planned:
            return run
    searching = None if state.config.is_comparison else _next_of_search(state, ask)
    if searching is not None:
        return searching
    for run in runs_of_race(state):
        if run.id not in planned:
            if not _affordable(state, run, reserve_epochs=0):
                break
            return run
    if running:
        return Wait()
    if diverged := _divergence(state):
        return Done(diverged, failed=True)
    return Done("the budget is spent and the best recipes are confirmed")


def _next_of_search(state: StudyState, ask: Ask) -> Run | Wait | None:
    """A promotion, or else a new trial while the budget lasts; `None` at the end."""
    reserve = _reserve_epochs(state)
    promoted = promotion(state)
    if promoted is not None and _affordable(state, promoted, reserve_epochs=reserve):
        return promoted
    number = int(state.spent("trials"))
    if promoted is None and number < _max_trials(state) and not _is_exhausted(state):
        run = first_run(state, number, state.config.baseline)
        if _affordable(state, run, reserve_epochs=reserve):
            return replace(run, recipe=ask(state, number))
    if any(record.state == "running" for record in state.records if record.run.is_of_search):
        return Wait()  # what goes up, and which are the best, is known only when they have ended
    promoted = promotion(state, settled=True)
    return (
        promoted
        if promoted is not None and _affordable(state, promoted, reserve_epochs=0)
        else None
    )


def outcome(state: StudyState) -> Done | None:
    """How the study has ended; `None` where something is left to train."""
    step = next_run(state, lambda _state, _number: state.config.baseline)
    return step if isinstance(step, Done) else None


def _is_exhausted(state: StudyState) -> bool:
    """Whether the sampler finds nothing new.

    What was tried before costs nothing, so it would be tried for ever.
    """
    recipes = [trial.recipe for trial in trials_of(state)]
    return len(recipes) > MAX_REPEATS and set(recipes[-MAX_REPEATS:]) <= set(recipes[:-MAX_REPEATS])


def _max_trials(state: StudyState) -> float:
    budget = state.config.budget
    return budget.amount if budget.unit == "trials" else math.inf


def _reserve_epochs(state: StudyState) -> float:
    """Epochs that the search leaves for its best recipe and the confirmations.

    They are at most a third of the budget.
    """
    config = state.config
    most = max(config.num_seeds, config.max_seeds)
    wanted = (
        config.num_confirmed * most + most - config.num_seeds + bool(config.rungs)
    ) * config.epochs
    epoch = _epoch_cost(state)
    return min(wanted, config.budget.amount / 3 / epoch) if epoch else 0.0


def _affordable(state: StudyState, run: Run, *, reserve_epochs: float) -> bool:
    """Whether a run fits into the budget, with what is running now and `reserve_epochs` set aside.

    Side by side, epochs cost less time than they take. A run fits only if there is the time that it
    takes itself.
    """
    budget, epoch = state.config.budget, _epoch_cost(state)
    if budget.unit == "trials" or not epoch or state.config.is_comparison:
        return True
    behind = [r for r in state.records if r.run.trial == run.trial and _is_prefix(r.run, run)]
    behind_epochs = max((r.run.stop_epochs for r in behind), default=0)
    running = sum(r.run.stop_epochs - r.epochs for r in state.records if r.state == "running")
    own = run.stop_epochs - behind_epochs
    wanted = epoch * (running + own + reserve_epochs)
    if budget.unit == "seconds":
        wanted = max(
            wanted, own * sum(record.seconds for record in state.records) / state.epochs_trained
        )
    return state.spent(budget.unit) + wanted <= budget.amount + 1e-9


def _is_prefix(first: Run, run: Run) -> bool:
    """Whether a run goes on where another one stopped."""
    same = (first.recipe, first.horizon_epochs, first.seed) == (
        run.recipe,
        run.horizon_epochs,
        run.seed,
    )
    return same and first.stop_epochs < run.stop_epochs


def _epoch_cost(state: StudyState) -> float:
    """The cost of one epoch in the unit of the budget; 0 where it is not known."""
    match state.config.budget.unit:
        case "epochs":
            return 1.0
        case "runs":
            return 1 / state.config.epochs
        case "trials":
            return 0.0
        case "seconds":
            return state.busy_seconds / state.epochs_trained if state.epochs_trained else 0.0


def _hopeless_failure(state: StudyState) -> str:
    ended = [record for record in state.records if record.state != "running"]
    can_train = any(r.run.is_of_search and r.state in ("completed", "pruned") for r in ended)
    most = MAX_LATER_FAILURES if can_train else MAX_FAILURES
    last = ended[-most:]
    if len(last) == most and all(record.state == "failed" for record in last):
        return f"{most} runs in a row failed, the last one with: {last[-1].reason}"
    return _divergence(state) if state.spent("trials") >= MAX_DIVERGED else ""


def _divergence(state: StudyState) -> str:
    """That every run so far diverged, or has no value that decides; empty where one has."""
    objective = state.config.objective
    measured = [record for record in state.records if record.measurements]
    lasts = [record.measurements[-1] for record in measured]
    if not measured or not all(m.diverged or math.isnan(objective.value(m.metrics)) for m in lasts):
        return ""
    if not any(m.diverged for m in lasts):
        return f"{objective.title} was not a number at the end of any of {len(measured)} runs"
    low = min(record.run.recipe.peak_lr for record in measured)
    diverged = f"each of {len(measured)} runs diverged, at peak LRs down to {low:.3g}"
    return f"{diverged}: look for NaNs in the data, the model or the loss"
