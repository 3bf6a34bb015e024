"""Images per second and trials per hour of our loop and of others, above a common floor.

    python benchmarks/throughput.py --rounds 5 --json benchmarks/results/throughput-cpu.json
    python benchmarks/throughput.py --device cuda --cases small-cnn --json throughput-gpu.json

Every loop trains the same model on the same images with the same batch size, in a process of its
own; they take turns in each round, so that noise of the machine meets all of them. The loops:

- reference: torchvision's classification reference with `DataLoader`, transforms and, on a GPU,
  autocast, under Optuna;
- tuned: the same in channels_last and with the fused optimizer; and once more in bf16, where a CPU
  computes in it;
- Optuna's PyTorch example and Ray Tune with a process for each trial (whole trials only);
- Lightning's `Trainer`;
- lrtune with one lane, and with several side by side: lanes of one process on a GPU, processes on a
  CPU. Averaged weights, which a search has by default and the others do not, are off except where
  it says so. On a CPU that computes in bf16 also with `--precision bf16`, which is not the default
  there.

Images per second are of training alone, in epochs after a first one. Trials per hour are of whole
trials: building the model, training, evaluation after each epoch, nothing pruned. What a search
pays once is outside the clock: starting processes, decoding the images, Ray's cluster; making our
lanes is inside. Where a data set is not on this machine, synthetic images of its shape stand in for
it; ResNet-50 always has such, which the loops of others get on the device, ready for the model, so
that their loaders cost nothing. What the floor is, `loops/floor.py` says.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from loops.cases import CASES, CPU_CASES, Workload
from loops.floor import StepCounter
from loops.ours import Jobs, Lanes
from loops.peers import Lightning, OptunaExample, RayTune
from loops.processes import LoopError, LoopProcess
from loops.reference import Reference
from loops.results import CaseResult, Floor, LoopResult, judge, render, to_json

from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.devices import cpu_has_bf16, describe_environment


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A loop that takes part."""

    name: str
    group: str
    make: Callable[[], object]
    epochs: bool = True
    """Whether it is timed by the epoch."""
    trials: bool = True
    """Whether it is timed in whole trials."""
    needs: str = "torch"
    """The library without which it sits out."""


def entries(workload: Workload, workers: list[int]) -> list[Entry]:
    """All loops for a workload."""
    trials, jobs, on_gpu = workload.case.whole_trials, workload.lanes, workload.device == "cuda"
    has_bf16 = not on_gpu and cpu_has_bf16()
    found = []
    for number in [0] if workload.case.data == "on the device" else workers:
        fed = (
            "batches on the device"
            if workload.case.data == "on the device"
            else f"{number} workers"
        )
        for name, group, how in (
            ("reference", "reference", {"tuned": False}),
            ("channels_last, fused", "tuned", {"tuned": True}),
            *(
                [("channels_last, fused, bf16", "tuned, bf16", {"tuned": True, "bf16": True})]
                if has_bf16 else []
            ),
        ):  # fmt: skip
            make = partial(Reference, workload, num_workers=number, **how)
            found.append(Entry(name=f"{name}, {fed}", group=group, make=make, trials=trials))
        make = partial(Lightning, workload, num_workers=number)
        found.append(
            Entry(
                name=f"Lightning, {fed}",
                group="lightning",
                make=make,
                trials=trials,
                needs="lightning",
            )
        )
    for number in dict.fromkeys((1, jobs)) if trials else ():
        make = partial(OptunaExample, workload, num_jobs=number)
        found.append(
            Entry(
                name=f"Optuna's example, n_jobs={number}", group="optuna", make=make, epochs=False
            )
        )
    if trials:
        make = partial(RayTune, workload, num_jobs=jobs)
        found.append(
            Entry(
                name=f"Ray Tune, {jobs} at a time",
                group="ray",
                make=make,
                epochs=False,
                needs="ray",
            )
        )
    side = f"lrtune, {jobs} {'lanes' if on_gpu else 'jobs'}"
    kinds: list[tuple[str, dict[str, Any]]] = [("", {}), (", averaged weights", {"averaged": True})]
    if has_bf16:
        kinds.append((", bf16", {"precision": "bf16"}))
    for suffix, how in kinds:
        one = partial(Lanes, workload, **how)
        found.append(
            Entry(name=f"lrtune, one lane{suffix}", group=f"ours{suffix}", make=one, trials=trials)
        )
        averaged = "averaged" in how
        if jobs == 1 or (averaged and not trials):
            continue
        several = (
            partial(Lanes, workload, num_lanes=jobs, **how)
            if on_gpu
            else partial(Jobs, workload, num_jobs=jobs, **how)
        )
        group = f"ours side by side{suffix}"
        found.append(
            Entry(name=side + suffix, group=group, make=several, epochs=not averaged, trials=trials)
        )
    return found


class Field:
    """The loops of one case while they are measured.

    Each is in its process, until it fails or is done.
    """

    def __init__(self, entries: list[Entry]):
        self.entries = {entry.name: entry for entry in entries}
        self.results = {
            entry.name: LoopResult(name=entry.name, group=entry.group) for entry in entries
        }
        self.processes: dict[str, LoopProcess] = {}
        for entry in entries:
            if find_spec(entry.needs) is None:
                self.results[entry.name].problem = f"{entry.needs} is not installed"

    def start(self, names: list[str]) -> None:
        """Starts the processes that these loops still need, all at once."""
        for name in names:
            if not self.results[name].problem and name not in self.processes:
                self.processes[name] = LoopProcess(self.entries[name].make)

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """What a loop's method returns; `None` of one that has failed, now or before."""
        if name not in self.processes:
            return None
        try:
            return self.processes[name].ask(method, *arguments)
        except LoopError as error:
            self.results[name].problem = str(error)
            self.stop(name)
            return None

    def stop(self, name: str) -> None:
        """Ends a loop's process."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.close()


def measure_epochs(
    field: Field, device: str, num_rounds: int, after_round: Callable[[], None]
) -> None:
    """An epoch of each loop in each round, after one to warm up; then what memory each took."""
    names = [entry.name for entry in field.entries.values() if entry.epochs]
    field.start(names)
    for name in names:
        field.ask(name, "epoch")
    for _ in range(num_rounds):
        for name in names:
            field.results[name].take("images_per_s", field.ask(name, "epoch"))
        after_round()
    for name in names:
        field.results[name].memory_mib = field.ask(name, "memory") or {}
        if device == "cuda" and field.entries[name].group.startswith("ours"):
            why_eager = field.ask(name, "why_eager")
            field.results[name].note = f"eager, since {why_eager}" if why_eager else "CUDA graphs"


def measure_trials(
    field: Field,
    result: CaseResult,
    num_rounds: int,
    num_trials: int,
    epochs: int,
    after_round: Callable[[], None],
) -> None:
    """Whole trials of each loop in each round, after one to warm up.

    Of a group only the best by the epoch takes part.
    """
    fastest = {
        loop.group: best.name
        for loop in result.loops
        if (best := result.best(loop.group, "images_per_s"))
    }
    names = [
        entry.name for entry in field.entries.values()
        if entry.trials and fastest.get(entry.group, entry.name) == entry.name
    ]  # fmt: skip
    for name in [name for name in field.processes if name not in names]:
        field.stop(name)
    field.start(names)
    for name in names:
        field.ask(name, "trials", 1, 1)
    for _ in range(num_rounds):
        for name in names:
            seconds = field.ask(name, "trials", num_trials, epochs)
            field.results[name].take(
                "trials_per_hour", 3600 * num_trials / seconds if seconds else None
            )
        after_round()


def count_step(workload: Workload, ceilings: dict[str, float]) -> dict[str, float]:
    """Counts a case's step in a process of its own.

    Where `ceilings` are empty, it measures them into it.
    """
    counter = LoopProcess(partial(StepCounter, workload))
    try:
        if not ceilings:
            ceilings.update(counter.ask("ceilings"))
        return counter.ask("count")
    finally:
        counter.close()


def describe(workload: Workload, num_trials: int, epochs: int) -> dict[str, Any]:
    """What is trained, in the words of the output."""
    case, data = workload.case, workload.data
    about: dict[str, Any] = {
        "model": case.model, "data": data.source, "synthetic": data.synthetic,
        "image size": case.image_size, "batch": case.batch_size, "images": workload.num_images,
        "validation images": workload.num_validation, "side by side": workload.lanes,
    }  # fmt: skip
    return about | (
        {"trials a round": num_trials, "epochs a trial": epochs} if case.whole_trials else {}
    )


def main() -> None:
    """Measures case after case, prints their tables, and judges the targets."""
    arguments = parse()
    device = arguments.device
    settings = TrainSettings(device=device)
    environment = dict(describe_environment(settings, default_recipe("sgd")))
    environment["CPU threads"] = f"{torch.get_num_threads()}, of {os.cpu_count()} cores"
    environment |= {name: version(name) for name in ("lightning", "ray") if find_spec(name)}
    print("\n".join(f"{key}: {value}" for key, value in environment.items()))
    ceilings: dict[str, float] = {}
    cases: list[CaseResult] = []

    def write() -> None:
        """After each round, so that a run that is cut short leaves what it has."""
        if arguments.json:
            head = {
                "benchmark": "throughput", "environment": environment, "device": device,
                "rounds": arguments.rounds, "trial_rounds": arguments.trial_rounds,
                "ceilings": ceilings,
            }  # fmt: skip
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(
                json.dumps(head | to_json(cases, judge(device, cases)), indent=1) + "\n"
            )

    for name in arguments.cases:
        workload = workload_of(name, arguments)
        num_trials = arguments.trials or 2 * workload.lanes
        result = CaseResult(name=name, about=describe(workload, num_trials, arguments.epochs))
        cases.append(result)
        try:
            result.step = count_step(workload, ceilings)
            result.floor = Floor.of(result.step, ceilings)
        except LoopError as error:
            print(f"no floor for {name}: {error}")
        field = Field(entries(workload, arguments.workers))
        result.loops = list(field.results.values())
        try:
            if "epochs" in arguments.measure:
                measure_epochs(field, device, arguments.rounds, write)
            if "trials" in arguments.measure and workload.case.whole_trials:
                measure_trials(
                    field, result, arguments.trial_rounds, num_trials, arguments.epochs, write
                )
        finally:
            for entry in field.entries:
                field.stop(entry)
        print(f"\n{render(result)}", flush=True)
        write()
    print(f"\nn = {arguments.rounds} rounds of epochs, {arguments.trial_rounds} of trials")
    if ceilings:
        flops_per_s, bytes_per_s = ceilings["flops_per_s"] / 1e12, ceilings["bytes_per_s"] / 1e9
        print(f"ceilings of the device: {flops_per_s:.3g} TFLOP/s, {bytes_per_s:.4g} GB/s")
    print("targets:")
    for verdict in judge(device, cases):
        print(f"  {verdict}")


def workload_of(name: str, arguments: argparse.Namespace) -> Workload:
    """The case with the sizes that were asked for, or its own."""
    case, on_gpu = CASES[name], arguments.device == "cuda"
    return Workload(
        case=case, device=arguments.device, data_dir=arguments.data_dir,
        num_validation=arguments.val_size,
        num_images=arguments.train_size or (case.gpu_images if on_gpu else case.cpu_images),
        lanes=arguments.lanes or (case.lanes if on_gpu else os.cpu_count() or 1),
    )  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line, with what depends on the device filled in."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", help=", ".join(CASES))
    parser.add_argument(
        "--measure", nargs="+", choices=("epochs", "trials"), default=["epochs", "trials"]
    )
    parser.add_argument("--rounds", type=int, default=5, help="of an epoch of each loop")
    parser.add_argument("--trial-rounds", type=int, default=3, help="of whole trials")
    parser.add_argument(
        "--trials", type=int, help="a round; by default two for each that runs side by side"
    )
    parser.add_argument("--epochs", type=int, default=2, help="of a trial")
    parser.add_argument(
        "--train-size", type=int, help="training images; by default each case's own"
    )
    parser.add_argument("--val-size", type=int, default=1000)
    parser.add_argument(
        "--lanes",
        type=int,
        help="trials side by side; by default each case's own, on a CPU its cores",
    )
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help="of loaders, each tried; by default 0 and 2, on a GPU 8",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="where CIFAR-10 and Fashion-MNIST lie; never downloaded"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = arguments.device == "cuda"
    arguments.cases = arguments.cases or list(CASES if on_gpu else CPU_CASES)
    arguments.workers = arguments.workers or ([8] if on_gpu else [0, 2])
    counts = [arguments.rounds, arguments.trial_rounds, arguments.epochs, arguments.val_size]
    optional = [arguments.trials, arguments.train_size, arguments.lanes]
    if min(counts + [count for count in optional if count is not None]) < 1:
        parser.error("all sizes and numbers must be at least 1.")
    return arguments


if __name__ == "__main__":
    main()
