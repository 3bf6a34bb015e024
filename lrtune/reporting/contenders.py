"""The recipes that were trained with fresh seeds, side by side, in words."""

import math
from statistics import fmean
from typing import NamedTuple

from lrtune.core.run import BASELINE
from lrtune.core.study import StudyState
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.reporting import wording


class ContenderRow(NamedTuple):
    """One recipe, in words."""

    name: str
    recipe: str
    search_top1: str
    """Of the one run that the search saw: the largest of many, so flattering."""
    top1: str
    """Mean and standard deviation over fresh seeds."""
    num_seeds: int
    difference: str
    """To the baseline, over the seeds that both have."""
    probability_best: str
    convergence: str
    settling: str
    val_loss: str
    """Mean over the same seeds."""
    time: str
    """Of one of these runs, the mean."""
    test_top1: str
    recommended: bool
    marks: tuple[str, ...]
    """What the verdict says of it: `recommended` (of a comparison `in the lead`), `tie`,
    `simplest`."""


class PublishedRow(NamedTuple):
    """What others report of a recipe, in words."""

    name: str
    on: str
    top1: str
    convergence: str


class Column(NamedTuple):
    """One column of the table of contenders, behind their names."""

    heading: str
    field: str
    """Of `ContenderRow`."""


def compared(found: Recommendation | None) -> tuple[Contender, ...]:
    """The contenders that are shown, the recommended one first even where it is not confirmed."""
    if found is None:
        return ()
    return (found.best, *(c for c in found.contenders if c.trial != found.best.trial))


def contender_rows(state: StudyState, found: Recommendation | None) -> tuple[ContenderRow, ...]:
    """One a recipe, in the order of `compared`."""
    return tuple(_row(state, found, contender) for contender in compared(found)) if found else ()


def columns_of(state: StudyState, rows: tuple[ContenderRow, ...]) -> tuple[Column, ...]:
    """What there is to say of these rows.

    The horizon is once in a heading, where a line of 80 is short.
    """
    comparison = state.config.is_comparison
    reference = wording.recipe_name(state.config, BASELINE)
    if len(reference) > 20:
        reference = "the first"
    columns = [
        Column("Search", "search_top1"),
        Column("Top-1, %" if comparison else "Fresh seeds", "top1"),
        Column("Seeds", "num_seeds"),
        Column(f"To {reference}", "difference"),
        Column("Best", "probability_best"),
        Column(f"Convergence /{state.config.epochs}", "convergence"),
        Column("Settled", "settling"),
        Column("Final loss", "val_loss"),
        Column(wording.count(state.config.epochs, "epoch"), "time"),
        Column("Test", "test_top1"),
    ]
    left_out = {"search_top1"} if comparison else {"val_loss", "time"}
    if not tested(rows):
        left_out.add("test_top1")
    return tuple(column for column in columns if column.field not in left_out)


def published_rows(state: StudyState) -> tuple[PublishedRow, ...]:
    """Of a comparison; quoted, and never mixed with what was measured."""
    quoted = ((named.name, named.published) for named in state.config.recipes)
    return tuple(
        PublishedRow(name, found.on, f"{found.top1:g}", str(found.convergence_epoch))
        for name, found in quoted
        if found
    )


def tested(rows: tuple[ContenderRow, ...]) -> bool:
    """Whether the test images were read."""
    return any(row.test_top1 != wording.UNKNOWN for row in rows)


def table_note(state: StudyState, rows: tuple[ContenderRow, ...]) -> str:
    """What the columns mean."""
    comparison, reference = state.config.is_comparison, wording.recipe_name(state.config, BASELINE)
    said = ["Top-1 in percent: mean ± standard deviation over the seeds."]
    if not comparison:
        left = any(row.search_top1 == wording.UNKNOWN and row.name != "baseline" for row in rows)
        said = [
            "Top-1 in percent. Search: the one run that the search saw, the best of many and so flattering"
            f"{'; of a trial that was left on a rung there is none' if left else ''}. "
            "Fresh seeds: mean ± standard deviation over seeds that the search did not use."
        ]
    if len({row.num_seeds for row in rows}) > 1:
        said.append(
            "The numbers of seeds differ, so rows are in the order of means with what a seed did to all allowed for."
        )
    said += [
        f"To {reference}: points of Top-1, the mean over the seeds that both have, with the 95 % interval of the true "
        "difference.",
        "Best: the probability that no other of these has a higher true Top-1. One model of all runs gives both: it "
        "knows which runs share a seed, and draws the candidates together as far as the data allow, since the best of "
        "many flatter themselves; so a mean need not lie in the middle of its interval.",
        "Convergence: epoch, median [min, max] over the seeds.",
        "Settled: the epoch from which Top-1 stays near its final level.",
    ]
    if comparison:
        said.append(
            "Final loss: on the validation images, mean over the seeds. "
            f"{wording.count(state.config.epochs, 'epoch')}: the mean time of a run."
        )
    if tested(rows):
        said.append("Test: images read once, for these recipes only.")
    return " ".join(said)


def optimism(found: Recommendation | None) -> str:
    """The winner's curse in numbers: the best score of the search beside what it came to with fresh seeds."""
    known = [c for c in found.contenders if math.isfinite(c.optimism)] if found else []
    if not known:
        return ""
    first = max(known, key=lambda contender: (contender.search_top1, -contender.trial))
    said = [
        f"Winner's curse: the best search score of those confirmed was {first.search_top1:.2f} % ({first.name}); "
        f"over {wording.count(len(first.top1s), 'fresh seed')} it has {first.mean:.2f} %, {_off(first.optimism)}."
    ]
    if len(known) > 1:
        average = _off(fmean(contender.optimism for contender in known))
        said.append(f"On average over the {len(known)} that have both, fresh seeds give {average}.")
    return " ".join(said)


def _off(optimism: float) -> str:
    return f"{abs(optimism):.2f} points {'less' if optimism >= 0 else 'more'}"


def _row(state: StudyState, found: Recommendation, contender: Contender) -> ContenderRow:
    recommended = contender.trial == found.best.trial
    marks = []
    if recommended:
        marks.append("in the lead" if state.config.is_comparison else "recommended")
    # Without fresh seeds nothing is known to be equal either.
    if found.best.top1s and contender.trial in {one.trial for one in found.ties}:
        marks.append("tie")
    if found.simplest is not None and contender.trial == found.simplest.trial:
        marks.append("simplest")
    return ContenderRow(
        name=contender.name,
        recipe=contender.recipe.label,
        search_top1=wording.number(contender.search_top1),
        top1=wording.mean_and_spread(contender.top1s) if contender.top1s else "not confirmed",
        num_seeds=len(contender.top1s),
        difference=wording.difference(contender.difference),
        probability_best=wording.probability(contender.probability_best),
        convergence=wording.UNKNOWN if math.isnan(found.target) else contender.convergence.spread,
        settling=wording.number(contender.settling_epoch, 0),
        val_loss=wording.number(fmean(contender.val_losses), 3)
        if contender.val_losses
        else wording.UNKNOWN,
        time=wording.duration(contender.seconds),
        test_top1=wording.mean_and_spread(contender.test_top1s),
        recommended=recommended,
        marks=tuple(marks),
    )
