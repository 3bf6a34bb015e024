"""What a budget buys: how many recipes are looked at, and how many of them race.

Costs are in epochs that are asked for, whatever part of them is reused: what is reused depends on
who comes first, and the plan must not. Of a budget in time an epoch's cost is measured.
"""

import math
from collections.abc import Sequence

from lrtune.core.decays import Own
from lrtune.core.run import BASELINE, Run, RunRecord
from lrtune.core.study import StudyConfig, StudyState

LOOKS_ALONE = 6
"""Full runs up to which a budget is spent on looks alone: a race would be too short to tell."""
LOOKS_SHARE = 0.45
"""Share of a larger budget that is spent on looks."""
FINALISTS = 3
"""Of a study with a budget in trials."""
FINALISTS_PER_RUN, FEWEST, MOST = 0.22, 2, 6
"""Of a budget in other units: finalists for each full run that it is worth, and their bounds."""

FEWEST_SEEDS = 2
"""Rounds of the race before anybody is out: one seed of each says next to nothing of the noise."""


def num_recipes(state: StudyState) -> int:
    """How many recipes are looked at; at least as many as have been begun."""
    config, budget = state.config, state.config.budget
    begun = int(state.spent("trials"))
    if budget.unit == "trials":
        return max(begun, int(budget.amount))
    if budget.unit == "seconds" and any(len(looks) > 1 for looks in _by_trial(state)):
        return begun  # the estimate has done its work once the best have been chosen
    share = _for_looks(state)
    if math.isinf(share):  # of a budget in time, before the first epoch
        return max(begun, 1)
    each = sum(look.epochs / look.one_in for look in config.looks) or config.epochs
    number = int((share + 1e-9) // each)
    while number > 1 and cost_of_looks(config, number) > share + 1e-9:  # shares are rounded up
        number -= 1
    return max(begun, number, 1)


def cost_of_looks(config: StudyConfig, number: int) -> int:
    """Epochs of all looks at so many recipes; of their full runs in a study without looks."""
    if not config.looks:
        return number * config.epochs
    return sum(math.ceil(number / look.one_in) * look.epochs for look in config.looks)


def num_finalists(state: StudyState) -> int:
    """How many recipes race against the baseline."""
    config = state.config
    if config.confirm != "full":
        return int(config.confirm == "quick")
    if config.budget.unit == "trials":
        return FINALISTS
    runs = _full_runs(state)
    if runs <= LOOKS_ALONE:
        return 0
    return MOST if math.isinf(runs) else min(max(round(FINALISTS_PER_RUN * runs), FEWEST), MOST)


def race_runs(config: StudyConfig, num_racing: int, *, num_over: int = 0) -> tuple[int, int]:
    """Full runs that a race takes, at least and at most; the budget may end it sooner.

    Args:
        config: of the study.
        num_racing: those of the next round, the baseline among them.
        num_over: rounds that are over, and not counted.
    """
    least, most = num_rounds(config)
    if config.is_comparison:
        return num_racing * max(1, least - num_over), num_racing * (most - num_over)
    if num_racing < 2:
        return 0, 0
    # Where the baseline leads after these, it goes on alone.
    of_all = max(num_over + 1, min(FEWEST_SEEDS, most))
    fewest = num_racing * (of_all - num_over) + max(0, least - of_all)
    return fewest, num_racing * (most - num_over)


def num_rounds(config: StudyConfig) -> tuple[int, int]:
    """Rounds of the race: at least and at most."""
    if config.confirm == "quick" and not config.is_comparison:
        return 1, 1
    return config.num_seeds, max(config.num_seeds, config.max_seeds)


def epochs_left(state: StudyState, *, before_seed: int | None = None) -> float:
    """Epochs that the budget leaves, at the cost of those so far; infinite of one in trials.

    Args:
        state: of the study.
        before_seed: counts only what was spent before the round of this seed.
    """
    amount = _amount_epochs(state)
    if math.isinf(amount):
        return amount
    counted = (
        record
        for record in state.records
        if before_seed is None or record.run.is_of_search or record.run.seed < before_seed
    )
    return amount - sum(map(_cost, counted))


def fits(state: StudyState, run: Run) -> bool:
    """Whether a run fits into what is left of a budget in time; of others it was reckoned with.

    Side by side, epochs cost less time than they take. A run fits only if there is the time that it
    takes itself.
    """
    budget = state.config.budget
    if budget.unit != "seconds" or state.config.is_comparison or not state.epochs_trained:
        return True
    each = sum(record.seconds for record in state.records) / state.epochs_trained
    left_s = budget.amount - state.busy_seconds
    return run.stop_epochs <= epochs_left(state) and run.stop_epochs * each <= left_s + 1e-9


def first_cost(config: StudyConfig) -> int:
    """Epochs without which a study can say nothing: those of one recipe, and of its proof."""
    proof = config.epochs + config.horizon_of(BASELINE) if config.confirm == "quick" else 0
    own = config.horizon_of(BASELINE) if isinstance(config.baseline.decay, Own) else 0
    return cost_of_looks(config, 1) + max(proof, own)


def _for_looks(state: StudyState) -> float:
    """Epochs for looks; infinite while they are not known."""
    config, amount = state.config, _amount_epochs(state)
    most = amount - (first_cost(config) - cost_of_looks(config, 1))
    races = config.confirm == "full" and _full_runs(state) > LOOKS_ALONE
    return min(LOOKS_SHARE * amount, most) if races else most


def _full_runs(state: StudyState) -> float:
    return _amount_epochs(state) / state.config.epochs


def _amount_epochs(state: StudyState) -> float:
    """The budget in epochs; infinite where it is in trials, or their time is not known yet."""
    config, budget = state.config, state.config.budget
    if config.is_comparison:
        return math.inf
    match budget.unit:
        case "trials":
            return math.inf
        case "epochs":
            return budget.amount
        case "runs":
            return budget.amount * config.epochs
        case "seconds":
            trained, busy_s = state.epochs_trained, state.busy_seconds
            return budget.amount / (busy_s / trained) if busy_s else math.inf


def _cost(record: RunRecord) -> int:
    """Epochs that a run has cost, or will have."""
    again = sum(m.again_epochs for m in record.measurements)
    return (record.run.stop_epochs if record.state == "running" else record.epochs) + again


def _by_trial(state: StudyState) -> Sequence[list[RunRecord]]:
    by_trial: dict[int, list[RunRecord]] = {}
    for record in state.records:
        if record.run.is_of_search:
            by_trial.setdefault(record.run.trial, []).append(record)
    return list(by_trial.values())
