"""The recipes that were trained with fresh seeds, side by side, in words."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from lrtune.core.objective import UNKNOWN, Objective
from lrtune.core.run import BASELINE
from lrtune.core.study import StudyState
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.reporting import wording


class ContenderRow(NamedTuple):
    """One recipe, in words."""

    name: str
    recipe: str
    search_value: str
    """Of the one run that the search saw: the best of many, so flattering."""
    value: str
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
    test_value: str
    recommended: bool
    marks: tuple[str, ...]
    """What the verdict says of it: `recommended` (in a comparison `in the lead`), `tie` or
    `simplest`."""


class Column(NamedTuple):
    """One column of the table of contenders, behind their names."""

    heading: str
    field: str
    """Of `ContenderRow`."""

    def texts(self, rows: Sequence[ContenderRow]) -> list[str]:
        """Its cells."""
        return [str(getattr(row, self.field)) for row in rows]


def compared(recommendation: Recommendation | None) -> tuple[Contender, ...]:
    """The contenders that are shown, the recommended one first even where it is not confirmed."""
    if recommendation is None:
        return ()
    return (
        recommendation.best,
        *(c for c in recommendation.contenders if c.trial != recommendation.best.trial),
    )


def contender_rows(
    state: StudyState, recommendation: Recommendation | None
) -> tuple[ContenderRow, ...]:
    """One a recipe, in the order of `compared`."""
    return (
        tuple(_row(state, recommendation, contender) for contender in compared(recommendation))
        if recommendation
        else ()
    )


def columns_of(state: StudyState, rows: tuple[ContenderRow, ...]) -> tuple[Column, ...]:
    """The columns that these rows have something for.

    The number of epochs is in a heading, and not in each row, to save room in a terminal.
    """
    comparison = state.config.is_comparison
    reference = wording.recipe_name(state.config, BASELINE)
    if len(reference) > 20:
        reference = "the first"
    objective = state.config.objective
    columns = [
        Column("Search", "search_value"),
        Column(wording.heading(objective) if comparison else "Fresh seeds", "value"),
        Column("Seeds", "num_seeds"),
        Column(f"To {reference}", "difference"),
        Column("Best", "probability_best"),
        Column(f"Convergence /{state.config.epochs}", "convergence"),
        Column("Settled", "settling"),
        Column("Final loss", "val_loss"),
        Column(wording.count(state.config.epochs, "epoch"), "time"),
        Column("Test", "test_value"),
    ]
    left_out = set() if comparison else {"val_loss", "time"}
    if all(row.search_value == UNKNOWN for row in rows):  # of a search by looks
        left_out.add("search_value")
    if objective.metric == "val_loss":  # the very values that are compared
        left_out.add("val_loss")
    if not tested(rows):
        left_out.add("test_value")
    if all(row.convergence == UNKNOWN for row in rows):  # without a target
        left_out.add("convergence")
    return tuple(column for column in columns if column.field not in left_out)


def tested(rows: tuple[ContenderRow, ...]) -> bool:
    """Whether the test split was read."""
    return any(row.test_value != UNKNOWN for row in rows)


def table_note(state: StudyState, rows: tuple[ContenderRow, ...]) -> str:
    """What the columns mean."""
    comparison, reference = state.config.is_comparison, wording.recipe_name(state.config, BASELINE)
    objective = state.config.objective
    first = f"{wording.title(objective)}{wording.reading(objective)}"
    sentences = [f"{first}: mean ± standard deviation over the seeds."]
    if not comparison:
        search = "Search: the one run that the search saw, the best of many and so flattering. "
        known = any(row.search_value != UNKNOWN for row in rows)
        sentences = [
            f"{first}. {search if known else ''}Fresh seeds: mean ± standard deviation over seeds "
            "that the search did not use."
        ]
    if len({row.num_seeds for row in rows}) > 1:
        sentences.append(
            "The numbers of seeds differ. Some seeds are harder than others, for all recipes "
            "alike; the order of the rows allows for that."
        )
    unit = objective.difference_unit
    if not objective.is_percentage:
        unit = f"the difference {unit}"
    sentences += [
        f"To {reference}: {unit}, the mean over the seeds that both have, with the 95 % interval "
        "of the true difference.",
        "Best: the probability that none of the others is better in truth. One model of all runs "
        "gives both: it knows which runs share a seed, and draws the candidates together as the "
        "data allow, since the best of many flatter themselves; so a mean need not lie in the "
        "middle of its interval.",
        f"Settled: the epoch from which {objective.title} stays near its final level.",
    ]
    if any(row.convergence != UNKNOWN for row in rows):
        sentences.append(
            "Convergence: epoch, median [min, max] over the seeds; by 2 of 3: one of three seeds "
            "did not reach the target."
        )
    if comparison:
        if objective.metric != "val_loss":
            sentences.append("Final loss: on the validation split, mean over the seeds.")
        epochs = wording.count(state.config.epochs, "epoch")
        sentences.append(f"{epochs}: the mean time of a run.")
    if tested(rows):
        sentences.append("Test: a split that was read once, for these recipes only.")
    return " ".join(sentences)


def optimism(state: StudyState, recommendation: Recommendation | None) -> str:
    """The winner's curse in numbers: the best of the search beside what fresh seeds made of it."""
    objective = state.config.objective
    contenders = recommendation.contenders if recommendation else ()
    both = [c for c in contenders if math.isfinite(c.optimism(objective))]
    if not both:
        return ""
    first = max(both, key=lambda c: (objective.signed(c.search_value), -c.trial))
    best, mean = (objective.text(value, unit=True) for value in (first.search_value, first.mean))
    seeds = wording.count(len(first.values), "fresh seed")
    sentences = [
        f"Winner's curse: the best search score of those confirmed was {best} ({first.name}); "
        f"over {seeds} it has {mean}, {_off(objective, first.optimism(objective))}."
    ]
    if len(both) > 1:
        average = _off(objective, fmean(c.optimism(objective) for c in both))
        sentences.append(
            f"On average over the {len(both)} that have both, fresh seeds give {average}."
        )
    return " ".join(sentences)


def _test_value(objective: Objective, contender: Contender) -> str:
    """A dash where the test split was not read, and where the metric was not measured on it."""
    values = contender.test_values
    return UNKNOWN if any(map(math.isnan, values)) else objective.summary(values)


def _off(objective: Objective, optimism: float) -> str:
    amount = objective.difference_text(abs(optimism)).lstrip("+")
    points = " points" if objective.is_percentage else ""
    return f"{amount}{points} {'less' if objective.signed(optimism) >= 0 else 'more'}"


def _row(state: StudyState, recommendation: Recommendation, contender: Contender) -> ContenderRow:
    objective, recommended = state.config.objective, contender.trial == recommendation.best.trial
    marks = []
    if recommended:
        marks.append("in the lead" if state.config.is_comparison else "recommended")
    # Without fresh seeds nothing is known to be equal either.
    if recommendation.best.values and contender.trial in {tie.trial for tie in recommendation.ties}:
        marks.append("tie")
    if recommendation.simplest is not None and contender.trial == recommendation.simplest.trial:
        marks.append("simplest")
    all_diverged = contender.num_diverged == len(contender.values)
    return ContenderRow(
        name=contender.name,
        recipe=wording.recipe_label(contender.recipe, state.config.baseline),
        search_value=objective.text(contender.search_value),
        value=objective.summary(contender.values) if contender.values else "not confirmed",
        num_seeds=len(contender.values),
        difference=wording.difference(objective, contender.difference),
        probability_best=wording.probability(contender.probability_best),
        convergence=UNKNOWN if math.isnan(recommendation.target) else contender.convergence.spread,
        settling=UNKNOWN if all_diverged else wording.number(contender.settling_epoch, 0),
        val_loss=wording.loss(fmean(contender.val_losses or (math.nan,))),
        time=wording.duration(contender.seconds),
        test_value=_test_value(objective, contender),
        recommended=recommended,
        marks=tuple(marks),
    )
