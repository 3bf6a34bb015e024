"""The local engine: runs happen on this machine.

One process can work, or several side by side, each with its GPU, and each in one thread or several,
which are its lanes. Workers meet only in the study's records, so it does not matter who started
them.
"""

import math
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import cast

from lrtune.core.engines import Local
from lrtune.core.errors import InputError, LrtuneError, TaskError, TrialError, first_line
from lrtune.core.events import Event, Note
from lrtune.core.interrupts import interrupts_held_back, interrupts_repeated, take_interrupts
from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import Run, RunRecord
from lrtune.core.study import RangeCurve, StudyState
from lrtune.core.training import Devices, Environment, Facts, OpenTraining, States, Training
from lrtune.decide.plan import Done, Wait, next_run
from lrtune.tuning import reuse
from lrtune.tuning.engine import (
    Emit,
    OpenWorker,
    Worker,
    begin,
    fail,
    heartbeat,
    record_measurement,
    test_states,
)
from lrtune.tuning.jobs import automatic_jobs
from lrtune.tuning.variables import variables_set

NUM_TIMED = 20
"""Steps by which the time of an epoch is guessed where there was no range test."""
FORWARD_SHARE = 3
"""A training step takes about so many times as long as the forward pass of an evaluation."""
POLL_S = 0.3
"""Between looks at the study while there is nothing to start."""


class LocalEngine:
    """Trains in this process, or in several that it starts; see `Engine`.

    Args:
        options: worker processes, GPUs and lanes.
        open_training: opens what is trained, here and in each worker process.
        gpus: the visible GPUs, as `CUDA_VISIBLE_DEVICES` names them; none where the training does
            not use them.
        cores: CPU cores that the jobs share where their number is `auto` and there is no GPU.

    Raises:
        InputError: a GPU was chosen that is not visible, or the training cannot be opened so.
    """

    def __init__(
        self,
        options: Local,
        open_training: OpenTraining,
        *,
        gpus: Sequence[str] = (),
        cores: int = 1,
    ):
        self._lanes = options.lanes
        self._jobs = deal_gpus(options, gpus)
        self._first = first_devices(options, gpus)
        self._cores = cores if options.jobs == "auto" and not self._jobs[0].gpus else 1
        self._step_s = math.nan
        self.use(open_training)

    @property
    def facts(self) -> Facts:
        """See `Engine`."""
        return self._training.facts

    def use(self, open_training: OpenTraining) -> None:
        """See `Engine`."""
        self._open_training, self._training = open_training, open_training(self._first)
        if self._lanes != "auto":  # where there can be none, that is said before all else
            self._training.lanes(default_recipe("sgd"), self._lanes)

    def environment(self, recipe: Recipe) -> Environment:
        """See `Engine`."""
        return self._training.environment(recipe)

    def sweep(self, recipe: Recipe, *, seed: int) -> RangeCurve:
        """See `Engine`."""
        return self._timed_sweep(recipe, seed=seed)

    def work(self, open_worker: OpenWorker, emit: Emit) -> Done:
        """See `Engine`.

        Raises:
            LrtuneError: what a worker raised; or all of them died before the study was done.
        """
        jobs = self._jobs
        if self._cores > 1:
            state = open_worker(0, emit).store.state()
            number, sentence = automatic_jobs(
                state, cores=self._cores, epoch_s=self._epoch_seconds(state)
            )
            emit(Note(sentence))
            jobs = [self._first] * number
        if len(jobs) == 1 and self._first == Devices():
            return work_in_lanes(self._training, open_worker, self._lanes, emit)
        return work_side_by_side(self._open_training, open_worker, jobs, self._lanes, emit)

    def _timed_sweep(
        self, recipe: Recipe, *, seed: int, num_steps: int | None = None
    ) -> RangeCurve:
        start = time.perf_counter()
        curve = self._training.sweep(recipe, seed=seed, num_steps=num_steps)
        # None, where the first loss was not finite.
        self._step_s = (time.perf_counter() - start) / max(1, len(curve.losses))
        return curve

    def _epoch_seconds(self, state: StudyState) -> float:
        """What an epoch takes: by those of the study, the range test, or some steps; nan: unknown.

        The steps train nothing that is kept.
        """
        if state.epochs_trained:
            return sum(record.seconds for record in state.records) / state.epochs_trained
        config = state.config
        if math.isnan(self._step_s):
            with suppress(LrtuneError):  # which the first run will meet, and tell
                self._timed_sweep(config.baseline, seed=config.seed, num_steps=NUM_TIMED)
        trained = config.steps_per_epoch * config.settings.batch_size
        evaluation = config.num_validation / (FORWARD_SHARE * trained)
        return self._step_s * config.steps_per_epoch * (1 + evaluation)

    def test(self, keys: Sequence[str], states: States) -> dict[str, Metrics]:
        """See `Engine`."""
        return test_states(self._training, keys, states)


def deal_gpus(options: Local, gpus: Sequence[str]) -> list[Devices]:
    """What each worker process may use: the GPUs are dealt to the processes in turn.

    Raises:
        InputError: a GPU was chosen that is not visible.
    """
    gpus = options.chosen_gpus(gpus)
    return [
        Devices(gpus=(gpus[number % len(gpus)],) if gpus else None)
        for number in range(options.num_jobs(gpus))
    ]


def first_devices(options: Local, gpus: Sequence[str]) -> Devices:
    """What the first worker process may use; all that this one does where it is the only worker.

    Whatever is trained before the workers start uses the same.

    Raises:
        InputError: a GPU was chosen that is not visible.
    """
    jobs = deal_gpus(options, gpus)
    return Devices() if len(jobs) == 1 and options.gpus == "all" else jobs[0]


def work(training: Training, worker: Worker) -> Done:
    """Trains runs until nothing is left to start in the study.

    Raises:
        StoreError: the study cannot be recorded any more.
        TaskError: the task failed before any run of the study got through an epoch.
    """
    while True:
        step = next_run(worker.store.state(), worker.ask)
        if isinstance(step, Done):
            return step
        if isinstance(step, Wait):
            time.sleep(POLL_S)
        elif worker.store.claim(step, worker.name):
            work_on(step, training, worker)


def work_on(run: Run, training: Training, worker: Worker) -> None:
    """Trains one run that this worker has claimed, to whatever end it comes to."""
    ended = False
    try:
        with heartbeat(worker.store, lambda: [run]):
            record = begin(run, worker)
            if record.state == "running":
                _train(record, training, worker)
        ended = True
    finally:
        if not ended:  # interrupted: whoever comes next goes on from the last epoch
            worker.store.release(run)


def _train(record: RunRecord, training: Training, worker: Worker) -> None:
    """Draws measurements until the run is over."""
    try:
        measurements = reuse.measurements_by_key(worker.store.state())
        identity = training.identity(record.run.recipe)
        assignment = reuse.assignment_of(record, measurements, identity, training.facts)
        # An interrupt would be lost in a generator that the garbage collector closes.
        with closing(reuse.train(assignment, training, worker.states)) as measured:
            for measurement in measured:
                if measurement.epoch <= record.epochs:
                    continue  # recorded before its process was killed
                record = record_measurement(record, measurement, worker)
                if record.state != "running":
                    return
        raise TrialError("the training ended before its last epoch")
    except (TrialError, TaskError, InputError) as error:
        fail(record, error, worker)


def work_in_lanes(
    training: Training, open_worker: OpenWorker, lanes: str | int, emit: Emit
) -> Done:
    """Works in several threads of this process, which ask and emit one at a time.

    What ends one of them, or an interrupt, ends the others at their next event; their runs are
    given back.

    Args:
        training: shared by all lanes.
        open_worker: opens the worker of a lane.
        lanes: how many, or `auto`.
        emit: where events go.

    Raises:
        LrtuneError: what a lane raised.
    """
    first = open_worker(0, emit)
    num_lanes, sentence = training.lanes(first.store.state().config.baseline, lanes)
    if sentence:
        emit(Note(sentence))
    if num_lanes == 1:  # in the thread that an interrupt reaches, also in the middle of an epoch
        return work(training, first)
    turn, stopping = threading.Lock(), threading.Event()

    def emit_in_turn(event: Event) -> None:
        with turn:
            if stopping.is_set():
                raise _Stopped
            emit(event)

    def work_in_lane(lane: int) -> Done:
        worker = open_worker(lane, emit_in_turn)

        def ask_in_turn(state: StudyState, number: int) -> Recipe:
            with turn:
                return worker.ask(state, number)

        return work(training, replace(worker, ask=ask_in_turn))

    with ThreadPoolExecutor(num_lanes) as pool:
        try:
            threads = [pool.submit(work_in_lane, lane) for lane in range(num_lanes)]
            for thread in as_completed(threads):
                done = thread.result()
        except BaseException:
            stopping.set()
            raise
    return done


class _Stopped(Exception):  # noqa: N818
    """Raised in a lane that has to stop."""


def work_side_by_side(
    open_training: OpenTraining,
    open_worker: OpenWorker,
    jobs: Sequence[Devices],
    lanes: str | int,
    emit: Emit,
) -> Done:
    """Works in new processes, one for each of the `jobs`, and hands their events to `emit`.

    A process that dies leaves its run to the others. Each has a pipe of its own: a queue has one
    lock for all writers, and a worker that is killed while it holds it would silence the others for
    ever.

    Args:
        open_training: opens what is trained in each process.
        open_worker: opens the worker of a lane there.
        jobs: what each process may use.
        lanes: of each process, or `auto`: one where processes share a GPU.
        emit: where events go.

    Raises:
        TaskError: what opens the training cannot be sent to another process.
        LrtuneError: what a worker raised; or all of them died before the study was done.
    """
    if lanes == "auto" and len(set(jobs)) < len(jobs):
        lanes = 1
    context = multiprocessing.get_context("spawn")
    start_method = multiprocessing.get_start_method()
    needs_program = _needs_program(open_training)
    processes: dict[Connection, BaseProcess] = {}
    done: Done | None = None
    try:
        for devices in jobs:
            events, sending = context.Pipe(duplex=False)
            arguments = (open_training, open_worker, devices, lanes, sending, start_method)
            process: BaseProcess = context.Process(target=_job, args=arguments)
            try:
                # Interrupts wait until the process can take one without a traceback. The variables
                # are set before it starts, since what it imports first may be the user's program.
                program = nullcontext() if needs_program else _no_program()
                with interrupts_held_back(), variables_set(devices.variables), program:
                    process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise TaskError(
                    f"the task cannot be sent to another process: {first_line(error)}; "
                    "use a task file, functions of a module, or one job."
                ) from error
            processes[events] = process
            sending.close()  # the worker has the only other end, so its death ends the events
        reading = set(processes)
        while reading:
            for ready in wait(reading):
                events = cast(Connection, ready)
                try:
                    event = events.recv()
                except (EOFError, OSError):  # between two events, or in the middle of one
                    reading.remove(events)
                    processes[events].join()
                    code = processes[events].exitcode
                    if code != 0:
                        emit(
                            Note(
                                f"a worker process died with exit code {code}; "
                                "the others take over its run"
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
        for process in processes.values():
            process.terminate()
            process.join()
    if done is None:
        codes = ", ".join(str(process.exitcode) for process in processes.values())
        again = "the same call, or `lrtune resume`, goes on from what is recorded."
        if needs_program:
            again += (
                " What they train is defined in the program, so each of them runs it: it must call "
                'lrtune under `if __name__ == "__main__":`.'
            )
        raise LrtuneError(f"all worker processes died (exit codes {codes}); {again}")
    return done


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, content: object) -> None:
        """Forgets it."""


def _needs_program(open_training: OpenTraining) -> bool:
    """Whether other processes find a part of what is trained in this program alone.

    Then each of them runs it first, as Python does by default; one that is not guarded by
    `if __name__ == "__main__"` fails by that.
    """
    try:
        with _no_program():
            pickle.Pickler(_Nowhere()).dump(open_training)
    except Exception:  # whatever a user's object raises; starting a process says what it is
        return True
    return False


@contextmanager
def _no_program() -> Iterator[None]:
    """Hides the program meanwhile, so that a process that starts does not run it."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _job(
    open_training: OpenTraining,
    open_worker: OpenWorker,
    devices: Devices,
    lanes: str | int,
    events: "Connection[Event | Done | LrtuneError, None]",
    start_method: str,
) -> None:
    """Works in a process of its own."""
    # The workers of a task's own loaders are started as in the parent process.
    multiprocessing.set_start_method(start_method, force=True)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        with interrupts_repeated():
            take_interrupts()
            events.send(work_in_lanes(open_training(devices), open_worker, lanes, events.send))
    except LrtuneError as error:
        events.send(error)
    except KeyboardInterrupt:  # the terminal sends it to every process; the parent reports it
        pass


def _leave_with_parent() -> None:
    """Ends this process when its parent is gone.

    Otherwise it would go on unseen, and in the end wait for ever for its events to be read.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
