"""What the steering of a command costs a step: the hooks around it, and the loss of `backward()`.

    python benchmarks/command_overhead.py

Trains a model of one layer by itself and steered, each in a process of its own, several times in
turn. It compares the times of `backward()` and `step()`, and measures the time inside the hooks.
"""

import argparse
import array
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.devices import describe_environment

ROOT = Path(__file__).parent.parent
CHILD = ROOT / "lrtune" / "training" / "command" / "child"

PROGRAM = """
import json, statistics, sys, time, torch
from torch.optim import optimizer as module
torch.set_num_threads(1)
kind, num_steps = sys.argv[1], int(sys.argv[2])
layer = torch.nn.Linear(8, 1)
groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.01}]
optimizer = getattr(torch.optim, kind)(groups, lr=0.1)
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
Times = list[tuple[float, float]]
"""Microseconds (median, mean) of `backward()`, of `step()`, and inside the hooks."""


def run(kind: str, num_steps: int, plan: Mapping[str, object] | None) -> Times:
    """Trains once, by itself (`plan` is `None`) or steered."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = dict(os.environ, OMP_NUM_THREADS="1")
        if plan is not None:
            Path(folder, "plan.json").write_text(json.dumps({"version": 1, **plan}))
            table = array.array("d", [0.01 + 1e-6 * step for step in range(num_steps)])
            Path(folder, "table.bin").write_bytes(table.tobytes())
            surroundings |= {"PYTHONPATH": str(CHILD), "LRTUNE_STEER": folder}
        words = [sys.executable, "-c", PROGRAM, kind, str(num_steps)]
        done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    described = describe_environment(TrainSettings(threads=1), default_recipe("sgd"))
    for key, value in described.items():
        print(f"{key}: {value}")
    plans = {
        "record": {"mode": "record"},
        "set": {"mode": "set", "ratios": [[1.0, 0.1]]},
        "set, weight decay": {"mode": "set", "ratios": [[1.0, 0.1]], "weight_decay": 0.01},
    }
    print(
        f"\nn = {arguments.repeats} processes of {arguments.steps} steps, two groups, one thread;"
    )
    print("microseconds more than unsteered: median (mean)")
    print(f"  {'optimizer':10} {'mode':20} {'backward()':>16} {'step()':>16} {'in hooks':>16}")
    for kind in ("SGD", "AdamW"):
        bare: list[Times] = []
        steered: dict[str, list[Times]] = {name: [] for name in plans}
        for _ in range(arguments.repeats):
            bare.append(run(kind, arguments.steps, None))
            for name, plan in plans.items():
                steered[name].append(run(kind, arguments.steps, plan))
        for name, runs in steered.items():
            cells = []
            for part in (0, 1, 2):
                median, mean = (
                    statistics.median(times[part][how] for times in runs)
                    - statistics.median(times[part][how] for times in bare)
                    for how in (0, 1)
                )
                cells.append(f"{median:5.1f} ({mean:5.1f})")
            print(f"  {kind:10} {name:20} {' '.join(f'{cell:>16}' for cell in cells)}")


if __name__ == "__main__":
    main()
