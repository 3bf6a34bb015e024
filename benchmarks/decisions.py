"""A simulated study: how many decisions a second one process makes for many slots.

It also tells what that process keeps in memory.

    python benchmarks/decisions.py --json benchmarks/results/decisions.json

A study of 10,000 trials over 200 slots, with a real database and everything that decides: planning,
asking the sampler, judging, recording. The sampler is asked as far ahead as there are slots
(`--lag`). Only the training is made up and takes no time: a slot hands in its next epoch when its
turn comes, in a random order. A decision is an assignment to a slot, or the answer to a
measurement.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil

from lrtune.core.objective import Objective
from lrtune.core.recipe import default_recipe
from lrtune.core.run import Assignment, Measurement, Run
from lrtune.core.space import Interval
from lrtune.core.study import Budget, RangeResult, StudyConfig, TrainSettings
from lrtune.core.training import Facts
from lrtune.decide.looks import automatic_looks
from lrtune.decide.plan import Done, Wait
from lrtune.store.database import StudyDatabase
from lrtune.store.ledger import Ledger
from lrtune.store.spaces import read_space
from lrtune.store.workers import this_worker
from lrtune.training.native.devices import describe_environment
from lrtune.tuning.cluster_runs import ClusterRuns
from lrtune.tuning.engine import Worker
from lrtune.tuning.sampler import ask

EPOCHS, STEPS_PER_EPOCH = 27, 62


def main() -> None:
    """Simulates a study, and says how fast it went at each stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--stages", type=int, default=10, help="that are reported one by one")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    environment = dict(describe_environment(TrainSettings(threads=1), default_recipe("sgd")))
    for key, value in environment.items():
        print(f"{key}: {value}")
    stages = []
    for stage in simulate(given.trials, given.slots, given.stages):
        stages.append(stage)
        if given.json:
            found = {
                "benchmark": "decisions",
                "environment": environment,
                "trials": given.trials,
                "slots": given.slots,
            }
            given.json.write_text(json.dumps(found | {"stages": stages}, indent=1) + "\n")
        print(
            ", ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in stage.items()),
            flush=True,
        )
    seconds = sum(stage["seconds"] for stage in stages)
    total = sum(stage["decisions"] for stage in stages)
    print(f"{total:,.0f} decisions in {seconds:.0f} s: {total / seconds:.1f} a second")


def simulate(num_trials: int, num_slots: int, num_stages: int) -> Iterator[dict[str, float]]:
    """Runs the study, and yields what each stage of its trials took."""
    with tempfile.TemporaryDirectory() as folder:
        name, toml = read_space("default")
        config = StudyConfig(
            name="made-up", task={}, space_name=name, space_toml=toml, epochs=EPOCHS,
            steps_per_epoch=STEPS_PER_EPOCH, num_validation=4000,
            objective=Objective(num_counted=4000, guessing=10.0), baseline=default_recipe("sgd"),
            budget=Budget(num_trials, "trials"), lag=num_slots, rank_by="val_loss:min",
            looks=automatic_looks(EPOCHS, STEPS_PER_EPOCH, seed=0),
        )  # fmt: skip
        store = StudyDatabase(f"sqlite:///{folder}/lrtune.db").open(config)
        interval = Interval(low=1e-3, high=3.0, suggestion=0.05)
        store.record_ranges(
            (RangeResult(optimizer="sgd", curves=(), interval=interval, rule="made up"),)
        )
        worker = Worker(
            name=this_worker(), store=Ledger(store), ask=ask, emit=lambda event: None, states=None
        )
        facts = Facts(
            steps_per_epoch=STEPS_PER_EPOCH,
            epochs=EPOCHS,
            metrics=("top1",),
            objective=config.objective,
        )
        runs = ClusterRuns(worker, facts=facts, identify=lambda recipe: {}, max_retries=3)
        yield from _stages(runs, num_trials, num_slots, num_stages)


def _stages(
    runs: ClusterRuns, num_trials: int, num_slots: int, num_stages: int
) -> Iterator[dict[str, float]]:
    rng, process = Random(0), psutil.Process()
    slots: list[tuple[str, Iterator[Measurement]]] = []
    asked, answered, stage = list[float](), list[float](), 1
    while True:
        start = time.perf_counter()
        step = runs.next() if len(slots) < num_slots else Wait()
        if not isinstance(step, Wait) or not slots:
            asked.append(time.perf_counter() - start)
        if isinstance(step, Assignment):
            slots.append((step.run.id, measurements(step)))
        elif slots:
            index = rng.randrange(len(slots))
            run_id, coming = slots[index]
            measurement = next(coming)
            start = time.perf_counter()
            goes_on = runs.record(run_id, measurement)
            answered.append(time.perf_counter() - start)
            if not goes_on:
                slots[index] = slots[-1]
                slots.pop()
        reached = (
            isinstance(step, Assignment) and step.run.trial + 1 >= num_trials * stage / num_stages
        )
        # The slots are filled before the first answer.
        if (reached and answered and stage < num_stages) or isinstance(step, Done):
            seconds = sum(asked) + sum(answered)
            yield {
                "trials": num_trials * stage / num_stages,
                "decisions": len(asked) + len(answered),
                "seconds": seconds,
                "decisions_per_s": (len(asked) + len(answered)) / seconds,
                "median_ms_to_assign": 1000 * statistics.median(asked),
                "median_ms_to_answer": 1000 * statistics.median(answered),
                "memory_mib": process.memory_info().rss / 2**20,
            }
            asked, answered, stage = [], [], stage + 1
        if isinstance(step, Done):
            return


def measurements(assignment: Assignment) -> Iterator[Measurement]:
    """A made-up training: a parabola in log LR, with noise that depends on recipe and epoch."""
    run, key = (
        assignment.run,
        assignment.known[-1].prefix if assignment.known else assignment.run.id,
    )
    for epoch in range(assignment.num_recorded + 1, run.stop_epochs + 1):
        key = f"{key[:20]}-{run.id}-{epoch}"
        yield _measurement(run, epoch, key)


def _measurement(run: Run, epoch: int, key: str) -> Measurement:
    final = (
        90
        - 12 * math.log10(run.recipe.peak_lr / 0.3) ** 2
        + Random(f"{run.recipe} {run.seed}").gauss(0, 0.3)
    )
    top1 = 10 + (final - 10) * (epoch / run.horizon_epochs) ** 0.3
    return Measurement(
        epoch=epoch, step=STEPS_PER_EPOCH * epoch, lr_first=run.recipe.peak_lr,
        lr_last=run.recipe.peak_lr,
        metrics={"train_loss": 1.0, "val_loss": 1 - top1 / 100, "top1": top1},
        seconds=1.0, examples_per_s=1.0, ended_at=time.time(), prefix=key,
    )  # fmt: skip


if __name__ == "__main__":
    main()
