"""Lanes on a GPU: one step is recorded as a CUDA graph, and replayed for every step of every run.

A search's runs share model and data and differ in their schedules. So a lane is built and captured
once: the weights, the optimizer's state and the averages stay where they are and are written over
when the next run begins; a step finds its batch and its LR in tables on the device, by a counter
that it advances itself. The host only says "once more", and reads nothing until the epoch is over.
Several lanes, each with a stream and a thread of its own, share the resident data of one process.

What is captured must neither read from the device nor copy to it. So the data lie on the device as
`Images`, the optimizer is capturable (`core/optimizers.py`), and there is no gradient scaler; all
else trains on an eager lane.
"""

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe
from lrtune.training.native.data.images import EvaluationBatches, ResidentBatches
from lrtune.training.native.evaluation import Evaluation, named, tally
from lrtune.training.native.lanes.eager import Taken
from lrtune.training.native.learner import Learner, Step
from lrtune.training.native.optimizers import base_lr
from lrtune.training.native.randomness import derive_seed, host_random_states

CHUNK = 16
"""Replays that are launched together. Two chunks are under way at most, so that no lane keeps the
others waiting."""
NUM_WARM_UPS = 3
"""Steps before the capture: libraries choose their algorithms in the first ones, and the optimizer
makes its state. An evaluation has one: it has seen no shape that the steps have not, but for its
own batches."""

TURN = threading.RLock()
"""Held by the thread that captures, launches, or draws from a global generator: all lanes of a
process take turns. An eager lane draws all the time, so its thread holds it for the whole run."""
CAPTURES = ThreadPoolExecutor(1, thread_name_prefix="capture")
"""All lanes of a process are recorded in this thread: cuDNN remembers by thread which algorithms it
found to be the fastest. So they are looked for once, and a run is the same to the last bit on
whichever lane."""

Function = Callable[[], object]


class Player(Protocol):
    """Records functions, and plays them again."""

    def record(self, function: Function) -> Function:
        """Records a function that has run before. What it returns plays it."""

    def play(self, recording: Function, times: int) -> None:
        """Plays a recording so many times, one after the other."""

    def alone(self) -> AbstractContextManager[object]:
        """Around all else that runs on the device; it is over when the context is left."""

    def rehearsal(self) -> AbstractContextManager[object]:
        """Around a last call of a function before it is recorded.

        What waits for the device raises `RuntimeError`.

        Most captures that would fail do so here, where the error names the reason, and holds no
        memory for ever.
        """

    def seed(self, seed: int) -> None:
        """Seeds what dropout draws from in the plays that follow."""

    def forget(self) -> None:
        """Frees all recordings; they cannot be played any more, and others can be made."""


class GraphPlayer:
    """Plays CUDA graphs on a stream of its own.

    Threads take turns to launch, since a capture must not meet the launches of others, and dropout
    draws from the device's one generator, into which each player puts the state of its own for its
    turn. The device works for all of them at once.
    """

    def __init__(self, device: torch.device):
        """On a CUDA device."""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        index = device.index if device.index is not None else torch.cuda.current_device()
        self._shared_generator = torch.cuda.default_generators[index]
        self._generator = torch.Generator(torch.device("cuda", index))
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def record(self, function: Function) -> Function:
        """See `Player`."""
        graph = torch.cuda.CUDAGraph()
        # One pool for all recordings of this player: they never run at once, and leave nothing in
        # it.
        capture = torch.cuda.graph(
            graph, self._pool, self._stream, capture_error_mode="thread_local"
        )
        with self._at_turn(), _collecting_no_garbage(), capture:
            function()
        self._graphs.append(graph)
        return graph.replay

    def play(self, recording: Function, times: int) -> None:
        """See `Player`."""
        under_way: deque[torch.cuda.Event] = deque()
        for start in range(0, times, CHUNK):
            with self._at_turn():
                for _ in range(min(CHUNK, times - start)):
                    recording()
                # A thread that waits for it sleeps: the others launch meanwhile.
                event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                event.record(self._stream)
                under_way.append(event)
            if len(under_way) > 1:
                under_way.popleft().synchronize()
        while under_way:
            under_way.popleft().synchronize()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `Player`."""
        with self._at_turn():
            self._stream.wait_stream(torch.cuda.default_stream(self._stream.device))
            yield
            self._stream.synchronize()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """See `Player`."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def seed(self, seed: int) -> None:
        """See `Player`."""
        self._generator.manual_seed(seed)

    @contextmanager
    def _at_turn(self) -> Iterator[None]:
        with TURN:
            shared = self._shared_generator.graphsafe_get_state()
            self._shared_generator.graphsafe_set_state(self._generator)
            try:
                with torch.cuda.stream(self._stream):
                    yield
            finally:
                self._shared_generator.graphsafe_set_state(shared)

    def forget(self) -> None:
        """See `Player`. The other lanes of the device are at rest meanwhile (pytorch#193402)."""
        with TURN:
            torch.cuda.synchronize(self._stream.device)
            for graph in self._graphs:
                graph.reset()
            self._graphs.clear()
            self._pool = torch.cuda.graph_pool_handle()


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the recorded step looks up on the device, by the number of its step in the epoch."""

    counter: Tensor
    """int64, (1,)."""
    lrs: tuple[Tensor, ...]
    """Of each group, (steps,)."""
    losses: Tensor
    """float32, (steps,); written by the steps."""

    @staticmethod
    def of(num_steps: int, lrs: Sequence[Tensor], device: torch.device) -> "Tables":
        """Empty ones, for LRs like these."""
        return Tables(
            counter=torch.zeros(1, dtype=torch.int64, device=device),
            lrs=tuple(lr.new_zeros(num_steps) for lr in lrs),
            losses=torch.zeros(num_steps, device=device),
        )


class CapturedLane:
    """Replays one recorded step, and one recorded evaluation of each kind of weights."""

    def __init__(
        self,
        step: Step,
        batches: ResidentBatches,
        validation: EvaluationBatches,
        evaluation: Evaluation,
        accumulate: int,
        player: Player,
    ):
        """Records them, which changes the learner: a run must `begin` before the first step.

        An evaluation with metrics of the task's own is not recorded: what they do is not known.

        Raises:
            RuntimeError: something in the step cannot be captured, or would not be what was
                captured when it is replayed.
        """
        self.step, self.batches, self.accumulate, self._player = step, batches, accumulate, player
        self._validation, self._evaluation = validation, evaluation
        self._device = batches.images.images.device
        num_full, rest = divmod(batches.num_batches, accumulate)
        self.num_steps = num_full + bool(rest)
        self._groups = step.learner.optimizer.param_groups
        with player.alone():
            self._tables = Tables.of(
                self.num_steps, [group["lr"] for group in self._groups], self._device
            )
            self._draws = batches.draw(0, 0).to(self._device)
            self._in_batch = torch.arange(
                min(batches.batch_size, batches.num_examples), device=self._device
            )
            self._totals = torch.zeros(
                3 if evaluation.num_classes else 1, dtype=torch.float64, device=self._device
            )
        self._full = self._record(lambda: self._one_step(accumulate)) if num_full else None
        self._last = self._record(lambda: self._one_step(rest)) if rest else None
        models = {False: step.learner.model}
        if step.learner.averaged is not None:
            models[True] = step.learner.averaged.model
        self._evaluations = {
            averaged: self._record(partial(self._tally, model), num_warm_ups=1)
            for averaged, model in models.items()
            if not evaluation.metrics
        }

    @property
    def learner(self) -> Learner:
        """What it trains."""
        return self.step.learner

    def begin(self, recipe: Recipe, weights: Mapping[str, Tensor]) -> None:
        """Goes back to the start of a run: these weights, and nothing else of the run before.

        The recipe's optimizer and its settings must be those that were captured; its peak LR may
        differ.
        """
        learner = self.learner
        with self._player.alone():
            learner.model.load_state_dict(weights)
            for state in learner.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()
            if learner.averaged is not None:
                learner.averaged.forget()
            for group in self._groups:
                group["base_lr"] = base_lr(recipe, group)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state of the run that has begun, in place."""
        learner = self.learner
        with self._player.alone():
            learner.model.load_state_dict(state["model"])
            if learner.averaged is not None:
                learner.averaged.restore(state["averaged"])
            parameters = [parameter for group in self._groups for parameter in group["params"]]
            for index, saved in state["optimizer"]["state"].items():
                for name, value in saved.items():
                    if isinstance(value, Tensor):
                        learner.optimizer.state[parameters[index]][name].copy_(value)

    def close(self) -> Player:
        """Frees the recordings: no run begins here any more.

        The player can make those of another lane.
        """
        self._player.forget()
        return self._player

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """See `lrtune.training.native.lanes.eager.Lane`."""
        self._player.seed(derive_seed(seed, "epoch", epoch))
        with self._player.alone():
            self._draws.copy_(self.batches.draw(seed, epoch))
            self._tables.counter.zero_()
        self._num_begun = 0

    def steps(self, multipliers: Sequence[float]) -> Taken:
        """See `lrtune.training.native.lanes.eager.Lane`."""
        first = self._num_begun
        end = min(self.num_steps, first + len(multipliers))
        with self._player.alone():
            for group, table in zip(self._groups, self._tables.lrs, strict=True):
                # Reckoned in float64 and then rounded, as an optimizer does with a plain number.
                lrs = [group["base_lr"] * multiplier for multiplier in multipliers[: end - first]]
                table[first:end].copy_(torch.tensor(lrs, dtype=torch.float64))
        num_full = min(end, self.batches.num_batches // self.accumulate) - first
        if num_full > 0 and self._full is not None:
            self._player.play(self._full, num_full)
        if end - first > max(0, num_full) and self._last is not None:
            self._player.play(self._last, 1)
        self._num_begun = end
        if self.learner.averaged is not None:
            self.learner.averaged.num_steps += end - first
        with self._player.alone():
            return Taken(
                losses=tuple(self._tables.losses[first:end].tolist()), num_steps=end - first
            )

    def evaluate(self, *, averaged: bool) -> Metrics:
        """See `lrtune.training.native.lanes.eager.Lane`."""
        model = self.learner.model
        if averaged and self.learner.averaged is not None:
            with self._player.alone():
                model = self.learner.averaged.refresh()
        if not self._evaluations:
            with self._player.alone():
                return self._evaluation(model, self._validation)
        self._player.play(self._evaluations[averaged], 1)
        with self._player.alone():
            return named(self._totals.tolist(), self._validation.num_examples)

    def _one_step(self, num_micro_batches: int) -> None:
        """What is recorded.

        Every index is a tensor: a number would be a constant of the recording.
        """
        tables, size = self._tables, self.batches.batch_size
        for group, table in zip(self._groups, tables.lrs, strict=True):
            group["lr"].copy_(table.index_select(0, tables.counter).squeeze(0))
        self.learner.model.train()
        first = tables.counter * self.accumulate * size
        micro_batches = [
            self.batches.at(self._draws, first + (index * size + self._in_batch))
            for index in range(num_micro_batches)
        ]
        loss, _ = self.step(micro_batches)
        tables.losses.index_copy_(0, tables.counter, loss.detach().float().reshape(1))
        tables.counter.add_(1)

    def _tally(self, model: nn.Module) -> None:
        results = self._evaluation.results(model, self._validation)
        self._totals.copy_(tally(results, self._evaluation.num_classes)[0])

    def _record(self, function: Function, *, num_warm_ups: int = NUM_WARM_UPS) -> Function:
        with _fastest_algorithms(self._device):
            with self._player.alone():
                for warm_up in range(1, num_warm_ups + 1):
                    self._tables.counter.zero_()
                    before = host_random_states(self._device)
                    with self._player.rehearsal() if warm_up == NUM_WARM_UPS else nullcontext():
                        function()
                if host_random_states(self._device) != before:
                    raise RuntimeError(
                        "it draws random numbers on the host, which a recording would repeat"
                    )
            return self._player.record(function)


@contextmanager
def _fastest_algorithms(device: torch.device) -> Iterator[None]:
    """Lets cuDNN try out its algorithms, unless they have to be deterministic.

    The recording keeps what it chose.

    Other lanes have nothing left to do on the device meanwhile, so that the times are those of the
    algorithms.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """Keeps the collector from freeing a graph, which would end a capture.

    That is so up to torch 2.11 (pytorch#176754).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
