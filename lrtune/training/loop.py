"""The training loop: a generator that yields one measurement an epoch and knows nothing of searching.

A run is a function of task, settings, recipe, horizon and seed alone. Initial weights come from the seed; data order,
augmentation and dropout of an epoch come from (seed, epoch), so that a run resumed after epoch k needs no random
state to go on as if never stopped.
"""

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrtune.core.errors import LrtuneError, StoreError, TaskError, TrialError
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.core.trial import Measurement, Run
from lrtune.schedules.build import Schedule
from lrtune.schedules.compress import schedule_of
from lrtune.training.averaging import AveragedWeights
from lrtune.training.batches import Batches, derive_seed, evaluation_batches, training_batches
from lrtune.training.optimizers import build_optimizer, set_lr
from lrtune.training.precision import choose_arithmetic, choose_device
from lrtune.training.task import Task

State = dict[str, Any]
"""Tensors and plain values: all that a run needs to go on after an epoch."""
Save = Callable[[Measurement, State], None]


class Trainer:
    """A task made ready on one device: its data are in place once, for all the runs that follow."""

    def __init__(self, task: Task, settings: TrainSettings):
        """Puts the data on the device.

        Raises:
            InputError: a device or precision that is not there.
        """
        self.task = task
        self.settings = settings
        self.device = choose_device(settings.device)
        self.arithmetic = choose_arithmetic(settings.precision, self.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        micro_batch = settings.batch_size // settings.accumulate
        self.batches: Batches = training_batches(
            task.train, batch_size=micro_batch, augment=settings.augment, device=self.device
        )
        self.validation: Batches = evaluation_batches(task.validation, batch_size=1024, device=self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; a last, incomplete accumulation is a step too."""
        return math.ceil(self.batches.num_batches / self.settings.accumulate)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean training loss of a batch."""
        if self.task.loss is not None:
            return self.task.loss(logits, labels)
        return functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)

    def build_model(self, seed: int) -> nn.Module:
        """The task's model on the device, with initial weights from `seed`.

        Raises:
            TaskError: the task's factory failed.
            TrialError: out of memory.
        """
        torch.manual_seed(derive_seed(seed, "weights"))
        with self.guard("the task's model could not be built"):
            return self.task.model().to(self.device)

    def build_optimizer(self, recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
        """The recipe's optimizer over the task's parameter groups.

        Raises:
            TaskError: the task has no such groups.
        """
        with self.guard("the task's parameters could not be optimized"):
            groups = self.task.parameters(model) if self.task.parameters else model.parameters()
            return build_optimizer(recipe, groups, scaled=self.arithmetic.scaler().is_enabled())

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
            raise TaskError(f"{failure}: {type(error).__name__}: {error}") from error

    def train(
        self, run: Run, *, history: Sequence[Measurement] = (), state: State | None = None, save: Save | None = None
    ) -> Iterator[Measurement]:
        """Trains a run, or goes on with one.

        Args:
            run: what to train.
            history: measurements of the epochs that are behind `state`; they are not yielded again.
            state: what `save` was given after the last of them, to go on from; `None` trains from the start.
            save: is given each measurement, and the state after its epoch, before it is yielded.

        Yields:
            A measurement an epoch. A diverged one, with losses that are not finite, is the last.

        Raises:
            TrialError: out of memory.
            TaskError: the task's model, data or loss failed.
        """
        assert bool(history) == (state is not None)
        schedule = schedule_of(run, self.steps_per_epoch)
        learner = self._learner(run)
        if state is not None:
            with self.guard("the task is not the one that a checkpoint was saved of"):
                learner.restore(state)
        done = list(history)
        for measurement in done:
            schedule = schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1)
        while len(done) < run.stop_epochs and not (done and done[-1].diverged):
            step = done[-1].step if done else 0
            with self.guard("the task could not be trained"):
                measurement = self._epoch(run, len(done), step, learner, schedule)
            done.append(measurement)
            schedule = schedule.observe(val_loss=measurement.val_loss, top1=measurement.top1)
            if save is not None:
                save(measurement, learner.state())
            yield measurement

    def _learner(self, run: Run) -> "Learner":
        model = self.build_model(run.seed)
        half_life_steps = self.settings.ema_half_life_epochs * self.steps_per_epoch
        with self.guard("the task's model could not be copied, which averaged weights need"):
            averaged = AveragedWeights(model, half_life_steps) if half_life_steps else None
        return Learner(
            model=model,
            averaged=averaged,
            optimizer=self.build_optimizer(run.recipe, model),
            scaler=self.arithmetic.scaler(),
        )

    def _epoch(self, run: Run, epoch: int, step: int, learner: "Learner", schedule: Schedule) -> Measurement:
        """Trains and measures one epoch, counted from 0, that begins with optimizer step `step`."""
        model, optimizer, scaler = learner.model, learner.optimizer, learner.scaler
        start = time.perf_counter()
        # Of dropout, and of loaders without a generator of their own.
        torch.manual_seed(derive_seed(run.seed, "epoch", epoch))
        model.train()
        accumulate, num_batches = self.settings.accumulate, self.batches.num_batches
        total = torch.zeros((), device=self.device)
        lrs: list[float] = []
        for index, (inputs, labels) in enumerate(self.batches.epoch(run.seed, epoch)):
            in_step = min(accumulate, num_batches - index // accumulate * accumulate)
            with self.arithmetic.autocast():
                loss = self.loss(model(inputs), labels)
            scaler.scale(loss / in_step).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            if (index + 1) % accumulate and index + 1 < num_batches:
                continue
            multiplier = schedule(step)
            set_lr(optimizer, multiplier)
            if math.isfinite(self.settings.clip_norm):
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip_norm)
            scale = scaler.get_scale() if scaler.is_enabled() else 1.0
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if not scaler.is_enabled() or scaler.get_scale() >= scale:  # a skipped step does not advance the schedule
                lrs.append(run.recipe.peak_lr * multiplier)
                step += 1
                if learner.averaged is not None:
                    learner.averaged.update(model)
        train_loss = total.item() / num_batches
        trained = time.perf_counter() - start
        val_loss, top1 = averaged_val_loss, averaged_top1 = math.nan, math.nan
        if math.isfinite(train_loss):
            val_loss, top1 = self.evaluate(model, self.validation)
            if learner.averaged is not None:
                averaged_val_loss, averaged_top1 = self.evaluate(learner.averaged.model, self.validation)
        return Measurement(
            epoch=epoch + 1,
            step=step,
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
        )

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, batches: Batches) -> tuple[float, float]:
        """Mean cross-entropy (or the task's loss) without smoothing, and Top-1 in percent."""
        model.eval()
        loss_of = self.task.loss or functional.cross_entropy
        loss = torch.zeros((), device=self.device, dtype=torch.float64)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        count = 0
        for inputs, labels in batches.epoch(0, 0):
            with self.arithmetic.autocast():
                logits = model(inputs)
                loss += loss_of(logits, labels).double() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum()
            count += len(labels)
        return loss.item() / count, 100 * correct.item() / count

    def test_top1(self, state: Mapping[str, Any]) -> float:
        """Top-1 on the task's test images, percent, of the model in a run's final state."""
        assert self.task.test is not None
        model = self.task.model().to(self.device)
        model.load_state_dict(state["model"])
        return self.evaluate(model, evaluation_batches(self.task.test, batch_size=1024, device=self.device))[1]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """All that training changes."""

    model: nn.Module
    averaged: AveragedWeights | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def state(self) -> State:
        """Tensors and plain values, for `restore`; they go on changing with the learner."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state() if self.averaged is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a `state`."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.restore(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _is_out_of_memory(error: Exception) -> bool:
    """The allocator of a CPU raises a plain `RuntimeError`."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def state_to_bytes(state: State) -> bytes:
    """A run's state as a file's content."""
    buffer = io.BytesIO()
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
