"""Nothing is trained twice: resuming, duplicates and shared trunks are one mechanism.

A training run is a function of its *fingerprint* (task, model, optimizer, settings, seed, machine
and library versions) and of the LR of every step so far. So its training up to an epoch has a key,
chained over the epochs:

    key[0] = fingerprint         key[k] = hash(key[k - 1], LR multipliers of the steps of epoch k)

Runs with the same key are in the same state, whatever their schedules do later. A run replays the
measurements that are known under its keys, goes on from the latest state among them, and trains the
rest. That a run was killed and is resumed, that another recipe had the same LRs so far: there is no
difference. The keys of a plateau decay follow from the metrics of the epochs before, so they are
known up to the epoch that has been replayed.

A training that cannot repeat a run shares no keys between runs. One that cannot resume shares whole
runs only.
"""

import hashlib
import json
from array import array
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from lrtune.core.decays import Own, Plateau
from lrtune.core.run import Assignment, Measurement, Run, RunRecord
from lrtune.core.study import StudyState
from lrtune.core.training import ABILITIES, Ability, Facts, Start, State, States, Training
from lrtune.schedules.build import Schedule
from lrtune.schedules.compress import schedule_of


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The first epochs of a run."""

    schedule: Schedule
    """As far as it is known after these epochs."""
    fingerprint: str
    measurements: tuple[Measurement, ...] = ()

    @property
    def key(self) -> str:
        """The key of the training up to here."""
        return self.measurements[-1].prefix if self.measurements else self.fingerprint

    @cached_property
    def next_key(self) -> str:
        """The key of the training up to the end of the next epoch."""
        multipliers = array("d", map(self.schedule, self._next_steps))
        return hashlib.sha256(self.key.encode() + multipliers.tobytes()).hexdigest()[:32]

    @property
    def _next_steps(self) -> range:
        """The planned steps of the next epoch.

        The epochs of a command may differ in length, and it may make more steps than are planned.
        """
        first = self.measurements[-1].step if self.measurements else 0
        steps_per_epoch, end = self.schedule.steps_per_epoch, self.schedule.total_steps
        if isinstance(self.schedule.recipe.decay, Plateau):  # those of later epochs are not known
            end = (len(self.measurements) + 1) * steps_per_epoch
        return range(first, min(first + steps_per_epoch, end))

    @property
    def ends_on_trunk(self) -> bool:
        """Whether other runs are likely to branch off here.

        They are where the warmup is over, or ends in the next epoch, and the LR is at its peak.
        """
        end = len(self.measurements) * self.schedule.steps_per_epoch
        if end <= self.schedule.warmup_steps:
            return end + self.schedule.steps_per_epoch > self.schedule.warmup_steps
        return self.schedule(end - 1) == 1.0  # after the warmup no multiplier rises

    def is_all_of(self, run: Run) -> bool:
        """Whether nothing is left to train of the run."""
        diverged = bool(self.measurements) and self.measurements[-1].diverged
        return diverged or len(self.measurements) == run.stop_epochs

    def plus(self, measurement: Measurement) -> "Prefix":
        """One epoch more."""
        return replace(
            self,
            schedule=self.schedule.observe(measurement.metrics),
            measurements=(*self.measurements, measurement),
        )


def fingerprint(
    run: Run, identity: Mapping[str, Any], abilities: AbstractSet[Ability] = ABILITIES
) -> str:
    """The key of a run before its first step.

    Args:
        run: its seed, its peak LR and its optimizer's settings count; its schedule does not.
        identity: what else the result depends on; see `Training.identity`.
        abilities: of the training. The fingerprint of a run that cannot be repeated is its own.
    """
    recipe = asdict(run.recipe)
    for name in ("warmup_epochs", "decay", "final_frac", *["command"] * (not recipe["command"])):
        del recipe[name]
    if isinstance(run.recipe.decay, Own):  # a command as it is agrees with no recipe
        recipe["decay"] = run.recipe.decay.name
    values = [dict(identity), recipe, run.seed] + [run.id] * ("repeat" not in abilities)
    content = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def measurements_by_key(state: StudyState) -> dict[str, Measurement]:
    """Every epoch that was trained in a study, by its key."""
    return {m.prefix: m for record in state.records for m in record.measurements if not m.reused}


def assignment_of(
    record: RunRecord,
    measurements: Mapping[str, Measurement],
    identity: Mapping[str, Any],
    facts: Facts,
) -> Assignment:
    """What a worker has to know to train a run, or to go on with it.

    Args:
        record: the run, and what was recorded of it.
        measurements: of all epochs that were trained in the study, by key.
        identity: see `Training.identity`.
        facts: what the training states.

    Raises:
        InputError: the run's recipe has no schedule.
    """
    run = record.run
    prefix = Prefix(
        schedule=schedule_of(run, facts.steps_per_epoch),
        fingerprint=fingerprint(run, identity, facts.abilities),
    )
    while not prefix.is_all_of(run):
        measurement = measurements.get(prefix.next_key)
        if measurement is None:
            break
        prefix = prefix.plus(measurement)
    first_epochs = prefix.measurements
    if "resume" not in facts.abilities and not prefix.is_all_of(run):
        first_epochs = first_epochs[: record.epochs]  # it is trained from its start
    return Assignment(run=run, num_recorded=record.epochs, known=first_epochs)


def train(
    assignment: Assignment, training: Training, states: States | None
) -> Generator[Measurement, None, None]:
    """A run's measurements from its first epoch on, of which only those that are new are trained.

    Args:
        assignment: the run, and what is known of it.
        training: trains what is new.
        states: of runs, by key; `None` where the training cannot resume.

    Yields:
        A measurement an epoch, `reused` where it was known.
    """
    run, measurements = assignment.run, {m.prefix: m for m in assignment.known}
    facts = training.facts
    prefix = Prefix(
        schedule=schedule_of(run, facts.steps_per_epoch),
        fingerprint=fingerprint(run, training.identity(run.recipe), facts.abilities),
    )
    while not prefix.is_all_of(run):
        key = prefix.next_key
        replayed = measurements.get(key) or _saved(run, key, states)
        if replayed is None:
            break
        prefix = prefix.plus(replayed)
        yield replace(replayed, reused=replayed.reused or key in measurements, again_epochs=0)
    if prefix.is_all_of(run):
        return
    num_known = len(prefix.measurements)
    start = _start(prefix, states)

    def multiplier(step: int) -> float:
        return prefix.schedule(step)

    def save(measurement: Measurement, state: State) -> None:
        assert states is not None
        if measurement.epoch <= num_known:  # trained again, as its state was gone
            return
        key = prefix.next_key
        trained = {"run": run.id, "measurement": asdict(replace(measurement, prefix=key))}
        states.save(key, state | trained, measurement.epoch)
        if measurement.epoch - 1 > num_known and not prefix.ends_on_trunk:
            states.drop(prefix.key)

    again_s = 0.0
    measured = training.train(run, multiplier, start=start, save=None if states is None else save)
    try:
        for measurement in measured:
            if measurement.epoch <= num_known:
                again_s += measurement.seconds
                continue
            measurement = replace(measurement, prefix=prefix.next_key)
            prefix = prefix.plus(measurement)
            if measurement.epoch == num_known + 1:
                measurement = replace(
                    measurement,
                    again_epochs=num_known - start.epochs,
                    seconds=measurement.seconds + again_s,
                )
            yield measurement
    finally:
        if isinstance(measured, Generator):  # left in the middle, it ends what it has started
            measured.close()


def _saved(run: Run, key: str, states: States | None) -> Measurement | None:
    """The measurement of an epoch that was saved and is not recorded yet.

    Its run was killed in between, or is under way.
    """
    state = None if states is None else states.load(key)
    if state is None:
        return None
    return Measurement(**state["measurement"] | {"reused": state["run"] != run.id})


def _start(prefix: Prefix, states: States | None) -> Start:
    """The latest state of a prefix that is still kept, or the start of the run."""
    for measurement in reversed(prefix.measurements):
        state = None if states is None else states.load(measurement.prefix)
        if state is not None:
            return Start(epochs=measurement.epoch, steps=measurement.step, state=state)
    return Start()
