"""Runs the search of lrtune itself on a pool.

Plan, sampler and recommendation are the real ones; the pool takes the place of the training.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.run import Measurement, Run, RunRecord, RunState
from lrtune.core.study import Budget, StudyConfig, StudyState
from lrtune.decide.looks import automatic_looks
from lrtune.decide.plan import next_run
from lrtune.decide.recommend import recommend
from lrtune.decide.trials import trials_of
from lrtune.tuning import sampler

from .ledger import Ledger, Strategy
from .pools import Epoch, Pool

STEPS_PER_EPOCH = 62
"""Of the first bank; the others have nearly as many."""


@dataclass(kw_only=True)
class Search:
    """The search of lrtune, made for the ledger's budget.

    A look is answered by the recorded run of its length, another look of the same length by one
    with another seed, and each round of the race by full runs that no look has used. Each epoch of
    them counts, the baseline's too. The baseline is the recipe of the pool that is nearest to the
    optimizer's default. What a run would take over from one that was trained before costs nothing.
    What is recommended is noted from the first look on.
    """

    lag: int = StudyConfig.lag
    """Trials that the sampler does not see yet."""
    _asked: dict[Hashable, Recipe] = field(default_factory=dict)
    """Answers of the sampler, by all that they follow from: searches of one seed with different
    budgets begin alike, and asking takes most of their time."""

    def __call__(self, ledger: Ledger, seed: int) -> None:
        """Searches the ledger's pool."""
        config = self.config(ledger.pool, ledger.budget_epochs, seed)
        state = StudyState(config=config)
        while isinstance(run := next_run(state, self._ask_for(ledger.pool)), Run):
            state = replace(state, records=(*state.records, _train(run, ledger, state)))
            found = recommend(state)
            if found is not None:
                ledger.recommend(ledger.pool.recipes.index(found.best.recipe))

    def config(self, pool: Pool, budget_epochs: int, seed: int) -> StudyConfig:
        """The study that `lrtune search` would begin."""
        usual = default_recipe(pool.recipes[0].optimizer)
        epochs = pool.horizon_epochs
        return StudyConfig(
            name=pool.name, task={}, space_name=pool.name, space_toml=_space(pool), epochs=epochs,
            steps_per_epoch=STEPS_PER_EPOCH, num_validation=4000,
            objective=Objective(num_counted=4000, guessing=10.0), rank_by="val_loss:min",
            seed=seed, lag=self.lag, looks=automatic_looks(epochs, STEPS_PER_EPOCH, seed=seed),
            baseline=min(pool.recipes, key=lambda recipe: _distance(recipe, usual)),
            budget=Budget(budget_epochs, "epochs"), max_seeds=pool.max_rounds,
        )  # fmt: skip

    def _ask_for(self, pool: Pool) -> "_Ask":
        return _Ask(pool=pool, asked=self._asked)


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """The sampler of lrtune, with each recipe replaced by the nearest one in the pool.

    Recipes of the pool that were not tried yet come first.
    """

    pool: Pool
    asked: dict[Hashable, Recipe]

    def __call__(self, state: StudyState, number: int) -> Recipe:
        trials = trials_of(state)[:number]
        seen = tuple((t.recipe.label, t.scores[:1]) for t in trials)
        key = (self.pool.name, state.config.seed, number, seen)
        if key not in self.asked:
            self.asked[key] = sampler.ask(state, number)
        recipe, tried = self.asked[key], {trial.recipe for trial in trials}
        return min(self.pool.recipes, key=lambda one: (one in tried, _distance(one, recipe)))


def _train(run: Run, ledger: Ledger, state: StudyState) -> RunRecord:
    """The run's record, with the epochs of one that was trained before taken over from it."""
    pool = ledger.pool
    index, number = pool.recipes.index(run.recipe), _number_of(run, state.config)
    training = ledger.start(index, horizon_epochs=run.horizon_epochs, seed=number)
    known = max((len(other.epochs) for other in ledger.runs if other.is_same(training)), default=0)
    training.epochs += pool.result(
        index, run.horizon_epochs, min(known, run.stop_epochs), seed=number
    )
    training.train(run.stop_epochs)
    ended: RunState = "diverged" if training.diverged else "completed"
    measurements = tuple(
        _measurement(epoch, values, reused=epoch <= known)
        for epoch, values in enumerate(training.epochs, start=1)
    )
    return RunRecord(run=run, state=ended, measurements=measurements)


def _number_of(run: Run, config: StudyConfig) -> int:
    """Which of the recorded runs of its length answers a run: the first, the second, ..."""
    if run.kind != "look":
        return run.seed - config.seed - 1  # a round of the race
    seeds = [look.seed for look in config.looks if look.epochs == run.horizon_epochs]
    return seeds.index(run.seed)


def _measurement(epoch: int, values: Epoch, *, reused: bool) -> Measurement:
    return Measurement(
        epoch=epoch, step=epoch * STEPS_PER_EPOCH, lr_first=0.0, lr_last=0.0,
        metrics={
            "train_loss": values.val_loss, "val_loss": values.val_loss, "top1": values.score,
        },
        seconds=0.0, examples_per_s=0.0, ended_at=0.0, reused=reused,
    )  # fmt: skip


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
    names = dict.fromkeys(recipe.decay.name for recipe in pool.recipes)
    patiences = {r.decay.patience_epochs for r in pool.recipes if isinstance(r.decay, Plateau)}
    parameters = {  # of a decay
        "wsd": "cooldown_frac = 0.3",
        "step": f"every_epochs = {pool.horizon_epochs / 3}\nfactor = 0.1",
        "plateau": f"patience_epochs = {{ choices = {sorted(patiences)} }}\nfactor = 0.2",
    }
    choices = ", ".join(f'"{name}"' for name in names)
    tables = "\n".join(
        f"[decay.{name}]\n{parameters[name]}" for name in names if name in parameters
    )
    return f"""
[parameters]
peak_lr = {{ low = {lrs[0]}, high = {lrs[-1]}, log = true }}
warmup_epochs = {{ low = 0, high = 2, step = 2 }}
decay = {{ choices = [{choices}] }}
{tables}
"""


OURS: dict[str, Strategy] = {"lrtune": Search(), "lrtune, lag 1": Search(lag=1)}
"""The default, and with a sampler that sees every trial before the next, which only one worker
could do."""
