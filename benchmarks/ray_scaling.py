"""How the Ray engine scales with its slots, beside plain Ray Tune and the local engine.

    python benchmarks/ray_scaling.py --json benchmarks/results/ray-scaling-cpu.json

First, trials that sleep through their epochs, so that what is measured is the scheduling and not
the cores. Three loops take turns in each round on one local cluster:

- lrtune: `train_on_cluster` with a study in SQLite, the `default` space and TPE, with a full run of
  each recipe in place of looks, and nothing confirmed;
- Ray Tune as its documentation shows it: a function that calls `tune.report` after each epoch,
  under `OptunaSearch` and `ASHAScheduler`, a process for each trial;
- the same with `reuse_actors=True`, as lrtune has it.

All train each trial to its end, so that the work is equal: ASHA's grace period is the whole trial.
Ray Tune keeps its loggers, and prints nothing.

*Once started* is from when as many processes as there are slots had each begun an epoch until the
last trial began its first: before, processes start; after, slots are empty for want of trials.
Efficiency is the time slept in there over slots x seconds; an epoch counts what it was asked to
sleep, however late it woke. The overhead of a trial is the rest, over the trials that were slept
through. `whole` is from the call to its return, the start of the processes included. How short the
trials are decides the efficiency; the overhead of a trial depends on it less. A process for each
trial takes so long to start that two trials a slot and a single round show it, and that loop gets
no more.

Then a real search of digits and an MLP on the CPU, with one thread a trial, by the local engine and
by Ray: from the first measured epoch's start to the end of the last. Its trials take well under a
second, and so bear each engine's costs more than those that anyone would search with. A trial that
shared epochs with another counts as the part of it that was trained. With two at once on two cores,
what plans and records takes its time from those that train.
"""

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import optuna

import lrtune
from lrtune.core.engines import Local, Ray
from lrtune.core.objective import Metrics, Objective
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.sources import NamedTask
from lrtune.core.space import Interval
from lrtune.core.study import Budget, RangeCurve, RangeResult, StudyConfig, TrainSettings
from lrtune.core.training import (
    Devices,
    Environment,
    Facts,
    Multiplier,
    Save,
    Start,
    State,
)
from lrtune.store.database import StudyDatabase
from lrtune.store.spaces import read_space
from lrtune.store.workers import this_worker
from lrtune.training.native.devices import describe_environment
from lrtune.tuning.engine import Worker
from lrtune.tuning.sampler import ask

STEPS_PER_EPOCH = 100
SETTINGS = TrainSettings(threads=1, device="cpu")
REAL_SLOTS = (1, 2)
REAL_EPOCHS = 10
MIN_EFFICIENCY = 0.9
OURS, PLAIN, REUSING = "lrtune", "Ray Tune", "Ray Tune, reuse_actors"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """A trained epoch, in seconds since 1970."""

    trial: str
    process: int
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a loop of sleeping trials has to do."""

    slots: int
    trials: int
    epochs: int
    epoch_s: float


def by_lrtune(work: Work) -> list[Epoch]:
    """A sweep of a study in a new database."""
    # Ray is imported where it is used: the local engine's processes import this file too.
    from lrtune.tuning.cluster import Cluster
    from lrtune.tuning.cluster_runs import ClusterRuns
    from lrtune.tuning.tune import train_on_cluster

    name, toml = read_space("default")
    config = StudyConfig(
        name="asleep", task={}, space_name=name, space_toml=toml, epochs=work.epochs,
        steps_per_epoch=STEPS_PER_EPOCH, num_validation=1000,
        objective=Objective(num_counted=1000, guessing=10.0), baseline=default_recipe("sgd"),
        pruner="none", confirm="0", budget=Budget(work.trials, "trials"),
    )  # fmt: skip
    interval = Interval(low=1e-3, high=3.0, suggestion=0.05)
    with tempfile.TemporaryDirectory() as folder:
        store = StudyDatabase(f"sqlite:///{folder}/lrtune.db").open(config)
        store.record_ranges(
            (RangeResult(optimizer="sgd", curves=(), interval=interval, rule="made up"),)
        )
        worker = Worker(
            name=this_worker(), store=store, ask=ask, emit=lambda event: None, states=None
        )
        training = Sleep(work.epoch_s, work.epochs)
        runs = ClusterRuns(worker, facts=training.facts, identify=training.identity, max_retries=0)
        train_on_cluster(
            runs,
            training.open,
            worker.states,
            cluster=Cluster(request={"CPU": 1.0, "GPU": 0.0}),
            options=Ray(max_concurrent=work.slots, max_retries=0),
            emit=worker.emit,
        )
        records = store.state().records
    return [
        Epoch(
            trial=r.run.id, process=int(m.examples_per_s), start=m.ended_at - m.seconds,
            end=m.ended_at - m.seconds + work.epoch_s,
        )
        for r in records for m in r.measurements
    ]  # fmt: skip


@dataclass(frozen=True)
class Sleep:
    """A training that sleeps through its epochs; see `lrtune.core.training.Training`.

    A measurement's `examples_per_s` is the process that slept. It neither resumes nor repeats a
    run, so that each run of a study is slept through in full.
    """

    epoch_s: float
    epochs: int

    @property
    def facts(self) -> Facts:
        """What it states."""
        return Facts(
            steps_per_epoch=STEPS_PER_EPOCH, epochs=self.epochs, objective=Objective(),
            metrics=("train_loss", "val_loss", "top1"), abilities=frozenset(), num_validation=1000,
        )  # fmt: skip

    def open(self, devices: Devices) -> "Sleep":
        """See `lrtune.core.training.OpenTraining`."""
        return self

    def environment(self, recipe: Recipe) -> Environment:
        """Nothing that moves its numbers."""
        return {}

    def identity(self, recipe: Recipe) -> Mapping[str, Any]:
        """Nothing besides recipe, seed and LRs."""
        return {}

    def lanes(self, recipe: Recipe, wanted: str | int) -> tuple[int, str]:
        """One."""
        return 1, ""

    def train(
        self,
        run: Run,
        multiplier: Multiplier,
        *,
        start: Start = Start(),  # noqa: B008  # frozen
        save: Save | None = None,
    ) -> Iterator[Measurement]:
        """Scores each epoch by the distance of the peak LR from 0.3."""
        for epoch in range(1, run.stop_epochs + 1):
            began = time.time()
            time.sleep(self.epoch_s)
            now, lr = time.time(), run.recipe.peak_lr
            metrics = {
                "train_loss": 1.0, "val_loss": 1.0, "top1": _score(lr), "averaged_top1": _score(lr),
            }  # fmt: skip
            yield Measurement(
                epoch=epoch, step=STEPS_PER_EPOCH * epoch, lr_first=lr, lr_last=lr, metrics=metrics,
                seconds=now - began, examples_per_s=float(os.getpid()), ended_at=now,
            )  # fmt: skip

    def sweep(self, recipe: Recipe, **sweep: Any) -> RangeCurve:
        """Is never called, since it is not among the abilities."""
        raise NotImplementedError

    def test(self, state: State) -> Metrics:
        """Is never called, since it is not among the abilities."""
        raise NotImplementedError


def by_ray_tune(work: Work, *, reuse_actors: bool) -> list[Epoch]:
    """`OptunaSearch` and `ASHAScheduler` around a function."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = {
        "lr": tune.loguniform(1e-3, 3.0),
        "warmup_epochs": tune.randint(0, 3),
        "decay": tune.choice(["cosine", "linear", "wsd", "constant"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_asleep, work=work), {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="top1", mode="max", search_alg=OptunaSearch(),
                scheduler=ASHAScheduler(max_t=work.epochs, grace_period=work.epochs),
                num_samples=work.trials, max_concurrent_trials=work.slots,
                reuse_actors=reuse_actors,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )  # fmt: skip
        results = tuner.fit()
        if results.errors:
            raise RuntimeError(
                f"{len(results.errors)} of {work.trials} trials failed: {results.errors[0]}"
            )
        frames = [result.metrics_dataframe for result in results]
    return [
        Epoch(
            trial=row.trial_id, process=row.process, start=row.start, end=row.start + work.epoch_s
        )
        for frame in frames for row in frame.itertuples()
    ]  # fmt: skip


def _asleep(config: dict[str, Any], *, work: Work) -> None:
    from ray import tune

    for _ in range(work.epochs):
        start = time.time()
        time.sleep(work.epoch_s)
        tune.report({"top1": _score(config["lr"]), "process": os.getpid(), "start": start})


def _score(lr: float) -> float:
    return 90 - 12 * math.log10(lr / 0.3) ** 2


LOOPS: dict[str, Callable[[Work], list[Epoch]]] = {
    OURS: by_lrtune,
    PLAIN: lambda work: by_ray_tune(work, reuse_actors=False),
    REUSING: lambda work: by_ray_tune(work, reuse_actors=True),
}


def measure_asleep(loop: str, slots: int, given: argparse.Namespace) -> dict[str, float]:
    """One search of sleeping trials, timed."""
    trials_a_slot = min(given.trials_per_slot, 2) if loop == PLAIN else given.trials_per_slot
    work = Work(
        slots=slots, trials=trials_a_slot * slots, epochs=given.epochs, epoch_s=given.epoch_seconds
    )
    called = time.perf_counter()
    epochs = LOOPS[loop](work)
    whole_s = time.perf_counter() - called
    if len(epochs) != work.trials * work.epochs:
        raise RuntimeError(
            f"{loop} trained {len(epochs)} epochs, not {work.trials} x {work.epochs}"
        )
    return once_started(epochs, work) | {
        "whole_s": whole_s,
        "whole_per_minute": 60 * work.trials / whole_s,
    }


def once_started(epochs: Sequence[Epoch], work: Work) -> dict[str, float]:
    """Efficiency, overhead and pace while every slot is taken; nan if never.

    That is while every slot has a process, and there are trials for all.
    """
    start = nth_first([(e.process, e.start) for e in epochs], work.slots)
    end = nth_first([(e.trial, e.start) for e in epochs], work.trials)
    slept_s = sum(max(0.0, min(e.end, end) - max(e.start, start)) for e in epochs)
    if not (end > start and slept_s):
        return {
            "window_s": 0.0,
            "efficiency": math.nan,
            "overhead_s": math.nan,
            "per_minute": math.nan,
        }
    trials = slept_s / (work.epochs * work.epoch_s)
    slot_s = work.slots * (end - start)
    return {
        "window_s": end - start, "efficiency": slept_s / slot_s,
        "overhead_s": (slot_s - slept_s) / trials, "per_minute": 60 * trials / (end - start),
    }  # fmt: skip


def nth_first(starts: Sequence[tuple[int | str, float]], n: int) -> float:
    """When the n-th of several had begun; infinite where there are fewer."""
    firsts: dict[int | str, float] = {}
    for name, start in starts:
        firsts[name] = min(start, firsts.get(name, math.inf))
    return sorted(firsts.values())[n - 1] if len(firsts) >= n else math.inf


def measure_real(engine: str, slots: int, given: argparse.Namespace) -> dict[str, float]:
    """One real search, timed."""
    where = Local(jobs=slots) if engine == "local" else Ray(max_concurrent=slots)
    called = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        state = lrtune.search(
            NamedTask(data="digits", model="mlp"), budget=given.real_trials,
            epochs=REAL_EPOCHS, pruner="none", confirm="0",
            threads=SETTINGS.threads, device=SETTINGS.device,
            home=Path(folder, "home"), out=Path(folder, "reports"), quiet=True, engine=where,
        ).state  # fmt: skip
    whole_s = time.perf_counter() - called
    trained = [m for record in state.records for m in record.measurements if not m.reused]
    seconds = max(m.ended_at for m in trained) - min(m.ended_at - m.seconds for m in trained)
    trials = len(trained) / REAL_EPOCHS
    inside_s = sum(m.seconds for m in trained)
    return {
        "trials": trials, "seconds": seconds, "per_hour": 3600 * trials / seconds,
        "epoch_ms": 1000 * inside_s / len(trained), "efficiency": inside_s / (slots * seconds),
        "overhead_s": (slots * seconds - inside_s) / trials, "whole_s": whole_s,
    }  # fmt: skip


Rows = dict[tuple[str, int], list[dict[str, float]]]
"""(loop, slots) -> what was measured, a round each."""


def main() -> None:
    """Measures round after round, prints the tables, and judges the targets."""
    given = parse()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    environment = dict(describe_environment(SETTINGS, default_recipe("sgd"))) | {
        "ray": version("ray")
    }
    print("\n".join(f"{key}: {value}" for key, value in environment.items()), flush=True)
    asleep: Rows = {(loop, slots): [] for slots in given.slots for loop in LOOPS}
    real: Rows = (
        {(engine, slots): [] for slots in REAL_SLOTS for engine in ("local", "ray")}
        if given.real
        else {}
    )

    def write() -> None:
        """After each round, so that a run that is cut short leaves what it has."""
        if given.json:
            options = {key: value for key, value in vars(given).items() if key != "json"}
            result = {
                "benchmark": "ray_scaling", "environment": environment, "given": options,
                "asleep": as_json(asleep), "real": as_json(real),
                "targets": [{"text": t, "met": met} for t, met in verdicts(asleep)],
            }  # fmt: skip
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(result, indent=1) + "\n")

    began = time.perf_counter()
    start_cluster(max([*given.slots, *REAL_SLOTS]))
    for loop in LOOPS:  # the first experiment of each kind on a cluster takes longer
        LOOPS[loop](Work(slots=1, trials=2, epochs=1, epoch_s=0.1))
    for number in range(given.rounds):
        for slots in given.slots:
            for loop in LOOPS:
                if loop != PLAIN or number < given.plain_rounds:
                    asleep[loop, slots].append(measure_asleep(loop, slots, given))
        for engine, slots in real if number < given.real_rounds else ():
            real[engine, slots].append(measure_real(engine, slots, given))
        print(
            f"round {number + 1} of {given.rounds}, after {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        write()
    print_asleep(asleep, given)
    print_real(real, given)
    print("\ntargets:")
    for text, met in verdicts(asleep):
        print(f"  {'met' if met else 'NOT met':8} {text}")


def start_cluster(num_cpus: int) -> None:
    """A local cluster of one node, as quiet as it can be, until this process ends."""
    import ray

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one is never silent
    os.environ["PYTHONPATH"] = os.pathsep.join(
        path for path in sys.path if path
    )  # the workers find what we find
    ray.init(
        address="local", num_cpus=num_cpus, num_gpus=0, include_dashboard=False,
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip


def verdicts(asleep: Rows) -> list[tuple[str, bool]]:
    """What was set out for, and whether it was met."""
    most = max(slots for _, slots in asleep)
    share = middle(asleep[OURS, most], "efficiency")
    text = f"efficiency once started, {most} slots: {share:.3f}, at least {MIN_EFFICIENCY}"
    found = [(text, share >= MIN_EFFICIENCY)]
    for (loop, slots), rows in asleep.items():
        if loop != OURS:
            ratios = [
                a["per_minute"] / b["per_minute"]
                for a, b in zip(asleep[OURS, slots], rows, strict=False)
            ]
            ratio = median(ratios) if all(map(math.isfinite, ratios)) else math.nan
            text = (
                f"trials/min once started, lrtune to {loop}, {slots} slots: {ratio:.3f}, at least 1"
            )
            found.append((text, ratio >= 1))
    return found


def middle(rows: Sequence[dict[str, float]], key: str) -> float:
    """The median of all rounds; nan where a round has no value."""
    values = [row[key] for row in rows]
    return median(values) if values and all(map(math.isfinite, values)) else math.nan


def cell(rows: Sequence[dict[str, float]], key: str, form: str) -> str:
    """Median and range of all rounds."""
    values = [row[key] for row in rows if math.isfinite(row[key])]
    if len(values) < len(rows):
        return f"- ({len(values)} of {len(rows)})"
    return f"{median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def print_table(rows: Rows, columns: Sequence[tuple[str, str, str]]) -> None:
    """A line for each loop and number of slots."""
    print(f"{'slots':>5} {'loop':24}{'n':>3}" + "".join(f"{title:>24}" for title, _, _ in columns))
    for (loop, slots), values in rows.items():
        cells = [cell(values, key, form) for _, key, form in columns]
        print(f"{slots:5} {loop:24}{len(values):3}" + "".join(f"{text:>24}" for text in cells))


def print_asleep(rows: Rows, given: argparse.Namespace) -> None:
    """The table of sleeping trials."""
    each, few = f"{given.epochs} epochs of {given.epoch_seconds:g} s", min(given.trials_per_slot, 2)
    print(f"\ntrials that sleep: {each}, {given.trials_per_slot} trials a slot ({few} of {PLAIN})")
    print("median [min, max] of n rounds; all but the last column: once started\n")
    print_table(rows, (
        ("efficiency", "efficiency", ".3f"), ("overhead, s/trial", "overhead_s", ".3f"),
        ("trials/min", "per_minute", ".1f"), ("whole, trials/min", "whole_per_minute", ".1f"),
    ))  # fmt: skip


def print_real(rows: Rows, given: argparse.Namespace) -> None:
    """The table of real searches."""
    if rows:
        print(f"\ndigits, mlp: {given.real_trials} trials of {REAL_EPOCHS} epochs, nothing pruned")
        print("median [min, max] of n rounds\n")
        print_table(rows, (
            ("trials/h", "per_hour", ".0f"), ("first to last, s", "seconds", ".2f"),
            ("epoch, ms", "epoch_ms", ".1f"), ("overhead, s/trial", "overhead_s", ".3f"),
            ("whole, s", "whole_s", ".1f"),
        ))  # fmt: skip


def as_json(rows: Rows) -> list[dict[str, Any]]:
    """Every value of every round; nan, where every slot never had a process, as null."""
    return [
        {"loop": loop, "slots": slots, "n": len(values)} | {
            key: [round(row[key], 4) if math.isfinite(row[key]) else None for row in values]
            for key in (values[0] if values else {})
        }
        for (loop, slots), values in rows.items()
    ]  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--plain-rounds",
        type=int,
        default=1,
        help="of these, with Ray Tune's process for each trial",
    )
    parser.add_argument("--real-rounds", type=int, default=1, help="of these, with real searches")
    parser.add_argument("--epochs", type=int, default=4, help="of a trial that sleeps")
    parser.add_argument("--epoch-seconds", type=float, default=0.5, help="that it sleeps")
    parser.add_argument("--trials-per-slot", type=int, default=3)
    parser.add_argument(
        "--real", action=argparse.BooleanOptionalAction, default=True, help="real searches too"
    )
    parser.add_argument("--real-trials", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    counts = [*given.slots, given.rounds, given.plain_rounds, given.real_rounds, given.epochs]
    if min(counts) < 1 or not given.epoch_seconds > 0:
        parser.error("all sizes and numbers must be at least 1, and an epoch takes time.")
    if min(given.trials_per_slot, given.real_trials) < 2:
        parser.error("`2 <= trials-per-slot` and `2 <= real-trials` must hold.")
    return given


if __name__ == "__main__":
    main()
