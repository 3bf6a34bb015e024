"""The local engine: runs happen here, on this machine.

One process can work, or several side by side, or several threads of one process, each on a lane of
its GPU. They meet only in the study's records, so it does not matter who started them.
"""

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

from lrtune.core.errors import InputError, LrtuneError, TaskError, TrialError, first_line
from lrtune.core.events import Event, Note
from lrtune.core.interrupts import interrupts_held_back, take_interrupts
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run, RunRecord
from lrtune.core.study import StudyState
from lrtune.decide.plan import Done, Wait, next_run
from lrtune.tuning.engine import Bench, Emit, begin, fail, heartbeat, take

POLL_S = 0.3
"""Between looks at the study while there is nothing to start."""

Train = Callable[[Run, StudyState], Iterator[Measurement]]
"""The measurements of a run from its first epoch on; what the study knows of them already is not
trained again."""


@dataclass(frozen=True, kw_only=True)
class Workbench(Bench):
    """Everything that one worker works with."""

    train: Train


OpenWorkbench = Callable[[Emit], Workbench]
"""Opens a workbench in the process that calls it; picklable, so that a new process can."""
OpenLane = Callable[[int, Emit], Workbench]
"""Opens the workbench of a lane, by its number."""


def work(bench: Workbench) -> Done:
    """Trains runs until nothing is left to start in the study.

    Raises:
        StoreError: the study cannot be recorded any more.
        TaskError: the task failed before any run of the study got through an epoch.
    """
    while True:
        step = next_run(bench.store.state(), bench.ask)
        if isinstance(step, Done):
            return step
        if isinstance(step, Wait):
            time.sleep(POLL_S)
        elif bench.store.claim(step, bench.worker):
            work_on(step, bench)


def work_on(run: Run, bench: Workbench) -> None:
    """Trains one run that this worker has claimed, to whatever end it comes to."""
    ended = False
    try:
        with heartbeat(bench.store, lambda: [run]):
            record = begin(run, bench)
            if record.state == "running":
                _train(record, bench)
        ended = True
    finally:
        if not ended:  # interrupted: whoever comes next goes on from the last epoch
            bench.store.release(run)


def work_in_lanes(open_lane: OpenLane, num_lanes: int, emit: Emit) -> Done:
    """Works in `num_lanes` threads of this process, which ask and emit one at a time.

    What ends one of them, or an interrupt, ends the others at their next event; their runs are
    given back.

    Raises:
        LrtuneError: what a lane raised.
    """
    if num_lanes == 1:  # in the thread that an interrupt reaches, also in the middle of an epoch
        return work(open_lane(0, emit))
    turn, stopping = threading.Lock(), threading.Event()

    def emit_in_turn(event: Event) -> None:
        with turn:
            if stopping.is_set():
                raise _Stopped
            emit(event)

    def work_in_lane(lane: int) -> Done:
        bench = open_lane(lane, emit_in_turn)

        def ask_in_turn(state: StudyState, number: int) -> Recipe:
            with turn:
                return bench.ask(state, number)

        return work(replace(bench, ask=ask_in_turn))

    with ThreadPoolExecutor(num_lanes) as pool:
        try:
            lanes = [pool.submit(work_in_lane, lane) for lane in range(num_lanes)]
            for lane in as_completed(lanes):
                done = lane.result()
        except BaseException:
            stopping.set()
            raise
    return done


class _Stopped(Exception):  # noqa: N818
    """Raised in a lane that has to stop."""


def work_side_by_side(open_workbench: OpenWorkbench, num_jobs: int, emit: Emit) -> Done:
    """Works in `num_jobs` new processes, and hands their events to `emit`.

    A process that dies leaves its run to the others. Each has a pipe of its own: a queue has one
    lock for all writers, and a worker that is killed while it holds it would silence the others for
    ever.

    Raises:
        TaskError: what opens the workbench cannot be sent to another process.
        LrtuneError: what a worker raised; or all of them died before the study was done.
    """
    context = multiprocessing.get_context("spawn")
    jobs: dict[Connection, BaseProcess] = {}
    done: Done | None = None
    try:
        for _ in range(num_jobs):
            events, sending = context.Pipe(duplex=False)
            job: BaseProcess = context.Process(
                target=_job, args=(open_workbench, sending, multiprocessing.get_start_method())
            )
            try:
                with interrupts_held_back():  # until it can take one without a traceback
                    job.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise TaskError(
                    f"the task cannot be sent to another process: {first_line(error)}; "
                    "use a task file, functions of a module, or one job."
                ) from error
            jobs[events] = job
            sending.close()  # the worker has the only other end, so its death ends the events
        reading = set(jobs)
        while reading:
            for ready in wait(reading):
                events = cast(Connection, ready)
                try:
                    event = events.recv()
                except (EOFError, OSError):  # between two events, or in the middle of one
                    reading.remove(events)
                    jobs[events].join()
                    if jobs[events].exitcode != 0:
                        code = jobs[events].exitcode
                        emit(
                            Note(
                                f"a worker process died with exit code {code}; the others take over its run"
                            )
                        )
                    continue
                if isinstance(event, LrtuneError):
                    raise event
                if isinstance(event, Done):
                    done = event
                else:
                    emit(event)
    finally:
        for job in jobs.values():
            job.terminate()
            job.join()
    if done is None:
        codes = ", ".join(str(job.exitcode) for job in jobs.values())
        raise LrtuneError(
            f"all worker processes died (exit codes {codes}); `lrtune resume` goes on from what is recorded."
        )
    return done


def _job(
    open_workbench: OpenWorkbench,
    events: "Connection[Event | Done | LrtuneError, None]",
    start_method: str,
) -> None:
    multiprocessing.set_start_method(
        start_method, force=True
    )  # of the workers of a task's own loaders
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        take_interrupts()
        events.send(work(open_workbench(events.send)))
    except LrtuneError as error:
        events.send(error)
    except KeyboardInterrupt:  # the terminal sends it to every process; the parent reports it
        pass


def _leave_with_parent() -> None:
    """A worker whose parent was killed would go on unseen, and in the end wait for ever for its events to be read."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(record: RunRecord, bench: Workbench) -> None:
    """Draws measurements until the run is over."""
    try:
        for measurement in bench.train(record.run, bench.store.state()):
            if measurement.epoch <= record.epochs:
                continue  # recorded before its process was killed
            record = take(record, measurement, bench)
            if record.state != "running":
                return
        raise TrialError("the training ended before its last epoch")
    except (TrialError, TaskError, InputError) as error:
        fail(record, error, bench)
