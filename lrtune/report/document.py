"""Everything that a report says, worked out once: Markdown, HTML, JSON, plots and terminal only set it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from lrtune.core.recipe import Recipe
from lrtune.core.study import StudyConfig, StudyState
from lrtune.core.trial import Measurement, RunRecord
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.decide.spending import Spending, spending_of
from lrtune.decide.trials import trials_of
from lrtune.report import wording
from lrtune.report.code import torch_code
from lrtune.report.trials import (
    LeftRow,
    Point,
    RungRow,
    RunRow,
    finished_trials,
    left_rows,
    points_of,
    run_row,
    rung_note,
    rung_rows,
)
from lrtune.schedules import build_schedule

NUM_LEARNING_CURVES = 4  # more lines than this are not told apart in one plot
NUM_CURVE_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made from."""

    state: StudyState
    recommendation: Recommendation | None
    """`None` where no run has finished yet."""
    importances: Mapping[str, float]
    """Parameter to its share in the Top-1 of the trials; may be empty."""
    environment: Mapping[str, str]
    """`{"Python": "3.11.7", "CPU": ..., ...}`, in the order in which it is shown."""
    command: str
    """The command that does it again."""


class Fact(NamedTuple):
    """One figure of the first screen."""

    label: str
    value: str
    note: str


class ContenderRow(NamedTuple):
    """One recipe of the comparison, in words."""

    name: str
    recipe: str
    search_top1: str
    """Of the one run that the search saw: the largest of many, so flattering."""
    top1: str
    """Mean and standard deviation over fresh seeds."""
    num_seeds: int
    difference: str
    """To the baseline, seed by seed."""
    convergence: str
    settling: str
    test_top1: str
    recommended: bool
    tie: bool
    """Whether fresh seeds do not tell it from the recommended one."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a plot: `xs`, `ys` and, over several seeds, the band `lows` to `highs`, all of one length."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the study has spent so far, and what it has not."""

    spending: Spending
    epochs_again: int
    """Trained a second time; counted in `spending.trained`."""
    seconds: float
    """Time in which at least one run was training."""
    num_trials: int
    num_finished: int
    """Trials that were trained in full."""
    num_runs: Mapping[str, int]
    """State to number of runs, of every kind of run."""

    def __str__(self) -> str:
        """One sentence."""
        if not self.num_runs:
            return "Nothing has been trained yet."
        spent = self.spending
        again = f" ({self.epochs_again:,} of them a second time, their checkpoint gone)" if self.epochs_again else ""
        avoided = f"{spent.avoided:,} avoided"
        if spent.avoided < 0:  # a few trials on rungs can cost more than training each in full
            avoided = f"none avoided, {-spent.avoided:,} added on rungs"
        (state, amount), *others = self.num_runs.items()
        runs = [f"{wording.count(amount, 'run')} {state}", *(f"{amount:,} {state}" for state, amount in others)]
        return (
            f"{wording.count(spent.asked, 'epoch')} asked for: {spent.trained:,} trained in "
            f"{wording.duration(self.seconds)}{again}, {spent.reused:,} reused, {avoided}; "
            f"{wording.count(self.num_trials, 'trial')}, {self.num_finished:,} of them in full; "
            f"{', '.join(runs)}."
        )


@dataclass(frozen=True, kw_only=True)
class Document:
    """The report, worked out. Texts are in plain words, unescaped."""

    report: Report
    task: str
    headline: str
    verdict: str
    facts: tuple[Fact, ...]
    target: str
    contenders: tuple[ContenderRow, ...]
    rungs: tuple[RungRow, ...]
    """Lowest first; empty where the study has none."""
    rung_note: str
    """What the rungs are for, and what their table says."""
    finished: tuple[RunRow, ...]
    """Full runs of the search that ran to their end, best first."""
    left: tuple[LeftRow, ...]
    """Trials that went no further than a rung, those from the highest one first."""
    stopped: tuple[RunRow, ...]
    """Runs of any kind that were pruned, diverged or failed, in the order of their planning."""
    points: tuple[Point, ...]
    range_tests: tuple[str, ...]
    cost: Cost
    settings: tuple[tuple[str, str], ...]
    """How the study was trained and searched, and on what."""
    lr_curves: tuple[Curve, ...]
    """LR by epoch: the recommended recipe and, where it is another, the baseline."""
    learning_curves: tuple[Curve, ...]
    """Top-1 by epoch of the best few."""
    importances: tuple[tuple[str, float], ...]
    """Largest first."""
    code: str
    """The recommended recipe in plain PyTorch; empty without one."""

    @property
    def tested(self) -> bool:
        """Whether the test images were read."""
        return any(row.test_top1 != wording.UNKNOWN for row in self.contenders)

    @property
    def replayed(self) -> bool:
        """Whether the recommended LR curve is that of one run, since a plateau decay follows the run."""
        found = self.report.recommendation
        return found is not None and found.best.recipe.decay.name == "plateau"

    @property
    def cost_note(self) -> str:
        """What the words of the cost mean."""
        return (
            "Asked for: if every recipe had been trained in full, from its start. Reused: taken over from runs that "
            "agree up to there. Avoided: of recipes that were not worth a full run."
        )

    @property
    def table_note(self) -> str:
        """What the columns of the comparison mean."""
        left = any(row.search_top1 == wording.UNKNOWN and row.name != "baseline" for row in self.contenders)
        note = (
            "Top-1 in percent. Search: the one run that the search saw, the best of many and so flattering"
            f"{'; of a trial that was left on a rung there is none' if left else ''}. "
            "Fresh seeds: mean ± standard deviation over seeds that the search did not use. "
            "To baseline: points, seed by seed, with the 95 % interval. "
            "Convergence: epoch, median [min, max] over the fresh seeds. "
            "Settled: the epoch from which Top-1 stays near its final level."
        )
        return note + (" Test: images read once, for these recipes only." if self.tested else "")


def compose(report: Report) -> Document:
    """Works a report out, whatever stage its study is at."""
    state, found = report.state, report.recommendation
    return Document(
        report=report,
        task=wording.task(state.config.task),
        headline=_headline(state, found),
        verdict=found.verdict if found else "No run has finished: there is nothing to recommend yet.",
        facts=_facts(state, found),
        target=_target(found),
        contenders=_contender_rows(found),
        rungs=rung_rows(state) if state.config.rungs else (),
        rung_note=rung_note(state),
        finished=tuple(run_row(trial.runs[-1]) for trial in finished_trials(state)),
        left=left_rows(state),
        stopped=tuple(run_row(r) for r in state.records if r.state in ("pruned", "diverged", "failed")),
        points=points_of(state),
        range_tests=tuple(map(wording.range_result, state.range_results)),
        cost=_cost(state),
        settings=_settings(report),
        lr_curves=_lr_curves(state, found),
        learning_curves=_learning_curves(state, found),
        importances=tuple(sorted(report.importances.items(), key=lambda item: -item[1])),
        code=torch_code(found.best.recipe, state.config.epochs, state.config.steps_per_epoch) if found else "",
    )


def compared(found: Recommendation | None) -> tuple[Contender, ...]:
    """The contenders that a comparison shows, the recommended one first even where it is not confirmed."""
    if found is None:
        return ()
    return (found.best, *(c for c in found.contenders if c.trial != found.best.trial))


def _headline(state: StudyState, found: Recommendation | None) -> str:
    if found is None:
        return "Nothing has finished yet."
    sentence = wording.schedule_sentence(found.best.recipe, state.config.epochs)
    if found.best.trial >= 0:
        return sentence
    # Before the search has finished anything, "keep" would claim a comparison that nobody has made.
    return f"{'Keep the baseline' if finished_trials(state) else 'Only the baseline so far'}: t{sentence[1:]}"


def _facts(state: StudyState, found: Recommendation | None) -> tuple[Fact, ...]:
    if found is None:
        return ()
    best, baseline = found.best, found.baseline
    if best.top1s:
        top1 = Fact("Top-1, %", wording.mean_and_spread(best.top1s), _seeds(best))
    elif math.isnan(best.search_top1):
        trial = next(trial for trial in trials_of(state) if trial.number == best.trial)
        rung = trial.ladder[trial.level - 1].label
        top1 = Fact("Top-1, %", wording.UNKNOWN, f"not trained in full yet: {trial.score:.2f} at the rung of {rung}")
    else:
        top1 = Fact("Top-1, %", wording.number(best.search_top1), "one run of the search, not confirmed")
    facts = [
        top1,
        Fact("Convergence, epoch", str(best.convergence), _reached(best, found.target)),
    ]
    if baseline is None or baseline.trial == best.trial:
        return tuple(facts)
    return (
        *facts,
        Fact("Baseline Top-1, %", wording.mean_and_spread(baseline.top1s), baseline.recipe.label),
        Fact("Baseline convergence", str(baseline.convergence), _reached(baseline, found.target)),
    )


def _seeds(contender: Contender) -> str:
    return f"{wording.count(len(contender.top1s), 'fresh seed')}, mean ± standard deviation"


def _reached(contender: Contender, target: float) -> str:
    if not contender.top1s:
        return "takes fresh seeds"
    return f"{contender.convergence.num_reached} of {len(contender.top1s)} runs reach {wording.number(target)} %"


def _target(found: Recommendation | None) -> str:
    if found is None or math.isnan(found.target):
        return "No target yet: convergence is measured against the baseline, which has not finished."
    return f"Convergence is the first epoch with a Top-1 of at least {found.target:.2f} % ({found.target_source})."


def _contender_rows(found: Recommendation | None) -> tuple[ContenderRow, ...]:
    if found is None:
        return ()
    # Without fresh seeds nothing is known to be equal either.
    tied = {contender.trial for contender in found.ties} if found.best.top1s else set()
    return tuple(
        ContenderRow(
            name=contender.name,
            recipe=contender.recipe.label,
            search_top1=wording.number(contender.search_top1),
            top1=wording.mean_and_spread(contender.top1s) if contender.top1s else "not confirmed",
            num_seeds=len(contender.top1s),
            difference=wording.difference(contender.difference),
            convergence=str(contender.convergence),
            settling=wording.number(contender.settling_epoch, 0),
            test_top1=wording.mean_and_spread(contender.test_top1s),
            recommended=contender.trial == found.best.trial,
            tie=contender.trial in tied,
        )
        for contender in compared(found)
    )


def _best_first(records: Sequence[RunRecord]) -> list[RunRecord]:
    """By Top-1 after the last finished epoch; runs without any come last."""
    return sorted(records, key=lambda record: -math.inf if math.isnan(record.top1) else record.top1, reverse=True)


def _cost(state: StudyState) -> Cost:
    states = ("completed", "pruned", "diverged", "failed", "running")
    numbers = {name: sum(record.state == name for record in state.records) for name in states}
    return Cost(
        spending=spending_of(state),
        epochs_again=sum(m.again_epochs for record in state.records for m in record.measurements),
        seconds=state.busy_seconds,
        num_trials=int(state.spent("trials")),
        num_finished=len(finished_trials(state)),
        num_runs={name: number for name, number in numbers.items() if number},
    )


def _settings(report: Report) -> tuple[tuple[str, str], ...]:
    config = report.state.config
    settings = config.settings
    clipping = f", gradients clipped to {settings.clip_norm:g}" if math.isfinite(settings.clip_norm) else ""
    accumulated = f" in {settings.accumulate} micro-batches" if settings.accumulate > 1 else ""
    return (
        ("Task", wording.task(config.task)),
        ("Horizon", f"{wording.count(config.epochs, 'epoch')} of {config.steps_per_epoch} steps"),
        ("Batch", f"{settings.batch_size}{accumulated}{clipping}"),
        ("Label smoothing, augmentation", f"{settings.label_smoothing:g}, {'on' if settings.augment else 'off'}"),
        ("Precision, device", f"{settings.precision}, {settings.device}"),
        ("Validation images", str(config.num_validation)),
        ("Space, budget", f"{config.space_name}, {config.budget}"),
        ("Sampler, pruner", f"{config.sampler}, {config.pruner}"),
        *_rung_settings(config),
        ("Seed", str(config.seed)),
        *report.environment.items(),
    )


def _rung_settings(config: StudyConfig) -> Iterator[tuple[str, str]]:
    """Only of pruners that they mean something to."""
    if config.rungs:
        yield "Rungs", f"{', '.join(map(str, config.rungs))}; of {config.reduction_factor} trials or more one goes up"
    if config.rungs or config.pruner in ("median", "patient"):
        half_life_epochs = config.settings.ema_half_life_epochs
        averaged = config.signal == "averaged" and half_life_epochs
        half_life = f"averaged weights, half-life {wording.count(half_life_epochs, 'epoch')}"
        yield "Signal of unfinished runs", half_life if averaged else "raw weights"


def _lr_curves(state: StudyState, found: Recommendation | None) -> tuple[Curve, ...]:
    if found is None:
        return ()
    shown = [found.best]
    if found.baseline is not None and found.baseline.trial != found.best.trial:
        shown.append(found.baseline)
    return tuple(_lr_curve(state, contender) for contender in shown)


def _lr_curve(state: StudyState, contender: Contender) -> Curve:
    """The LR over the epochs of a full run; of a plateau, as its best run went, as far as that was measured."""
    recipe, config = contender.recipe, state.config
    ran = _best_first(_full_runs(state, contender.trial))
    return lr_curve(contender.name, recipe, config.epochs, config.steps_per_epoch, ran[0].measurements if ran else ())


def lr_curve(
    label: str, recipe: Recipe, epochs: int, steps_per_epoch: int, measurements: Sequence[Measurement]
) -> Curve:
    """LR against epochs.

    Args:
        label: name of the curve.
        recipe: whose LR.
        epochs: horizon.
        steps_per_epoch: optimizer steps.
        measurements: of one run, from its first epoch; only a plateau needs them, and it ends where they end.
    """
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    stride = max(1, epochs * steps_per_epoch // NUM_CURVE_POINTS)
    xs, ys = [], []
    for epoch in range(epochs):
        first, end = epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch
        # The last step of each epoch is always there, so that a jump between epochs is drawn upright.
        for step in sorted({*range(first, end, stride), end - 1}):
            xs.append(step / steps_per_epoch)
            ys.append(recipe.peak_lr * schedule(step))
        if recipe.decay.name == "plateau":
            if epoch >= len(measurements):
                break
            schedule = schedule.observe(val_loss=measurements[epoch].val_loss, top1=measurements[epoch].top1)
    return Curve(label=label, xs=tuple(xs), ys=tuple(ys))


def _full_runs(state: StudyState, trial: int) -> list[RunRecord]:
    """The runs of a trial with something measured: those with fresh seeds, or the search's own where there are none."""
    whole = (r for r in state.records if r.run.trial == trial and r.run.kind != "rung")
    runs = [r for r in whole if r.measurements and r.state != "failed"]
    fresh = [r for r in runs if r.run.kind in ("baseline", "confirm")]
    return fresh or runs


def _learning_curves(state: StudyState, found: Recommendation | None) -> tuple[Curve, ...]:
    """Of the confirmed contenders; without those, of the best runs of the search; the baseline always."""
    shown = [(c.name, _full_runs(state, c.trial)) for c in compared(found)]
    known = {contender.trial for contender in compared(found)}
    if found is not None and not any(c.top1s and c.trial >= 0 for c in found.contenders):
        shown += [(f"trial {t.number}", [t.runs[-1]]) for t in finished_trials(state) if t.number not in known]
    others = [(name, runs) for name, runs in shown if name != "baseline"][:NUM_LEARNING_CURVES]
    baseline = [(name, runs) for name, runs in shown if name == "baseline"]
    return tuple(_learning_curve(name, runs) for name, runs in others + baseline if runs)


def _learning_curve(label: str, runs: Sequence[RunRecord]) -> Curve:
    """Mean Top-1 by epoch with the band from the worst seed to the best; ends with the shortest run that completed."""
    whole = [r for r in runs if r.state == "completed"] or list(runs)
    epochs = min(record.epochs for record in whole)
    by_epoch = [[record.measurements[i].top1 for record in whole] for i in range(epochs)]
    return Curve(
        label=label,
        xs=tuple(float(i + 1) for i in range(epochs)),
        ys=tuple(fmean(top1s) for top1s in by_epoch),
        lows=tuple(map(min, by_epoch)),
        highs=tuple(map(max, by_epoch)),
    )
