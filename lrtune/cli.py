"""The command line: turns flags into calls of `app`, and prints their results.

The flags of a command are the options of its class in `lrtune.core.commands`. `--help` shows those
that matter most, `--help-all` shows all of them by topic.

The exit code is 0 when the command is done, 1 when `find` saw no signal or `audit` found something
wrong, 2 after bad input or with
something that cannot be used (one message, no traceback), and 130 after an interrupt. Progress goes
to standard error, results to standard output. `app`, and with it torch, is imported only when a
command runs.
"""

import io
import json
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_origin

import click
from click.core import ParameterSource

from lrtune.core import commands
from lrtune.core.errors import InputError, LrtuneError, StoreError, TaskError
from lrtune.core.events import Event, Note
from lrtune.core.options import OptionField, alternatives, options_of
from lrtune.core.printing import printable
from lrtune.core.sources import CommandLine, TypedTask
from lrtune.core.urls import shown, shown_in

if TYPE_CHECKING:
    from lrtune.reporting.result import SearchResult

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
WORDS = "lrtune.words"
"""Key of the training command in the context."""
TRACEBACK = "lrtune.traceback"
"""Key, in the context, of whether the traceback of a task that fails is printed."""
FEW = 10
"""A command with no more options than these shows all of them by `--help`."""


class Option(click.Option):
    """An option of a command.

    A value that cannot be what the option's type wants is handed on as it was typed, so that the
    command tells of it together with all else that is wrong.

    Args:
        flags: its names on the command line.
        field: what it sets; `None`: it is of the command line alone.
        more: as of `click.Option`.
    """

    def __init__(self, flags: Sequence[str], field: OptionField | None = None, **more: Any) -> None:
        super().__init__(flags, **more)
        self.field = field

    @property
    def topic(self) -> str:
        """Heading in the full help."""
        return self.field.topic.title if self.field else "Output"

    @property
    def is_essential(self) -> bool:
        """Whether the short help of a command with many options shows it."""
        return bool(self.field and self.field.option and self.field.option.essential)

    @property
    def is_url(self) -> bool:
        """Whether its value may be a URL."""
        return bool(self.field and self.field.option and self.field.option.is_url)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Converts like click's method, but returns what it cannot convert."""
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter:
            return value


class Command(click.Command):
    """A command that passes on only what was typed, and speaks of options by their flags."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invokes like click's method, with the values that were typed."""
        ctx.params = {
            name: value
            for name, value in ctx.params.items()
            if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        }
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise InputError([self.in_flags(problem) for problem in error.problems]) from error
        except TaskError as error:
            if error.__cause__ is not None:
                if ctx.meta.get(TRACEBACK):
                    traceback.print_exception(error.__cause__)
                else:
                    error.add_note("`--traceback` shows every frame of it.")
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Says what there is in the place of an option that is gone."""
        known = {flag for option in self.params for flag in option.opts}
        typed = [arg.partition("=")[0] for arg in args if arg.startswith("--")]
        gone = {flag: flag[2:].replace("-", "_") for flag in typed if flag not in known}
        problems = [
            f"`{flag}` is gone: {commands.RETIRED[name]}."
            for flag, name in gone.items()
            if name in commands.RETIRED
        ]
        if problems:
            raise InputError([self.in_flags(problem) for problem in problems])
        return super().parse_args(ctx, args)

    def in_flags(self, text: str) -> str:
        """A text with `--seeds` for `num_seeds`, and `--jobs` for `jobs=`.

        A plain name that differs from its flag in nothing else stays: it may be a key of a file.
        """
        flags = self._flags()
        renamed = {name: flag for name, flag in flags.items() if flag != f"--{name}"}

        def typed(match: re.Match[str]) -> str:
            return f"`{flags.get(match[1], match[1])} {match[2]}".rstrip() + "`"

        text = re.sub(r"`(\w+)=(\w*)`", typed, text)
        return re.sub(r"\w+(?=`|=| <)", lambda word: renamed.get(word[0], word[0]), text)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Adds `--help-all` where `--help` leaves options out."""
        params = super().get_params(ctx)
        if len(self._shown(everything=False)) == len(self._shown(everything=True)):
            return params
        return [*params, _HELP_ALL]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the essential options, or all of them, each under the heading of its topic."""
        everything = bool(ctx.meta.get(_HELP_ALL.name))
        topics: dict[str, list[tuple[str, str]]] = {}
        for option in self._shown(everything=everything):
            heading = option.topic if everything else "Options"
            topics.setdefault(heading, []).append(self._help_of(option, ctx))
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and not isinstance(parameter, Option):
                record = parameter.get_help_record(ctx)
                topics.setdefault("Help" if everything else "Options", []).extend(
                    [record] if record else []
                )
        for heading, records in topics.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def _shown(self, *, everything: bool) -> list[Option]:
        options = [option for option in self.params if isinstance(option, Option)]
        if everything or len(options) <= FEW:
            return options
        return [option for option in options if option.is_essential]

    def _help_of(self, option: Option, ctx: click.Context) -> tuple[str, str]:
        names, text = option.get_help_record(ctx) or ("", "")
        flags = self._flags()
        return names, re.sub(r"`([^`]+)`", lambda match: flags.get(match[1], match[1]), text)

    def _flags(self) -> dict[str, str]:
        return {str(option.name): option.opts[0] for option in self._shown(everything=True)}


class WithCommand(Command):
    """A command that may be followed by `--` and a training command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Takes what follows the first `--` off the arguments."""
        if "--" in args:
            place = args.index("--")
            ctx.meta[WORDS], args = tuple(args[place + 1 :]), args[:place]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Names what may follow."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def _show_all_help(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[str(option.name)] = True
        click.echo(ctx.get_help())
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all_help,
    help="Show all options by topic and exit.",
)  # fmt: skip


def options(*kinds: type) -> Decorator:
    """Adds the options of these classes to a command, in the order in which help shows them."""
    parameters = [
        _parameter(field)
        for kind in kinds
        for field in options_of(kind)
        if field.option and not field.option.python_only
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__dict__.setdefault("__click_params__", []).extend(reversed(parameters))
        return function

    return decorate


def _parameter(field: OptionField) -> click.Parameter:
    """An option as click has it."""
    assert field.option is not None
    kinds = [kind for kind in alternatives(field.kind) if kind is not NoneType]
    is_list = any(get_origin(kind) is Sequence for kind in kinds)
    metavar = field.option.metavar or None
    if field.is_positional:
        nargs = -1 if is_list else 1
        return click.Argument([field.name], metavar=metavar, nargs=nargs, required=not is_list)
    text = field.help
    has_two_flags = kinds == [bool] and bool(field.default or field.topic_default)
    if kinds != [bool] or has_two_flags:
        text += f"  [default: {field.default_text}]"
    flag = field.flag
    if has_two_flags:
        flag += f"/--no-{flag.removeprefix('--')}"
    number_or_flag = kinds[0] if kinds[0] in (int, float, bool) and str not in kinds else str
    return Option(
        [flag, field.name],
        field,
        type=click.Choice(field.choices) if field.choices else number_or_flag,
        multiple=is_list,
        is_flag=kinds == [bool],
        default=None if field.default in (None, ()) else field.default,
        metavar=metavar,
        help=text,
    )


json_option = click.option(
    "--json", "as_json", cls=Option, is_flag=True, help="Print the result as JSON."
)


def _note_traceback(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    ctx.meta[TRACEBACK] = value


traceback_option = click.option(
    "--traceback", cls=Option, is_flag=True, expose_value=False, callback=_note_traceback,
    help="Print the whole traceback where your own code fails.",
)  # fmt: skip


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="lrtune", prog_name="lrtune")
def lrtune() -> None:
    """Finds the learning-rate schedule that trains best, by real training runs."""


@lrtune.command(cls=WithCommand)
@options(TypedTask, commands.Search)
@json_option
@traceback_option
def search(*, as_json: bool = False, **asked: Any) -> None:
    """Search for the best schedule; the same command again goes on with the same study."""
    from lrtune import app

    task = _task(asked)
    _print(app.search(task, command=_command(), **asked), as_json=as_json)


@lrtune.command(
    cls=WithCommand,
    help="Train recipes side by side, seed by seed: names of `lrtune recipes` or TOML files; by "
    "default all that come with lrtune, or the baseline of a study that is included.\n\nThe first "
    "is what the others are compared with.",
)
@options(TypedTask, commands.Compare)
@json_option
@traceback_option
def compare(*, as_json: bool = False, **asked: Any) -> None:
    """Trains recipes side by side, seed by seed."""
    from lrtune import app

    task = _task(asked)
    _print(app.compare(task, command=_command(), **asked), as_json=as_json)


@lrtune.command()
@options(commands.Resume)
@json_option
@traceback_option
def resume(*, as_json: bool = False, **asked: Any) -> None:
    """Go on with a study after Ctrl-C or a crash; nothing that was finished is trained again."""
    from lrtune import app

    _print(app.resume(command=_command(), **asked), as_json=as_json)


@lrtune.command(cls=WithCommand)
@options(TypedTask, commands.Find, commands.ReportFolder)
@json_option
@traceback_option
def find(
    *, out: str | Path = commands.ReportFolder.out, as_json: bool = False, **asked: Any
) -> None:
    """Test a range of LRs, and say which peak LRs are worth searching."""
    from lrtune import app
    from lrtune.reporting.range_test import print_range_result, write_range_result

    task = _task(asked)
    result = app.find_lr(task, **asked)
    what = (
        task.source.title_text
        if isinstance(task.source, CommandLine)
        else Path(task.task_file).stem
        if task.task_file
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
@options(commands.Report)
@json_option
def report(*, as_json: bool = False, **asked: Any) -> None:
    """Write a study's report again, finished or not."""
    from lrtune import app

    _print(app.report(**asked), as_json=as_json)


@lrtune.command(
    help="Print a recipe of a study, the recommended one, as code, arguments or data, "
    "to paste where you train."
)
@options(commands.Export)
def export(**asked: Any) -> None:
    """Prints a recipe of a study as code, arguments or data."""
    from lrtune import app

    exported = app.export(**asked)
    click.echo(printable(exported.note), err=True)
    click.echo(printable(exported.text))


@lrtune.command(cls=WithCommand)
@options(commands.Apply)
def apply(**asked: Any) -> None:
    """Train a command once with the recommended schedule of its study."""
    from lrtune import app

    words = click.get_current_context().meta.get(WORDS, ())
    sys.exit(app.apply_to_command(words=words, **asked))


@lrtune.command(cls=WithCommand)
@options(commands.Audit)
@json_option
def audit(*, as_json: bool = False, **asked: Any) -> None:
    """Run a training command once, as it is, and say what is wrong with its learning rates."""
    from lrtune import app

    words = click.get_current_context().meta.get(WORDS, ())
    found = app.audit_command(words=words, **asked)
    if as_json:
        click.echo(json.dumps({"notes": found.notes, "audits": found.audits}, indent=2))
    else:
        texts = (*found.notes, *(audit["text"] for audit in found.audits))
        click.echo(printable("\n\n".join(texts)))
    sys.exit(1 if any(finding["severity"] == "wrong" for finding in found.findings) else 0)


@lrtune.command()
@options(commands.Log)
def log(**asked: Any) -> None:
    """Print what a run of a training command printed."""
    from lrtune import app

    click.echo(app.log(**asked), nl=False)


@lrtune.command("list")
@options(commands.Studies)
def list_studies(**asked: Any) -> None:
    """List the studies and how far they are."""
    from lrtune import app
    from lrtune.reporting.terminal import print_studies

    print_studies(app.studies(**asked, on_event=_tell))


@lrtune.command()
@options(commands.Delete)
@click.option("--yes", cls=Option, is_flag=True, help="Do not ask.")
def delete(*, name: str, yes: bool = False, **asked: Any) -> None:
    """Delete what is recorded of a study, and its checkpoints; its report stays."""
    from lrtune import app

    if not yes:
        if not sys.stdin.isatty():
            raise InputError(
                "Cannot ask for confirmation without a terminal. Pass --yes to delete the study."
            )
        click.confirm(f"Delete study {name} and its checkpoints?", abort=True, err=True)
    app.delete(name, **asked)


@lrtune.command()
@options(commands.Dashboard)
def dashboard(*, name: str, **asked: Any) -> None:
    """Open optuna-dashboard on a study (needs the `dashboard` extra)."""
    from lrtune import app

    server = commands.Dashboard(name, **asked)
    click.echo(f"http://{server.host}:{server.port}/", err=True)
    app.dashboard(name, **asked)


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
        error.show(shown_error := io.StringIO())
        click.echo(printable(shown_error.getvalue()), err=True, nl=False)
        if "unexpected extra argument" in error.message and "--" not in sys.argv:
            click.echo("A command to train follows after `--`.", err=True)
        sys.exit(2)
    except LrtuneError as error:
        for line in error.problems if isinstance(error, InputError) else (str(error),):
            click.echo(printable(f"lrtune: {line}"), err=True)
        for note in getattr(error, "__notes__", ()):
            click.echo(printable(note), err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort) as error:  # click makes the one of the other
        notes = getattr(error.__cause__, "__notes__", ())
        click.echo(" ".join(("lrtune: stopped.", *notes)), err=True)
        sys.exit(130)


def _command() -> str:
    """Returns the command line that was typed, with what may be shown of the URLs in it."""
    options = click.get_current_context().command.params
    flags = {flag for option in options if getattr(option, "is_url", False) for flag in option.opts}
    words, flag_before = ["lrtune"], ""
    for word in sys.argv[1:]:
        flag, equals, value = word.partition("=")
        if flag_before in flags:
            words.append(shown(word))
        elif flag in flags:
            words.append(f"{flag}{equals}{shown(value)}")
        else:
            words.append(shown_in(word))
        flag_before = word
    return shlex.join(words)


def _tell(event: Event) -> None:
    """Prints a note beside the result."""
    if isinstance(event, Note):
        click.echo(printable(event.text), err=True)


def _task(asked: dict[str, Any]) -> TypedTask:
    """Takes what was typed of the task out of what was asked."""
    names = [field.name for field in options_of(TypedTask) if field.name in asked]
    words = click.get_current_context().meta.get(WORDS)
    typed = {name: asked.pop(name) for name in names}
    return TypedTask(**typed, **({"words": words} if words is not None else {}))


def _print(result: "SearchResult", *, as_json: bool) -> None:
    from lrtune.reporting.console import PlainConsole
    from lrtune.reporting.document import compose
    from lrtune.reporting.json import render_json
    from lrtune.reporting.terminal import print_recommendation

    if as_json:
        click.echo(render_json(compose(result.report)))
    else:
        print_recommendation(result.report, PlainConsole(), result.folder)
