"""A task made ready on one device: its data are in place once, for all the runs that follow."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrtune.core.errors import LrtuneError, TaskError, TrialError, raised
from lrtune.core.objective import TOP1, Objective
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.averaging import AveragedWeights
from lrtune.training.native.constant import best_constant
from lrtune.training.native.data.batches import (
    Source,
    check_source,
    evaluation_batches,
    training_batches,
)
from lrtune.training.native.data.images import Batches
from lrtune.training.native.data.structure import Batch
from lrtune.training.native.devices import choose_arithmetic, choose_device
from lrtune.training.native.evaluation import Evaluation, on_device
from lrtune.training.native.forward import (
    DefaultForward,
    FirstBatch,
    Forward,
    Loss,
    check_batch,
    explained,
)
from lrtune.training.native.lanes.captured import TURN
from lrtune.training.native.layout import fastest_layout
from lrtune.training.native.learner import Learner, Step
from lrtune.training.native.optimizers import build_optimizer, describe_groups
from lrtune.training.native.randomness import derive_seed, preserved_random_states, seed_all
from lrtune.training.task import Task, settings_for

EVALUATION_BATCH_SIZES = {"cpu": 128}
"""Where it is not 1024: what a CPU's caches hold is evaluated almost twice as fast."""


class PreparedTask:
    """Builds what a run needs of a task: batches, models, optimizers, steps and evaluations."""

    def __init__(self, task: Task, settings: TrainSettings):
        """Puts the data on the device.

        Raises:
            InputError: a device or precision that does not exist, or a task that cannot be trained
                so.
            TaskError: the task's data failed.
        """
        self.task = task
        self.settings = settings = settings_for(task, settings)
        self.device = choose_device(settings.device)
        self.arithmetic = choose_arithmetic(settings.precision, self.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        num_batches = (task.steps_per_epoch or 0) * settings.accumulate
        with self.guard("the task's data could not be opened"):
            self.batches: Batches = training_batches(
                task.train, batch_size=settings.batch_size // settings.accumulate,
                augment=settings.augment, device=self.device,
                data_on_device=settings.data_on_device, cutout=settings.cutout,
                num_batches=num_batches,
            )  # fmt: skip
            self.validation = self.evaluation_batches(task.validation)
            if task.test is not None:
                check_source(task.test)
        smoothed = partial(functional.cross_entropy, label_smoothing=settings.label_smoothing)
        self.forward = self._forward(smoothed)
        self.evaluation = Evaluation(
            forward=self._forward(functional.cross_entropy),
            arithmetic=self.arithmetic,
            num_classes=task.num_classes,
            metrics=on_device(task.metrics, self.device),
        )
        self._built: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; a last, incomplete accumulation is a step too."""
        return math.ceil(self.batches.num_batches / self.settings.accumulate)

    def evaluation_batches(self, source: Source) -> Batches:
        """Every example of a data set, once."""
        size = EVALUATION_BATCH_SIZES.get(self.device.type, 1024)
        return evaluation_batches(
            source, batch_size=size, device=self.device, data_on_device=self.settings.data_on_device
        )

    def _forward(self, default: Loss) -> Forward:
        if self.task.forward is not None:
            return self.task.forward
        loss = self.task.loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss).to(self.device)
        return DefaultForward(default) if loss is None else DefaultForward(loss, is_own=True)

    # --- the first batch

    @property
    def layout(self) -> torch.memory_format:
        """The memory format of every model's weights, and so of what goes through it.

        Raises:
            TaskError: the first batch, or what the model makes of it, cannot be trained on.
        """
        return self._first_look[0]

    @cached_property
    def _first_look(self) -> tuple[torch.memory_format, FirstBatch | None]:
        """The layout, and what becomes of the first batch where it works."""
        with TURN, preserved_random_states():
            try:
                batch = next(iter(self.batches.epoch(0, 0)))
                model = self._new_model()
                layout = fastest_layout(model, _inputs(batch))
            except TaskError:
                raise
            except Exception:  # training will tell what does not work
                return torch.contiguous_format, None
            return layout, self._checked(model, batch)

    def _checked(self, model: nn.Module, batch: Batch) -> FirstBatch | None:
        try:
            with self.arithmetic.autocast():
                return check_batch(self.forward, model, batch, self.task.num_classes)
        except LrtuneError:
            raise
        except Exception as error:
            if not is_out_of_memory(error) and (blamed := explained(error, batch)):
                raise blamed from error
            return None  # training will tell what it is

    @cached_property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The parameter groups; empty where there is only one, at the peak LR.

        Raises:
            TaskError: the task's model or its groups failed.
            InputError: the groups break a rule.
        """
        if self.task.parameters is None:
            return ()
        with preserved_random_states(), self.guard("the task's parameters could not be listed"):
            given: list[Any] = list(self.task.parameters(self._new_model()))
            described = describe_groups(group for group in given if isinstance(group, dict))
        return described if len(described) > 1 or any(g.lr_scale != 1 for g in described) else ()

    @cached_property
    def objective(self) -> Objective:
        """The task's objective, with what its validation data tell of its values."""
        objective, num_classes = self.task.decides, self.task.num_classes
        first = self._first_look[1]
        targets = first.targets if first is not None else None
        if objective.metric == TOP1 and num_classes is not None:
            one_each = not isinstance(targets, Tensor) or targets.ndim == 1
            num_counted = self.validation.num_examples if one_each else 0
            objective = objective.counted(num_examples=num_counted, num_classes=num_classes)
        is_plain = self.task.forward is None and self.validation.num_batches > 0
        if first is None or not is_plain or not isinstance(first.outputs, Tensor):
            return objective
        loss = None
        if first.loss is not None and objective.metric == "val_loss":
            loss = self.task.loss or functional.cross_entropy
            loss = copy.deepcopy(loss).cpu() if isinstance(loss, nn.Module) else loss
        own = {name: m for name, m in self.task.metrics.items() if name == objective.metric}
        with preserved_random_states(self.task.validation):
            constant = best_constant(
                objective, self.validation, tuple(first.outputs.shape), loss=loss,
                num_classes=num_classes if objective.metric == TOP1 else None,
                metrics=on_device(own, torch.device("cpu")),
            )  # fmt: skip
        return replace(objective, constant=constant)

    # --- what a run needs

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
                    f"`task.model` must build a new model each time, but its {name} is that of an "
                    "earlier one, so each run would go on from the last: build it in the function, "
                    "or `copy.deepcopy` it there."
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

    def build_step(self, recipe: Recipe, seed: int, *, captured: bool = False) -> Step:
        """The step of a run at its start.

        Raises:
            TaskError: the task's model or its groups failed.
            TrialError: out of memory.
        """
        model = self.build_model(seed)
        half_life_steps = self.settings.ema_half_life_epochs * self.steps_per_epoch
        with self.guard("the task's model could not be copied, which averaged weights need"):
            averaged = AveragedWeights(model, half_life_steps) if half_life_steps else None
        learner = Learner(
            model=model,
            averaged=averaged,
            optimizer=self.build_optimizer(recipe, model, captured=captured),
            scaler=self.arithmetic.scaler(),
        )
        return Step(
            learner=learner,
            forward=self.forward,
            model=torch.compile(model) if self.settings.compile else model,
            arithmetic=self.arithmetic,
            clip_norm=self.settings.clip_norm,
        )

    @contextmanager
    def guard(self, failure: str) -> Iterator[None]:
        """Turns what the task's own code raises into an error that users may see.

        Raises:
            TrialError: out of memory.
            TaskError: `failure`, and what was raised.
        """
        try:
            yield
        except LrtuneError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                torch.cuda.empty_cache()
                raise TrialError(
                    f"out of memory on {self.device}: try a smaller --batch-size, a higher "
                    f"--accumulate (now {self.settings.accumulate}), or fewer --jobs"
                ) from error
            raise TaskError(f"{failure}: {raised(error)}") from error


def _inputs(batch: Batch) -> Any:
    """What goes into the model, where it is one tensor."""
    return batch[0] if isinstance(batch, tuple | list) and len(batch) else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out.

    The allocator of a CPU, the CUDA runtime and its libraries raise a `RuntimeError` like any
    other.
    """
    signs = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in signs
    )
