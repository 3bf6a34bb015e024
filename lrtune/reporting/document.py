"""Everything that a report says, worked out once; the other modules only set it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lrtune.core.decays import Plateau
from lrtune.core.objective import UNKNOWN, Objective
from lrtune.core.options import Options, options_of
from lrtune.core.run import BASELINE
from lrtune.core.sources import NamedTask
from lrtune.core.study import Repetition, SearchRules, StudyConfig, StudyState
from lrtune.core.training import OWN_FAULTS
from lrtune.decide.looks import LookSummary, summaries
from lrtune.decide.plan import outcome
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.decide.trials import trials_of
from lrtune.reporting import wording
from lrtune.reporting.contenders import (
    Column,
    ContenderRow,
    columns_of,
    contender_rows,
    optimism,
    table_note,
)
from lrtune.reporting.cost import Cost, CostRow, cost_of, cost_rows
from lrtune.reporting.curves import Curve, learning_curves, lr_curves
from lrtune.reporting.export.torch import torch_code
from lrtune.reporting.parallel import Parallel, parallel_of
from lrtune.reporting.trials import (
    Left,
    LookRow,
    Point,
    RunRow,
    fates,
    finished_trials,
    left_trials,
    look_name,
    look_note,
    look_rows,
    points_of,
    run_row,
    unconfirmed_value,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made from."""

    state: StudyState
    recommendation: Recommendation | None
    """`None` where no run has finished yet."""
    importances: Mapping[str, float]
    """Parameter to its share in what the trials came to; may be empty."""


class Fact(NamedTuple):
    """One figure of the first screen."""

    label: str
    value: str
    note: str


class Table(NamedTuple):
    """What is set as a table, in words and numbers."""

    label: str
    """What it shows, for people who cannot see it."""
    headings: tuple[str, ...]
    alignment: str
    """`l` or `r` for each column: words are set to the left, numbers to the right."""
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """The report of a search, or of a comparison, worked out.

    Texts are in plain words, unescaped.
    """

    report: Report
    task: str
    headline: str
    schedule: str
    """The best recipe in a sentence; empty without one."""
    verdict: str
    own_faults: str
    """What is wrong with the learning rates that a command uses by itself; empty if nothing is."""
    failures: str
    """How many runs failed, and why the first one did; empty if none did."""
    facts: tuple[Fact, ...]
    target: str
    columns: tuple[Column, ...]
    contenders: tuple[ContenderRow, ...]
    table_note: str
    """What the columns mean."""
    optimism: str
    """The winner's curse in numbers; empty where nothing is known of it."""
    summaries: tuple[LookSummary, ...]
    """Of the looks, as numbers."""
    looks: tuple[LookRow, ...]
    """In their order; empty where the study has none."""
    look_note: str
    """What the looks are for, and what their table says."""
    fates: str
    """What became of the trials; empty without any."""
    finished: tuple[RunRow, ...]
    """Full runs of the search that ran to their end, best first."""
    left: tuple[Left, ...]
    """Trials that have had looks alone, best first."""
    stopped: tuple[RunRow, ...]
    """Runs of any kind that were pruned, diverged or failed, in the order of their planning."""
    points: tuple[Point, ...]
    parallel: Parallel | None
    range_tests: tuple[str, ...]
    cost: Cost
    cost_rows: tuple[CostRow, ...]
    settings: tuple[tuple[str, str], ...]
    """How the study was trained and searched, and on what."""
    lr_curves: tuple[Curve, ...]
    """LR by epoch of the recommended recipe and of the baseline; in a comparison of all recipes."""
    learning_curves: tuple[Curve, ...]
    """The objective by epoch of the best few; in a comparison of all."""
    importances: tuple[tuple[str, float], ...]
    """Largest first."""
    code: str
    """The recommended recipe in plain PyTorch; empty without one."""

    @property
    def objective(self) -> Objective:
        """The metric that decides."""
        return self.report.state.config.objective

    @property
    def searched_by(self) -> Objective:
        """What the search compared trials by."""
        config = self.report.state.config
        return config.ranked_by if config.looks else self.objective

    @property
    def learning_title(self) -> str:
        """What the learning curves show, at the beginning of a sentence."""
        return wording.validation(self.objective, first=True)

    @property
    def compares(self) -> bool:
        """Whether it is a comparison, which has no search."""
        return self.report.state.config.is_comparison

    @property
    def steers(self) -> bool:
        """Whether it is of a training command that is steered, which keeps its own loop."""
        return "command" in self.report.state.config.task

    @property
    def shows_contenders(self) -> bool:
        """Whether there is more to say of them than that the best one is not confirmed."""
        return bool(self.learning_curves) or any(row.num_seeds for row in self.contenders)

    @property
    def contenders_title(self) -> str:
        """Heading of the table of contenders."""
        if self.compares:
            return "The recipes"
        is_confirmed = any(row.num_seeds for row in self.contenders)
        return f"{'Confirmed' if is_confirmed else 'Not confirmed'} with fresh seeds"

    @property
    def code_title(self) -> str:
        """Heading of the code."""
        if self.steers:
            return "To train the command with it"
        recommendation = self.report.recommendation
        if self.compares and recommendation is not None:
            return f"{recommendation.best.name} in plain PyTorch"
        return "In plain PyTorch"

    @property
    def reference(self) -> str:
        """What the others are compared with, by name."""
        return wording.recipe_name(self.report.state.config, BASELINE)

    @property
    def replayed(self) -> bool:
        """Whether an LR curve is that of one run, since a plateau decay follows the run."""
        recommendation = self.report.recommendation
        shown = (
            ()
            if recommendation is None
            else recommendation.contenders
            if self.compares
            else (recommendation.best,)
        )
        return any(isinstance(contender.recipe.decay, Plateau) for contender in shown)

    @property
    def tables(self) -> dict[str, Table]:
        """By name; without that of the contenders, whose columns depend on the room there is."""
        heading = wording.heading(self.objective)
        ranked_by = self.report.state.config.ranked_by
        agreement = f"Tau with {self.objective.title}"
        looks: tuple[str, ...] = ("Look", "Trials", "Tau with next", "Best peak LR", agreement)
        if ranked_by.metric == self.objective.metric:  # and so in perfect agreement
            looks = looks[:-1]
        return {
            "looks": Table(
                "Looks",
                looks,
                "lrrrr"[: len(looks)],
                tuple(row[: len(looks)] for row in self.looks),
            ),
            "finished": Table(
                "Runs of the search that finished",
                ("Run", "Recipe", heading, "Epochs trained"),
                "llrr",
                tuple((run.id, run.recipe, run.value, run.trained) for run in self.finished),
            ),
            "left": Table(
                "Trials that were not trained in full",
                ("Trial", "Recipe", wording.heading(ranked_by), "Why"),
                "llrl",
                tuple(
                    (
                        f"trial-{trial.trial:04d}",
                        trial.recipe,
                        ranked_by.text(trial.value),
                        trial.reason,
                    )
                    for trial in self.left
                ),
            ),
            "stopped": Table(
                "Runs that were stopped early",
                ("Run", "Recipe", heading, "Epochs", "Why"),
                "llrrl",
                tuple(
                    (run.id, run.recipe, run.value, run.epochs, _why(run)) for run in self.stopped
                ),
            ),
            "cost": Table(
                "Cost by purpose",
                ("For", "Runs", "Epochs trained", "Epochs reused", "Training time"),
                "lrrrr",
                self.cost_rows,
            ),
        }

    @property
    def cost_note(self) -> str:
        """What the words of the cost mean."""
        return (
            "In full: every recipe that was tried, from its start to its last epoch. Epochs are "
            "taken over from runs that agree up to there."
        )


def compose(report: Report) -> Document:
    """Works a report out, whatever stage its study is at."""
    state, recommendation = report.state, report.recommendation
    config, rows = state.config, contender_rows(state, recommendation)
    found = tuple(summaries(state))
    return Document(
        report=report,
        task=wording.task(config.task),
        headline=_headline(state, recommendation),
        schedule=_sentence(config, recommendation) if recommendation else "",
        verdict=recommendation.verdict if recommendation else _why_nothing(state),
        own_faults=_own_faults(config),
        failures=_failures(state),
        facts=_facts(state, recommendation),
        target=_target(state, recommendation),
        columns=columns_of(state, rows),
        contenders=rows,
        table_note=table_note(state, rows),
        optimism=optimism(state, recommendation),
        summaries=found,
        looks=look_rows(config, found),
        look_note=look_note(config, found),
        fates=fates(state),
        finished=tuple(run_row(config, trial.runs[-1]) for trial in finished_trials(state)),
        left=left_trials(state),
        stopped=tuple(
            run_row(config, r) for r in state.records if r.state in ("pruned", "diverged", "failed")
        ),
        points=points_of(state),
        parallel=parallel_of(state),
        range_tests=tuple(map(wording.range_result, state.range_results)),
        cost=cost_of(state),
        cost_rows=cost_rows(state),
        settings=(*_settings(config), *_peak_memory(state)),
        lr_curves=lr_curves(state, recommendation),
        learning_curves=learning_curves(state, recommendation),
        importances=tuple(sorted(report.importances.items(), key=lambda item: -item[1])),
        code=_code(config, recommendation) if recommendation else "",
    )


def _code(config: StudyConfig, recommendation: Recommendation) -> str:
    """The recommended recipe in plain PyTorch; of a command, how to train it so."""
    if "command" in config.task:
        return f"lrtune apply {config.name} -- {wording.task(config.task)}\n"
    return torch_code(
        recommendation.best.recipe,
        config.epochs,
        config.steps_per_epoch,
        config.settings,
        config.groups,
    )


def _why(run: RunRow) -> str:
    return f"{run.state}: {run.reason}" if run.reason else run.state


def _headline(state: StudyState, recommendation: Recommendation | None) -> str:
    if state.config.is_comparison:
        return f"Comparison of {wording.count(len(state.config.recipes), 'recipe')}"
    if recommendation is None:
        return f"Nothing has finished{_yet(state)}."
    sentence = _sentence(state.config, recommendation)
    in_sentence = f"{sentence[0].lower()}{sentence[1:]}"
    confirmed = bool(recommendation.best.values)
    if recommendation.best.trial != BASELINE:
        return sentence if confirmed else f"Not confirmed: {in_sentence}"
    # Before the search has looked at any other, "keep" would claim a comparison that nobody made.
    others = (trial for trial in trials_of(state) if trial.recipe != state.config.baseline)
    is_compared = any(trial.level for trial in others)
    tried = "was tried" if outcome(state) else "has been tried so far"
    kept = "Keep the baseline" if is_compared else f"Only the baseline {tried}"
    return f"{kept}{'' if confirmed else ', which is not confirmed'}: {in_sentence}"


def _sentence(config: StudyConfig, recommendation: Recommendation) -> str:
    best = recommendation.best
    epochs = config.horizon_of(best.trial)
    return wording.schedule_sentence(best.recipe, epochs, config.groups, config.baseline)


def _why_nothing(state: StudyState) -> str:
    ended = outcome(state)
    if ended and ended.failed:
        return f"The study was given up: {ended.reason}."
    return f"No run has finished: there is nothing to recommend{_yet(state)}."


def _yet(state: StudyState) -> str:
    return "" if outcome(state) else " yet"


def _facts(state: StudyState, recommendation: Recommendation | None) -> tuple[Fact, ...]:
    """The value and convergence beside the baseline's, the difference, and how sure it is."""
    if recommendation is None:
        return ()
    best = recommendation.best
    name = f" of {best.name}" if state.config.is_comparison else ""
    objective = state.config.objective
    if not best.values:
        return (
            _unconfirmed(state, best),
            *_baseline_facts(state, recommendation),
        )
    seeds = wording.count(len(best.values), "fresh seed")
    convergence = _reached(state, best, recommendation.target)
    other = (
        recommendation.baseline
        if recommendation.baseline is not None and recommendation.baseline.trial != best.trial
        else None
    )
    if other is not None:
        reference = wording.recipe_name(state.config, BASELINE)
        seeds += f"; {reference} {objective.summary(other.values)} ({len(other.values)})"
        convergence += f"; {reference} {other.convergence}"
    facts = [
        Fact(_label(objective, of=name), objective.summary(best.values), seeds),
    ]
    if not math.isnan(recommendation.target):
        facts.append(Fact("Convergence, epoch", str(best.convergence), convergence))
    if other is not None and (difference := best.difference) is not None:
        mean, interval = difference.text(objective)
        note = f"95 % interval {interval}" if interval else "no interval"
        if not objective.is_percentage:
            note += f"; {wording.direction(objective)}"
        unit = ", points" if objective.is_percentage else ""
        label = f"To {wording.recipe_name(state.config, BASELINE)}{unit}"
        facts.append(Fact(label, UNKNOWN if math.isnan(difference.mean) else mean, note))
    if len(recommendation.contenders) > 1:
        tied = (
            f"it ties with {len(recommendation.ties)} of them"
            if recommendation.ties
            else "it is told apart from all others"
        )
        probability = wording.probability(best.probability_best)
        facts.append(
            Fact(
                "Probability that it is the best",
                probability,
                f"of {len(recommendation.contenders)} recipes; {tied}",
            )
        )
    return tuple(facts)


def _label(objective: Objective, *, before: str = "", of: str = "") -> str:
    """`Top-1 of trial 7, %`, or `Baseline f1`."""
    label = f"{before} {objective.title}" if before else wording.title(objective)
    return f"{label}{of}{', %' if objective.is_percentage else ''}"


def _unconfirmed(state: StudyState, best: Contender) -> Fact:
    objective, value, num_looks = unconfirmed_value(state, best)
    seen = f"after {wording.count(num_looks, 'look')}" if num_looks else "one run of the search"
    return Fact(_label(objective), objective.text(value), f"{best.name}, {seen}, not confirmed")


def _baseline_facts(state: StudyState, recommendation: Recommendation) -> Iterator[Fact]:
    if recommendation.baseline is not None:
        objective, baseline = state.config.objective, recommendation.baseline
        value = objective.summary(baseline.values)
        yield Fact(_label(objective, before="Baseline"), value, baseline.recipe.label)
        if not math.isnan(target := recommendation.target):
            reached = _reached(state, baseline, target)
            yield Fact("Baseline convergence", str(baseline.convergence), reached)


def _reached(state: StudyState, contender: Contender, target: float) -> str:
    reached = f"{contender.convergence.num_reached} of {len(contender.values)}"
    return f"{reached} runs reach {state.config.objective.text(target, unit=True)}"


def _target(state: StudyState, recommendation: Recommendation | None) -> str:
    if recommendation is None or (
        recommendation.baseline is None and math.isnan(recommendation.target)
    ):
        against = "the first recipe" if state.config.is_comparison else "the baseline"
        lacks = "has not finished" if _yet(state) else "was not trained in full"
        why = f"its target is that of {against}, which {lacks}"
        return f"Convergence is not known{_yet(state)}: {why}."
    if math.isnan(recommendation.target):
        advice = "" if _yet(state) else " Give one with `--target`."
        why = f"it has no target, since {recommendation.target_source}"
        return f"Convergence is not known{_yet(state)}: {why}.{advice}"
    objective = state.config.objective
    bound = objective.bound_text(recommendation.target)
    article = "" if objective.title == objective.metric else "a "
    return (
        f"Convergence is the first epoch with {article}{objective.title} of {bound} "
        f"({recommendation.target_source})."
    )


def _settings(config: StudyConfig) -> Iterator[tuple[str, str]]:
    """The facts of the training, and every option that is stored with the study."""
    if "data" in config.task:
        for option in options_of(NamedTask):
            yield option.label, option.text(config.task.get(option.name, option.default))
    else:
        yield "Task", wording.task(config.task)
    own = f", of the baseline {config.own_epochs}" if config.own_epochs else ""
    epochs = wording.count(config.epochs, "epoch")
    yield "Horizon", f"{epochs} of {config.steps_per_epoch} steps{own}"
    yield "Objective", str(config.objective)
    if config.num_validation and not config.data_facts:
        yield "Validation examples", str(config.num_validation)
    yield from config.data_facts.items()
    if config.groups:
        scales = (f"{group.name} x {group.lr_scale:g}" for group in config.groups)
        yield "Parameter groups, of the peak LR", ", ".join(scales)
    environment = dict(config.environment)
    if "command" not in config.task:  # which has settings of its own
        for label, text in _options(config.settings, type(config.settings)):
            used = environment.pop(label, "")  # what came of it
            yield label, f"{used} (asked for: {text})" if used else text
    if not config.is_comparison:
        yield "Space", config.space_name
        yield "Budget", str(config.budget)
        yield "Looks", "; ".join(look_name(config, look) for look in config.looks) or "none"
    yield from _options(config, Repetition if config.is_comparison else SearchRules)
    yield (
        "Seeds of recipes that these do not tell apart",
        str(max(config.max_seeds, config.num_seeds)),
    )
    yield from ((key, value) for key, value in environment.items() if key != OWN_FAULTS)


def _failures(state: StudyState) -> str:
    reasons = [record.reason for record in state.records if record.state == "failed"]
    if not reasons:
        return ""
    failed = wording.count(len(reasons), "run")
    first = reasons[0].partition("\n")[0].rstrip(".")
    return f"{failed} of {len(state.records)} failed. The first one says: {first}."


def _own_faults(config: StudyConfig) -> str:
    faults = config.environment.get(OWN_FAULTS)
    return f"{OWN_FAULTS}: {faults}" if faults else ""


def _options(chosen: Options, topic: type) -> Iterator[tuple[str, str]]:
    """The options of a topic by their labels."""
    for option in options_of(topic):
        yield option.label, option.text(getattr(chosen, option.name))


def _peak_memory(state: StudyState) -> Iterator[tuple[str, str]]:
    """Of the process that took most; nothing where it is not known."""
    measurements = [m for record in state.records for m in record.measurements]
    for label, sizes in (
        ("Peak memory of a process", [m.memory_mib for m in measurements]),
        ("Peak memory of a GPU", [m.gpu_memory_mib for m in measurements]),
    ):
        if known_sizes := [size for size in sizes if math.isfinite(size)]:
            yield label, f"{max(known_sizes):,.0f} MiB"
