"""How far a study is, as its events come in, and how far it has to go."""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from lrtune.core.decays import Own
from lrtune.core.events import EpochEnded, Event, Note, RunEnded, RunStarted, SweepStarted
from lrtune.core.run import BASELINE, Measurement, Run, RunKind, RunRecord
from lrtune.core.study import BudgetUnit, StudyConfig, StudyState
from lrtune.decide.budget import (
    FEWEST_SEEDS,
    cost_of_looks,
    num_finalists,
    num_recipes,
    num_rounds,
    race_runs,
)
from lrtune.decide.race import entrants, rounds, standings
from lrtune.decide.trials import Trial, best_first, trials_of
from lrtune.reporting import wording
from lrtune.reporting.trials import finished_trials

NUM_NOTES = 4
ORDINALS = ("first", "second", "third")
"""Of the looks."""

_PHASES = {
    "baseline": "confirmation", "look": "search", "full": "search", "confirm": "confirmation",
}  # fmt: skip


def _phase_of(config: StudyConfig, run: Run) -> str:
    """The phase of a study that trains `run`; a command begins with a run as it is."""
    if config.is_comparison:
        return "comparison"
    is_first = isinstance(config.baseline.decay, Own) and run.seed == config.seed + 1
    return "baseline" if run.kind == "baseline" and is_first else _PHASES[run.kind]


@dataclass(frozen=True)
class Running:
    """A run that is under way."""

    run: Run
    epochs: int
    """Finished."""
    last: Measurement | None = None
    """Of this session."""


Kind = tuple[RunKind, int, int]
"""Runs that are alike: what they are for, their horizon, and where they stop."""


def _kind(run: Run) -> Kind:
    return run.kind, run.horizon_epochs, run.stop_epochs


def unit_of(config: StudyConfig) -> BudgetUnit:
    """What a study is measured in: its budget, or its plan; a comparison has no other than that."""
    return "trials" if config.is_comparison else config.budget.unit


def expected_runs(config: StudyConfig) -> Mapping[Kind, int]:
    """About how many runs of each kind a study with a budget in trials comes to.

    It is a plan and not a promise: the race ends when its question is answered, and its finalists
    drop out on the way. The plan of a comparison is that of its recipes.
    """
    full, own = config.epochs, config.horizon_of(BASELINE)
    least, _ = num_rounds(config)
    expected: Counter[Kind] = Counter()
    has_race = True
    if config.is_comparison:
        racing = (len(config.recipes) - 1) * least
    else:
        most, number = num_finalists(StudyState(config=config)), int(config.budget.amount)
        finalists, has_race = min(most, number - 1), most > 0  # the first trial is the baseline's
        of_all = min(FEWEST_SEEDS, least)
        racing = finalists * of_all + max(1, finalists - 1) * (least - of_all) if finalists else 0
        for look in config.looks:
            expected["look", look.epochs, look.epochs] += math.ceil(number / look.one_in)
        if not config.looks:
            expected["full", full, full] += number
    expected["confirm", full, full] += racing
    expected["baseline", own, own] += least if has_race else 0
    return expected


@dataclass
class Progress:
    """What the events so far come to. It changes, and whoever shows it guards it with a lock."""

    config: StudyConfig
    records: dict[str, RunRecord]
    """Runs that are over."""
    epochs_trained: int
    busy_s: float
    expected: Mapping[Kind, int]
    """See `expected_runs`; empty where the budget is not in trials."""
    phase: str = "range test"
    sweep: str = ""
    """Which one of the range test, in words."""
    running: dict[str, Running] = field(default_factory=dict)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NUM_NOTES))
    epochs_here: int = 0
    """Epochs that this session has put behind it, with those that were reused or not needed."""
    best: Trial | None = None
    """The best that was trained in full, or else the best by its looks."""
    leader: int | None = None
    """The trial that leads in the race, or `BASELINE`; `None` before the first fresh seed of a
    trial."""
    num_racing: int = 0
    """Recipes of the round of the race that is under way or to come, with the baseline."""
    num_rounds_over: int = 0
    """Rounds of the race that are over."""
    latest: Run | None = None
    """The one that was begun last."""

    @staticmethod
    def of(state: StudyState) -> "Progress":
        """Where a study stands when it is begun or taken up again."""
        first = "comparison" if state.config.is_comparison else "range test"
        over = {record.run.id: record for record in state.records if record.state != "running"}
        progress = Progress(
            config=state.config,
            records=over,
            epochs_trained=state.epochs_trained,
            busy_s=state.busy_seconds,
            expected=expected_runs(state.config) if unit_of(state.config) == "trials" else {},
            phase=_phase_of(state.config, state.records[-1].run) if state.records else first,
            latest=state.records[-1].run if state.records else None,
        )
        progress._look_back()
        return progress

    def take(self, event: Event) -> None:
        """Counts an event in."""
        match event:
            case RunStarted(run=run, epochs_done=epochs_done):
                self.running[run.id] = Running(run, epochs_done)
                self.phase, self.latest = _phase_of(self.config, run), run
            case EpochEnded(run=run, measurement=measurement):
                self.running[run.id] = Running(run, measurement.epoch, measurement)
                self.epochs_trained += (not measurement.reused) + measurement.again_epochs
                self.epochs_here += 1
            case RunEnded(record=record):
                self.running.pop(record.run.id, None)
                self.records[record.run.id] = record
                self.epochs_here += record.run.stop_epochs - record.epochs
                self._look_back()
                if record.reason:
                    name = wording.run_name(self.config, record.run)
                    self.notes.append(f"{name} {record.state}: {record.reason.splitlines()[0]}")
            case SweepStarted(optimizer=optimizer, number=number, num_sweeps=num_sweeps):
                self.sweep = f"{optimizer}, sweep {number} of {num_sweeps}"
            case Note(text=text):
                self.notes.append(text)

    def _look_back(self) -> None:
        """Finds out who is best, and who races, when a run has ended."""
        state = self._state
        self.best = next(iter(finished_trials(state) or best_first(trials_of(state))), None)
        if any(record.run.kind == "confirm" for record in state.records):
            means = standings(state).posterior_means
            self.leader = max(means, key=lambda number: means[number], default=None)
            *over, under_way = rounds(state)
            self.num_racing, self.num_rounds_over = len(under_way), len(over)
        elif self.config.is_comparison:
            self.num_racing = len(self.config.recipes)
        else:
            others = num_recipes(state) - 1  # the first trial is the baseline's
            self.num_racing = 1 + min(num_finalists(state), others)

    @property
    def _state(self) -> StudyState:
        """The study without what is running."""
        return StudyState(config=self.config, records=tuple(self.records.values()))

    @property
    def _runs(self) -> list[Run]:
        """All that were begun."""
        ended = [record.run for record in self.records.values()]
        return ended + [running.run for running in self.running.values()]

    @property
    def num_trials(self) -> int:
        """Trials begun."""
        return len({run.trial for run in self._runs if run.is_of_search})

    @property
    def place_in_search(self) -> str:
        """`trial 7 of 50`, and of the looks after the first `second look 3 of 9`."""
        config, latest = self.config, self.latest
        for look, ordinal in zip(config.looks[1:], ORDINALS[1:], strict=False):
            kind = (latest.kind, latest.stop_epochs, latest.seed) if latest else None
            if kind == ("look", look.epochs, look.seed):
                alike = [run for run in self._runs if (run.kind, run.stop_epochs, run.seed) == kind]
                expected = math.ceil(config.budget.amount / look.one_in)
                return f"{ordinal} look {len(alike)} of {max(len(alike), expected)}"
        return f"trial {self.num_trials} of {config.budget.amount:g}"

    @property
    def num_ended_of_phase(self) -> int:
        """Runs of the present phase that are over."""
        return sum(
            _phase_of(self.config, record.run) == self.phase for record in self.records.values()
        )

    @property
    def num_expected_of_phase(self) -> str:
        """How many it comes to: `9`, or `9–17` where the race may go on for longer."""
        config = self.config
        if self.phase == "baseline":
            return "1"
        fewest, most = race_runs(config, len(entrants(self._state)) + 1)
        return f"{fewest}–{most}" if most > fewest else str(fewest)

    def recipe_of(self, trial: int) -> str:
        """The recipe of the trial whose run has ended, in one line."""
        runs = (record.run for record in self.records.values())
        return next(run.recipe.label for run in runs if run.trial == trial)

    def fresh_values(self, trial: int) -> list[float]:
        """What the completed runs with fresh seeds came to, of a trial or of the baseline."""
        return [
            self.config.objective.value(r.metrics)
            for r in self.records.values()
            if r.run.trial == trial and not r.run.is_of_search and r.state == "completed"
        ]

    def spent(self, trained_s: float) -> tuple[float, float]:
        """How much of the study is done, and all of it.

        Both are in the unit of the study's budget, and in epochs where that is trials.

        Args:
            trained_s: time since the first run of this session began.
        """
        budget, config = self.config.budget, self.config
        match unit_of(config):
            case "trials":
                return self._epochs_of_plan()
            case "epochs":
                return self.epochs_trained, budget.amount
            case "runs":
                return self.epochs_trained / config.epochs, budget.amount
            case "seconds":
                return self.busy_s + trained_s, budget.amount

    @property
    def epochs_left(self) -> tuple[float, float]:
        """Epochs that are still to come, at least and at most.

        They are those of the search, of the race, and of the runs that are under way. How long the
        race will be is not known before it is over.
        """
        config, runs = self.config, self._runs
        searched = sum(run.stop_epochs for run in runs if run.is_of_search)
        is_over = config.is_comparison or any(run.kind == "confirm" for run in runs)
        planned = searched if is_over else cost_of_looks(config, num_recipes(self._state))
        under_way = sum(it.run.stop_epochs - it.epochs for it in self.running.values())
        seed = config.seed + 1 + self.num_rounds_over
        begun = sum(not run.is_of_search and run.seed >= seed for run in runs)
        of_round = (self.num_racing - 1) * config.epochs + config.horizon_of(BASELINE)
        each = of_round / self.num_racing
        fewest, most = (
            max(0, planned - searched) + under_way + max(0, number - begun) * each
            for number in race_runs(config, self.num_racing, num_over=self.num_rounds_over)
        )
        if unit_of(config) in ("epochs", "runs"):
            in_epochs = 1 if config.budget.unit == "epochs" else config.epochs
            most = min(most, config.budget.amount * in_epochs - self.epochs_trained)
        return min(fewest, most), most

    def _epochs_of_plan(self) -> tuple[float, float]:
        """Epochs that are behind, and all that are expected; neither ever becomes smaller.

        A run that has ended counts in full, whatever it cost. Runs of the search beyond those that
        were expected do not count, and those that are missing when the first finalist races count
        as done. Seeds that the race adds are expected once they have begun.
        """
        done: Counter[Kind] = Counter()
        begun: Counter[Kind] = Counter()
        for record in self.records.values():
            begun[_kind(record.run)] += 1
            done[_kind(record.run)] += record.run.stop_epochs
        for running in self.running.values():
            begun[_kind(running.run)] += 1
            done[_kind(running.run)] += running.epochs
        plan = {
            kind: expected if _PHASES[kind[0]] == "search" else max(expected, begun[kind])
            for kind, expected in self.expected.items()
        }
        # The baseline's runs say nothing of it: they may be made while the search goes on.
        is_searched = any(kind[0] == "confirm" for kind in begun)
        behind = 0
        for kind, expected in plan.items():
            epochs = expected * kind[2]
            over = is_searched and _PHASES[kind[0]] == "search"
            behind += epochs if over else min(done[kind], epochs)
        return behind, sum(expected * kind[2] for kind, expected in plan.items())
