"""What an export is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lrtune.schedules import Schedule

Target = Literal["torch", "lightning", "timm", "transformers", "keras", "json", "toml"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A recipe, said in the words of another framework."""

    to: Target
    text: str
    """Code, or a command line, or JSON, or TOML: to paste."""
    deviation: float = 0.0
    """Largest difference to the LR of the schedule at any step of the run, as a fraction of the
    peak LR."""
    note: str
    """What is exact and what is not, and what is left to the reader."""

    @property
    def exact(self) -> bool:
        """Whether every step has the LR of the schedule."""
        return self.deviation == 0


def largest_deviation(schedule: Schedule, theirs: Callable[[int], float]) -> float:
    """`max |theirs(t) - schedule(t)|` over the steps `t` of the run; what rounding alone explains (1e-9) is none."""
    largest = max(abs(theirs(step) - schedule(step)) for step in range(schedule.total_steps))
    return largest if largest > 1e-9 else 0.0
