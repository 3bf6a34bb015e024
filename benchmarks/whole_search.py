"""A whole search against the loop that it replaces: seconds until it recommends a good recipe.

    python benchmarks/whole_search.py --seeds 5 --json benchmarks/results/whole-search-cpu.json

`lrtune search --budget 50` as it comes, baseline and confirmation included, against Optuna with its
defaults around torchvision's classification loop, with the same space, model, images and epochs,
and as many trials. Each runs alone, one after the other; with `--bf16` lrtune does so once more
with `--precision bf16`. Whenever a search's recommendation changes, the time is noted; in the end
every recipe that was ever recommended is retrained in full, in fp32, with seeds that no search has
seen, and its mean Top-1 on test images that none has seen is its quality. A search has arrived when
its recommendation is, and stays, within 0.3 points of the best quality known.

Each search is written to the file as it ends. The same command, stopped and called again, goes on
after the last of them.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from loops.reference import PilImages, reference_transforms
from loops.runs import train
from torch.utils.data import DataLoader

from lrtune import app
from lrtune.core.decays import decay_from_dict
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.sources import NamedTask
from lrtune.core.study import StudyState
from lrtune.core.training import State
from lrtune.decide.recommend import recommend
from lrtune.schedules import build_schedule
from lrtune.training.native.devices import describe_environment
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task, load_task

CLOSE = 0.3
FRESH_SEEDS = (1001, 1002, 1003)
BATCH_SIZE = 128
DECAYS = ("constant", "cosine", "linear", "wsd", "step", "plateau")
SPACE = """
[parameters]
optimizer = "sgd"
weight_decay = 5e-4
peak_lr = { low = 0.003, high = 3.0, log = true }
warmup_epochs = { low = 0, high = 3, step = 1 }
decay = { choices = ["constant", "cosine", "linear", "wsd", "step", "plateau"] }
[decay.wsd]
cooldown_frac = { low = 0.2, high = 0.6, step = 0.2 }
[decay.step]
every_epochs = { low = 3, high = 6, step = 1 }
factor = 0.1
[decay.plateau]
patience_epochs = { low = 1, high = 3 }
factor = 0.2
"""


@dataclass(frozen=True)
class Passed:
    """When a recipe became the one to recommend."""

    seconds: float
    epochs: int
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "seconds": self.seconds, "epochs": self.epochs, "label": self.recipe.label,
            "recipe": self.recipe.to_dict(),
        }  # fmt: skip

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Passed":
        """What `to_dict` wrote."""
        return Passed(values["seconds"], values["epochs"], Recipe.from_dict(values["recipe"]))


def main() -> None:
    """Searches, then retrains what was recommended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train-size", type=int, default=4000)
    parser.add_argument("--val-size", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=0, help="of the reference's loader")
    parser.add_argument("--bf16", action="store_true", help="search with lrtune in bf16 as well")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = NamedTask(data="fashion-mnist", train_size=given.train_size, val_size=given.val_size)
    task = load_task(names)
    task = replace(task, settings=replace(task.settings, batch_size=BATCH_SIZE))
    environment = dict(describe_environment(task.settings, task.baseline))
    print("\n".join(f"{key}: {value}" for key, value in environment.items()), flush=True)

    kinds: dict[str, Callable[[int], list[Passed]]] = {
        "Optuna": lambda seed: by_optuna(task, given.trials, given.epochs, seed, given.workers),
        "lrtune": lambda seed: by_lrtune(names, given.trials, given.epochs, seed, "fp32"),
    }
    if given.bf16:
        kinds["lrtune in bf16"] = lambda seed: by_lrtune(
            names, given.trials, given.epochs, seed, "bf16"
        )
    result: dict[str, Any] = {
        "benchmark": "whole_search", "environment": environment,
        "given": {name: value for name, value in vars(given).items() if name != "json"},
        "passed": {name: [] for name in kinds},
    }  # fmt: skip
    if given.json.exists():
        before = json.loads(given.json.read_text())
        if (before["environment"], before["given"]) == (environment, result["given"]):
            result["passed"] = before["passed"]
    for seed in range(given.seeds):
        for name, search in kinds.items():
            if len(result["passed"][name]) == seed:
                result["passed"][name].append([passed.to_dict() for passed in search(seed)])
                given.json.write_text(json.dumps(result, indent=1) + "\n")
                last = Passed.from_dict(result["passed"][name][seed][-1])
                print(
                    f"seed {seed}: {name} ends after {last.seconds:.0f} s and {last.epochs} epochs "
                    f"with {last.recipe.label}",
                    flush=True,
                )
    searches = {
        name: [[Passed.from_dict(passed) for passed in history] for history in found]
        for name, found in result["passed"].items()
    }
    recipes = {
        passed.recipe for found in searches.values() for history in found for passed in history
    }
    training = NativeTraining(task, task.settings)
    quality = {recipe: quality_of(recipe, training, given.epochs) for recipe in recipes}
    best = max(quality, key=lambda recipe: quality[recipe])
    print(
        f"\nbest of {len(quality)} recipes, {len(FRESH_SEEDS)} fresh seeds: {best.label}, "
        f"{quality[best]:.2f} % of the test images"
    )

    result |= {
        "best": best.label, "best_top1": quality[best], "searches": {},
        "test_top1": {recipe.label: value for recipe, value in quality.items()},
    }  # fmt: skip
    ends: dict[str, list[float]] = {}
    arrivals: dict[str, list[float]] = {}
    for name, found in searches.items():
        ends[name] = [history[-1].seconds for history in found]
        arrivals[name] = [arrival(history, quality, quality[best] - CLOSE) for history in found]
        regrets = [quality[best] - quality[history[-1].recipe] for history in found]
        print(
            f"{name}: arrives after {_cells(arrivals[name])} s, ends after {_cells(ends[name])} s, "
            f"regret at the end {_cells(regrets, 2)}"
        )
        result["searches"][name] = {
            "arrivals_s": [x if math.isfinite(x) else None for x in arrivals[name]],
            "ends_s": ends[name],
            "epochs": [history[-1].epochs for history in found], "final_regret": regrets,
        }  # fmt: skip
    for name in list(kinds)[1:]:
        for what, of in (("arriving", arrivals), ("the whole search", ends)):
            ratios = [theirs / ours for ours, theirs in zip(of[name], of["Optuna"], strict=True)]
            print(f"{what}: Optuna's time over that of {name} {_cells(ratios, 1)}  "
                  "(inf: Optuna never arrives; 0: the other; nan: neither)")  # fmt: skip
            result["searches"][name][f"ratios, {what}"] = [
                x if math.isfinite(x) else str(x) for x in ratios
            ]
    given.json.write_text(json.dumps(result, indent=1) + "\n")


def by_lrtune(
    names: NamedTask, trials: int, epochs: int, seed: int, precision: str
) -> list[Passed]:
    """`lrtune.search`, from the call to the report."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "space.toml").write_text(SPACE)
        start = time.time()
        state = app.search(
            names, space=Path(folder, "space.toml"), budget=trials, epochs=epochs, seed=seed,
            batch_size=BATCH_SIZE, precision=precision, home=Path(folder, "home"),
            out=Path(folder, "reports"), quiet=True,
        ).state  # fmt: skip
        end = time.time()
    history: list[Passed] = []
    for now in sorted(m.ended_at for record in state.records for m in record.measurements):
        seen = seen_at(state, now)
        found = recommend(seen)
        if found is not None and (not history or history[-1].recipe != found.best.recipe):
            history.append(Passed(now - start, seen.epochs_trained, found.best.recipe))
    return [*history, Passed(end - start, state.epochs_trained, history[-1].recipe)]


def seen_at(state: StudyState, now: float) -> StudyState:
    """The study as it was recorded at a time."""
    records = []
    for record in state.records:
        measurements = tuple(m for m in record.measurements if m.ended_at <= now)
        if measurements:
            ended = len(measurements) == record.epochs
            records.append(
                replace(
                    record, measurements=measurements, state=record.state if ended else "running"
                )
            )
    return StudyState(
        config=state.config, range_results=state.range_results, records=tuple(records)
    )


def by_optuna(task: Task, trials: int, epochs: int, seed: int, num_workers: int) -> list[Passed]:
    """`optuna.create_study()` and `optimize`: TPE and the median rule.

    It recommends its best finished trial.
    """
    history: list[Passed] = []
    num_epochs = 0
    start = time.time()
    loaders = tuple(_loader(task, train=train, num_workers=num_workers) for train in (True, False))

    def objective(trial: optuna.Trial) -> float:
        nonlocal num_epochs
        recipe = suggest(trial)
        top1 = 0.0
        for epoch, top1 in enumerate(reference_run(task, recipe, epochs, seed, loaders), start=1):
            num_epochs += 1
            trial.report(top1, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        finished = [
            t.value
            for t in trial.study.trials
            if t.value is not None and t.state.name == "COMPLETE"
        ]
        if not finished or top1 > max(finished):
            history.append(Passed(time.time() - start, num_epochs, recipe))
        return top1

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return [*history, Passed(time.time() - start, num_epochs, history[-1].recipe)]


def suggest(trial: optuna.Trial) -> Recipe:
    """The space of `SPACE`, as one would write it for Optuna."""
    decay = trial.suggest_categorical("decay", DECAYS)
    own: dict[str, Any] = {}
    match decay:
        case "wsd":
            own = {"cooldown_frac": trial.suggest_float("cooldown_frac", 0.2, 0.6, step=0.2)}
        case "step":
            own = {"every_epochs": float(trial.suggest_int("every_epochs", 3, 6)), "factor": 0.1}
        case "plateau":
            own = {"patience_epochs": trial.suggest_int("patience_epochs", 1, 3), "factor": 0.2}
    return Recipe(
        optimizer="sgd", weight_decay=5e-4,
        peak_lr=trial.suggest_float("peak_lr", 0.003, 3.0, log=True),
        warmup_epochs=trial.suggest_int("warmup_epochs", 0, 3),
        decay=decay_from_dict({"name": decay} | own),
    )  # fmt: skip


Loaders = tuple[DataLoader[Any], ...]


def _loader(task: Task, *, train: bool, num_workers: int) -> DataLoader[Any]:
    images: Any = task.train if train else task.validation
    return DataLoader(
        PilImages(images, reference_transforms(images, train=train)), batch_size=BATCH_SIZE,
        shuffle=train, drop_last=train, num_workers=num_workers, persistent_workers=num_workers > 0,
    )  # fmt: skip


def reference_run(
    task: Task, recipe: Recipe, epochs: int, seed: int, loaders: Loaders
) -> Iterator[float]:
    """Top-1 after each epoch of the reference loop; 0 once the loss is not finite."""
    train, validation = loaders
    torch.manual_seed(seed)
    model = task.model()
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.peak_lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=len(train))
    criterion = torch.nn.CrossEntropyLoss()
    step = 0
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            for group in optimizer.param_groups:
                group["lr"] = recipe.peak_lr * schedule(step)
            step += 1
            output = model(images)
            loss = criterion(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        model.eval()
        total, correct = 0.0, 0
        with torch.inference_mode():
            for images, labels in validation:
                output = model(images)
                total += criterion(output, labels).item() * len(labels)
                correct += int((output.argmax(1) == labels).sum())
        num_images = len(validation.dataset)  # type: ignore[arg-type]
        top1 = 100 * correct / num_images
        yield top1 if math.isfinite(total) else 0.0
        schedule = schedule.observe({"val_loss": total / num_images, "top1": top1})


def quality_of(recipe: Recipe, training: NativeTraining, epochs: int) -> float:
    """Mean Top-1 on the test images over fresh seeds; a run that diverges counts 0."""
    finals = []
    for seed in FRESH_SEEDS:
        run = Run(
            id="", kind="full", trial=0, recipe=recipe, recipe_epochs=epochs, horizon_epochs=epochs,
            stop_epochs=epochs, seed=seed,
        )  # fmt: skip
        final: dict[str, State] = {}
        save = partial(_keep, final)
        *_, last = train(training, run, save=save)
        finals.append(0.0 if last.diverged else training.test(final["state"])["top1"])
    return statistics.fmean(finals)


def _keep(final: dict[str, State], _: Measurement, state: State) -> None:
    final["state"] = state


def arrival(history: list[Passed], quality: dict[Recipe, float], wanted: float) -> float:
    """Seconds until the recommendation is good enough for good; infinite where it never is."""
    arrived = math.inf
    for passed in history:
        if quality[passed.recipe] < wanted:
            arrived = math.inf
        elif math.isinf(arrived):
            arrived = passed.seconds
    return arrived


def _cells(values: list[float], digits: int = 0) -> str:
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.median(values):.{digits}f} [{each}]"


if __name__ == "__main__":
    main()
