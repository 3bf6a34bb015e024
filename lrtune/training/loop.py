"""The training loop: a generator that yields one measurement an epoch and knows nothing of searching.

A run is a function of task, settings, recipe, horizon and seed alone. Initial weights come from the
seed; data order, augmentation and dropout of an epoch come from (seed, epoch), so that a run
resumed after epoch k needs no random state to go on as if never stopped.
"""

import copy
import io
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import serialization

from lrtune.core.errors import LrtuneError, StoreError, TaskError, TrialError, first_line, place_of
from lrtune.core.recipe import Constant, Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import TrainSettings
from lrtune.schedules.build import Schedule
from lrtune.schedules.compress import schedule_of
from lrtune.training.averaging import AveragedWeights
from lrtune.training.batches import (
    Batches,
    EvaluationBatches,
    ResidentBatches,
    Source,
    check_source,
    evaluation_batches,
    training_batches,
)
from lrtune.training.captured import CAPTURES, TURN, CapturedLane, GraphPlayer, Player
from lrtune.training.environment import peak_gpu_memory_mib, peak_memory_mib
from lrtune.training.lanes import EagerLane, Lane, Loss, evaluate
from lrtune.training.layout import fastest_layout
from lrtune.training.learner import Learner, State, Step
from lrtune.training.loaders import check_labels, check_logits
from lrtune.training.optimizers import CAPTURABLE, build_optimizer
from lrtune.training.precision import choose_arithmetic, choose_device
from lrtune.training.randomness import derive_seed, preserved_random_states, seed_all
from lrtune.training.task import Task, settings_for

Save = Callable[[Measurement, State], None]
EVALUATION_BATCH_SIZES = {"cpu": 128}
"""Where it is not 1024: what a CPU's caches hold is evaluated almost twice as fast."""


class Trainer:
    """A task made ready on one device: its data are in place once, for all the runs that follow.

    Several threads may train runs; each has a lane of its own. Captured lanes work side by side,
    eager ones in turn.
    """

    new_player: Callable[[torch.device], Player] = GraphPlayer

    def __init__(self, task: Task, settings: TrainSettings):
        """Puts the data on the device.

        Raises: InputError: a device or precision that is not there, or a task that cannot be
            trained so.
        """
        self.task = task
        self.settings = settings = settings_for(task, settings)
        self.device = choose_device(settings.device)
        self.arithmetic = choose_arithmetic(settings.precision, self.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.batches: Batches = training_batches(
            task.train, batch_size=settings.batch_size // settings.accumulate, augment=settings.augment,
            device=self.device, data_on_device=settings.data_on_device, cutout=settings.cutout,
        )  # fmt: skip
        self.validation = self._evaluation_batches(task.validation)
        if task.test is not None:
            check_source(task.test)
        own_loss = (
            copy.deepcopy(task.loss).to(self.device)
            if isinstance(task.loss, nn.Module)
            else task.loss
        )
        self.loss: Loss = own_loss or partial(
            functional.cross_entropy, label_smoothing=settings.label_smoothing
        )
        self.evaluation_loss: Loss = own_loss or functional.cross_entropy
        self._idle: list[tuple[Recipe, CapturedLane]] = []
        self._built: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()
        self._initial: tuple[int, Mapping[str, Tensor]] | None = None
        self._has_captured = False
        self._capture_failure = ""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; a last, incomplete accumulation is a step too."""
        return math.ceil(self.batches.num_batches / self.settings.accumulate)

    @cached_property
    def layout(self) -> torch.memory_format:
        """Of the weights of every model that is built, and so of what goes through it.

        Raises:
            TaskError: the first batch, or what the model makes of it, cannot be trained on.
        """
        with TURN, preserved_random_states():
            try:
                inputs, labels = next(iter(self.batches.epoch(0, 0)))
                model = self._new_model()
                layout = fastest_layout(model, inputs)
            except Exception:  # a task that does not work says so when it is trained
                return torch.contiguous_format
            self._check_batch(model, inputs, labels)
            return layout

    def _check_batch(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        """Says in words what torch would say in its own, or not at all."""
        if self.task.loss is None:  # another may have other labels
            check_labels(labels, len(inputs), self.task.num_classes)
        try:
            with torch.no_grad(), self.arithmetic.autocast():
                logits = model(inputs)
        except Exception as error:
            if inputs.dtype == torch.float32 or _is_out_of_memory(error):
                return  # what it is will be said in training
            raise TaskError(
                f"inputs must be float32 where the model does not convert them, but a batch has {inputs.dtype}, and "
                f"the model failed on it: {first_line(error)}{place_of(error)}"
            ) from error
        if self.task.loss is None:
            check_logits(logits, len(inputs), self.task.num_classes)

    def build_model(self, seed: int) -> nn.Module:
        """The task's model on the device, with initial weights from `seed`.

        Raises:
            TaskError: the task's factory failed.
            TrialError: out of memory.
        """
        layout = self.layout
        seed_all(derive_seed(seed, "weights"))
        with self.guard("the task's model could not be built"):
            return self._new_model().to(memory_format=layout)

    def _new_model(self) -> nn.Module:
        model = self.task.model().to(self.device)
        trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        for name, parameter in trained.items():
            if self._built.get(id(parameter)) is parameter:
                raise TaskError(
                    f"`task.model` must build a new model each time, but its {name} is that of an earlier one, so "
                    "each run would go on from the last: build it in the function, or `copy.deepcopy` it there."
                )
        self._built.update({id(parameter): parameter for parameter in trained.values()})
        return model

    def build_optimizer(
        self, recipe: Recipe, model: nn.Module, *, captured: bool = False
    ) -> torch.optim.Optimizer:
        """The recipe's optimizer over the task's parameter groups.

        Raises:
            TaskError: the task has no such groups.
        """
        with self.guard("the task's parameters could not be optimized"):
            groups = self.task.parameters(model) if self.task.parameters else model.parameters()
            return build_optimizer(recipe, groups, captured=captured)

    @contextmanager
    def guard(self, failure: str) -> Iterator[None]:
        """Around all that runs the task's own code: what it raises becomes an error that users may see.

        Raises:
            TrialError: out of memory.
            TaskError: `failure`, and what was raised.
        """
        try:
            yield
        except LrtuneError:
            raise
        except Exception as error:
            if _is_out_of_memory(error):
                torch.cuda.empty_cache()
                raise TrialError(
                    f"out of memory on {self.device}: try a smaller --batch-size, a higher --accumulate (now "
                    f"{self.settings.accumulate}), or fewer --jobs"
                ) from error
            raise TaskError(
                f"{failure}: {type(error).__name__}: {error}{place_of(error)}"
            ) from error

    def train(
        self,
        run: Run,
        *,
        history: Sequence[Measurement] = (),
        state: State | None = None,
        save: Save | None = None,
    ) -> Iterator[Measurement]:
        """Trains a run, or goes on with one.

        Args: run: what to train. history: measurements of the epochs that are behind `state`; they
            are not yielded again. state: what `save` was given after the last of them, to go on
            from; `None` trains from the start. save: is given each measurement, and the state after
            its epoch, before it is yielded.

        Yields:
            A measurement an epoch. A diverged one, with losses that are not finite, is the last.

        Raises:
            TrialError: out of memory.
            TaskError: the task's model, data or loss failed.
        """
        assert bool(history) == (state is not None)
        schedule = schedule_of(run, self.steps_per_epoch)
        done = list(history)
        for measurement in done:
            schedule = schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1)
        with self.lane(run.recipe, run.seed, state) as lane:
            while len(done) < run.stop_epochs and not (done and done[-1].diverged):
                step = done[-1].step if done else 0
                with self.guard("the task could not be trained"):
                    measurement = self._epoch(run, len(done), step, lane, schedule)
                done.append(measurement)
                schedule = schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1)
                if save is not None:
                    save(measurement, lane.learner.state())
                yield measurement

    @contextmanager
    def lane(self, recipe: Recipe, seed: int, state: State | None = None) -> Iterator[Lane]:
        """A lane for one run, at its start or at a `state` of it. No other run gets it until the context is left.

        An eager lane draws from the global generators, so it is the only one at work as long as it
        is held.

        Raises:
            TrialError: out of memory.
            TaskError: the task's model or parameters failed, or are not those of the state.
        """
        captured = self._captured_lane(recipe)
        if captured is None:
            with TURN:
                yield self._eager_lane(recipe, seed, state)
            return
        try:
            captured.begin(recipe, self._initial_weights(seed))
            if state is not None:
                with self.guard("the task is not the one that a checkpoint was saved of"):
                    captured.restore(state)
            yield captured
        finally:
            self._idle.append((_constants_of(recipe), captured))

    def _eager_lane(self, recipe: Recipe, seed: int, state: State | None) -> EagerLane:
        learner = self._learner(recipe, self.build_model(seed))
        if state is not None:
            with self.guard("the task is not the one that a checkpoint was saved of"):
                learner.restore(state)
        return EagerLane(
            step=self._step(learner), batches=self.batches, validation=self.validation,
            evaluation_loss=self.evaluation_loss, accumulate=self.settings.accumulate,
        )  # fmt: skip

    def _captured_lane(self, recipe: Recipe) -> CapturedLane | None:
        """One that is idle or new; `None` where this recipe trains eagerly.

        Recipes of one optimizer and settings can share a lane: a recording has them as constants,
        and its LR not.
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
        with self.guard("the task could not be captured"):
            return CAPTURES.submit(
                self._new_captured_lane, recipe, player or self.new_player(self.device)
            ).result()

    def _new_captured_lane(self, recipe: Recipe, player: Player) -> CapturedLane | None:
        assert isinstance(self.batches, ResidentBatches)
        assert isinstance(self.validation, EvaluationBatches)
        with TURN:
            if self._capture_failure:  # while this one waited
                return None
            learner = self._learner(recipe, self.build_model(0), captured=True)
            try:
                lane = CapturedLane(
                    self._step(learner), self.batches, self.validation, self.evaluation_loss,
                    self.settings.accumulate, player,
                )  # fmt: skip
            except (
                RuntimeError
            ) as error:  # whatever the task's own code does that a graph cannot hold
                if self._has_captured or _is_out_of_memory(error):
                    raise
                cause = error.__context__ or error  # leaving the capture raises once more
                self._capture_failure = f"{type(cause).__name__}: {first_line(cause)}"
                return None
            self._has_captured = True
            return lane

    def keep_lanes(self, num_lanes: int) -> None:
        """Closes the idle lanes above so many."""
        with TURN:
            for _, lane in self._idle[num_lanes:]:
                lane.close()
            del self._idle[num_lanes:]

    def why_eager(self, recipe: Recipe) -> str:
        """Why a recipe is not trained by CUDA graphs; empty where it is."""
        rules = [
            (
                isinstance(self.batches, ResidentBatches)
                and isinstance(self.validation, EvaluationBatches),
                "the data do not lie on the device",
            ),
            (
                not self.arithmetic.scaler().is_enabled(),
                "fp16 needs a gradient scaler, which decides on the host",
            ),
            (recipe.optimizer in CAPTURABLE, f"{recipe.optimizer} reads its LR on the host"),
            (not self._capture_failure, f"the capture failed: {self._capture_failure}"),
            (self.device.type == "cuda", "there is no GPU"),
        ]
        return next((reason for holds, reason in rules if not holds), "")

    def _initial_weights(self, seed: int) -> Mapping[str, Tensor]:
        """Of the model that `build_model` builds; those of the latest seed are kept, since most runs share it."""
        with TURN:
            if self._initial is None or self._initial[0] != seed:
                self._initial = (seed, self.build_model(seed).state_dict())
            return self._initial[1]

    def _learner(self, recipe: Recipe, model: nn.Module, *, captured: bool = False) -> Learner:
        half_life_steps = self.settings.ema_half_life_epochs * self.steps_per_epoch
        with self.guard("the task's model could not be copied, which averaged weights need"):
            averaged = AveragedWeights(model, half_life_steps) if half_life_steps else None
        return Learner(
            model=model,
            averaged=averaged,
            optimizer=self.build_optimizer(recipe, model, captured=captured),
            scaler=self.arithmetic.scaler(),
        )

    def _step(self, learner: Learner) -> Step:
        return Step(
            learner=learner,
            forward=torch.compile(learner.model) if self.settings.compile else learner.model,
            loss=self.loss,
            arithmetic=self.arithmetic,
            clip_norm=self.settings.clip_norm,
        )

    def _epoch(
        self, run: Run, epoch: int, step: int, lane: Lane, schedule: Schedule
    ) -> Measurement:
        """Trains and measures one epoch, counted from 0, that begins with optimizer step `step`."""
        start = time.perf_counter()
        multipliers = [schedule(step + index) for index in range(self.steps_per_epoch)]
        lane.begin_epoch(run.seed, epoch)
        taken = lane.steps(multipliers)
        train_loss = statistics.fmean(taken.losses)
        trained = time.perf_counter() - start
        val_loss, top1 = averaged_val_loss, averaged_top1 = math.nan, math.nan
        if math.isfinite(train_loss):
            val_loss, top1 = lane.evaluate(averaged=False)
            if lane.learner.averaged is not None:
                averaged_val_loss, averaged_top1 = lane.evaluate(averaged=True)
        lrs = [run.recipe.peak_lr * multiplier for multiplier in multipliers[: taken.num_steps]]
        return Measurement(
            epoch=epoch + 1,
            step=step + taken.num_steps,
            lr_first=lrs[0] if lrs else math.nan,
            lr_last=lrs[-1] if lrs else math.nan,
            train_loss=train_loss,
            val_loss=val_loss,
            top1=top1,
            averaged_val_loss=averaged_val_loss,
            averaged_top1=averaged_top1,
            seconds=time.perf_counter() - start,
            images_per_s=self.batches.num_images / trained,
            ended_at=time.time(),
            memory_mib=peak_memory_mib(),
            gpu_memory_mib=peak_gpu_memory_mib(self.device),
        )

    def evaluate(self, model: nn.Module, batches: Batches) -> tuple[float, float]:
        """Mean cross-entropy (or the task's loss) without smoothing, and Top-1 in percent."""
        return evaluate(model, batches, self.evaluation_loss, self.arithmetic)

    def _evaluation_batches(self, source: Source) -> Batches:
        size = EVALUATION_BATCH_SIZES.get(self.device.type, 1024)
        return evaluation_batches(
            source, batch_size=size, device=self.device, data_on_device=self.settings.data_on_device
        )

    def test_top1(self, state: Mapping[str, Any]) -> float:
        """Top-1 on the task's test images, percent, of the model in a run's final state.

        Raises:
            TaskError: the task's model or test images failed.
            TrialError: out of memory.
        """
        assert self.task.test is not None
        model = self.build_model(0)
        with self.guard("the task's test images could not be evaluated"):
            model.load_state_dict(state["model"])
            return self.evaluate(model, self._evaluation_batches(self.task.test))[1]


def _constants_of(recipe: Recipe) -> Recipe:
    """What a recorded step has as constants: the optimizer and its settings, not the LR or its schedule."""
    return replace(recipe, peak_lr=1.0, warmup_epochs=0.0, decay=Constant(), final_frac=0.0)


def _is_out_of_memory(error: Exception) -> bool:
    """The allocator of a CPU, the CUDA runtime and its libraries raise a `RuntimeError` like any other."""
    signs = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in signs
    )


def state_to_bytes(state: State) -> bytes:
    """A run's state as a file's content."""
    buffer = io.BytesIO()
    # The checkpoint has a checksum of its own.
    with serialization.config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(state, buffer)
    return buffer.getvalue()


def state_from_bytes(content: bytes) -> State:
    """A run's state from `state_to_bytes`; only tensors and plain values are read, no code is run.

    Raises:
        StoreError: the content is none.
    """
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers meet
        raise StoreError(f"a checkpoint cannot be read: {error}") from error
    return state
