"""Training in miniature, a place for its states that can lose them, and a search with both.

It is noisy gradient descent on a parabola: as the real thing, a function of the seed and of the LR
of every step, and of nothing else.
"""

import math
import pickle
from dataclasses import replace
from random import Random

from lrtune.core.run import Measurement, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.plan import Done, next_run
from lrtune.decide.prune import prune
from lrtune.schedules.compress import schedule_of
from lrtune.tuning import reuse

CURVATURES = (1.0, 0.1)
KEEP = 0.8
"""Of an average, what is kept of it by each step."""


class MiniTrainer:
    """Stands in for `lrtune.training.loop.Trainer`, and remembers the epochs that it trained."""

    def __init__(self, *, steps_per_epoch=4, skips=False, flat=False):
        """Training that skips steps now and then, as a gradient scaler does, or that never gets any better."""
        self.steps_per_epoch, self.skips, self.flat = steps_per_epoch, skips, flat
        self.trained = []

    def train(self, run, *, history=(), state=None, save=lambda measurement, state: None):
        assert bool(history) == (state is not None)
        assert state is None or state["epochs"] == len(history)
        schedule = schedule_of(run, self.steps_per_epoch)
        weights = list(state["weights"]) if state else [1.0 + run.seed % 7 / 10, -1.0]
        averages = list(state["averages"]) if state else [0.0, 0.0]
        done = list(history)
        for measurement in done:
            schedule = schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1)
        while len(done) < run.stop_epochs and not (done and done[-1].diverged):
            epoch, step = len(done) + 1, done[-1].step if done else 0
            self.trained.append((run.id, epoch))
            rng = Random(f"{run.seed} {epoch}")
            lrs = []
            for _ in range(self.steps_per_epoch):
                gradients = [
                    h * w + rng.gauss(0, 0.3) for h, w in zip(CURVATURES, weights, strict=True)
                ]
                if self.skips and rng.random() < 0.3:
                    continue
                lrs.append(run.recipe.peak_lr * schedule(step))
                step += 1
                decay = 1 - lrs[-1] * run.recipe.weight_decay
                weights = [decay * w - lrs[-1] * g for w, g in zip(weights, gradients, strict=True)]
                averages = [
                    KEEP * a + (1 - KEEP) * w for a, w in zip(averages, weights, strict=True)
                ]
            measurement = self._measured(epoch, step, lrs, weights, averages)
            done.append(measurement)
            schedule = schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1)
            save(measurement, {"weights": weights, "averages": averages, "epochs": epoch})
            yield measurement

    def _measured(self, epoch, step, lrs, weights, averages):
        loss, averaged_loss = (self._loss(values) for values in (weights, averages))
        return Measurement(
            epoch=epoch, step=step, lr_first=lrs[0] if lrs else math.nan, lr_last=lrs[-1] if lrs else math.nan,
            train_loss=loss, val_loss=loss,
            top1=10 + 85 * math.exp(-loss), averaged_val_loss=averaged_loss,
            averaged_top1=10 + 85 * math.exp(-averaged_loss), seconds=1.0, images_per_s=100.0,
            ended_at=1e9 + len(self.trained),
        )  # fmt: skip

    def _loss(self, weights):
        if self.flat:
            return 1.0
        return sum(w * w for w in weights) if abs(weights[0]) < 100 else math.nan


class MiniStates:
    """Checkpoints by key, in memory. `epochs` says of each how many it took."""

    def __init__(self):
        self.states, self.epochs = {}, {}

    def load(self, key):
        return pickle.loads(self.states[key]) if key in self.states else None

    def save(self, key, state, epochs):
        self.states[key], self.epochs[key] = pickle.dumps(state), epochs

    def drop(self, key):
        self.states.pop(key, None)

    def kept(self):
        """Epochs of the states that are there, in order."""
        return sorted(self.epochs[key] for key in self.states)


def ground_of(run, **surroundings):
    return reuse.ground_of(run, {"task": "parabola"} | surroundings)


def train_with(trainer, states):
    """What an engine is given to train with: what the study knows is not trained again."""

    def train(run, study):
        return reuse.train(run, ground_of(run), reuse.known_measurements(study), trainer, states)

    return train


def search(config, ask, trainer, states):
    """The study after each run that a single process trains, from the first to the last; without a database."""
    state, train = StudyState(config=config), train_with(trainer, states)
    while not isinstance(run := next_run(state, ask), Done):
        before, record = state.records, RunRecord(run=run, state="running")
        for measurement in train(run, state):
            record = replace(record, measurements=(*record.measurements, measurement))
            decision = prune(record, state)
            if decision.prune:
                record = replace(record, state="pruned", reason=decision.reason)
                break
        if record.state == "running":
            record = replace(
                record, state="diverged" if record.measurements[-1].diverged else "completed"
            )
        state = replace(state, records=(*before, record))
        yield state
