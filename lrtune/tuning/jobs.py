"""How many worker processes `--jobs auto` starts on a machine without a GPU."""

import math

import psutil

from lrtune.core.counts import count
from lrtune.core.study import StudyState
from lrtune.decide.budget import cost_of_looks, num_finalists, num_recipes, race_runs

WORTH_S = 20.0
"""Seconds of training from which on more than one process pays: each takes some to start."""


def automatic_jobs(state: StudyState, *, cores: int, epoch_s: float) -> tuple[int, str]:
    """The number of worker processes for a study, and a sentence that says why.

    As many as the cores feed, but no more than can look at recipes at the same time, and than the
    memory holds. One where little is left to train.

    Args:
        state: of the study.
        cores: that this process may use.
        epoch_s: what an epoch takes in one process, in seconds; nan: not known.
    """
    left_s = _epochs_left(state) * epoch_s
    if state.config.budget.unit == "seconds" and not state.config.is_comparison:
        left_s = state.config.budget.amount - state.busy_seconds
    threads = max(1, state.config.settings.threads)
    own_bytes = psutil.Process().memory_info().rss
    fitting = 1 + psutil.virtual_memory().available // own_bytes
    number = max(1, min(cores // threads, state.config.lag, fitting))
    if math.isnan(left_s):
        return 1, "1 job, since it is not known how long an epoch takes; `--jobs N` starts more"
    if left_s < WORTH_S:
        return 1, f"1 job, with only {left_s:.0f} s of training ahead; `--jobs N` starts more"
    each = f"{count(number, 'job')} of {count(threads, 'thread')} on {count(cores, 'core')}"
    return number, f"{each}, with {_about(left_s)} of training ahead"


def _epochs_left(state: StudyState) -> float:
    """Epochs that the study asks for at least."""
    config = state.config
    looks, racing = 0, len(config.recipes) + 1
    if not config.is_comparison:
        looks, racing = cost_of_looks(config, num_recipes(state)), num_finalists(state) + 1
    runs, _ = race_runs(config, racing)
    return max(0, looks + runs * config.epochs - state.epochs_trained)


def _about(seconds: float) -> str:
    unit, name = (60, "minute") if seconds < 2 * 3600 else (3600, "hour")
    return f"about {count(max(1, round(seconds / unit)), name)}"
