"""A recipe: everything about the optimizer and its learning rate that a search may choose.

Lengths are in epochs of the run that the recipe is meant for, fractions are of the steps *after*
warmup.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, cast, get_args

from lrtune.core.errors import InputError, Problems
from lrtune.core.objective import Objective
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
class StepDecay:
    """Times `factor` every `every_epochs`, from the start of training (torch's `StepLR`)."""

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
    """`end_frac ** p`: a constant factor for each step (`ExponentialLR`)."""

    name: Literal["exponential"] = "exponential"
    end_frac: float = 0.01


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Warmup-stable-decay: constant, then a 1-sqrt cooldown (arXiv 2405.18392).

    The cooldown takes the last `cooldown_frac`.
    """

    name: Literal["wsd"] = "wsd"
    cooldown_frac: float = 0.2


@dataclass(frozen=True, kw_only=True)
class HoldPower:
    """Constant for `hold_frac`, then `(1 - x) ** power` (arXiv 2509.19189)."""

    name: Literal["hold-power"] = "hold-power"
    hold_frac: float = 0.5
    power: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Times `factor` after more than `patience_epochs` epochs without progress.

    It is torch's `ReduceLROnPlateau`.
    """

    name: Literal["plateau"] = "plateau"
    monitor: str = "val_loss"
    """Name of the metric, with `:max` or `:min` where the name does not tell its direction."""
    factor: float = 0.1
    patience_epochs: int = 3
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown_epochs: int = 0


Decay = (
    Constant
    | StepDecay
    | MultiStep
    | Cosine
    | Linear
    | Polynomial
    | Exponential
    | WSD
    | HoldPower
    | Plateau
)
DECAYS: dict[str, type[Decay]] = {
    str(kind.__dataclass_fields__["name"].default): kind for kind in get_args(Decay)
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One point of the search space.

    Raises `InputError`, all broken rules at once, when built impossible.
    """

    optimizer: OptimizerName = "sgd"
    peak_lr: float = 0.1
    """LR after warmup, of the parameter group whose ratio is 1."""
    warmup_epochs: float = 0.0
    """Linear warmup, stepped per optimizer step; may be fractional."""
    decay: Decay = field(default_factory=Cosine)
    final_frac: float = 0.0
    """Floor: the decay ends at this fraction of the peak LR (for plateau: it never goes below)."""
    momentum: float = 0.9
    """Of SGD, and the beta of Schedule-Free SGD, which must not be 0; the other optimizers keep
    their own."""
    nesterov: bool = True
    """Of SGD."""
    weight_decay: float = 0.0
    group_scales: tuple[tuple[str, float], ...] = ()
    """Of named parameter groups, in the order of their names, the group's LR as a multiple of
    `peak_lr`; it takes the place of the `lr_scale` that the task gives the group."""

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise InputError(problems)

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __hash__(self) -> int:  # of every recipe of a study, at each question
        return self._hash

    def __getstate__(
        self,
    ) -> dict[str, Any]:  # the hash of a word is another one in another process
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
        parts += [f"{name} x {scale:.3g}" for name, scale in self.group_scales]
        return ", ".join(parts)

    @property
    def uses_nesterov(self) -> bool:
        """Whether SGD is Nesterov's: torch refuses it without momentum."""
        return self.nesterov and self.momentum > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self) | {"group_scales": dict(self.group_scales)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain values.

        Raises:
            InputError: an unknown key, a missing one, or an impossible value.
        """
        values, problems = dict(values), Problems()
        given, decay = values.pop("decay", "cosine"), cast(Decay, Cosine())
        with problems.gather():
            if not isinstance(given, str | Mapping):
                raise InputError(
                    f"`decay` must be a name, or a table with a name, but got {given!r}."
                )
            decay = decay_from_dict({"name": given} if isinstance(given, str) else given)
        scales = values.pop("group_scales", {})
        if isinstance(scales, Mapping):
            values["group_scales"] = tuple(sorted(scales.items()))
        else:
            problems.append(f"`group_scales` must be a table of numbers, but got {scales!r}.")
        field_names = {f.name for f in fields(Recipe)}
        for key in sorted(values.keys() - field_names):
            problems.append(f"unknown key {key!r} in a recipe; it has {_names(Recipe)}.")
        with problems.gather():
            recipe = Recipe(
                decay=decay, **{key: value for key, value in values.items() if key in field_names}
            )
        problems.raise_any()
        return recipe


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe that is compared with others."""

    name: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A group of the parameters that a task trains."""

    name: str
    """Its own, or else its number."""
    lr_scale: float = 1.0
    """Its LR as a multiple of the peak LR."""


def scaled_groups(recipe: Recipe, groups: Sequence[ParameterGroup]) -> tuple[ParameterGroup, ...]:
    """The groups with the scales that the recipe has for them.

    Raises:
        InputError: the recipe scales a group that is not there.
    """
    if problems := group_problems((name for name, _ in recipe.group_scales), groups):
        raise InputError(problems)
    scales = dict(recipe.group_scales)
    return tuple(replace(g, lr_scale=scales.get(g.name, g.lr_scale)) for g in groups)


def group_problems(names: Iterable[str], groups: Sequence[ParameterGroup]) -> list[str]:
    """A message for each name that is not the name of a parameter group."""
    existing = [group.name for group in groups]
    has = f"has the groups {', '.join(existing)}" if len(existing) > 1 else "has no named groups"
    return [
        f"`group_scales.{name}` must name a parameter group, but the training {has}."
        for name in names
        if name not in existing or len(existing) < 2
    ]


def default_recipe(optimizer: OptimizerName) -> Recipe:
    """Returns the customary LR and weight decay of an optimizer, with a cosine.

    Those that need no schedule hold their LR. Schedule-Free (arXiv 2405.15682) warms up for half an
    epoch, since its authors recommend a warmup; its SGD at an LR of 1 takes steps as long as those
    of SGD at 0.1 with a momentum of 0.9. The authors of Prodigy (arXiv 2306.06101) recommend an LR
    of 1, and no schedule or a cosine.
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

    The LR is the peak, whatever the schedule: AdaBound reads its base LR when it is built. To
    Schedule-Free a warmup of the LR is the same as its own `warmup_steps`. Prodigy goes without its
    `safeguard_warmup`: with it, the LR that it finds by itself falls with the one it is given, down
    to no training at a tenth, and a warmup trains no better.
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
    if not isinstance(name, str) or name not in DECAYS:
        raise InputError(f"`decay` must be one of {', '.join(DECAYS)}, but got {name!r}.")
    kind: Callable[..., Decay] = DECAYS[name]
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if key != "name"
    }
    parameters = {f.name: f.default is MISSING for f in fields(DECAYS[name]) if f.name != "name"}
    problems = [
        f"decay {name!r} has no parameter {key!r}; it has {_names(DECAYS[name])}."
        for key in sorted(given.keys() - parameters.keys())
    ]
    problems += [
        f"decay {name!r} needs {key!r}."
        for key, needed in parameters.items()
        if needed and key not in given
    ]
    problems += _broken_rules({key: value for key, value in given.items() if key in parameters})
    if problems:
        raise InputError(problems)
    return kind(**given)


def length_problems(recipe: Recipe, epochs: int) -> list[str]:
    """Messages for a recipe whose warmup does not fit into a run of `epochs` epochs."""
    if recipe.warmup_epochs < epochs:
        return []
    rule = "`warmup_epochs < epochs` must hold"
    return [f"{rule}, but got warmup_epochs={recipe.warmup_epochs:g} with {epochs} epochs."]


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


def _counts(value: object) -> bool:
    return isinstance(value, int) and value >= 0


_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "peak_lr": ("`0 < peak_lr` must hold", lambda value: 0 < value < math.inf),
    "warmup_epochs": ("`0 <= warmup_epochs` must hold", lambda value: 0 <= value < math.inf),
    "final_frac": ("`0 <= final_frac <= 1` must hold", lambda value: 0 <= value <= 1),
    "momentum": ("`0 <= momentum < 1` must hold", lambda value: 0 <= value < 1),
    "weight_decay": ("`0 <= weight_decay` must hold", lambda value: 0 <= value < math.inf),
    "every_epochs": ("`0 < every_epochs` must hold", lambda value: 0 < value < math.inf),
    "factor": ("`0 < factor < 1` must hold", lambda value: 0 < value < 1),
    "power": ("`0 < power` must hold", lambda value: 0 < value < math.inf),
    "end_frac": ("`0 < end_frac <= 1` must hold", lambda value: 0 < value <= 1),
    "cooldown_frac": ("`0 < cooldown_frac <= 1` must hold", lambda value: 0 < value <= 1),
    "hold_frac": ("`0 <= hold_frac < 1` must hold", lambda value: 0 <= value < 1),
    "threshold": ("`0 <= threshold` must hold", lambda value: value >= 0),
    "patience_epochs": ("`patience_epochs` must be a whole number from 0", _counts),
    "cooldown_epochs": ("`cooldown_epochs` must be a whole number from 0", _counts),
}
"""What each number of a recipe must be. NaN breaks each of these rules: all comparisons with it are
false."""
_WORDS = {
    "optimizer": OPTIMIZERS,
    "threshold_mode": ("rel", "abs"),
}


def _problems(r: Recipe) -> list[str]:
    """Every rule that `r` breaks."""
    problems = _broken_rules({f.name: getattr(r, f.name) for f in fields(r)})
    if r.optimizer == "schedule-free-sgd" and r.momentum == 0:
        problems.append(f"`0 < momentum` must hold for schedule-free-sgd, but got {r.momentum}.")
    if isinstance(r.decay, Decay):
        return problems + _broken_rules(vars(r.decay))
    return [
        *problems,
        "`decay` must be one of the decays of lrtune.core.recipe, such as `Cosine()`, but got "
        f"{r.decay!r}.",
    ]


def _broken_rules(values: Mapping[str, Any]) -> list[str]:
    """Those that values break, each by itself."""
    return [
        f"{rule}, but got {list(value) if isinstance(value, tuple) else value!r}."
        for key, value in values.items()
        if (rule := _broken_rule(key, value))
    ]


def _broken_rule(key: str, value: Any) -> str:
    """Empty where `value` breaks none."""
    if key in _WORDS:
        return "" if value in _WORDS[key] else f"`{key}` must be one of {', '.join(_WORDS[key])}"
    if key == "monitor":
        return _monitor_rule(value)
    if key == "group_scales":
        return _scales_rule(value)
    if key == "nesterov":
        return "" if isinstance(value, bool) else "`nesterov` must be true or false"
    if key == "milestones_epochs":
        if not isinstance(value, tuple | list) or not all(map(_is_number, value)):
            return "`milestones_epochs` must be a list of numbers"
        rising = bool(value) and all(a < b for a, b in pairwise((0.0, *value)))
        return "" if rising else "`0 < milestones_epochs[0] < milestones_epochs[1] < ...` must hold"
    if key not in _NUMBERS:
        return ""
    rule, holds = _NUMBERS[key]
    if not _is_number(value):
        return f"`{key}` must be a number"
    return "" if holds(value) else rule


def _monitor_rule(value: object) -> str:
    if not isinstance(value, str):
        return "`monitor` must be the name of a metric"
    try:
        Objective.parse(value)
    except InputError:
        return "`monitor` must be a metric whose direction is known, or NAME:max or NAME:min"
    return ""


def _scales_rule(value: object) -> str:
    pairs = value if isinstance(value, tuple) else ()
    if value != tuple(pair for pair in pairs if isinstance(pair, tuple) and len(pair) == 2):
        return "`group_scales` must be pairs of a group's name and a number"
    names = [name for name, _ in pairs]
    if not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
        return "`group_scales` must have each group's name once, in the order of the names"
    if not all(_is_number(scale) and 0 < scale < math.inf for _, scale in pairs):
        return "`0 < scale` must hold for each of `group_scales`"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
