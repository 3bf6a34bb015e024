"""The lanes of one process: which recipes share one, and which have to train eagerly."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from lrtune.core.decays import Constant
from lrtune.core.errors import first_line
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe
from lrtune.core.training import State
from lrtune.training.native.data.images import EvaluationBatches, ResidentBatches
from lrtune.training.native.devices import reset_process
from lrtune.training.native.lanes.captured import (
    CAPTURES,
    TURN,
    CapturedLane,
    GraphPlayer,
    Player,
)
from lrtune.training.native.lanes.eager import EagerLane, Lane
from lrtune.training.native.prepared import PreparedTask, is_out_of_memory


class LanePool:
    """Lanes that run after run is trained on.

    Several threads may train runs; each has a lane of its own. Captured lanes work side by side,
    eager ones in turn.
    """

    def __init__(
        self, task: PreparedTask, new_player: Callable[[torch.device], Player] = GraphPlayer
    ):
        """Builds no lane yet."""
        self.task, self.new_player = task, new_player
        self._idle: list[tuple[Recipe, CapturedLane]] = []
        self._initial: tuple[int, Mapping[str, Tensor]] | None = None
        self._has_captured = False
        self._capture_failure = ""

    @contextmanager
    def lane(self, recipe: Recipe, seed: int, state: State | None = None) -> Iterator[Lane]:
        """A lane for one run, at its start or at a `state` of it.

        No other run gets it until the context is left. An eager lane draws from the global
        generators, so it is the only one at work as long as it is held.

        Raises:
            TrialError: out of memory.
            TaskError: the task's model or parameters failed, or are not those of the state.
        """
        captured = self.captured_lane(recipe)
        if captured is None:
            with TURN:
                reset_process(seed)
                yield self._eager_lane(recipe, seed, state)
            return
        try:
            captured.begin(recipe, self._initial_weights(seed))
            if state is not None:
                with self.task.guard("the task is not the one that a checkpoint was saved of"):
                    captured.restore(state)
            yield captured
        finally:
            self._idle.append((_constants_of(recipe), captured))

    def why_eager(self, recipe: Recipe) -> str:
        """Why a recipe is not trained by CUDA graphs; empty where it is."""
        task = self.task
        on_device = isinstance(task.batches, ResidentBatches)
        on_device = on_device and isinstance(task.validation, EvaluationBatches)
        needs_scaler = task.arithmetic.scaler().is_enabled()
        rules = [
            (on_device, "the data do not lie on the device"),
            (not needs_scaler, "fp16 needs a gradient scaler, which decides on the host"),
            (
                OPTIMIZERS[recipe.optimizer].is_capturable,
                f"{recipe.optimizer} reads its LR on the host",
            ),
            (not self._capture_failure, f"the capture failed: {self._capture_failure}"),
            (task.device.type == "cuda", "there is no GPU"),
        ]
        return next((reason for holds, reason in rules if not holds), "")

    def keep(self, num_lanes: int) -> None:
        """Closes the idle lanes above so many."""
        with TURN:
            for _, lane in self._idle[num_lanes:]:
                lane.close()
            del self._idle[num_lanes:]

    def captured_lane(self, recipe: Recipe) -> CapturedLane | None:
        """A captured lane that is idle or new; `None` where this recipe trains eagerly.

        Recipes of one optimizer and settings can share a lane: a recording has them as constants,
        and its LRs not.
        """
        if self.why_eager(recipe):
            return None
        key, player = _constants_of(recipe), None
        with TURN:
            idle = next((lane for lane in self._idle if lane[0] == key), None)
            if idle is not None:
                self._idle.remove(idle)
                return idle[1]
            if self._idle:  # one of other settings makes room
                player = self._idle.pop()[1].close()
        with self.task.guard("the task could not be captured"):
            return CAPTURES.submit(
                self._new_captured_lane, recipe, player or self.new_player(self.task.device)
            ).result()

    def _eager_lane(self, recipe: Recipe, seed: int, state: State | None) -> EagerLane:
        task = self.task
        step = task.build_step(recipe, seed)
        if state is not None:
            with task.guard("the task is not the one that a checkpoint was saved of"):
                step.learner.restore(state)
        return EagerLane(
            step=step, batches=task.batches, validation=task.validation,
            evaluation=task.evaluation, accumulate=task.settings.accumulate,
        )  # fmt: skip

    def _new_captured_lane(self, recipe: Recipe, player: Player) -> CapturedLane | None:
        task = self.task
        assert isinstance(task.batches, ResidentBatches)
        assert isinstance(task.validation, EvaluationBatches)
        with TURN:
            if self._capture_failure:  # while this one waited
                return None
            step = task.build_step(recipe, 0, captured=True)
            try:
                lane = CapturedLane(
                    step, task.batches, task.validation, task.evaluation, task.settings.accumulate,
                    player,
                )  # fmt: skip
            except RuntimeError as error:  # the task's own code does what a graph cannot hold
                if self._has_captured or is_out_of_memory(error):
                    raise
                cause = error.__context__ or error  # leaving the capture raises once more
                self._capture_failure = f"{type(cause).__name__}: {first_line(cause)}"
                return None
            self._has_captured = True
            return lane

    def _initial_weights(self, seed: int) -> Mapping[str, Tensor]:
        """The weights that a run begins with; those of the latest seed, mostly shared, are kept."""
        with TURN:
            if self._initial is None or self._initial[0] != seed:
                self._initial = (seed, self.task.build_model(seed).state_dict())
            return self._initial[1]


def _constants_of(recipe: Recipe) -> Recipe:
    """What a recorded step has as constants: the optimizer and its settings, and no LR."""
    return replace(
        recipe, peak_lr=1.0, warmup_epochs=0.0, decay=Constant(), final_frac=0.0, group_scales=()
    )
