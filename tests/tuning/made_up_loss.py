"""A training whose validation loss is a convex function of the log peak LR, with noise by seed.

Nothing is trained: what an engine or a sampler makes of it can be judged against `BEST_LR`.
"""

import math
from dataclasses import dataclass, replace
from random import Random

from lrtune.core.decays import Constant
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement
from lrtune.core.study import Budget, RangeCurve, StudyConfig
from lrtune.decide.recommend import recommend
from tests.tuning.fake_training import START, MadeUpTraining

OBJECTIVE = Objective.parse("val_loss")
EPOCHS, STEPS_PER_EPOCH = 2, 5
BEST_LR, BEST_LOSS, NOISE = 0.037, 0.5, 0.01
SPACE = """
[parameters]
peak_lr = { low = 1e-4, high = 1.0, log = true }
decay = "constant"
"""


def final_loss(run):
    """A parabola in log LR about `BEST_LR`, with noise that depends on LR and seed."""
    decades = math.log10(run.recipe.peak_lr / BEST_LR)
    noise = Random(f"{run.recipe.peak_lr:.6g} {run.seed}").gauss(0, NOISE)
    return BEST_LOSS + 0.3 * decades**2 + noise


def measurement(run, epoch):
    """The loss falls to its final value in a straight line."""
    loss = final_loss(run) + 2.0 * (1 - epoch / run.horizon_epochs)
    return Measurement(
        epoch=epoch, step=STEPS_PER_EPOCH * epoch, lr_first=run.recipe.peak_lr,
        lr_last=run.recipe.peak_lr, metrics={"train_loss": loss, "val_loss": loss}, seconds=1.0,
        examples_per_s=100.0, ended_at=1e9 + 1000 * run.trial + 100 * run.seed + epoch,
    )  # fmt: skip


class MadeUpLoss(MadeUpTraining):
    """Can do everything; its state is the number of epochs."""

    def __init__(self):
        super().__init__(steps_per_epoch=STEPS_PER_EPOCH)
        self.facts = replace(
            self.facts, epochs=EPOCHS, objective=OBJECTIVE, metrics=("train_loss", "val_loss")
        )

    def identity(self, recipe):
        return {"task": "made-up loss"}

    def train(self, run, multiplier, *, start=START, save=None):
        for epoch in range(start.epochs + 1, run.stop_epochs + 1):
            measured = measurement(run, epoch)
            if save is not None:
                save(measured, {"epochs": epoch})
            yield measured

    def sweep(self, recipe, *, seed, low=None, high=None, num_steps=None):
        low, high, num_steps = low or 1e-4, high or 10.0, num_steps or 50
        lrs = [low * (high / low) ** (i / (num_steps - 1)) for i in range(num_steps)]
        losses = [1.0 + 0.3 * math.log10(lr / BEST_LR) ** 2 for lr in lrs]
        return RangeCurve(seed=seed, lrs=tuple(lrs), losses=tuple(losses), diverged=False)

    def test(self, state):
        return {"val_loss": BEST_LOSS}


@dataclass(frozen=True)
class OpenMadeUpLoss:
    """Opens the training, in whatever process calls it."""

    def __call__(self, devices):
        return MadeUpLoss()


def make_loss_config(**changes):
    """A study of it: 40 trials, of which the best one is confirmed."""
    values = {
        "name": "fake", "task": {"file": "made_up_loss.py"}, "space_name": "made-up",
        "space_toml": SPACE, "epochs": EPOCHS, "steps_per_epoch": STEPS_PER_EPOCH,
        "objective": OBJECTIVE, "baseline": Recipe(peak_lr=1e-3, decay=Constant()),
        "budget": Budget(40, "trials"), "num_seeds": 1, "confirm": "quick",
    }  # fmt: skip
    return StudyConfig(**values | changes)


def factor_of(store):
    """How many times too high or too low the recommended peak LR is."""
    lr = recommend(store.state()).best.recipe.peak_lr
    return max(lr / BEST_LR, BEST_LR / lr)
