"""What a search can begin from: a task, the names of one, or a file that defines one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from lrtune.core.options import Conflict, Option, Options


class TaskSource:
    """A task, or where it is read from: a `Task`, a `NamedTask` or a `TaskFile`."""


@dataclass(frozen=True, kw_only=True)
class NamedTask(Options, TaskSource):
    """Names that stand for a task."""

    title: ClassVar[str] = "Task"

    data: Annotated[
        str,
        Option(
            "Images: digits, mnist, fashion-mnist, cifar10, cifar100 or folder:PATH.",
            metavar="NAME",
            essential=True,
        ),
    ] = "digits"
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
        Option("Where images are looked for first, and downloaded to.", metavar="DIR"),
    ] = None
    train_size: Annotated[int | None, Option("Train on N images only.", metavar="N")] = None
    val_size: Annotated[int | None, Option("Validate on N images.", metavar="N")] = None
    image_size: Annotated[int | None, Option("Scale images to PX x PX.", metavar="PX")] = None


@dataclass(frozen=True, kw_only=True)
class TaskFile(TaskSource):
    """A Python file that defines a task."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class TypedTask(NamedTask):
    """A task as it is typed on a command line: by its names, or by its file."""

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

    def __post_init__(self) -> None:
        """Checks nothing: a command asks `sound`."""

    def conflicts(self) -> Iterator[Conflict]:
        """Names beside a file."""
        yield from super().conflicts()
        names = sorted(self.given - {"task_file"})
        if self.task_file is not None and names:
            listed = ", ".join(f"`{name}=`" for name in names)
            message = f"`task_file=` says what is trained, so it does not go with {listed}."
            yield Conflict(("task_file", *names), message)

    @property
    def source(self) -> NamedTask | TaskFile:
        """The file, or else the names."""
        if self.task_file is not None:
            return TaskFile(path=Path(self.task_file))
        return NamedTask(**self.values(NamedTask))
