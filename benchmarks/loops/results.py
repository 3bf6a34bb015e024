"""What was measured, as values, and the ratios, verdicts and tables computed from them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Measure = Literal["images_per_s", "trials_per_hour"]


@dataclass(kw_only=True)
class LoopResult:
    """One loop in one case; a value a round."""

    name: str
    group: str
    """Loops that differ only in the number of their workers; the best of a group stands for it."""
    images_per_s: list[float] = field(default_factory=list)
    """Training alone."""
    trials_per_hour: list[float] = field(default_factory=list)
    """Whole trials: building the model, training, evaluation after each epoch."""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """Peaks after the epochs: `process`, `with_children`, and on a GPU `gpu_allocated` and
    `gpu_reserved`."""
    problem: str = ""
    """Why there are no values, or not of both measures."""
    note: str = ""

    def take(self, measure: Measure, value: float | None) -> None:
        """Adds a round's value.

        Without one the loop has failed, and those of earlier rounds go too.
        """
        values: list[float] = getattr(self, measure)
        if value is None:
            values.clear()
        else:
            values.append(value)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Images per second that arithmetic alone, or bytes alone, would allow.

    The bytes are those of unfused operators.
    """

    by_arithmetic: float
    by_bytes: float

    @staticmethod
    def of(count: dict[str, float], ceilings: dict[str, float]) -> "Floor":
        """From what a step takes, and what the device can.

        Args:
            count: `flops` and `bytes` of a step of so many `images`.
            ceilings: `flops_per_s` and `bytes_per_s`.
        """
        return Floor(
            by_arithmetic=count["images"] * ceilings["flops_per_s"] / count["flops"],
            by_bytes=count["images"] * ceilings["bytes_per_s"] / count["bytes"],
        )


@dataclass(kw_only=True)
class CaseResult:
    """A case on one device."""

    name: str
    about: dict[str, Any] = field(default_factory=dict)
    """What was trained, and on what."""
    loops: list[LoopResult] = field(default_factory=list)
    step: dict[str, float] = field(default_factory=dict)
    """`images`, `flops` and `bytes` of one training step."""
    floor: Floor | None = None

    def best(self, group: str, measure: Measure) -> LoopResult | None:
        """The loop of the group with the highest median; `None` where none went through."""
        through = [loop for loop in self.loops if loop.group == group and getattr(loop, measure)]
        return max(through, key=lambda loop: median(getattr(loop, measure)), default=None)

    def ratios(self, ours: str, theirs: Iterable[str], measure: Measure) -> list[float]:
        """Of each round, the best of `ours` over the best of the groups `theirs`.

        Empty where one is missing.
        """
        mine = self.best(ours, measure)
        others = [loop for group in theirs if (loop := self.best(group, measure))]
        if mine is None or not others:
            return []
        other = max(others, key=lambda loop: median(getattr(loop, measure)))
        return [a / b for a, b in zip(getattr(mine, measure), getattr(other, measure), strict=True)]

    def shares_of_floor(self, group: str) -> list[float]:
        """Of each round, images per second over what the bytes would allow."""
        loop = self.best(group, "images_per_s")
        return (
            [value / self.floor.by_bytes for value in loop.images_per_s]
            if loop and self.floor
            else []
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was set out for, on one kind of device in one case."""

    device: str
    case: str
    text: str
    values: Callable[[CaseResult], list[float]]
    """One a round."""
    statistic: Callable[[Sequence[float]], float] = median
    at_least: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a target was met."""

    case: str
    text: str
    at_least: float
    value: float | None
    """`None`: not measured."""
    synthetic: bool

    @property
    def met(self) -> bool | None:
        """`None`: not measured."""
        return None if self.value is None else self.value >= self.at_least

    def __str__(self) -> str:
        word = {True: "met", False: "NOT met", None: "not measured"}[self.met]
        value = "" if self.value is None else f": {self.value:.3g}"
        where = " (synthetic images)" if self.synthetic else ""
        return f"{word:12} {self.case}{where}: {self.text}, at least {self.at_least:.3g}{value}"


def _to_reference(case: CaseResult) -> list[float]:
    return case.ratios("ours", ["reference"], "images_per_s")


def _to_tuned(case: CaseResult) -> list[float]:
    return case.ratios("ours", ["tuned"], "images_per_s")


def _of_floor(case: CaseResult) -> list[float]:
    return case.shares_of_floor("ours")


def _trials(case: CaseResult) -> list[float]:
    return case.ratios("ours side by side", ["optuna", "ray"], "trials_per_hour")


_RATIO = "images/s, one lane to the best reference loop"
_NEVER = f"{_RATIO}, worst round"
_SHARE = "images/s, one lane to the floor by bytes"
_TRIALS = "trials/h, side by side to the best of Optuna's example and Ray Tune"
_RESNET18 = ("resnet18-w64-b128", "resnet18-w64-b512")
TARGETS = (
    *(
        Target(device="cuda", case=case, text=_RATIO, values=_to_reference, at_least=5)
        for case in _RESNET18
    ),
    *(
        Target(device="cuda", case=case, text=_SHARE, values=_of_floor, at_least=0.6)
        for case in _RESNET18
    ),
    Target(device="cuda", case="small-cnn", text=_TRIALS, values=_trials, at_least=10),
    Target(
        device="cuda", case="resnet50-224", text="images/s, one lane to the best tuned loop",
        values=_to_tuned, at_least=1,
    ),
    Target(device="cuda", case="resnet50-224", text=_SHARE, values=_of_floor, at_least=1 / 1.3),
    Target(device="cpu", case="small-cnn", text=_RATIO, values=_to_reference, at_least=1.5),
    *(
        Target(
            device="cpu", case=case, text=_NEVER, values=_to_reference, statistic=min, at_least=1
        )
        for case in ("small-cnn", "resnet18-w16")
    ),
)  # fmt: skip


def judge(
    device: str, cases: Sequence[CaseResult], targets: Sequence[Target] = TARGETS
) -> list[Verdict]:
    """A verdict on each target for this kind of device.

    Of cases that are not there it is "not measured".
    """
    by_name = {case.name: case for case in cases}
    verdicts = []
    for target in targets:
        if target.device != device:
            continue
        case = by_name.get(target.case, CaseResult(name=target.case))
        values = target.values(case)
        verdicts.append(
            Verdict(
                case=target.case, text=target.text, at_least=target.at_least,
                value=target.statistic(values) if values else None,
                synthetic=bool(case.about.get("synthetic")),
            )
        )  # fmt: skip
    return verdicts


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median [least, largest]`; `-` of none."""
    if not values:
        return "-"
    return f"{median(values):,.{digits}f} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def render(case: CaseResult) -> str:
    """The tables of a case."""
    lines = [
        f"== {case.name}: "
        + ", ".join(f"{key} {value}" for key, value in case.about.items() if key != "synthetic")
    ]
    if case.floor:
        lines.append(
            f"floor of a step: {case.step['flops'] / 1e9:,.2f} GFLOP = "
            f"{case.floor.by_arithmetic:,.0f} images/s, "
            f"{case.step['bytes'] / 2**20:,.1f} MiB unfused = {case.floor.by_bytes:,.0f} images/s"
        )
    lines += _table("images per second, training alone", case, "images_per_s")
    lines += _table("trials per hour, whole trials", case, "trials_per_hour")
    lines += _memory(case)
    lines += [
        f"  {loop.name}: {text}"
        for loop in case.loops
        for text in (loop.problem, loop.note)
        if text
    ]
    return "\n".join(lines)


def _table(title: str, case: CaseResult, measure: Measure) -> list[str]:
    """A line a loop, with its ratio to the reference.

    Of images per second also the share of both floors.
    """
    reference = case.best("reference", measure)
    lines = []
    for loop in case.loops:
        values = getattr(loop, measure)
        if not values:
            continue
        cells = [f"  {loop.name:45} {spread(values, 0 if median(values) >= 100 else 1):>32}"]
        if reference is not None:
            to_reference = [a / b for a, b in zip(values, getattr(reference, measure), strict=True)]
            cells.append(f"x {spread(to_reference, 2)}")
        if measure == "images_per_s" and case.floor:
            floors = case.floor.by_arithmetic, case.floor.by_bytes
            shares = [f"{median(values) / floor:.1%}" for floor in floors]
            cells.append(f"floors {', '.join(shares)}")
        lines.append("  ".join(cells))
    if not lines:
        return []
    head = f"{title}: median [least, largest]"
    if reference is not None:
        head += f", ratio to {reference.name}"
    if measure == "images_per_s" and case.floor:
        head += ", share of the floor by arithmetic and by bytes"
    return [head, *lines]


def _memory(case: CaseResult) -> list[str]:
    measured = [loop for loop in case.loops if loop.memory_mib]
    if not measured:
        return []
    keys = list(dict.fromkeys(key for loop in measured for key in loop.memory_mib))
    return [
        f"peak memory, MiB: {', '.join(keys)}",
        *(
            f"  {loop.name:45} "
            + ", ".join(f"{loop.memory_mib[key]:,.0f}" for key in keys if key in loop.memory_mib)
            for loop in measured
        ),
    ]


def to_json(cases: Sequence[CaseResult], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Plain values."""
    return {
        "cases": [asdict(case) for case in cases],
        "targets": [asdict(verdict) | {"met": verdict.met} for verdict in verdicts],
    }
