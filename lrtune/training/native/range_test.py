"""The LR range test (Smith 2017, arXiv 1506.01186): an exponential sweep of the LR.

It leaves nothing behind.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from itertools import islice
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from lrtune.core.commands import Command, Sweeps, takes
from lrtune.core.errors import InputError, LrtuneError, Problems
from lrtune.core.optimizers import OPTIMIZERS, OWN
from lrtune.core.options import Conflict, Option
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.study import Precision, RangeCurve, RangeResult
from lrtune.decide.bounds import range_result
from lrtune.decide.sweep import sweep_curve, sweep_lrs
from lrtune.training.native.data.loaders import LoaderBatches
from lrtune.training.native.data.structure import Batch
from lrtune.training.native.devices import choose_arithmetic
from lrtune.training.native.evaluation import Evaluation
from lrtune.training.native.forward import DefaultForward, Loss, check_batch
from lrtune.training.native.lanes.eager import EagerLane, Lane
from lrtune.training.native.learner import Learner, Step
from lrtune.training.native.randomness import preserved_random_states

BLOCK = 5
"""Steps between looks at the losses."""
PAIRS = "Make it a pair in the `collate_fn` of the loader, or in a generator around it."
"""What helps where a batch does not fit."""


@dataclass(frozen=True, kw_only=True)
class RangeTest(Command, Sweeps):
    """What `range_test` is given."""

    model: Annotated[nn.Module, Option("Trained from the weights that it has, once a seed.")] = (
        field(kw_only=False)
    )
    optimizer: Annotated[
        torch.optim.Optimizer,
        Option("Optimizer over the model's parameters, which steps without a closure."),
    ] = field(kw_only=False)
    loader: Annotated[
        Iterable[Batch],
        Option(
            "Batches of `(inputs, targets)`, or dicts of the model's arguments, read from the "
            "start as often as needed."
        ),
    ] = field(kw_only=False)
    loss: Annotated[Loss, Option("Mean loss of `(model(inputs), targets)`.")] = field(kw_only=False)
    precision: Annotated[Precision, Option("As in `lrtune.TrainSettings`.")] = "auto"

    def conflicts(self) -> Iterator[Conflict]:
        """The rules between several options that do not hold."""
        yield from super().conflicts()
        if not isinstance(self.model, nn.Module) or not isinstance(
            self.optimizer, torch.optim.Optimizer
        ):
            return  # they have no defaults that could be checked in their place
        kind = type(self.optimizer).__name__
        closure = signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is Parameter.empty:
            yield Conflict(
                ("optimizer",),
                f"`optimizer` must step without a closure, but {kind} needs one: it evaluates the "
                "loss several times within a step, and a range test needs one loss at each LR. "
                "Test another optimizer.",
            )
        modules = [part for part in (self.model, self.loss) if isinstance(part, nn.Module)]
        trainable = {id(p) for module in modules for p in module.parameters() if p.requires_grad}
        if not any(id(p) in trainable for p in parameters_of(self.optimizer)):
            yield Conflict(
                ("model", "optimizer"),
                f"`optimizer` must hold a parameter of `model` that requires a gradient, but this "
                f"{kind} holds none of this {type(self.model).__name__}. Build it with "
                "`model.parameters()`.",
            )


@takes(RangeTest)
def range_test(asked: RangeTest) -> RangeResult:
    """Runs a range test on objects that the caller already has.

    They are as before when it returns or raises, bit for bit.

    What is kept: weights, buffers, gradients, the train/eval mode of every module, the optimizer's
    state and parameter groups, and the random states of Python, NumPy, torch and the loader. Groups
    of different LR keep their ratio in the sweep. A sweep goes from 1e-6 to 10 unless told
    otherwise, and each takes another order of the data where the loader shuffles.

    Returns:
        The interval of peak LRs worth trying, or no signal and why.

    Raises:
        InputError: there is no such sweep, the optimizer cannot be swept, or the loader has no
            batches.
        TaskError: the first batch, or what the model and the loss make of it, cannot be trained on.
    """
    problems = Problems()
    asked = asked.sound(problems)
    model, optimizer, loader, loss = asked.model, asked.optimizer, asked.loader, asked.loss
    lrs: list[float] = []
    with problems.gather():
        lrs = sweep_lrs(OWN, asked.low, asked.high, asked.num_steps)
    problems.raise_any()
    device = [*model.parameters(), *parameters_of(optimizer)][0].device
    arithmetic = choose_arithmetic(asked.precision, device)
    learner = Learner(model=model, averaged=None, optimizer=optimizer, scaler=arithmetic.scaler())
    forward = DefaultForward(loss, is_own=True, advice=PAIRS)
    step = Step(
        learner=learner, forward=forward, model=model, arithmetic=arithmetic, clip_norm=math.inf
    )
    evaluation = Evaluation(forward=forward, arithmetic=arithmetic)
    batches = LoaderBatches(loader=loader, device=device)
    lane = EagerLane(
        step=step, batches=batches, validation=batches, evaluation=evaluation, accumulate=1
    )
    with preserved_random_states(loader), preserved(model, optimizer):
        look_at_first_batch(lane)
    curves = []
    for seed in range(asked.num_seeds):
        with preserved_random_states(loader), preserved(model, optimizer):
            largest = max(float(group["lr"]) for group in optimizer.param_groups)
            for group in optimizer.param_groups:
                group["base_lr"] = float(group["lr"]) / largest if largest > 0 else 1.0
            curves.append(sweep(lane, lrs, 1.0, seed=seed))
    return range_result(type(optimizer).__name__.lower(), curves)


def look_at_first_batch(lane: EagerLane) -> None:
    """Tries the first batch before anything is trained.

    Raises:
        TaskError: it cannot be trained on.
    """
    lane.learner.train()
    for batch in islice(lane.batches.epoch(0, 0), 1):
        try:
            with lane.step.arithmetic.autocast():
                check_batch(lane.step.forward, lane.learner.model, batch, None)
        except LrtuneError:
            raise
        except Exception:  # the sweep meets it as well, with the gradients that this look lacks
            return


def sweep(lane: Lane, lrs: Sequence[float], peak_lr: float, *, seed: int) -> RangeCurve:
    """One step at each LR, until the raw loss has diverged.

    It trains the model.

    The loss at an LR is that of the batches before the step at this LR: it shows what the steps up
    to there did. As in training, a step takes the micro-batches of an accumulation, and its
    gradient is clipped.

    Args:
        lane: at the start of a run.
        lrs: ascending.
        peak_lr: of the lane's run.
        seed: of the order of the batches.

    Raises:
        InputError: data without batches.
    """
    losses: list[float] = []
    curve = sweep_curve(lrs, losses, seed=seed)
    epoch = 0
    while not curve.diverged and len(losses) < len(lrs):
        lane.begin_epoch(seed, epoch)
        num_before = len(losses)
        while not curve.diverged and len(losses) < len(lrs):
            wanted = lrs[len(losses) :][:BLOCK]
            latest = lane.steps([lr / peak_lr for lr in wanted]).losses
            losses += latest
            curve = sweep_curve(lrs, losses, seed=seed)
            if len(latest) < len(wanted):
                break
        if len(losses) == num_before:
            raise InputError(
                f"data must give batches each time they are read, but epoch {epoch} had none."
            )
        epoch += 1
    return curve


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Those of all its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def preserved(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Gives model and optimizer back as they were: the very tensors, with the very values."""
    parameters = list(
        {id(p): p for p in (*model.parameters(), *parameters_of(optimizer))}.values()
    )  # a loss may have some as well
    tensors = [*parameters, *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [parameter.grad for parameter in parameters]
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    groups = [dict(group) for group in optimizer.param_groups]
    optimizer_state = optimizer.state
    optimizer.state = type(optimizer_state)(
        dict, {p: _copied(s) for p, s in optimizer_state.items()}
    )
    for group in optimizer.param_groups:  # Prodigy has sums there, and adds to them in place
        group.update(
            {key: value.clone() for key, value in group.items() if isinstance(value, Tensor)}
        )
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for module, training, buffers in modules:
            module.training = training
            module._buffers.update(buffers)  # a forward pass may have put others in their places
        optimizer.state = optimizer_state
        for group, before in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(before)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }


def for_optimizer(recipe: Recipe, optimizer: str) -> Recipe:
    """The recipe where it has this optimizer; else the optimizer's customary settings.

    Their LR is the middle of the optimizer's sweep: AdaBound bounds its steps by the LR that it was
    built with.
    """
    if recipe.optimizer == optimizer:
        return recipe
    low, high = OPTIMIZERS[optimizer].swept
    return replace(default_recipe(optimizer), peak_lr=math.sqrt(low * high))
