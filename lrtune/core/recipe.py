"""A recipe: everything about the optimizer and its learning rate that a search may choose.

Lengths are in epochs of the run that the recipe is meant for, fractions are of the steps *after*
warmup.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any
from warnings import warn

from lrtune.core import decays
from lrtune.core.decays import Cosine, Decay, Span, decay_from_dict
from lrtune.core.errors import InputError, Problems, check, quoted
from lrtune.core.optimizers import OPTIMIZERS, OWN
from lrtune.core.options import LARGEST, OneOf, above, at_least, broken_rules, within
from lrtune.core.printing import is_name, printable

TABLES = {"group_scales": "numbers", "command": "numbers and words"}
"""The fields of a recipe that are tables, and of what."""


def in_words(value: float | int | str) -> str:
    """A value of a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_optimizer(name: str, value: str) -> str:
    return "" if value == OWN else OneOf(OPTIMIZERS)(name, value)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One point of the search space.

    Raises `InputError`, all broken rules at once, when built impossible.
    """

    optimizer: Annotated[str, _is_optimizer] = "sgd"
    peak_lr: Annotated[float, above(0)] = 0.1
    """LR after warmup, of the parameter group whose ratio is 1."""
    warmup_epochs: Annotated[float, at_least(0)] = 0.0
    """Linear warmup, stepped per optimizer step; may be fractional."""
    decay: Decay = field(default_factory=Cosine)
    final_frac: Annotated[float, within(0, 1)] = 0.0
    """Floor: the decay ends at this fraction of the peak LR (for plateau: it never goes below)."""
    momentum: Annotated[float, within(0, 1, "[)")] = 0.9
    """Of SGD, and the beta of Schedule-Free SGD, which must not be 0; the other optimizers keep
    their own."""
    nesterov: bool = True
    """Of SGD."""
    weight_decay: Annotated[float, at_least(0)] = 0.0
    group_scales: tuple[tuple[str, float], ...] = ()
    """Of named parameter groups, in the order of their names, the group's LR as a multiple of
    `peak_lr`; it takes the place of the `lr_scale` that the task gives the group."""
    command: tuple[tuple[str, float | int | str], ...] = ()
    """Of a training command, what stands in the place of `{NAME}` in it, in the order of the names.
    """

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
        parts.append(self.decay.label)
        if self.final_frac:
            parts.append(f"to {self.final_frac:.3g} of peak")
        parts += [f"{name} x {scale:.3g}" for name, scale in self.group_scales]
        parts += [f"{name} {in_words(value)}" for name, value in self.command]
        return ", ".join(parts)

    def span(self, epochs: int) -> Span:
        """The part of a run of so many epochs that its decay shapes."""
        return Span(warmup_epochs=self.warmup_epochs, epochs=epochs, final_frac=self.final_frac)

    @property
    def uses_nesterov(self) -> bool:
        """Whether SGD is Nesterov's: torch refuses it without momentum."""
        return self.nesterov and self.momentum > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        own = {"decay": self.decay.to_dict(), "group_scales": dict(self.group_scales)}
        values = asdict(self) | own | {"command": dict(self.command)}
        if not self.command:  # as it was before there was any
            del values["command"]
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain values.

        Raises:
            InputError: an unknown key, a missing one, or an impossible value.
        """
        values, problems = dict(values), Problems()
        given = values.pop("decay", "cosine")
        decay: Decay = Cosine()
        with problems.gather():
            if not isinstance(given, str | Mapping):
                raise InputError(
                    f"`decay` must be a name, or a table with a name, but got {given!r}."
                )
            decay = decay_from_dict({"name": given} if isinstance(given, str) else given)
        for key, of in TABLES.items():
            table = values.pop(key, {})
            if isinstance(table, Mapping):
                values[key] = tuple(sorted(table.items()))
            else:
                problems.append(f"`{key}` must be a table of {of}, but got {table!r}.")
        field_names = [f.name for f in fields(Recipe)]
        for key in sorted(values.keys() - set(field_names)):
            problems.append(f"unknown key {key!r} in a recipe; it has {', '.join(field_names)}.")
        with problems.gather():
            recipe = Recipe(
                decay=decay, **{key: value for key, value in values.items() if key in field_names}
            )
        problems.raise_any()
        return recipe


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe that is compared with others.

    Raises:
        InputError: its name is no visible text of one line, or its recipe is none.
    """

    name: str
    recipe: Recipe

    def __post_init__(self) -> None:
        rule = "the name of a recipe must be a text of one line without hidden characters"
        check([
            (is_name(self.name), f"{rule}, but got {quoted(self.name)}."),
            (
                isinstance(self.recipe, Recipe),
                f"`recipe` must be a Recipe, but got {quoted(self.recipe)}.",
            ),
        ])  # fmt: skip


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


def scale_problems(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """A message for each parameter group whose `lr_scale` cannot be a factor of its LR."""
    return [
        f"`0 <= lr_scale` must hold in each parameter group, but got {quoted(scale)}."
        for group in groups
        if not (_is_number(scale := group.get("lr_scale", 1.0)) and scale >= 0)
    ]


def group_problems(names: Iterable[str], groups: Sequence[ParameterGroup]) -> list[str]:
    """A message for each name that is not the name of a parameter group."""
    existing = [group.name for group in groups]
    has = f"has the groups {', '.join(existing)}" if len(existing) > 1 else "has no named groups"
    return [
        f"`group_scales.{name}` must name a parameter group, but the training {has}."
        for name in names
        if name not in existing or len(existing) < 2
    ]


def default_recipe(optimizer: str) -> Recipe:
    """Returns the customary settings of an optimizer, with the decay that it is used with."""
    facts = OPTIMIZERS[optimizer]
    return Recipe(
        optimizer=optimizer,
        peak_lr=facts.peak_lr,
        warmup_epochs=facts.warmup_epochs,
        decay=facts.decay,
        weight_decay=facts.weight_decay,
    )


def optimizer_arguments(recipe: Recipe) -> dict[str, Any]:
    """What the optimizer's class is built with, besides parameters; the rest are its defaults.

    The LR is the peak, whatever the schedule: AdaBound reads its base LR when it is built.
    """
    values = {"momentum": recipe.momentum, "nesterov": recipe.uses_nesterov}
    own = {name: values[name] for name in OPTIMIZERS[recipe.optimizer].arguments}
    return {"lr": recipe.peak_lr} | own | {"weight_decay": recipe.weight_decay}


def length_problems(recipe: Recipe, epochs: int) -> list[str]:
    """Messages for a recipe whose warmup does not fit into a run of `epochs` epochs."""
    if recipe.warmup_epochs < epochs:
        return []
    rule = "`warmup_epochs < epochs` must hold"
    return [f"{rule}, but got warmup_epochs={recipe.warmup_epochs:g} with {epochs} epochs."]


def _problems(recipe: Recipe) -> list[str]:
    """Every rule that a recipe breaks."""
    values = dict(vars(recipe))
    decay, scales, command = (values.pop(key) for key in ("decay", *TABLES))
    problems = list(broken_rules(Recipe, values).values())
    for rule, table in ((_scales_rule(scales), scales), (_command_rule(command), command)):
        if rule:
            got = list(table) if isinstance(table, tuple) else table
            problems.append(f"{rule}, but got {quoted(got)}.")
    facts = OPTIMIZERS.get(recipe.optimizer) if isinstance(recipe.optimizer, str) else None
    if facts is not None and facts.needs_momentum and recipe.momentum == 0:
        problems.append(
            f"`0 < momentum` must hold for {recipe.optimizer}, but got {recipe.momentum}."
        )
    if isinstance(decay, Decay):
        problems += broken_rules(type(decay), vars(decay)).values()
    else:
        problems.append(
            "`decay` must be one of the decays of lrtune.core.decays, such as `Cosine()`, but got "
            f"{quoted(decay)}."
        )
    return problems


def _pairs_rule(value: object, key: str, each: str) -> str:
    pairs = value if isinstance(value, tuple) else (None,)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return f"`{key}` must be pairs of {each}"
    names = [name for name, _ in pairs]
    if not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
        return f"`{key}` must have each name once, in the order of the names"
    return ""


def _command_rule(value: object) -> str:
    if rule := _pairs_rule(value, "command", "a placeholder's name and a number or a word"):
        return rule
    assert isinstance(value, tuple)
    if not all(_is_number(item) or isinstance(item, str | bool) for _, item in value):
        return "`command` must have a number or a word for each placeholder"
    if not all(printable(str(item)) == str(item) for _, item in value):
        return "`command` must have words without hidden characters"
    return ""


def _scales_rule(value: object) -> str:
    if rule := _pairs_rule(value, "group_scales", "a group's name and a number"):
        return rule
    assert isinstance(value, tuple)
    pairs = value
    if not all(_is_number(scale) and scale > 0 for _, scale in pairs):
        return "`0 < scale` must hold for each of `group_scales`"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def __getattr__(name: str) -> Any:
    """The decays were defined in this module up to version 0.1.0."""
    if name in ("DECAYS", *(kind.__name__ for kind in decays.DECAYS.values())):
        warn(
            f"`{name}` is now in lrtune.core.decays: import it from there.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(decays, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
