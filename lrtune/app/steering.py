"""The commands `apply` and `log`, for studies of a training command."""

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lrtune.app.arguments import changed_settings
from lrtune.app.places import RUNS, Places
from lrtune.app.results import recipe_of
from lrtune.app.studies import sweep_seeds
from lrtune.app.subjects import first_of, folder_name
from lrtune.auditing.audit import audit_of_lrs
from lrtune.core import commands
from lrtune.core.commands import takes
from lrtune.core.decays import Own, Plateau
from lrtune.core.errors import InputError, Problems, TaskError
from lrtune.core.optimizers import OWN
from lrtune.core.recipe import Recipe, in_words
from lrtune.core.sources import PLACEHOLDERS, CommandLine
from lrtune.core.study import RangeResult, StudyConfig
from lrtune.decide.bounds import range_result
from lrtune.decide.recommend import recommend
from lrtune.decide.sweep import sweep_lrs
from lrtune.reporting.console import PlainConsole
from lrtune.reporting.wording import recipe_label
from lrtune.schedules.build import build_schedule
from lrtune.training.command.epochs import Epochs
from lrtune.training.command.following import follow, lr_of
from lrtune.training.command.pace import at_pace, known_pace, num_steps_at
from lrtune.training.command.recording import Recorded, audit_of, peek, recorded_file
from lrtune.training.command.run_files import CommandAudit, read_board, read_failed
from lrtune.training.command.steered import Steered, asks_for, environment, words_for
from lrtune.training.command.training import plan_for, swept


@takes(commands.Apply)
def apply_to_command(asked: commands.Apply) -> int:
    """Trains a command once with the recommended schedule of a study, and returns its exit code.

    Raises:
        InputError: there is no such study or recipe, or the study is not one of a command.
        TaskError: the command trained, but at some step with another LR.
    """
    asked.sound(problems := Problems())
    if not asked.words:
        problems.append("The command to train must follow after `--`.")
    problems.raise_any()
    places = Places.of(asked)
    state = places.existing().study(asked.name).state()
    config, recommendation = state.config, recommend(state)
    recorded = _recorded(places, config)
    if recommendation is None:
        raise InputError(f"study {asked.name!r} has nothing to apply: no run of it has finished.")
    chosen = recipe_of(state, recommendation, asked.recipe)
    recipe = chosen.recipe
    command = CommandLine(
        asked.words, seed_offset="off", optimizer_index=config.task["optimizer_index"]
    )
    Problems(
        f"{{{name}}} must be in the command, since the recipe has {name} {in_words(value)}."
        for name, value in recipe.command
        if not asks_for(command, name)
    ).raise_any()
    schedule = build_schedule(recipe, epochs=config.epochs, steps_per_epoch=config.steps_per_epoch)
    own, follows = isinstance(recipe.decay, Own), isinstance(recipe.decay, Plateau)
    runs = Path(places.home).resolve() / RUNS / asked.name
    pace = known_pace(runs, dict(recipe.command)) or 1.0
    num_steps = num_steps_at(pace, schedule.total_steps)
    num_known = num_steps_at(pace, config.steps_per_epoch) if follows else num_steps
    lr = at_pace(lr_of(recipe, schedule), pace)
    plan = replace(
        plan_for(command, recorded, recipe, 0),
        mode="record" if own else "set",
        lrs=[lr(step) for step in range(num_known)],
        waits_for=recorded.written_as if follows else None,
        epochs=config.epochs,
    )
    folder = runs / f"apply-{os.getpid()}"
    plan.write(folder)
    _say(f"{asked.name}: {chosen.name}, {recipe_label(recipe, config.baseline)}")

    def answer(process: "subprocess.Popen[bytes]") -> None:
        if follows:
            reader = Epochs(folder, config.objective.metric, series=recorded.series)
            follow(reader, schedule, plan.lrs, pace=pace, runs=lambda: process.poll() is None)

    status = _started(words_for(command, plan, folder), folder, answer)
    if failed := read_failed(folder / "failed.json"):
        raise TaskError(f"The command was not trained with the recipe: {failed}.")
    board = read_board(folder / "board.bin")
    made = board.steps if board else 0
    if made != num_steps and not own:
        told = f"The command made {made} optimizer steps, but the schedule has {num_steps}."
        if made > num_steps:
            told += (
                " The rest had its last LR. Write {epochs} where the command says how many it "
                f"trains: it stands for {config.epochs}."
            )
        _say(told)
    return status


def _say(text: str) -> None:
    PlainConsole(stderr=True).print(text, markup=False, highlight=False)


def _started(
    words: Sequence[str], folder: Path, answer: Callable[["subprocess.Popen[bytes]"], None]
) -> int:
    """Runs a command in the foreground, and returns its exit code as a shell has it.

    Args:
        words: of the command.
        folder: of the run.
        answer: what is done while it runs.

    Raises:
        InputError: it cannot be started.
    """
    variables = {**os.environ, **environment(folder)}
    try:
        process = subprocess.Popen(words, env=variables)  # noqa: S603 (the user's own)
    except OSError as error:
        raise InputError(f"{words[0]} cannot be started: {error.strerror}.") from None
    with process:
        try:
            answer(process)
            status = process.wait()
        except KeyboardInterrupt:  # the command was interrupted as well
            status = process.wait()
    return status if status >= 0 else 128 - status


def find_in_command(command: CommandLine, asked: commands.Find) -> RangeResult:
    """Runs an LR range test on a command.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    problems = Problems(
        f"`{name}=` is not an option of a range test of a command."
        for name in sorted((asked.given & {"optimizer"}) | changed_settings(asked).keys())
    )
    with problems.gather():  # the optimizer, and so the ends by default, are not known yet
        low = 1e-9 if asked.low is None else asked.low
        high = 1e9 if asked.high is None else asked.high
        sweep_lrs(OWN, low, high, asked.num_steps)
    problems += [
        f"{{{name}}} stands for nothing in a range test: write a number in its place."
        for name in ("epochs", "peak_lr")
        if asks_for(command, name)
    ]
    problems.raise_any()
    with TemporaryDirectory(prefix="lrtune-") as folder:
        steerable = peek(
            command, num_steps=asked.num_steps, folder=Path(folder) / "peek", seed=asked.seed
        )
        recipe = Recipe(optimizer=steerable.known_optimizer)
        num_steps = min(asked.num_steps, steerable.num_steps)
        lrs = sweep_lrs(recipe.optimizer, asked.low, asked.high, num_steps)
        curves = []
        for seed in sweep_seeds(asked, recipe.optimizer):
            plan = replace(
                plan_for(command, steerable, recipe, seed), mode="sweep", lrs=lrs, weight_decay=None
            )
            started = Steered(
                command, plan, Path(folder) / f"sweep-{seed}", cwd=Path.cwd(), metric=None
            )
            curves.append(swept(started, lrs, seed=seed))
    return range_result(recipe.optimizer, curves)


@takes(commands.Audit)
def audit_command(asked: commands.Audit) -> CommandAudit:
    """Runs a training command once, as it is, and tells what is wrong with its learning rates.

    Raises:
        InputError: there is no command.
        TaskError: the command fails, or no optimizer of it made a step.
    """
    asked.sound(problems := Problems())
    if not asked.words:
        problems.append("The command to train must follow after `--`.")
    command = CommandLine(tuple(asked.words))
    problems += [
        f"{{{name}}} stands for nothing in an audit: write a number in its place."
        for name in PLACEHOLDERS
        if asks_for(command, name) and name not in ("seed", "run_dir")
    ]
    problems.raise_any()
    with TemporaryDirectory(prefix="lrtune-") as folder:
        found, steps = audit_of(
            command, num_steps=asked.num_steps, folder=Path(folder) / "audit", seed=asked.seed
        )
    if found is None or not steps:
        raise TaskError("No step of a torch optimizer was seen in the command.")
    if asked.num_steps is not None:
        note = f"The command was ended after {asked.num_steps:,} steps: its length is not known."
        found = replace(found, notes=(*found.notes, note))
    if found.audits:
        return found
    # Seen from outside.
    alone = audit_of_lrs([step.lr for step in steps], is_cut=asked.num_steps is not None)
    return replace(found, audits=(alone.summary(),))


@takes(commands.Log)
def log(asked: commands.Log) -> str:
    """Returns what a run of a training command printed.

    Raises:
        InputError: there is no such study, or no log of such a run.
    """
    places = Places.of(asked)
    config = places.existing().study(asked.name).config
    runs = Path(places.home).resolve() / RUNS
    path = runs / asked.name / asked.run / "log"
    if asked.run == "baseline-0" and not path.is_file():
        path = runs / folder_name(config.task) / "run" / "log"
    if not path.is_file():
        logged = sorted(log.parent.name for log in (runs / asked.name).glob("*/log"))
        raise InputError(
            f"run {asked.run!r} of study {asked.name!r} has no log; these have one: "
            f"{', '.join(logged) or 'none'}."
        )
    return path.read_text(encoding="utf-8", errors="replace")


def _recorded(places: Places, config: StudyConfig) -> Recorded:
    """What the first run of a study's command has told."""
    if "command" in config.task:
        folder = Path(places.home).resolve() / RUNS / folder_name(config.task)
        command = CommandLine(tuple(shlex.split(config.task["command"])), read=config.task["read"])
        file = recorded_file(folder, command, config.objective.metric, first_of(config))
        if (recorded := Recorded.load(file)) is not None:
            return recorded
    raise InputError(
        f"study {config.name!r} must be one of a training command, with the files of its first run."
    )
