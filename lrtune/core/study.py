"""A study: what was asked for, and everything that is recorded of it."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from lrtune.core.errors import InputError, quoted
from lrtune.core.objective import Objective
from lrtune.core.options import LARGEST, Conflict, Option, Options, above, at_least, within
from lrtune.core.recipe import NamedRecipe, ParameterGroup, Recipe
from lrtune.core.run import BASELINE, RunRecord
from lrtune.core.sources import SMALL_BATCH, SMALL_DATA
from lrtune.core.space import Interval

BudgetUnit = Literal["trials", "epochs", "runs", "seconds"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
SamplerName = Literal["tpe", "gp", "random", "qmc"]
PrunerName = Literal["fair", "none"]
Confirm = Literal["full", "quick", "0"]
DataOnDevice = Literal["auto", "yes", "no"]


MOST_SEEDS, LARGEST_SEED = 1000, LARGEST
"""Runs of a recipe, at most; and the largest seed."""
LARGEST_BUDGET = 1e9
"""In trials, epochs, runs or seconds: thirty years."""


@dataclass(frozen=True)
class Budget:
    """What a study may spend.

    `50` is trials of the search. `300ep` (epochs trained), `20runs` (full-length equivalents) and
    `4h` / `30min` / `90s` (time at work) cover the runs of the baseline and of the confirmation as
    well, and range tests not.
    """

    amount: float
    unit: BudgetUnit

    @staticmethod
    def parse(text: str | int) -> "Budget":
        """A budget from what people write.

        Raises:
            InputError: it is none, or nothing could be done with it.
        """
        units: dict[str, tuple[BudgetUnit, float]] = {
            "": ("trials", 1), "ep": ("epochs", 1), "runs": ("runs", 1),
            "s": ("seconds", 1), "min": ("seconds", 60), "h": ("seconds", 3600),
        }  # fmt: skip
        written = text.strip() if isinstance(text, str) else quoted(text)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", written)
        if not match or match[2] not in units:
            raise InputError(
                f"`budget` must look like 50, 300ep, 20runs, 30min or 4h, but got {quoted(text)}."
            )
        unit, scale = units[match[2]]
        amount = float(match[1]) * scale
        if not amount > 0:
            raise InputError(f"`0 < budget` must hold, but got {text!r}.")
        if unit in ("trials", "epochs") and not amount.is_integer():
            raise InputError(f"`budget` in {unit} must be whole, but got {text!r}.")
        if unit == "seconds" and amount < 1:
            raise InputError(f"`1s <= budget` must hold, but got {text!r}.")
        if amount > LARGEST_BUDGET:
            raise InputError(f"`budget <= {LARGEST_BUDGET:.0f}` must hold, but got {text!r}.")
        return Budget(amount, unit)

    def __str__(self) -> str:
        """All digits of it, without an exponent: `parse` reads it back as it is."""
        amount = Decimal(str(self.amount))
        suffix = {"trials": "", "epochs": "ep", "runs": "runs", "seconds": "s"}[self.unit]
        if self.unit == "seconds":
            for longer, scale in (("h", 3600), ("min", 60)):
                if amount % scale == 0:
                    amount, suffix = amount / scale, longer
                    break
        return f"{amount.normalize():f}{suffix}"


@dataclass(frozen=True)
class Look:
    """A short run of a recipe, with its whole schedule compressed to it."""

    epochs: int
    seed: int
    one_in: int
    """One recipe in so many has it."""

    @property
    def label(self) -> str:
        """`3 epochs`."""
        return f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Options):
    """How every run of a study is trained, whatever its recipe."""

    title: ClassVar[str] = "Training"
    default: ClassVar[str] = "the task's"

    batch_size: Annotated[
        int,
        at_least(1),
        Option(
            f"Examples in an optimizer step; named data of fewer than {SMALL_DATA:,} images have "
            f"{SMALL_BATCH}.",
            metavar="N",
            essential=True,
        ),
    ] = 128
    accumulate: Annotated[
        int,
        at_least(1),
        Option("Micro-batches that make up a step.", metavar="N", label="Micro-batches of a step"),
    ] = 1
    precision: Annotated[
        Precision,
        Option("Arithmetic; auto: AMP on a GPU, fp32 on a CPU; bf16: faster on a CPU with AMX."),
    ] = "auto"
    clip_norm: Annotated[
        float,
        above(0, finite=False),
        Option(
            "Clip the gradient's norm to this; inf: do not.",
            metavar="X",
            label="Largest norm of the gradient",
        ),
    ] = math.inf
    label_smoothing: Annotated[
        float,
        within(0, 1, "[)"),
        Option("Smooth the labels of the loss; 0: do not.", metavar="X"),
    ] = 0.0
    augment: Annotated[
        bool, Option("Crop and flip training images at random.", label="Augmentation by lrtune")
    ] = True
    """Flips only where left and right mean the same."""
    cutout: Annotated[
        int,
        at_least(0),
        Option("Cut a square of this side out of each training image; 0: do not.", metavar="PX"),
    ] = 0
    """arXiv 1708.04552."""
    ema_half_life_epochs: Annotated[
        float,
        at_least(0),
        Option(
            "Half-life of the averaged weights that are measured beside the raw ones; 0: none.",
            flag="--ema-half-life",
            metavar="EPOCHS",
            label="Half-life of the averaged weights, epochs",
        ),
    ] = 0.0
    device: Annotated[
        str, Option("What to train on: auto, cpu, cuda, cuda:1, ...", metavar="NAME")
    ] = "auto"
    compile: Annotated[
        bool,
        Option("Use torch.compile: slow to start, then faster.", label="Compiled model"),
    ] = False
    data_on_device: Annotated[
        DataOnDevice, Option("Keep the images on the device; auto: where they fit.")
    ] = "auto"
    """It changes no number."""
    threads: Annotated[
        int,
        at_least(0),
        Option("CPU threads of a run; 0: its share of the cores.", metavar="N", default="0"),
    ] = 0
    """A setting, since it moves the last bits of the numbers."""

    def conflicts(self) -> Iterator[Conflict]:
        """A batch that cannot be divided into its micro-batches."""
        yield from super().conflicts()
        if self.batch_size % self.accumulate:
            yield Conflict(
                ("batch_size", "accumulate"),
                "`batch_size` must be a multiple of `accumulate`, but got "
                f"{self.batch_size} and {self.accumulate}.",
            )


@dataclass(frozen=True, kw_only=True)
class Repetition(Options):
    """How often a recipe is trained, and what its runs are measured against."""

    title: ClassVar[str] = "Study"

    seed: Annotated[
        int, within(0, LARGEST_SEED), Option("Seed of everything random.", metavar="N")
    ] = 0
    num_seeds: Annotated[
        int,
        within(1, MOST_SEEDS),
        Option(
            "Runs of the baseline and of each recipe that is confirmed or compared, each with a "
            "fresh seed.",
            flag="--seeds",
            metavar="N",
            label="Seeds of each recipe",
        ),
    ] = 3
    target: Annotated[
        float | None,
        Option(
            "Value of the metric at which a run has converged.",
            default="the baseline's median",
            metavar="VALUE",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SearchRules(Repetition):
    """How a search chooses recipes, and which of their runs it ends early."""

    title: ClassVar[str] = "Search"

    sampler: Annotated[
        SamplerName,
        Option("What suggests recipes; tpe and gp learn from the trials, random and qmc do not."),
    ] = "tpe"
    pruner: Annotated[
        PrunerName,
        Option(
            "fair: short looks at each recipe, and full runs of the best alone; none: a full run "
            "of each."
        ),
    ] = "fair"
    rank_by: Annotated[
        str | None,
        Option(
            "What looks are ranked by.",
            default="the validation loss where the metric is a score, else the metric",
            metavar="NAME[:max|:min]",
            label="Looks are ranked by",
        ),
    ] = None
    lag: Annotated[
        int,
        within(1, MOST_SEEDS),
        Option(
            "A recipe is suggested from the trials that are at least so many before it, so that as "
            "many can be looked at side by side and any number of workers gives the same study.",
            metavar="N",
            label="Trials by which the sampler lags",
        ),
    ] = 8
    confirm: Annotated[
        Confirm,
        Option(
            "Proof by full runs with fresh seeds; full: a race of the best recipes against the "
            "baseline; quick: one run of the best and one of the baseline; 0: no proof.",
            label="Proof",
        ),
    ] = "full"
    matters: Annotated[
        float | None,
        above(0),
        Option(
            "Smallest difference of the metric that matters: what is nearer is not told apart.",
            default="the standard deviation of a run over seeds",
            metavar="X",
            label="Smallest difference that matters",
        ),
    ] = None


RULES = 3
"""A higher number means that a study of the number before cannot be continued. 1: version 0.1.0;
2: rungs."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig(SearchRules):
    """What was asked for: enough to go on with the study in a new process."""

    name: str
    task: Mapping[str, Any]
    """Where the task comes from: `{"data": ..., "model": ...}`, `{"file": ...}` or `{"python":
    ...}`."""
    space_name: str
    space_toml: str
    epochs: int
    """Horizon of every full run."""
    own_epochs: int = 0
    """Horizon of the baseline where it is a command that trains longer; 0: that of the others."""
    steps_per_epoch: int
    """Optimizer steps."""
    objective: Objective = field(default_factory=Objective)
    """The metric that decides."""
    paired: bool = True
    """Whether runs of one seed are alike: whether the training can repeat a run."""
    follows: bool = True
    """Whether LRs can follow the metrics of a run; if not, plateau decays are left out."""
    num_validation: int = 0
    """Validation examples; 0 where their number is unknown."""
    data_facts: Mapping[str, str] = field(default_factory=dict)
    """What was taken for what in the data when the study began, by what people call it."""
    groups: tuple[ParameterGroup, ...] = ()
    """Parameter groups with their own share of the peak LR; empty where there is only one."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    budget: Budget = field(default_factory=lambda: Budget(50, "trials"))
    looks: tuple[Look, ...] = ()
    """Short runs of a recipe, in their order; without any, recipes are trained in full."""
    max_seeds: int = 1
    """Runs of those that `num_seeds` do not tell apart; below `num_seeds`: no more than those."""
    baseline: Recipe
    """What the user has today."""
    tried: tuple[Recipe, ...] = ()
    """What a search tries first after the baseline, moved into its space."""
    recipes: tuple[NamedRecipe, ...] = ()
    """Of a comparison, which has no search; the first of them is its baseline."""
    command: str = ""
    """What its user typed to begin it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Hardware and versions that it was begun on."""
    rules: int = RULES
    """The rules of search that it was begun under; under others it can be read, but not continued.
    """

    def horizon_of(self, trial: int) -> int:
        """Epochs of the full runs of a trial, or of the baseline."""
        return (self.own_epochs or self.epochs) if trial == BASELINE else self.epochs

    @property
    def ranked_by(self) -> Objective:
        """What looks are ranked by."""
        if self.rank_by in (None, str(self.objective)):
            return self.objective
        return Objective.parse(str(self.rank_by))

    def num_seen(self, number: int) -> int:
        """How many of the first trials the sampler sees when it suggests trial `number`."""
        return max(0, number - self.lag + 1) if self.sampler in ("tpe", "gp") else 0

    @property
    def is_comparison(self) -> bool:
        """Whether it compares recipes that were named, and searches for none."""
        return bool(self.recipes)


@dataclass(frozen=True, kw_only=True)
class RangeCurve:
    """One sweep of a range test: raw loss at each LR, cut where it was stopped."""

    seed: int
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    """Same length as `lrs`; finite."""
    diverged: bool
    """Whether the sweep was stopped by its loss, and not by its end."""


@dataclass(frozen=True, kw_only=True)
class RangeResult:
    """What a range test found for one optimizer: an interval, or no signal and why."""

    optimizer: str
    curves: tuple[RangeCurve, ...] = field(repr=False)
    interval: Interval | None
    rule: str
    """The rule that gave the interval, in words."""
    reason: str = ""
    """Why there is no signal; empty where there is an interval."""
    suggestions: Mapping[str, float] = field(default_factory=dict)
    """What each of the classic rules says on the same curves; a rule that found nothing is absent.
    """


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """A study at one moment: the plan, the display and the report are functions of it."""

    config: StudyConfig
    range_results: tuple[RangeResult, ...] = ()
    records: tuple[RunRecord, ...] = ()

    def of_kind(self, kind: str) -> tuple[RunRecord, ...]:
        """The runs of one kind, in the order of their planning."""
        return tuple(record for record in self.records if record.run.kind == kind)

    @property
    def fresh(self) -> tuple[RunRecord, ...]:
        """The runs with fresh seeds: those of the baseline, then those of the confirmation."""
        return self.of_kind("baseline") + self.of_kind("confirm")

    @cached_property
    def epochs_trained(self) -> int:
        """Epochs that all runs cost."""
        return sum(record.epochs_trained for record in self.records)

    @cached_property
    def busy_seconds(self) -> float:
        """Time in which at least one run was training; pauses between sessions do not count."""
        measured = (m for record in self.records for m in record.measurements if not m.reused)
        spans = sorted((m.ended_at - m.seconds, m.ended_at) for m in measured)
        total, end = 0.0, -math.inf
        for start, stop in spans:
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total

    def spent(self, unit: BudgetUnit) -> float:
        """How much of a budget in `unit` is gone."""
        match unit:
            case "trials":
                return len({r.run.trial for r in self.records if r.run.is_of_search})
            case "epochs":
                return self.epochs_trained
            case "runs":
                return self.epochs_trained / self.config.epochs
            case "seconds":
                return self.busy_seconds
