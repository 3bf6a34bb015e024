"""The finders of fastai, Lightning and torch-lr-finder, and ours, on a recorded sweep.

Each is run by its own code. It trains a model of one weight whose loss is the recorded one, so that
where to stop, how to smooth, which points to skip and what to suggest are all its own. A finder
that raises or returns `None` gives no answer.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.core.study import RangeCurve
from lrtune.training.native.lanes.eager import Taken
from lrtune.training.native.range_test import sweep

Answers = Mapping[str, float | None]
"""By the rule's name: an LR, or no answer."""


@dataclass(kw_only=True)
class Replay:
    """A recorded sweep, handed out loss by loss.

    Past its last finite loss it is NaN, as of weights that are gone.
    """

    lrs: Sequence[float]
    losses: Sequence[float]
    num_steps: int = field(default=0, init=False)
    """Handed out so far."""

    def next(self) -> float:
        """The loss of the next step."""
        self.num_steps += 1
        return (
            self.losses[self.num_steps - 1] if self.num_steps <= len(self.losses) else float("nan")
        )

    def loss(self, prediction: Tensor, *_: object) -> Tensor:
        """The same, as a loss of a model."""
        return 0 * prediction.sum() + self.next()

    def loader(self) -> Any:
        """As many batches as the sweep has steps, of one number each."""
        zeros = torch.zeros(len(self.lrs), 1)
        return DataLoader(TensorDataset(zeros, zeros), batch_size=1)


def fastai(replay: Replay) -> Answers:
    """`Learner.lr_find` with its four rules.

    It raises for all if one raises, so they get what it gives them later.
    """
    from fastai.callback import schedule
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    seen: list[tuple[Any, Any, int]] = []

    def look(lrs: Any, losses: Any, num_it: int) -> tuple[float, None]:
        seen.append((lrs, losses, num_it))
        return 0.0, None

    low, high, num_steps = replay.lrs[0], replay.lrs[-1], len(replay.lrs)
    end = low * (high / low) ** (
        num_steps / (num_steps - 1)
    )  # its last step is one short of its end
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            DataLoaders(replay.loader(), []), nn.Linear(1, 1), loss_func=replay.loss, path=folder
        )
        learner.lr_find(
            start_lr=low, end_lr=end, num_it=num_steps, show_plot=False, suggest_funcs=look
        )
    rules = (schedule.valley, schedule.slide, schedule.minimum, schedule.steep)
    return {
        f"fastai {rule.__name__}": _answer(lambda rule=rule: rule(*seen[0])[0]) for rule in rules
    }


def lightning(replay: Replay) -> Answers:
    """`Tuner.lr_find` and its `suggestion()`."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(1, 1)

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return replay.loss(self.model(batch[0]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters())

    low, high, num_steps = replay.lrs[0], replay.lrs[-1], len(replay.lrs)
    start = low * (low / high) ** (
        1 / (num_steps - 1)
    )  # its second step is at twice the distance from its start
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        finder = pl.tuner.Tuner(trainer).lr_find(
            Module(),
            replay.loader(),
            min_lr=start,
            max_lr=high,
            num_training=num_steps,
            update_attr=False,
        )
    return {"Lightning": _answer(finder.suggestion)}


def torch_lr_finder(replay: Replay) -> Answers:
    """`LRFinder.range_test` and the suggestion of its `plot`."""
    import matplotlib.pyplot as plt
    from torch_lr_finder import LRFinder

    model = nn.Linear(1, 1)
    finder = LRFinder(model, torch.optim.SGD(model.parameters(), lr=replay.lrs[0]), replay.loss)
    finder.range_test(
        replay.loader(), start_lr=replay.lrs[0], end_lr=replay.lrs[-1], num_iter=len(replay.lrs)
    )
    figure, axes = plt.subplots()
    answer = _answer(lambda: finder.plot(ax=axes)[1])
    plt.close(figure)
    return {"torch-lr-finder": answer}


@dataclass(kw_only=True)
class ReplayedLane:
    """As much of `lrtune.training.native.lanes.eager.Lane` as a sweep needs."""

    replay: Replay

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """A sweep is one epoch here."""

    def steps(self, multipliers: Sequence[float]) -> Taken:
        """The next losses."""
        losses = tuple(self.replay.next() for _ in multipliers)
        return Taken(losses=losses, num_steps=len(losses))


def our_curve(replay: Replay, seed: int) -> RangeCurve:
    """What our sweep makes of it: the losses up to where it stops."""
    lane: Any = ReplayedLane(replay=replay)
    return sweep(lane, replay.lrs, 1.0, seed=seed)


Finder = Callable[[Replay], Answers]
PEERS: dict[str, Finder] = {
    "fastai": fastai, "lightning": lightning, "torch-lr-finder": torch_lr_finder,
}  # fmt: skip
"""By the package that each needs."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the peers print, log, warn of and draw a bar for."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sink = io.StringIO()
    with (
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _answer(suggest: Callable[[], Any]) -> float | None:
    try:
        lr = suggest()
    except Exception:  # of whatever kind: its user has no LR
        return None
    return None if lr is None else float(lr)
