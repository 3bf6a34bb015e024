"""Whole studies in miniature: workers that train what the plan says, and end in any order.

What a run comes to is a function of its recipe, horizon and seed, and of nothing else, as with a
real training. So whatever differs between two studies of the same configuration comes from the
plan.
"""

from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest

from lrtune.core.decays import Cosine, Own
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide import race
from lrtune.decide.plan import Done, Wait, next_run, outcome
from lrtune.decide.ranking import rank
from lrtune.decide.trials import trials_of
from tests.studies import measurement


def chance(*words):
    """A generator that says the same of the same words."""
    return Random(" ".join(map(str, words)))


def ask(state, number):
    """A sampler that learns from the trials that it may see, and from no other.

    Its space has 16 recipes, so that a search of some length has duplicates.
    """
    if number == 0 and not isinstance(state.config.baseline.decay, Own):
        return state.config.baseline
    trials = trials_of(state)
    seen = trials[: state.config.num_seen(number)]
    assert all(trial.level for trial in seen)
    others = [trial.recipe.peak_lr for trial in trials[:number]]
    assert len(others) == number
    rng = chance(number, [(t.recipe.peak_lr, t.scores[0]) for t in seen], others)
    return Recipe(peak_lr=0.025 * rng.randint(1, 16), decay=Cosine())


def top1_of(run):
    """Best at a peak LR of 0.2; seeds differ a little, and several recipes are equal."""
    luck = chance("luck", run.recipe.peak_lr, run.horizon_epochs, run.seed).choice(
        [-2, -1, 0, 0, 1, 2]
    )
    return 90 - round(100 * abs(run.recipe.peak_lr - 0.2) / 4) + luck / 2


def end_of(run, *, early_share=0.0, baseline=None):
    """The epoch after which a run ends, and how; the baseline's recipe never ends early."""
    rng = chance("end", run.recipe.peak_lr, run.horizon_epochs, run.seed)
    if run.recipe != baseline and rng.random() < early_share:
        state = rng.choice(["diverged", "pruned"] if run.is_of_search else ["diverged"])
        return rng.randint(1, run.stop_epochs), state
    return run.stop_epochs, "completed"


class Simulation:
    """A study that workers train side by side.

    Args:
        config: of the study.
        jobs: workers.
        rng: which of them is the next to end an epoch, and which process is killed.
        early_share: share of the runs that diverge or are pruned.
        kill_share: chance that a worker dies instead of ending an epoch.
        sampler: the recipe of a trial, given the study so far.
        top1_of: the Top-1 of a run.
        records: of the study so far.
    """

    def __init__(
        self, config, *, jobs=1, rng=None, early_share=0.0, kill_share=0.0, sampler=ask,
        top1_of=top1_of, records=(),
    ):  # fmt: skip
        self.state = StudyState(config=config, records=records)
        self.jobs, self.rng, self.sampler = jobs, rng or Random(0), sampler
        self.top1_of = top1_of
        self.early_share, self.kill_share = early_share, kill_share
        self.started = []
        self.seconds = 0.0
        self._has_waited = False

    @property
    def working(self):
        """Runs that a living worker has."""
        return [r for r in self.state.records if r.state == "running" and not r.orphaned]

    def advance(self):
        """Does one thing: starts a run, ends an epoch of one, or kills its worker.

        Returns:
            What the plan said where the study is done, else `None`.
        """
        working = self.working
        is_free = len(working) < self.jobs and not self._has_waited
        is_asked = is_free and (not working or self.rng.random() < 0.8)
        step = next_run(self.state, self.sampler) if is_asked else Wait()
        self._has_waited |= is_asked and step == Wait()  # it asks again when a run has ended
        if is_asked and not isinstance(step, Run):
            assert outcome(self.state) == (step if isinstance(step, Done) else None)
        if isinstance(step, Done):
            assert not working
            return step
        if isinstance(step, Run):
            self._start(step)
        else:
            assert working, "the plan waits for a run, and none is running"
            self._train(self.rng.choice(working))
        return None

    def finish(self):
        """Trains the study to its end, and returns its state."""
        while self.advance() is None:
            pass
        return self.state

    def interrupt(self):
        """All processes are killed."""
        for record in self.working:
            self._change(record, orphaned=True)

    def _start(self, run):
        orphans = [record for record in self.state.records if record.orphaned]
        if orphans:
            assert run == orphans[0].run
            self._change(orphans[0], orphaned=False)
            return
        assert run.id not in self.started
        self.started.append(run.id)
        record = RunRecord(run=run, state="running")
        self.state = replace(self.state, records=(*self.state.records, record))

    def _train(self, record):
        if self.kill_share and self.rng.random() < self.kill_share:
            self._change(record, orphaned=True)
            return
        run, epoch = record.run, record.epochs + 1
        last, end = end_of(run, early_share=self.early_share, baseline=self.state.config.baseline)
        self.seconds += 1
        top1 = self.top1_of(run)
        loss = float("nan") if (epoch, end) == (last, "diverged") else 100 - top1
        measured = measurement(epoch, top1, loss=loss, ended_at=self.seconds)
        measured = replace(measured, step=100 * epoch)
        self._change(
            record,
            measurements=(*record.measurements, measured),
            state=end if epoch == last else "running",
        )

    def _change(self, record, **changes):
        goes_on = changes.get("state", "running") == "running" and not changes.get("orphaned")
        self._has_waited &= goes_on
        records = (replace(r, **changes) if r is record else r for r in self.state.records)
        self.state = replace(self.state, records=tuple(records))


def simulated(config, **kwargs):
    """The state at the end of a study."""
    return Simulation(config, **kwargs).finish()


@contextmanager
def remembered_rankings():
    """Reckons each ranking once: with each question, the plan asks for those of all rounds."""
    rankings = {}

    def remembered(scores, **others):
        words = repr((scores, others))
        if words not in rankings:
            rankings[words] = rank(scores, **others)
        return rankings[words]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "rank", remembered)
        yield


def results(state):
    """What a study came to, whoever came first: each run, how it ended, and with what."""
    return sorted(
        (r.run.id, r.run.recipe.label, r.run.horizon_epochs, r.run.seed, r.state, r.epochs)
        for r in state.records
    )
