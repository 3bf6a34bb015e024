"""Training in miniature, places for its states that can lose them, and a search with both.

It is noisy gradient descent on a parabola: as the real thing, a function of the seed and of the LR
of every step, and of nothing else.
"""

import math
import pickle
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from lrtune.core.objective import Objective
from lrtune.core.run import Measurement, RunRecord
from lrtune.core.study import RangeCurve, StudyState
from lrtune.core.training import ABILITIES, Facts, Start
from lrtune.decide.plan import Done, next_run
from lrtune.decide.prune import why_hopeless
from lrtune.store.checkpoints import CheckpointStore
from lrtune.tuning import reuse

CURVATURES = (1.0, 0.1)
START = Start()
KEEP = 0.8
"""Of an average, what is kept of it by each step."""


class MadeUpTraining:
    """What made-up trainings have in common. They train any number of runs in one process.

    Args:
        steps_per_epoch: of its facts.
        without: abilities that it lacks.
    """

    def __init__(self, *, steps_per_epoch=4, without=()):
        self.facts = Facts(
            steps_per_epoch=steps_per_epoch, epochs=12, objective=Objective(),
            metrics=("train_loss", "val_loss", "top1", "averaged_val_loss", "averaged_top1"),
            abilities=ABILITIES - set(without), num_validation=1000, device="a made-up device",
        )  # fmt: skip

    def environment(self, recipe):
        return {"Device": "made up", "optimizer": recipe.optimizer}

    def identity(self, recipe):
        return {"task": "parabola"}

    def lanes(self, recipe, wanted):
        return (1, "") if wanted == "auto" else (int(wanted), "")

    def sweep(self, recipe, *, seed, low=None, high=None, num_steps=None):
        return RangeCurve(seed=seed, lrs=(0.1, recipe.peak_lr), losses=(2.0, 1.0), diverged=False)

    def test(self, state):
        return {"top1": float(state["epochs"])}


class MiniTraining(MadeUpTraining):
    """Remembers the epochs that it trained.

    Args:
        skips: whether it skips steps now and then, as a gradient scaler does.
        flat: whether it never gets any better.
        facts: see `MadeUpTraining`.
    """

    def __init__(self, *, skips=False, flat=False, **facts):
        super().__init__(**facts)
        self.skips, self.flat = skips, flat
        self.trained = []

    def train(self, run, multiplier, *, start=START, save=None):
        assert bool(start.epochs) == bool(start.steps) == (start.state is not None)
        assert start.state is None or start.state["epochs"] == start.epochs
        assert save is None or "resume" in self.facts.abilities
        state, step = start.state, start.steps
        weights = list(state["weights"]) if state else [1.0 + run.seed % 7 / 10, -1.0]
        averages = list(state["averages"]) if state else [0.0, 0.0]
        for epoch in range(start.epochs + 1, run.stop_epochs + 1):
            self.trained.append((run.id, epoch))
            rng = self._rng(run, epoch)
            lrs = []
            for _ in range(self.facts.steps_per_epoch):
                gradients = [
                    h * w + rng.gauss(0, 0.3) for h, w in zip(CURVATURES, weights, strict=True)
                ]
                if self.skips and rng.random() < 0.3:
                    continue
                lrs.append(run.recipe.peak_lr * multiplier(step))
                step += 1
                decay = 1 - lrs[-1] * run.recipe.weight_decay
                weights = [decay * w - lrs[-1] * g for w, g in zip(weights, gradients, strict=True)]
                averages = [
                    KEEP * a + (1 - KEEP) * w for a, w in zip(averages, weights, strict=True)
                ]
            measurement = self._measured(epoch, step, lrs, weights, averages)
            if save is not None:
                save(measurement, {"weights": weights, "averages": averages, "epochs": epoch})
            yield measurement
            if measurement.diverged:
                return

    def _rng(self, run, epoch):
        if "repeat" in self.facts.abilities:
            return Random(f"{run.seed} {epoch}")
        return Random(f"{len(self.trained)}")

    def _measured(self, epoch, step, lrs, weights, averages):
        loss, averaged_loss = (self._loss(values) for values in (weights, averages))
        metrics = {
            "train_loss": loss, "val_loss": loss, "top1": 10 + 85 * math.exp(-loss),
            "averaged_val_loss": averaged_loss,
            "averaged_top1": 10 + 85 * math.exp(-averaged_loss),
        }  # fmt: skip
        return Measurement(
            epoch=epoch, step=step, lr_first=lrs[0] if lrs else math.nan,
            lr_last=lrs[-1] if lrs else math.nan, metrics=metrics, seconds=1.0,
            examples_per_s=100.0, ended_at=1e9 + len(self.trained),
        )  # fmt: skip

    def _loss(self, weights):
        if self.flat:
            return 1.0
        return sum(w * w for w in weights) if abs(weights[0]) < 100 else math.nan


class MiniStates:
    """States by key, in memory. `epochs` says of each how many it took."""

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


@dataclass(frozen=True)
class StatesOnDisk:
    """States that outlive their process."""

    checkpoints: CheckpointStore

    def load(self, key):
        content = self.checkpoints.load(key)
        return pickle.loads(content) if content is not None else None

    def save(self, key, state, epochs):
        self.checkpoints.save(key, pickle.dumps(state), epochs)

    def drop(self, key):
        self.checkpoints.drop(key)


def alone(run, **facts):
    """The measurements of a run that knows of no other."""
    training, record = MiniTraining(**facts), RunRecord(run=run, state="running")
    return train_record(record, {}, training, MiniStates())


def train_record(record, measurements, training, states):
    """Trains the run of a record as an engine does."""
    identity = training.identity(record.run.recipe)
    assignment = reuse.assignment_of(record, measurements, identity, training.facts)
    return reuse.train(assignment, training, states)


def search(config, ask, training, states):
    """The study after each run that a single process trains, without a database."""
    state, train = StudyState(config=config), partial(train_record, training=training)
    while not isinstance(run := next_run(state, ask), Done):
        before, record = state.records, RunRecord(run=run, state="running")
        for measurement in train(record, reuse.measurements_by_key(state), states=states):
            record = replace(record, measurements=(*record.measurements, measurement))
            if reason := why_hopeless(record, config):
                record = replace(record, state="pruned", reason=reason)
                break
        if record.state == "running":
            record = replace(
                record, state="diverged" if record.measurements[-1].diverged else "completed"
            )
        state = replace(state, records=(*before, record))
        yield state
