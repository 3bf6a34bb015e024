"""A task: what is trained, on what, and what its user has today."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from lrtune.core.errors import InputError, TaskError
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.batches import Images, Source
from lrtune.training.datasets.folder import folder_of, listing_digest
from lrtune.training.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a search trains.

    Example:
        >>> task = Task(model=lambda: MyNet(), train=train_set, validation=val_set, num_classes=10)
        >>> result = lrtune.search(task, budget=50)
    """

    model: Callable[[], nn.Module]
    """Builds an untrained model; called with the random numbers seeded, as often as needed."""
    train: Source
    """Inputs in float32, unless the model takes others, and labels from 0 to `num_classes - 1`."""
    validation: Source
    num_classes: int
    test: Source | None = None
    """Read once, for the recommended recipe and the baseline."""
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    """Mean loss of `(logits, labels)`, shapes (B, num_classes) and (B,).

    `None`: cross-entropy with the settings' label smoothing.
    """
    parameters: Callable[[nn.Module], list[dict[str, Any]]] | None = None
    """Parameter groups of a model, each with an optional `lr_scale`; `None`: one group of all
    parameters."""
    baseline: Recipe = field(default_factory=lambda: default_recipe("sgd"))
    """The recipe that its user has today; also the optimizer's defaults for whatever a space leaves
    open."""
    epochs: int = 10
    settings: TrainSettings = field(default_factory=TrainSettings)
    name: str = "task"
    """In reports, and in the names of studies. Tasks of equal name are told apart by a fingerprint
    of their model, loss and data, which does not see everything: give a changed task another name
    where its results must not be mixed."""

    def __post_init__(self) -> None:
        problems = [
            f"`task.{key}` must be given as {what}, but got {value!r}."
            for key, what, value, holds in (
                ("model", "a function that returns a model", self.model, callable(self.model)),
                (
                    "num_classes",
                    "a whole number from 2",
                    self.num_classes,
                    _at_least(2, self.num_classes),
                ),
                ("epochs", "a whole number from 1", self.epochs, _at_least(1, self.epochs)),
            )
            if not holds
        ]
        if isinstance(self.model, nn.Module):
            problems.append(
                "`task.model` must be a function that builds a new model each time, but got a model: give its class, "
                "or `lambda: copy.deepcopy(model)`."
            )
        if isinstance(self.loss, nn.Module) and any(
            p.requires_grad for p in self.loss.parameters()
        ):
            problems.append(
                "`task.loss` must have no trainable parameters, since a run trains the model's alone: give them to the "
                "model, or freeze them with `loss.requires_grad_(False)`."
            )
        if problems:
            raise InputError(problems)
        for key in ("num_classes", "epochs"):  # JSON knows no integers of NumPy
            object.__setattr__(self, key, int(getattr(self, key)))


@dataclass(frozen=True, kw_only=True)
class NamedTask:
    """Names on a command line that stand for a task."""

    data: str = "digits"
    model: str = "small-cnn"
    data_dir: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    image_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A Python file that defines a task."""

    path: Path


TaskSource = Task | NamedTask | TaskFile
"""All that a search can begin from."""
DEFAULT_EPOCHS = {"digits": 20, "mnist": 5, "fashion-mnist": 12, "cifar10": 20, "cifar100": 30}


def build_named_task(named: NamedTask) -> Task:
    """The task that the names stand for, its data read and its model tried once.

    Raises:
        InputError: an unknown name, or sizes that do not go together.
        DataError: the images are not to be found.
    """
    from lrtune.training.datasets import load_dataset
    from lrtune.training.models import build_model, check_model

    data_dir = Path(named.data_dir) if named.data_dir else None
    splits = load_dataset(
        named.data,
        data_dir=data_dir,
        train_size=named.train_size,
        val_size=named.val_size,
        image_size=named.image_size,
    )
    channels, image_size = splits.train.images.shape[1], splits.train.images.shape[-1]
    shape = {"num_classes": splits.num_classes, "channels": channels, "image_size": image_size}
    check_model(named.model, **shape)
    return Task(
        name=f"{splits.name}-{named.model}",
        model=lambda: build_model(named.model, **shape),
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        num_classes=splits.num_classes,
        epochs=DEFAULT_EPOCHS.get(named.data, 20),
        settings=TrainSettings(batch_size=64 if len(splits.train) < 5000 else 128),
    )


def load_task_file(path: Path) -> Task:
    """The `task` of a Python file: a `Task` of that name, or a function without arguments that returns one.

    Raises:
        InputError: there is no such file.
        TaskError: it has no task, or running it raised.
    """
    if not path.is_file():
        raise InputError(f"`task` must be a Python file, but there is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"lrtune_task_{_digest(path)[:8]}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"`task` must be a Python file (.py), but got {path}.")
    if (
        str(path.parent.resolve()) not in sys.path
    ):  # for the modules beside it, as if it were run itself
        sys.path.insert(0, str(path.parent.resolve()))
    # Dataclasses and pickle look for the module there.
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, "task", None)
        if callable(found) and not isinstance(found, Task):
            found = found()
    except Exception as error:
        raise TaskError(
            f"{path}: raised {type(error).__name__} while it was read{_at(error, path)}: {error}"
        ) from error
    if not isinstance(found, Task):
        what = (
            "has no `task`" if found is None else f"has a `task` that is a {type(found).__name__}"
        )
        raise TaskError(
            f"{path}: must define `task`, an lrtune.Task or a function that returns one, but it {what}."
        )
    return found


def load_task(source: TaskSource) -> Task:
    """The task of a source."""
    match source:
        case NamedTask():
            return build_named_task(source)
        case TaskFile(path=path):
            return load_task_file(path)
        case Task():
            return source


def modules_of(source: TaskSource) -> list[ModuleType]:
    """The modules that a task file consists of: itself, and those beside it, as far as they were imported."""
    if not isinstance(source, TaskFile):
        return []
    folder = source.path.parent.resolve()
    found = []
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        beside = (
            file.is_absolute()
            and file.resolve().is_relative_to(folder)
            and "site-packages" not in file.parts
        )
        if beside and name != "__main__" and name.partition(".")[0] != "lrtune":
            found.append(module)
    return found


def settings_for(task: Task, settings: TrainSettings) -> TrainSettings:
    """The settings that a task is trained by: data of its own have their own transforms, a loader its own batch size.

    Raises:
        InputError: label smoothing, which does not reach a loss of the task's own.
    """
    if task.loss is not None and settings.label_smoothing:
        rule = "`label_smoothing` must be 0 where the task has a loss of its own, which has to smooth by itself"
        raise InputError(f"{rule}, but got {settings.label_smoothing}.")
    if isinstance(task.train, DataLoader) and task.train.batch_size:
        settings = replace(settings, batch_size=task.train.batch_size * settings.accumulate)
    return settings if isinstance(task.train, Images) else replace(settings, augment=False)


def change_settings(task: Task, changes: Mapping[str, Any]) -> TrainSettings:
    """The task's settings with some of them changed, by field.

    Raises: InputError: there is no such setting, it cannot be so, or it does nothing to the task's
        data.
    """
    known, kind = [f.name for f in fields(TrainSettings)], type(task.train).__name__
    problems = [
        f"`settings` has no {key!r}; it has {', '.join(known)}."
        for key in changes
        if key not in known
    ]
    if changes.get("augment") and not isinstance(task.train, Images):
        problems.append(f"`augment` is for `Images` only, but the data are a {kind}.")
    changed = dict(changes)
    if isinstance(task.train, DataLoader):
        own = (task.train.batch_size or 0) * changes.get("accumulate", task.settings.accumulate)
        if own:
            changed["batch_size"] = own
        if (asked := changes.get("batch_size", own)) != own:
            what = (
                f"{own}, what the task's loader gives a step"
                if own
                else "left to the task's loader"
            )
            problems.append(f"`batch_size` must be {what}, but got {asked}.")
    if problems:
        raise InputError(problems)
    return settings_for(task, replace(task.settings, **changed))


def describe_source(source: TaskSource) -> Mapping[str, Any]:
    """What tells one source from another, as plain values; `source_from` reads it back."""
    match source:
        case NamedTask():
            given = {key: value for key, value in asdict(source).items() if value is not None}
            folder = folder_of(source.data)
            return given | {"sha256": listing_digest(folder)} if folder else given
        case TaskFile(path=path):
            return {"file": str(path.resolve()), "sha256": _digest(path) if path.is_file() else ""}
        case Task():
            return {"python": source.name, "sha256": fingerprint(source)}


def source_from(described: Mapping[str, Any]) -> TaskSource:
    """The source that was described.

    Raises:
        InputError: it was a Python object, or its file or folder has changed since.
    """
    if "python" in described:
        raise InputError(
            f"this study's task, {described['python']!r}, is a Python object: call lrtune.search with it and the "
            "study's name again."
        )
    source: NamedTask | TaskFile
    if "file" in described:
        source = TaskFile(path=Path(described["file"]))
        place: Path | None = source.path
    else:
        source = NamedTask(**{key: value for key, value in described.items() if key != "sha256"})
        place = folder_of(source.data)
    if place is not None and place.exists() and describe_source(source) != dict(described):
        raise InputError(
            f"{place} has changed since the study began: its new results would not go with the old ones."
        )
    return source


def _at_least(low: int, value: object) -> bool:
    return isinstance(value, Integral) and int(value) >= low


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _at(error: Exception, path: Path) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    return f" (line {lines[-1]})" if lines else ""
