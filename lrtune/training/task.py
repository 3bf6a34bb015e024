"""A task: what is trained, on what, and what its user has today."""

import hashlib
import importlib.util
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lrtune.core.commands import MOST_EPOCHS
from lrtune.core.decays import Plateau
from lrtune.core.errors import InputError, Problems, TaskError, quoted, raised
from lrtune.core.objective import TOP1, Objective, averaged
from lrtune.core.options import LARGEST
from lrtune.core.printing import is_name, printable
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import LOSSES
from lrtune.core.sources import (
    DEFAULT_EPOCHS,
    OTHER_EPOCHS,
    SMALL_BATCH,
    SMALL_DATA,
    CommandLine,
    CommandOptions,
    NamedTask,
    TaskFile,
    TaskSource,
)
from lrtune.core.study import TrainSettings
from lrtune.training.fingerprint import fingerprint
from lrtune.training.native.data.batches import Source, check_source, is_stream
from lrtune.training.native.data.datasets.folder import folder_of, listing_digest
from lrtune.training.native.data.images import Images
from lrtune.training.native.evaluation import is_running


@dataclass(frozen=True, kw_only=True)
class Task(TaskSource):
    """What a search trains.

    Example:
        >>> task = Task(model=lambda: MyNet(), train=train_set, validation=val_set, num_classes=10)
        >>> result = lrtune.search(task, budget=50)
    """

    model: Callable[[], nn.Module]
    """Builds an untrained model; called with the random numbers seeded, as often as needed."""
    train: Source
    """`Images`, a map-style dataset, a `DataLoader`, or a stream: an iterable of batches without a
    length, or a function of (seed, epoch) that returns one. A batch is a pair (inputs, targets), a
    dict, or anything that `forward` takes. Epoch k of a run must be a function of its seed and of k
    for the run to be resumed, so a stream is such a function, or has (or its dataset or sampler
    has) a `set_epoch` that is given a number drawn from both; any other stream is read on from
    epoch to epoch."""
    validation: Source
    """Likewise; a stream must end by itself."""
    num_classes: int | None = None
    """Where Top-1 is counted: the classes are in dimension 1 of the outputs, and the targets are
    numbers from 0 to `num_classes - 1`."""
    test: Source | None = None
    """Read once, for the recommended recipe and the baseline."""
    loss: Callable[[Any, Any], Tensor] | None = None
    """Mean loss of `(outputs, targets)`.

    `None`: what a model returns as its own loss for a dict batch, or else cross-entropy with the
    settings' label smoothing.
    """
    forward: Callable[[Any, Any], tuple[Tensor, Any, Any]] | None = None
    """From `(model, batch)` to `(loss, outputs, targets)`, for training and for validation;
    `model.training` tells which. `None`: of a pair, the outputs are `model(inputs)`; of a dict,
    they are the `logits` of `model(**batch)`, and the targets are its `labels`."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics of the validation set by name: objects of torchmetrics (or any with `update`,
    `compute` and `reset`), or functions from all outputs and targets to a number."""
    objective: Objective | str | None = None
    """The metric that decides, as `NAME`, `NAME:max` or `NAME:min`. `None`: Top-1 where there are
    `num_classes`, else the validation loss."""
    parameters: Callable[[nn.Module], list[dict[str, Any]]] | None = None
    """Parameter groups of a model, each with an optional `lr_scale`, and with an optional `name` by
    which a space or a recipe can give it another one; `None`: one group of all parameters."""
    baseline: Recipe = field(default_factory=lambda: default_recipe("sgd"))
    """The recipe that its user has today; also the optimizer's defaults for whatever a space leaves
    open."""
    epochs: int = 10
    steps_per_epoch: int | None = None
    """Optimizer steps that make up an epoch of a stream; other data have a length of their own."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    data_facts: Mapping[str, str] = field(default_factory=dict)
    """What a report says of the data, by what people call it: `{"Classes": "2: cat, dog"}`."""
    name: str = "task"
    """In reports, and in the names of studies. Tasks of equal name are told apart by a fingerprint
    of their model, loss and data, which does not see everything: give a changed task another name
    where its results must not be mixed."""

    def __post_init__(self) -> None:
        problems = Problems(_type_problems(self))
        for key in ("num_classes", "epochs", "steps_per_epoch"):  # JSON knows no NumPy integers
            value = getattr(self, key)
            object.__setattr__(self, key, int(value) if isinstance(value, Integral) else value)
        objective = self.objective
        if objective is None:
            objective = Objective() if self.num_classes is not None else "val_loss:min"
        if isinstance(objective, str):
            with problems.gather():
                objective = Objective.parse(objective)
        if isinstance(objective, Objective) and _is_mapping(self.metrics):
            object.__setattr__(self, "objective", objective)
            problems += _metric_problems(self, objective)
        problems.raise_any()

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics that each epoch measures."""
        return (*LOSSES, *(() if self.num_classes is None else (TOP1,)), *self.metrics)

    @property
    def decides(self) -> Objective:
        """The objective, as it was given or chosen."""
        assert isinstance(self.objective, Objective)
        return self.objective


def _type_problems(task: Task) -> list[str]:
    """Every rule that a part of the task breaks by itself."""
    problems = [
        f"`task.{key}` must be given as {what}, but got {quoted(value)}."
        for key, what, value, holds in (
            ("model", "a function that returns a model", task.model, callable(task.model)),
            (
                "num_classes",
                "a whole number from 2",
                task.num_classes,
                task.num_classes is None or _at_least(2, task.num_classes),
            ),
            (
                "epochs",
                f"a whole number from 1 to {MOST_EPOCHS}",
                task.epochs,
                _at_least(1, task.epochs) and task.epochs <= MOST_EPOCHS,
            ),
            (
                "steps_per_epoch",
                "a whole number from 1",
                task.steps_per_epoch,
                task.steps_per_epoch is None or _at_least(1, task.steps_per_epoch),
            ),
            (
                "forward",
                "a function of (model, batch)",
                task.forward,
                _is_optional(task.forward),
            ),
            ("loss", "a function of (outputs, targets)", task.loss, _is_optional(task.loss)),
            (
                "parameters",
                "a function of a model",
                task.parameters,
                _is_optional(task.parameters),
            ),
            ("metrics", "a dict of metrics by name", task.metrics, _is_mapping(task.metrics)),
            ("baseline", "a Recipe", task.baseline, isinstance(task.baseline, Recipe)),
            (
                "settings",
                "TrainSettings",
                task.settings,
                isinstance(task.settings, TrainSettings),
            ),
            ("data_facts", "a dict of texts", task.data_facts, _are_texts(task.data_facts)),
            (
                "name",
                "a text of one line without hidden characters",
                task.name,
                is_name(task.name),
            ),
            (
                "objective",
                "NAME, NAME:max or NAME:min",
                task.objective,
                task.objective is None or isinstance(task.objective, Objective | str),
            ),
        )
        if not holds
    ]
    if isinstance(task.model, nn.Module):
        problems.append(
            "`task.model` must be a function that builds a new model each time, but got a model: "
            "give its class, or `lambda: copy.deepcopy(model)`."
        )
    if isinstance(task.loss, nn.Module) and any(p.requires_grad for p in task.loss.parameters()):
        problems.append(
            "`task.loss` must have no trainable parameters, since a run trains the model's alone: "
            "give them to the model, or freeze them with `loss.requires_grad_(False)`."
        )
    if task.loss is not None and task.forward is not None:
        problems.append("`task.loss` must not be given beside `task.forward`, which has its own.")
    sources = {"train": task.train, "validation": task.validation, "test": task.test}
    unusable = []
    for key, source in sources.items():
        try:
            if source is not None or key != "test":
                check_source(source)  # type: ignore[arg-type]
        except InputError as error:
            unusable += [f"`task.{key}`: {problem}" for problem in error.problems]
    problems += unusable
    if not unusable and not isinstance(task.train, Images):
        if is_stream(task.train) and task.steps_per_epoch is None:
            problems.append(
                "`task.steps_per_epoch` must be given where the training data have no length, but "
                f"got None with a {type(task.train).__name__}."
            )
        if not is_stream(task.train) and task.steps_per_epoch is not None:
            problems.append(
                "`task.steps_per_epoch` is for streams, whose length is not known, but got "
                f"{quoted(task.steps_per_epoch)} with a {type(task.train).__name__} of "
                f"{len(task.train)}."  # type: ignore[arg-type]
            )
    return problems


def _metric_problems(task: Task, objective: Objective) -> list[str]:
    """Every rule that the names of metrics break."""
    problems = []
    for name, metric in task.metrics.items():
        if not is_name(name) or ":" in name:
            problems.append(f"`task.metrics` must have plain names, but got {quoted(name)}.")
        elif name in (*LOSSES, TOP1) or name.startswith(averaged("")):
            problems.append(
                f"`task.metrics` must not use the names train_loss, val_loss, top1 or averaged_*, "
                f"but got {name!r}."
            )
        if not callable(metric) and not is_running(metric):
            problems.append(
                "`task.metrics` must hold functions of (outputs, targets), or objects with update, "
                f"compute and reset, but {name!r} is a {type(metric).__name__}."
            )
    measured = task.measured
    asked = {"`task.objective`": objective.metric}
    if isinstance(task.baseline, Recipe) and isinstance(task.baseline.decay, Plateau):
        monitor = Objective.parse(task.baseline.decay.monitor)
        asked["the plateau of `task.baseline`"] = monitor.metric
    for what, metric in asked.items():
        if metric not in measured:
            hint = ": give `num_classes`" if metric == TOP1 else ""
            problems.append(
                f"{what} must be one of the metrics that are measured, {', '.join(measured)}, but "
                f"got {metric}{hint}."
            )
    return problems


def build_named_task(named: NamedTask) -> Task:
    """The task that the names stand for, its data read and its model tried once.

    Raises:
        InputError: an unknown name, or sizes that do not go together.
        DataError: the images are not to be found.
    """
    from lrtune.training.native.data.datasets import load_dataset
    from lrtune.training.native.models import build_model, check_model

    data_dir = Path(named.data_dir) if named.data_dir else None
    splits = load_dataset(
        named.data,
        data_dir=data_dir,
        train_size=named.train_size,
        val_size=named.val_size,
        image_size=named.image_size,
        strict=named.strict,
    )
    channels, image_size = splits.train.images.shape[1], splits.train.images.shape[-1]
    shape = {"num_classes": splits.num_classes, "channels": channels, "image_size": image_size}
    check_model(named.model, **shape)
    is_small = len(splits.train) < SMALL_DATA
    folder = folder_of(named.data)
    name = printable(folder.name) if folder else named.data
    return Task(
        name=name if named.model == NamedTask.model else f"{name}-{named.model}",
        model=lambda: build_model(named.model, **shape),
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        num_classes=splits.num_classes,
        epochs=DEFAULT_EPOCHS.get(named.data, OTHER_EPOCHS),
        settings=TrainSettings(batch_size=SMALL_BATCH if is_small else TrainSettings.batch_size),
        data_facts=splits.facts,
    )


def load_task_file(path: Path) -> Task:
    """The `task` of a Python file: a `Task`, or a function without arguments that returns one.

    Raises:
        InputError: there is no such file.
        TaskError: it has no task, or running it raised.
    """
    if not path.is_file():
        words = str(path).split()
        hint = f" A command is written lrtune.CommandLine({words})." if len(words) > 1 else ""
        raise InputError(f"`task` must be a Python file, but there is no file {path}.{hint}")
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
        task = getattr(module, "task", None)
        if callable(task) and not isinstance(task, Task):
            task = task()
    except TaskError as error:  # which says what of it failed
        raise TaskError(f"{path}: {error}") from error.__cause__
    except (Exception, SystemExit) as error:
        raise TaskError(f"{path}: reading it failed: {raised(error)}") from error
    if not isinstance(task, Task):
        what = "has no `task`" if task is None else f"has a `task` that is a {type(task).__name__}"
        raise TaskError(
            f"{path}: must define `task`, an lrtune.Task or a function that returns one, but it "
            f"{what}."
        )
    return task


def load_task(source: TaskSource) -> Task:
    """The task of a source."""
    match source:
        case NamedTask():
            return build_named_task(source)
        case TaskFile(path=path):
            return load_task_file(path)
        case Task():
            return source
    raise AssertionError(source)


def modules_of(source: TaskSource) -> list[ModuleType]:
    """The modules of a task file: itself, and the imported ones that lie beside it."""
    if not isinstance(source, TaskFile):
        return []
    folder = source.path.parent.resolve()
    modules = []
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        beside = (
            file.is_absolute()
            and file.resolve().is_relative_to(folder)
            and "site-packages" not in file.parts
        )
        if beside and name != "__main__" and name.partition(".")[0] != "lrtune":
            modules.append(module)
    return modules


def settings_for(task: Task, settings: TrainSettings) -> TrainSettings:
    """The settings that a task is trained by.

    Data of its own have their own transforms, and a loader its own batch size.

    Raises:
        InputError: label smoothing, which does not reach a loss of the task's own.
    """
    if (task.loss is not None or task.forward is not None) and settings.label_smoothing:
        raise InputError(
            "`label_smoothing` must be 0 where the task has a loss of its own, which has to smooth "
            f"by itself, but got {settings.label_smoothing}."
        )
    if isinstance(task.train, DataLoader) and task.train.batch_size:
        settings = replace(settings, batch_size=task.train.batch_size * settings.accumulate)
    return settings if isinstance(task.train, Images) else replace(settings, augment=False)


def change_settings(task: Task, changes: Mapping[str, Any]) -> TrainSettings:
    """The task's settings with some of them changed, by field.

    Raises:
        InputError: there is no such setting, it cannot be so, or it does nothing to the data.
    """
    names, kind = [f.name for f in fields(TrainSettings)], type(task.train).__name__
    problems = [
        f"`settings` has no {key!r}; it has {', '.join(names)}."
        for key in changes
        if key not in names
    ]
    if changes.get("augment") and not isinstance(task.train, Images):
        problems.append(f"`augment` is for `Images` only, but the data are a {kind}.")
    changed = dict(changes)
    if _has_own_batches(task.train):
        micro_batch = getattr(task.train, "batch_size", None) or 0
        own = micro_batch * changes.get("accumulate", task.settings.accumulate)
        if own:
            changed["batch_size"] = own
        if (asked := changes.get("batch_size", own)) != own:
            what = (
                f"{own}, what the task's loader gives a step"
                if own
                else "left to the task's own data"
            )
            problems.append(f"`batch_size` must be {what}, but got {asked}.")
    if problems:
        raise InputError(problems)
    return settings_for(task, replace(task.settings, **changed))


def describe_source(source: TaskSource) -> Mapping[str, Any]:
    """What tells one source from another, as plain values; `source_from` reads it back."""
    match source:
        case NamedTask():
            # `strict` is no part of what is trained: it lets the same data pass, or none.
            given = {
                key: value
                for key, value in asdict(source).items()
                if value is not None and key != "strict"
            }
            folder = folder_of(source.data)
            return given | {"sha256": listing_digest(folder)} if folder else given
        case TaskFile(path=path):
            return {"file": str(path.resolve()), "sha256": _digest(path) if path.is_file() else ""}
        case Task():
            return {"python": source.name, "sha256": fingerprint(source)}
        case CommandLine():
            files = {word: Path(word) for word in source.words if Path(word).is_file()}
            return {
                "command": source.text,
                **source.values(CommandOptions),
                "folder": str(Path.cwd()),
                "sha256": {name: _digest(path) for name, path in files.items()},
            }
    raise AssertionError(source)


def source_from(described: Mapping[str, Any]) -> TaskSource:
    """The source that was described.

    Raises:
        InputError: it was a Python object, or its file or folder has changed since.
    """
    if "python" in described:
        raise InputError(
            f"this study's task, {described['python']!r}, is a Python object: call lrtune.search "
            "with it and the study's name again, or lrtune.compare with it."
        )
    if "command" in described:
        return _command_from(described)
    source: NamedTask | TaskFile
    if "file" in described:
        source = TaskFile(path=Path(described["file"]))
        place: Path | None = source.path
    else:
        source = NamedTask(**{key: value for key, value in described.items() if key != "sha256"})
        place = folder_of(source.data)
    if place is not None and place.exists() and describe_source(source) != dict(described):
        raise InputError(
            f"{place} has changed since the study began: its new results would not go with the old "
            "ones."
        )
    return source


def _command_from(described: Mapping[str, Any]) -> CommandLine:
    if described["folder"] != str(Path.cwd()):
        raise InputError(
            f"A run starts in the folder where the study began, {described['folder']}, but this is "
            f"{Path.cwd()}: go there first."
        )
    options = {field.name: described[field.name] for field in fields(CommandOptions)}
    command = CommandLine(tuple(shlex.split(described["command"])), **options)
    now = describe_source(command)
    if changed := [
        name for name, old in described["sha256"].items() if now["sha256"].get(name) != old
    ]:
        raise InputError(
            f"{', '.join(changed)} has changed since the study began: its new results would not go "
            "with the old ones."
        )
    return command


def _is_optional(function: object) -> bool:
    return function is None or callable(function)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _are_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )


def _has_own_batches(source: Source) -> bool:
    is_data_set = isinstance(source, IterableDataset)
    return isinstance(source, DataLoader) or (is_stream(source) and not is_data_set)


def _at_least(low: int, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return low <= int(value) <= LARGEST


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
