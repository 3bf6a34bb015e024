"""The first run of a command, as it is: what there is to steer, and what its metric is."""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from lrtune.core.decays import Own
from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.objective import Objective
from lrtune.core.optimizers import OPTIMIZERS, OWN
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.run import Measurement
from lrtune.core.sources import PLACEHOLDERS, CommandLine
from lrtune.core.training import Devices
from lrtune.training.command.epochs import Epochs, Series, obvious, seen
from lrtune.training.command.lines import normalised, words_of
from lrtune.training.command.places import CsvColumn, parse_place
from lrtune.training.command.process import unknown
from lrtune.training.command.run_files import (
    HANDED_OVER,
    CommandAudit,
    Groups,
    Step,
    Steps,
    read_audit,
    read_groups,
)
from lrtune.training.command.steered import (
    Plan,
    Steered,
    asks_for,
    measurement_of,
    offset_for,
    reader_of,
)

ENDED_FILE = "ended.json"
"""In the folder of a first run that has succeeded."""
GROUPS_S = 5.0
"""A command tells its parameter groups at most this many seconds after its steps."""


@dataclass(frozen=True, kw_only=True)
class Steerable:
    """What there is to steer in a command."""

    optimizer: str
    """Class of its first optimizer."""
    peak_lr: float
    """Highest LR of all groups of the first optimizer."""
    weight_decay: float
    """Highest one of its groups."""
    ratios: tuple[tuple[float, ...], ...]
    """Of each optimizer and group: its highest LR over `peak_lr`."""
    names: tuple[str, ...]
    """Of the groups of the first optimizer; its number stands for a group without one."""
    num_steps: int
    """Optimizer steps that were seen."""
    versions: Mapping[str, str]
    """Python and PyTorch in the command."""

    @property
    def known_optimizer(self) -> str:
        """The optimizer by the name that recipes have for it, or `OWN`."""
        known = (name for name, facts in OPTIMIZERS.items() if facts.class_name == self.optimizer)
        return next(known, OWN)


@dataclass(frozen=True, kw_only=True)
class Recorded(Steerable):
    """What the first run of a command has told."""

    seed: int
    """What its seeds were offset by."""
    values: Mapping[str, Any]
    """Of the command's own placeholders."""
    measurements: tuple[Measurement, ...]
    """One an epoch."""
    objective: str
    """The metric that decides, with its direction."""
    series: Series | None
    """Which of the values with that name are meant."""
    written_as: str
    """The name as the command has it."""
    faults: tuple[str, ...]
    """What is wrong with the LRs that it uses by itself, a sentence each."""

    @property
    def epochs(self) -> int:
        """Values of the metric."""
        return len(self.measurements)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps between two values, on average and to the nearest whole one."""
        return max(1, round(self.measurements[-1].step / self.epochs))

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch: the median of all but the first, which contains the start.

        It is nan if there is only one.
        """
        return median(m.seconds for m in self.measurements[1:]) if self.epochs > 1 else math.nan

    @property
    def start_s(self) -> float:
        """Seconds from the start of the command to its first epoch; nan where it is not known."""
        return max(0.0, self.measurements[0].seconds - self.epoch_s)

    @property
    def start_epochs(self) -> int:
        """The same in epochs, to the nearest whole one."""
        return round(self.start_s / self.epoch_s) if self.epoch_s > 0 else 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all that was measured."""
        return tuple(self.measurements[-1].metrics)

    @property
    def is_handed_over(self) -> bool:
        """Whether the command can wait while its metric is read."""
        return self.series is not None and self.series.source in HANDED_OVER

    @property
    def asks(self) -> bool:
        """Whether the command asks, with each value, whether to go on."""
        return self.series is not None and self.series.source == "report"

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The parameter groups with their share of the peak LR; empty where there is only one."""
        first = self.ratios[0]
        if len(first) < 2:
            return ()
        pairs = zip(self.names, first, strict=True)
        return tuple(ParameterGroup(name=name, lr_scale=ratio) for name, ratio in pairs)

    @property
    def baseline(self) -> Recipe:
        """The command as it is."""
        return Recipe(
            optimizer=self.known_optimizer,
            peak_lr=self.peak_lr,
            decay=Own(),
            weight_decay=self.weight_decay,
            command=tuple(sorted(self.values.items())),
        )

    def save(self, file: Path) -> None:
        """Keeps it in a file, whole or not at all."""
        values = asdict(self) | {"measurements": [asdict(m) for m in self.measurements]}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(values))
        partial.replace(file)

    @staticmethod
    def load(file: Path) -> "Recorded | None":
        """What was kept in a file; `None` if there is none of this version of lrtune."""
        try:
            values: dict[str, Any] = json.loads(file.read_text())
            own = {
                "ratios": tuple(map(tuple, values["ratios"])),
                "names": tuple(values["names"]),
                "faults": tuple(values["faults"]),
                "series": Series(*values["series"]) if values["series"] else None,
                "measurements": tuple(Measurement(**m) for m in values["measurements"]),
            }
            return Recorded(**values | own)
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, kw_only=True)
class First:
    """What the placeholders in a command stand for in its first run."""

    seed: int
    """What its seeds are offset by, too."""
    epochs: int | None = None
    """`None` where the command does not ask for them."""
    peak_lr: float | None = None
    """`None` where nobody says what it is in the command as it is."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Of the command's own placeholders."""

    def asked_by(self, command: CommandLine) -> dict[str, Any]:
        """What makes a first run of this command another one."""
        own = {"epochs": self.epochs, "peak_lr": self.peak_lr}
        asked = {name: value for name, value in own.items() if asks_for(command, name)}
        return asked | dict(sorted(self.values.items()))


def recorded_file(folder: Path, command: CommandLine, metric: str | None, first: First) -> Path:
    """The file of what a first run tells.

    Another metric, or one that is read elsewhere, may have other epochs, and so does a command with
    other values for what is in braces.

    Args:
        folder: of the first runs of the command.
        command: what is run.
        metric: that decides; `None`: the one that is obvious.
        first: what is filled in.
    """
    words = ["recorded", *(words_of(normalised(metric)) if metric else ())]
    if command.read:
        words.append(hashlib.sha256(command.read.encode()).hexdigest()[:6])
    asked = first.asked_by(command).items()
    words += [re.sub(r"\W", "_", f"{name}_{value}") for name, value in asked]
    return folder / f"{'-'.join(words)}.json"


def record(
    command: CommandLine,
    objective: Objective | None,
    first: First,
    *,
    folder: Path,
    timeout_s: float,
    tell: Callable[[str], None],
    devices: Devices = Devices(),  # noqa: B008  # frozen
) -> Recorded:
    """Runs a command once, as it is, and keeps what it tells in a folder.

    It is not run again where only the metric is another one, or is read elsewhere.

    Args:
        command: to run in this working directory.
        objective: the metric that decides; `None`: the one that is obvious from its names.
        first: what is filled in.
        folder: where it is kept.
        timeout_s: seconds without a value of the metric after which it is given up; 0: never.
        tell: told what is done.
        devices: that it may use.

    Raises:
        InputError: the metric does not appear, or its direction is not known.
        TaskError: the command fails, or it has nothing that could be steered.
    """
    metric, run, cwd = objective.metric if objective else None, folder / "run", Path.cwd()
    plan = Plan(
        mode="record",
        seed=first.seed,
        seed_offset=offset_for(command, first.seed),
        optimizer_index=command.optimizer_index,
        epochs=first.epochs or 0,
        peak_lr=math.nan if first.peak_lr is None else first.peak_lr,
        values=first.values,
        audits=True,
    )
    start_time = _ended(run, command, first) if _is_found_later(command.read, metric) else None
    if start_time is not None:
        tell(f"first run of `{command.text}`: read again")
        reader = reader_of(command, run, metric, cwd=cwd, has_ended=True)
        evaluations = reader.read(over=True)
    else:
        tell(f"first run of `{command.text}`: as it is, with its learning rates recorded")
        with Steered(command, plan, run, cwd=cwd, metric=metric, devices=devices) as steered:
            start_time, reader = steered.start_time, steered.epochs
            try:
                evaluations = list(steered.evaluations(timeout_s))
            except TrialError as error:
                text = _last_lines_after(str(error), steered)
                for name in unknown(command.words, (*PLACEHOLDERS, *first.values)):
                    text += f"\n{{{name}}} stands for nothing; [command] of a space would fill it."
                raise TaskError(text) from None
        ended = {"seed": first.seed, "asked": first.asked_by(command), "start_time": start_time}
        (run / ENDED_FILE).write_text(json.dumps(ended))
    steps = Steps(run / "steps.bin").read()
    steerable = steerable_in(read_groups(run / "groups.json"), steps, command)
    if objective is None:
        objective = _obvious(reader)
        reader = reader_of(command, run, objective.metric, cwd=cwd, has_ended=True)
        evaluations = reader.read(over=True)
        tell(f"metric: {objective}, the only one that was measured on other data than the training")
    if not evaluations:
        hint = "`read=` tells where it is, if it is printed in another form."
        raise InputError(f"{reader.problem} {hint}")
    measurements: list[Measurement] = []
    for evaluation in evaluations:
        before = measurements[-1] if measurements else None
        measurements.append(
            measurement_of(evaluation, before=before, steps=steps, start_time=start_time)
        )
    recorded = Recorded(
        **vars(steerable),
        seed=first.seed,
        values=dict(first.values),
        measurements=tuple(measurements),
        objective=str(objective),
        series=reader.series,
        written_as=reader.written_as,
        faults=_faults(run),
    )
    recorded.save(recorded_file(folder, command, metric, first))
    if metric is None:
        recorded.save(recorded_file(folder, command, objective.metric, first))
    return recorded


def _faults(run: Path) -> tuple[str, ...]:
    """Returns what the audit of a run calls wrong."""
    audit = read_audit(run / "audit.json")
    findings = audit.findings if audit is not None else ()
    return tuple(found["what"] for found in findings if found["severity"] == "wrong")


@contextmanager
def alone(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Lets one process at a time make first runs in a folder; another one waits for it."""
    import fcntl  # which Windows does not have, where no command can be steered

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another lrtune makes the first run of this command: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_found_later(place: str, metric: str | None) -> bool:
    """Whether the values of a run are found once it has ended.

    A CSV file in a fixed place may have rows of other runs.
    """
    is_csv = place != "" and isinstance(parse_place(place, metric or ""), CsvColumn)
    return not is_csv or "{run_dir}" in place


def _ended(run: Path, command: CommandLine, first: First) -> float | None:
    """When a first run was started that has succeeded and would be the same; `None` without one."""
    try:
        ended = json.loads((run / ENDED_FILE).read_text())
    except (OSError, ValueError):
        return None
    same = (ended["seed"], ended["asked"]) == (first.seed, first.asked_by(command))
    return float(ended["start_time"]) if same else None


def steerable_in(groups: Groups | None, steps: Sequence[Step], command: CommandLine) -> Steerable:
    """What there is to steer in a command that has run, or runs.

    Args:
        groups: the optimizers that were seen.
        steps: that were made.
        command: which of them is steered.

    Raises:
        TaskError: nothing.
    """
    index = command.optimizer_index or 0
    if groups is not None and 0 < len(groups.optimizers) <= index:
        last = len(groups.optimizers) - 1
        raise InputError(
            f"`0 <= optimizer_index <= {last}` must hold, since the command has "
            f"{last + 1} optimizer{'s' * (last > 0)}, but got {index}."
        )
    if groups is None or not groups.optimizers or not steps:
        raise TaskError(
            "No step of a torch optimizer was seen in the command, so it has no learning rate that "
            "could be set. It must train with torch 2.0 or newer, in a Python that reads "
            "PYTHONPATH (not `python -I`), and step its optimizer outside of captured graphs."
        )
    first = groups.optimizers[index]
    peak_lr = max(group.max_lr for group in first.groups)
    if not peak_lr > 0:
        raise TaskError("The learning rate of the command was 0 at every step.")
    return Steerable(
        optimizer=first.class_name,
        peak_lr=peak_lr,
        weight_decay=max(group.weight_decay or 0.0 for group in first.groups),
        ratios=tuple(
            tuple(group.max_lr / peak_lr for group in optimizer.groups)
            for optimizer in groups.optimizers
        ),
        names=tuple(group.name or str(index) for index, group in enumerate(first.groups)),
        num_steps=len(steps),
        versions={"Python": groups.python, "PyTorch": groups.torch},
    )


def peek(command: CommandLine, *, num_steps: int, folder: Path, seed: int) -> Steerable:
    """Runs a command for so many optimizer steps, as it is, and tells what there is to steer.

    Raises:
        TaskError: the command fails before, or there is nothing to steer.
    """
    plan = Plan(
        mode="record",
        seed=seed,
        seed_offset=offset_for(command, seed),
        optimizer_index=command.optimizer_index,
    )
    with Steered(command, plan, folder, cwd=Path.cwd(), metric=None) as run:
        deadline = math.inf
        while run.wait() and not (len(run.steps) >= num_steps and _is_current(run)):
            if len(run.steps) >= num_steps:
                deadline = min(deadline, time.monotonic() + GROUPS_S)
            if time.monotonic() > deadline:
                break
        if run.exit is not None and not run.exit.succeeded:
            raise TaskError(_last_lines_after("", run))
        return steerable_in(run.groups, run.steps, command)


def audit_of(
    command: CommandLine, *, num_steps: int | None, folder: Path, seed: int
) -> tuple[CommandAudit | None, list[Step]]:
    """Runs a command once, as it is, and returns the audit of its LRs, and its steps.

    Args:
        command: to run in this working directory.
        num_steps: optimizer steps after which it is ended; `None`: it runs to its end.
        folder: of the run.
        seed: what its seeds are offset by.

    Raises:
        TaskError: the command fails, and nothing was found that tells why.
    """
    plan = Plan(
        mode="record",
        seed=seed,
        seed_offset=offset_for(command, seed),
        optimizer_index=command.optimizer_index,
        audits=True,
        audited_steps=num_steps,
    )
    path = folder / "audit.json"
    with Steered(command, plan, folder, cwd=Path.cwd(), metric=None) as run:
        while run.wait() and not (num_steps is not None and path.exists()):
            continue
        audit = read_audit(path)
        if run.exit is not None and not run.exit.succeeded:
            reason = _last_lines_after("", run)
            if audit is None or not audit.findings:
                raise TaskError(reason)
            audit = replace(audit, notes=(*audit.notes, f"{reason[0].upper()}{reason[1:]}"))
        return audit, run.steps


def _last_lines_after(reason: str, run: Steered) -> str:
    """Why a first run cannot be used, and what it printed last."""
    if run.exit is not None and not run.exit.succeeded:
        reason = f"the command ended with {run.exit}"
    lines = run.last_words(20)
    return f"{reason}. Its last lines were:\n{lines}" if lines else f"{reason} and printed nothing."


def _is_current(run: Steered) -> bool:
    """Whether the parameter groups that a command has told are those of its latest steps."""
    groups = run.groups
    if groups is None or not groups.optimizers:
        return False
    told = max(group.max_lr for optimizer in groups.optimizers for group in optimizer.groups)
    return told >= max(step.lr for step in run.steps)


def _obvious(epochs: Epochs) -> Objective:
    """The metric that must be meant where none was named."""
    candidate = obvious(epochs.candidates)
    if candidate is None:
        raise InputError(
            f"`metric` must name what decides, such as val_loss. {seen(epochs.candidates)}"
        )
    return Objective.parse(normalised(candidate.name))
