"""Real races, not replayed: lrtune against Optuna's defaults and Ray Tune's ASHA.

    pip install '.[ray]' && python benchmarks/race.py --seeds 5 --json benchmarks/results/race.json

All train by the same loop, and search the same space for the same task (the bank's, 9 epochs a full
run) for the same number of epochs, one trial at a time. When what a search would recommend changes,
the epochs and seconds spent are noted. In the end every recipe that was ever recommended is
retrained in full with seeds that no search has seen, and its mean Top-1 is its quality. A search
has arrived when its recommendation is within 0.3 points of the best quality known. lrtune searches
as it comes: its looks, its race and its baseline share the budget.
"""

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from bank.contents import FASHION
from loops.runs import train

from lrtune import app
from lrtune.core.decays import decay_from_dict
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import Measurement, Run
from lrtune.core.study import StudyState
from lrtune.decide.recommend import recommend
from lrtune.training.native.devices import describe_environment
from lrtune.training.native.loop import NativeTraining

EPOCHS = 9
CLOSE = 0.3
FRESH_SEEDS = (1001, 1002)
DECAYS = ("constant", "cosine", "linear", "wsd", "step", "plateau")
SPACE = """
[parameters]
optimizer = "sgd"
weight_decay = 5e-4
peak_lr = { low = 0.003, high = 3.0, log = true }
warmup_epochs = { low = 0, high = 2, step = 1 }
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
Passed = tuple[int, float, Recipe]
"""Epochs and seconds spent when a recipe became the one to recommend."""


def main() -> None:
    """Races, then retrains what was recommended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=10, help="in full runs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    environment = dict(describe_environment(FASHION.settings, default_recipe("sgd")))
    print("\n".join(f"{key}: {value}" for key, value in environment.items()), flush=True)
    races: dict[str, list[list[Passed]]] = {name: [] for name in RACERS}
    for seed in range(
        arguments.seeds
    ):  # in turn, so that a change of the machine's pace meets all of them
        for name, racer in RACERS.items():
            races[name].append(racer(seed, arguments.budget * EPOCHS))
            print(f"seed {seed}: {name} recommends {races[name][-1][-1][2].label}", flush=True)
    recommended = list(
        dict.fromkeys(
            recipe for race in races.values() for passed in race for _, _, recipe in passed
        )
    )
    with get_context("spawn").Pool(2) as pool:
        quality = dict(zip(recommended, pool.map(_quality, recommended, chunksize=1), strict=True))
    best = max(quality, key=lambda recipe: quality[recipe])
    print(
        f"\nbest of {len(quality)} recipes retrained with {len(FRESH_SEEDS)} fresh seeds: "
        f"{best.label}, ",
        end="",
    )
    print(f"{quality[best]:.2f} %\nuntil within {CLOSE} points, median [each seed]:")
    result: dict[str, Any] = {
        "benchmark": "race", "environment": environment, "budget": arguments.budget,
        "epochs": EPOCHS, "racers": {},
    }  # fmt: skip
    for name, passed in races.items():
        arrivals = [_arrival(race, quality, quality[best] - CLOSE) for race in passed]
        epochs, seconds = ([arrival[i] for arrival in arrivals] for i in (0, 1))
        final = [quality[best] - quality[race[-1][2]] for race in passed]
        print(
            f"{name:16} epochs {_cell(epochs)}, seconds {_cell(seconds)}, "
            f"regret at the end {_cell(final, 2)}"
        )
        result["racers"][name] = {
            "epochs": [_plain(x) for x in epochs], "seconds": [_plain(x) for x in seconds],
            "final_regret": final,
            "passed": [
                [(e, round(s, 1), r.label, quality[r]) for e, s, r in race] for race in passed
            ],
        }  # fmt: skip
    if arguments.json:
        arguments.json.write_text(
            json.dumps(result | {"best": best.label, "best_top1": quality[best]}, indent=1) + "\n"
        )


def by_lrtune(seed: int, budget_epochs: int) -> list[Passed]:
    """`lrtune.search` as it comes, with what it names after each run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "space.toml").write_text(SPACE)
        start = time.time()
        state = app.search(
            FASHION.task(), space=Path(folder, "space.toml"), budget=f"{budget_epochs}ep",
            epochs=EPOCHS, seed=seed, batch_size=FASHION.settings.batch_size,
            threads=FASHION.settings.threads,
            home=Path(folder, "home"), out=Path(folder, "reports"), quiet=True,
        ).state  # fmt: skip
    ended = sorted(
        (record for record in state.records if record.measurements),
        key=lambda record: record.measurements[-1].ended_at,
    )
    passed: list[Passed] = []
    for number, record in enumerate(ended, start=1):  # they ran one after the other
        seen = StudyState(
            config=state.config, range_results=state.range_results, records=tuple(ended[:number])
        )
        found = recommend(seen)
        if found is not None and (not passed or passed[-1][2] != found.best.recipe):
            now = record.measurements[-1].ended_at
            passed.append((seen.epochs_trained, now - start, found.best.recipe))
    return passed


def by_optuna(seed: int, budget_epochs: int) -> list[Passed]:
    """`optuna.create_study()` and `optimize`, every epoch reported: TPE and the median rule."""
    start, passed, spent = time.time(), list[Passed](), 0
    training, best = _training(), _Best()

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent
        recipe = _recipe(trial)
        for m in train(training, _run(recipe, seed)):
            spent += 1
            trial.report(_top1(m), m.epoch)
            if best.improved(recipe, m) or (spent == 1):
                passed.append((spent, time.time() - start, best.recipe))
            if spent >= budget_epochs:
                trial.study.stop()
            if spent >= budget_epochs or trial.should_prune():
                raise optuna.TrialPruned
        return _top1(m)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective)
    return passed


def by_ray(seed: int, budget_epochs: int) -> list[Passed]:
    """Ray Tune with ASHA (grace period 1, reduction factor 3) over a random search.

    It has a local cluster of its own.
    """
    import ray
    from ray import tune

    ray.init(
        address="local",
        num_cpus=1,
        log_to_driver=False,
        logging_level="error",
        include_dashboard=False,
    )
    start, left = time.time(), budget_epochs

    class Spent(tune.Stopper):
        """After so many epochs of all trials together."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        def stop_all(self) -> bool:
            return left <= 0

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            _trainable,
            param_space={
                "recipe": tune.sample_from(lambda _: _recipe_at_random().to_dict()), "seed": seed,
            },
            tune_config=tune.TuneConfig(
                metric="top1", mode="max", num_samples=-1, max_concurrent_trials=1,
                reuse_actors=True, scheduler=tune.schedulers.ASHAScheduler(
                    max_t=EPOCHS, grace_period=1, reduction_factor=3
                ),
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, stop=Spent()),
        )  # fmt: skip
        random.seed(seed)
        frames = [result.metrics_dataframe for result in tuner.fit()]
    ray.shutdown()
    best, passed = _Best(), list[Passed]()
    rows = sorted(
        (row for f in frames if f is not None for row in f.to_dict("records")),
        key=lambda r: r["ended_at"],
    )
    for spent, row in enumerate(rows[:budget_epochs], start=1):
        m = Measurement(
            epoch=int(row["epoch"]), step=0, lr_first=0, lr_last=0, seconds=0, examples_per_s=0,
            metrics={"train_loss": row["loss"], "val_loss": row["loss"], "top1": row["top1"]},
            ended_at=0,
        )  # fmt: skip
        if best.improved(Recipe.from_dict(json.loads(row["label"])), m) or spent == 1:
            passed.append((spent, row["ended_at"] - start, best.recipe))
    return passed


def _trainable(config: dict[str, Any]) -> None:
    from ray import tune

    for m in train(_training(), _run(Recipe.from_dict(config["recipe"]), config["seed"])):
        loss = m.metrics["val_loss"]
        tune.report({
            "top1": _top1(m), "loss": loss if math.isfinite(loss) else 1e9, "epoch": m.epoch,
            "ended_at": m.ended_at, "label": json.dumps(config["recipe"]),
        })  # fmt: skip


class _Best:
    """What a search on the raw score would recommend.

    That is the best finished run; before any, the best of all so far.
    """

    def __init__(self) -> None:
        self.recipe = Recipe()
        self._key = (False, -math.inf)

    def improved(self, recipe: Recipe, m: Measurement) -> bool:
        key = (m.epoch == EPOCHS, -math.inf if m.diverged else m.metrics["top1"])
        if key <= self._key:
            return False
        changed = recipe != self.recipe
        self.recipe, self._key = recipe, key
        return changed


def _recipe(trial: optuna.Trial) -> Recipe:
    """The space that `SPACE` describes, as one would write it for Optuna."""
    decay = trial.suggest_categorical("decay", DECAYS)
    return _build(
        trial.suggest_float("peak_lr", 0.003, 3.0, log=True),
        trial.suggest_int("warmup_epochs", 0, 2),
        decay,
        trial.suggest_float("cooldown_frac", 0.2, 0.6, step=0.2) if decay == "wsd" else 0.2,
        trial.suggest_int("every_epochs", 3, 6) if decay == "step" else 3,
        trial.suggest_int("patience_epochs", 1, 3) if decay == "plateau" else 1,
    )


def _recipe_at_random() -> Recipe:
    peak_lr = math.exp(random.uniform(math.log(0.003), math.log(3.0)))
    return _build(
        peak_lr, random.randint(0, 2), random.choice(DECAYS), random.choice((0.2, 0.4, 0.6)),
        random.randint(3, 6), random.randint(1, 3),
    )  # fmt: skip


def _build(
    peak_lr: float, warmup: int, decay: str, cooldown: float, every: int, patience: int
) -> Recipe:
    own: dict[str, Any] = {
        "wsd": {"cooldown_frac": cooldown},
        "step": {"every_epochs": float(every), "factor": 0.1},
        "plateau": {"patience_epochs": patience, "factor": 0.2},
    }.get(decay, {})
    return Recipe(
        optimizer="sgd", peak_lr=peak_lr, warmup_epochs=warmup, weight_decay=5e-4,
        decay=decay_from_dict({"name": decay} | own),
    )  # fmt: skip


def _training() -> NativeTraining:
    return NativeTraining(FASHION.task(), FASHION.settings)


def _run(recipe: Recipe, seed: int) -> Run:
    return Run(
        id="", kind="full", trial=0, recipe=recipe, recipe_epochs=EPOCHS, horizon_epochs=EPOCHS,
        stop_epochs=EPOCHS, seed=seed,
    )  # fmt: skip


def _quality(recipe: Recipe) -> float:
    """Mean final Top-1 over fresh seeds; a run that diverges counts 0."""
    training = _training()
    finals = [list(train(training, _run(recipe, seed)))[-1] for seed in FRESH_SEEDS]
    return statistics.fmean(map(_top1, finals))


def _top1(m: Measurement) -> float:
    """Top-1 after an epoch; 0 of one that diverged."""
    return 0.0 if m.diverged else m.metrics["top1"]


def _arrival(
    race: list[Passed], quality: dict[Recipe, float], wanted: float
) -> tuple[float, float]:
    """Epochs and seconds until the recommendation is good enough for the first time.

    Infinite where it never is.
    """
    return next(
        ((float(e), s) for e, s, recipe in race if quality[recipe] >= wanted), (math.inf, math.inf)
    )


def _cell(values: list[float], digits: int = 0) -> str:
    each = ", ".join(f"{value:.{digits}f}" for value in sorted(values))
    return f"{statistics.median(values):.{digits}f} [{each}]"


def _plain(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None


RACERS: dict[str, Callable[[int, int], list[Passed]]] = {
    "lrtune": by_lrtune, "Optuna defaults": by_optuna, "Ray ASHA": by_ray,
}  # fmt: skip

if __name__ == "__main__":
    main()
