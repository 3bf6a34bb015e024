"""Runs by our own loop, as an engine would train them."""

from dataclasses import replace

from lrtune.core.training import Start
from lrtune.decide.bounds import range_result
from lrtune.schedules.compress import schedule_of
from lrtune.training.native.checkpoints import state_from_bytes, state_to_bytes


class Files:
    """Checkpoints as files hold them, in memory."""

    def __init__(self):
        self.contents = {}

    def load(self, key):
        return state_from_bytes(self.contents[key]) if key in self.contents else None

    def save(self, key, state, epochs):
        self.contents[key] = state_to_bytes(state)

    def drop(self, key):
        self.contents.pop(key, None)


def measurements_of(training, run, *, history=(), state=None, save=None):
    """Trains a run by its schedule, or goes on after `history`."""
    schedule = schedule_of(run, training.task.steps_per_epoch)
    for measurement in history:
        schedule = schedule.observe(measurement.metrics)
    steps = history[-1].step if history else 0
    start = Start(epochs=len(history), steps=steps, state=state)

    def multiplier(step):
        return schedule(step)

    for measurement in training.train(run, multiplier, start=start, save=save):
        schedule = schedule.observe(measurement.metrics)
        yield measurement


def train(training, run, *, history=(), state=None):
    """All measurements, and the state after each epoch as a file would hold it."""
    files = []

    def save(_, state):
        files.append(state_to_bytes(state))

    measurements = list(measurements_of(training, run, history=history, state=state, save=save))
    return measurements, [state_from_bytes(content) for content in files]


UNTIMED = {
    "seconds": 0.0, "examples_per_s": 0.0, "ended_at": 0.0, "memory_mib": 0.0,
    "gpu_memory_mib": 0.0,
}  # fmt: skip


def timeless(measurements, **others):
    """What must be the same each time a run is trained: nothing of the clock or the process."""
    return [replace(m, **UNTIMED | others) for m in measurements]


def range_test_of(training, recipe, *, seeds, **sweep):
    """A range test as the application makes it: a sweep a seed, and the rule of `decide`."""
    curves = [training.sweep(recipe, seed=seed, **sweep) for seed in seeds]
    return range_result(recipe.optimizer, curves)
