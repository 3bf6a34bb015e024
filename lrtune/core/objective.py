"""The objective: the metric that decides, and which of two of its values is the better one.

This is the only module that knows a metric's direction, or that Top-1 is a percentage. The rules
compare *scores*, and a higher score is always better: it is the value of a metric that is
maximised, and the negative of a metric that is minimised.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal, TypeVar

from lrtune.core.errors import InputError, quoted
from lrtune.core.options import LARGEST
from lrtune.core.printing import is_name

T = TypeVar("T")
Direction = Literal["max", "min"]
Metrics = Mapping[str, float]
"""Values by name: `train_loss`, `val_loss`, `top1`, `r2`, ... A value may be nan."""

UNKNOWN = "–"
"""Stands for a value that is not known (nan)."""
TOP1 = "top1"
_WORDS: dict[str, Direction] = {
    **dict.fromkeys(
        ("loss", "error", "err", "mse", "mae", "rmse", "mape", "perplexity", "ppl", "nll", "bpb",
         "bpc", "wer", "cer"),
        "min",
    ),
    **dict.fromkeys(
        ("top1", "top5", "acc", "accuracy", "f1", "auc", "auroc", "map", "iou", "miou", "r2",
         "precision", "recall", "dice", "bleu", "rouge", "kappa", "mcc", "psnr", "ssim", "score",
         "reward"),
        "max",
    ),
}  # fmt: skip
"""Words in the name of a metric that tell its direction."""
_TITLES = {TOP1: "Top-1", "val_loss": "validation loss", "train_loss": "training loss"}
_PERCENT = (TOP1, "top5")
PERCENT_TOLERANCE = 0.2
RELATIVE_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric and its direction, and what is known of the metric's values.

    Raises:
        InputError: the direction is neither `max` nor `min`, or the name is empty.

    Example:
        >>> Objective.parse("val_loss").score({"val_loss": 0.25})
        -0.25
    """

    metric: str = TOP1
    direction: Direction = "max"
    num_counted: int = 0
    """The number of validation examples, for a metric that is the percentage of them that are
    right; 0 for any other metric, or where the number is unknown."""
    guessing: float | None = None
    """The value that guessing gives, where there is one."""
    constant: float | None = None
    """The value of the best constant prediction, where it is known."""

    def __post_init__(self) -> None:
        problems = []
        if not is_name(self.metric) or ":" in self.metric:
            problems.append(
                "a metric's name must be a text of one line without hidden characters, colons, or "
                f"blanks at its ends, but got {quoted(self.metric)}."
            )
        if self.direction not in ("max", "min"):
            problems.append(f"a metric's direction must be max or min, but got {self.direction!r}.")
        if problems:
            raise InputError(problems)

    @staticmethod
    def parse(text: str) -> "Objective":
        """Reads `NAME`, `NAME:max` or `NAME:min`; usual names know their direction.

        Raises:
            InputError: the direction is not known, or is not a direction.
        """
        name, colon, direction = text.strip().rpartition(":")
        if not colon:
            name, direction = direction, ""
        name = name.strip()
        if not colon:
            directions = directions_of(name)
            if len(directions) != 1:
                rule = "a metric must say its direction where its name does not"
                raise InputError(
                    f"{rule}, but got {text!r}: write {name}:max if higher is better, or "
                    f"{name}:min if lower is."
                )
            [direction] = directions
        if direction not in ("max", "min"):
            raise InputError(f"a metric must be NAME, NAME:max or NAME:min, but got {text!r}.")
        return Objective(metric=name, direction="max" if direction == "max" else "min")

    def __str__(self) -> str:
        return f"{self.metric}:{self.direction}"

    # --- which is better

    def value(self, metrics: Metrics) -> float:
        """The metric's value; nan where it was not measured."""
        return metrics.get(self.metric, math.nan)

    def score(self, metrics: Metrics) -> float:
        """The score of what was measured, higher is better; `-inf` where it is absent or nan."""
        value = self.value(metrics)
        return -math.inf if math.isnan(value) else self.signed(value)

    def signed(self, value: float) -> float:
        """A value as a score, or a score as a value; differences likewise."""
        return value if self.direction == "max" else -value

    def best(self, values: Iterable[float]) -> float:
        """The best of some values; nan where none of them is a number."""
        numbers = [value for value in values if not math.isnan(value)]
        return max(numbers, key=self.signed, default=math.nan)

    def reached(self, value: float, target: float) -> bool:
        """Whether a value is at least as good as the target; nan reaches nothing."""
        return self.signed(value) >= self.signed(target)

    def improves(
        self, value: float, best: float, *, threshold: float = 0.0, relative: bool = False
    ) -> bool:
        """Whether a value is better than the best one by more than a threshold; nan never is.

        It reckons as torch's `ReduceLROnPlateau` does.

        Args:
            value: the new value.
            best: the best value so far; infinite before the first.
            threshold: the least progress that counts.
            relative: whether the threshold is a share of `best`.
        """
        if self.direction == "min":
            return value < (best * (1 - threshold) if relative else best - threshold)
        return value > (best * (1 + threshold) if relative else best + threshold)

    def ends(self, worst: T, best: T) -> tuple[T, T]:
        """The lower and the upper end of an axis, from its worst and its best end."""
        return (worst, best) if self.direction == "max" else (best, worst)

    @property
    def worst(self) -> float:
        """The value that every other one is better than."""
        return self.signed(-math.inf)

    # --- what chance explains

    @property
    def least_difference(self) -> float:
        """The least difference that an evaluation can show; 0 where it is not known."""
        return 100 / self.num_counted if self.num_counted else 0.0

    def counting_error(self, value: float) -> float:
        """The standard error of a counted percentage, `sqrt(p (1 - p) / n)`; else 0."""
        if not self.num_counted:
            return 0.0
        p = min(max(value / 100, 0.0), 1.0)
        return 100 * math.sqrt(p * (1 - p) / self.num_counted)

    def tolerance(self, value: float) -> float:
        """How near to `value` others are taken to be equal to it, for the settling epoch."""
        if self.is_percentage:
            return max(PERCENT_TOLERANCE, 2 * self.counting_error(value))
        return RELATIVE_TOLERANCE * abs(value)

    def shortfall(self, value: float) -> float:
        """How far a value is from perfect; nan where perfect is not known."""
        if self.is_percentage:
            return 100 - value
        return value if self.direction == "min" and value >= 0 else math.nan

    @property
    def trivial(self) -> float | None:
        """The better one of guessing and a constant prediction; `None` where neither is known."""
        guesses = [value for value in (self.guessing, self.constant) if value is not None]
        return self.best(guesses) if guesses else None

    # --- in words

    @property
    def is_percentage(self) -> bool:
        """Whether values are percentages of the examples."""
        return self.metric in _PERCENT

    @property
    def title(self) -> str:
        """What people call the metric."""
        return _TITLES.get(self.metric, self.metric)

    @property
    def heading(self) -> str:
        """The title as a column or an axis has it, with its unit."""
        return f"{self.title}, %" if self.is_percentage else self.title

    @property
    def difference_unit(self) -> str:
        """What follows a difference in a sentence: `+0.3 points of Top-1`, `-0.1 in f1`."""
        return f"points of {self.title}" if self.is_percentage else f"in {self.title}"

    def text(self, value: float, *, unit: bool = False) -> str:
        """A value as people read it: two decimals of a percentage, else four digits that count."""
        if math.isnan(value):
            return UNKNOWN
        if not self.is_percentage:
            return _digits(value, 4)
        return f"{value:.2f}{' %' if unit else ''}"

    def score_text(self, score: float) -> str:
        """The value of a score as people read it, without its unit."""
        return self.text(math.nan if score == -math.inf else self.signed(score))

    def summary(self, values: Sequence[float]) -> str:
        """Mean and standard deviation, `93.12 ± 0.08`, or how many of the values are nan.

        The mean stands alone where there is one value, or an infinite one: they have no spread.
        """
        if num_unknown := sum(map(math.isnan, values)):
            part = "" if num_unknown == len(values) else f"{num_unknown} of {len(values)} "
            return f"{part}diverged"
        if not values:
            return UNKNOWN
        if len(values) == 1 or any(map(math.isinf, values)):
            return self.text(fmean(values))
        spread = stdev(values)
        return f"{self.text(fmean(values))} ± " + (
            self.text(spread) if self.is_percentage else _digits(spread, 2)
        )

    def bound_text(self, target: float) -> str:
        """What a value must be to reach a target: `at least 93.00 %`."""
        return f"at {'least' if self.direction == 'max' else 'most'} {self.text(target, unit=True)}"

    def difference_text(self, difference: float, *, beside: float = 0.0) -> str:
        """A difference with its sign, and as many decimals as a larger one beside it has."""
        difference += 0.0  # a zero that is negated has no sign to show
        if self.is_percentage or not math.isfinite(difference):
            return f"{difference:+.2f}"
        return ("" if difference < 0 else "+") + _digits(difference, 3, beside=beside)

    def target_problem(self, target: Any) -> str:
        """The rule that a target breaks, and what was given; empty where it breaks none."""
        number = isinstance(target, int | float) and not isinstance(target, bool)
        if not number or not abs(target) <= LARGEST:
            return f"`target` must be a number, but got {quoted(target)}."
        if not self.is_percentage or 1 < target <= 100:
            return ""
        meant = f": did you mean {100 * target:g}?" if 0 < target <= 1 else "."
        return f"`1 < target <= 100` must hold, in percent, but got {target!r}{meant}"

    def counted(self, *, num_examples: int, num_classes: int) -> "Objective":
        """The objective with what is known of Top-1 once the data are; itself for other metrics."""
        if self.metric != TOP1:
            return self
        return replace(self, num_counted=num_examples, guessing=100 / num_classes)


def averaged(metric: str) -> str:
    """The name of a metric when the averaged weights are measured."""
    return f"averaged_{metric}"


def directions_of(name: str) -> set[Direction]:
    """The directions that the words of a metric's name tell: one, none, or a contradiction."""
    return {_WORDS[word] for word in re.split(r"[^a-z0-9]+", name.lower()) if word in _WORDS}


def _digits(value: float, num_digits: int, *, beside: float = 0.0) -> str:
    """A number with so many digits that count, without an exponent where it can do without.

    It has no more decimals than the number beside it, if that is larger.
    """
    if not math.isfinite(value):
        return f"{value}"
    size = max(abs(value), abs(beside))
    if size != 0 and not 1e-4 <= size < 1e6:
        return f"{value:.{num_digits - 1}e}"
    exponent = math.floor(math.log10(size)) if size else 0
    return f"{value:,.{max(0, num_digits - 1 - exponent)}f}"
