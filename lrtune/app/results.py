"""The result, the report and the recipes of a study, finished or not."""

from pathlib import Path

from lrtune.app.places import Places
from lrtune.core.errors import InputError, StoreError
from lrtune.core.study import StudyState
from lrtune.decide.race import Entrant, baseline_of, entrants
from lrtune.decide.recommend import Recommendation, recommend
from lrtune.decide.trials import trials_of
from lrtune.reporting.console import PlainConsole
from lrtune.reporting.document import Report
from lrtune.reporting.files import write_report
from lrtune.reporting.result import SearchResult
from lrtune.reporting.terminal import print_recommendation
from lrtune.tuning.sampler import importances


def recipe_of(state: StudyState, recommendation: Recommendation, which: str | int) -> Entrant:
    """Returns a recipe of a study by the word or the number that its report uses.

    Args:
        state: the study.
        recommendation: what it recommends.
        which: `best`, `simplest`, `baseline`, the number of a trial, or in a comparison the name of
            a recipe.

    Raises:
        InputError: the study has no such recipe.
    """
    if state.config.is_comparison:
        recipes = {entrant.name: entrant for entrant in (baseline_of(state), *entrants(state))}
        others = f"one of {', '.join(recipes)}"
    else:
        recipes = {
            str(t.number): Entrant(number=t.number, name=f"trial {t.number}", recipe=t.recipe)
            for t in trials_of(state)
        }
        others = f"the number of one of its {len(recipes)} trials"
    recipes["baseline"] = baseline_of(state)
    best, simplest = recommendation.best, recommendation.simplest or recommendation.best
    for word, contender in (("best", best), ("simplest", simplest)):
        recipes[word] = Entrant(
            number=contender.trial, name=contender.name, recipe=contender.recipe
        )
    if str(which) not in recipes:
        raise InputError(
            f"a recipe of study {state.config.name!r} must be best, simplest, baseline "
            f"or {others}, but got {which!r}."
        )
    return recipes[str(which)]


def result_of(state: StudyState, places: Places) -> SearchResult:
    """Returns the result of a study, finished or not."""
    recommendation = recommend(state)
    made = Report(state=state, recommendation=recommendation, importances=importances(state))
    folder = Path(places.out) / state.config.name
    return SearchResult(state=state, recommendation=recommendation, folder=folder, report=made)


def write_study_report(state: StudyState, places: Places) -> SearchResult:
    """Writes the report of a study, finished or not.

    Raises:
        StoreError: its folder cannot be written to.
    """
    result = result_of(state, places)
    try:
        write_report(result.report, result.folder)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written to {result.folder}: {error.strerror}."
        ) from None
    return result


def print_known(state: StudyState) -> None:
    """Prints the preliminary recommendation of a stopped study to standard error."""
    recommendation = recommend(state)
    if recommendation is not None:
        report = Report(state=state, recommendation=recommendation, importances={})
        print_recommendation(report, PlainConsole(stderr=True))
