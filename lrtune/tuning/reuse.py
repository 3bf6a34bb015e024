"""Nothing is trained twice: resuming, promotion, duplicates and shared trunks are one mechanism, and this is all of it.

A training run is a function of its *ground* (task, model, optimizer, settings, seed, machine and
library versions) and of the LR of every step so far. So its training up to an epoch has a key,
chained over the epochs:

    key[0] = hash(ground)        key[k] = hash(key[k - 1], LR multipliers of the steps of epoch k)

Runs with the same key are in the same state, whatever their schedules do later. A run replays the
measurements that are known under its keys, goes on from the latest checkpoint among them, and
trains the rest. That a run was killed and is resumed, that it goes on where a rung left it, that
another recipe had the same LRs so far: there is no difference. The keys of a plateau decay follow
from the metrics of the epochs before, so they are known as far as the replay has come.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from lrtune.core.run import Measurement, Run
from lrtune.core.study import StudyState
from lrtune.schedules.build import Schedule
from lrtune.schedules.compress import schedule_of

State = dict[str, Any]


class Trainer(Protocol):
    """What is needed of the training."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""

    def train(
        self,
        run: Run,
        *,
        history: Sequence[Measurement],
        state: State | None,
        save: Callable[[Measurement, State], None],
    ) -> Iterator[Measurement]:
        """See `lrtune.training.loop.Trainer.train`."""


class States(Protocol):
    """What is needed of a store of states.

    It may lose any of them: that costs time and nothing else.
    """

    def load(self, key: str) -> State | None:
        """The state under `key`, if it is there."""

    def save(self, key: str, state: State, epochs: int) -> None:
        """Keeps a state that took `epochs` epochs."""

    def drop(self, key: str) -> None:
        """Forgets a state."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The first epochs of a run."""

    schedule: Schedule
    """As far as it is known after these epochs."""
    ground: str
    measurements: tuple[Measurement, ...] = ()

    @property
    def key(self) -> str:
        """Of the training up to here."""
        return self.measurements[-1].prefix if self.measurements else self.ground

    @property
    def next_key(self) -> str:
        """Of the training up to the end of the next epoch."""
        step = self.measurements[-1].step if self.measurements else 0
        steps = range(step, step + self.schedule.steps_per_epoch)
        multipliers = array("d", (self.schedule(step) for step in steps))
        return hashlib.sha256(self.key.encode() + multipliers.tobytes()).hexdigest()[:32]

    @property
    def ends_on_trunk(self) -> bool:
        """Whether the warmup is over or ends in the next epoch, and the LR is at its peak still: a branch is likely."""
        end = len(self.measurements) * self.schedule.steps_per_epoch
        if end <= self.schedule.warmup_steps:
            return end + self.schedule.steps_per_epoch > self.schedule.warmup_steps
        return self.schedule(end - 1) == 1.0  # after the warmup no multiplier rises

    def plus(self, measurement: Measurement) -> "Prefix":
        """One epoch more."""
        return replace(
            self,
            schedule=self.schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1),
            measurements=(*self.measurements, measurement),
        )


def ground_of(run: Run, surroundings: Mapping[str, Any]) -> str:
    """The key of a run before its first step.

    Args:
        run: its seed, its peak LR and its optimizer's settings count; its schedule does not.
        surroundings: what else the result depends on: task, settings, device, library versions.
    """
    own = asdict(run.recipe)
    for name in ("warmup_epochs", "decay", "final_frac"):
        del own[name]
    content = json.dumps([dict(surroundings), own, run.seed], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def known_measurements(state: StudyState) -> dict[str, Measurement]:
    """Every epoch that was trained in a study, by its key."""
    return {m.prefix: m for record in state.records for m in record.measurements if not m.reused}


def known_epochs(
    run: Run, ground: str, known: Mapping[str, Measurement], steps_per_epoch: int
) -> tuple[Measurement, ...]:
    """The first epochs of a run, as far as they were trained before, by this run or by any other.

    Args:
        run: what is to be trained.
        ground: its key before the first step.
        known: measurements by key.
        steps_per_epoch: optimizer steps.
    """
    prefix = Prefix(schedule=schedule_of(run, steps_per_epoch), ground=ground)
    while len(prefix.measurements) < run.stop_epochs and not (
        prefix.measurements and prefix.measurements[-1].diverged
    ):
        found = known.get(prefix.next_key)
        if found is None:
            break
        prefix = prefix.plus(found)
    return prefix.measurements


def train(
    run: Run, ground: str, known: Mapping[str, Measurement], trainer: Trainer, states: States
) -> Iterator[Measurement]:
    """A run's measurements from its first epoch on, of which only those that are new are trained.

    Args:
        run: what to train.
        ground: its key before the first step.
        known: measurements by key, from this run before it was killed or from any other.
        trainer: trains what is new.
        states: of training, by key.

    Yields:
        A measurement an epoch, `reused` where it comes from `known`.
    """
    prefix = Prefix(schedule=schedule_of(run, trainer.steps_per_epoch), ground=ground)
    while len(prefix.measurements) < run.stop_epochs:
        key = prefix.next_key
        found = known.get(key) or _saved(run, key, states)
        if found is None:
            break
        prefix = prefix.plus(found)
        yield replace(found, reused=found.reused or found.prefix in known, again_epochs=0)
        if found.diverged:
            return
    if len(prefix.measurements) == run.stop_epochs:
        return
    num_known = len(prefix.measurements)
    start, state = _latest(prefix, states)

    def save(measurement: Measurement, state: State) -> None:
        nonlocal prefix
        if measurement.epoch <= num_known:  # trained again, as its checkpoint was gone
            return
        before = prefix
        prefix = prefix.plus(replace(measurement, prefix=prefix.next_key))
        trained = {"run": run.id, "measurement": asdict(prefix.measurements[-1])}
        states.save(prefix.key, state | trained, measurement.epoch)
        if measurement.epoch - 1 > num_known and not before.ends_on_trunk:
            states.drop(before.key)

    again_s = 0.0
    for measurement in trainer.train(
        run, history=prefix.measurements[:start], state=state, save=save
    ):
        if measurement.epoch <= num_known:
            again_s += measurement.seconds
            continue
        measurement = prefix.measurements[-1]
        if measurement.epoch == num_known + 1:
            measurement = replace(
                measurement, again_epochs=num_known - start, seconds=measurement.seconds + again_s
            )
        yield measurement


def _saved(run: Run, key: str, states: States) -> Measurement | None:
    """The measurement of an epoch that was saved and is not recorded yet, as its run was killed or is under way."""
    state = states.load(key)
    return (
        Measurement(**state["measurement"] | {"reused": state["run"] != run.id})
        if state is not None
        else None
    )


def _latest(prefix: Prefix, states: States) -> tuple[int, State | None]:
    """The latest checkpoint of a prefix and the number of epochs in it; 0 and `None` where none is left."""
    for measurement in reversed(prefix.measurements):
        state = states.load(measurement.prefix)
        if state is not None:
            return measurement.epoch, state
    return 0, None
