"""A study on its way: range tests, runs, test split, report; each only where it is not recorded yet."""

import os

from rich.console import Console

from lrtune.app.engines import Site
from lrtune.app.places import Places
from lrtune.core.errors import LrtuneError, StoreError
from lrtune.core.events import Note
from lrtune.core.space import parse_space
from lrtune.core.study import StudyState
from lrtune.decide.race import fresh_seeds
from lrtune.decide.recommend import recommend
from lrtune.report.document import Report
from lrtune.report.files import write_report
from lrtune.report.live import LiveDisplay
from lrtune.report.result import SearchResult, runs_dataframe
from lrtune.search.engine import Emit
from lrtune.search.sampler import importances
from lrtune.store.database import StudyStore
from lrtune.training.range_test import for_optimizer


def run_study(store: StudyStore, site: Site, places: Places, *, quiet: bool) -> SearchResult:
    """Goes on with a study until it is done, and writes its report."""
    site.use(store.config.settings)  # it may have been begun with another number of jobs, and so of threads
    with LiveDisplay(store.state(), Console(stderr=True), device=site.device, quiet=quiet) as display:
        _range_tests(store, site, display)
        done = site.work(store, display)
        if done.failed:
            raise LrtuneError(f"study {store.config.name!r} was given up: {done.reason}.")
        _read_test_split(store, site)
    return write_study_report(store.state(), places)


def _range_tests(store: StudyStore, site: Site, emit: Emit) -> None:
    config, state = store.config, store.state()
    if config.recipes:
        return
    space = parse_space(config.space_toml, config.space_name, optimizer=config.baseline.optimizer)
    if state.range_results or not space.needs_range_test:
        return
    results = []
    for optimizer in space.needs_range_test:
        emit(Note(f"range test of {optimizer}"))
        results.append(site.range_test(for_optimizer(config.baseline, optimizer), fresh_seeds(state)))
        found = results[-1].interval
        if found:
            emit(
                Note(f"{optimizer}: peak LR from {found.low:.3g} to {found.high:.3g}, first try {found.suggestion:.3g}")
            )
        else:
            emit(Note(f"{optimizer}: no signal, so default bounds are searched: {results[-1].reason}"))
    store.record_ranges(tuple(results))


def _read_test_split(store: StudyStore, site: Site) -> None:
    """Reads the test split once, for the recommended recipe and the baseline; keeps the recommended weights only."""
    state = store.state()
    found = recommend(state)
    if found is None or not found.final:
        return
    compared = [
        record
        for record in (*state.of_kind("baseline"), *state.of_kind("confirm"))
        if record.state == "completed" and record.run.trial in (found.best.trial, -1)
    ]
    keys = {record.run.id: record.measurements[-1].prefix for record in compared}
    unread = [record.run.id for record in compared if record.test_top1 is None]
    if unread:
        top1s = site.test_top1s([keys[run_id] for run_id in unread], state.config.name)
        for run_id in unread:
            if keys[run_id] in top1s:
                store.record_test(run_id, top1s[keys[run_id]])
    best = {keys[record.run.id] for record in compared if record.run.trial == found.best.trial}
    site.places.checkpoints(state.config.name).keep_only(best)


def write_study_report(state: StudyState, places: Places) -> SearchResult:
    """Writes the report of a study at whatever stage it is.

    Raises:
        StoreError: its folder cannot be written to.
    """
    recommendation = recommend(state)
    made = Report(
        state=state,
        recommendation=recommendation,
        importances=importances(state),
        environment=state.config.environment,
        command=state.config.command,
    )
    folder = places.out / state.config.name
    try:
        write_report(made, folder)
        temporary = folder / f"trials.{os.getpid()}.tmp"
        runs_dataframe(state).to_csv(temporary, index=False)
        temporary.replace(folder / "trials.csv")
    except OSError as error:
        raise StoreError(f"the report cannot be written to {folder}: {error.strerror}.") from None
    return SearchResult(state=state, recommendation=recommendation, folder=folder, report=made)
