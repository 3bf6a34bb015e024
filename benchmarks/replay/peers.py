"""The strategies that others use, each by its own code: Optuna's samplers and pruners, Ray's ASHA.

Theirs are the decisions; ours are only two simple ones to compare with, halving and one epoch for
all. All see the raw score, as they do in life, one trial at a time.
"""

from collections.abc import Callable, Iterator
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from .ledger import Ledger, Over, Run, Strategy, by_rank
from .pools import Parameter, Value

ETA = 3
NUM_FINISHED = 3
"""By `one_epoch_for_all`."""


def by_optuna(
    sampler: Callable[[int], BaseSampler], pruner: Callable[[int], BasePruner]
) -> Strategy:
    """An Optuna study; `sampler` is built from the seed, `pruner` from the horizon."""

    def search(ledger: Ledger, seed: int) -> None:
        study = _study(sampler(seed), pruner(ledger.pool.horizon_epochs), seed)
        while True:
            trial = study.ask()
            run = ledger.start(ledger.nearest(suggest(trial, ledger.pool.parameters), again=True))
            study.tell(trial, *_outcome(run, trial))

    return search


def _outcome(run: Run, trial: optuna.Trial) -> tuple[float | None, TrialState]:
    """Trains as `study.optimize` would train.

    The objective reports every epoch and returns the last score.
    """
    while not run.ended:
        run.train(len(run.epochs) + 1)
        trial.report(run.score, len(run.epochs))
        if trial.should_prune():
            return None, TrialState.PRUNED
    return (None, TrialState.FAIL) if run.diverged else (run.score, TrialState.COMPLETE)


def by_ray(sampler: Callable[[int], BaseSampler]) -> Strategy:
    """Ray Tune's ASHA over its OptunaSearch, without a cluster.

    Both are asked as Ray's controller asks them.
    """

    def search(ledger: Ledger, seed: int) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
        from ray.tune.search.optuna import OptunaSearch

        pool = ledger.pool
        scheduler = AsyncHyperBandScheduler(
            metric="score",
            mode="max",
            max_t=pool.horizon_epochs,
            grace_period=1,
            reduction_factor=ETA,
        )
        searcher = OptunaSearch(
            lambda trial: suggest(trial, pool.parameters), "score", "max", sampler=sampler(seed)
        )
        for number in count():
            trial: Any = SimpleNamespace(trial_id=f"{number}")
            run = ledger.start(ledger.nearest(searcher.suggest(trial.trial_id), again=True))
            scheduler.on_trial_add(None, trial)
            decision = TrialScheduler.CONTINUE
            while decision == TrialScheduler.CONTINUE:
                run.train(len(run.epochs) + 1)
                result = {"score": run.score, "training_iteration": len(run.epochs)}
                if run.diverged:  # it ends by itself
                    scheduler.on_trial_complete(None, trial, result)
                    break
                decision = scheduler.on_trial_result(None, trial, result)
                if decision == TrialScheduler.CONTINUE:
                    searcher.on_trial_result(trial.trial_id, result)
            searcher.on_trial_complete(trial.trial_id, result)

    return search


def halving(ledger: Ledger, seed: int) -> None:
    """Successive halving from one epoch on, with runs that are resumed.

    Each bracket has one survivor. The last brackets take all runs that were left behind.
    """
    rungs = _rungs(ledger.pool.horizon_epochs)
    new = at_random(ledger, seed)
    begun: list[Run] = []
    while bracket := list(islice(new, ETA ** (len(rungs) - 1))) or [
        run for run in begun if not run.ended
    ]:
        begun += [run for run in bracket if not run.epochs]
        for rung in rungs:
            for run in bracket:
                run.train(rung)
            bracket = sorted(bracket, key=by_rank, reverse=True)[: max(1, len(bracket) // ETA)]


def one_epoch_for_all(ledger: Ledger, seed: int) -> None:
    """Trains many configurations for one epoch each, then finishes the best ones.

    There are as many as leave enough budget to finish the best three. The others follow if there is
    more.
    """
    horizon = ledger.pool.horizon_epochs
    size = max(NUM_FINISHED, ledger.budget_epochs - NUM_FINISHED * (horizon - 1))
    runs = list(islice(at_random(ledger, seed), size))
    for run in runs:
        run.train(1)
    for run in sorted(runs, key=by_rank, reverse=True):
        run.train(horizon)


def at_random(ledger: Ledger, seed: int) -> Iterator[Run]:
    """Runs of configurations as Optuna's `RandomSampler` draws them, but none twice."""
    study = _study(RandomSampler(seed), NopPruner(), seed)
    while True:
        try:
            index = ledger.nearest(suggest(study.ask(), ledger.pool.parameters), again=False)
        except Over:
            return
        yield ledger.start(index)


def suggest(trial: optuna.Trial, parameters: tuple[Parameter, ...]) -> dict[str, Value]:
    """Asks `trial` for each parameter that exists beside those before it."""
    values: dict[str, Value] = {}
    for p in parameters:
        if p.exists(values):
            if p.kind == "choice":
                values[p.name] = trial.suggest_categorical(p.name, p.choices)
            else:
                values[p.name] = p.choices[trial.suggest_int(p.name, 0, len(p.choices) - 1)]
    return values


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _study(sampler: BaseSampler, pruner: BasePruner, seed: int) -> optuna.Study:
    # Hyperband deals trials to its brackets by a hash of the study's name, which would be random.
    return optuna.create_study(
        study_name=f"replay {seed}", direction="maximize", sampler=sampler, pruner=pruner
    )


def _rungs(horizon: int) -> list[int]:
    """1, 3, 9, ... and the horizon: `[1, 3, 9, 27]` of 27, `[1, 3, 9, 27, 51]` of 51."""
    powers = [ETA**i for i in range(horizon.bit_length()) if ETA**i < horizon]
    return [*powers, horizon]


PEERS: dict[str, Strategy] = {
    "random": by_optuna(RandomSampler, lambda _: NopPruner()),
    "TPE": by_optuna(_tpe, lambda _: NopPruner()),
    "TPE + median": by_optuna(_tpe, lambda _: MedianPruner()),  # what Optuna does unasked
    "TPE + halving": by_optuna(_tpe, lambda _: SuccessiveHalvingPruner()),
    "TPE + Hyperband": by_optuna(_tpe, lambda horizon: HyperbandPruner(max_resource=horizon)),
    "ASHA": by_ray(RandomSampler),
    "ASHA + TPE": by_ray(_tpe),
    "halving": halving,
    "one epoch for all": one_epoch_for_all,
}
SIZED = {"one epoch for all"}
"""Made for one budget: to be replayed anew for each."""
NEED_RAY = {"ASHA", "ASHA + TPE"}
