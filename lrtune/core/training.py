"""The seam between a study and whatever trains: what a training states, can do, and yields.

An engine is given an `OpenTraining` and knows nothing else of what it trains. Our own loop is one
training; any other that keeps to this protocol can take its place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lrtune.core.objective import Metrics, Objective
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import RangeCurve

Ability = Literal["resume", "repeat", "follow", "sweep", "test"]
"""What a training may be able to do.

`resume`: go on from the state after an epoch. Without it only whole runs are reused.
`repeat`: give the same result for the same seed. Without it fresh runs are not paired.
`follow`: set LRs that depend on the metrics of the run so far. Without it plateau decays are left
out.
`sweep`: a range test. Without it the bounds of peak LRs are the optimizers' customary ones.
`test`: evaluate a state on a test split. Without it the report has no test column.
"""
ABILITIES: frozenset[Ability] = frozenset(("resume", "repeat", "follow", "sweep", "test"))
State = dict[str, Any]
"""Tensors and plain values: all that a run needs to go on after an epoch."""
Save = Callable[[Measurement, State], None]
Multiplier = Callable[[int], float]
"""From the number of an optimizer step, counted from 0, to the multiplier used for that step."""
Environment = Mapping[str, str]
"""Hardware and library versions, by what people call them."""
OWN_FAULTS = "Wrong with the command's own learning rates"
"""The key in the environment of a command whose audit found something wrong."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a training states before anything is trained."""

    steps_per_epoch: int
    """Optimizer steps."""
    epochs: int
    """The horizon that it has unless another one is asked for."""
    metrics: tuple[str, ...]
    """Names of the metrics that each epoch measures."""
    objective: Objective
    """The metric that decides, with what is known of its values."""
    abilities: frozenset[Ability] = ABILITIES
    start_epochs: int = 0
    """What it costs to start a run, in epochs; 0 where it is next to nothing."""
    num_validation: int = 0
    """Validation examples; 0 where their number is unknown."""
    data_facts: Mapping[str, str] = field(default_factory=dict)
    """What was taken for what in the data, in words, by what people call it."""
    groups: tuple[ParameterGroup, ...] = ()
    """Parameter groups with their own share of the peak LR; empty where there is only one."""
    optimizers: tuple[str, ...] = field(default_factory=lambda: tuple(OPTIMIZERS))
    """Names of those that it can train with."""
    device: str = ""
    """What trains, in words."""


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a worker process may use."""

    gpus: tuple[str, ...] | None = None
    """What `CUDA_VISIBLE_DEVICES` is set to before the process starts; `None`: left as it is."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that a process is started with to use them alone."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins, or goes on."""

    epochs: int = 0
    """Epochs that are behind `state`."""
    steps: int = 0
    """Optimizer steps that are behind `state`."""
    state: State | None = field(default=None, repr=False)
    """What `save` was given after the last of them; `None`: the start of the run."""


class States(Protocol):
    """The states of a study's runs, by key; picklable.

    It may lose any of them: that costs time and nothing else.
    """

    def load(self, key: str) -> State | None:
        """The state under `key`, if it is there."""

    def save(self, key: str, state: State, epochs: int) -> None:
        """Keeps a state that took `epochs` epochs."""

    def drop(self, key: str) -> None:
        """Forgets a state."""


class Training(Protocol):
    """Trains runs, one after the other or, where it says so, several at once in threads."""

    @property
    def facts(self) -> Facts:
        """What it states."""

    def environment(self, recipe: Recipe) -> Environment:
        """Hardware and versions that the numbers of the recipe's runs depend on.

        Equal for recipes of the same optimizer.
        """

    def identity(self, recipe: Recipe) -> Mapping[str, Any]:
        """What the numbers of the recipe's runs depend on besides recipe, seed and LRs.

        Plain values: the task, the settings, and as much of the environment as moves the last bit.
        Equal for recipes of the same optimizer.
        """

    def lanes(self, recipe: Recipe, wanted: str | int) -> tuple[int, str]:
        """How many runs it trains at once in one process, and a sentence about it or nothing.

        Args:
            recipe: such as will be trained.
            wanted: a number, or `auto` for as many as pay.

        Raises:
            InputError: it cannot train so many at once.
        """

    def train(
        self, run: Run, multiplier: Multiplier, *, start: Start = Start(), save: Save | None = None
    ) -> Iterator[Measurement]:
        """Trains a run, or goes on with one.

        Args:
            run: what to train, to its `stop_epochs`.
            multiplier: of each optimizer step; those of an epoch are asked for once it has begun,
                and may depend on all measurements that were yielded before.
            start: where it begins.
            save: is given each measurement, and the state after its epoch, before it is yielded;
                only a training that can resume calls it.

        Yields:
            A measurement an epoch. A diverged one is the last.

        Raises:
            TrialError: this run cannot go on.
            TaskError: what the user's own code raised.
        """

    def sweep(
        self,
        recipe: Recipe,
        *,
        seed: int,
        low: float | None = None,
        high: float | None = None,
        num_steps: int | None = None,
    ) -> RangeCurve:
        """One sweep of a range test of the recipe's optimizer, from fresh weights.

        Args:
            recipe: which optimizer, with its settings; its schedule is not used.
            seed: of weights and data order.
            low: first LR; by default the optimizer's customary one.
            high: last LR, likewise.
            num_steps: optimizer steps, one at each LR.

        Raises:
            InputError: no such sweep.
            TaskError: what the user's own code raised.
        """

    def test(self, state: State) -> Metrics:
        """The metrics on the test split, of a run's final state.

        Raises:
            TrialError: out of memory.
            TaskError: what the user's own code raised.
        """


OpenTraining = Callable[[Devices], Training]
"""Opens a training in the process that calls it; picklable, so that another process can."""
