"""What a study trains: a task, by lrtune's own loop, or a command that is steered from outside."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrtune.app.arguments import (
    changed_settings,
    num_jobs,
    objective_of,
    open_task,
    task_source,
    threads_of,
    visible_gpus,
    with_settings,
)
from lrtune.app.engines import open_native
from lrtune.app.places import RUNS, Places
from lrtune.core.commands import Compare, Search
from lrtune.core.decays import Own
from lrtune.core.engines import EngineOptions, Local
from lrtune.core.errors import InputError, Problems
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.sources import PLACEHOLDERS, CommandLine, TaskFile, TaskSource
from lrtune.core.space import Space
from lrtune.core.study import StudyConfig, TrainSettings
from lrtune.core.training import OWN_FAULTS, Devices, OpenTraining
from lrtune.reporting import wording
from lrtune.store.encoding import digest
from lrtune.training.command.places import parse_place
from lrtune.training.command.process import misspelt
from lrtune.training.command.recording import First, Recorded, alone, record, recorded_file
from lrtune.training.command.steered import asks_for
from lrtune.training.command.training import CommandTraining
from lrtune.training.task import Task, describe_source, source_from
from lrtune.tuning.local import first_devices

Tell = Callable[[str], None]
LONGEST_NAME = 60
"""Letters of a name that a study is given, without the digits at its end."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a study trains, with what is known of it before the study begins."""

    name: str
    """Short name, for the names of studies."""
    source: TaskSource
    description: Mapping[str, Any]
    """What tells it from others, as plain values."""
    epochs: int
    """Horizon of a run, unless another one is asked for."""
    baseline: Recipe
    """What its user has today."""
    own_optimizer: str | None = None
    """The only optimizer that it can be trained with; `None`: any."""
    objective: Objective
    """The metric that decides."""
    settings: TrainSettings
    """How its runs are trained."""
    open: Callable[[EngineOptions, TrainSettings, str], OpenTraining]
    """Returns what opens its training, for a study of this name; the name may be empty."""

    def study_name(self, config: StudyConfig) -> str:
        """Returns a short name for a study that has none: the same for the same command.

        It has what sets the study apart in words, and four digits for the rest: `digits-b416`,
        `digits-12ep-adamw-b416`.
        """
        words = [self.name]
        if config.epochs != self.epochs:
            words.append(f"{config.epochs}ep")
        if config.is_comparison:
            words.append("compare")
        elif config.baseline.optimizer != self.baseline.optimizer:
            words.append(config.baseline.optimizer)
        if config.space_name not in ("", Search.space):
            words.append(Path(config.space_name).stem)
        text = re.sub(r"[^A-Za-z0-9_.+]+", "-", "-".join(words)).strip("-.")
        return f"{text[:LONGEST_NAME]}-{digest(config)}"

    @property
    def steered(self) -> Recipe | None:
        """The command as it is; `None` of a task.

        A command keeps the files of a study's runs, in a folder of the study's name.
        """
        return None if self.own_optimizer is None else self.baseline


def _of_task(task: Task, source: TaskSource, tell: Tell) -> Subject:
    """A task, by lrtune's own loop; a file names it where it has no name of its own.

    What was taken for what in its data is told.
    """
    if task.data_facts:
        tell(wording.data_facts(task.data_facts))
    file = source.path.stem if isinstance(source, TaskFile) else Task.name
    return Subject(
        name=file if task.name == Task.name else task.name,
        source=source,
        description=describe_source(source),
        epochs=task.epochs,
        baseline=task.baseline,
        objective=task.decides,
        settings=task.settings,
        open=lambda options, settings, _study: open_native(options, task, source, settings),
    )


def folder_name(description: Mapping[str, Any]) -> str:
    """The folder of the first run of a command, which all studies of it share.

    It is the same wherever its metric is read.
    """
    runs = {key: value for key, value in description.items() if key != "read"}
    text = json.dumps(runs, sort_keys=True)
    return f"recorded-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def subject_of(asked: Search | Compare, problems: Problems, tell: Tell, first: First) -> Subject:
    """Opens what a search or a comparison trains, and notes what is wrong with it.

    A command that has not been run yet is run once, as it is.

    Args:
        asked: task or command, its settings and its metric.
        problems: what was wrong so far; nothing is run where anything is.
        first: what the placeholders of a command stand for where it is as it is.
        tell: told what is done before the study begins.

    Raises:
        InputError: there is no such task, so that nothing more can be checked.
        TaskError: the command cannot be steered or read.
    """
    source = None
    with problems.gather():
        source = task_source(asked.task)
    if isinstance(source, CommandLine):
        return _command(source, asked, problems, tell, first)
    if first.values:
        problems.append("[command] of a space or a recipe needs a command, which has placeholders.")
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
        loaded = with_settings(loaded, changed_settings(asked), asked.chosen_engine, source)
    problems += _timeout_problems(asked.chosen_engine)
    return _of_task(loaded, source, tell)


def _command(
    source: CommandLine, asked: Search | Compare, problems: Problems, tell: Tell, first: First
) -> Subject:
    problems += [
        f"`command.{name}` must have its place in the command, written {{{name}}}."
        for name in first.values
        if not asks_for(source, name)
    ]
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
    engine, places = asked.chosen_engine, Places.of(asked)
    subject = _opened(source, objective, engine, places, first, tell)
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
        return [
            f"{name}: `command` is for a training command, which has placeholders."
            for name, recipe in recipes.items()
            if recipe.command
        ]
    filled = {name for name, _ in subject.baseline.command}
    problems = [
        f"{name}: `command` must fill {_braced(filled)}, but it fills {_braced(given)}."
        for name, recipe in recipes.items()
        if (given := {key for key, _ in recipe.command}) != filled
    ]
    return problems + [
        f"{name}: `optimizer` must be {own}, which the command has, but got {recipe.optimizer}."
        for name, recipe in recipes.items()
        if recipe.optimizer != own
    ]


def space_problems(subject: Subject, space: Space) -> list[str]:
    """What a space says that a command has by itself."""
    own = subject.own_optimizer
    if own is None:
        return []
    problems = [
        f"{space.source}: [parameters] optimizer: must be {own}, which the command has, but got "
        f"{name}."
        for name in space.choices("optimizer")
        if name != own
    ]
    tables = {"[parameters]": space.parameters} | {
        f"[optimizer.{name}]": table for name, table in space.optimizers.items()
    }
    return problems + [
        f"{space.source}: {where} {key}: is the command's own, so it cannot be set."
        for where, table in tables.items()
        for key in ("momentum", "nesterov")
        if key in table
    ]


def _braced(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "nothing"


def _timeout_problems(engine: EngineOptions) -> list[str]:
    """What is wrong with the time that runs of lrtune's own training may be silent for."""
    if isinstance(engine, Local) and engine.trial_timeout_s:
        return ["`trial_timeout_s=` does not go with `engine=local` unless a command is trained."]
    return []


def first_of(config: StudyConfig) -> First:
    """What the placeholders of a command stood for in the first run of a study."""
    peak_lr = None if isinstance(config.baseline.decay, Own) else config.baseline.peak_lr
    return First(
        seed=config.seed + 1,
        epochs=config.epochs,
        peak_lr=peak_lr,
        values=dict(config.baseline.command),
    )


def resumed(config: StudyConfig, engine: EngineOptions, places: Places, tell: Tell) -> Subject:
    """Opens what a study trains again.

    Raises:
        InputError: it has changed, or only the program has it that began the study.
    """
    source = source_from(config.task)
    if isinstance(source, CommandLine):
        first = first_of(config)
        subject = _opened(source, config.objective, engine, places, first, tell)
        return replace(subject, settings=config.settings)
    Problems(_timeout_problems(engine)).raise_any()
    task = open_task(source, str(config.objective))
    return _of_task(replace(task, settings=config.settings), source, tell)


def _opened(
    source: CommandLine,
    objective: Objective | None,
    engine: EngineOptions,
    places: Places,
    first: First,
    tell: Tell,
) -> Subject:
    """Opens a command by what its first run has told; it is run if it has not been."""
    epochs = first.epochs
    Problems(misspelt(source.words, (*PLACEHOLDERS, *first.values))).raise_any()
    if epochs is None and asks_for(source, "epochs"):
        raise InputError("`epochs=` must say what {epochs} in the command stands for.")
    folder = Path(places.home).resolve() / RUNS
    description = describe_source(source)
    recorded_in = folder / folder_name(description)
    metric = objective.metric if objective else None
    devices = Devices()
    if isinstance(engine, Local):
        devices = first_devices(engine, visible_gpus("auto"))
    with alone(recorded_in, tell):
        recorded = Recorded.load(recorded_file(recorded_in, source, metric, first)) or record(
            source,
            objective,
            first,
            folder=recorded_in,
            timeout_s=engine.trial_timeout_s,
            tell=tell,
            devices=devices,
        )
    if asks_for(source, "epochs") and recorded.epochs != epochs:
        raise InputError(
            f"With {{epochs}} in it the command must give `{recorded.objective}` once an epoch, "
            f"but it gave {recorded.epochs} values in {epochs} epochs."
        )
    if recorded.epochs > 1:
        tell(
            f"its start takes {recorded.start_s:.1f} s, an epoch {recorded.epoch_s:.2g} s; looks "
            "at a recipe are no shorter than the start"
        )
    if recorded.faults:
        tell(f"{OWN_FAULTS}: {' '.join(recorded.faults)} `lrtune audit` says how to mend them.")
    objective = objective or Objective.parse(recorded.objective)
    training = CommandTraining(
        command=source,
        description=description,
        recorded=recorded,
        objective=objective,
        folder=recorded_in,
        threads=0,
        timeout_s=engine.trial_timeout_s,
    )

    def open_training(options: EngineOptions, settings: TrainSettings, study: str) -> OpenTraining:
        is_alone = isinstance(options, Local) and num_jobs(options, "auto") == 1
        threads = 0 if is_alone else settings.threads
        return replace(training, folder=folder / study if study else recorded_in, threads=threads)

    return Subject(
        name=source.title_text,
        source=source,
        description=description,
        epochs=recorded.epochs,
        baseline=recorded.baseline,
        own_optimizer=recorded.known_optimizer,
        objective=objective,
        settings=TrainSettings(threads=threads_of(engine, "auto", source=source)),
        open=open_training,
    )
