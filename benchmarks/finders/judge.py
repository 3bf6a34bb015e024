"""What is lost of the accuracy at the grid's best LR by training at a suggested one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lrtune.core.commands import Sweeps
from lrtune.core.recipe import default_recipe
from lrtune.core.study import RangeResult
from lrtune.decide.bounds import range_result

from .peers import PEERS, Finder, Replay, our_curve, quiet
from .record import Job, Outcome, sweeps

OWN_SWEEP = {"fastai": "fastai", "torch-lr-finder": "fastai", "lightning": "lightning"}
"""The sweep that each package makes by default."""
OURS = f"lrtune, {Sweeps.num_seeds} curves"
OURS_WITH = {1: "lrtune, 1 curve", Sweeps.num_seeds: OURS}
"""Ours by the number of curves that it reads together; the second is as in use."""
CELL = ["case", "optimizer"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Final Top-1 by LR."""

    lrs: np.ndarray
    """Ascending, shape (n,)."""
    top1s: np.ndarray
    """One training a seed, shape (n, seeds)."""

    @property
    def means(self) -> np.ndarray:
        """Over seeds, shape (n,)."""
        return self.top1s.mean(axis=1)

    @property
    def best_lr(self) -> float:
        """The LR of the highest mean."""
        return float(self.lrs[self.means.argmax()])

    @property
    def error(self) -> float:
        """Standard error of a mean near the best.

        It is pooled over the LRs that lose at most 3 points.
        """
        close = self.means > self.means.max() - 3
        return float(np.sqrt(self.top1s[close].var(axis=1, ddof=1).mean() / self.top1s.shape[1]))

    def lost(self, lr: float) -> float:
        """Points of Top-1 that the mean at `lr` is below the best.

        It is interpolated in log LR; past the ends it is that at the end.
        """
        return float(self.means.max() - np.interp(np.log(lr), np.log(self.lrs), self.means))

    def lost_within(self, low: float, high: float) -> float:
        """The least that is lost in an interval of LRs."""
        inside = self.lrs[(self.lrs >= low) & (self.lrs <= high)]
        return min(map(self.lost, [low, high, *inside]))


def grids(outcomes: Mapping[Job, Outcome]) -> dict[tuple[str, str], Grid]:
    """Of each task and optimizer, by the seeds that were trained at every LR."""
    runs = pd.DataFrame(
        [
            {
                "case": job.case,
                "optimizer": job.optimizer,
                "lr": job.lr,
                "seed": job.seed,
                "top1": outcome.values[-1],
            }
            for job, outcome in outcomes.items()
            if not job.sweep
        ]
    )
    found = {}
    for key, group in runs.groupby(["case", "optimizer"], sort=False):
        table = group.pivot_table(index="lr", columns="seed", values="top1").dropna(axis=1)
        found[key] = Grid(lrs=table.index.to_numpy(), top1s=table.to_numpy())
    return found


def judge(outcomes: Mapping[Job, Outcome], peers: Mapping[str, Finder] = PEERS) -> pd.DataFrame:
    """A row for each answer of each rule.

    It has the LR (NaN: none), what it loses, and the steps and seconds that it took.
    """
    found = grids(outcomes)
    swept = {
        job: outcome
        for job, outcome in outcomes.items()
        if job.sweep and (job.case, job.optimizer) in found
    }
    rows = []
    for answer in (*_ours(swept), *_theirs(swept, peers)):
        lr = answer["lr"]
        used = default_recipe(answer["optimizer"]).peak_lr if lr is None else lr
        rows.append(answer | {"lost": found[answer["case"], answer["optimizer"]].lost(used)})
    return pd.DataFrame(rows).astype({"lr": float})


def summary(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for each task, optimizer, rule and sweep, those that lose least first."""
    groups = answers.groupby([*CELL, "rule", "sweep"], sort=False)
    found = groups.agg(
        n=("lost", "size"), lost=("lost", "median"),
        lost_p90=("lost", lambda lost: lost.quantile(0.9)),
        unanswered=("lr", lambda lr: lr.isna().mean()), lr=("lr", "median"),
        steps=("steps", "median"), seconds=("seconds", "median"),
    )  # fmt: skip
    return found.reset_index().sort_values("lost", kind="stable")


def verdicts(summarised: pd.DataFrame, found: Mapping[tuple[str, str], Grid]) -> pd.DataFrame:
    """A row for each task and optimizer: what ours loses, and the best of theirs.

    Ours is the one in use; the best there is of all that theirs suggest. A tie is lost by less than
    two standard errors of a difference between two means of the grid.
    """
    rows = []
    for cell, group in summarised.groupby(CELL, sort=False):
        ours = group[group.rule == OURS].iloc[0]
        best = group[~group.rule.str.startswith("lrtune")].iloc[0]
        noise = 2 * math.sqrt(2) * found[cell].error
        met = "yes" if ours.lost <= best.lost else "tie" if ours.lost - best.lost < noise else "no"
        about = {"ours": ours.lost, "theirs": best.lost, "noise": noise, "met": met}
        rows.append(
            dict(zip(CELL, cell, strict=True))
            | about
            | {"best_of_theirs": f"{best.rule}, {best.sweep} sweep"}
        )
    return pd.DataFrame(rows)


def overall(summarised: pd.DataFrame) -> pd.DataFrame:
    """A row for each rule and sweep: mean and worst of its medians over all cells."""
    found = summarised.groupby(["rule", "sweep"]).agg(
        mean=("lost", "mean"),
        worst=("lost", "max"),
        worst_p90=("lost_p90", "max"),
        unanswered=("unanswered", "mean"),
    )
    return found.reset_index().sort_values("mean")


def _theirs(swept: Mapping[Job, Outcome], peers: Mapping[str, Finder]) -> Iterator[dict[str, Any]]:
    for job, outcome in swept.items():
        for package, finder in peers.items():
            if job.sweep in ("ours", OWN_SWEEP[package]):
                replay = replay_of(job, outcome)
                with quiet():
                    answers = finder(replay)
                for rule, lr in answers.items():
                    yield _about(job, rule, lr, replay.num_steps, outcome.seconds)


def _ours(swept: Mapping[Job, Outcome]) -> Iterator[dict[str, Any]]:
    """With one curve, and with as many as in use, each curve in one group only."""
    own = [job for job in swept if job.sweep == "ours"]
    for num_curves in OURS_WITH:
        for group in _groups(own, num_curves):
            result, num_steps = our_result(group, swept)
            interval = result.interval
            seconds = sum(swept[job].seconds for job in group)
            rule, lr = OURS_WITH[num_curves], interval.suggestion if interval else None
            bounds = {"low": interval.low, "high": interval.high} if interval else {}
            yield _about(group[0], rule, lr, num_steps, seconds) | bounds


def our_result(group: Sequence[Job], swept: Mapping[Job, Outcome]) -> tuple[RangeResult, int]:
    """Our range test on recorded sweeps, and the steps that it took."""
    replays = {job: replay_of(job, swept[job]) for job in group}
    curves = [our_curve(replay, job.seed) for job, replay in replays.items()]
    return range_result(group[0].optimizer, curves), sum(
        replay.num_steps for replay in replays.values()
    )


def replay_of(job: Job, outcome: Outcome) -> Replay:
    """The sweep of a job, to be handed out."""
    return Replay(lrs=sweeps(job.optimizer)[job.sweep].lrs, losses=outcome.values)


def _groups(own: list[Job], size: int) -> Iterator[list[Job]]:
    for key in dict.fromkeys((job.case, job.optimizer) for job in own):
        members = sorted(
            (job for job in own if (job.case, job.optimizer) == key), key=lambda job: job.seed
        )
        yield from (members[i : i + size] for i in range(0, len(members) - size + 1, size))


def _about(job: Job, rule: str, lr: float | None, num_steps: int, seconds: float) -> dict[str, Any]:
    return {
        "case": job.case, "optimizer": job.optimizer, "rule": rule,
        "sweep": "ours" if job.sweep == "ours" else "own", "seed": job.seed, "lr": lr,
        "steps": num_steps, "seconds": seconds,
    }  # fmt: skip
