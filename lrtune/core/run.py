"""Runs, what they measure, and how they end."""

import math
from dataclasses import dataclass, field
from typing import Literal

from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe

RunKind = Literal["baseline", "look", "full", "confirm"]
"""`look`: a short run with the whole schedule in it; `full`: what a search without looks has in its
place."""
RunState = Literal["running", "completed", "pruned", "diverged", "failed"]

LOSSES = ("train_loss", "val_loss")
"""Metrics that end a run where they are not finite."""
BASELINE = -1
"""The baseline's number among the trials."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one recipe: what has to be known to do it again.

    `id` is unique in its study and derived from what the run is for (`baseline-0`,
    `trial-0007-look-1`, `trial-0007`, `trial-0007-confirm-1`), so that two processes that plan the
    same run collide instead of training it twice.
    """

    id: str
    kind: RunKind
    trial: int
    """Number of the trial that this run belongs to, or `BASELINE`."""
    recipe: Recipe
    recipe_epochs: int
    """Epochs that the lengths in `recipe` are meant for."""
    horizon_epochs: int
    """Epochs that the schedule is fitted to; where they are fewer than `recipe_epochs`, it is
    compressed."""
    stop_epochs: int
    """Epochs that are trained: all of the horizon, but of studies of earlier versions."""
    seed: int

    @property
    def is_of_search(self) -> bool:
        """Whether it is the search's own, a look or in full; all others have fresh seeds."""
        return self.kind in ("look", "full")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one epoch of a run gave. `nan` losses mean that the run diverged in this epoch."""

    epoch: int
    """Epochs finished, from 1."""
    step: int
    """Optimizer steps finished; the steps that a gradient scaler skipped do not count."""
    lr_first: float
    """LR used for the first optimizer step of the epoch."""
    lr_last: float
    """LR used for the last one."""
    metrics: Metrics
    """`train_loss`, `val_loss`, and whatever else was measured, by name; those of the averaged
    weights as `averaged_top1` and so on. Losses that are not finite mean that the run diverged in
    this epoch."""
    seconds: float
    """Training and evaluation of this epoch."""
    examples_per_s: float
    """Training examples a second, evaluation not counted."""
    ended_at: float
    """Seconds since 1970, UTC."""
    memory_mib: float = field(default=math.nan, compare=False)
    """The most that its process has had in main memory so far, MiB; nan where that is not known."""
    gpu_memory_mib: float = field(default=math.nan, compare=False)
    """The most that torch has reserved of its GPU so far, MiB, for all lanes together; nan on a
    CPU."""
    prefix: str = ""
    """Key of the training up to here: equal for runs that agree in everything that shapes them, to
    this epoch."""
    reused: bool = False
    """Taken over from another run with the same prefix, and not trained by this one."""
    again_epochs: int = 0
    """Epochs before this one that were trained a second time for it, because their checkpoint was
    gone."""

    @property
    def diverged(self) -> bool:
        """Whether a loss of this epoch was not finite."""
        losses = (self.metrics.get(name, 0.0) for name in LOSSES)
        return not all(map(math.isfinite, losses))


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run and all that was recorded of it so far."""

    run: Run
    state: RunState
    reason: str = ""
    """Why it was pruned, diverged or failed."""
    measurements: tuple[Measurement, ...] = ()
    orphaned: bool = False
    """Running, by the record, but the process that had it is gone."""
    retries: int = 0
    """Times that it lost its worker and went on with another."""
    test: Metrics | None = None
    """The metrics on the test split; only ever read for the recommended recipe and the baseline."""

    @property
    def epochs(self) -> int:
        """Epochs finished, trained by this run or taken over."""
        return len(self.measurements)

    @property
    def epochs_trained(self) -> int:
        """Epochs that this run cost."""
        return sum((not m.reused) + m.again_epochs for m in self.measurements)

    @property
    def epochs_reused(self) -> int:
        """Epochs that this run took over from others."""
        return sum(m.reused for m in self.measurements) - self.epochs_missing

    @property
    def epochs_missing(self) -> int:
        """Epochs that the training left out at the end: it stopped early by itself.

        They have no steps, and the metrics of the last one that was trained.
        """
        if not self.measurements or not self.measurements[-1].reused:
            return 0
        last = self.measurements[-1].step
        return sum(m.step == last for m in self.measurements) - 1

    @property
    def metrics(self) -> Metrics:
        """What the last finished epoch gave; empty before the first."""
        return self.measurements[-1].metrics if self.measurements else {}

    @property
    def seconds(self) -> float:
        """Training time so far; of epochs that were taken over none."""
        return sum(m.seconds for m in self.measurements if not m.reused)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker has to know to train a run, or to go on with it."""

    run: Run
    num_recorded: int
    """Epochs that need not be measured again."""
    known: tuple[Measurement, ...]
    """Its first epochs, as far as they were trained before, by this run or by any other."""
