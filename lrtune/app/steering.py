"""The commands `apply` and `log`, for studies of a training command."""

import os
import subprocess
from pathlib import Path

from lrtune.app.places import Places
from lrtune.app.results import recipe_of
from lrtune.app.subjects import RUNS, folder_name
from lrtune.core import commands
from lrtune.core.commands import takes
from lrtune.core.decays import Own
from lrtune.core.errors import InputError, Problems
from lrtune.core.sources import CommandLine
from lrtune.decide.recommend import recommend
from lrtune.schedules.build import build_schedule
from lrtune.training.command.recording import Recorded
from lrtune.training.command.steered import Plan, environment, words_for


@takes(commands.Apply)
def apply_to_command(asked: commands.Apply) -> int:
    """Trains a command once with the recommended schedule of a study, and returns its exit code.

    Raises:
        InputError: there is no such study or recipe, or the study is not one of a command.
    """
    asked.sound(problems := Problems())
    if not asked.words:
        problems.append("The command to train must follow after `--`.")
    problems.raise_any()
    places = Places.of(asked)
    state = places.existing().study(asked.name).state()
    config, recommendation = state.config, recommend(state)
    recorded = _recorded(places, config.task, asked.name)
    if recommendation is None:
        raise InputError(f"study {asked.name!r} has nothing to apply: no run of it has finished.")
    recipe = recipe_of(state, recommendation, asked.recipe).recipe
    command = CommandLine(asked.words)
    schedule = build_schedule(recipe, epochs=config.epochs, steps_per_epoch=config.steps_per_epoch)
    changed = recipe.weight_decay != recorded.weight_decay
    own = isinstance(recipe.decay, Own)
    plan = Plan(
        mode="record" if own else "set",
        seed=0,
        seed_offset=None,
        lrs=[recipe.peak_lr * schedule(step) for step in range(schedule.total_steps)],
        ratios=recorded.ratios,
        scales=dict(recipe.group_scales),
        weight_decay=recipe.weight_decay if changed else None,
        optimizer_index=config.task["optimizer_index"],
        epochs=config.epochs,
        peak_lr=recipe.peak_lr,
    )
    folder = Path(places.home).resolve() / RUNS / asked.name / f"apply-{os.getpid()}"
    plan.write(folder)
    words = words_for(command, plan, folder)
    try:
        with subprocess.Popen(words, env={**os.environ, **environment(folder)}) as process:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the command was interrupted as well
                return process.wait()
    except OSError as error:
        raise InputError(f"{words[0]} cannot be started: {error.strerror}.") from None


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
        raise InputError(f"run {asked.run!r} of study {asked.name!r} has no log.")
    return path.read_text(encoding="utf-8", errors="replace")


def _recorded(places: Places, task: object, name: str) -> Recorded:
    """What the first run of a study's command has told."""
    if isinstance(task, dict) and "command" in task:
        folder = Path(places.home).resolve() / RUNS / folder_name(task)
        if (recorded := Recorded.load(folder)) is not None:
            return recorded
    raise InputError(
        f"study {name!r} must be one of a training command, with the files of its first run."
    )
