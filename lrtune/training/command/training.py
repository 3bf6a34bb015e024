"""A command as a training: each run is one start of it, with its learning rate set from outside."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lrtune.core.commands import Sweeps
from lrtune.core.decays import Own, Plateau
from lrtune.core.errors import InputError, TrialError
from lrtune.core.objective import Metrics, Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.sources import CommandLine
from lrtune.core.study import RangeCurve
from lrtune.core.training import (
    OWN_FAULTS,
    Ability,
    Devices,
    Environment,
    Facts,
    Multiplier,
    Save,
    Start,
    State,
    Training,
)
from lrtune.decide.bounds import MIN_POINTS
from lrtune.decide.sweep import sweep_curve, sweep_lrs
from lrtune.training.command.following import followed, lr_of, write_table
from lrtune.training.command.pace import at_pace, keep_pace, known_pace, num_steps_at
from lrtune.training.command.recording import Recorded, Steerable
from lrtune.training.command.steered import (
    Mode,
    Plan,
    Steered,
    asks_for,
    measurement_of,
    offset_for,
)


class OtherPaceError(Exception):
    """A run makes another number of steps an epoch than it was planned with."""

    def __init__(self, pace: float):
        super().__init__(pace)
        self.pace = pace


@dataclass(frozen=True, kw_only=True)
class CommandTraining:
    """Trains by starting a command; see `lrtune.core.training.Training`.

    A command goes on from no state, and it has no test split. With its seeds set or offset
    from outside it can repeat a run.
    """

    command: CommandLine
    description: Mapping[str, Any]
    """What tells the command from others."""
    recorded: Recorded
    objective: Objective
    folder: Path
    """Of the files of its runs."""
    threads: int
    """Of torch in the command; 0: as many as it takes."""
    timeout_s: float
    """Seconds without an epoch after which a run is ended; 0: never."""
    devices: Devices = field(default_factory=Devices)
    """What the command may use."""

    def __call__(self, devices: Devices) -> Training:
        """Opens itself: a command needs nothing in the process that starts it."""
        return replace(self, devices=devices)

    @property
    def facts(self) -> Facts:
        """See `Training`."""
        abilities: set[Ability] = {"sweep"}
        if self.command.seed_offset == "on" or asks_for(self.command, "seed"):
            abilities.add("repeat")
        if self.recorded.is_handed_over:
            abilities.add("follow")
        return Facts(
            steps_per_epoch=self.recorded.steps_per_epoch,
            epochs=self.recorded.epochs,
            start_epochs=self.recorded.start_epochs,
            metrics=self.recorded.metrics,
            objective=self.objective,
            abilities=frozenset(abilities),
            groups=self.recorded.groups,
            optimizers=(self.recorded.known_optimizer,),
            device="the command's own device",
        )

    def environment(self, recipe: Recipe) -> Environment:
        """See `Training`."""
        faults = {OWN_FAULTS: " ".join(self.recorded.faults)} if self.recorded.faults else {}
        return self._machine() | faults

    def _machine(self) -> dict[str, str]:
        """Returns what moves the last bit of a run."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return {
            **self.recorded.versions,
            "Machine": f"{platform.machine()}, {cores} cores",
            "Optimizer": f"{self.recorded.optimizer}, the command's own",
        }

    def identity(self, recipe: Recipe) -> Mapping[str, Any]:
        """See `Training`."""
        return {"task": dict(self.description), "environment": self._machine()}

    def lanes(self, recipe: Recipe, wanted: str | int) -> tuple[int, str]:
        """See `Training`: one process trains one run at a time."""
        if wanted != "auto" and int(wanted) > 1:
            raise InputError(
                f"`lanes` must be 1 for a command, but got {wanted}: `jobs` trains several runs "
                "side by side."
            )
        return 1, ""

    def train(
        self,
        run: Run,
        multiplier: Multiplier,
        *,
        start: Start = Start(),  # noqa: B008  # frozen
        save: Save | None = None,
    ) -> Iterator[Measurement]:
        """See `Training`. The command is ended after the value of the last epoch."""
        if isinstance(run.recipe.decay, Own) and run.seed == self.recorded.seed:
            yield from self.recorded.measurements[: run.stop_epochs]
            return
        values = dict(run.recipe.command)
        pace = 1.0 if values == self.recorded.values else known_pace(self.folder, values)
        if pace is None:
            try:
                yield from self._train(run, multiplier, pace=1.0, is_guess=True)
                return
            except OtherPaceError as other:
                pace = other.pace
                keep_pace(self.folder, values, pace)
        yield from self._train(run, multiplier, pace=pace)

    def _train(
        self, run: Run, multiplier: Multiplier, *, pace: float, is_guess: bool = False
    ) -> Iterator[Measurement]:
        """Trains a run at a pace.

        Raises:
            OtherPaceError: the pace was a guess, and its first epoch has other steps.
        """
        own, follows = isinstance(run.recipe.decay, Own), isinstance(run.recipe.decay, Plateau)
        lr, steps_per_epoch = lr_of(run.recipe, multiplier), self.recorded.steps_per_epoch
        lr = at_pace(lr, pace)
        num_known = num_steps_at(pace, steps_per_epoch * (1 if follows else run.horizon_epochs))
        lrs = [] if own else [lr(step) for step in range(num_known)]
        plan = plan_for(self.command, self.recorded, run.recipe, run.seed)
        mode: Mode = "record" if own else "set"
        waits_for = self.recorded.written_as if follows or self.recorded.asks else None
        plan = replace(plan, mode=mode, lrs=lrs, waits_for=waits_for, epochs=run.horizon_epochs)
        before: Measurement | None = None
        with self._start(plan, run.id) as steered:
            for evaluation in steered.evaluations(self.timeout_s):
                first_step = self.recorded.measurements[0].step
                if is_guess and before is None and evaluation.step != first_step:
                    raise OtherPaceError(evaluation.step / first_step)
                before = measurement_of(
                    evaluation,
                    before=before,
                    steps=steered.steps,
                    start_time=steered.start_time,
                )
                try:
                    yield replace(before, step=round(before.step / pace))
                except GeneratorExit:  # it is not worth its other epochs
                    steered.stop()
                    raise
                if before.epoch == run.stop_epochs:
                    steered.stop()
                    return
                if follows:
                    num_known = num_steps_at(pace, steps_per_epoch * (before.epoch + 1))
                    lrs = followed(lrs, lr, num_steps=before.step, num_known=num_known)
                    write_table(steered.folder, lrs)
        if before is None:
            raise TrialError(f"the command ended without a value of `{self.objective.metric}`")
        last = replace(before, step=round(before.step / pace), seconds=0.0, reused=True)
        for epoch in range(before.epoch + 1, run.stop_epochs + 1):  # it has stopped early by itself
            yield replace(last, epoch=epoch)

    def sweep(
        self,
        recipe: Recipe,
        *,
        seed: int,
        low: float | None = None,
        high: float | None = None,
        num_steps: int | None = None,
    ) -> RangeCurve:
        """See `Training`."""
        num_steps = min(num_steps or Sweeps.num_steps, self.recorded.num_steps)
        lrs = sweep_lrs(recipe.optimizer, low, high, num_steps)
        plan = plan_for(self.command, self.recorded, recipe, seed)
        plan = replace(plan, mode="sweep", lrs=lrs, epochs=self.recorded.epochs)
        return swept(self._start(plan, f"sweep-{seed}"), lrs, seed=seed)

    def test(self, state: State) -> Metrics:
        """See `Training`. It lacks the ability, so that nobody asks."""
        raise AssertionError("a command has no test split")

    def _start(self, plan: Plan, name: str) -> Steered:
        return Steered(
            self.command,
            plan,
            self.folder / name,
            cwd=Path(self.description["folder"]),
            metric=self.objective.metric,
            series=self.recorded.series,
            threads=self.threads,
            devices=self.devices,
        )


def plan_for(command: CommandLine, steerable: Steerable, recipe: Recipe, seed: int) -> Plan:
    """What a command is told for a recipe, without its LRs."""
    changed = recipe.weight_decay != steerable.weight_decay
    return Plan(
        mode="set",
        seed=seed,
        seed_offset=offset_for(command, seed),
        ratios=steerable.ratios,
        scales=dict(recipe.group_scales),
        weight_decay=recipe.weight_decay if changed else None,
        optimizer_index=command.optimizer_index,
        peak_lr=recipe.peak_lr,
        values=dict(recipe.command),
    )


def swept(started: Steered, lrs: Sequence[float], *, seed: int) -> RangeCurve:
    """The curve of a sweep: the losses that the command calls `backward` on, one at each LR.

    Raises:
        TrialError: the command failed before there were enough of them.
    """
    curve, losses, runs = sweep_curve(lrs, (), seed=seed), [], True
    with started as steered:
        while runs and not curve.diverged and len(curve.losses) < len(lrs):
            runs = steered.wait()
            losses = [step.loss for step in steered.steps[: len(lrs)]]
            curve = sweep_curve(lrs, losses, seed=seed)
        if steered.exit is not None and not steered.exit.succeeded and len(losses) < MIN_POINTS:
            raise TrialError(
                f"the command ended with {steered.exit} in the range test, after {len(losses)} "
                f"steps: {steered.last_words(1) or 'it printed nothing'}"
            )
    return curve
