"""The commands: what each of them may be told, from Python as from the command line.

Each class gathers the options of one command. It inherits the topics that the command has.
The functions of `lrtune` take the fields as arguments, and the command line takes them as flags.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from difflib import get_close_matches
from functools import wraps
from inspect import Signature, getdoc, signature
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, TypeVar
from warnings import warn

from lrtune.core.engines import EngineChoice, SharedCheckpoints
from lrtune.core.events import Event
from lrtune.core.objective import Objective
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.options import (
    Conflict,
    OneOf,
    Option,
    Options,
    fields_of,
    options_of,
    within,
)
from lrtune.core.recipe import NamedRecipe, Recipe, default_recipe
from lrtune.core.sources import DEFAULT_EPOCHS, OTHER_EPOCHS, TaskSource
from lrtune.core.study import (
    LARGEST_SEED,
    MOST_SEEDS,
    Repetition,
    SearchRules,
    TrainSettings,
)

Target = Literal["torch", "lightning", "timm", "transformers", "json", "toml"]
"""Frameworks and formats that a recipe can be exported to."""

_LOOKS = "the search looks at each recipe by short runs now, whose lengths `looks=` sets"
_CONFIRM = "`confirm=` is full, quick or 0 now, and the number of finalists follows the budget"
RETIRED = {
    "rungs": _LOOKS,
    "reduction_factor": _LOOKS,
    "reduction": _LOOKS,
    "signal": "looks are judged by the raw weights now, by what `rank_by=` says",
    "num_confirmed": _CONFIRM,
}
"""Names of options that are gone, as arguments or as flags, and what there is in their place."""
MOST_EPOCHS = 1_000_000
"""Of a full run."""
P = ParamSpec("P")
CommandT = TypeVar("CommandT", bound="Command")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """All options of a command, which tells what rules they break together with all else."""

    def __post_init__(self) -> None:
        """Checks nothing: a command asks `sound`."""


def takes(
    kind: Callable[P, CommandT],
) -> Callable[[Callable[[CommandT], Result]], Callable[P, Result]]:
    """Gives a function of a command's options the options themselves as its arguments.

    Editors and type checkers see the fields of `kind` as arguments, and `help` describes them.
    """

    def decorate(function: Callable[[CommandT], Result]) -> Callable[P, Result]:
        @wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> Result:
            options = _flat(kwargs)
            _check_names(kind, function.__name__, options)
            return function(kind(*args, **options))

        assert isinstance(kind, type)
        command.__doc__ = f"{getdoc(function)}\n\n{_described(kind)}"
        command.__signature__ = _signature(kind, function)  # type: ignore[attr-defined]
        return command

    return decorate


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with those that were once gathered in `settings` beside the others."""
    flat = dict(arguments)
    settings = flat.pop("settings", None) or {}
    if settings:
        first, value = next(iter(settings.items()))
        warn(
            f"`settings` is out of date: give each setting as an argument, such as "
            f"{first}={value!r}.",
            DeprecationWarning,
            stacklevel=3,
        )
    return settings | flat


def _check_names(kind: Any, function: str, given: Mapping[str, Any]) -> None:
    """Raises `TypeError`, as Python does, for an argument that there is not; it tells the nearest.

    What was typed as a flag has another name here: `seeds` is `num_seeds`.
    """
    known = {option.name: option.name for option in options_of(kind)}
    flags = {option.flag.removeprefix("--"): option.name for option in options_of(kind)}
    for name in given:
        if name in RETIRED:
            raise TypeError(f"{function}(): `{name}` is gone: {RETIRED[name]}.")
        if name not in known:
            near = get_close_matches(name, {**flags, **known}, n=1)
            hint = f". Did you mean {({**flags, **known})[near[0]]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def _described(kind: type) -> str:
    """The options as the section of a docstring."""
    lines = ["Args:"]
    for option in sorted(options_of(kind), key=lambda option: not option.is_positional):
        default = f" Default: {option.default_text}." if option.default is not MISSING else ""
        text = f"{option.name}: {option.help}{default}"
        lines += wrap(text, 96, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines)


def _signature(kind: type, function: Callable[..., Any]) -> Signature:
    """The signature of a dataclass, whose annotations are types alone."""
    kinds = {field.name: field.kind for field in fields_of(kind)}
    parameters = [
        parameter.replace(annotation=kinds[name])
        for name, parameter in signature(kind).parameters.items()
    ]
    return Signature(parameters, return_annotation=signature(function).return_annotation)


@dataclass(frozen=True, kw_only=True)
class Database(Options):
    """Where studies are kept."""

    title: ClassVar[str] = "Places"

    home: Annotated[
        str | Path, Option("Folder of the database and the checkpoints.", metavar="DIR")
    ] = ".lrtune"
    storage: Annotated[
        str,
        Option(
            "Another database, as an SQLAlchemy URL.",
            default="in `home`", metavar="URL", is_url=True,
        ),
    ] = ""  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReportFolder(Options):
    """Where reports are written."""

    title: ClassVar[str] = "Places"

    out: Annotated[str | Path, Option("Folder of the reports.", metavar="DIR")] = "reports"


@dataclass(frozen=True, kw_only=True)
class Reports(ReportFolder, Database):
    """Where studies and their reports are kept."""


@dataclass(frozen=True, kw_only=True)
class Progress(Options):
    """What is shown while something is trained."""

    title: ClassVar[str] = "Output"

    quiet: Annotated[bool, Option("Show no progress.")] = False
    on_event: Annotated[
        Callable[[Event], None] | None,
        Option(
            "Function that is called with each event of `lrtune.core.events` as it happens, by one "
            "thread at a time. An `EpochEnded` has a run and its measurement, for example to log "
            "them with W&B, MLflow or TensorBoard.",
            python_only=True,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Watching(Progress):
    """The same of a study, and how its report says that it was begun."""

    title: ClassVar[str] = "Output"

    command: Annotated[
        str, Option("What a report quotes as the way to do it again.", python_only=True)
    ] = ""


@dataclass(frozen=True, kw_only=True)
class Trained(Command):
    """A task, for the commands that train one."""

    task: Annotated[
        TaskSource | str | Path | Callable[[], object],
        Option(
            "What is trained: a `Task`, the names of one, the path of a file that defines it, a "
            "`CommandLine`, or a training function of a module, which is called in a process of "
            "its own.",
            python_only=True,
        ),
    ] = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class Beginning(Repetition):
    """What a search and a comparison are both told when a study begins."""

    title: ClassVar[str] = "Study"

    epochs: Annotated[
        int | None,
        within(1, MOST_EPOCHS),
        Option(
            "Epochs of a full run.",
            default="the task's: "
            f"{', '.join(f'{epochs} ({data})' for data, epochs in DEFAULT_EPOCHS.items())}, "
            f"{OTHER_EPOCHS} (folder)",
            metavar="N",
            essential=True,
        ),
    ] = None
    metric: Annotated[
        str | Objective | None,
        Option(
            "The metric that decides: top1, val_loss, f1:max, ...",
            default="the task's: top1 where there are classes, else val_loss",
            metavar="NAME[:max|:min]",
            essential=True,
        ),
    ] = None
    max_seeds: Annotated[
        int | None,
        within(0, MOST_SEEDS),
        Option(
            "Runs, at most, of recipes that `num_seeds` runs do not tell apart.",
            default="8 in a search, no more than `num_seeds` in a comparison",
            metavar="N",
        ),
    ] = None
    study: Annotated[
        str | None,
        Option("Name of the study.", default="made from the other options", metavar="NAME"),
    ] = None

    def conflicts(self) -> Iterator[Conflict]:
        """Fewer runs at most than there are at least."""
        yield from super().conflicts()
        if self.max_seeds is not None and self.max_seeds < self.num_seeds:
            yield Conflict(
                ("num_seeds", "max_seeds"),
                "`num_seeds <= max_seeds` must hold, but got "
                f"num_seeds={self.num_seeds}, max_seeds={self.max_seeds}.",
            )


@dataclass(frozen=True, kw_only=True)
class Searched(Options):
    """What is searched, and for how long."""

    title: ClassVar[str] = "Search"

    space: Annotated[
        str | Path,
        Option("What may vary: see `lrtune spaces`.", metavar="NAME|FILE", essential=True),
    ] = "default"
    budget: Annotated[
        str | int,
        Option(
            "What may be spent: 50 (trials), 300ep (epochs), 20runs (full ones), 30min or 4h.",
            metavar="B",
            essential=True,
        ),
    ] = "50"
    optimizer: Annotated[
        str | None,
        OneOf(OPTIMIZERS),
        Option(
            "Optimizer to search with; its customary recipe is the baseline.",
            default="the task's, else sgd",
            metavar="NAME",
        ),
    ] = None
    baseline: Annotated[
        Recipe | str | Path | None,
        Option(
            "The recipe you use today: see `lrtune recipes`.",
            default=f"the task's, else {default_recipe('sgd').label}",
            metavar="NAME|FILE",
            essential=True,
        ),
    ] = None
    tries: Annotated[
        Sequence[Recipe | str | Path],
        Option(
            "A recipe to try first, moved into the space; may be given again.",
            flag="--try",
            metavar="NAME|FILE",
        ),
    ] = ()
    looks: Annotated[
        str,
        Option(
            "Lengths of the two looks at a recipe, in epochs: 1,3. The whole schedule is "
            "compressed to them.",
            metavar="EPOCHS,EPOCHS",
        ),
    ] = "auto"

    def conflicts(self) -> Iterator[Conflict]:
        """Two baselines."""
        yield from super().conflicts()
        if self.optimizer is not None and self.baseline is not None:
            yield Conflict(
                ("optimizer", "baseline"),
                "`optimizer=` and `baseline=` both say what the baseline is: give one.",
            )


@dataclass(frozen=True, kw_only=True)
class Search(
    Trained, Watching, Reports, EngineChoice, TrainSettings, SearchRules, Beginning, Searched
):
    """`lrtune search`."""

    def conflicts(self) -> Iterator[Conflict]:
        """What is said of looks, or of a race, that the study does not have."""
        yield from super().conflicts()
        said = {"looks": self.looks != "auto", "rank_by": self.rank_by is not None}
        for name in (name for name, is_said in said.items() if is_said and self.pruner == "none"):
            yield Conflict(
                (name, "pruner"), f"`{name}=` does not go with `pruner=none`, which has no looks."
            )
        if self.matters is not None and self.confirm != "full":
            yield Conflict(
                ("matters", "confirm"),
                f"`matters=` does not go with `confirm={self.confirm}`, which has no race.",
            )


@dataclass(frozen=True, kw_only=True)
class Compare(Trained, Watching, Reports, EngineChoice, TrainSettings, Beginning):
    """`lrtune compare`."""

    title: ClassVar[str] = "Comparison"

    recipes: Annotated[
        Sequence[str | Path | NamedRecipe],
        Option(
            "Names of recipes that come with lrtune, TOML files, or recipes with a name; the "
            "others are compared with the first.",
            default="the baseline of what is included, else all that come with lrtune",
            metavar="[RECIPE]...",
        ),
    ] = field(default=(), kw_only=False)
    include: Annotated[
        Sequence[str],
        Option(
            "A study whose recommended recipe takes part, or its simplest, or that of a trial. "
            "What is trained and how, and what the others are compared with, are that study's "
            "unless they are given. May be given again.",
            metavar="STUDY[:RECIPE]",
            essential=True,
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class OfStudy(Command):
    """A study, for the commands that are about one."""

    name: Annotated[str, Option("Name of the study.", metavar="STUDY")] = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class Resume(OfStudy, Watching, Reports, EngineChoice):
    """`lrtune resume`."""

    title: ClassVar[str] = "Search"

    budget: Annotated[
        str | int | None,
        Option(
            "Another budget than the study was begun with.",
            default="the study's",
            metavar="B",
            essential=True,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Report(OfStudy, Reports):
    """`lrtune report`."""


@dataclass(frozen=True, kw_only=True)
class Export(OfStudy, Database):
    """`lrtune export`."""

    title: ClassVar[str] = "Export"

    to: Annotated[
        Target,
        Option("Framework; toml: a file for `lrtune compare` and for a search as its baseline."),
    ] = "torch"
    recipe: Annotated[
        str | int,
        Option(
            "best, simplest (that may well be the best), baseline, or the number of a trial.",
            metavar="WORD|NUMBER",
        ),
    ] = "best"


@dataclass(frozen=True, kw_only=True)
class Apply(OfStudy, Database):
    """`lrtune apply`."""

    title: ClassVar[str] = "Recipe"

    recipe: Annotated[
        str | int,
        Option(
            "best, simplest (that may well be the best), or the number of a trial.",
            metavar="WORD|NUMBER",
        ),
    ] = "best"
    words: Annotated[Sequence[str], Option("The command to train.", python_only=True)] = ()


@dataclass(frozen=True, kw_only=True)
class Audit(Command):
    """`lrtune audit`."""

    title: ClassVar[str] = "Audit"

    num_steps: Annotated[
        int | None,
        within(2, 10**9),
        Option(
            "End the command after so many optimizer steps; nothing is then said of its length.",
            default="all of them", flag="--steps", metavar="N",
        ),
    ] = None  # fmt: skip
    seed: Annotated[
        int, within(0, LARGEST_SEED), Option("What its seeds are offset by.", metavar="N")
    ] = 0
    words: Annotated[Sequence[str], Option("The command to train.", python_only=True)] = ()


@dataclass(frozen=True, kw_only=True)
class Log(OfStudy, Database):
    """`lrtune log`."""

    run: Annotated[
        str, Option("Run of the study, such as trial-0007 or baseline-0.", metavar="RUN")
    ] = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class Delete(OfStudy, Database, SharedCheckpoints):
    """`lrtune delete`."""


@dataclass(frozen=True, kw_only=True)
class Dashboard(OfStudy, Database):
    """`lrtune dashboard`."""

    title: ClassVar[str] = "Server"

    host: Annotated[str, Option("Address to serve it at.", metavar="ADDR")] = "127.0.0.1"
    port: Annotated[int, within(0, 65535), Option("Port to serve it at.", metavar="N")] = 8080


@dataclass(frozen=True, kw_only=True)
class Studies(Command, Database):
    """`lrtune list`."""

    on_event: Annotated[
        Callable[[Event], None] | None,
        Option(
            "Function that is called with a `Note` for each study that is left out because it "
            "cannot be read.",
            python_only=True,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Sweeps(Options):
    """The sweeps of a range test."""

    title: ClassVar[str] = "Range test"

    low: Annotated[
        float | None,
        Option("First LR of a sweep.", default="by the optimizer", metavar="LR", essential=True),
    ] = None
    high: Annotated[
        float | None,
        Option("Last LR of a sweep.", default="by the optimizer", metavar="LR", essential=True),
    ] = None
    num_steps: Annotated[
        int,
        Option("Optimizer steps of a sweep.", flag="--steps", metavar="N", essential=True),
    ] = 200
    num_seeds: Annotated[
        int,
        within(1, MOST_SEEDS),
        Option("Sweeps, each with a seed of its own.", flag="--seeds", metavar="N", essential=True),
    ] = 3


@dataclass(frozen=True, kw_only=True)
class Find(Trained, Progress, TrainSettings, Sweeps):
    """`lrtune find`."""

    title: ClassVar[str] = "Range test"

    optimizer: Annotated[
        str | None,
        OneOf(OPTIMIZERS),
        Option("Optimizer to test.", default="the task's", metavar="NAME", essential=True),
    ] = None
    seed: Annotated[
        int, within(0, LARGEST_SEED), Option("Seed of the first sweep.", metavar="N")
    ] = 0
