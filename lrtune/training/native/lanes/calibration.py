"""How many lanes one GPU feeds.

It is tried out for a few seconds, since it depends on the model, the batch and the GPU.
"""

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from lrtune.core.errors import TaskError, TrialError
from lrtune.core.recipe import Recipe
from lrtune.training.native.lanes.captured import CapturedLane
from lrtune.training.native.lanes.pool import LanePool

MOST_LANES = 8
PAYS = 1.1
"""Twice the lanes are worth their memory if they train this many times as fast."""
TRIAL_S = 0.5
"""Time for which a number of lanes is tried."""
NUM_FIRST = 10
"""Steps by which the pace of one lane is guessed."""


def calibrate_lanes(pool: LanePool, recipe: Recipe) -> int:
    """How many lanes to train such recipes on.

    It is 1 where they are not captured, since eager lanes only wait for each other.
    """
    if pool.why_eager(recipe):
        return 1
    pace = NUM_FIRST / _seconds(pool, recipe, num_lanes=1, num_steps=NUM_FIRST)
    if pool.why_eager(recipe):  # the first capture has failed
        return 1

    def rate(num_lanes: int) -> float:
        num_steps = max(NUM_FIRST, round(TRIAL_S * pace))
        try:
            return (
                num_lanes
                * num_steps
                / _seconds(pool, recipe, num_lanes=num_lanes, num_steps=num_steps)
            )
        except (
            TaskError,
            TrialError,
        ):  # one lane has worked, so it is the number of them that fails
            gc.collect()  # tracebacks and futures hold each other, and with them what did not fit
            return 0.0

    num_lanes = best_num_lanes(rate)
    pool.keep(num_lanes)
    return num_lanes


def best_num_lanes(rate: Callable[[int], float]) -> int:
    """Doubles the lanes as long as it pays.

    Args:
        rate: of a number of lanes, the steps a second that they take together; 0 where they do not
            fit.
    """
    num_lanes, best = 1, rate(1)
    while 2 * num_lanes <= MOST_LANES:
        faster = rate(2 * num_lanes)
        if faster < PAYS * best:
            break
        num_lanes, best = 2 * num_lanes, faster
    return num_lanes


def _seconds(pool: LanePool, recipe: Recipe, *, num_lanes: int, num_steps: int) -> float:
    """Time that lanes take for so many steps each, once all of them are ready.

    They train nothing that is kept.

    Raises:
        TrialError: out of memory, or a lane of several that is eager, for which the others would
            wait.
        TaskError: a lane could not be captured, or not be trained on.
    """
    ready = threading.Barrier(num_lanes + 1)

    def work() -> None:
        try:
            with pool.lane(recipe, 0) as lane:
                if num_lanes > 1 and not isinstance(lane, CapturedLane):
                    raise TrialError("a lane could not be captured")
                lane.begin_epoch(0, 0)
                with pool.task.guard("the task could not be trained"):
                    lane.steps([1e-3, 1e-3])  # the first ones are slow
                ready.wait()
                num_left, epoch = num_steps, 0
                while num_left > 0:
                    lane.begin_epoch(0, epoch)
                    num_left -= len(
                        lane.steps([1e-3] * min(num_left, pool.task.steps_per_epoch)).losses
                    )
                    epoch += 1
        except BaseException:
            ready.abort()
            raise

    with ThreadPoolExecutor(num_lanes) as threads:
        lanes = [threads.submit(work) for _ in range(num_lanes)]
        with suppress(threading.BrokenBarrierError):
            ready.wait()
        start = time.perf_counter()
    for error in [lane.exception() for lane in lanes]:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return time.perf_counter() - start
