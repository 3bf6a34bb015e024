"""What a search costs beside its training: asking, storing, checkpoints, pruning, display.

    python benchmarks/overhead.py --json benchmarks/results/overhead-cpu.json

Runs a real search on Fashion-MNIST (10,000 images, small-cnn) in a temporary folder, and compares the time from the
first run's start to the last run's end with the time inside the epochs (training and evaluation). The range test and
the report, done once, are given apart.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrtune import app
from lrtune.core.events import EpochEnded, Event, RunEnded, RunStarted
from lrtune.report.live import LiveDisplay
from lrtune.training.task import NamedTask


class Clock(LiveDisplay):
    """The live display, with a clock on the events that it is shown."""

    first_start = last_end = 0.0
    epoch_s = 0.0
    num_epochs = 0

    def __call__(self, event: Event) -> None:
        """Shows the event, and notes when it came."""
        super().__call__(event)
        now = time.perf_counter()
        match event:
            case RunStarted():
                Clock.first_start = Clock.first_start or now
            case EpochEnded(measurement=measurement):
                Clock.epoch_s += measurement.seconds
                Clock.num_epochs += 1
            case RunEnded():
                Clock.last_end = now


def measure(trials: int, epochs: int) -> Mapping[str, Any]:
    """Runs the search and adds up where its time went."""
    app.LiveDisplay = Clock
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = app.search(
            NamedTask(data="fashion-mnist", train_size=10_000), budget=trials, epochs=epochs, num_seeds=1,
            num_confirmed=1, home=Path(folder, "home"), out=Path(folder, "reports"),
        )  # fmt: skip
    whole = time.perf_counter() - start
    span = Clock.last_end - Clock.first_start
    return {
        "benchmark": "overhead",
        "environment": dict(result.state.config.environment),
        "trials": trials,
        "epochs": Clock.num_epochs,
        "training_s": Clock.epoch_s,
        "search_s": span,
        "overhead_percent": 100 * (span - Clock.epoch_s) / Clock.epoch_s,
        "overhead_ms_per_epoch": 1000 * (span - Clock.epoch_s) / Clock.num_epochs,
        "range_test_loading_report_s": whole - span,
    }


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.trials, arguments.epochs)
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
