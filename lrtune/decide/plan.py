"""What to train next: a pure function of the study's state, never of who came first.

Orphans come first: a run whose process is gone goes on from its last epoch. Then every recipe has
its first look, the best sixth by it have a second, and the best twelfth by that a third. The best
of these are the finalists, and race against the baseline with fresh seeds, round by round. Each
step is decided when all that it chooses among is there; until then workers take runs that are
certain to come. A comparison has recipes of its own and no search. An engine asks, trains, records
and asks again; kill it at any time, and the plan goes on from what was recorded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lrtune.core.decays import Own
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.core.study import RULES, StudyState
from lrtune.decide.budget import fits, num_recipes
from lrtune.decide.looks import look_at, looked_at
from lrtune.decide.race import certain_runs, rounds
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

    recorded = {record.run.id for record in state.records}
    certain = [run for run in certain_runs(state) if run.id not in recorded]
    is_command = isinstance(state.config.baseline.decay, Own)
    if is_command and certain and not state.of_kind("baseline"):
        return certain[0]  # it was made before the study began, and costs nothing
    step = None if state.config.is_comparison else _next_of_search(state, ask)
    if isinstance(step, Run):
        return step
    if step is None:
        wanted = (run for runs in rounds(state) for run in runs)
        for run in wanted:
            if run.id not in recorded and fits(state, run):
                return run
    if certain and (running or step is not None) and fits(state, certain[0]):
        return certain[0]
    if running:
        return Wait()
    if diverged := _divergence(state):
        return Done(diverged, failed=True)
    return Done("nothing is left to train")


def _next_of_search(state: StudyState, ask: Ask) -> Run | Wait | None:
    """The next look, or the next full run of a search without looks; `None` at the end."""
    config, trials, number = state.config, trials_of(state), int(state.spent("trials"))
    wanted = num_recipes(state)
    if number < wanted and not _is_exhausted(state):
        if any(not trial.level for trial in trials[: config.num_seen(number)]):
            return Wait()  # the sampler has to see it
        run = look_at(config, number, config.baseline, 0)
        if fits(state, run):
            return replace(run, recipe=ask(state, number))
    for level in range(max(1, len(config.looks))):
        chosen = looked_at(state, level, min(wanted, len(trials)))
        for trial in chosen:
            run = look_at(config, trial.number, trial.recipe, level)
            if len(trial.runs) == level and fits(state, run):
                return run
        if any(trial.running for trial in chosen):
            return Wait()  # which are the best is known only when all have ended
    return None


def outcome(state: StudyState) -> Done | None:
    """How the study has ended; `None` where something is left to train.

    One that was begun under other rules is not continued, but it was left unfinished where a run
    has not ended, or nothing was confirmed that was to be.
    """
    if state.config.rules != RULES:
        if failure := _hopeless_failure(state) or _divergence(state):
            return Done(failure, failed=True)
        proved = state.config.confirm == "0" or state.of_kind("confirm")
        if not proved or any(record.state == "running" for record in state.records):
            return None
        return Done("it was begun by another version of lrtune")
    step = next_run(state, lambda _state, _number: state.config.baseline)
    return step if isinstance(step, Done) else None


def _is_exhausted(state: StudyState) -> bool:
    """Whether the sampler finds nothing new.

    What was tried before costs nothing, so it would be tried for ever.
    """
    recipes = [trial.recipe for trial in trials_of(state)]
    return len(recipes) > MAX_REPEATS and set(recipes[-MAX_REPEATS:]) <= set(recipes[:-MAX_REPEATS])


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
