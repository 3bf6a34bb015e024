"""The decays: how the LR falls after the warmup. A new one is a class here, and nothing else.

A decay states its shape as an expression, how its lengths follow the length of the run, and how
people read it. Its fields are its parameters, with their rules. The schedule evaluates the
expression, and exported code prints it. Search spaces, compression, reports and their colours ask
the class or look it up in `DECAYS`.

    @dataclass(frozen=True, kw_only=True)
    class Polynomial(Decay):
        name = "polynomial"
        shape = "(1 - p) ** power"

        power: Annotated[float, above(0)] = 2.0

        def phrase(self, span: Span) -> str:
            return f"go down to {span.end} by a polynomial of power {self.power:.3g}"
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from lrtune.core.counts import count
from lrtune.core.errors import InputError
from lrtune.core.objective import Objective
from lrtune.core.options import LARGEST, above, at_least, broken_rules, fields_of, within


@dataclass(frozen=True, kw_only=True)
class Span:
    """The part of a run that a decay shapes: from the end of the warmup to the end of the run."""

    warmup_epochs: float
    epochs: int
    """Of the whole run."""
    final_frac: float
    """Floor: the fraction of the peak LR at which the decay ends."""

    @property
    def decay_epochs(self) -> float:
        """Epochs after the warmup."""
        return self.epochs - self.warmup_epochs

    @property
    def end(self) -> str:
        """The floor in words: `10 % of the peak`, `zero`."""
        return f"{100 * self.final_frac:.3g} % of the peak" if self.final_frac else "zero"

    @property
    def floor(self) -> str:
        """The floor of a decay that may not reach it: `, above a floor of 10 % of the peak`."""
        return f", above a floor of {self.end}" if self.final_frac else ""


@dataclass(frozen=True, kw_only=True)
class Decay(ABC):
    """How the LR falls after the warmup. Lengths are in epochs; their names end in `_epochs`."""

    name: ClassVar[str]
    """What users call it."""
    shape: ClassVar[str]
    """The multiplier after the warmup, as an expression. It never rises, and lies within [0, 1].

    It may use `p`, the share of the decay that is done, and `step`, which counts from the start of
    training. `p` is in [0, 1): 0 for the first step after the warmup, and never 1, because the last
    step is trained too. Besides, there are the decay's parameters, what `where` defines, and the
    modules `math` and `bisect`. The floor is applied to its value. It is empty for a decay that
    follows the metrics of the run.
    """
    is_searched: ClassVar[bool] = True
    """Whether recipes are made with it; else only a training command has it."""
    where: ClassVar[Mapping[str, str]] = {}
    """Constants that `shape` uses, each an expression in the constants before it, the decay's
    parameters, `epochs` and `steps_per_epoch`."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def label(self) -> str:
        """`step(every_epochs=3, factor=0.1)`, or just the name where it has no parameters."""
        return _label(self.name, self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `decay_from_dict` reads them back."""
        return {"name": self.name} | self.parameters

    def scaled(self, scale: float) -> Self:
        """The decay for a run of `scale` times the length."""
        kind: type = type(self)
        lengths = {
            field.name: _scaled(getattr(self, field.name), scale, whole=field.kind is int)
            for field in fields_of(kind)
            if is_length(field.name)
        }
        return replace(self, **lengths)

    @abstractmethod
    def phrase(self, span: Span) -> str:
        """What to do after the warmup, as the end of a sentence for people."""

    def problems_at(self, steps_per_epoch: int) -> list[str]:
        """The rules that it breaks in a run with so many optimizer steps an epoch."""
        return []


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Half a cosine, without restarts (torch's `CosineAnnealingLR`)."""

    name = "cosine"
    shape = "(1 + math.cos(math.pi * p)) / 2"  # Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        return f"follow half a cosine down to {span.end}"


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """A straight line to the floor (torch's `LinearLR` with `end_factor=0`)."""

    name = "linear"
    shape = "1 - p"  # Defazio et al. 2023, arXiv 2310.07831

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        return f"go down in a straight line to {span.end}"


@dataclass(frozen=True, kw_only=True)
class WSD(Decay):
    """Warmup-stable-decay: constant, then a cooldown by 1-sqrt (arXiv 2405.18392)."""

    name = "wsd"
    where: ClassVar = {"hold": "1 - cooldown_frac"}
    shape = "1.0 if p < hold else 1 - math.sqrt((p - hold) / (1 - hold))"

    cooldown_frac: Annotated[float, within(0, 1, "(]")] = 0.2
    """Length of the cooldown as a fraction of the steps after the warmup. The paper counts all
    steps."""

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        cooldown = count(self.cooldown_frac * span.decay_epochs, "epoch")
        return f"hold it, and cool down by 1 − √x over the last {cooldown} to {span.end}"


@dataclass(frozen=True, kw_only=True)
class HoldPower(Decay):
    """Constant for `hold_frac` of what follows the warmup, then a polynomial (arXiv 2509.19189).

    With `hold_frac=0` and `power=1` it is linear; towards `hold_frac=1` it is constant.
    """

    name = "hold-power"
    shape = "1.0 if p < hold_frac else (1 - (p - hold_frac) / (1 - hold_frac)) ** power"

    hold_frac: Annotated[float, within(0, 1, "[)")] = 0.5
    power: Annotated[float, above(0)] = 1.0

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        held_epochs = self.hold_frac * span.decay_epochs
        hold = f"hold it for {count(held_epochs, 'epoch')}, and " if held_epochs else ""
        line = f"by a polynomial of power {self.power:.3g}"
        return f"{hold}go down to {span.end} {'in a straight line' if self.power == 1 else line}"


def _is_monitor(name: str, value: str) -> str:
    try:
        Objective.parse(value)
    except InputError:
        return f"`{name}` must be a metric whose direction is known, or NAME:max or NAME:min"
    return ""


@dataclass(frozen=True, kw_only=True)
class Plateau(Decay):
    """Times `factor` after more than `patience_epochs` epochs without progress.

    It follows the metrics of the run, as torch's `ReduceLROnPlateau` does; `schedules.plateau` has
    its rule.
    """

    name = "plateau"
    shape = ""

    monitor: Annotated[str, _is_monitor] = "val_loss"
    """Name of the metric, with `:max` or `:min` where the name does not tell its direction."""
    factor: Annotated[float, within(0, 1, "()")] = 0.1
    patience_epochs: Annotated[int, at_least(0)] = 3
    threshold: Annotated[float, at_least(0)] = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown_epochs: Annotated[int, at_least(0)] = 0

    @property
    def label(self) -> str:
        """Its name, and the two parameters that people tune."""
        return _label(self.name, {"patience_epochs": self.patience_epochs, "factor": self.factor})

    def scaled(self, scale: float) -> Self:
        """The same rule for a run of `scale` times the length, in whole epochs.

        The LR falls after `patience_epochs + 1` bad epochs in a row, so that number is scaled, to
        the nearest whole one from 1 up, and the cooldown to the nearest one from 0 up.
        """
        return replace(
            self,
            patience_epochs=max(1, round((self.patience_epochs + 1) * scale)) - 1,
            cooldown_epochs=round(self.cooldown_epochs * scale),
        )

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        monitored = Objective.parse(self.monitor).title
        patience = count(self.patience_epochs, "epoch")
        waiting = f"after more than {patience} without a better {monitored}"
        return f"multiply it by {self.factor:.3g} {waiting}{span.floor}"


@dataclass(frozen=True, kw_only=True)
class StepDecay(Decay):
    """Times `factor` every `every_epochs`, from the start of training (torch's `StepLR`).

    Each drop falls on the nearest step. Those that lie in the warmup take effect together when it
    ends.
    """

    name = "step"
    where: ClassVar = {
        "num_drops": "math.ceil(epochs / every_epochs)",
        "drops": "[round(n * every_epochs * steps_per_epoch) for n in range(1, num_drops + 1)]",
    }
    shape = "factor ** bisect.bisect(drops, step)"

    every_epochs: Annotated[float, above(0)]
    factor: Annotated[float, within(0, 1, "()")] = 0.1

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        interval = count(self.every_epochs, "epoch")
        return f"multiply it by {self.factor:.3g} every {interval}{span.floor}"

    def problems_at(self, steps_per_epoch: int) -> list[str]:
        """See `Decay.problems_at`."""
        if self.every_epochs >= 1 / steps_per_epoch:
            return []
        return [
            f"`every_epochs` must be at least one optimizer step, 1/{steps_per_epoch} of an epoch, "
            f"but got every_epochs={self.every_epochs:g}."
        ]


@dataclass(frozen=True, kw_only=True)
class Constant(Decay):
    """The peak LR to the end."""

    name = "constant"
    shape = "1.0"

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        if span.warmup_epochs:
            return "hold it to the end"
        return "hold it from the first step to the last"


@dataclass(frozen=True, kw_only=True)
class Polynomial(Decay):
    """A power of what is left of the decay (torch's `PolynomialLR`)."""

    name = "polynomial"
    shape = "(1 - p) ** power"

    power: Annotated[float, above(0)] = 2.0

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        return f"go down to {span.end} by a polynomial of power {self.power:.3g}"


MOST_MILESTONES = 1000


def _is_rising(name: str, value: tuple[float, ...]) -> str:
    if len(value) > MOST_MILESTONES:
        return f"`{name}` must have at most {MOST_MILESTONES} entries"
    rising = bool(value) and all(a < b for a, b in pairwise((0.0, *value, LARGEST)))
    return "" if rising else f"`0 < {name}[0] < {name}[1] < ...` must hold"


@dataclass(frozen=True, kw_only=True)
class MultiStep(Decay):
    """Times `factor` at each milestone, counted from the start of training (`MultiStepLR`).

    Each milestone falls on the nearest step. Those that lie in the warmup take effect together when
    it ends, and those behind the end of the run never do.
    """

    name = "multistep"
    where: ClassVar = {"drops": "[round(epoch * steps_per_epoch) for epoch in milestones_epochs]"}
    shape = "factor ** bisect.bisect(drops, step)"

    milestones_epochs: Annotated[tuple[float, ...], _is_rising]
    factor: Annotated[float, within(0, 1, "()")] = 0.1

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        *most, last = (f"{epoch:.4g}" for epoch in self.milestones_epochs)
        listed = f"epochs {', '.join(most)} and {last}" if most else f"epoch {last}"
        return f"multiply it by {self.factor:.3g} after {listed}{span.floor}"


@dataclass(frozen=True, kw_only=True)
class Exponential(Decay):
    """The same factor for each step (`ExponentialLR` with `gamma = end_frac ** (1 / steps)`)."""

    name = "exponential"
    shape = "end_frac ** p"

    end_frac: Annotated[float, within(0, 1, "(]")] = 0.01

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        share = span.final_frac + (1 - span.final_frac) * self.end_frac
        return f"decay exponentially to {100 * share:.3g} % of the peak"


@dataclass(frozen=True, kw_only=True)
class Own(Decay):
    """The LRs that a training command sets by itself, whatever they are."""

    name = "own"
    shape = "1.0"
    is_searched = False

    @property
    def label(self) -> str:
        """In a recipe's line."""
        return "its own schedule"

    def phrase(self, span: Span) -> str:
        """See `Decay.phrase`."""
        return "leave the LR to the command"


DECAYS: dict[str, type[Decay]] = {
    kind.name: kind for kind in Decay.__subclasses__() if kind.is_searched
}
"""By name, in the order of their definition: the common ones first, which also have the colours
that are told apart best. It is looked up when needed and never copied."""


def is_length(parameter: str) -> bool:
    """Whether a parameter of a recipe or a decay is a length in epochs."""
    return parameter.endswith("_epochs")


def decay_parameters(name: str) -> tuple[str, ...]:
    """Names of the parameters that decay `name` has."""
    return tuple(field.name for field in fields(DECAYS[name]))


def missing_parameters(name: str, given: Mapping[str, Any]) -> list[str]:
    """Names of the parameters that decay `name` needs and that are not among the given ones."""
    kind: type = DECAYS[name]
    needed = (field.name for field in fields_of(kind) if field.default is MISSING)
    return [parameter for parameter in needed if parameter not in given]


def decay_from_dict(values: Mapping[str, Any]) -> Decay:
    """A decay from `{"name": ..., parameters}`.

    Raises:
        InputError: there is no such decay, a parameter is unknown or missing, or it breaks a rule.
    """
    name = values.get("name")
    if name == Own.name:
        return Own()
    if not isinstance(name, str) or name not in DECAYS:
        raise InputError(f"`decay` must be one of {', '.join(DECAYS)}, but got {name!r}.")
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if key != "name"
    }
    known = decay_parameters(name)
    problems = [
        f"decay {name!r} has no parameter {key!r}; it has {', '.join(known) or 'none'}."
        for key in sorted(given.keys() - set(known))
    ]
    problems += [f"decay {name!r} needs {key!r}." for key in missing_parameters(name, given)]
    problems += broken_rules(DECAYS[name], given).values()
    if problems:
        raise InputError(problems)
    return DECAYS[name](**given)


def _scaled(value: Any, scale: float, *, whole: bool) -> Any:
    if isinstance(value, tuple):
        return tuple(item * scale for item in value)
    return round(value * scale) if whole else value * scale


def _label(name: str, parameters: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{key}={_shown(value)}" for key, value in parameters.items())
    return f"{name}({inside})" if inside else name


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
