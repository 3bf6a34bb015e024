"""Runs the search of lrtune itself on a pool.

Plan, promotions and sampler are the real ones; the pool takes the place of the training.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import BASELINE, Measurement, Run, RunRecord, RunState
from lrtune.core.study import Budget, Rung, SamplerName, Signal, StudyConfig, StudyState
from lrtune.decide.plan import next_run
from lrtune.decide.recommend import recommend
from lrtune.decide.rungs import automatic_rungs
from lrtune.decide.trials import trials_of
from lrtune.tuning import sampler

from .ledger import Ledger, Strategy
from .peers import suggest
from .pools import Pool

STEPS_PER_EPOCH = 62
"""Of the bank."""
Ask = Callable[[StudyState, int], Recipe]


def ours(
    rungs: str = "auto",
    *,
    sampled_by: SamplerName = "tpe",
    signal: Signal = "averaged",
    confirmed: int = 3,
) -> Strategy:
    """The search of lrtune with these rungs.

    `rungs="auto"` takes the rungs that `lrtune search` would choose. The search is made for the
    ledger's budget, and sets a part of it aside to retrain its best `confirmed` recipes with three
    fresh seeds. The baseline is not trained, and known to be bad: nobody else is given one. Where
    horizons cannot be compressed and no averages were recorded, this is halving on the raw score,
    and nothing is confirmed.
    """

    def search(ledger: Ledger, seed: int) -> None:
        pool = ledger.pool
        fair = bool(pool.recipes)
        pruner = "fair" if fair else "halving"
        automatic = automatic_rungs(pruner, pool.horizon_epochs, STEPS_PER_EPOCH)
        config = StudyConfig(
            name=pool.name, task={}, space_name=pool.name, space_toml=_space(pool) if fair else "",
            epochs=pool.horizon_epochs, steps_per_epoch=STEPS_PER_EPOCH, num_validation=4000,
            objective=Objective(num_counted=4000, guessing=10.0), seed=seed,
            sampler=sampled_by, pruner=pruner, signal=signal if fair else "raw",
            rungs=automatic if rungs == "auto" else Rung.parse(rungs),
            baseline=default_recipe(pool.recipes[0].optimizer) if fair else Recipe(),
            budget=Budget(ledger.budget_epochs, "epochs"), num_confirmed=confirmed if fair else 0,
        )  # fmt: skip
        ask = _ask_for_recipes(pool) if fair else _ask_for_places(ledger)
        state = StudyState(
            config=config, records=tuple(map(_no_baseline, range(config.num_seeds), repeat(config)))
        )
        while isinstance(run := next_run(state, ask), Run):
            state = replace(state, records=(*state.records, _train(run, ledger, state)))
            found = recommend(state)
            if found is not None:
                ledger.recommend(_index(pool, found.best.recipe))

    return search


def _train(run: Run, ledger: Ledger, state: StudyState) -> RunRecord:
    """The run's record.

    Epochs that another run with the same recipe and horizon has trained cost nothing.
    """
    pool = ledger.pool
    index = _index(pool, run.recipe)
    training = ledger.start(index, horizon_epochs=run.horizon_epochs)
    known = 0
    if run.kind != "confirm":
        alike = (
            r
            for r in state.records
            if r.run.kind != "baseline" and _index(pool, r.run.recipe) == index
        )
        known = max(
            (r.epochs for r in alike if r.run.horizon_epochs == run.horizon_epochs), default=0
        )
    training.epochs += pool.result(index, run.horizon_epochs, min(known, run.stop_epochs))
    training.train(run.stop_epochs)
    measurements = [
        _measurement(number, *epoch, reused=number <= known)
        for number, epoch in enumerate(training.epochs, 1)
    ]
    if run.kind == "confirm":
        fresh = pool.fresh[index] or [measurements[-1].metrics["top1"]]
        top1 = fresh[(run.seed - state.config.seed - 1) % len(fresh)]
        last = measurements[-1]
        measurements[-1] = replace(last, metrics={**last.metrics, "top1": top1})
    ended: RunState = "diverged" if training.diverged else "completed"
    return RunRecord(run=run, state=ended, measurements=tuple(measurements))


def _no_baseline(number: int, config: StudyConfig) -> RunRecord:
    """A run of the baseline that cost nothing and came to nothing."""
    run = Run(
        id=f"baseline-{number}", kind="baseline", trial=BASELINE, recipe=config.baseline,
        recipe_epochs=config.epochs, horizon_epochs=config.epochs, stop_epochs=config.epochs,
        seed=number,
    )  # fmt: skip
    return RunRecord(
        run=run, state="diverged", measurements=(_measurement(1, 0.0, 0.0, math.nan, reused=True),)
    )


def _measurement(
    epoch: int, top1: float, averaged_top1: float, val_loss: float, *, reused: bool
) -> Measurement:
    return Measurement(
        epoch=epoch, step=epoch, lr_first=0.0, lr_last=0.0,
        metrics={
            "train_loss": val_loss, "val_loss": val_loss, "top1": top1,
            "averaged_top1": averaged_top1,
        },
        seconds=0.0, examples_per_s=0.0, ended_at=0.0, reused=reused,
    )  # fmt: skip


def _ask_for_recipes(pool: Pool) -> Ask:
    """The sampler of lrtune, with each recipe replaced by the nearest one in the bank.

    Recipes of the bank that were not tried yet come first.
    """

    def ask(state: StudyState, number: int) -> Recipe:
        recipe = sampler.ask(state, number)
        tried = {trial.recipe for trial in trials_of(state)}
        return min(pool.recipes, key=lambda one: (one in tried, _distance(one, recipe)))

    return ask


def _distance(one: Recipe, other: Recipe) -> tuple[bool, bool, float, float]:
    """The decay counts most, then its patience, the warmup and the peak LR."""
    patience = [
        recipe.decay.patience_epochs if isinstance(recipe.decay, Plateau) else 0
        for recipe in (one, other)
    ]
    return (
        one.decay.name != other.decay.name,
        patience[0] != patience[1],
        abs(one.warmup_epochs - other.warmup_epochs),
        abs(math.log(one.peak_lr / other.peak_lr)),
    )


def _space(pool: Pool) -> str:
    """The bank's grid as a search space."""
    lrs = sorted({recipe.peak_lr for recipe in pool.recipes})
    names = ", ".join(
        f'"{name}"' for name in dict.fromkeys(recipe.decay.name for recipe in pool.recipes)
    )
    return f"""
        [parameters]
        peak_lr = {{ low = {lrs[0]}, high = {lrs[-1]}, log = true }}
        warmup_epochs = {{ low = 0, high = 2, step = 2 }}
        decay = {{ choices = [{names}] }}
        [decay.wsd]
        cooldown_frac = 0.3
        [decay.step]
        every_epochs = 9
        factor = 0.1
        [decay.plateau]
        patience_epochs = {{ choices = [1, 2, 4] }}
        factor = 0.2
    """


def _ask_for_places(ledger: Ledger) -> Ask:
    """For columns that are no recipe: TPE as lrtune's sampler uses it, on scores across rungs.

    A configuration's place in the pool travels as the peak LR of a recipe.
    """
    pool = ledger.pool

    def ask(state: StudyState, number: int) -> Recipe:
        words = f"{state.config.seed} {number}".encode()
        seed = int.from_bytes(hashlib.sha256(words).digest()[:4], "big")
        asked = optuna.create_study().ask()
        suggest(asked, pool.parameters)
        distributions: dict[str, BaseDistribution] = dict(asked.distributions)
        study = optuna.create_study(
            direction="maximize", sampler=TPESampler(seed=seed, group=True, multivariate=True)
        )
        study.add_trials([
            create_trial(
                params=dict(pool.configurations[_index(pool, trial.recipe)]),
                distributions=distributions,
                value=trial.level + math.tanh(trial.score) / 2 if trial.alive else 0.0,
            )
            for trial in trials_of(state)
        ])  # fmt: skip
        place = ledger.nearest(suggest(study.ask(), pool.parameters), again=False)
        return Recipe(peak_lr=float(place + 1))

    return ask


def _index(pool: Pool, recipe: Recipe) -> int:
    return pool.recipes.index(recipe) if pool.recipes else int(recipe.peak_lr) - 1


OURS: dict[str, Strategy] = {
    "lrtune": ours(),
    "lrtune, unconfirmed": ours(confirmed=0),
    "lrtune, random": ours(sampled_by="random"),
    "lrtune, c1": ours("c1"),
    "lrtune, c1,c3": ours("c1,c3"),
    "lrtune, c1,c3,9": ours("c1,c3,9"),
    "lrtune, 1,3,9": ours("1,3,9"),
    "lrtune, 1,3,9 raw": ours("1,3,9", signal="raw"),
}
"""The default, and what it was chosen from."""
