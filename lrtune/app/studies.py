"""Takes a study from its beginning to its report: range tests, runs, test split.

What the study has recorded already is not done again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

from lrtune.app.arguments import check_name
from lrtune.app.engines import notes_before, open_engine, open_worker, places_of
from lrtune.app.places import Places
from lrtune.app.results import print_known, write_study_report
from lrtune.app.subjects import Subject, Tell, subject_of
from lrtune.core.commands import Compare, Find, Progress, Search
from lrtune.core.counts import count
from lrtune.core.decays import Plateau
from lrtune.core.engines import EngineOptions, Ray
from lrtune.core.errors import InputError, LrtuneError, Problems, StoreError
from lrtune.core.events import Event, Note, RunEnded, SweepStarted
from lrtune.core.interrupts import interrupts_repeated
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe, group_problems
from lrtune.core.run import BASELINE
from lrtune.core.space import Space, parse_space
from lrtune.core.study import SearchRules, StudyConfig, StudyState
from lrtune.core.training import Facts
from lrtune.decide.abilities import shares_seeds
from lrtune.decide.bounds import range_result
from lrtune.decide.budget import first_cost, num_finalists, race_runs
from lrtune.decide.plan import outcome
from lrtune.decide.race import fresh_seeds, idle_seeds
from lrtune.decide.recommend import recommend
from lrtune.decide.trials import trials_of
from lrtune.reporting.console import PlainConsole
from lrtune.reporting.live import LiveDisplay
from lrtune.reporting.result import SearchResult
from lrtune.schedules import build_schedule
from lrtune.store.database import StudyStore
from lrtune.training.command.recording import First
from lrtune.training.native.opening import NativeStates
from lrtune.training.native.randomness import preserved_random_states
from lrtune.training.native.range_test import for_optimizer
from lrtune.training.task import modules_of
from lrtune.tuning.engine import Emit, Engine
from lrtune.tuning.sampler import fitted_space, moved

Configure = Callable[[Engine], StudyConfig]
"""Makes the configuration of a study from the engine, which knows the facts of the training."""

VAL_LOSS = "val_loss"
"""The metric that looks are ranked by where the objective is a score."""
_TOO_LATE = "a plateau decay needs its metric during the run, which this training gives too late."


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments that a search and a comparison both hand to `train_study`."""

    options: EngineOptions
    """Options of the engine that trains it."""
    subject: Subject
    """What is trained, with the settings that were asked for."""
    places: Places
    """Places of the study's files."""
    quiet: bool = False
    """Show no progress."""
    on_event: Emit | None = None
    """Function that is called with each event."""


def request_of(asked: Search | Compare, problems: Problems, first: First) -> Request:
    """Returns what a search and a comparison are both asked for, and notes what is wrong with it.

    Args:
        asked: options of the study.
        problems: what was wrong so far.
        first: what the placeholders of a command stand for where it is as it is.

    Raises:
        InputError: there is no such task, so that nothing more can be checked.
    """
    if asked.study is not None:
        with problems.gather():
            check_name(asked.study)
    problems += Places.of(asked).problems()
    return Request(
        options=asked.chosen_engine,
        subject=subject_of(asked, problems, teller(asked), first),
        places=Places.of(asked),
        quiet=asked.quiet,
        on_event=asked.on_event,
    )


def teller(asked: Progress) -> Tell:
    """Returns what tells the user of what is done, unless nothing is to be shown."""

    def tell(text: str) -> None:
        if not asked.quiet:
            PlainConsole(stderr=True).print(text, markup=False, highlight=False)
        if asked.on_event is not None:
            asked.on_event(Note(text))

    return tell


def sweep_seeds(asked: Find, optimizer: str) -> Iterator[int]:
    """Yields the seed of each sweep of a range test, and tells the user when it begins."""
    tell = teller(asked)
    for number in range(1, asked.num_seeds + 1):
        tell(f"range test of {optimizer}, sweep {number} of {asked.num_seeds}")
        yield asked.seed + number - 1


def begun(
    asked: Search | Compare, request: Request, engine: Engine, *, epochs: int, baseline: Recipe
) -> StudyConfig:
    """Returns the configuration of a study that has just begun, without what only some have.

    Args:
        asked: options of the study.
        request: task of the study.
        engine: it knows the facts of the training.
        epochs: horizon of every full run.
        baseline: what the others are compared with.
    """
    facts = engine.facts
    return StudyConfig(
        **asked.values(SearchRules),
        name=asked.study or "",
        task=request.subject.description,
        space_name="",
        space_toml="",
        epochs=epochs,
        steps_per_epoch=facts.steps_per_epoch,
        objective=facts.objective,
        paired=shares_seeds(facts.abilities),
        follows="follow" in facts.abilities,
        num_validation=facts.num_validation,
        data_facts=facts.data_facts,
        groups=facts.groups,
        settings=request.subject.settings,
        baseline=baseline,
        environment=engine.environment(baseline),
    )


def train_study(configure: Configure, request: Request) -> SearchResult:
    """Begins a study, or goes on with it, until it is done.

    An interrupt is raised on with a note on how to resume the study.

    Args:
        configure: makes the study's configuration once the engine is open and the facts of the
            training are known. A study without a name gets one from the rest of it.
        request: task, engine and places of the study.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    options, subject = request.options, request.subject
    request = replace(request, places=places_of(options, request.places))
    training = subject.open(options, subject.settings, "")
    # To ask for the random states of a GPU takes memory there, which is left to a command.
    is_command = subject.steered is not None
    with (
        interrupts_repeated(),
        nullcontext() if is_command else preserved_random_states(),
        open_engine(
            options,
            training,
            request.places,
            device=subject.settings.device,
            modules=modules_of(subject.source),
        ) as engine,
    ):
        config = configure(engine)
        config = replace(config, name=config.name or subject.study_name(config))
        database = request.places.database()
        is_new = config.name not in database.names()
        store = database.open(config)
        settings = store.config.settings  # it may have begun with another number of threads
        training = subject.open(options, settings, config.name)
        if is_command or settings != subject.settings:
            engine.use(training)
        try:
            return _run(store, engine, request)
        except KeyboardInterrupt as stop:
            if not request.quiet:
                with suppress(StoreError):  # which may be why it was stopped
                    print_known(store.state())
            again = "the same call" if "python" in config.task else f"`lrtune resume {config.name}`"
            stop.add_note(f"What was finished is kept: {again} goes on from there.")
            raise
        except Exception:
            with suppress(LrtuneError):  # the first one is what is told
                if is_new and not _has_begun(store.state()):
                    request.places.forget(config.name)
            raise


def _has_begun(state: StudyState) -> bool:
    """Whether a run of a study has been trained for an epoch, or has come to any end."""
    return any(record.measurements or record.state != "running" for record in state.records)


def check_schedules(config: StudyConfig, facts: Facts) -> None:
    """Checks that the recipes of a study that a user chose have a schedule of its length.

    Raises:
        InputError: one has none.
    """
    for recipe in (config.baseline, *(named.recipe for named in config.recipes)):
        build_schedule(recipe, epochs=config.epochs, steps_per_epoch=facts.steps_per_epoch)


def check_budget(config: StudyConfig) -> None:
    """Checks that a budget in epochs or full runs covers what a study cannot do without.

    Raises:
        InputError: it does not.
    """
    budget = config.budget
    if budget.unit not in ("epochs", "runs"):
        return
    amount = budget.amount * (config.epochs if budget.unit == "runs" else 1)
    if amount < first_cost(config):
        raise InputError(
            f"`budget` must cover the {first_cost(config)} epochs that a search of a single "
            f"recipe takes, but got {budget}."
        )


def ranked_by(asked: str | None, facts: Facts) -> str:
    """Returns what looks are ranked by, which tells good recipes apart sooner than a score does.

    Raises:
        InputError: the training does not measure what was asked for.
    """
    objective = facts.objective
    if asked is None:
        is_score = objective.direction == "max" and VAL_LOSS in facts.metrics
        return str(Objective.parse(VAL_LOSS) if is_score else objective)
    chosen = Objective.parse(asked) if asked != objective.metric else objective
    if chosen.metric not in facts.metrics:
        raise InputError(
            f"`rank_by` must be a metric that the training measures ({', '.join(facts.metrics)}), "
            f"but got {asked!r}."
        )
    return str(chosen)


def check_facts(facts: Facts, recipes: Mapping[str, Recipe], objective: Objective) -> None:
    """Checks that a training has the metrics and parameter groups that a study needs.

    Args:
        facts: of the training.
        recipes: by their names for messages.
        objective: its metric must be measured.

    Raises:
        InputError: a metric or a parameter group is missing; it lists every broken rule.
    """
    measured = ", ".join(facts.metrics)
    problems = []
    if objective.metric not in facts.metrics:
        problems.append(
            f"`metric` must be one that the training measures ({measured}), but got "
            f"{objective.metric!r}."
        )
    for name, recipe in recipes.items():
        decay = recipe.decay
        if isinstance(decay, Plateau) and "follow" not in facts.abilities:
            problems.append(f"{name}: {_TOO_LATE}")
        elif isinstance(decay, Plateau):
            monitor = Objective.parse(decay.monitor).metric
            if monitor not in facts.metrics:
                problems.append(
                    f"{name}: `monitor` must be a metric that the training measures "
                    f"({measured}), but got {monitor!r}."
                )
        scaled = group_problems((group for group, _ in recipe.group_scales), facts.groups)
        problems += [f"{name}: {problem}" for problem in scaled]
    if problems:
        raise InputError(problems)


def check_space(facts: Facts, space: Space) -> None:
    """Checks that a training has the parameter groups and the metrics that a space speaks of.

    Raises:
        InputError: it does not have all of them.
    """
    problems = group_problems(space.scaled_groups, facts.groups)
    if "follow" not in facts.abilities and set(space.choices("decay")) == {Plateau.name}:
        problems.append(f"[parameters] decay: {_TOO_LATE}")
    problems += [
        f"`monitor` must be a metric that the training measures ({', '.join(facts.metrics)}), but "
        f"got {monitor!r}."
        for monitor in space.monitors
        if Objective.parse(monitor).metric not in facts.metrics
    ]
    if problems:
        raise InputError([f"{space.source}: {problem}" for problem in problems])


def _run(store: StudyStore, engine: Engine, request: Request) -> SearchResult:
    """Goes on with a study until it is done, and writes its report.

    A study that was given up tries its failed runs again.

    Raises:
        LrtuneError: the study is given up; its report is written nevertheless.
    """
    name, facts, places = store.config.name, engine.facts, request.places
    if (ended := outcome(store.state())) and ended.failed:
        store.retry_failed()
    console = PlainConsole(stderr=True)
    with LiveDisplay(store.state(), console, device=facts.device, quiet=request.quiet) as display:

        def emit(event: Event) -> None:
            display(event)
            if request.on_event is not None:
                request.on_event(event)
            ended = event.record.run.kind if isinstance(event, RunEnded) else ""
            if ended == "baseline" and (same := idle_seeds(store.state())):
                emit(Note(same))

        for note in notes_before(request.options, store.config, facts):
            emit(Note(note))
        _range_tests(store, engine, emit)
        _tell_moved(store.state(), emit)
        _tell_proof(store.state(), emit)
        done = outcome(store.state())
        if done is None:
            can_resume = "resume" in facts.abilities
            in_memory = isinstance(request.options, Ray)
            done = engine.work(partial(open_worker, name, places, in_memory, can_resume), emit)
        if not done.failed:
            _read_test_split(store, engine, places, emit)
    result = write_study_report(store.state(), places)
    if done.failed:
        failed = any(record.state == "failed" for record in store.state().records)
        then = (
            f"resume {name}` tries them again"
            if failed
            else f"delete {name}` before the next search"
        )
        raise LrtuneError(f"study {name!r} was given up: {done.reason}.\n`lrtune {then}.")
    return result


def _range_tests(store: StudyStore, engine: Engine, emit: Emit) -> None:
    config, state = store.config, store.state()
    if config.is_comparison or "sweep" not in engine.facts.abilities:
        return
    space = parse_space(config.space_toml, config.space_name, optimizer=config.baseline.optimizer)
    if state.range_results or not space.needs_range_test:
        return
    results, seeds = [], fresh_seeds(config)
    for optimizer in space.needs_range_test:
        recipe, curves = for_optimizer(config.baseline, optimizer), []
        for number, seed in enumerate(seeds, start=1):
            emit(SweepStarted(optimizer, number, len(seeds)))
            curves.append(engine.sweep(recipe, seed=seed))
        result = range_result(optimizer, curves)
        if (interval := result.interval) is not None:
            text = (
                f"peak LR from {interval.low:.3g} to {interval.high:.3g}, first try "
                f"{interval.suggestion:.3g}"
            )
        else:
            text = f"no signal, so default bounds are searched. {result.reason}"
        emit(Note(f"{optimizer}: {text}"))
        results.append(result)
    store.record_ranges(tuple(results))


def _tell_moved(state: StudyState, emit: Emit) -> None:
    """Reports, before the search begins, what its space changes in the recipes to try first."""
    if not state.config.tried or trials_of(state):
        return
    space = fitted_space(state)
    for recipe in state.config.tried:
        before, after = _in_words(recipe), _in_words(moved(recipe, space, state.config))
        if changes := [
            f"{key} {before[key]} to {after[key]}" for key in before if before[key] != after[key]
        ]:
            emit(Note(f"{recipe.label}: moved into the space, {', '.join(changes)}"))


def _tell_proof(state: StudyState, emit: Emit) -> None:
    """Reports, before the search begins, what its proof may cost."""
    fewest, most = race_runs(state.config, num_finalists(state) + 1)
    if state.config.is_comparison or trials_of(state) or not most:
        return
    epochs = count(state.config.epochs, "epoch")
    cost = f"{fewest} to {most} full runs" if most > fewest else count(fewest, "full run")
    emit(Note(f"the proof takes {cost} of {epochs}; `confirm` and `matters` can make it shorter"))


def _in_words(recipe: Recipe) -> dict[str, str]:
    """Returns a recipe's values as text by key, including those of its decay.

    Numbers are rounded: a grid's 0.30000000000000004 is `0.3`.
    """
    values = recipe.to_dict()
    decay = values.pop("decay")
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in (values | decay).items()
    }


def _read_test_split(store: StudyStore, engine: Engine, places: Places, emit: Emit) -> None:
    """Reads the test split once, for the recommended recipe and the baseline.

    Afterwards only the checkpoints of the recommended recipe are kept. If the split cannot be read,
    the study is done without it.
    """
    state = store.state()
    recommendation = recommend(state)
    checkpoints = places.checkpoints(state.config.name)
    if recommendation is None or not recommendation.final:
        checkpoints.keep_only(())  # looks are whole runs, and no run goes on from them
        return
    best = recommendation.best.trial
    finals = {
        record.run.id: record
        for record in state.fresh
        if record.state == "completed" and record.run.trial in (best, BASELINE)
    }
    keys = {run_id: record.measurements[-1].prefix for run_id, record in finals.items()}
    unread = [run_id for run_id, record in finals.items() if record.test is None]
    if unread and "test" in engine.facts.abilities:
        try:
            tested = engine.test([keys[run_id] for run_id in unread], NativeStates(checkpoints))
        except LrtuneError as error:
            emit(Note(f"the test split was not read: {error}"))
        else:
            for run_id in unread:
                if keys[run_id] in tested:
                    store.record_test(run_id, tested[keys[run_id]])
    kept = {keys[run_id] for run_id, record in finals.items() if record.run.trial == best}
    checkpoints.keep_only(kept)
