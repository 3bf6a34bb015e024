"""A study on its way: range tests, runs, test split, report; each only where it is not recorded yet."""

from collections.abc import Mapping

from rich.console import Console

from lrtune.app.engines import Site
from lrtune.app.places import Places
from lrtune.core.errors import LrtuneError, StoreError
from lrtune.core.events import Event, Note
from lrtune.core.space import parse_space
from lrtune.core.study import StudyState
from lrtune.core.trial import BASELINE
from lrtune.decide.plan import outcome
from lrtune.decide.race import fresh_seeds
from lrtune.decide.recommend import recommend
from lrtune.report.document import Report
from lrtune.report.files import write_report
from lrtune.report.live import LiveDisplay
from lrtune.report.result import SearchResult
from lrtune.search.engine import Emit
from lrtune.search.sampler import importances
from lrtune.store.database import StudyStore
from lrtune.training.range_test import for_optimizer


def run_study(
    store: StudyStore, site: Site, places: Places, *, quiet: bool, on_event: Emit | None = None
) -> SearchResult:
    """Goes on with a study until it is done, and writes its report. One that was given up tries its failed runs again.

    Raises:
        LrtuneError: it is given up; its report is written all the same.
    """
    name = store.config.name
    site.use(store.config.settings)  # it may have been begun with another number of jobs, and so of threads
    if (ended := outcome(store.state())) and ended.failed:
        store.retry_failed()
    with LiveDisplay(store.state(), Console(stderr=True), device=site.device, quiet=quiet) as display:

        def emit(event: Event) -> None:
            display(event)
            if on_event is not None:
                on_event(event)

        _range_tests(store, site, emit)
        done = site.work(store, emit)
        if not done.failed:
            _read_test_split(store, site, emit)
    result = write_study_report(store.state(), places)
    if done.failed:
        raise LrtuneError(f"study {name!r} was given up: {done.reason}. `lrtune resume {name}` tries them again.")
    return result


def _range_tests(store: StudyStore, site: Site, emit: Emit) -> None:
    config, state = store.config, store.state()
    if config.is_comparison:
        return
    space = parse_space(config.space_toml, config.space_name, optimizer=config.baseline.optimizer)
    if state.range_results or not space.needs_range_test:
        return
    results = []
    for optimizer in space.needs_range_test:
        emit(Note(f"range test of {optimizer}"))
        results.append(site.range_test(for_optimizer(config.baseline, optimizer), fresh_seeds(config)))
        found = results[-1].interval
        if found:
            emit(
                Note(f"{optimizer}: peak LR from {found.low:.3g} to {found.high:.3g}, first try {found.suggestion:.3g}")
            )
        else:
            emit(Note(f"{optimizer}: no signal, so default bounds are searched: {results[-1].reason}"))
    store.record_ranges(tuple(results))


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
        raise StoreError(f"the report cannot be written to {result.folder}: {error.strerror}.") from None
    return result
