"""Made-up small studies, at any stage.

`looked` is what a search is by default: looks, finalists and a race, in the order that the plan
makes of it. `done` is one whose recipes were all trained in full.
"""

import math
from dataclasses import replace

import pytest

from lrtune.core.decays import WSD, Constant, Cosine, HoldPower, Linear, Plateau, StepDecay
from lrtune.core.objective import Objective
from lrtune.core.recipe import NamedRecipe, Recipe
from lrtune.core.run import Measurement, Run, RunRecord
from lrtune.core.space import Interval
from lrtune.core.study import Budget, RangeCurve, RangeResult, StudyConfig, StudyState
from lrtune.decide.looks import looks_of
from lrtune.decide.plan import Done, next_run
from lrtune.decide.recommend import recommend
from lrtune.reporting.document import Report
from lrtune.schedules.compress import schedule_of

EPOCHS, STEPS_PER_EPOCH = 12, 20
BASELINE = Recipe(peak_lr=0.1, decay=StepDecay(every_epochs=4))
RECIPES = [  # with the Top-1 that each comes to
    (Recipe(peak_lr=0.213, warmup_epochs=1, decay=Cosine()), 91.2),
    (Recipe(peak_lr=0.35, warmup_epochs=0.6, decay=Linear()), 91.9),
    (Recipe(peak_lr=0.28, warmup_epochs=1, decay=WSD(cooldown_frac=0.3), weight_decay=5e-4), 91.7),
    (Recipe(peak_lr=0.02, decay=Constant()), 86.4),
    (Recipe(peak_lr=0.05, warmup_epochs=0.5, decay=Plateau(patience_epochs=1)), 90.1),
    (Recipe(peak_lr=0.41, decay=HoldPower(hold_frac=0.3, power=1.5), final_frac=0.01), 91.4),
    (Recipe(peak_lr=0.9, decay=Cosine()), 88.0),
    (Recipe(peak_lr=0.15, decay=Linear()), 91.1),
]
START = 1_700_000_000.0


def measurements(
    run: Run, top1: float, *, epochs: int, start: float, reused: int = 0
) -> tuple[Measurement, ...]:
    """A saturating curve that wiggles with the seed; its first `reused` epochs are taken over."""
    schedule, recipe, seed = schedule_of(run, STEPS_PER_EPOCH), run.recipe, run.seed
    found = []
    for epoch in range(1, epochs + 1):
        reached = top1 - 30 * math.exp(-epoch / 2.2) + 0.25 * math.sin(7 * seed + 1.7 * epoch)
        val_loss = 3.2 - reached / 31
        first = (epoch - 1) * STEPS_PER_EPOCH
        found.append(
            Measurement(
                epoch=epoch,
                step=epoch * STEPS_PER_EPOCH,
                lr_first=recipe.peak_lr * schedule(first),
                lr_last=recipe.peak_lr * schedule(first + STEPS_PER_EPOCH - 1),
                metrics={
                    "train_loss": val_loss * 0.9,
                    "val_loss": val_loss,
                    "top1": round(reached, 2),
                    "averaged_val_loss": val_loss - 0.01,
                    "averaged_top1": round(reached + 0.4, 2),
                },
                seconds=2.5,
                examples_per_s=1040.0 + epoch,
                ended_at=start + 2.5 * epoch,
                prefix=f"{recipe.label} {run.horizon_epochs} {seed} {epoch}",
                reused=epoch <= reused,
            )
        )
        schedule = schedule.observe({"val_loss": val_loss, "top1": reached})
    return tuple(found)


def record(
    run_id, kind, trial, recipe, seed, top1, *, epochs=None, state="completed", reason="",
    test_top1=None,
):  # fmt: skip
    """A full run: of the search, of the baseline or of the race."""
    run = Run(
        id=run_id, kind=kind, trial=trial, recipe=recipe, recipe_epochs=EPOCHS, stop_epochs=EPOCHS,
        seed=seed, horizon_epochs=EPOCHS,
    )  # fmt: skip
    return ended(run, top1, epochs=epochs, state=state, reason=reason, test_top1=test_top1)


def ended(
    run, top1, *, epochs=None, state="completed", reason="", test_top1=None, reused=0,
    start=None,
):  # fmt: skip
    """A run that would come to this Top-1 in twelve epochs, and a look to less."""
    start = START + 40 * run.trial + 1000 * run.seed if start is None else start
    epochs = run.stop_epochs if epochs is None else epochs
    measured = measurements(run, top1, epochs=epochs, start=start, reused=reused)
    if state == "diverged":
        last = {"train_loss": math.nan, "val_loss": math.nan, "top1": 10.0}
        measured = (*measured[:-1], replace(measured[-1], metrics=last))
    test = None if test_top1 is None else {"val_loss": 3.2 - test_top1 / 31, "top1": test_top1}
    return RunRecord(run=run, state=state, reason=reason, measurements=measured, test=test)


def baseline_records(test_top1=None):
    return tuple(
        record(
            f"baseline-{i}", "baseline", -1, BASELINE, 1 + i, 89.6 + 0.1 * i, test_top1=test_top1
        )
        for i in range(3)
    )


def search_records():
    finished = [
        record(f"trial-{i:04d}", "full", i, recipe, 0, top1)
        for i, (recipe, top1) in enumerate(RECIPES)
    ]
    slow = Recipe(peak_lr=0.004, decay=Cosine())
    wild = Recipe(peak_lr=2.4, decay=Constant())
    why = (
        "Top-1 68.2 after 4 epochs, 2.1 points below every finished trial there | <b>95 %</b> sure "
        "not to come back"
    )
    stopped = [
        record("trial-0008", "full", 8, slow, 0, 75.0, epochs=4, state="pruned", reason=why),
        record(
            "trial-0009",
            "full",
            9,
            wild,
            0,
            40.0,
            epochs=2,
            state="diverged",
            reason="the loss of epoch 2 is not finite",
        ),
        record(
            "trial-0010", "full", 10, wild, 0, 0, epochs=0, state="failed", reason="out of memory"
        ),
    ]
    return (*finished, *stopped)


def confirmation_records(trials=(1, 2, 5), test_top1=None):
    return tuple(
        record(
            f"trial-{trial:04d}-confirm-{i}", "confirm", trial, RECIPES[trial][0], 1 + i,
            RECIPES[trial][1] - 0.2 * i,
            test_top1=test_top1 if trial == trials[0] else None,
        )
        for trial in trials
        for i in range(3)
    )  # fmt: skip


COMPARED = (  # with the Top-1 that each comes to
    (
        NamedRecipe(name="sgd-step", recipe=BASELINE),
        89.6,
    ),
    (
        NamedRecipe(
            name="adamw-<cosine>", recipe=Recipe(optimizer="adamw", peak_lr=1e-3, warmup_epochs=1)
        ),
        91.3,
    ),
    (NamedRecipe(name="sgd-linear", recipe=Recipe(peak_lr=0.2, decay=Linear())), 91.1),
    (
        NamedRecipe(
            name="prodigy", recipe=Recipe(optimizer="prodigy", peak_lr=1.0, decay=Constant())
        ),
        85.0,
    ),
    (
        NamedRecipe(
            name="sgd-plateau", recipe=Recipe(peak_lr=0.05, decay=Plateau(patience_epochs=1))
        ),
        88.1,
    ),
)


def compared_records(num_recipes=5, *, more_seeds=True):
    """Three seeds each; where more were asked for, five of the first and of the two that lead."""
    return tuple(
        record(
            f"trial-{i:04d}-confirm-{j}" if i else f"baseline-{j}",
            "confirm" if i else "baseline", i or -1,
            named.recipe, 1 + j, top1 + 0.2 * (j % 3) * (-1) ** i,
        )
        for i, (named, top1) in enumerate(COMPARED[:num_recipes])
        for j in range(5 if more_seeds and i < 3 else 3)
    )  # fmt: skip


LOOKS = looks_of(2, 4, seed=0)
"""Two epochs; four of the best sixth; and four of the best twelfth with another seed."""
NUM_LOOKED = 18
LOOKED = (BASELINE, *(recipe for recipe, _ in RECIPES))
LOOKED = (*LOOKED, *(replace(recipe, peak_lr=recipe.peak_lr / 3) for recipe in LOOKED))
"""The recipes of `looked`, by trial; the first is the baseline's."""
LOOKED_TOP1 = {BASELINE: 89.6, **dict(RECIPES)}
LOOKED_TOP1 |= {r: LOOKED_TOP1[full] - 1.5 for full, r in zip(LOOKED, LOOKED[9:], strict=False)}


def look_config(config, **changes):
    """Of a search with looks, which are ranked by the validation loss."""
    values = {
        "budget": Budget(NUM_LOOKED, "trials"), "looks": LOOKS, "rank_by": "val_loss:min",
        "max_seeds": 5,
    }  # fmt: skip
    return replace(config, **values | changes)


def as_it_goes(run, start):
    """What a run of `looked` comes to; one diverged, one was pruned and one lost its checkpoint."""
    top1 = LOOKED_TOP1[run.recipe]
    luck = 0.3 * math.sin(5 * run.trial + 5 * run.seed)
    match run.id:
        case "trial-0007-look-1":
            why = "the loss of epoch 2 is not finite"
            return ended(run, 40.0, state="diverged", reason=why, start=start)
        case "trial-0013-look-1":
            why = "Top-1 10.3 is not told from chance (10.0 ± 0.7) at epoch 1"
            return ended(run, 29.0, epochs=1, state="pruned", reason=why, start=start)
        case "trial-0002-look-2":
            record = ended(run, top1, reused=1, start=start)
            first, second, *others = record.measurements
            again = replace(second, again_epochs=1)  # its checkpoint was gone
            return replace(record, measurements=(first, again, *others))
    test_top1 = 91.3 if run.trial == 2 and run.kind == "confirm" else None
    test_top1 = 89.1 if run.kind == "baseline" else test_top1
    return ended(run, top1 + luck, test_top1=test_top1, start=start)


def looked_state(config):
    """The whole study that the plan makes of `config`."""
    state, recipes = StudyState(config=config), (config.baseline, *LOOKED[1:])
    while not isinstance(run := next_run(state, lambda _state, number: recipes[number]), Done):
        start = state.records[-1].measurements[-1].ended_at + 1 if state.records else START
        state = replace(state, records=(*state.records, as_it_goes(run, start)))
    return state


def looked_at(config, until):
    """The same up to a run, which is under way."""
    state = looked_state(config)
    index = [record.run.id for record in state.records].index(until)
    begun = replace(state.records[index], state="running", reason="", test=None)
    begun = replace(begun, measurements=begun.measurements[:1])
    return replace(state, records=(*state.records[:index], begun))


def range_result(optimizer="sgd", *, signal=True):
    lrs = tuple(10 ** (-5 + 6 * i / 80) for i in range(81))
    curves = tuple(
        RangeCurve(
            seed=seed,
            lrs=lrs,
            losses=tuple(
                2.3
                - (1.2 / (1 + (0.03 / x) ** 1.5) - 0.05 * x**2) * signal
                + 0.02 * math.sin(9 * i + seed)
                for i, x in enumerate(lrs)
            ),
            diverged=signal,
        )
        for seed in range(3)
    )
    return RangeResult(
        optimizer=optimizer,
        curves=curves,
        interval=Interval(low=0.012, high=0.94, suggestion=0.21) if signal else None,
        rule="from the steepest descent to the lowest loss",
        reason="" if signal else "The loss fell by less than its noise at every learning rate.",
    )


@pytest.fixture
def config():
    return StudyConfig(
        name="digits-<first>",
        task={"data": "digits", "model": "small-cnn"},
        space_name="default",
        space_toml="",
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        num_validation=2000,
        objective=Objective(num_counted=2000, guessing=10.0),
        budget=Budget(11, "trials"),
        baseline=BASELINE,
        environment={"Python": "3.11.7", "PyTorch": "2.15.0", "CPU": "2 cores"},
        command="lrtune search --data digits --budget 11 --study 'digits-<first>'",
    )


def report_of(state, importances=None):
    shares = {"peak_lr": 0.61, "decay": 0.22, "warmup_epochs": 0.12, "weight_decay": 0.05}
    return Report(
        state=state,
        recommendation=recommend(state),
        importances=shares if importances is None else importances,
    )


@pytest.fixture
def done(config):
    """Finished, confirmed and tested."""
    records = baseline_records(89.1) + search_records() + confirmation_records(test_top1=91.3)
    return report_of(StudyState(config=config, range_results=(range_result(),), records=records))


@pytest.fixture
def looked_config(config):
    return look_config(config)


@pytest.fixture
def looked(looked_config):
    """A finished study with looks, finalists and a race."""
    state = looked_state(looked_config)
    return report_of(replace(state, range_results=(range_result(),)))


@pytest.fixture
def comparison_config(config):
    recipes = tuple(named for named, _ in COMPARED)
    return replace(
        config, name="comparison", recipes=recipes, space_name="", pruner="none", max_seeds=5,
        command="lrtune compare --data digits",
    )  # fmt: skip


@pytest.fixture
def comparison(comparison_config):
    """A finished comparison."""
    state = StudyState(config=comparison_config, records=compared_records())
    return report_of(state, {})


def stages(config):
    """Every stage that a study can be at, by name."""
    best_plateau = tuple(r for r in search_records() if r.run.recipe.decay.name == "plateau")
    everything = baseline_records() + search_records()
    searching, alone = look_config(config), look_config(config, budget=Budget(5, "runs"))
    worse = record("trial-0000", "full", 0, RECIPES[3][0], 0, 86)
    worse_again = (
        replace(
            worse, run=replace(worse.run, id=f"trial-0000-confirm-{i}", kind="confirm", seed=i + 1)
        )
        for i in range(3)
    )
    comparison = replace(
        config, recipes=tuple(named for named, _ in COMPARED), pruner="none", max_seeds=5
    )
    lost = record(
        "trial-0001-confirm-0",
        "confirm",
        1,
        COMPARED[1][0].recipe,
        1,
        40,
        epochs=2,
        state="diverged",
    )
    states = {
        "nothing": StudyState(config=config),
        "range test": StudyState(config=config, range_results=(range_result(),)),
        "no signal": StudyState(
            config=config, range_results=(range_result(signal=False), range_result("adamw"))
        ),
        "baseline": StudyState(config=config, records=baseline_records()),
        "diverged baseline": StudyState(
            config=config,
            records=(
                record("baseline-0", "baseline", -1, BASELINE, 1, 20, epochs=1, state="diverged"),
            ),
        ),
        "everything diverged": StudyState(
            config=replace(config, num_seeds=1, budget=Budget(1, "trials")),
            records=(
                record("baseline-0", "baseline", -1, BASELINE, 1, 20, epochs=1, state="diverged"),
                record("trial-0000", "full", 0, RECIPES[0][0], 0, 20, epochs=1, state="diverged"),
            ),
        ),
        "unconfirmed": StudyState(config=config, records=everything),
        "no baseline": StudyState(config=config, records=search_records()),
        "half confirmed": StudyState(
            config=config, records=everything + confirmation_records()[:1]
        ),
        "running": StudyState(
            config=config,
            records=(
                *everything,
                replace(confirmation_records()[0], state="running", measurements=()),
            ),
        ),
        "plateau": StudyState(
            config=config,
            records=baseline_records() + best_plateau + confirmation_records(trials=(4,)),
        ),
        "in the first looks": looked_at(searching, "trial-0005-look-1"),
        "in the second looks": looked_at(searching, "trial-0003-look-2"),
        "racing": looked_at(searching, "baseline-1"),
        "looks alone": looked_state(alone),
        "looks alone for the baseline": looked_state(replace(alone, baseline=RECIPES[1][0])),
        "quick": looked_state(look_config(config, confirm="quick")),
        "no proof": looked_state(look_config(config, confirm="0")),
        "worse than the baseline": StudyState(
            config=config, records=(*baseline_records(), worse, *worse_again)
        ),
        "comparison": StudyState(config=comparison),
        "comparison of one so far": StudyState(config=comparison, records=compared_records(1)),
        "comparison of three so far": StudyState(
            config=comparison, records=compared_records(3, more_seeds=False)
        ),
        "comparison with a loss": StudyState(
            config=comparison, records=(*compared_records(1), lost)
        ),
    }
    return {name: report_of(state, {}) for name, state in states.items()}


VAL_LOSS = Objective(metric="val_loss", direction="min")
F1 = Objective(metric="f1", direction="max")
OF_TOP1 = {
    VAL_LOSS: lambda top1: 0.01 * math.exp((95 - top1) / 10),  # 0.0135 at 92 %, 49 at 10 %
    F1: lambda top1: top1 / 100,
}
"""What a Top-1 of the made-up study is by another objective: a minimised, unbounded one, and a
share."""


def by_objective(report, objective, of_top1=None):
    """The same study, measured by another objective: nothing of Top-1 is left in it."""
    of_top1 = of_top1 or OF_TOP1[objective]

    def converted(metrics):
        others = {name: value for name, value in metrics.items() if "top1" not in name}
        top1s = {name: value for name, value in metrics.items() if "top1" in name}
        is_lost = not math.isfinite(metrics.get("train_loss", 0.0))
        return others | {
            name.replace("top1", objective.metric): math.nan if is_lost else of_top1(value)
            for name, value in top1s.items()
        }

    records = tuple(
        replace(
            record,
            reason=record.reason.replace("Top-1", objective.title).replace(" points", ""),
            test=None if record.test is None else converted(record.test),
            measurements=tuple(
                replace(m, metrics=converted(m.metrics)) for m in record.measurements
            ),
        )
        for record in report.state.records
    )
    config = replace(report.state.config, objective=objective)
    return report_of(replace(report.state, config=config, records=records), report.importances)
