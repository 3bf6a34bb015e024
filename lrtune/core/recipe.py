"""A recipe: everything about the optimizer and its learning rate that a search may choose.

Lengths are in epochs of the run that the recipe is meant for, fractions are of the steps *after* warmup.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from lrtune.core.errors import InputError
from lrtune.core.optimizers import ABOUT

OptimizerName = Literal[
    "sgd", "adagrad", "rmsprop", "adam", "adamw", "lamb", "adabound",
    "schedule-free-sgd", "schedule-free-adamw", "prodigy",
]  # fmt: skip
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak LR to the end."""

    name: Literal["constant"] = "constant"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Times `factor` every `every_epochs`, counted from the start of training (`torch.optim.lr_scheduler.StepLR`)."""

    name: Literal["step"] = "step"
    every_epochs: float
    factor: float = 0.1


@dataclass(frozen=True, kw_only=True)
class MultiStep:
    """Times `factor` at each milestone, counted from the start of training (`MultiStepLR`)."""

    name: Literal["multistep"] = "multistep"
    milestones_epochs: tuple[float, ...]
    factor: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without restarts)."""

    name: Literal["cosine"] = "cosine"


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line to the final LR (arXiv 2310.07831)."""

    name: Literal["linear"] = "linear"


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """`(1 - p) ** power` (`PolynomialLR`)."""

    name: Literal["polynomial"] = "polynomial"
    power: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """`end_frac ** p`: a constant factor a step, `end_frac` of the peak at the end (`ExponentialLR`)."""

    name: Literal["exponential"] = "exponential"
    end_frac: float = 0.01


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warmup-stable-decay: constant, then a 1-sqrt cooldown over the last `cooldown_frac` (arXiv 2405.18392)."""

    name: Literal["wsd"] = "wsd"
    cooldown_frac: float = 0.2


@dataclass(frozen=True, kw_only=True)
class HoldPower:
    """Constant for `hold_frac`, then `(1 - x) ** power` (functional scaling laws, arXiv 2509.19189)."""

    name: Literal["hold-power"] = "hold-power"
    hold_frac: float = 0.5
    power: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Times `factor` after more than `patience_epochs` epochs without progress (torch's `ReduceLROnPlateau`)."""

    name: Literal["plateau"] = "plateau"
    monitor: Literal["val_loss", "top1"] = "val_loss"
    factor: float = 0.1
    patience_epochs: int = 3
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown_epochs: int = 0


Decay = Constant | Step | MultiStep | Cosine | Linear | Polynomial | Exponential | WSD | HoldPower | Plateau
DECAYS: dict[str, type[Decay]] = {str(kind.__dataclass_fields__["name"].default): kind for kind in get_args(Decay)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One point of the search space. Raises `InputError`, all broken rules at once, when built impossible."""

    optimizer: OptimizerName = "sgd"
    peak_lr: float = 0.1
    """LR after warmup, of the parameter group whose ratio is 1."""
    warmup_epochs: float = 0.0
    """Linear warmup, stepped per optimizer step; may be fractional."""
    decay: Decay = field(default_factory=Cosine)
    final_frac: float = 0.0
    """Floor: the decay ends at this fraction of the peak LR (for plateau: it never goes below)."""
    momentum: float = 0.9
    """Of SGD, and the beta of Schedule-Free SGD, which must not be 0; the other optimizers keep their own."""
    nesterov: bool = True
    """Of SGD."""
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InputError(problems)

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __hash__(self) -> int:  # of every recipe of a study, at each question
        return self._hash

    def __getstate__(self) -> dict[str, Any]:  # the hash of a word is another one in another process
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def label(self) -> str:
        """One line for people: `sgd 0.2, warmup 1 ep, cosine`."""
        parts = [f"{self.optimizer} {self.peak_lr:.3g}"]
        if self.warmup_epochs:
            parts.append(f"warmup {self.warmup_epochs:.3g} ep")
        parts.append(describe_decay(self.decay))
        if self.final_frac:
            parts.append(f"to {self.final_frac:.3g} of peak")
        return ", ".join(parts)

    @property
    def uses_nesterov(self) -> bool:
        """Whether SGD is Nesterov's: torch refuses it without momentum."""
        return self.nesterov and self.momentum > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain values.

        Raises:
            InputError: an unknown key, a missing one, or an impossible value.
        """
        values = dict(values)
        decay = values.pop("decay", "cosine")
        if not isinstance(decay, str | Mapping):
            raise InputError(f"`decay` must be a name, or a table with a name, but got {decay!r}.")
        decay = {"name": decay} if isinstance(decay, str) else dict(decay)
        unknown = sorted(set(values) - {f.name for f in fields(Recipe)})
        if unknown:
            raise InputError([f"unknown key {key!r} in a recipe; it has {_names(Recipe)}." for key in unknown])
        return Recipe(decay=decay_from_dict(decay), **values)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What others report of a recipe: quoted, and never mixed with what is measured."""

    on: str
    """Task and hardware."""
    top1: float
    """Percent."""
    convergence_epoch: int


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe that is compared with others."""

    name: str
    recipe: Recipe
    published: Published | None = None


def default_recipe(optimizer: OptimizerName) -> Recipe:
    """What many use who have not searched: the optimizer's customary LR and weight decay, and a cosine.

    Those that need no schedule hold their LR. Schedule-Free (arXiv 2405.15682) warms up for half an epoch, since its
    authors recommend a warmup; its SGD at 1 steps as far as SGD at 0.1 with a momentum of 0.9. Of Prodigy (arXiv
    2306.06101) they recommend an LR of 1, and no schedule or a cosine.
    """
    about = ABOUT[optimizer]
    recipe = Recipe(optimizer=optimizer, peak_lr=about.peak_lr, weight_decay=about.weight_decay)
    match optimizer:
        case "schedule-free-sgd" | "schedule-free-adamw":
            return replace(recipe, warmup_epochs=0.5, decay=Constant())
        case "prodigy":
            return replace(recipe, decay=Constant())
    return recipe


def optimizer_arguments(recipe: Recipe) -> dict[str, Any]:
    """What the optimizer's class is built with, besides parameters; the rest are its defaults.

    The LR is the peak, whatever the schedule: AdaBound reads its base LR when it is built. To Schedule-Free a warmup of
    the LR is the same as its own `warmup_steps`. Prodigy goes without its `safeguard_warmup`: with it, the LR that it
    finds by itself falls with the one it is given, down to no training at a tenth, and a warmup trains no better.
    """
    arguments: dict[str, Any] = {"lr": recipe.peak_lr}
    if recipe.optimizer in ("sgd", "schedule-free-sgd"):
        arguments["momentum"] = recipe.momentum
    if recipe.optimizer == "sgd":
        arguments["nesterov"] = recipe.uses_nesterov
    arguments["weight_decay"] = recipe.weight_decay
    return arguments


def decay_from_dict(values: Mapping[str, Any]) -> Decay:
    """A decay from `{"name": ..., parameters}`.

    Raises:
        InputError: no such decay, an unknown parameter, or a missing one.
    """
    name = values.get("name")
    if name not in DECAYS:
        raise InputError(f"`decay` must be one of {', '.join(DECAYS)}, but got {name!r}.")
    kind: Callable[..., Decay] = DECAYS[name]
    unknown = sorted(set(values) - {"name", *decay_parameters(name)})
    if unknown:
        raise InputError(
            [f"decay {name!r} has no parameter {key!r}; it has {_names(DECAYS[name])}." for key in unknown]
        )
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError:
        raise InputError(f"decay {name!r} needs all of {_names(DECAYS[name])}, but got {', '.join(values)}.") from None


def describe_decay(decay: Decay) -> str:
    """`step(every_epochs=3, factor=0.1)`, or just the name where there is nothing to choose."""
    values = [(f.name, getattr(decay, f.name)) for f in fields(decay) if f.name != "name"]
    if isinstance(decay, Plateau):  # the two that people tune
        values = [("patience_epochs", decay.patience_epochs), ("factor", decay.factor)]
    inside = ", ".join(f"{key}={_plain(value)}" for key, value in values)
    return f"{decay.name}({inside})" if inside else decay.name


def decay_parameters(name: str) -> tuple[str, ...]:
    """Names of the parameters that decay `name` has."""
    return tuple(f.name for f in fields(DECAYS[name]) if f.name != "name")


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _names(kind: type) -> str:
    return ", ".join(f.name for f in fields(kind) if f.name != "name") or "none"


def _problems(r: Recipe) -> list[str]:
    """Every rule that `r` breaks. NaN breaks each rule it meets: all comparisons with it are false."""
    d = r.decay
    truths = [(key, value) for key, value in (vars(d) | vars(r)).items() if isinstance(value, bool)]
    if problems := [f"`{key}` must be a number, but got {value}." for key, value in truths if key != "nesterov"]:
        return problems
    rules: list[tuple[bool, str]] = [
        (r.optimizer in OPTIMIZERS, f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, but got {r.optimizer!r}."),
        (0 < r.peak_lr < math.inf, f"`0 < peak_lr` must hold, but got peak_lr={r.peak_lr}."),
        (0 <= r.warmup_epochs < math.inf, f"`0 <= warmup_epochs` must hold, but got {r.warmup_epochs}."),
        (0 <= r.final_frac <= 1, f"`0 <= final_frac <= 1` must hold, but got {r.final_frac}."),
        (0 <= r.momentum < 1, f"`0 <= momentum < 1` must hold, but got {r.momentum}."),
        (isinstance(r.nesterov, bool), f"`nesterov` must be true or false, but got {r.nesterov!r}."),
        (0 <= r.weight_decay < math.inf, f"`0 <= weight_decay` must hold, but got {r.weight_decay}."),
    ]
    if r.optimizer == "schedule-free-sgd":
        rules += [(r.momentum > 0, f"`0 < momentum` must hold for schedule-free-sgd, but got {r.momentum}.")]
    match d:
        case Step():
            rules += [(0 < d.every_epochs < math.inf, f"`0 < every_epochs` must hold, but got {d.every_epochs}.")]
        case MultiStep():
            rising = all(a < b for a, b in zip((0.0, *d.milestones_epochs), d.milestones_epochs, strict=False))
            rule = "`0 < milestones_epochs[0] < milestones_epochs[1] < ...` must hold"
            rules += [(rising and bool(d.milestones_epochs), f"{rule}, but got {list(d.milestones_epochs)}.")]
        case Polynomial() | HoldPower():
            rules += [(0 < d.power < math.inf, f"`0 < power` must hold, but got {d.power}.")]
        case Exponential():
            rules += [(0 < d.end_frac <= 1, f"`0 < end_frac <= 1` must hold, but got {d.end_frac}.")]
        case WSD():
            rules += [(0 < d.cooldown_frac <= 1, f"`0 < cooldown_frac <= 1` must hold, but got {d.cooldown_frac}.")]
        case Plateau():
            rules += [
                (value in known, f"`{key}` must be {' or '.join(known)}, but got {value!r}.")
                for key, value, known in (
                    ("monitor", d.monitor, ("val_loss", "top1")), ("threshold_mode", d.threshold_mode, ("rel", "abs")),
                )
            ]  # fmt: skip
            rules += [
                (isinstance(value, int) and value >= 0, f"`{key}` must be a whole number from 0, but got {value}.")
                for key, value in (("patience_epochs", d.patience_epochs), ("cooldown_epochs", d.cooldown_epochs))
            ]
            rules += [
                (d.threshold >= 0, f"`0 <= threshold` must hold, but got {d.threshold}."),
            ]
        case Constant() | Cosine() | Linear():
            pass
    if isinstance(d, HoldPower):
        rules += [(0 <= d.hold_frac < 1, f"`0 <= hold_frac < 1` must hold, but got {d.hold_frac}.")]
    if isinstance(d, Step | MultiStep | Plateau):
        rules += [(0 < d.factor < 1, f"`0 < factor < 1` must hold, but got {d.factor}.")]
    return [message for holds, message in rules if not holds]
