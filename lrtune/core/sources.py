"""What a search can begin from: a task, its names, a file that defines it, or a command."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from lrtune.core.errors import InputError
from lrtune.core.options import Conflict, Option, Options, at_least, fields_of

PLACEHOLDERS = ("seed", "epochs", "run_dir", "peak_lr")
"""What lrtune itself fills in where a command has it in braces."""


DEFAULT_EPOCHS = {
    "cluttered-digits": 18, "digits": 20, "mnist": 5, "fashion-mnist": 12, "cifar10": 20,
    "cifar100": 30,
}  # fmt: skip
"""Epochs of a full run on named data."""
OTHER_EPOCHS = 20
"""The same on a folder of images."""
SMALL_DATA, SMALL_BATCH = 5000, 64
"""Named data of fewer training images than these have batches of this size."""


class TaskSource:
    """A task, or where it is read from: a `Task`, a `NamedTask` or a `TaskFile`."""


@dataclass(frozen=True, kw_only=True)
class NamedTask(Options, TaskSource):
    """Names that stand for a task."""

    title: ClassVar[str] = "Task"

    data: Annotated[
        str,
        Option(
            "Images: cluttered-digits, digits, mnist, fashion-mnist, cifar10, cifar100 or "
            "folder:PATH.",
            metavar="NAME",
            essential=True,
        ),
    ] = "cluttered-digits"
    model: Annotated[
        str,
        Option(
            "Net: small-cnn, mlp, or any classification model of torchvision.",
            metavar="NAME",
            essential=True,
        ),
    ] = "small-cnn"
    data_dir: Annotated[
        str | None,
        Option(
            "Where images are looked for first, and downloaded to.",
            default="torch's cache, and the usual places",
            metavar="DIR",
            label="Folder of the data",
        ),
    ] = None
    train_size: Annotated[
        int | None,
        Option(
            "Train on N images only.", default="all", metavar="N", label="Size of the training set"
        ),
    ] = None
    val_size: Annotated[
        int | None,
        Option(
            "Validate on N images.",
            default="the data's own, or a tenth of the training set, at most 10,000",
            metavar="N",
            label="Size of the validation set",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "Scale images to PX x PX.",
            default="as they are; of a folder their median, at most 160",
            metavar="PX",
            essential=True,
        ),
    ] = None
    strict: Annotated[
        bool,
        Option("Refuse folder:PATH if one image cannot be read, not only if more than 1 % cannot."),
    ] = False
    """It changes no number."""

    def conflicts(self) -> Iterator[Conflict]:
        """Strictness with data of a fixed form."""
        yield from super().conflicts()
        if self.strict and not self.data.startswith("folder:"):
            yield Conflict(
                ("strict", "data"),
                f"`strict=` has no effect with `data={self.data}`, which is not folder:PATH.",
            )


@dataclass(frozen=True, kw_only=True)
class TaskFile(TaskSource):
    """A Python file that defines a task."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class CommandOptions(Options):
    """How a training command is steered and read."""

    title: ClassVar[str] = "Command"

    read: Annotated[
        str,
        Option(
            "Where the metric is read: a regular expression with one group, for the output, or "
            "FILE.csv:COLUMN.",
            default="wherever it appears",
            metavar="PATTERN|FILE:COLUMN",
        ),
    ] = ""
    seed_offset: Annotated[
        Literal["on", "off"],
        Option("Add the seed of the run to every seed that the command sets."),
    ] = "on"
    optimizer_index: Annotated[
        int | None,
        at_least(0),
        Option("Steer only this optimizer, counted from 0.", default="all", metavar="N"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CommandLine(CommandOptions, TaskSource):
    """A training command: whatever starts a Python that trains with torch."""

    words: Annotated[Sequence[str], Option("Program and arguments.", python_only=True)] = field(
        kw_only=False
    )

    @staticmethod
    def calling(function: Callable[[], object]) -> "CommandLine":
        """The command that calls a function of a module.

        Raises:
            InputError: another process cannot import it.
        """
        module, name = function.__module__, function.__qualname__
        if module == "__main__" or not name.isidentifier():
            raise InputError(
                "A training function must be a function of a module that can be imported, but got "
                f"{module}.{name}."
            )
        return CommandLine((sys.executable, "-c", f"from {module} import {name}; {name}()"))

    @property
    def text(self) -> str:
        """As it would be typed."""
        return shlex.join(self.words)

    @property
    def title_text(self) -> str:
        """A short name: of the script, the module or the function, or else of the program."""
        if scripts := [word for word in self.words if word.endswith(".py")]:
            return Path(scripts[0]).stem
        if "-m" in self.words[:-1]:
            return self.words[self.words.index("-m") + 1].rpartition(".")[2]
        if called := re.fullmatch(r"from \S+ import (\w+); \1\(\)", self.words[-1]):
            return called[1]
        return Path(self.words[0]).stem


@dataclass(frozen=True, kw_only=True)
class TypedTask(CommandOptions, NamedTask):
    """A task as it is typed on a command line: by its names, by its file, or as a command."""

    title: ClassVar[str] = "Task"

    task_file: Annotated[
        str | None,
        Option(
            "Python file that defines a task, instead of `data` and `model`.",
            flag="--task",
            metavar="FILE",
            essential=True,
        ),
    ] = None
    words: Annotated[Sequence[str], Option("The command after `--`.", python_only=True)] = ()

    def __post_init__(self) -> None:
        """Checks nothing: a command asks `sound`."""

    def conflicts(self) -> Iterator[Conflict]:
        """Names beside a file, or either beside a command."""
        yield from super().conflicts()
        names = sorted(self.given & {field.name for field in fields_of(NamedTask)})
        if self.task_file is not None and names:
            listed = ", ".join(f"`{name}=`" for name in names)
            message = f"`task_file=` says what is trained, so it does not go with {listed}."
            yield Conflict(("task_file", *names), message)
        names += ["task_file"] * (self.task_file is not None)
        if "words" in self.given and not self.words:
            yield Conflict(("words",), "The command to train must follow after `--`.")
        if self.words and names:
            listed = ", ".join(f"`{name}=`" for name in names)
            message = f"The command after `--` is what is trained, so it does not go with {listed}."
            yield Conflict(tuple(names), message)
        names = sorted(self.given & {field.name for field in fields_of(CommandOptions)})
        if names and not self.words:
            listed = ", ".join(f"`{name}=`" for name in names)
            yield Conflict(tuple(names), f"{listed} must come with a command after `--`.")

    @property
    def source(self) -> NamedTask | TaskFile | CommandLine:
        """The command, the file, or else the names."""
        if self.words:
            return CommandLine(self.words, **self.values(CommandOptions))
        if self.task_file is not None:
            return TaskFile(path=Path(self.task_file))
        return NamedTask(**self.values(NamedTask))
