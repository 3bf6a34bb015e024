"""What a search costs beside its training: asking, storing, checkpoints, pruning, display.

    python benchmarks/overhead.py --json benchmarks/results/overhead-cpu.json

Runs a real search on Fashion-MNIST (10,000 images, small-cnn) in a temporary folder, and compares
the time from the first run's start to the last run's end with the time inside the epochs (training
and evaluation). The range test and the report, done once, are given apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrtune import app
from lrtune.core.events import EpochEnded, Event, RunEnded, RunStarted
from lrtune.core.sources import NamedTask


@dataclass
class Clock:
    """Notes when the events of a search come, beside the live display."""

    first_start: float = 0.0
    last_end: float = 0.0
    epoch_s: float = 0.0
    num_epochs: int = 0

    def __call__(self, event: Event) -> None:
        """Is told of an event."""
        now = time.perf_counter()
        match event:
            case RunStarted():
                self.first_start = self.first_start or now
            case EpochEnded(measurement=measurement):
                self.epoch_s += measurement.seconds
                self.num_epochs += 1
            case RunEnded():
                self.last_end = now


def measure(names: NamedTask, trials: int, epochs: int) -> Mapping[str, Any]:
    """Runs the search and adds up where its time went."""
    clock = Clock()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = app.search(
            names, budget=trials, epochs=epochs, confirm="quick",
            home=Path(folder, "home"), out=Path(folder, "reports"), on_event=clock,
        )  # fmt: skip
    whole = time.perf_counter() - start
    span = clock.last_end - clock.first_start
    return {
        "benchmark": "overhead",
        "environment": dict(result.state.config.environment),
        "trials": trials,
        "epochs": clock.num_epochs,
        "training_s": clock.epoch_s,
        "search_s": span,
        "overhead_percent": 100 * (span - clock.epoch_s) / clock.epoch_s,
        "overhead_ms_per_epoch": 1000 * (span - clock.epoch_s) / clock.num_epochs,
        "range_test_loading_report_s": whole - span,
    }


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = NamedTask(data="fashion-mnist", train_size=10_000)
    result = measure(names, arguments.trials, arguments.epochs)
    for key, value in result["environment"].items():
        print(f"{key}: {value}")
    print(f"\n{result['trials']} trials, {result['epochs']} epochs, one search (n = 1)")
    print(f"  training and evaluation  {result['training_s']:8.1f} s")
    print(f"  search, first to last    {result['search_s']:8.1f} s")
    per_epoch = f"{result['overhead_ms_per_epoch']:.1f} ms an epoch"
    print(f"  overhead                 {result['overhead_percent']:8.2f} %  ({per_epoch})")
    print(f"  once: loading, range test, report  {result['range_test_loading_report_s']:.1f} s")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
