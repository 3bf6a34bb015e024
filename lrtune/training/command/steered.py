"""One start of a command whose learning rate is set, or recorded, from outside."""

import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from lrtune.core.errors import InputError, TrialError
from lrtune.core.run import Measurement
from lrtune.core.sources import PLACEHOLDERS, CommandLine
from lrtune.core.training import Devices
from lrtune.training.command import following
from lrtune.training.command.epochs import Epochs, Evaluation, Series
from lrtune.training.command.places import parse_place
from lrtune.training.command.process import Exit, Process, end_leftovers, filled, placeholders
from lrtune.training.command.run_files import (
    Groups,
    Step,
    Steps,
    read_board,
    read_failed,
    read_groups,
)

Mode = Literal["record", "set", "sweep"]
CHILD = Path(__file__).parent / "child"
"""Put on the path of every Python of the command."""
PACKAGES = Path(__file__).parents[3]
"""The folder that the package lrtune is in."""
POLL_S = 0.1
STOP_S = 10.0
"""How long a command may take to end once it was told to."""
LATE_STEPS_S = 5.0
"""The longest that a value waits for the steps before it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command is told; see `child/`."""

    mode: Mode
    seed: int
    seed_offset: int | None
    """Added to the seeds that the command sets; `None`: they are left alone."""
    lrs: Sequence[float] = ()
    """LR of each step, for a group of ratio 1."""
    ratios: Sequence[Sequence[float]] = ()
    scales: Mapping[str, float] | None = None
    weight_decay: float | None = None
    optimizer_index: int | None = None
    waits_for: str | None = None
    """Name of a value that the command hands over, after which it waits for an answer."""
    epochs: int = 0
    """What `{epochs}` in the command stands for."""
    peak_lr: float = math.nan
    """What `{peak_lr}` stands for."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What other placeholders stand for."""
    audits: bool = False
    """Whether the LRs of the command are audited, in its own process."""
    audited_steps: int | None = None
    """Steps after which the audit is there; `None`: at the end of the command."""

    def write(self, folder: Path) -> None:
        """Writes it where the command looks for it."""
        (folder / "files").mkdir(parents=True, exist_ok=True)
        if self.lrs:
            following.write_table(folder, self.lrs)
        if self.waits_for is not None:
            following.answer(folder, 0)
        values: dict[str, Any] = {
            "version": 1,
            "mode": self.mode,
            "scales": dict(self.scales or {}),
            "weight_decay": self.weight_decay,
            "seed_offset": self.seed_offset,
            "optimizer_index": self.optimizer_index,
            "waits_for": self.waits_for,
            "auditor": str(PACKAGES) if self.audits else None,
            "audited_steps": self.audited_steps,
        }
        if self.mode != "record":
            values["ratios"] = [list(groups) for groups in self.ratios]
        (folder / "plan.json").write_text(json.dumps(values))


def environment(
    folder: Path,
    threads: int = 0,
    devices: Devices = Devices(),  # noqa: B008  # frozen
) -> dict[str, str]:
    """The variables of a steered command.

    Args:
        folder: of the run.
        threads: for torch; 0: as many as the command takes by itself.
        devices: that it may use.
    """
    path = os.environ.get("PYTHONPATH", "")
    variables = {
        "PYTHONPATH": f"{CHILD}{os.pathsep}{path}" if path else str(CHILD),
        "LRTUNE_STEER": str(folder),
        "LRTUNE_RUN_DIR": str(folder / "files"),
        "PYTHONUNBUFFERED": "1",
        **devices.variables,
    }
    if threads and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(threads)
    return variables


def asks_for(command: CommandLine, name: str) -> bool:
    """Whether a command has this placeholder."""
    return name in placeholders(command.words, [name])


def offset_for(command: CommandLine, seed: int) -> int | None:
    """What is added to the seeds that a command sets; `None` where they are left alone.

    A command that is told its seed needs no other.
    """
    return seed if command.seed_offset == "on" and not asks_for(command, "seed") else None


def words_for(command: CommandLine, plan: Plan, folder: Path) -> tuple[str, ...]:
    """The command with its placeholders filled in."""
    if math.isnan(plan.peak_lr) and asks_for(command, "peak_lr"):
        raise InputError(
            "{peak_lr} stands for nothing in a run of the command as it is: write the LR itself, "
            "or give a `baseline` recipe, whose peak LR it then is."
        )
    values = (plan.seed, plan.epochs, folder / "files", plan.peak_lr)
    return filled(command.words, {**dict(zip(PLACEHOLDERS, values, strict=True)), **plan.values})


def reader_of(
    command: CommandLine,
    folder: Path,
    metric: str | None,
    *,
    cwd: Path,
    series: Series | None = None,
    has_ended: bool = False,
) -> Epochs:
    """What reads the metric of a run; see `Epochs`.

    Args:
        command: says where the metric is.
        folder: of the run.
        metric: its name; `None`: only the names that there are.
        cwd: the working directory of the command.
        series: which of the values with that name are meant, if that is known.
        has_ended: whether the command has.
    """
    text = command.read.replace("{run_dir}", str(folder / "files"))
    place = parse_place(text, metric or "") if text else None
    return Epochs(
        folder,
        metric,
        log=folder / "log",
        place=place,
        cwd=cwd,
        series=series,
        has_ended=has_ended,
    )


class Steered:
    """A command that runs under a plan; it is ended when the `with` is left.

    Args:
        command: what to start.
        plan: what it is told.
        folder: of the run; what was in it is deleted.
        cwd: the working directory of the command.
        metric: name of the metric; `None`: it is not read while the command runs.
        series: which of the values with that name are meant, if that is known.
        threads: see `environment`.
        devices: see `environment`.
    """

    def __init__(
        self,
        command: CommandLine,
        plan: Plan,
        folder: Path,
        *,
        cwd: Path,
        metric: str | None,
        series: Series | None = None,
        threads: int = 0,
        devices: Devices = Devices(),  # noqa: B008  # frozen
    ):
        end_leftovers(folder)  # of a run whose lrtune and supervisor were killed
        shutil.rmtree(folder, ignore_errors=True)
        plan.write(folder)
        self.folder, self.log = folder, folder / "log"
        self._metric = metric
        self._waits = plan.waits_for is not None
        self.epochs = reader_of(command, folder, metric, cwd=cwd, series=series)
        self._steps = Steps(folder / "steps.bin")
        self.steps: list[Step] = []
        self.exit: Exit | None = None
        self.start_time = time.time()
        self._process = Process.start(
            words_for(command, plan, folder),
            folder=folder,
            environment=environment(folder, threads, devices),
            cwd=cwd,
            log=self.log,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.end()

    @property
    def groups(self) -> Groups | None:
        """The optimizers that were seen."""
        return read_groups(self.folder / "groups.json")

    def wait(self) -> bool:
        """Waits for a moment, and reads the steps. Returns whether the command still runs.

        Raises:
            TrialError: an LR was not the one that was set.
        """
        self.exit = self._process.wait(following.POLL_S if self._waits else POLL_S)
        self.steps += self._steps.read()
        if failed := read_failed(self.folder / "failed.json"):
            raise TrialError(failed)
        return self.exit is None

    def evaluations(self, timeout_s: float = 0.0) -> Iterator[Evaluation]:
        """Yields the evaluations as they come, until the command has ended.

        A command that waits for an answer goes on once the next one is asked for.

        Args:
            timeout_s: seconds without one after which the command is given up; 0: never.

        Raises:
            TrialError: it was given up, it failed, or an LR was not the one that was set.
        """
        last = time.monotonic()
        arrived: deque[tuple[float, Evaluation]] = deque()
        runs, num_answered = True, 0
        while runs:
            runs = self.wait()
            for evaluation in self.epochs.read(over=not runs):
                last = time.monotonic()
                arrived.append((last, evaluation))
            # The command writes its steps in blocks, perhaps after the value that belongs to them.
            while arrived and (
                not runs
                or arrived[0][1].step <= len(self.steps)
                or time.monotonic() - arrived[0][0] > LATE_STEPS_S
            ):
                yield arrived.popleft()[1]
            if self._waits and not arrived and self.epochs.num_handed_over > num_answered:
                num_answered = self.epochs.num_handed_over
                following.answer(self.folder, num_answered)
            if runs and timeout_s and time.monotonic() - last > timeout_s:
                raise TrialError(
                    f"the command gave no value of `{self._metric}` for {timeout_s:g} s"
                )
        assert self.exit is not None
        if not self.exit.succeeded:
            words = self.last_words() or "it printed nothing"
            raise TrialError(f"the command ended with {self.exit}: {words}")

    def stop(self) -> None:
        """Tells a command that waits for an answer to stop, and waits until it has.

        It may take its time to write what it has, but not to train on.
        """
        if not self._waits:
            return
        (self.folder / "stop").touch()
        following.answer(self.folder, self.epochs.num_handed_over)
        board, deadline = self.folder / "board.bin", time.monotonic() + STOP_S
        before = read_board(board)
        while self.wait() and read_board(board) == before and time.monotonic() < deadline:
            continue

    def last_words(self, count: int = 1) -> str:
        """The last lines that the command printed; empty if it printed nothing."""
        return "\n".join(self._process.last_lines(count))


def measurement_of(
    evaluation: Evaluation,
    *,
    before: Measurement | None,
    steps: Sequence[Step],
    start_time: float,
) -> Measurement:
    """The measurement of an epoch.

    Args:
        evaluation: at its end.
        before: that of the epoch before; `None` for the first.
        steps: all of the run so far.
        start_time: of the run, seconds since 1970.
    """
    first = before.step if before else 0
    own = steps[first : evaluation.step]
    losses = [step.loss for step in own]
    metrics = dict(evaluation.values)
    if any(map(math.isfinite, losses)):
        finite = [loss for loss in losses if math.isfinite(loss)]
        gone = len(losses) >= 5 and not any(map(math.isfinite, losses[-5:]))
        metrics.setdefault("train_loss", math.nan if gone else math.fsum(finite) / len(finite))
    started = before.ended_at if before else start_time
    return Measurement(
        epoch=before.epoch + 1 if before else 1,
        step=evaluation.step,
        lr_first=own[0].lr if own else math.nan,
        lr_last=own[-1].lr if own else math.nan,
        metrics=metrics,
        seconds=max(0.0, evaluation.time - started),
        examples_per_s=math.nan,
        ended_at=evaluation.time,
    )
