"""What a study trains: a task, by lrtune's own loop, or a command that is steered from outside."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lrtune.app.arguments import (
    changed_settings,
    objective_of,
    open_task,
    task_source,
    threads_of,
    visible_gpus,
    with_settings,
)
from lrtune.app.engines import open_native
from lrtune.app.places import Places
from lrtune.core.commands import Compare, Search
from lrtune.core.decays import Plateau
from lrtune.core.engines import EngineOptions, Local
from lrtune.core.errors import InputError, Problems
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.sources import CommandLine, TaskSource
from lrtune.core.study import StudyConfig, TrainSettings
from lrtune.core.training import OpenTraining
from lrtune.training.command.opening import OpenCommand
from lrtune.training.command.reading import parse_place
from lrtune.training.command.recording import Recorded, record, recorded_file
from lrtune.training.command.steered import asks_for
from lrtune.training.command.training import CommandTraining
from lrtune.training.task import Task, describe_source, source_from

Tell = Callable[[str], None]
RUNS = "runs"
"""Folder of the runs of commands, in the home of the studies."""


class Subject(Protocol):
    """What a study trains, with what is known of it before the study begins."""

    @property
    def name(self) -> str:
        """Short name, for the names of studies."""

    @property
    def source(self) -> TaskSource:
        """Where it comes from."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What tells it from others, as plain values."""

    @property
    def epochs(self) -> int:
        """Horizon of a run, unless another one is asked for."""

    @property
    def baseline(self) -> Recipe:
        """What its user has today."""

    @property
    def own_optimizer(self) -> str | None:
        """The only optimizer that it can be trained with; `None`: any."""

    @property
    def objective(self) -> Objective:
        """The metric that decides."""

    @property
    def settings(self) -> TrainSettings:
        """How its runs are trained."""

    @property
    def keeps_runs(self) -> bool:
        """Whether it keeps the files of a study's runs, in a folder of the study's name."""

    def open(
        self, options: EngineOptions, settings: TrainSettings, study: str = ""
    ) -> OpenTraining:
        """Returns what opens its training, for a study of this name."""


@dataclass(frozen=True, kw_only=True)
class TaskSubject:
    """A task, by lrtune's own loop."""

    task: Task
    source: TaskSource
    keeps_runs: bool = False
    own_optimizer: str | None = None

    @property
    def name(self) -> str:
        """See `Subject`."""
        return self.task.name

    @property
    def description(self) -> Mapping[str, Any]:
        """See `Subject`."""
        return describe_source(self.source)

    @property
    def epochs(self) -> int:
        """See `Subject`."""
        return self.task.epochs

    @property
    def baseline(self) -> Recipe:
        """See `Subject`."""
        return self.task.baseline

    @property
    def objective(self) -> Objective:
        """See `Subject`."""
        return self.task.decides

    @property
    def settings(self) -> TrainSettings:
        """See `Subject`."""
        return self.task.settings

    def open(
        self, options: EngineOptions, settings: TrainSettings, study: str = ""
    ) -> OpenTraining:
        """See `Subject`."""
        return open_native(options, self.task, self.source, settings)


@dataclass(frozen=True, kw_only=True)
class CommandSubject:
    """A command, steered from outside; its first run as it is has told the rest."""

    source: CommandLine
    recorded: Recorded
    objective: Objective
    folder: Path
    """Of the runs of commands."""
    settings: TrainSettings
    keeps_runs: bool = True
    timeout_s: float = 0.0
    """Seconds without an epoch after which a run is ended; 0: never."""

    @property
    def name(self) -> str:
        """See `Subject`."""
        return self.source.title_text

    @property
    def description(self) -> Mapping[str, Any]:
        """See `Subject`."""
        return describe_source(self.source)

    @property
    def epochs(self) -> int:
        """See `Subject`."""
        return self.recorded.epochs

    @property
    def baseline(self) -> Recipe:
        """See `Subject`."""
        return self.recorded.baseline

    @property
    def own_optimizer(self) -> str:
        """See `Subject`."""
        return self.recorded.known_optimizer

    def open(
        self, options: EngineOptions, settings: TrainSettings, study: str = ""
    ) -> OpenTraining:
        """See `Subject`."""
        is_alone = isinstance(options, Local) and options.num_jobs(visible_gpus("auto")) == 1
        training = CommandTraining(
            command=self.source,
            description=self.description,
            recorded=self.recorded,
            objective=self.objective,
            folder=self.folder / (study or folder_name(self.description)),
            threads=0 if is_alone else settings.threads,
            timeout_s=self.timeout_s,
        )
        return OpenCommand(training)


def folder_name(description: Mapping[str, Any]) -> str:
    """The folder of the first run of a command, which all studies of it share."""
    text = json.dumps(dict(description), sort_keys=True)
    return f"recorded-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def subject_of(asked: Search | Compare, problems: Problems, tell: Tell) -> Subject:
    """Opens what a search or a comparison trains, and notes what is wrong with it.

    A command that has not been run yet is run once, as it is.

    Args:
        asked: task or command, its settings and its metric.
        problems: what was wrong so far; nothing is run where anything is.
        tell: told what is done before the study begins.

    Raises:
        InputError: there is no such task, so that nothing more can be checked.
        TaskError: the command cannot be steered or read.
    """
    source = None
    with problems.gather():
        source = task_source(asked.task)
    if isinstance(source, CommandLine):
        return _command(source, asked, problems, tell)
    loaded = None
    if source is not None:
        with problems.gather():
            loaded = open_task(source, asked.metric)
    objective = objective_of(asked.task, asked.metric, loaded)
    if asked.target is not None and objective is not None:
        problems += filter(None, [objective.target_problem(asked.target)])
    if loaded is None or source is None:
        raise InputError(problems)
    with problems.gather():
        loaded = with_settings(loaded, changed_settings(asked), asked.chosen_engine)
    problems += _timeout_problems(asked.chosen_engine)
    return TaskSubject(task=loaded, source=source)


def _command(
    source: CommandLine, asked: Search | Compare, problems: Problems, tell: Tell
) -> CommandSubject:
    problems += [
        f"`{name}=` is a setting of lrtune's own training; a command has its own."
        for name in changed_settings(asked)
    ]
    if isinstance(asked, Search) and asked.optimizer is not None:
        problems.append("`optimizer=` does not go with a command, which has its own optimizer.")
    objective = None
    if asked.metric is not None:
        with problems.gather():
            objective = (
                asked.metric
                if isinstance(asked.metric, Objective)
                else Objective.parse(asked.metric)
            )
    if asked.target is not None and objective is not None:
        problems += filter(None, [objective.target_problem(asked.target)])
    if source.read:
        with problems.gather():
            parse_place(source.read, objective.metric if objective else "")
    problems.raise_any()
    seed = asked.seed + 1  # the first of the fresh seeds
    engine, places = asked.chosen_engine, Places.of(asked)
    subject = _opened(source, objective, engine, places, seed, asked.epochs, tell)
    if asked.epochs is not None and asked.epochs > subject.epochs:
        problems.append(
            f"`epochs={asked.epochs}` may be fewer than the {subject.epochs} epochs of the command "
            "itself, never more. Write {epochs} where the command says how many it trains."
        )
    return subject


def command_problems(subject: Subject, recipes: Mapping[str, Recipe]) -> list[str]:
    """What is wrong with recipes that a command cannot be trained with.

    Args:
        subject: what is trained.
        recipes: by their names for messages.
    """
    own = subject.own_optimizer
    if own is None:
        return []
    problems = [
        f"{name}: `optimizer` must be {own}, which the command has, but got {recipe.optimizer}."
        for name, recipe in recipes.items()
        if recipe.optimizer != own
    ]
    problems += [
        f"{name}: a plateau decay needs its metric during the run, which a command gives too late."
        for name, recipe in recipes.items()
        if isinstance(recipe.decay, Plateau)
    ]
    return problems


def _timeout_problems(engine: EngineOptions) -> list[str]:
    """What is wrong with the time that runs of lrtune's own training may be silent for."""
    if isinstance(engine, Local) and engine.trial_timeout_s:
        return ["`trial_timeout_s=` does not go with `engine=local` unless a command is trained."]
    return []


def resumed(config: StudyConfig, engine: EngineOptions, places: Places, tell: Tell) -> Subject:
    """Opens what a study trains again.

    Raises:
        InputError: it has changed, or only the program has it that began the study.
    """
    source = source_from(config.task)
    if isinstance(source, CommandLine):
        seed = config.seed + 1
        subject = _opened(source, config.objective, engine, places, seed, config.epochs, tell)
        return replace(subject, settings=config.settings)
    Problems(_timeout_problems(engine)).raise_any()
    task = open_task(source, str(config.objective))
    return TaskSubject(task=replace(task, settings=config.settings), source=source)


def _opened(
    source: CommandLine,
    objective: Objective | None,
    engine: EngineOptions,
    places: Places,
    seed: int,
    epochs: int | None,
    tell: Tell,
) -> CommandSubject:
    """Opens a command by what its first run has told; it is run if it has not been."""
    if epochs is None and asks_for(source, "epochs"):
        raise InputError("`epochs=` must say what {epochs} in the command stands for.")
    folder = Path(places.home).resolve() / RUNS
    first = folder / folder_name(describe_source(source))
    metric = objective.metric if objective else None
    recorded = Recorded.load(recorded_file(first, source, metric, epochs or 0))
    if recorded is None:
        recorded = record(
            source,
            objective,
            folder=first,
            seed=seed,
            epochs=epochs or 0,
            timeout_s=engine.trial_timeout_s,
            tell=tell,
        )
    if asks_for(source, "epochs") and recorded.epochs != epochs:
        raise InputError(
            f"With {{epochs}} in it the command must give `{recorded.objective}` once an epoch, "
            f"but it gave {recorded.epochs} values in {epochs} epochs."
        )
    objective = objective or Objective.parse(recorded.objective)
    settings = TrainSettings(threads=threads_of(engine, "auto"))
    return CommandSubject(
        source=source,
        recorded=recorded,
        objective=objective,
        folder=folder,
        settings=settings,
        timeout_s=engine.trial_timeout_s,
    )
