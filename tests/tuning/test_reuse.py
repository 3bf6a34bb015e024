"""Nothing is trained twice, and nobody can tell.

The numbers are those of training from the start, to the last bit.
"""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import (
    WSD,
    Constant,
    Cosine,
    HoldPower,
    Linear,
    MultiStep,
    Own,
    Plateau,
    StepDecay,
)
from lrtune.core.recipe import Recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import TrainSettings
from lrtune.schedules.compress import schedule_of
from lrtune.tuning.reuse import fingerprint, measurements_by_key
from tests.studies import full_run, state_of
from tests.tuning.fake_training import MiniStates, MiniTraining, train_record

ROOT = Path(__file__).parents[2]
EPOCHS = 9


def run_of(decay=None, **changes):
    """A full run of nine epochs; `changes` are fields of the run or of its recipe."""
    of_run = {
        key: changes.pop(key)
        for key in ("id", "seed", "horizon_epochs", "stop_epochs")
        if key in changes
    }
    return full_run(Recipe(decay=decay or Constant(), **changes), EPOCHS, **of_run)


class Killed(BaseException):
    """In the place of a process that is gone."""


class Study:
    """Runs and records them as an engine does; every call of `train` may be a new process."""

    def __init__(self, **kwargs):
        self.training, self.states = MiniTraining(**kwargs), MiniStates()
        if "resume" not in self.training.facts.abilities:
            self.states = None
        self.records = {}

    def train(self, run, *, kill_at=None):
        """The record of a run that is trained to its end, or killed before an epoch is recorded."""
        record = self.records.setdefault(run.id, RunRecord(run=run, state="running"))
        measurements = measurements_by_key(state_of(*self.records.values()))
        for measurement in train_record(record, measurements, self.training, self.states):
            if measurement.epoch <= record.epochs:
                continue
            if measurement.epoch == kill_at:
                raise Killed
            record = replace(record, measurements=(*record.measurements, measurement))
            self.records[run.id] = record
        self.records[run.id] = replace(record, state="completed")
        return self.records[run.id]

    @property
    def num_trained(self):
        return len(self.training.trained)

    def lose(self, *epochs):
        """Forgets the states that took so many epochs; all of them if none are named."""
        for key in [
            key for key in self.states.states if not epochs or self.states.epochs[key] in epochs
        ]:
            self.states.drop(key)


def from_scratch(run, **kwargs):
    return Study(**kwargs).train(run)


def keys(run, **kwargs):
    return [m.prefix for m in from_scratch(run, **kwargs).measurements]


def num_shared(one, other):
    """Leading entries that are equal; none is equal after the first difference."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    shared = same.index(False) if False in same else len(same)
    assert not any(same[shared:])
    return shared


def numbers(record):
    """What of a run does not depend on what was known before it."""
    return [
        repr(replace(m, reused=False, again_epochs=0, seconds=0, ended_at=0))
        for m in record.measurements
    ]


# --- keys

WARM = {"warmup_epochs": 2}
# two runs of 9 epochs of 4 steps, and the epochs that they share
SHARED = [
    (run_of(), run_of(), 9),
    (run_of(), run_of(WSD(cooldown_frac=1 / 3)), 6),
    (run_of(WSD(cooldown_frac=2 / 9)), run_of(WSD(cooldown_frac=1 / 3)), 6),
    (run_of(), run_of(StepDecay(every_epochs=3)), 3),
    (run_of(StepDecay(every_epochs=3)), run_of(StepDecay(every_epochs=6)), 3),
    (run_of(StepDecay(every_epochs=3)), run_of(StepDecay(every_epochs=3, factor=0.2)), 3),
    (run_of(StepDecay(every_epochs=3)), run_of(StepDecay(every_epochs=3), final_frac=0.1), 3),
    (
        run_of(StepDecay(every_epochs=3)),
        run_of(MultiStep(milestones_epochs=(3.0, 6.0))),
        9,
    ),  # the same in other words
    (run_of(StepDecay(every_epochs=3)), run_of(MultiStep(milestones_epochs=(3.0, 7.0))), 6),
    (run_of(), run_of(MultiStep(milestones_epochs=(4.0, 6.0))), 4),
    (run_of(), run_of(MultiStep(milestones_epochs=(4.5,))), 4),  # in the middle of an epoch
    (run_of(), run_of(HoldPower(hold_frac=0.5)), 4),
    (run_of(), run_of(Cosine()), 0),  # both begin at the peak, but for one step
    (run_of(Cosine()), run_of(Linear()), 0),
    (run_of(Cosine(), **WARM), run_of(Linear(), **WARM), 2),
    (run_of(**WARM), run_of(WSD(cooldown_frac=3 / 7), **WARM), 6),
    (run_of(), run_of(**WARM), 0),
    (run_of(**WARM), run_of(warmup_epochs=1), 0),
    (run_of(), run_of(Plateau(patience_epochs=9)), 9),
    # a run that ended early, and a look, whose constant LR is the same
    (run_of(Cosine(), stop_epochs=3), run_of(Cosine()), 3),
    (run_of(horizon_epochs=3, stop_epochs=3), run_of(), 3),
    (
        run_of(StepDecay(every_epochs=3), horizon_epochs=3, stop_epochs=3),
        run_of(StepDecay(every_epochs=3)),
        1,
    ),
    (run_of(Cosine(), horizon_epochs=3, stop_epochs=3), run_of(Cosine()), 0),
    (run_of(), run_of(Own()), 0),  # whose LRs are not known
    # whatever the schedule
    (run_of(), run_of(peak_lr=0.2), 0),
    (run_of(), run_of(peak_lr=math.nextafter(0.1, 1)), 0),
    (run_of(), run_of(seed=1), 0),
    (run_of(), run_of(weight_decay=1e-4), 0),
    (run_of(), run_of(momentum=0.8), 0),
    (run_of(), run_of(nesterov=False), 0),
    (run_of(), run_of(optimizer="adam"), 0),
]


@pytest.mark.parametrize(("one", "other", "shared"), SHARED)
def test_keys_agree_as_long_as_the_lrs_agree(one, other, shared):
    assert num_shared(keys(one), keys(other)) == shared


def test_every_epoch_has_a_key_of_its_own():
    assert len(set(keys(run_of()))) == EPOCHS


# of the identities of two runs, what differs
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("task", {"data": "digits"}, {"data": "mnist"}),
        ("settings", TrainSettings(), TrainSettings(batch_size=64)),
        ("settings", TrainSettings(threads=1), TrainSettings(threads=2)),
        ("settings", TrainSettings(), TrainSettings(ema_half_life_epochs=1.0)),
        ("environment", {"torch": "2.11.0"}, {"torch": "2.11.1"}),
        ("environment", {"Device": "CPU, this"}, {"Device": "CPU, that"}),
    ],
)
def test_another_identity_is_another_fingerprint(name, one, other):
    same = run_of(Cosine(), id="another", **WARM)
    assert fingerprint(run_of(), {name: one}) == fingerprint(same, {name: one})
    assert fingerprint(run_of(), {name: one}) != fingerprint(run_of(), {name: other})


def test_a_key_is_the_same_in_every_process():
    program = "from tests.tuning.test_reuse import keys, run_of; print(*keys(run_of()))"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == keys(run_of())


def test_plateaus_share_up_to_the_first_drop():
    """No epoch is better than the first: the fifth is the fourth bad one, the seventh the sixth."""
    three, five, constant = (
        keys(run_of(decay), flat=True)
        for decay in (Plateau(patience_epochs=3), Plateau(patience_epochs=5), Constant())
    )
    assert num_shared(three, five) == num_shared(three, constant) == 5
    assert num_shared(five, constant) == 7


# --- what is known is not trained


def test_what_is_taken_over_is_marked_and_costs_nothing():
    study = Study()
    study.train(run_of(id="first"))
    record = study.train(run_of(WSD(cooldown_frac=1 / 3), id="second"))
    assert [m.reused for m in record.measurements] == [True] * 6 + [False] * 3
    assert (record.epochs_trained, record.epochs_reused) == (3, 6)
    assert study.training.trained[EPOCHS:] == [("second", 7), ("second", 8), ("second", 9)]
    assert numbers(record) == numbers(from_scratch(record.run))


def test_a_duplicate_trains_nothing():
    study = Study()
    first = study.train(run_of(StepDecay(every_epochs=3), id="first"))
    study.lose()
    again = study.train(run_of(MultiStep(milestones_epochs=(3.0, 6.0)), id="second"))
    assert study.num_trained == EPOCHS
    assert (again.epochs_trained, again.epochs_reused) == (0, EPOCHS)
    assert numbers(again) == numbers(first)


@pytest.mark.parametrize(
    "decay", [Cosine(), Plateau(patience_epochs=0), WSD()], ids=lambda decay: decay.name
)
def test_a_promoted_run_goes_on_where_it_was_left(decay):
    study = Study()
    for stop_epochs in (1, 3, 9):
        record = study.train(run_of(decay, id=f"to-{stop_epochs}", stop_epochs=stop_epochs))
        assert record.epochs == stop_epochs
    assert study.training.trained == [
        ("to-1", 1),
        ("to-3", 2),
        ("to-3", 3),
        *(("to-9", epoch) for epoch in range(4, 10)),
    ]
    assert numbers(record) == numbers(from_scratch(record.run))


def test_a_diverged_run_is_known_to_diverge():
    study, wild = Study(), {"peak_lr": 6.0}
    first = study.train(run_of(id="first", **wild))
    again = study.train(run_of(StepDecay(every_epochs=6), id="second", **wild))
    assert first.measurements[-1].diverged
    assert first.epochs < 6
    assert (again.epochs_trained, numbers(again)) == (0, numbers(first))


# --- states that are kept, lost, and left by killed processes

# recipe: the epochs of which the state is there after the run
KEPT = [
    (Constant(), 0, [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # any of them may be where another decay begins
    (WSD(cooldown_frac=1 / 3), 0, [1, 2, 3, 4, 5, 6, 9]),
    (StepDecay(every_epochs=3), 0, [1, 2, 3, 9]),
    (Cosine(), 0, [9]),
    (Cosine(), 3, [3, 9]),  # where the decays begin
    (Cosine(), 2.5, [2, 9]),  # they begin in the middle of an epoch
    (Constant(), 2, [2, 3, 4, 5, 6, 7, 8, 9]),
]


@pytest.mark.parametrize(("decay", "warmup_epochs", "kept"), KEPT)
def test_a_state_is_kept_where_a_branch_is_likely(decay, warmup_epochs, kept):
    study = Study()
    study.train(run_of(decay, warmup_epochs=warmup_epochs))
    assert study.states.kept() == kept


def test_the_state_that_a_run_goes_on_from_stays():
    study = Study()
    study.train(run_of(Cosine(), id="early", stop_epochs=3))
    study.train(run_of(Cosine(), id="full"))
    assert study.states.kept() == [3, 9]


# epochs whose states are lost, epochs that are trained again; six are shared
@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ([7], 0),
        ([6], 1),
        ([5, 6], 2),
        ([1, 2, 3, 4, 5], 0),
        ([2, 3, 4, 5, 6], 5),
        ([1, 2, 3, 4, 5, 6], 6),
        ([], 6),
    ],
)
def test_a_lost_state_costs_epochs_and_changes_no_number(lost, again):
    study = Study()
    study.train(run_of(id="first"))
    study.lose(*lost)
    record = study.train(run_of(WSD(cooldown_frac=1 / 3), id="second"))
    assert study.training.trained[EPOCHS:] == [("second", epoch) for epoch in range(7 - again, 10)]
    assert [m.again_epochs for m in record.measurements] == [0] * 6 + [again] + [0] * 2
    assert [m.seconds for m in record.measurements[6:]] == [1 + again, 1, 1]
    assert (record.epochs_trained, record.epochs_reused) == (3 + again, 6)
    assert numbers(record) == numbers(from_scratch(record.run))


def test_what_was_trained_again_is_counted_once():
    study = Study()
    for stop_epochs, again in [(3, 0), (5, 3), (9, 0)]:
        record = study.train(run_of(id=f"to-{stop_epochs}", stop_epochs=stop_epochs))
        assert sum(m.again_epochs for m in record.measurements) == again
        if stop_epochs == 3:
            study.lose()
    assert (
        study.num_trained
        == sum(record.epochs_trained for record in study.records.values())
        == 9 + 3
    )


def test_a_step_that_was_skipped_moves_the_milestones_of_the_epochs_after_it():
    """So with skips two runs may meet for longer than their schedules say."""
    one, other = run_of(), run_of(MultiStep(milestones_epochs=(4.5,)))
    records = [from_scratch(run, skips=True) for run in (one, other)]
    assert [m.step for m in records[0].measurements] == [
        3,
        5,
        8,
        10,
        11,
        14,
        17,
        21,
        22,
    ]  # the milestone is step 18
    assert num_shared(*([m.prefix for m in record.measurements] for record in records)) == 7


@pytest.mark.parametrize("kill_at", range(1, 10))
@pytest.mark.parametrize(
    "decay", [Constant(), Cosine(), Plateau(patience_epochs=0)], ids=lambda decay: decay.name
)
def test_an_epoch_that_was_saved_and_not_recorded_is_not_trained_again(decay, kill_at):
    study, run = Study(), run_of(decay)
    with pytest.raises(Killed):
        study.train(run, kill_at=kill_at)
    assert study.num_trained == kill_at
    assert study.records[run.id].epochs == kill_at - 1
    record = study.train(run)
    assert study.num_trained == record.epochs_trained == EPOCHS
    assert not any(m.reused for m in record.measurements)
    assert numbers(record) == numbers(from_scratch(run))


def test_what_another_run_saved_and_did_not_record_is_counted_once():
    study, first, second = (
        Study(),
        run_of(id="first"),
        run_of(WSD(cooldown_frac=1 / 3), id="second"),
    )
    with pytest.raises(Killed):
        study.train(first, kill_at=4)
    study.train(second)
    study.train(first)
    assert (
        study.num_trained
        == sum(record.epochs_trained for record in study.records.values())
        == 9 + 3
    )


# --- a law

DECAYS = [
    Constant(), Cosine(), WSD(cooldown_frac=1 / 3), WSD(cooldown_frac=2 / 3),
    StepDecay(every_epochs=3),
    StepDecay(every_epochs=2.5), MultiStep(milestones_epochs=(3.0, 6.0)), HoldPower(hold_frac=0.5),
    Plateau(patience_epochs=0), Plateau(patience_epochs=2, threshold=0.05),
    Plateau(patience_epochs=0, monitor="top1", factor=0.5),
]  # fmt: skip
LENGTHS = [(9, 9), (9, 3), (9, 5), (3, 3), (2, 2)]


@st.composite
def runs(draw):
    """Runs that often meet: of few peak LRs and warmups, in full, cut off and compressed."""
    horizon, stop = draw(st.sampled_from(LENGTHS))
    return run_of(
        draw(st.sampled_from(DECAYS)), peak_lr=draw(st.sampled_from([0.1, 0.5, 6.0])),
        warmup_epochs=draw(st.sampled_from([0, 1, 2.5])), horizon_epochs=horizon, stop_epochs=stop,
    )  # fmt: skip


def lrs(run, record, steps_per_epoch=4):
    """The LRs that were meant for the steps of each epoch."""
    schedule, step, found = schedule_of(run, steps_per_epoch), 0, []
    for m in record.measurements:
        found.append(
            [run.recipe.peak_lr * schedule(t) for t in range(step, step + steps_per_epoch)]
        )
        schedule, step = schedule.observe(m.metrics), m.step
    return found


@given(one=runs(), other=runs(), seed=st.integers(0, 20), skips=st.booleans())
def test_any_two_runs_share_exactly_the_epochs_in_which_their_lrs_agree(one, other, seed, skips):
    records = [from_scratch(replace(run, seed=seed), skips=skips) for run in (one, other)]
    shared = num_shared(*([m.prefix for m in record.measurements] for record in records))
    ours, theirs = (lrs(record.run, record) for record in records)
    assert ours[:shared] == theirs[:shared]
    assert ours[shared : shared + 1] != theirs[shared : shared + 1] or shared == min(
        len(ours), len(theirs)
    )


@given(
    plans=st.lists(st.tuples(runs(), st.none() | st.integers(1, 9)), min_size=2, max_size=5),
    losses=st.lists(st.sets(st.integers(1, 9)), min_size=5, max_size=5),
    skips=st.booleans(),
)
def test_whatever_is_known_lost_or_killed_the_numbers_are_those_of_training_from_the_start(
    plans, losses, skips
):
    study = Study(skips=skips)
    for number, ((run, kill_at), lost) in enumerate(zip(plans, losses, strict=False)):
        run = replace(run, id=f"run-{number}")
        try:
            record = study.train(run, kill_at=kill_at)
        except Killed:
            study.lose(*lost, 10)
            record = study.train(run)
        study.lose(*lost, 10)
        assert numbers(record) == numbers(from_scratch(run, skips=skips))


@given(
    plans=st.lists(runs(), min_size=2, max_size=5),
    losses=st.lists(st.sets(st.integers(1, 9)), min_size=5, max_size=5),
)
def test_every_trained_epoch_is_counted_and_none_is_counted_twice(plans, losses):
    study = Study()
    for number, (run, lost) in enumerate(zip(plans, losses, strict=False)):
        study.train(replace(run, id=f"run-{number}"))
        study.lose(*lost, 10)
    records = study.records.values()
    assert sum(record.epochs_trained for record in records) == study.num_trained
    distinct = {m.prefix for record in records for m in record.measurements}
    assert len(distinct) == sum(not m.reused for record in records for m in record.measurements)


# --- trainings that cannot do everything


def test_without_resume_a_whole_run_is_replayed():
    study = Study(without=["resume"])
    first = study.train(run_of(StepDecay(every_epochs=3), id="first"))
    again = study.train(run_of(MultiStep(milestones_epochs=(3.0, 6.0)), id="second"))
    assert study.num_trained == EPOCHS
    assert (again.epochs_trained, again.epochs_reused) == (0, EPOCHS)
    assert numbers(again) == numbers(first)


@pytest.mark.parametrize(
    "other", [run_of(WSD(cooldown_frac=1 / 3)), run_of(Constant(), horizon_epochs=12)]
)
def test_without_resume_a_part_of_a_run_is_not_reused(other):
    study = Study(without=["resume"])
    study.train(run_of(id="first", stop_epochs=6))
    record = study.train(replace(other, id="second", stop_epochs=9))
    assert study.num_trained == 6 + 9
    assert not any(m.reused or m.again_epochs for m in record.measurements)


def test_without_resume_a_run_that_diverged_is_replayed_whole():
    study, wild = Study(without=["resume"]), {"peak_lr": 6.0}
    first = study.train(run_of(id="first", **wild))
    again = study.train(run_of(StepDecay(every_epochs=6), id="second", **wild))
    assert first.measurements[-1].diverged
    assert (again.epochs_trained, numbers(again)) == (0, numbers(first))


@pytest.mark.parametrize("kill_at", [1, 4, 9])
@pytest.mark.parametrize(
    "decay", [Cosine(), Plateau(patience_epochs=0)], ids=lambda decay: decay.name
)
def test_without_resume_a_killed_run_starts_again_and_that_is_counted(decay, kill_at):
    study, run = Study(without=["resume"]), run_of(decay)
    with pytest.raises(Killed):
        study.train(run, kill_at=kill_at)
    record = study.train(run)
    assert [epoch for _, epoch in study.training.trained] == [*range(1, kill_at + 1), *range(1, 10)]
    assert record.measurements[kill_at - 1].again_epochs == kill_at - 1
    assert record.epochs_trained == EPOCHS + kill_at - 1
    assert numbers(record) == numbers(from_scratch(run))


def test_without_repeat_nothing_of_another_run_is_reused():
    study = Study(without=["repeat"])
    records = [study.train(run_of(id=name)) for name in ("first", "second")]
    assert study.num_trained == 2 * EPOCHS
    assert not any(m.reused for record in records for m in record.measurements)
    assert numbers(records[0]) != numbers(records[1])
    assert not {m.prefix for m in records[0].measurements} & {
        m.prefix for m in records[1].measurements
    }


@pytest.mark.parametrize("kill_at", [1, 4, 9])
def test_without_repeat_a_run_goes_on_from_its_own_states(kill_at):
    study, run = Study(without=["repeat"]), run_of()
    with pytest.raises(Killed):
        study.train(run, kill_at=kill_at)
    record = study.train(run)
    assert study.num_trained == record.epochs_trained == EPOCHS
    assert not any(m.reused for m in record.measurements)


def test_with_neither_a_run_is_trained_to_its_end():
    study, run = Study(without=["repeat", "resume"]), run_of(Plateau(patience_epochs=0))
    with pytest.raises(Killed):
        study.train(run, kill_at=4)
    record = study.train(run)
    assert [m.epoch for m in record.measurements] == list(range(1, EPOCHS + 1))
    assert record.epochs_trained == study.num_trained - 1 == EPOCHS + 3  # one was not recorded
