"""The command line: flags -> one call of `app` -> exit code.

0: done. 1: `find` saw no signal. 2: bad input, or something that cannot be used; one message, no traceback. 130:
interrupted. Progress goes to standard error, results to standard output. `app`, and with it torch, is imported only
when a command runs.
"""

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from lrtune.core.engines import Engine, EngineName, Local, Ray
from lrtune.core.errors import InputError, LrtuneError, StoreError, shown
from lrtune.core.recipe import OPTIMIZERS, OptimizerName, default_recipe
from lrtune.core.study import DataOnDevice, Precision, PrunerName, SamplerName, Signal
from lrtune.report.export.result import Target

if TYPE_CHECKING:
    from lrtune.report.result import SearchResult
    from lrtune.training.task import TaskSource


class Option(click.Option):
    """An option whose bad value is noted, so that all those of a command line are shown together."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """As click's, but goes on after a bad value."""
        try:
            return super().process_value(ctx, value)
        except click.UsageError as error:
            ctx.meta.setdefault("problems", []).append(error.format_message())
            return None


class Command(click.Command):
    """A command that raises once for all the bad values of its command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; then raises `InputError` for what the options noted."""
        rest = super().parse_args(ctx, args)
        if "problems" in ctx.meta:
            raise InputError(ctx.meta["problems"])
        return rest


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


option = partial(click.option, cls=Option)


def options(*added: Decorator) -> Decorator:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in reversed(added):
            function = add(function)
        return function

    return decorate


task_options = options(
    option("--data", default="digits", show_default=True, metavar="NAME",
                 help="digits, mnist, fashion-mnist, cifar10, cifar100 or folder:PATH."),
    option("--model", default="small-cnn", show_default=True, metavar="NAME",
                 help="small-cnn, mlp, or any torchvision classification model."),
    option("--task", "task_file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Python file that defines `task`, instead of --data and --model."),
    option("--data-dir", metavar="DIR", help="Where data are looked for first, and downloaded to."),
    option("--train-size", type=int, metavar="N", help="Train on N images only."),
    option("--val-size", type=int, metavar="N", help="Validate on N images."),
    option("--image-size", type=int, metavar="PX", help="Scale images to PX x PX."),
    option("--batch-size", type=int, metavar="N", help="Images in an optimizer step."),
    option("--accumulate", type=int, metavar="N", help="Micro-batches that make up a step."),
    option("--precision", type=click.Choice(get_args(Precision)),
           help="auto: AMP on a GPU, fp32 on a CPU; bf16: faster on a CPU with AMX."),
    option("--clip-norm", type=float, metavar="X", help="Clip the gradient's norm."),
    option("--label-smoothing", type=float, metavar="X"),
    option("--augment/--no-augment", default=None, help="Random crops and flips."),
    option("--cutout", type=int, metavar="PX", help="Cut a square out of each training image; 0: none."),
    option("--compile/--no-compile", default=None, help="torch.compile the model: slow to start, then faster."),
    option("--data-on-device", type=click.Choice(get_args(DataOnDevice)), help="auto: where they fit."),
    option("--ema-half-life", "ema_half_life_epochs", type=float, metavar="EPOCHS",
           help="Of the averaged weights that are measured beside the raw ones; 0: none."),
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ..."),
)  # fmt: skip
SETTINGS = (
    "batch_size",
    "accumulate",
    "precision",
    "clip_norm",
    "label_smoothing",
    "augment",
    "cutout",
    "compile",
    "data_on_device",
    "ema_half_life_epochs",
    "device",
)
NAMES = ("data", "model", "data_dir", "train_size", "val_size", "image_size")

home_option = option("--home", default=".lrtune", show_default=True, metavar="DIR", help="Database and checkpoints.")
storage_option = option("--storage", default="", metavar="URL", help="Another database, as an SQLAlchemy URL.")
out_option = option("--out", default="reports", show_default=True, metavar="DIR", help="Reports.")
show_options = options(
    option("--quiet", is_flag=True, help="No progress."),
    option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
)
engine_options = options(
    option("--engine", default="local", show_default=True, type=click.Choice(get_args(EngineName)),
           help="Where trials run: on this machine, or on a Ray cluster."),
    option("--jobs", type=int, metavar="N", help="local: trials side by side, each in a process.  [default: 1]"),
    option("--lanes", metavar="N", help="local: trials side by side on one GPU.  [default: auto]"),
    option("--address", metavar="ADDR", help="ray: auto or host:port of a cluster.  [default: a new one, here]"),
    option("--cpus-per-trial", type=float, metavar="X", help="ray: CPU cores of a trial.  [default: 1]"),
    option("--gpus-per-trial", type=float, metavar="X", help="ray: GPUs of a trial, 0.5 say.  [default: 1 if any]"),
    option("--max-concurrent", type=int, metavar="N", help="ray: trials side by side.  [default: what fits]"),
    option("--reuse-actors/--no-reuse-actors", default=None, help="ray: one process for many trials.  [default: yes]"),
    option("--trial-timeout", "trial_timeout_s", type=float, metavar="S",
           help="ray: seconds without an epoch, after which a trial goes on elsewhere."),
    option("--max-retries", type=int, metavar="N", help="ray: times that a trial may lose its worker.  [default: 3]"),
    option("--storage-path", metavar="PATH|URL", help="ray: shared place of checkpoints.  [default: in --home]"),
)  # fmt: skip
LOCAL = ("jobs", "lanes")
RAY = (
    "address",
    "cpus_per_trial",
    "gpus_per_trial",
    "max_concurrent",
    "reuse_actors",
    "trial_timeout_s",
    "max_retries",
    "storage_path",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lrtune", prog_name="lrtune")
def lrtune() -> None:
    """Finds the learning-rate schedule that trains best, by real training runs."""


@lrtune.command()
@task_options
@option("--space", default="default", show_default=True, metavar="NAME|FILE", help="What may vary.")
@option("--budget", default="50", show_default=True, metavar="B", help="50 (trials), 300ep, 20runs, 30min or 4h.")
@option("--epochs", type=int, metavar="N", help="Of every full run.")
@option("--optimizer", type=click.Choice(OPTIMIZERS), help="With its customary recipe as the baseline.")
@option("--baseline", metavar="NAME|FILE", help="The recipe you use today: see `lrtune recipes`.")
@option("--target", type=float, metavar="TOP1", help="Top-1 that convergence is measured against.")
@option("--sampler", default="tpe", show_default=True, type=click.Choice(get_args(SamplerName)))
@option("--pruner", default="fair", show_default=True, type=click.Choice(get_args(PrunerName)))
@option("--rungs", default="auto", show_default=True, metavar="R", help="c1,c3,9: compressed runs, then epochs.")
@option("--reduction", "reduction_factor", default=3, show_default=True, metavar="N", help="Of N, one goes up.")
@option("--signal", default="averaged", show_default=True, type=click.Choice(get_args(Signal)), help="Of a run.")
@option("--seeds", "num_seeds", default=3, show_default=True, metavar="N", help="Of baseline and confirmations.")
@option("--max-seeds", type=int, metavar="N", help="Of those that these do not tell apart.  [default: 2 more]")
@option("--confirm", "num_confirmed", default=3, show_default=True, metavar="N", help="Recipes to confirm.")
@option("--study", metavar="NAME", help="By default made from the other options.")
@option("--seed", default=0, show_default=True, metavar="N", help="Of everything random.")
@engine_options
@home_option
@storage_option
@out_option
@show_options
def search(
    optimizer: OptimizerName | None, baseline: str | None, as_json: bool, home: str, storage: str, out: str,
    space: str, budget: str, epochs: int | None, target: float | None, sampler: SamplerName, pruner: PrunerName,
    rungs: str, reduction_factor: int, signal: Signal, num_seeds: int, max_seeds: int | None,
    num_confirmed: int, study: str | None, seed: int, engine: EngineName, quiet: bool, **flags: Any,
) -> None:  # fmt: skip
    """Search for the best schedule; the same command again goes on with the same study."""
    from lrtune import app

    if optimizer and baseline:
        raise InputError("`--optimizer` and `--baseline` both say what the baseline is: give one.")
    result = app.search(
        _source(flags), space=space, budget=budget, epochs=epochs, study=study, seed=seed,
        engine=_engine(engine, flags), sampler=sampler, pruner=pruner, rungs=rungs,
        reduction_factor=reduction_factor, signal=signal,
        target=target, num_seeds=num_seeds, max_seeds=max_seeds, num_confirmed=num_confirmed,
        baseline=baseline or (default_recipe(optimizer) if optimizer else None),
        settings=_settings(flags), home=home, out=out, storage=storage, quiet=quiet,
        command=_command(),
    )  # fmt: skip
    _print(result, as_json=as_json)


@lrtune.command()
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@option("--include", multiple=True, metavar="STUDY", help="A study whose recommended recipe takes part.")
@task_options
@option("--epochs", type=int, metavar="N", help="Of every run.")
@option("--target", type=float, metavar="TOP1", help="Top-1 that convergence is measured against.")
@option("--seeds", "num_seeds", default=3, show_default=True, metavar="N", help="Runs of each recipe.")
@option("--max-seeds", type=int, metavar="N", help="Of those that these do not tell from the best.  [default: no more]")
@option("--study", metavar="NAME", help="By default made from the other options.")
@option("--seed", default=0, show_default=True, metavar="N", help="Of everything random.")
@engine_options
@home_option
@storage_option
@out_option
@show_options
def compare(
    recipes: tuple[str, ...], include: tuple[str, ...], epochs: int | None, target: float | None, num_seeds: int,
    max_seeds: int | None, study: str | None, seed: int, engine: EngineName, home: str, storage: str, out: str,
    quiet: bool, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Train recipes side by side, seed by seed: names of `lrtune recipes` or TOML files, all of them by default.

    The first is what the others are compared with.
    """
    from lrtune import app

    result = app.compare(
        _source(flags), recipes, include=include, epochs=epochs, target=target, num_seeds=num_seeds,
        max_seeds=max_seeds, study=study, seed=seed, engine=_engine(engine, flags), settings=_settings(flags),
        home=home, out=out, storage=storage, quiet=quiet, command=_command(),
    )  # fmt: skip
    _print(result, as_json=as_json)


@lrtune.command()
@click.argument("study")
@option("--budget", metavar="B", help="Another budget than the study was begun with.")
@engine_options
@home_option
@storage_option
@out_option
@show_options
def resume(
    study: str, budget: str | None, engine: EngineName, home: str, storage: str, out: str, quiet: bool,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Go on with a study after Ctrl-C or a crash; nothing that was finished is trained again."""
    from lrtune import app

    result = app.resume(
        study, budget=budget, engine=_engine(engine, flags), home=home, storage=storage, out=out, quiet=quiet,
        command=_command(),
    )  # fmt: skip
    _print(result, as_json=as_json)


@lrtune.command()
@task_options
@option("--optimizer", type=click.Choice(OPTIMIZERS), help="By default the task's.")
@option("--low", type=float, metavar="LR", help="First LR of the sweep.")
@option("--high", type=float, metavar="LR", help="Last LR of the sweep.")
@option("--steps", "num_steps", default=200, show_default=True, metavar="N", help="Optimizer steps of a sweep.")
@option("--seeds", "num_seeds", default=3, show_default=True, metavar="N", help="Sweeps.")
@option("--seed", default=0, show_default=True, metavar="N", help="Of the first sweep.")
@out_option
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def find(
    optimizer: OptimizerName | None, low: float | None, high: float | None, num_steps: int, num_seeds: int,
    seed: int, out: str, as_json: bool, **task_flags: Any,
) -> None:  # fmt: skip
    """Test a range of LRs, and say which peak LRs are worth searching."""
    from lrtune import app
    from lrtune.report.range_test import print_range_result, write_range_result

    result = app.find_lr(
        _source(task_flags), optimizer=optimizer, low=low, high=high, num_steps=num_steps, num_seeds=num_seeds,
        seed=seed, settings=_settings(task_flags),
    )  # fmt: skip
    names = (str(task_flags["data"]).replace(":", "-").replace("/", "-"), task_flags["model"])
    what = task_flags["task_file"].stem if task_flags["task_file"] else "-".join(names)
    folder = Path(out) / f"find-{what}-{result.optimizer}"
    try:
        write_range_result(result, folder)
    except OSError as error:
        raise StoreError(f"the range test cannot be written to {folder}: {error.strerror}.") from None
    print_range_result(result, folder, as_json=as_json)
    sys.exit(0 if result.interval else 1)


@lrtune.command()
@click.argument("study")
@home_option
@storage_option
@out_option
@option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def report(study: str, home: str, storage: str, out: str, as_json: bool) -> None:
    """Write a study's report again, finished or not."""
    from lrtune import app

    _print(app.report(study, home=home, storage=storage, out=out), as_json=as_json)


@lrtune.command()
@click.argument("study")
@option(
    "--to", default="torch", show_default=True, type=click.Choice(get_args(Target)), help="Framework that it goes to."
)
@home_option
@storage_option
def export(study: str, to: Target, home: str, storage: str) -> None:
    """Print a study's recommended recipe as code, arguments or JSON, to paste where you train."""
    from lrtune import app

    found = app.export(study, to=to, home=home, storage=storage)
    click.echo(found.note, err=True)
    click.echo(found.text)


@lrtune.command("list")
@home_option
@storage_option
def list_studies(home: str, storage: str) -> None:
    """List the studies and how far they are."""
    from lrtune import app
    from lrtune.report.terminal import print_studies

    print_studies(app.studies(home=home, storage=storage, on_event=lambda note: click.echo(note.text, err=True)))


@lrtune.command()
@click.argument("study")
@option("--yes", is_flag=True, help="Do not ask.")
@home_option
@storage_option
@option("--storage-path", default="", metavar="PATH|URL", help="Shared place of its checkpoints.  [default: in --home]")
def delete(study: str, yes: bool, home: str, storage: str, storage_path: str) -> None:
    """Delete what is recorded of a study, and its checkpoints; its report stays."""
    from lrtune import app

    if not yes:
        if not sys.stdin.isatty():
            raise InputError("there is no terminal to ask at: `--yes` deletes the study without.")
        click.confirm(f"Delete study {study} and its checkpoints?", abort=True, err=True)
    app.delete(study, home=home, storage=storage, storage_path=storage_path)


@lrtune.command()
@home_option
@storage_option
@click.argument("study")
@option("--host", default="127.0.0.1", show_default=True)
@option("--port", default=8080, show_default=True)
def dashboard(study: str, home: str, storage: str, host: str, port: int) -> None:
    """Open optuna-dashboard on a study (needs the `dashboard` extra)."""
    from lrtune import app

    click.echo(f"http://{host}:{port}/", err=True)
    app.dashboard(study, home=home, storage=storage, host=host, port=port)


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
    except (KeyboardInterrupt, click.Abort):
        goes_on = {"search", "compare", "resume"}.intersection(sys.argv[1:2])
        kept = "; what was finished is kept, and the same command goes on from there" if goes_on else ""
        click.echo(f"lrtune: stopped{kept}.", err=True)
        sys.exit(130)


def _command() -> str:
    """What was typed, for all to read."""
    return f"lrtune {shlex.join(map(shown, sys.argv[1:]))}"


def _source(flags: dict[str, Any]) -> "TaskSource":
    """The task of these flags.

    Raises:
        InputError: names beside a file.
    """
    from lrtune.training.task import NamedTask, TaskFile

    if flags["task_file"] is None:
        return NamedTask(**{name: flags[name] for name in NAMES})
    source_of = click.get_current_context().get_parameter_source
    given = [f"`--{name.replace('_', '-')}`" for name in NAMES if source_of(name) is ParameterSource.COMMANDLINE]
    if given:
        raise InputError(f"`--task` says what is trained, so it does not go with {', '.join(given)}.")
    return TaskFile(path=flags["task_file"])


def _engine(name: EngineName, flags: dict[str, Any]) -> Engine:
    """The engine of these flags.

    Raises:
        InputError: flags of another engine, or numbers that cannot be.
    """
    ours, others = (LOCAL, RAY) if name == "local" else (RAY, LOCAL)
    strange = [key for key in others if flags[key] is not None]
    if strange:
        raise InputError([
            f"`--{key.removesuffix('_s').replace('_', '-')}` does not go with `--engine {name}`." for key in strange
        ])  # fmt: skip
    given = {key: flags[key] for key in ours if flags[key] is not None}
    return Local(**given) if name == "local" else Ray(**given)


def _settings(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: flags[name] for name in SETTINGS if flags[name] is not None}


def _print(result: "SearchResult", *, as_json: bool) -> None:
    from rich.console import Console

    from lrtune.report.document import compose
    from lrtune.report.json import render_json
    from lrtune.report.terminal import print_recommendation

    if as_json:
        click.echo(render_json(compose(result.report)))
    else:
        print_recommendation(result.report, Console(), result.folder)
