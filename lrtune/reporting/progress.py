"""How far a study is, as its events come in, and how far it has to go."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from lrtune.core.events import EpochEnded, Event, Note, RunEnded, RunStarted, SweepStarted
from lrtune.core.run import BASELINE, Measurement, Run, RunKind, RunRecord
from lrtune.core.study import BudgetUnit, StudyConfig, StudyState
from lrtune.decide.race import fresh_seeds
from lrtune.decide.rungs import factor_at
from lrtune.decide.trials import Trial, best_first, ladder_of, trials_of
from lrtune.reporting import wording
from lrtune.reporting.trials import finished_trials

NUM_NOTES = 4

_PHASES = {"baseline": "baseline", "rung": "search", "full": "search", "confirm": "confirmation"}


def _phase_of(config: StudyConfig, run: Run) -> str:
    """The phase of a study that trains `run`.

    The seeds that the baseline gets beyond its first ones belong to the confirmation.
    """
    if config.is_comparison:
        return "comparison"
    more = run.kind == "baseline" and run.seed not in fresh_seeds(config)
    return "confirmation" if more else _PHASES[run.kind]


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
    """How many runs of each kind a study with a budget in trials comes to, at least.

    It is a plan and not a promise: trials that go up regardless of their score cannot be foreseen,
    fewer recipes may be confirmed than were asked for, and the race may ask for more seeds. The
    plan of a comparison is that of its recipes.
    """
    full, own = config.epochs, config.horizon_of(BASELINE)
    num_confirmed = len(config.recipes) - 1 if config.is_comparison else config.num_confirmed
    expected: Counter[Kind] = Counter({
        ("baseline", own, own): config.num_seeds,
        ("confirm", full, full): num_confirmed * config.num_seeds,
    })  # fmt: skip
    if config.is_comparison:
        return expected
    ladders = Counter(ladder_of(config, number) for number in range(int(config.budget.amount)))
    for ladder, num_trials in ladders.items():
        for level, rung in enumerate(ladder, start=1):
            expected["rung", rung.epochs if rung.compressed else full, rung.epochs] += num_trials
            num_trials = max(1, num_trials // factor_at(config, ladder, level))
        expected["full", full, full] += num_trials
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
    num_ended_here: int = 0
    """Runs that ended in this session."""
    best: Trial | None = None
    """The best that was trained in full, or else the best on the highest rung."""

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
        )
        progress._find_best()
        return progress

    def take(self, event: Event) -> None:
        """Counts an event in."""
        match event:
            case RunStarted(run=run, epochs_done=epochs_done):
                self.running[run.id] = Running(run, epochs_done)
                self.phase = _phase_of(self.config, run)
            case EpochEnded(run=run, measurement=measurement):
                self.running[run.id] = Running(run, measurement.epoch, measurement)
                self.epochs_trained += (not measurement.reused) + measurement.again_epochs
            case RunEnded(record=record):
                self.running.pop(record.run.id, None)
                self.records[record.run.id] = record
                self.num_ended_here += 1
                self._find_best()
                if record.reason:
                    name = wording.run_name(self.config, record.run)
                    self.notes.append(f"{name} {record.state}: {record.reason}")
            case SweepStarted(optimizer=optimizer, number=number, num_sweeps=num_sweeps):
                self.sweep = f"{optimizer}, sweep {number} of {num_sweeps}"
            case Note(text=text):
                self.notes.append(text)

    def _find_best(self) -> None:
        state = StudyState(config=self.config, records=tuple(self.records.values()))
        self.best = next(iter(finished_trials(state) or best_first(trials_of(state))), None)

    @property
    def num_trials(self) -> int:
        """Trials begun."""
        runs = (
            *(record.run for record in self.records.values()),
            *(running.run for running in self.running.values()),
        )
        return len({run.trial for run in runs if run.is_of_search})

    @property
    def num_ended_of_phase(self) -> int:
        """Runs of the present phase that are over."""
        return sum(
            _phase_of(self.config, record.run) == self.phase for record in self.records.values()
        )

    @property
    def num_expected_of_phase(self) -> str:
        """How many it comes to: `9`, or `9–17` where the race may ask for more seeds."""
        config = self.config
        if self.phase == "baseline":
            return str(config.num_seeds)
        recipes = len(config.recipes) or config.num_confirmed
        least = recipes * config.num_seeds
        racing = recipes + (self.phase == "confirmation")
        most = least + racing * max(0, config.max_seeds - config.num_seeds)
        return f"{least}–{most}" if most > least else str(least)

    @property
    def baseline_values(self) -> list[float]:
        """What the baseline's runs came to."""
        return [
            self.config.objective.value(r.metrics)
            for r in self.records.values()
            if r.run.kind == "baseline" and r.state == "completed"
        ]

    def spent(self, elapsed_s: float) -> tuple[float, float]:
        """How much of the study is done, and all of it.

        Both are in the unit of the study's budget, and in epochs where that is trials.

        Args:
            elapsed_s: of this session.
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
                return self.busy_s + elapsed_s, budget.amount

    def _epochs_of_plan(self) -> tuple[float, float]:
        """Epochs that are behind, and all that are expected; neither ever becomes smaller.

        A run that has ended counts in full, whatever it cost. Runs of the search beyond those that
        were expected do not count, and those that are missing when the confirmation begins count as
        done. Seeds that the race adds are expected once they have begun.
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
        all_begun = self.num_trials >= self.config.budget.amount
        behind = 0
        for kind, expected in plan.items():
            epochs = expected * kind[2]
            over = all_begun and self.phase == "confirmation" and _PHASES[kind[0]] == "search"
            behind += epochs if over else min(done[kind], epochs)
        return behind, sum(expected * kind[2] for kind, expected in plan.items())
