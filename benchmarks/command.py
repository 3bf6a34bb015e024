"""What a search through a command costs: a step, and a whole search against lrtune's own loop.

    python benchmarks/command.py --only step --json benchmarks/results/command-step-cpu.json
    python benchmarks/command.py --only search --json benchmarks/results/command-search-cpu.json

A step: trains a model of one layer by itself and steered, each in a process of its own, several
times in turn. It compares the times of `backward()` and `step()`, and measures the time inside the
hooks.

A search: `lrtune search -- python command_digits.py` and `lrtune search --task command_digits.py`
train the same (see there), with the same space, budget, metric and seed, one after the other. Each
has its own range test, and its own looks at a recipe: none of a command takes less time than its
start. In the end the recipes that were found are trained by lrtune's loop, with fresh seeds that no
search has seen.
"""

import argparse
import array
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy import stats

from lrtune import app
from lrtune.core.decays import Own
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.core.study import StudyState
from lrtune.schedules.compress import schedule_of
from lrtune.training.native.devices import describe_environment
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task, load_task_file

ROOT = Path(__file__).parent.parent
CHILD = ROOT / "lrtune" / "training" / "command" / "child"
SCRIPT = ROOT / "benchmarks" / "command_digits.py"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

TARGET_US = 20.0
"""What the hooks may take of a step: the median is to be at most this."""
ALONE, HOOKS = "alone", "in hooks"
PLANS: dict[str, Mapping[str, object] | None] = {
    ALONE: None,
    "record": {"mode": "record"},
    "set": {"mode": "set", "ratios": [[1.0, 0.1]]},
    "set, weight decay": {"mode": "set", "ratios": [[1.0, 0.1]], "weight_decay": 0.01},
}
"""What the command is told, by its name; `None`: it is not steered."""
PARTS = ("backward()", "step()", HOOKS)
PROGRAM = """
import json, statistics, sys, time, torch
from torch.optim import optimizer as module
torch.set_num_threads(1)
kind, num_steps = sys.argv[1], int(sys.argv[2])
layer = torch.nn.Linear(8, 1)
groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.01}]
optimizer = getattr(torch.optim, kind)(groups, lr=0.1, weight_decay=0.01)
inside_s = 0.0
def timed(hook):
    def call(*args):
        global inside_s
        start = time.perf_counter()
        hook(*args)
        inside_s += time.perf_counter() - start
    return call
for hooks in (module._global_optimizer_pre_hooks, module._global_optimizer_post_hooks):
    for key, hook in hooks.items():
        hooks[key] = timed(hook)
inputs = torch.randn(16, 8)
rows = []
for _ in range(num_steps + 100):
    loss = layer(inputs).square().mean()
    start, inside_s = time.perf_counter(), 0.0
    loss.backward()
    middle = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    optimizer.zero_grad()
    rows.append((middle - start, end - middle, inside_s))
columns = zip(*rows[100:])
print(json.dumps([[1e6 * how(x) for how in (statistics.median, statistics.mean)] for x in columns]))
"""

SPACE = """
[parameters]
peak_lr = "range-test"
warmup_epochs = { low = 0, high = "25%", step = 1 }
decay = { choices = ["cosine", "linear", "wsd", "constant"] }
[decay.wsd]
cooldown_frac = { low = 0.1, high = 0.5, step = 0.1 }
"""
FIRST_FRESH_SEED = 1001
COMMAND, OWN_LOOP = "command", "own loop"
SEARCHED = {
    COMMAND: ("--", sys.executable, str(SCRIPT)),
    OWN_LOOP: ("--task", str(SCRIPT)),
}
"""The words that tell what is searched, by who runs the loop."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search that has ended."""

    seconds: float
    """From the call of `lrtune search` to its end, with its imports and its report."""
    state: StudyState
    recipe: Recipe
    """The recommended one, as lrtune's loop takes it."""

    @cached_property
    def starts_s(self) -> list[float]:
        """What the first epoch of each run takes beyond the median of all later ones.

        Of a command that is the start of its process.
        """
        runs = [record.measurements for record in self.state.records if record.measurements]
        usual = statistics.median(m.seconds for run in runs for m in run[1:])
        return [run[0].seconds - usual for run in runs]

    @property
    def epochs_s(self) -> float:
        """The time in epochs, without the starts of the runs."""
        return sum(record.seconds for record in self.state.records) - sum(self.starts_s)

    @property
    def other_s(self) -> float:
        """All other time: the start of lrtune, range test, ends of processes, report."""
        return self.seconds - self.epochs_s - sum(self.starts_s)


def main() -> None:
    """Measures both, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("step", "search"), help="default: both")
    parser.add_argument("--steps", type=int, default=10_000, help="of each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--searches", type=int, default=3, help="of each kind")
    parser.add_argument("--trials", type=int, default=12, help="of each search")
    parser.add_argument("--seeds", type=int, default=20, help="fresh ones, for each recipe found")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if min(given.searches, given.seeds) < 2 or min(given.steps, given.repeats, given.trials) < 1:
        parser.error("`2 <= searches`, `2 <= seeds` and `1 <= steps, repeats, trials` must hold.")
    task = load_task_file(SCRIPT)
    environment = dict(describe_environment(task.settings, task.baseline))
    environment["Load before"] = _load()
    print("\n".join(f"{key}: {value}" for key, value in environment.items()), flush=True)
    result: dict[str, Any] = {
        "benchmark": "command", "environment": environment,
        "given": {name: value for name, value in vars(given).items() if name != "json"},
    }  # fmt: skip
    if given.only != "search":
        result["step_us"] = measure_steps(given.steps, given.repeats)
        print_steps(result["step_us"], given.steps)
    if given.only != "step":
        searches: dict[str, list[Searched]] = {kind: [] for kind in SEARCHED}
        for seed in range(given.searches):
            for kind, of_kind in searches.items():
                of_kind.append(search(kind, task, trials=given.trials, seed=seed))
                print(f"seed {seed}: {kind} ends after {of_kind[-1].seconds:.0f} s", flush=True)
        result["search"] = compare(searches, task, given.seeds)
        print_searches(result["search"])
    environment["Load after"] = _load()
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")


def _load() -> str:
    """The load of the machine in the last 1, 5 and 15 minutes: others may work on it as well."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


# --- a step


def measure_steps(num_steps: int, num_processes: int) -> dict[str, Any]:
    """Microseconds that a step takes more than alone, by optimizer, plan and part.

    Each is a list of (median, mean) of the steps of a process, minus that of the process that
    trained alone in the same turn.
    """
    found: dict[str, Any] = {}
    for optimizer in ("SGD", "AdamW"):
        turns = [
            {name: step_times(optimizer, num_steps, plan) for name, plan in PLANS.items()}
            for _ in range(num_processes)
        ]
        found[optimizer] = {
            name: {
                part: [
                    [x - y for x, y in zip(turn[name][part], turn[ALONE][part], strict=True)]
                    for turn in turns
                ]
                for part in PARTS
            }
            for name in PLANS
            if name != ALONE
        }
    return found


def step_times(
    optimizer: str, num_steps: int, plan: Mapping[str, object] | None
) -> dict[str, tuple[float, float]]:
    """Microseconds (median, mean) of each part of a step, of one process.

    Args:
        optimizer: name of its class.
        num_steps: how many are measured.
        plan: what the command is told; `None`: it is not steered.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables = dict(ONE_THREAD)
        if plan is not None:
            Path(folder, "plan.json").write_text(json.dumps({"version": 1, **plan}))
            table = array.array("d", [0.01 + 1e-6 * step for step in range(num_steps)])
            Path(folder, "table.bin").write_bytes(table.tobytes())
            variables |= {"PYTHONPATH": str(CHILD), "LRTUNE_STEER": folder}
        words = [sys.executable, "-c", PROGRAM, optimizer, str(num_steps)]
        done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
    return dict(zip(PARTS, json.loads(done.stdout), strict=True))


def print_steps(found: Mapping[str, Any], num_steps: int) -> None:
    """Prints the table of the steps."""
    num_processes = len(found["SGD"]["set"][HOOKS])
    print(
        f"\nn = {num_processes} processes of {num_steps} steps, two groups, one thread;\n"
        "microseconds more than alone: median of the processes' medians [least, largest] (means)"
    )
    print(f"  {'optimizer':10}{'mode':18}" + "".join(f"{part:>27}" for part in PARTS))
    for optimizer, of_optimizer in found.items():
        for name, parts in of_optimizer.items():
            cells = []
            for part in PARTS:
                medians, means = zip(*parts[part], strict=True)
                cells.append(f"{_cell(medians, 1)} ({statistics.median(means):.1f})")
            print(f"  {optimizer:10}{name:18}" + "".join(f"{cell:>27}" for cell in cells))
    worst = max(
        statistics.median(median for median, _ in parts[HOOKS])
        for of_optimizer in found.values()
        for parts in of_optimizer.values()
    )
    verdict = "met" if worst <= TARGET_US else "missed"
    print(f"target of at most {TARGET_US:g} us in the hooks: {verdict} ({worst:.1f} at most)")


# --- a search


def search(kind: str, task: Task, *, trials: int, seed: int) -> Searched:
    """Runs `lrtune search` as one types it.

    Args:
        kind: who runs the loop, see `SEARCHED`.
        task: what is trained.
        trials: the budget.
        seed: of the search.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "space.toml").write_text(SPACE)
        options = {
            "--space": "space.toml", "--metric": str(task.decides), "--budget": trials,
            "--seed": seed, "--study": "x",
        }  # fmt: skip
        words = [sys.executable, "-m", "lrtune", "search", "--quiet"]
        words += [str(word) for option in options.items() for word in option] + [*SEARCHED[kind]]
        start = time.perf_counter()
        subprocess.run(words, cwd=folder, env=ONE_THREAD, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - start
        result = app.load("x", home=Path(folder, ".lrtune"), out=Path(folder, "reports"))
    found = result.best.recipe
    # The momentum is the command's own affair, and so is the schedule that it has by itself.
    recipe = (
        task.baseline
        if isinstance(found.decay, Own)
        else replace(found, momentum=task.baseline.momentum, nesterov=task.baseline.nesterov)
    )
    return Searched(seconds=seconds, state=result.state, recipe=recipe)


def compare(searches: Mapping[str, list[Searched]], task: Task, num_seeds: int) -> dict[str, Any]:
    """Judges what was found, and adds up where the time went."""
    recipes = {task.baseline, *(one.recipe for found in searches.values() for one in found)}
    losses = {recipe: final_losses(recipe, task, num_seeds) for recipe in recipes}
    by = {
        kind: [
            {
                "recipe": one.recipe.label, "val_losses": losses[one.recipe],
                "looks": ", ".join(look.label for look in one.state.config.looks),
                "runs": len(one.state.records), "epochs": one.state.epochs_trained,
                "seconds": one.seconds, "starts_s": one.starts_s, "epochs_s": one.epochs_s,
                "other_s": one.other_s,
            }
            for one in found
        ]
        for kind, found in searches.items()
    }  # fmt: skip
    pairs = list(zip(searches[COMMAND], searches[OWN_LOOP], strict=True))
    means = {
        kind: [statistics.fmean(losses[one.recipe]) for one in found]
        for kind, found in searches.items()
    }
    differences = [x - y for x, y in zip(means[COMMAND], means[OWN_LOOP], strict=True)]
    return {
        "baseline": {"recipe": task.baseline.label, "val_losses": losses[task.baseline]},
        "by": by,
        "val_loss": {kind: with_interval(of_kind) for kind, of_kind in means.items()},
        "difference": with_interval(differences),
        "ratios": [x.seconds / y.seconds for x, y in pairs],
        "ratios_without_starts": [(x.seconds - sum(x.starts_s)) / y.seconds for x, y in pairs],
    }


def final_losses(recipe: Recipe, task: Task, num_seeds: int) -> list[float]:
    """The validation loss at the end, for each fresh seed; of a run that diverges, of guessing."""
    training = NativeTraining(task, task.settings)
    losses = []
    for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + num_seeds):
        run = Run(
            id="", kind="full", trial=0, recipe=recipe, recipe_epochs=task.epochs,
            horizon_epochs=task.epochs, stop_epochs=task.epochs, seed=seed,
        )  # fmt: skip
        *_, last = training.train(run, schedule_of(run, training.task.steps_per_epoch))
        losses.append(math.log(10) if last.diverged else last.metrics["val_loss"])
    return losses


def with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the low and high end of its 95 % interval by Student's t."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def print_searches(found: Mapping[str, Any]) -> None:
    """Prints the tables of the searches."""
    baseline, by = found["baseline"], found["by"]
    num_searches, num_seeds = len(by[COMMAND]), len(baseline["val_losses"])
    print(
        f"\nvalidation loss of what was found: mean [95 % interval] of n = {num_seeds} fresh seeds "
        "in lrtune's loop"
    )
    print(f"  {_interval(with_interval(baseline['val_losses']))}  baseline: {baseline['recipe']}")
    for kind, searches in by.items():
        for seed, one in enumerate(searches):
            interval = _interval(with_interval(one["val_losses"]))
            print(f"  {interval}  {kind}, seed {seed}: {one['recipe']}")
    print(f"and over n = {num_searches} searches of each kind")
    for kind, interval in found["val_loss"].items():
        print(f"  {_interval(interval)}  {kind}")
    print(f"  {_interval(found['difference'])}  command - own loop, searches of the same seed")

    print(f"\nseconds: median [least, largest] of n = {num_searches} searches")
    names = ("seconds", "starts", "a start", "epochs_s", "other_s", "runs", "epochs")
    print(f"  {'':10}" + "".join(f"{name.removesuffix('_s'):>21}" for name in names))
    for kind, searches in by.items():
        rows = [
            one | {"starts": sum(one["starts_s"]), "a start": statistics.median(one["starts_s"])}
            for one in searches
        ]
        cells = [
            _cell([row[name] for row in rows], 2 if name == "a start" else 0) for name in names
        ]
        print(f"  {kind:10}" + "".join(f"{cell:>21}" for cell in cells))
    for kind, searches in by.items():
        looks = searches[0]["looks"] or "none"
        print(f"looks of the {kind}, each the whole schedule: {looks}")
    for what in ("ratios", "ratios_without_starts"):
        told = what.replace("_", " ").replace("ratios", "time of the command over own loop's")
        print(f"{told}: {_cell(found[what], 1)}")


def _interval(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:7.4f} [{low:7.4f}, {high:7.4f}]"


def _cell(values: Sequence[float], digits: int) -> str:
    """Median [least, largest]."""
    middle, low, high = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} [{low}, {high}]"


if __name__ == "__main__":
    main()
