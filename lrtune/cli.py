"""The command line: turns flags into calls of `app`, and prints their results.

The exit code is 0 when the command is done, 1 when `find` saw no signal, 2 after bad input or with
something that cannot be used (one message, no traceback), and 130 after an interrupt. Progress goes
to standard error, results to standard output. `app`, and with it torch, is imported only when a
command runs.
"""

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from lrtune.core.engines import EngineName, EngineOptions, Local, Ray
from lrtune.core.errors import InputError, LrtuneError, StoreError, shown
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import default_recipe
from lrtune.core.study import (
    DataOnDevice,
    Precision,
    PrunerName,
    SamplerName,
    Signal,
    TrainSettings,
)
from lrtune.reporting.export.result import Target

if TYPE_CHECKING:
    from lrtune.reporting.result import SearchResult
    from lrtune.training.task import NamedTask, TaskFile


class Option(click.Option):
    """An option that notes a bad value, so that all those of a command line are shown together."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Does the same as click's method, but goes on after a bad value."""
        try:
            return super().process_value(ctx, value)
        except click.UsageError as error:
            ctx.meta.setdefault("problems", []).append(error.format_message())
            return None


class Command(click.Command):
    """A command that raises one error for all bad values, and names the flags that were typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses like click's method, then raises `InputError` for what the options noted."""
        rest = super().parse_args(ctx, args)
        if "problems" in ctx.meta:
            raise InputError(ctx.meta["problems"])
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Invokes like click's method, but an `InputError` says `--seeds` for `num_seeds`."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            flags = {name: flag for name, flag in flags_of(self).items() if flag != f"--{name}"}
            raise InputError([
                re.sub(r"\w+(?=`|=| <)", lambda word: flags.get(word[0], word[0]), problem)
                for problem in error.problems
            ]) from error  # fmt: skip


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def flags_of(command: click.Command) -> dict[str, str]:
    """Returns the flag of each parameter of a command: `--seeds` for `num_seeds`."""
    return {str(parameter.name): parameter.opts[0] for parameter in command.params}


option = partial(click.option, cls=Option)


def options(*added: Decorator) -> Decorator:
    """Combines several options into one decorator, in the order in which help shows them."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in reversed(added):
            function = add(function)
        return function

    return decorate


task_options = options(
    option("--data", default="digits", show_default=True, metavar="NAME",
                 help="Images: digits, mnist, fashion-mnist, cifar10, cifar100 or folder:PATH."),
    option("--model", default="small-cnn", show_default=True, metavar="NAME",
                 help="Net: small-cnn, mlp, or any classification model of torchvision."),
    option("--task", "task_file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Python file that defines `task`, instead of --data and --model."),
    option("--data-dir", metavar="DIR",
           help="Where images are looked for first, and downloaded to."),
    option("--train-size", type=int, metavar="N", help="Train on N images only."),
    option("--val-size", type=int, metavar="N", help="Validate on N images."),
    option("--image-size", type=int, metavar="PX", help="Scale images to PX x PX."),
    option("--batch-size", type=int, metavar="N", help="Examples in an optimizer step."),
    option("--accumulate", type=int, metavar="N", help="Micro-batches that make up a step."),
    option("--precision", type=click.Choice(get_args(Precision)),
           help="Arithmetic; auto: AMP on a GPU, fp32 on a CPU; bf16: faster on a CPU with AMX."),
    option("--clip-norm", type=float, metavar="X", help="Clip the gradient's norm to X."),
    option("--label-smoothing", type=float, metavar="X",
           help="Smooth the labels of the loss; 0: not at all."),
    option("--augment/--no-augment", default=None, help="Crop and flip training images at random."),
    option("--cutout", type=int, metavar="PX",
           help="Cut a square out of each training image; 0: none."),
    option("--compile/--no-compile", default=None,
           help="torch.compile the model: slow to start, then faster."),
    option("--data-on-device", type=click.Choice(get_args(DataOnDevice)),
           help="Keep the images on the device; auto: where they fit."),
    option("--ema-half-life", "ema_half_life_epochs", type=float, metavar="EPOCHS",
           help="Half-life of the averaged weights that are measured beside the raw ones; "
           "0: none."),
    option("--device", metavar="NAME", help="What to train on: auto, cpu, cuda, cuda:1, ..."),
)  # fmt: skip
place_options = options(
    option(
        "--home",
        default=".lrtune",
        show_default=True,
        metavar="DIR",
        help="Folder of database and checkpoints.",
    ),
    option("--storage", default="", metavar="URL", help="Another database, as an SQLAlchemy URL."),
)
out_option = option(
    "--out", default="reports", show_default=True, metavar="DIR", help="Folder of the reports."
)
json_option = option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
quiet_option = option("--quiet", is_flag=True, help="Show no progress.")
engine_options = options(
    option("--engine", default="local", show_default=True, type=click.Choice(get_args(EngineName)),
           help="Where trials run: on this machine, or on a Ray cluster."),
    option("--jobs", type=int, metavar="N",
           help="local: worker processes, each with trials of its own.  "
           "[default: one a GPU, or 1]"),
    option("--gpus", metavar="LIST", help="local: the GPUs to use, such as 0,2.  [default: all]"),
    option("--lanes", metavar="N",
           help="local: trials side by side in each process, on its GPU.  [default: auto]"),
    option("--address", metavar="ADDR",
           help="ray: auto or host:port of a cluster.  [default: a new one, here]"),
    option("--cpus-per-trial", type=float, metavar="X",
           help="ray: CPU cores of a trial.  [default: 1]"),
    option("--gpus-per-trial", type=float, metavar="X",
           help="ray: GPUs of a trial, 0.5 say.  [default: 1 if any]"),
    option("--max-concurrent", type=int, metavar="N",
           help="ray: trials side by side.  [default: what fits]"),
    option("--reuse-actors/--no-reuse-actors", default=None,
           help="ray: one process for many trials.  [default: yes]"),
    option("--trial-timeout", "trial_timeout_s", type=float, metavar="S",
           help="ray: seconds without an epoch, after which a trial goes on elsewhere."),
    option("--max-retries", type=int, metavar="N",
           help="ray: times that a trial may lose its worker.  [default: 3]"),
    option("--storage-path", metavar="PATH|URL",
           help="ray: shared place of checkpoints.  [default: in --home]"),
)  # fmt: skip

metric_option = option(
    "--metric", metavar="NAME[:max|:min]",
    help="The metric that decides: top1, val_loss, f1:max, ...  [default: the task's]",
)  # fmt: skip
search_options = options(
    option("--space", default="default", show_default=True, metavar="NAME|FILE",
           help="What may vary: see `lrtune spaces`."),
    option("--budget", default="50", show_default=True, metavar="B",
           help="What may be spent: 50 (trials), 300ep (epochs), 20runs (full ones), 30min or 4h."),
    option("--epochs", type=int, metavar="N", help="Epochs of a full run.  [default: the task's]"),
    option("--optimizer", type=click.Choice(tuple(OPTIMIZERS)),
           help="Optimizer to search with; its customary recipe is the baseline."),
    option("--baseline", metavar="NAME|FILE",
           help="The recipe you use today: see `lrtune recipes`."),
    option("--try", "tries", multiple=True, metavar="NAME|FILE",
           help="A recipe to try first, moved into the space. May be given again."),
    metric_option,
    option("--target", type=float, metavar="VALUE",
           help="Value of the metric at which a run has converged.  [default: the baseline's]"),
    option("--sampler", default="tpe", show_default=True, type=click.Choice(get_args(SamplerName)),
           help="What suggests recipes; tpe and gp learn from the trials so far, "
           "random and qmc do not."),
    option("--pruner", default="fair", show_default=True, type=click.Choice(get_args(PrunerName)),
           help="What ends weak trials early; fair: short looks at each, "
           "after which the best go on."),
    option("--rungs", default="auto", show_default=True, metavar="R",
           help="Looks before a full run; c1,c3,9: its schedule compressed to 1 epoch, to 3, "
           "then its first 9."),
    option("--reduction", "reduction_factor", default=3, show_default=True, metavar="N",
           help="Of N trials on a rung, promote one."),
    option("--signal", default="averaged", show_default=True, type=click.Choice(get_args(Signal)),
           help="Judge unfinished runs by their averaged or their raw weights."),
    option("--seeds", "num_seeds", default=3, show_default=True, metavar="N",
           help="Runs of the baseline and of each confirmed recipe."),
    option("--max-seeds", type=int, metavar="N",
           help="Runs, at most, of recipes that --seeds does not tell apart.  [default: 2 more]"),
    option("--confirm", "num_confirmed", default=3, show_default=True, metavar="N",
           help="Best recipes that are trained again with fresh seeds."),
)  # fmt: skip
study_options = options(
    option(
        "--study", metavar="NAME", help="Name of the study.  [default: made from the other options]"
    ),
    option("--seed", default=0, show_default=True, metavar="N", help="Seed of everything random."),
)


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="lrtune", prog_name="lrtune")
def lrtune() -> None:
    """Finds the learning-rate schedule that trains best, by real training runs."""


@lrtune.command()
@task_options
@search_options
@study_options
@engine_options
@place_options
@out_option
@quiet_option
@json_option
def search(optimizer: str | None, baseline: str | None, as_json: bool, **flags: Any) -> None:
    """Search for the best schedule; the same command again goes on with the same study."""
    from lrtune import app

    if optimizer and baseline:
        raise InputError("`--optimizer` and `--baseline` both say what the baseline is: give one.")
    chosen_baseline = default_recipe(optimizer) if optimizer else baseline
    task, engine, settings = _task(flags), _engine(flags), _take(TrainSettings, flags)
    result = app.search(
        task,
        engine=engine,
        settings=settings,
        baseline=chosen_baseline,
        command=_command(),
        **flags,
    )
    _print(result, as_json=as_json)


@lrtune.command(
    help="Train recipes side by side, seed by seed: names of `lrtune recipes` or TOML files, "
    "all of them by default.\n\nThe first is what the others are compared with."
)
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@option(
    "--include", multiple=True, metavar="STUDY[:RECIPE]",
    help="A study whose recommended recipe takes part, or its simplest, say, or a trial's.",
)  # fmt: skip
@task_options
@option("--epochs", type=int, metavar="N", help="Epochs of a run.  [default: the task's]")
@metric_option
@option(
    "--target", type=float, metavar="VALUE",
    help="Value of the metric at which a run has converged.  [default: the first recipe's]",
)  # fmt: skip
@option(
    "--seeds", "num_seeds", default=3, show_default=True, metavar="N", help="Runs of each recipe."
)
@option(
    "--max-seeds", type=int, metavar="N",
    help="Runs, at most, of recipes that --seeds does not tell from the best.  [default: no more]",
)  # fmt: skip
@study_options
@engine_options
@place_options
@out_option
@quiet_option
@json_option
def compare(recipes: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Trains recipes side by side, seed by seed."""
    from lrtune import app

    task, engine, settings = _task(flags), _engine(flags), _take(TrainSettings, flags)
    result = app.compare(
        task, recipes, engine=engine, settings=settings, command=_command(), **flags
    )
    _print(result, as_json=as_json)


@lrtune.command()
@click.argument("study")
@option("--budget", metavar="B", help="Another budget than the study was begun with.")
@engine_options
@place_options
@out_option
@quiet_option
@json_option
def resume(study: str, as_json: bool, **flags: Any) -> None:
    """Go on with a study after Ctrl-C or a crash; nothing that was finished is trained again."""
    from lrtune import app

    result = app.resume(study, engine=_engine(flags), command=_command(), **flags)
    _print(result, as_json=as_json)


@lrtune.command()
@task_options
@option(
    "--optimizer",
    type=click.Choice(tuple(OPTIMIZERS)),
    help="Optimizer to test.  [default: the task's]",
)
@option("--low", type=float, metavar="LR", help="First LR of a sweep.  [default: by the optimizer]")
@option("--high", type=float, metavar="LR", help="Last LR of a sweep.  [default: by the optimizer]")
@option(
    "--steps",
    "num_steps",
    default=200,
    show_default=True,
    metavar="N",
    help="Optimizer steps of a sweep.",
)
@option(
    "--seeds",
    "num_seeds",
    default=3,
    show_default=True,
    metavar="N",
    help="Sweeps, each with a seed of its own.",
)
@option("--seed", default=0, show_default=True, metavar="N", help="Seed of the first sweep.")
@out_option
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def find(out: str, as_json: bool, **flags: Any) -> None:
    """Test a range of LRs, and say which peak LRs are worth searching."""
    from lrtune import app
    from lrtune.reporting.range_test import print_range_result, write_range_result
    from lrtune.training.task import TaskFile

    task, settings = _task(flags), _take(TrainSettings, flags)
    result = app.find_lr(task, settings=settings, **flags)
    what = (
        task.path.stem
        if isinstance(task, TaskFile)
        else re.sub("[:/]", "-", f"{task.data}-{task.model}")
    )
    folder = Path(out) / f"find-{what}-{result.optimizer}"
    try:
        write_range_result(result, folder)
    except OSError as error:
        raise StoreError(
            f"the range test cannot be written to {folder}: {error.strerror}."
        ) from None
    print_range_result(result, folder, as_json=as_json)
    sys.exit(0 if result.interval else 1)


@lrtune.command()
@click.argument("study")
@place_options
@out_option
@json_option
def report(study: str, as_json: bool, **places: str) -> None:
    """Write a study's report again, finished or not."""
    from lrtune import app

    _print(app.report(study, **places), as_json=as_json)


@lrtune.command(
    help="Print a recipe of a study, the recommended one, as code, arguments or data, "
    "to paste where you train."
)
@click.argument("study")
@option(
    "--to", default="torch", show_default=True, type=click.Choice(get_args(Target)),
    help="Framework that it goes to; toml: a file for --baseline, --try and compare.",
)  # fmt: skip
@option(
    "--recipe", default="best", show_default=True, metavar="WORD|NUMBER",
    help="best, simplest (that may well be the best), baseline, or the number of a trial.",
)  # fmt: skip
@place_options
def export(study: str, to: Target, recipe: str, **places: str) -> None:
    """Prints a recipe of a study as code, arguments or data."""
    from lrtune import app

    exported = app.export(study, to=to, recipe=recipe, **places)
    click.echo(exported.note, err=True)
    click.echo(exported.text)


@lrtune.command("list")
@place_options
def list_studies(**places: str) -> None:
    """List the studies and how far they are."""
    from lrtune import app
    from lrtune.reporting.terminal import print_studies

    print_studies(app.studies(**places, on_event=lambda note: click.echo(note.text, err=True)))


@lrtune.command()
@click.argument("study")
@option("--yes", is_flag=True, help="Do not ask.")
@place_options
@option(
    "--storage-path",
    default="",
    metavar="PATH|URL",
    help="Shared place of its checkpoints.  [default: in --home]",
)
def delete(study: str, yes: bool, **places: str) -> None:
    """Delete what is recorded of a study, and its checkpoints; its report stays."""
    from lrtune import app

    if not yes:
        if not sys.stdin.isatty():
            raise InputError("there is no terminal to ask at: `--yes` deletes the study without.")
        click.confirm(f"Delete study {study} and its checkpoints?", abort=True, err=True)
    app.delete(study, **places)


@lrtune.command()
@click.argument("study")
@option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDR", help="Address to serve it at."
)
@option("--port", default=8080, show_default=True, metavar="N", help="Port to serve it at.")
@place_options
def dashboard(study: str, host: str, port: int, **places: str) -> None:
    """Open optuna-dashboard on a study (needs the `dashboard` extra)."""
    from lrtune import app

    click.echo(f"http://{host}:{port}/", err=True)
    app.dashboard(study, host=host, port=port, **places)


@lrtune.command()
def spaces() -> None:
    """List the search spaces that come with lrtune."""
    from lrtune.core.space import parse_space
    from lrtune.store.spaces import read_space, space_names

    for name in space_names():
        click.echo(f"{name:20} {parse_space(read_space(name)[1], name).description}")


@lrtune.command()
def recipes() -> None:
    """List the recipes that come with lrtune."""
    from lrtune.store.recipes import describe_recipe, recipe_names

    for name in recipe_names():
        click.echo(f"{name:20} {describe_recipe(name)}")


def main() -> None:
    """Runs the command line and exits."""
    try:
        lrtune(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except LrtuneError as error:
        for line in error.problems if isinstance(error, InputError) else (str(error),):
            click.echo(f"lrtune: {line}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort) as error:  # click makes the one of the other
        notes = getattr(error.__cause__, "__notes__", ())
        click.echo(" ".join(("lrtune: stopped.", *notes)), err=True)
        sys.exit(130)


def _command() -> str:
    """Returns the command line that was typed, with the passwords in it hidden."""
    return f"lrtune {shlex.join(map(shown, sys.argv[1:]))}"


def _task(flags: dict[str, Any]) -> "NamedTask | TaskFile":
    """Takes the task out of the flags.

    Raises:
        InputError: the flags name both a file and parts of a task.
    """
    from lrtune.training.task import NamedTask, TaskFile

    file, names = flags.pop("task_file"), _take(NamedTask, flags)
    if file is None:
        return NamedTask(**names)
    context = click.get_current_context()
    typed = [
        name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        listed = ", ".join(f"`{flags_of(context.command)[name]}`" for name in typed)
        raise InputError(f"`--task` says what is trained, so it does not go with {listed}.")
    return TaskFile(path=file)


def _engine(flags: dict[str, Any]) -> EngineOptions:
    """Takes the engine out of the flags.

    Raises:
        InputError: flags are of another engine, or a number breaks a rule.
    """
    name = flags.pop("engine")
    ours, other = (Local, Ray) if name == "local" else (Ray, Local)
    given, strange = _take(ours, flags), _take(other, flags)
    if strange:
        typed = flags_of(click.get_current_context().command)
        raise InputError([f"`{typed[key]}` does not go with `--engine {name}`." for key in strange])
    return ours(**given)


def _take(kind: type, flags: dict[str, Any]) -> dict[str, Any]:
    """Removes the fields of `kind` from the flags, and returns those that have a value."""
    taken = {field.name: flags.pop(field.name, None) for field in fields(kind)}
    return {name: value for name, value in taken.items() if value is not None}


def _print(result: "SearchResult", *, as_json: bool) -> None:
    from rich.console import Console

    from lrtune.reporting.document import compose
    from lrtune.reporting.json import render_json
    from lrtune.reporting.terminal import print_recommendation

    if as_json:
        click.echo(render_json(compose(result.report)))
    else:
        print_recommendation(result.report, Console(), result.folder)
