"""Keras 3: a `LearningRateSchedule`, built-in where it is the same, and a callback for a plateau."""

from textwrap import indent
from typing import Any, assert_never

from lrtune.core.errors import InputError
from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.reporting.export.parts import call, drops_code, lengths, named, program
from lrtune.reporting.export.result import Export
from lrtune.schedules import Schedule

_STEPS = "len(train_data), unless gradients are accumulated"

_SCHEDULE = '''\
@keras.saving.register_keras_serializable()
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate for step 0, 1, 2, ..."""

    def __call__(self, step):
        step = ops.cast(step, keras.config.floatx())
{body}

    def get_config(self):
        return {{}}'''

_PLATEAU = '''\
class Plateau(keras.callbacks.Callback):
    """Add it to the callbacks of `fit`; `ReduceLROnPlateau` of Keras has other rules and no warmup."""

    def on_train_begin(self, logs=None):
        self.step = self.num_bad_epochs = self.cooldown_left = 0
        self.lr, self.best = peak_lr, {worst}

    def on_train_batch_begin(self, batch, logs=None):
{ramp}
        self.step += 1

    def on_epoch_end(self, epoch, logs=None):
{early}        {metric} = {logged}
        better = {better}
        if better:
            self.best = {metric}
        self.num_bad_epochs = 0 if better or self.cooldown_left else self.num_bad_epochs + 1
        self.cooldown_left = max(0, self.cooldown_left - 1)
        if self.num_bad_epochs > {patience}:
            self.lr = max(self.lr * {factor!r}, {floor!r})
            self.num_bad_epochs, self.cooldown_left = 0, {cooldown}'''


_OPTIMIZERS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # with the defaults of torch where Keras has others
    "sgd": ("SGD", {}),
    "adagrad": ("Adagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-10}),
    "rmsprop": ("RMSprop", {"rho": 0.99, "epsilon": 1e-8}),
    "adam": ("Adam", {"epsilon": 1e-8}),
    "adamw": ("AdamW", {"epsilon": 1e-8}),
}
_OTHERS = {
    "lamb": "Keras has another LAMB: at the same LR its first step is a tenth as long",
    "schedule-free-adamw": "Keras has another Schedule-Free AdamW: its average does not weigh by the LR, "
    "and it does not evaluate the averaged weights",
}


def export(schedule: Schedule) -> Export:
    """The optimizer with its schedule.

    Raises:
        InputError: an optimizer that Keras has not.
    """
    recipe = schedule.recipe
    if recipe.optimizer not in _OPTIMIZERS:
        reason = _OTHERS.get(recipe.optimizer, f"Keras has no {recipe.optimizer}")
        raise InputError(
            f"{reason}; use `--to torch`, or search with one of {', '.join(_OPTIMIZERS)}."
        )
    name, arguments = _OPTIMIZERS[recipe.optimizer]
    note = "Exact at every step, in the precision that Keras is set to (float32: 1e-7)."
    if recipe.optimizer == "sgd":
        arguments = {"momentum": recipe.momentum, "nesterov": recipe.uses_nesterov}
        note += " Keras has the LR within the velocity, so that with momentum a change of it takes effect more slowly."
    if recipe.optimizer == "adamw":
        arguments = {"weight_decay": recipe.weight_decay, **arguments}
    elif recipe.weight_decay:
        note += f" Give the layers `kernel_regularizer=keras.regularizers.L2({recipe.weight_decay / 2!r})`: the"
        note += " `weight_decay` of a Keras optimizer is AdamW's."
    decay = recipe.decay
    if isinstance(decay, Plateau):
        parts = [
            *lengths(schedule, steps=_STEPS),
            f"peak_lr = {recipe.peak_lr!r}",
            _plateau(schedule, decay),
        ]
        note += ' Compile with `metrics=["accuracy"]`.' if decay.monitor == "top1" else ""
        note += " Validate every epoch, with `Plateau()` among the callbacks of `fit`."
        learning_rate = "peak_lr"
    elif built_in := _built_in(schedule):
        parts, learning_rate = built_in, "learning_rate"
    else:
        parts, learning_rate = _subclass(schedule), "Schedule()"
    built = call(
        f"optimizer = keras.optimizers.{name}",
        f"learning_rate={learning_rate}",
        *named(**arguments),
    )
    imports = [
        "import keras",
        *(["from keras import ops"] if any("ops." in part for part in parts) else []),
    ]
    return Export(to="keras", text=program(imports, *parts, built), note=note)


def _built_in(schedule: Schedule) -> list[str] | None:
    """The schedule of Keras that is the same.

    None has our warmup: theirs begins at 0 and comes one step late.
    """
    recipe, steps, floor = schedule.recipe, schedule.total_steps, schedule.recipe.final_frac
    if schedule.warmup_steps:
        return None
    peak = f"{recipe.peak_lr!r}"
    match recipe.decay:
        case Constant():
            return [f"learning_rate = {peak}"]
        case Cosine():
            name, arguments = "CosineDecay", {"decay_steps": steps, "alpha": floor}
        case Linear() | Polynomial():
            power = recipe.decay.power if isinstance(recipe.decay, Polynomial) else 1.0
            end = floor * recipe.peak_lr
            name, arguments = (
                "PolynomialDecay",
                {"decay_steps": steps, "end_learning_rate": end, "power": power},
            )
        case Exponential(end_frac=end_frac) if not floor:
            name, arguments = "ExponentialDecay", {"decay_steps": steps, "decay_rate": end_frac}
        case _:
            return None
    return [call(f"learning_rate = keras.optimizers.schedules.{name}", peak, *named(**arguments))]


def _subclass(schedule: Schedule) -> list[str]:
    """Constants, and a class that computes the LR with `keras.ops`."""
    recipe, floor = schedule.recipe, schedule.recipe.final_frac
    constants, shape = _shape(recipe)
    start = " - warmup_steps" if schedule.warmup_steps else ""
    body = (
        [f"progress = ops.clip((step{start}) / (total_steps{start}), 0, 1)"]
        if "progress" in shape
        else []
    )
    body.append(f"multiplier = {shape}")
    body += [f"multiplier = {floor!r} + (1 - {floor!r}) * multiplier"] if floor else []
    if schedule.warmup_steps:
        body.append(
            "multiplier = ops.where(step < warmup_steps, (step + 1) / warmup_steps, multiplier)"
        )
    body.append("return peak_lr * multiplier")
    return [
        *lengths(schedule, steps=_STEPS, total="progress" in shape),
        f"peak_lr = {recipe.peak_lr!r}",
        *constants,
        _SCHEDULE.format(body=indent("\n".join(body), "        ")),
    ]


def _shape(recipe: Recipe) -> tuple[list[str], str]:
    """Constants, and the decay as an expression in the tensors `progress`, 0 to 1 after warmup, or `step`."""
    match recipe.decay:
        case Constant():
            return [], "ops.ones_like(step)"
        case StepDecay(factor=factor) | MultiStep(factor=factor):
            return [
                drops_code(recipe.decay)
            ], f"{factor!r} ** sum(ops.cast(step >= drop, step.dtype) for drop in drops)"
        case Cosine():
            return [], "(1 + ops.cos(math.pi * progress)) / 2"
        case Linear():
            return [], "1 - progress"
        case Polynomial(power=power):
            return [], f"(1 - progress) ** {power!r}"
        case Exponential(end_frac=end_frac):
            return [], f"{end_frac!r} ** progress"
        case WSD(cooldown_frac=cooldown_frac):
            return [
                f"hold = 1 - {cooldown_frac!r}"
            ], "1 - ops.sqrt(ops.clip((progress - hold) / (1 - hold), 0, 1))"
        case HoldPower(hold_frac=hold_frac, power=power):
            return [
                f"hold = {hold_frac!r}"
            ], f"(1 - ops.clip((progress - hold) / (1 - hold), 0, 1)) ** {power!r}"
        case Plateau():
            raise AssertionError("a plateau is no function of the step")
        case _:
            assert_never(recipe.decay)


def _plateau(schedule: Schedule, decay: Plateau) -> str:
    """`lrtune.schedules.plateau.observe` as a callback, with the warmup."""
    worse, sign, compare = (
        ("math.inf", "-", "<") if decay.monitor == "val_loss" else ("-math.inf", "+", ">")
    )
    best = f"self.best * (1 {sign} {decay.threshold!r})"
    if decay.threshold_mode == "abs":
        best = f"self.best {sign} {decay.threshold!r}"
    ramp, early = "        self.model.optimizer.learning_rate = self.lr", ""
    if schedule.warmup_steps:
        ramp = (
            "        warming = self.step < warmup_steps\n"
            "        ramp = peak_lr * (self.step + 1) / warmup_steps\n"
            "        self.model.optimizer.learning_rate = ramp if warming else self.lr"
        )
        early = "        if self.step < warmup_steps:  # this epoch says nothing of the peak\n            return\n"
    return _PLATEAU.format(
        worst=worse,
        ramp=ramp,
        early=early,
        metric=decay.monitor,
        logged='logs["val_loss"]' if decay.monitor == "val_loss" else '100 * logs["val_accuracy"]',
        better=f"{decay.monitor} {compare} {best}",
        patience=decay.patience_epochs,
        factor=decay.factor,
        floor=schedule.recipe.final_frac * schedule.recipe.peak_lr,
        cooldown=decay.cooldown_epochs,
    )
