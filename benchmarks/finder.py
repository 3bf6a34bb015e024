"""Accuracy that a range finder's suggestion loses against a brute-force grid of LRs.

    python benchmarks/finder.py --json benchmarks/results/finder.json
    python benchmarks/finder.py --record FILE.jsonl.gz --json FILE.json

The first judges what is on record beside the results; the second records anew, and goes on with
what the file lacks (an hour on one core): for each task and optimizer a training at every LR of the
grid, with several seeds, and the raw losses of sweeps, with many. Judging takes minutes. Ours and
those of three libraries are judged. Every finder reads the same losses by its own code
(`finders/peers.py`): those of our sweep, and those of its own default sweep. The accuracy at a
suggested LR is the grid's mean, interpolated in log LR; beyond the grid's ends it is that at the
end. Whoever gets no answer is taken to train at the optimizer's customary LR.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import astuple
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from finders.judge import CELL, OURS, Grid, grids, judge, overall, replay_of, summary, verdicts
from finders.peers import PEERS, our_curve
from finders.record import CASES, Job, Outcome, jobs, record, sweeps

from lrtune.core.recipe import default_recipe
from lrtune.core.study import RangeCurve
from lrtune.training.native.devices import describe_environment

RECORD = Path(__file__).parent / "results" / "finder.jsonl.gz"
NUM_SAMPLES = 3
"""Curves of our sweep, of each task and optimizer, that go into the results."""


def main() -> None:
    """Records what is missing, judges, and prints a table for each task and optimizer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, default=RECORD, help="made, or gone on with")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--finder-seeds", type=int, default=30, help="sweeps as ours; three of them make one answer"
    )
    parser.add_argument("--peer-seeds", type=int, default=10, help="sweeps as each library's own")
    parser.add_argument("--grid-seeds", type=int, default=3, help="trainings at each LR")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if min(arguments.finder_seeds, arguments.peer_seeds) < 1 or arguments.grid_seeds < 2:
        parser.error("`1 <= finder-seeds`, `1 <= peer-seeds` and `2 <= grid-seeds` must hold.")
    if missing := [package for package in PEERS if not find_spec(package.replace("-", "_"))]:
        parser.error(
            "the peers must be installed (pip install lrtune[peers]), but there is no "
            f"{', '.join(missing)}."
        )

    wanted = list(
        jobs(arguments.cases, arguments.finder_seeds, arguments.peer_seeds, arguments.grid_seeds)
    )
    everything = record(arguments.record, wanted)
    outcomes = {job: everything[job] for job in wanted}
    found, answers = grids(outcomes), judge(outcomes)
    summarised = summary(answers)
    result = {
        "benchmark": "finder",
        "environment": _environment(arguments.cases),
        "cells": [_cell(cell, grid, answers, outcomes) for cell, grid in found.items()],
        "rules": _rows(summarised),
        "overall": _rows(overall(summarised)),
        "verdicts": _rows(verdicts(summarised, found)),
    }
    print(render(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result) + "\n")


def render(result: Mapping[str, Any]) -> str:
    """The tables."""
    lines = [f"{key}: {value}" for key, value in result["environment"].items()]
    rules = pd.DataFrame(result["rules"])
    for cell in result["cells"]:
        best = "{best:.2f} +- {error:.2f} at LR {best_lr:.3g}, n = {seeds}"
        took = "the grid of {lrs} LRs took {steps} steps, {seconds:.0f} s"
        lines += ["", f"{{case}}, {{optimizer}}: {best}; {took}".format(**cell)]
        lines.append(
            "the best LR is in {inside:.0%} of our intervals; "
            "the best LR within loses {within:.2f}".format(**cell)
        )
        mine = rules[(rules.case == cell["case"]) & (rules.optimizer == cell["optimizer"])]
        lines.append(mine.drop(columns=CELL).to_string(index=False, float_format="{:.3g}".format))
    for title, key in (
        (
            "Over all: mean and worst of the medians of the points lost, and worst 90th percentile",
            "overall",
        ),
        ("Median of the points lost by ours, and by the best of theirs there", "verdicts"),
    ):
        lines += [
            "",
            title,
            pd.DataFrame(result[key]).to_string(index=False, float_format="{:.2f}".format),
        ]
    return "\n".join(lines)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(table.round(6).to_json(orient="records"))
    return found


def _cell(
    cell: tuple[str, str], grid: Grid, answers: pd.DataFrame, outcomes: Mapping[Job, Outcome]
) -> dict[str, Any]:
    """A task and optimizer: its grid, our intervals, and some curves."""
    case, optimizer = cell
    mine = {job: outcome for job, outcome in outcomes.items() if (job.case, job.optimizer) == cell}
    trained = [outcome for job, outcome in mine.items() if not job.sweep]
    swept = [job for job in mine if job.sweep == "ours"]
    ours = answers[
        (answers.case == case) & (answers.optimizer == optimizer) & (answers.rule == OURS)
    ].dropna()
    return {
        "case": case, "optimizer": optimizer, "best": grid.means.max(), "best_lr": grid.best_lr,
        "error": grid.error, "seeds": grid.top1s.shape[1], "lrs": len(grid.lrs),
        "steps": sum(outcome.num_steps for outcome in trained),
        "seconds": sum(outcome.seconds for outcome in trained),
        "inside": ((ours.low <= grid.best_lr) & (grid.best_lr <= ours.high)).mean(),
        "within": float(np.median([
            grid.lost_within(*bounds) for bounds in zip(ours.low, ours.high, strict=True)
        ])),
        "grid": {
            f"{lr:.6g}": top1s
            for lr, top1s in zip(grid.lrs, grid.top1s.round(3).tolist(), strict=True)
        },
        "sweep": list(astuple(sweeps(optimizer)["ours"])),
        "curves": [
            _kept(our_curve(replay_of(job, mine[job]), job.seed)) for job in swept[:NUM_SAMPLES]
        ],
    }  # fmt: skip


def _kept(curve: RangeCurve) -> dict[str, Any]:
    """Without its LRs, which are the first of the sweep's."""
    return {"seed": curve.seed, "losses": curve.losses, "diverged": curve.diverged}


def _environment(cases: list[str]) -> dict[str, str]:
    described = describe_environment(CASES[cases[0]].settings, default_recipe("lamb"))
    return {**described, **{package: version(package) for package in PEERS}}


if __name__ == "__main__":
    main()
