"""Everything that a report says, worked out once: Markdown, HTML, JSON, plots and terminal only set it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lrtune.core.run import BASELINE
from lrtune.core.study import StudyConfig, StudyState
from lrtune.decide.plan import outcome
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.decide.trials import trials_of
from lrtune.reporting import wording
from lrtune.reporting.contenders import (
    Column,
    ContenderRow,
    PublishedRow,
    columns_of,
    contender_rows,
    optimism,
    published_rows,
    table_note,
)
from lrtune.reporting.cost import Cost, CostRow, cost_of, cost_rows
from lrtune.reporting.curves import Curve, learning_curves, lr_curves
from lrtune.reporting.export.torch import torch_code
from lrtune.reporting.parallel import Parallel, parallel_of
from lrtune.reporting.trials import (
    Left,
    Point,
    RungRow,
    RunRow,
    fates,
    finished_trials,
    left_trials,
    points_of,
    run_row,
    rung_note,
    rung_rows,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made from."""

    state: StudyState
    recommendation: Recommendation | None
    """`None` where no run has finished yet."""
    importances: Mapping[str, float]
    """Parameter to its share in the Top-1 of the trials; may be empty."""


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
    facts: tuple[Fact, ...]
    target: str
    columns: tuple[Column, ...]
    contenders: tuple[ContenderRow, ...]
    table_note: str
    """What the columns mean."""
    published: tuple[PublishedRow, ...]
    """What others report of the same recipes."""
    optimism: str
    """The winner's curse in numbers; empty where nothing is known of it."""
    rungs: tuple[RungRow, ...]
    """Lowest first; empty where the study has none."""
    rung_note: str
    """What the rungs are for, and what their table says."""
    fates: str
    """What became of the trials; empty without any."""
    finished: tuple[RunRow, ...]
    """Full runs of the search that ran to their end, best first."""
    left: tuple[Left, ...]
    """Trials that went no further than a rung, those from the highest one first."""
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
    """LR by epoch: the recommended recipe and, where it is another, the baseline; in a comparison
    all of them."""
    learning_curves: tuple[Curve, ...]
    """Top-1 by epoch of the best few; in a comparison of all."""
    importances: tuple[tuple[str, float], ...]
    """Largest first."""
    code: str
    """The recommended recipe in plain PyTorch; empty without one."""

    @property
    def compares(self) -> bool:
        """Whether it is a comparison, which has no search."""
        return self.report.state.config.is_comparison

    @property
    def reference(self) -> str:
        """What the others are compared with, by name."""
        return wording.recipe_name(self.report.state.config, BASELINE)

    @property
    def replayed(self) -> bool:
        """Whether an LR curve is that of one run, since a plateau decay follows the run."""
        found = self.report.recommendation
        shown = () if found is None else found.contenders if self.compares else (found.best,)
        return any(contender.recipe.decay.name == "plateau" for contender in shown)

    @property
    def tables(self) -> dict[str, Table]:
        """By name; all but that of the contenders, of which a terminal shows the columns that it has room for."""
        return {
            "published": Table(
                "Published elsewhere",
                ("Recipe", "On", "Top-1, %", "Convergence, epoch"),
                "llrr",
                self.published,
            ),
            "rungs": Table(
                "Rungs",
                ("Rung", "Trials", "Promoted on score", "Regardless of it", "Kendall's tau"),
                "lrrrr",
                self.rungs,
            ),
            "finished": Table(
                "Runs of the search that finished",
                ("Run", "Recipe", "Top-1, %", "Epochs trained"),
                "llrr",
                tuple((run.id, run.recipe, run.top1, run.trained) for run in self.finished),
            ),
            "left": Table(
                "Trials that were left on a rung",
                ("Trial", "Recipe", "Score, %", "Why"),
                "llrl",
                tuple(
                    (f"trial-{one.trial:04d}", one.recipe, f"{one.score:.2f}", one.reason)
                    for one in self.left
                ),
            ),
            "stopped": Table(
                "Runs that were stopped early",
                ("Run", "Recipe", "Top-1, %", "Epochs", "Why"),
                "llrrl",
                tuple(
                    (run.id, run.recipe, run.top1, run.epochs, _why(run)) for run in self.stopped
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
            "Asked for: if every recipe had been trained in full, from its start. Reused: taken over from runs that "
            "agree up to there. Avoided: of recipes that were not worth a full run."
        )


def compose(report: Report) -> Document:
    """Works a report out, whatever stage its study is at."""
    state, found = report.state, report.recommendation
    config, rows = state.config, contender_rows(state, found)
    return Document(
        report=report,
        task=wording.task(config.task),
        headline=_headline(state, found),
        schedule=wording.schedule_sentence(found.best.recipe, config.epochs) if found else "",
        verdict=found.verdict if found else _why_nothing(state),
        facts=_facts(state, found),
        target=_target(state, found),
        columns=columns_of(state, rows),
        contenders=rows,
        table_note=table_note(state, rows),
        published=published_rows(state),
        optimism=optimism(found),
        rungs=rung_rows(state) if config.rungs else (),
        rung_note=rung_note(state),
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
        lr_curves=lr_curves(state, found),
        learning_curves=learning_curves(state, found),
        importances=tuple(sorted(report.importances.items(), key=lambda item: -item[1])),
        code=torch_code(found.best.recipe, config.epochs, config.steps_per_epoch, config.settings)
        if found
        else "",
    )


def _why(run: RunRow) -> str:
    return f"{run.state}: {run.reason}" if run.reason else run.state


def _headline(state: StudyState, found: Recommendation | None) -> str:
    if state.config.is_comparison:
        return f"Comparison of {wording.count(len(state.config.recipes), 'recipe')}"
    if found is None:
        return f"Nothing has finished{_yet(state)}."
    sentence = wording.schedule_sentence(found.best.recipe, state.config.epochs)
    if found.best.trial != BASELINE:
        return sentence
    # Before the search has finished anything, "keep" would claim a comparison that nobody has made.
    kept = "Keep the baseline" if finished_trials(state) else "Only the baseline so far"
    return f"{kept}: {sentence[0].lower()}{sentence[1:]}"


def _why_nothing(state: StudyState) -> str:
    ended = outcome(state)
    if ended and ended.failed:
        return f"The study was given up: {ended.reason}."
    return f"No run has finished: there is nothing to recommend{_yet(state)}."


def _yet(state: StudyState) -> str:
    return "" if outcome(state) else " yet"


def _facts(state: StudyState, found: Recommendation | None) -> tuple[Fact, ...]:
    """Top-1 and convergence beside the baseline's, the difference, and how sure it is that nothing else is better."""
    if found is None:
        return ()
    best = found.best
    name = f" of {best.name}" if state.config.is_comparison else ""
    if not best.top1s:
        return (
            _unconfirmed(state, best),
            Fact("Convergence, epoch", str(best.convergence), "takes fresh seeds"),
            *_baseline_facts(found),
        )
    top1, convergence = wording.count(len(best.top1s), "fresh seed"), _reached(best, found.target)
    other = (
        found.baseline
        if found.baseline is not None and found.baseline.trial != best.trial
        else None
    )
    if other is not None:
        reference = wording.recipe_name(state.config, BASELINE)
        top1 += f"; {reference} {wording.mean_and_spread(other.top1s)} ({len(other.top1s)})"
        convergence += f"; {reference} {wording.convergence(other.convergence, found.target)}"
    facts = [
        Fact(f"Top-1{name}, %", wording.mean_and_spread(best.top1s), top1),
        Fact(
            "Convergence, epoch", wording.convergence(best.convergence, found.target), convergence
        ),
    ]
    if other is not None and (difference := best.difference) is not None:
        interval = f"95 % interval [{difference.low:+.2f}, {difference.high:+.2f}]"
        said = interval if math.isfinite(difference.low) else "no interval"
        facts.append(
            Fact(
                f"To {wording.recipe_name(state.config, BASELINE)}, points",
                f"{difference.mean:+.2f}",
                said,
            )
        )
    if len(found.contenders) > 1:
        tied = (
            f"a tie with {len(found.ties)} of them" if found.ties else "told apart from all others"
        )
        probability = wording.probability(best.probability_best)
        facts.append(Fact("Probability best", probability, f"of {len(found.contenders)}; {tied}"))
    return tuple(facts)


def _unconfirmed(state: StudyState, best: Contender) -> Fact:
    if not math.isnan(best.search_top1):
        return Fact(
            "Top-1, %", wording.number(best.search_top1), "one run of the search, not confirmed"
        )
    trial = next(trial for trial in trials_of(state) if trial.number == best.trial)
    rung = trial.ladder[trial.level - 1].label
    return Fact(
        "Top-1, %",
        wording.UNKNOWN,
        f"not trained in full yet: {trial.score:.2f} at the rung of {rung}",
    )


def _baseline_facts(found: Recommendation) -> Iterator[Fact]:
    if found.baseline is not None:
        top1 = wording.mean_and_spread(found.baseline.top1s)
        yield Fact("Baseline Top-1, %", top1, found.baseline.recipe.label)
        reached = _reached(found.baseline, found.target)
        yield Fact(
            "Baseline convergence",
            wording.convergence(found.baseline.convergence, found.target),
            reached,
        )


def _reached(contender: Contender, target: float) -> str:
    if math.isnan(target):
        return "no target"
    reached = f"{contender.convergence.num_reached} of {len(contender.top1s)}"
    return f"{reached} runs reach {wording.number(target)} %"


def _target(state: StudyState, found: Recommendation | None) -> str:
    if found is None or (found.baseline is None and math.isnan(found.target)):
        against = "the first recipe" if state.config.is_comparison else "the baseline"
        return f"No target{_yet(state)}: convergence is measured against {against}, which has not finished."
    if math.isnan(found.target):
        return f"No target: {found.target_source}; give `--target`."
    return f"Convergence is the first epoch with a Top-1 of at least {found.target:.2f} % ({found.target_source})."


def _settings(config: StudyConfig) -> Iterator[tuple[str, str]]:
    settings = config.settings
    clipping = (
        f", gradients clipped to {settings.clip_norm:g}"
        if math.isfinite(settings.clip_norm)
        else ""
    )
    accumulated = f" in {settings.accumulate} micro-batches" if settings.accumulate > 1 else ""
    yield "Task", wording.task(config.task)
    yield "Horizon", f"{wording.count(config.epochs, 'epoch')} of {config.steps_per_epoch} steps"
    yield "Batch", f"{settings.batch_size}{accumulated}{clipping}"
    off = "off" if "data" in config.task else "the task's own"
    yield (
        "Label smoothing, augmentation",
        f"{settings.label_smoothing:g}, {'on' if settings.augment else off}",
    )
    yield "Precision, device", f"{settings.precision}, {settings.device}"
    yield "Validation images", str(config.num_validation)
    if not config.is_comparison:
        yield "Space, budget", f"{config.space_name}, {config.budget}"
        yield "Sampler, pruner", f"{config.sampler}, {config.pruner}"
        yield from _rung_settings(config)
    more = (
        f", up to {config.max_seeds} of those not told apart"
        if config.max_seeds > config.num_seeds
        else ""
    )
    yield "Seeds of each recipe", f"{config.num_seeds}{more}"
    yield "Seed", str(config.seed)
    yield from config.environment.items()


def _peak_memory(state: StudyState) -> Iterator[tuple[str, str]]:
    """Of the process that took most; nothing where it is not known."""
    measurements = [m for record in state.records for m in record.measurements]
    for label, sizes in (
        ("Peak memory of a process", [m.memory_mib for m in measurements]),
        ("Peak memory of a GPU", [m.gpu_memory_mib for m in measurements]),
    ):
        if known := [size for size in sizes if math.isfinite(size)]:
            yield label, f"{max(known):,.0f} MiB"


def _rung_settings(config: StudyConfig) -> Iterator[tuple[str, str]]:
    """Only of pruners that they mean something to."""
    if config.rungs:
        yield (
            "Rungs",
            f"{', '.join(map(str, config.rungs))}; of {config.reduction_factor} trials or more one goes up",
        )
    if config.rungs or config.pruner in ("median", "patient"):
        half_life_epochs = config.settings.ema_half_life_epochs
        averaged = config.signal == "averaged" and half_life_epochs
        half_life = f"averaged weights, half-life {wording.count(half_life_epochs, 'epoch')}"
        yield "Signal of unfinished runs", half_life if averaged else "raw weights"
