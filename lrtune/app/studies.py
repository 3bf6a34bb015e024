"""A study from its draft to its report: range tests, runs, test split; each only where it is not recorded yet."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from rich.console import Console

from lrtune.app.arguments import default_name
from lrtune.app.engines import Site, open_site
from lrtune.app.places import Places
from lrtune.core.engines import Engine
from lrtune.core.errors import InputError, LrtuneError, StoreError
from lrtune.core.events import Event, Note, SweepStarted
from lrtune.core.recipe import Recipe
from lrtune.core.run import BASELINE
from lrtune.core.space import parse_space
from lrtune.core.study import RangeCurve, StudyConfig, StudyState
from lrtune.decide.bounds import range_result
from lrtune.decide.plan import outcome
from lrtune.decide.race import Entrant, baseline_of, entrants, fresh_seeds
from lrtune.decide.recommend import Recommendation, recommend
from lrtune.decide.rungs import automatic_rungs
from lrtune.decide.trials import trials_of
from lrtune.reporting.document import Report
from lrtune.reporting.files import write_report
from lrtune.reporting.live import LiveDisplay
from lrtune.reporting.result import SearchResult
from lrtune.reporting.terminal import print_recommendation
from lrtune.schedules import build_schedule
from lrtune.store.database import StudyStore
from lrtune.training.randomness import preserved_random_states
from lrtune.training.range_test import for_optimizer
from lrtune.training.task import Task, TaskSource
from lrtune.tuning.engine import Emit
from lrtune.tuning.sampler import fitted_space, importances, moved


def train_study(
    draft: StudyConfig,
    engine: Engine,
    task: Task,
    source: TaskSource,
    places: Places,
    *,
    quiet: bool,
    on_event: Emit | None,
) -> SearchResult:
    """Begins the study of a draft, or goes on with it, until it is done. An interrupt says how to go on.

    Args: draft: a configuration less what only the site knows; its rungs and its name are made
        where it has none. engine: where to train. task: what to train. source: where the task is
        from. places: of the study's files. quiet: no display. on_event: called with each event.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    with (
        preserved_random_states(),
        open_site(engine, task, source, draft.settings, draft.baseline, places) as site,
    ):
        for recipe in (draft.baseline, *(named.recipe for named in draft.recipes)):
            build_schedule(recipe, epochs=draft.epochs, steps_per_epoch=site.steps_per_epoch)
        rungs = automatic_rungs(
            draft.pruner, draft.epochs, site.steps_per_epoch, draft.reduction_factor
        )
        config = replace(
            draft,
            steps_per_epoch=site.steps_per_epoch,
            num_validation=site.num_validation,
            rungs=draft.rungs or rungs,
            environment=site.environment(draft.baseline),
        )
        config = replace(config, name=draft.name or default_name(task.name, config))
        store = places.database().open(config)
        try:
            return _run(store, site, places, quiet=quiet, on_event=on_event)
        except KeyboardInterrupt as stop:
            if not quiet:
                with suppress(
                    StoreError
                ):  # it was stopped because the database does not answer, say
                    _print_known(store.state())
            again = "the same call" if "python" in config.task else f"`lrtune resume {config.name}`"
            stop.add_note(f"What was finished is kept: {again} goes on from there.")
            raise


def _run(
    store: StudyStore, site: Site, places: Places, *, quiet: bool, on_event: Emit | None
) -> SearchResult:
    """Goes on with a study until it is done, and writes its report. One that was given up tries its failed runs again.

    Raises:
        LrtuneError: it is given up; its report is written all the same.
    """
    name = store.config.name
    site.use(
        store.config.settings
    )  # it may have been begun with another number of jobs, and so of threads
    if (ended := outcome(store.state())) and ended.failed:
        store.retry_failed()
    with LiveDisplay(
        store.state(), Console(stderr=True), device=site.device, quiet=quiet
    ) as display:

        def emit(event: Event) -> None:
            display(event)
            if on_event is not None:
                on_event(event)

        _range_tests(store, site, emit)
        _tell_moved(store.state(), emit)
        done = site.work(store, emit)
        if not done.failed:
            _read_test_split(store, site, emit)
    result = write_study_report(store.state(), places)
    if done.failed:
        failed = any(record.state == "failed" for record in store.state().records)
        then = (
            f"resume {name}` tries them again"
            if failed
            else f"delete {name}` before the next search"
        )
        raise LrtuneError(f"study {name!r} was given up: {done.reason}. `lrtune {then}.")
    return result


def _print_known(state: StudyState) -> None:
    """Prints what a study that is stopped would recommend; to standard error, as it is not the result."""
    found = recommend(state)
    if found is not None:
        print_recommendation(
            Report(state=state, recommendation=found, importances={}), Console(stderr=True)
        )


def _range_tests(store: StudyStore, site: Site, emit: Emit) -> None:
    config, state = store.config, store.state()
    if config.is_comparison:
        return
    space = parse_space(config.space_toml, config.space_name, optimizer=config.baseline.optimizer)
    if state.range_results or not space.needs_range_test:
        return
    results, seeds = [], fresh_seeds(config)
    for optimizer in space.needs_range_test:
        recipe, curves = for_optimizer(config.baseline, optimizer), list[RangeCurve]()
        for number, seed in enumerate(seeds, start=1):
            emit(SweepStarted(optimizer, number, len(seeds)))
            curves += site.range_test(recipe, [seed]).curves
        results.append(range_result(optimizer, curves))
        found = results[-1].interval
        if found:
            emit(
                Note(
                    f"{optimizer}: peak LR from {found.low:.3g} to {found.high:.3g}, first try {found.suggestion:.3g}"
                )
            )
        else:
            emit(
                Note(
                    f"{optimizer}: no signal, so default bounds are searched: {results[-1].reason}"
                )
            )
    store.record_ranges(tuple(results))


def _tell_moved(state: StudyState, emit: Emit) -> None:
    """Says, before the search begins, what its space changes in the recipes that are to be tried."""
    if not state.config.tried or trials_of(state):
        return
    space = fitted_space(state)
    for recipe in state.config.tried:
        wanted, found = _in_words(recipe), _in_words(moved(recipe, space, state.config.baseline))
        if changes := [
            f"{key} {wanted[key]} to {found[key]}" for key in wanted if wanted[key] != found[key]
        ]:
            emit(Note(f"{recipe.label}: moved into the space, {', '.join(changes)}"))


def _in_words(recipe: Recipe) -> dict[str, str]:
    """Its values by key, those of the decay among them; a grid's 0.30000000000000004 is 0.3."""
    values = recipe.to_dict()
    decay = values.pop("decay")
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in (values | decay).items()
    }


def _read_test_split(store: StudyStore, site: Site, emit: Emit) -> None:
    """Reads the test split once, for the recommended recipe and the baseline; keeps the recommended weights only.

    Where it cannot be read, the study has its outcome all the same.
    """
    state = store.state()
    found = recommend(state)
    if found is None or not found.final:
        return
    compared = [
        record
        for record in state.fresh
        if record.state == "completed" and record.run.trial in (found.best.trial, BASELINE)
    ]
    keys = {record.run.id: record.measurements[-1].prefix for record in compared}
    unread = [record.run.id for record in compared if record.test_top1 is None]
    top1s: Mapping[str, float] = {}
    if unread:
        try:
            top1s = site.test_top1s([keys[run_id] for run_id in unread], state.config.name)
        except LrtuneError as error:
            emit(Note(f"no Top-1 on the test images: {error}"))
    for run_id in unread:
        if keys[run_id] in top1s:
            store.record_test(run_id, top1s[keys[run_id]])
    best = {keys[record.run.id] for record in compared if record.run.trial == found.best.trial}
    site.places.checkpoints(state.config.name).keep_only(best)


def recipe_of(state: StudyState, found: Recommendation, which: str | int) -> Entrant:
    """A recipe of a study by the word or the number that its report has for it.

    Args: state: the study. found: what it recommends. which: `best`, `simplest`, `baseline`, the
        number of a trial, or in a comparison the name of a recipe.

    Raises:
        InputError: the study has none such.
    """
    if state.config.is_comparison:
        known = {one.name: one for one in (baseline_of(state), *entrants(state))}
        others = f"one of {', '.join(known)}"
    else:
        trials = (
            Entrant(number=t.number, name=f"trial {t.number}", recipe=t.recipe)
            for t in trials_of(state)
        )
        known = {str(trial.number): trial for trial in trials}
        others = f"the number of one of its {len(known)} trials"
    known["baseline"] = baseline_of(state)
    for word, contender in (("best", found.best), ("simplest", found.simplest or found.best)):
        known[word] = Entrant(number=contender.trial, name=contender.name, recipe=contender.recipe)
    if str(which) not in known:
        words = "best, simplest, baseline"
        raise InputError(
            f"a recipe of study {state.config.name!r} must be {words} or {others}, but got {which!r}."
        )
    return known[str(which)]


def result_of(state: StudyState, places: Places) -> SearchResult:
    """What is known of a study at whatever stage it is."""
    recommendation = recommend(state)
    made = Report(state=state, recommendation=recommendation, importances=importances(state))
    folder = places.out / state.config.name
    return SearchResult(state=state, recommendation=recommendation, folder=folder, report=made)


def write_study_report(state: StudyState, places: Places) -> SearchResult:
    """Writes the report of a study at whatever stage it is.

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
