"""The sampler: a pure function of the study's state, and always inside the space."""

import math
from dataclasses import replace

import optuna
import pytest

from lrtune.core.decays import (
    WSD,
    Cosine,
    Linear,
    MultiStep,
    Own,
    Polynomial,
    StepDecay,
    decay_parameters,
)
from lrtune.core.errors import StoreError
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.run import RunRecord
from lrtune.core.space import Choice, Range
from lrtune.core.study import Budget
from lrtune.decide.looks import look_at
from lrtune.decide.trials import trials_of
from lrtune.store.spaces import space_names
from lrtune.store.workers import this_worker
from lrtune.tuning import sampler
from lrtune.tuning.sampler import ask, fitted_space, importances, known_good, mirror, moved
from tests.studies import full_run
from tests.tuning.fake_objective import (
    BASELINE,
    BEST_TOP1,
    EPOCHS,
    INTERVAL,
    completed,
    final_top1,
    grow,
    make_state,
    measurement,
    open_store,
)

SAMPLERS = ("tpe", "gp", "random", "qmc")


def recipes(state):
    return [trial.recipe for trial in trials_of(state)]


def outside(space, recipe):
    """What of a recipe does not belong to a space."""
    found = [] if recipe.optimizer in space.choices("optimizer") else ["optimizer"]
    found += [] if recipe.decay.name in space.choices("decay") else ["decay"]
    general = {
        key: space.parameter(key, recipe.optimizer)
        for key in ("peak_lr", "warmup_epochs", "final_frac", "weight_decay")
    }
    pairs = [(key, parameter, getattr(recipe, key)) for key, parameter in general.items()]
    own = space.decays.get(recipe.decay.name, {})
    pairs += [(key, parameter, getattr(recipe.decay, key)) for key, parameter in own.items()]
    for key, parameter, value in pairs:
        match parameter:
            case None:
                continue
            case Choice():
                inside = value in parameter.choices
            case Range():
                steps = 0 if parameter.step is None else (value - parameter.low) / parameter.step
                inside = (
                    parameter.low <= value <= parameter.high and abs(steps - round(steps)) < 1e-6
                )
            case _:
                inside = value == parameter
        found += [] if inside else [f"{key}={value!r} is not in {parameter!r}"]
    return found


# --- a pure function of the state


@pytest.mark.parametrize(
    ("name", "num_trials"),
    [("tpe", 25), ("random", 41), ("qmc", 20), pytest.param("gp", 12, marks=pytest.mark.slow)],
)
def test_a_study_read_back_asks_what_the_unbroken_one_asked(tmp_path, name, num_trials):
    state = make_state(sampler=name, seed=3, space="quick" if name == "gp" else "default")
    unbroken = grow(state, num_trials)
    store = open_store(f"sqlite:///{tmp_path / 'lrtune.db'}", state.config)
    for record in unbroken.records:
        if record.run.kind == "full":
            again = ask(store.state(), record.run.trial)
            assert again == record.run.recipe, record.run.id
        store.claim(record.run, this_worker())
        for measured in record.measurements:
            store.record(record.run, measured)
        store.finish(record.run, record.state)


@pytest.mark.parametrize("name", SAMPLERS)
def test_asking_changes_nothing_and_twice_gives_the_same(name):
    state = grow(make_state(sampler=name, space="quick"), 11)
    before = repr(state)
    assert ask(state, 11) == ask(state, 11)
    assert repr(state) == before


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_of_the_study_decides(name):
    one, same, other = (
        recipes(grow(make_state(sampler=name, seed=seed, space="quick"), 8)) for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("name", ["tpe", "random", "qmc"])
def test_the_sampler_does_not_repeat_itself(name):
    found = recipes(grow(make_state(sampler=name), 20))
    assert len(set(found)) == 20


# --- inside the space


@pytest.mark.parametrize("epochs", [6, 7, 12, 90])
@pytest.mark.parametrize("space", space_names())
@pytest.mark.parametrize("name", ["tpe", "random", "qmc"])
def test_every_recipe_is_in_the_fitted_space(name, space, epochs):
    state = grow(make_state(sampler=name, space=space, epochs=epochs, seed=epochs), 14)
    fitted = fitted_space(state)
    baseline, *others = recipes(state)
    assert baseline == BASELINE
    assert [outside(fitted, recipe) for recipe in others] == [[]] * 13


@pytest.mark.slow
@pytest.mark.parametrize("space", space_names())
def test_every_recipe_of_gp_is_in_the_fitted_space(space):
    state = grow(make_state(sampler="gp", space=space), 12)
    assert [outside(fitted_space(state), recipe) for recipe in recipes(state)[1:]] == [[]] * 11


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("space", ["default", "quick", "fine-tuning"])
def test_short_runs_have_a_space_too(space, epochs):
    state = grow(make_state(sampler="random", space=space, epochs=epochs), 25)
    assert [outside(fitted_space(state), recipe) for recipe in recipes(state)[1:]] == [[]] * 24


@pytest.mark.slow
def test_all_of_the_space_is_reached():
    state = grow(make_state(sampler="random"), 120)
    assert {recipe.decay.name for recipe in recipes(state)} == set(
        fitted_space(state).choices("decay")
    )
    peaks = sorted(recipe.peak_lr for recipe in recipes(state))
    assert INTERVAL.low <= peaks[0] < 2 * INTERVAL.low
    assert INTERVAL.high / 2 < peaks[-1] < INTERVAL.high


def test_a_range_test_without_a_signal_leaves_the_default_bounds():
    state = replace(make_state(sampler="random"), range_results=())
    peaks = [recipe.peak_lr for recipe in recipes(grow(state, 30))]
    assert min(peaks) >= 1e-3
    assert max(peaks) <= 1.0


# --- known good first


def known_table():
    """The baseline as it is, and the others with the suggested LR and a warmup of about 5 %."""
    return [
        ("default", "sgd", [
            Recipe(peak_lr=0.02),
            Recipe(peak_lr=0.05, decay=Cosine(), warmup_epochs=1),
            Recipe(peak_lr=0.05, decay=Linear(), warmup_epochs=1),
            Recipe(peak_lr=0.05, decay=WSD(cooldown_frac=0.2), warmup_epochs=1),
        ]),
        ("quick", "sgd", [
            Recipe(peak_lr=0.02),
            Recipe(peak_lr=0.05, decay=Cosine(), warmup_epochs=0.5),
            Recipe(peak_lr=0.05, decay=Linear(), warmup_epochs=0.5),
        ]),
    ]  # fmt: skip


@pytest.mark.parametrize(("space", "optimizer", "wanted"), known_table())
def test_the_known_good_ones_come_first_and_the_users_own_before_all(space, optimizer, wanted):
    state = make_state(space=space)
    assert known_good(state, fitted_space(state)) == wanted
    assert recipes(grow(state, len(wanted))) == wanted
    assert ask(state, len(wanted)) not in wanted


WILD = Recipe(
    peak_lr=50.0, warmup_epochs=11.0, decay=MultiStep(milestones_epochs=(1.0, 2.0), factor=0.9)
)
# the space, and a baseline that it does not have for some reason
BASELINES = [
    ("default", WILD),
    ("quick", Recipe(decay=StepDecay(every_epochs=4))),
    ("fine-tuning", Recipe(optimizer="adam", peak_lr=1e-3)),
    ("fine-tuning", Recipe(optimizer="sgd", peak_lr=1.0, decay=WSD(cooldown_frac=0.2))),
]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("space", "baseline"), BASELINES)
def test_the_first_trial_is_the_baseline_itself_even_where_the_space_does_not_have_it(
    space, baseline, name
):
    state = make_state(space=space, baseline=baseline, sampler=name)
    fitted = fitted_space(state)
    assert outside(fitted, baseline)
    assert ask(state, 0) == baseline
    first, *others = recipes(grow(state, 11))
    assert first == baseline
    assert baseline not in others
    assert [outside(fitted, recipe) for recipe in others] == [[]] * 10


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_commands_own_schedule_is_the_baseline_and_no_trial(name):
    own = Recipe(peak_lr=0.1, decay=Own())
    state = grow(make_state(space="quick", baseline=own, sampler=name), 12)
    trials = [record for record in state.records if record.run.kind != "baseline"]
    assert own not in [record.run.recipe for record in trials]
    assert [outside(fitted_space(state), recipe) for recipe in recipes(state)] == [[]] * len(trials)
    assert [record.run.recipe for record in state.of_kind("baseline")] == [own]


def test_what_is_to_be_tried_comes_after_the_baseline_and_is_moved_into_the_space():
    inside = Recipe(peak_lr=0.05, decay=Polynomial(power=3.0))
    wild = Recipe(peak_lr=50.0, warmup_epochs=11.0, decay=Linear(), weight_decay=0.1)
    state = make_state(tried=(inside, BASELINE, wild, WILD))
    space = fitted_space(state)
    tame = Recipe(peak_lr=INTERVAL.high, warmup_epochs=EPOCHS / 4, decay=Linear())
    steps = MultiStep(milestones_epochs=(6.0, 9.0), factor=0.1)
    first = [BASELINE, inside, tame, replace(tame, decay=steps)]
    assert known_good(state, space) == [*first, *known_good(make_state(), space)[1:]]
    assert recipes(grow(state, 4)) == first
    assert not [
        problem for recipe in recipes(grow(state, 12)) for problem in outside(space, recipe)
    ]


def test_what_the_space_leaves_open_is_as_the_user_has_it():
    own = replace(BASELINE, momentum=0.8, nesterov=False, weight_decay=3e-4)
    for recipe in recipes(grow(make_state(baseline=own), 8)):
        assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.8, False, 3e-4)


# --- what Optuna sees


def ended(number, recipe, state, *, epochs, diverged=False, reason=""):
    run = full_run(recipe, EPOCHS, id=f"trial-{number:04d}", trial=number)
    measured = [measurement(run, epoch) for epoch in range(1, epochs + 1)]
    if diverged:
        measured[-1] = replace(measured[-1], metrics=dict.fromkeys(measured[-1].metrics, math.nan))
    return RunRecord(run=run, state=state, measurements=tuple(measured), reason=reason)


def mixed_state(**changes):
    """36 trials of which the last ones came to every possible end; the next question sees 34."""
    state = grow(make_state(**changes, lag=3), 30)
    one = recipes(state)[-1]
    ends = (
        ended(30, one, "pruned", epochs=5, reason="far behind"),
        ended(31, one, "diverged", epochs=3, diverged=True, reason="not finite"),
        ended(32, one, "diverged", epochs=1, diverged=True, reason="not finite"),
        ended(33, one, "failed", epochs=0, reason="out of memory"),
        ended(34, one, "running", epochs=2),
        ended(35, one, "running", epochs=0),
    )
    return replace(state, records=(*state.records, *ends))


@pytest.mark.parametrize("name", SAMPLERS)
def test_runs_of_every_end_are_learnt_from(name):
    state = mixed_state(sampler="random", space="quick")
    state = replace(state, config=replace(state.config, sampler=name))
    assert outside(fitted_space(state), ask(state, 36)) == []
    values = [trial.value for trial in sampler._in_memory(state, fitted_space(state), 36).trials]
    if name in ("random", "qmc"):  # which learn nothing
        assert values == [None] * 36
    else:
        assert all(0 <= value < 1 for value in values[:30])
        assert values[30:] == [sampler.WORST] * 4 + [None] * 2


@pytest.mark.slow
@pytest.mark.parametrize("end", ["diverged", "failed", "pruned"])
def test_what_came_to_no_end_is_learnt_as_bad(end):
    """Twenty such trials at high LRs drive TPE away; twenty good ones draw it there."""
    state = grow(make_state(space="quick", lag=1), 12)

    def high(end, epochs):
        wild = [
            ended(
                12 + i,
                Recipe(peak_lr=1.0 + i / 10, decay=Linear(), warmup_epochs=0.5),
                end,
                epochs=epochs,
                diverged=end == "diverged",
            )
            for i in range(20)
        ]
        after = replace(state, records=(*state.records, *wild))
        return sum(ask(after, number).peak_lr > 0.9 for number in range(32, 72))

    assert high(end, 1) < high("completed", EPOCHS)


@pytest.mark.parametrize("space", space_names())
def test_a_recipe_survives_the_way_through_optuna(space):
    state = grow(make_state(sampler="random", space=space), 40)
    fitted = fitted_space(state)
    for trial in trials_of(state):
        frozen = sampler._frozen(state, trial, fitted)
        frozen._validate()
        asked_again = optuna.trial.FixedTrial(dict(frozen.params))
        inside = moved(trial.recipe, fitted, state.config)
        assert sampler._suggest(asked_again, fitted, BASELINE) == inside
        assert trial.number == 0 or inside == trial.recipe  # the baseline may be anything


def test_parameters_exist_only_where_they_are_used():
    state = grow(make_state(sampler="random"), 60)
    fitted = fitted_space(state)
    always = {"decay", "peak_lr", "warmup_epochs"}
    for trial in trials_of(state):
        decay = trial.recipe.decay.name
        own = {
            f"{decay}.{key}"
            for key in decay_parameters(decay)
            if key in fitted.decays.get(decay, {})
        }
        assert set(sampler._frozen(state, trial, fitted).params) == always | own


def test_an_optimizer_has_parameters_of_its_own():
    state = grow(make_state(sampler="random", space="fine-tuning"), 30)
    seen = {}
    for trial in trials_of(state):
        params = sampler._frozen(state, trial, fitted_space(state)).params
        seen.setdefault(trial.recipe.optimizer, set()).update(
            name for name in params if "." in name
        )
    own = {name: {f"{name}.peak_lr", f"{name}.weight_decay"} for name in ("adamw", "sgd")}
    assert {name: {n for n in names if n.startswith(name)} for name, names in seen.items()} == own


# --- what a question depends on

LOOKS = {"looks": (1, 4), "space": "quick"}
NUMBER, NUM_SEEN = 20, 13
"""A question, and how many of the first results it depends on at the lag of eight."""


def with_first_looks(state, change):
    """A study in which the first looks of some trials came to something else."""
    records = tuple(
        change(record) if record.run.kind == "look" else record for record in state.records
    )
    return replace(state, records=records)


def worth(record, top1):
    """A look that came to another Top-1; its trial is not the best any more, or not the worst."""
    metrics = {"top1": top1, "val_loss": 3 - top1 / 50, "train_loss": 3 - top1 / 50}
    *before, last = record.measurements
    last = replace(last, metrics={**last.metrics, **metrics})
    return replace(record, measurements=(*before, last))


def otherwise(record):
    """What else a look may have come to, each kind for some of the trials."""
    match record.run.trial % 5:
        case 0:
            return worth(record, 99.0)
        case 1:
            return worth(record, 1.0)
        case 2:
            return replace(record, state="diverged", reason="not finite")
        case 3:
            return replace(record, state="failed", reason="out of memory", measurements=())
        case _:
            return replace(record, state="running", measurements=())


def later(state, first, num_trials):
    """Trials after `first`, whose recipes are of no sampler."""
    return tuple(
        completed(look_at(state.config, number, Recipe(peak_lr=0.5 + number / 100), 0))
        for number in range(first, first + num_trials)
    )


def second_looks(state, numbers):
    trials = trials_of(state)
    return tuple(
        worth(completed(look_at(state.config, n, trials[n].recipe, level)), 99.0 - n)
        for n in numbers
        for level in (1, 2)
    )


def fresh(state):
    """A run of the baseline, and one of the best trial, with a fresh seed."""
    best = max(trials_of(state), key=lambda trial: trial.scores)
    full = full_run(best.recipe, EPOCHS, trial=best.number, seed=1)
    return (
        completed(replace(full, id="baseline-0", kind="baseline", trial=-1, recipe=BASELINE)),
        completed(replace(full, id=f"trial-{best.number:04d}-confirm-0", kind="confirm")),
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_question_depends_on_no_later_result_no_second_look_and_no_later_trial(name):
    state = grow(make_state(sampler=name, **LOOKS), NUMBER)
    num_seen = state.config.num_seen(NUMBER)
    assert num_seen == (NUM_SEEN if name in ("tpe", "gp") else 0)

    def after(record):
        return otherwise(record) if record.run.trial >= num_seen else record

    changed = with_first_looks(state, after)
    asked = ask(state, NUMBER)
    for other in (
        changed,
        replace(state, records=(*state.records, *second_looks(state, range(0, NUMBER, 3)))),
        replace(state, records=(*state.records, *later(state, NUMBER, 12))),
        replace(state, records=(*fresh(state), *state.records)),
        replace(state, records=state.records[::-1]),
        replace(
            changed,
            records=(
                *later(state, NUMBER, 3),
                *changed.records,
                *second_looks(state, range(NUM_SEEN)),
                *fresh(state),
            ),
        ),
    ):
        assert ask(other, NUMBER) == asked


@pytest.mark.parametrize("name", ["tpe", "gp"])
@pytest.mark.parametrize("trial", [0, NUM_SEEN - 1])
def test_a_question_depends_on_each_result_that_it_sees(name, trial):
    state = grow(make_state(sampler=name, **LOOKS), NUMBER)
    seen = trials_of(state)[:NUM_SEEN]
    best = max(seen, key=lambda trial: trial.scores).number

    def after(record):
        other = worth(record, 1.0 if trial == best else 99.0)
        return other if record.run.trial == trial else record

    assert ask(with_first_looks(state, after), NUMBER) != ask(state, NUMBER)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_question_depends_on_the_recipes_whose_results_it_does_not_see(name):
    """It keeps away from them."""
    state = grow(make_state(sampler=name, **LOOKS), NUMBER)
    asked = ask(state, NUMBER)

    def after(record):
        if record.run.trial < NUM_SEEN:
            return record
        recipe = replace(asked, peak_lr=asked.peak_lr * (1 + record.run.trial / 1000))
        return replace(record, run=replace(record.run, recipe=recipe))

    assert ask(with_first_looks(state, after), NUMBER) != asked


def test_what_an_earlier_trial_has_is_not_asked_for_although_its_result_is_not_seen():
    state = grow(make_state(**LOOKS), NUMBER)
    asked = ask(state, NUMBER)

    def after(record):
        taken = replace(record, run=replace(record.run, recipe=asked))
        return taken if record.run.trial == NUMBER - 1 else record

    assert ask(with_first_looks(state, after), NUMBER) != asked


def test_a_look_counts_as_its_place_among_those_that_are_seen():
    state = grow(make_state(**LOOKS), 12)
    ends = {0: 20.0, 1: 60.0, 2: 40.0, 3: 60.0, 4: None}

    def after(record):
        top1 = ends.get(record.run.trial, 10.0)
        return worth(record, top1) if top1 else replace(record, state="diverged")

    state = with_first_looks(state, after)
    trials = sampler._in_memory(state, fitted_space(state), 12).trials
    assert [trial.value for trial in trials] == [0.0, 0.5, 0.25, 0.5, sampler.WORST, *[None] * 7]
    assert {trial.state.name for trial in trials[:5]} == {"COMPLETE"}
    assert {trial.state.name for trial in trials[5:]} == {"RUNNING"}


def test_what_looks_are_ranked_by_is_what_the_sampler_learns_from():
    """Here a loss that says the opposite of the Top-1."""
    state = grow(make_state(rank_by="val_loss", **LOOKS), 12)

    def after(record):
        *_, last = record.measurements
        loss = last.metrics["top1"]
        return replace(
            record, measurements=(replace(last, metrics=last.metrics | {"val_loss": loss}),)
        )

    state = with_first_looks(state, after)
    seen = sampler._in_memory(state, fitted_space(state), 12).trials[: state.config.num_seen(12)]
    trials = trials_of(state)[: len(seen)]
    by_value = sorted(seen, key=lambda trial: trial.value)
    by_top1 = sorted(trials, key=lambda trial: trial.runs[0].metrics["top1"], reverse=True)
    assert [trial.params["peak_lr"] for trial in by_value] == [t.recipe.peak_lr for t in by_top1]


def test_of_very_many_trials_the_sampler_is_shown_the_latest_and_the_best(monkeypatch):
    monkeypatch.setattr(sampler, "MAX_SEEN", 10)
    state = grow(make_state(**LOOKS), 25)
    lrs = [
        trial.params["peak_lr"]
        for trial in sampler._in_memory(state, fitted_space(state), 25).trials
    ]
    known = trials_of(state)[: state.config.num_seen(25)]
    best = sorted(known, key=lambda trial: trial.scores[0], reverse=True)[:5]
    shown = {*(trial.number for trial in best), *range(20, 25)}
    assert lrs == [trials_of(state)[number].recipe.peak_lr for number in sorted(shown)]


def test_a_search_with_looks_is_mirrored_by_first_looks_and_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'lrtune.db'}"
    state = grow(make_state(sampler="random", looks=(1, 4)), 12)
    for number in range(2):
        looks = second_looks(state, range(3)) if number else ()
        mirror(replace(state, records=(*state.records, *looks)), url)
    trials = optuna.load_study(study_name="fake", storage=url).get_trials()
    assert [t.user_attrs["lrtune_trial"] for t in trials] == list(range(12))
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert {t.user_attrs["epochs"] for t in trials} == {1}
    assert [t.value for t in trials] == [
        trial.runs[0].metrics["top1"] for trial in trials_of(state)
    ]


@pytest.mark.parametrize("looks", [(), (1, 4)], ids=["full runs", "looks"])
def test_what_was_tried_is_not_asked_for_again(looks):
    tried = recipes(grow(make_state(space="quick", looks=looks), 25))
    assert len(set(tried)) == len(tried)


# --- how well it searches


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_tpe_ends_nearer_to_the_optimum_than_it_began(seed):
    values = [final_top1(recipe) for recipe in recipes(grow(make_state(seed=seed), 60))]
    searched = values[4:]
    early, late = searched[:15], searched[-15:]
    assert sum(late) / 15 > sum(early) / 15 + 2
    assert max(values) > BEST_TOP1 - 2


# --- parameter groups

GROUPS = (ParameterGroup(name="backbone", lr_scale=0.1), ParameterGroup(name="head"))
SCALED = """
[parameters]
peak_lr = { low = 1e-3, high = 1.0, log = true }
decay = { choices = ["cosine", "linear"] }
group_scales.backbone = { low = 0.01, high = 1.0, log = true }
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_scale_of_a_group_is_asked_for(name):
    state = grow(make_state(sampler=name, space_toml=SCALED, groups=GROUPS), 14)
    baseline, *others = recipes(state)
    assert baseline.group_scales == ()  # whose groups are as the task has them
    scales = [dict(recipe.group_scales) for recipe in others]
    assert all(set(of_it) == {"backbone"} for of_it in scales)
    values = [of_it["backbone"] for of_it in scales]
    assert all(0.01 <= value <= 1.0 for value in values)
    # What is known to be good keeps the ratio that the task fixed; all others are asked for.
    num_known = len(known_good(state, fitted_space(state))) - 1
    assert values[:num_known] == [0.1] * num_known
    assert len({round(value, 6) for value in values[num_known:]}) > 5
    assert len({recipe.peak_lr for recipe in recipes(state)}) > 5


def test_optuna_sees_the_scale_by_the_name_of_its_group(tmp_path):
    state = grow(make_state(space_toml=SCALED, groups=GROUPS), 10)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    mirror(state, url)
    study = optuna.load_study(study_name=state.config.name, storage=url)
    for trial, recipe in zip(study.get_trials(), recipes(state), strict=True):
        inside = moved(recipe, fitted_space(state), state.config)
        assert trial.params["group_scales.backbone"] == dict(inside.group_scales)["backbone"]
        assert "group_scales.head" not in trial.params


@pytest.mark.parametrize(
    ("parameter", "wanted", "scale"),
    [
        ("0.5", (), 0.5),  # fixed by the space
        ("{ choices = [0.1, 0.3] }", (("backbone", 0.3),), 0.3),
        ("{ choices = [0.1, 0.3] }", (("backbone", 0.2),), 0.1),
        ("{ low = 0.01, high = 1.0, log = true }", (("backbone", 0.05),), 0.05),
        ("{ low = 0.01, high = 1.0, log = true }", (("backbone", 7.0),), 1.0),
        ("{ low = 0.2, high = 1.0 }", (), 0.2),  # the task's 0.1 is moved into the space
    ],
)
def test_the_scale_of_a_recipe_that_is_moved_into_the_space(parameter, wanted, scale):
    toml = f"[parameters]\npeak_lr = 0.1\ngroup_scales.backbone = {parameter}\n"
    state = make_state(space_toml=toml, groups=GROUPS)
    recipe = replace(state.config.baseline, group_scales=wanted)
    assert moved(recipe, fitted_space(state), state.config).group_scales == (("backbone", scale),)


# --- Optuna's own tools


def test_importances_are_shares_and_the_peak_lr_leads():
    state = grow(make_state(sampler="random", space="quick"), 40)
    shares = importances(state)
    assert set(shares) == {"peak_lr", "warmup_epochs", "decay"}
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "peak_lr"


@pytest.mark.slow
def test_importances_of_a_conditional_space():
    shares = importances(mixed_state())
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


@pytest.mark.parametrize("num_trials", [0, 1, 7])
def test_importances_need_trials(num_trials):
    assert importances(grow(make_state(), num_trials)) == {}


def test_importances_of_trials_that_are_all_the_same():
    state = make_state(space="quick")
    same = tuple(
        ended(i, Recipe(peak_lr=0.1, decay=Linear()), "completed", epochs=EPOCHS) for i in range(10)
    )
    shares = importances(replace(state, records=same))
    assert all(0 <= share <= 1 for share in shares.values())


@pytest.mark.slow
def test_a_mirrored_study_is_visible_to_optuna_and_complete(tmp_path):
    url = f"sqlite:///{tmp_path / 'lrtune.db'}"
    state = mixed_state()
    mirror(state, url)
    study = optuna.load_study(study_name="fake", storage=url)
    trials = study.get_trials()
    recorded = [record for record in state.of_kind("full") if record.state != "running"]
    assert [t.state.name for t in trials] == ["COMPLETE"] * 30 + ["PRUNED"] * 3 + ["FAIL"]
    assert [t.user_attrs["lrtune_trial"] for t in trials] == [
        record.run.trial for record in recorded
    ]
    assert [t.value for t in trials[:30]] == [r.metrics["top1"] for r in recorded[:30]]
    for trial, record in zip(trials, recorded, strict=True):
        assert trial.params["peak_lr"] == record.run.recipe.peak_lr
        assert trial.params["decay"] == record.run.recipe.decay.name
    assert study.best_value == max(r.metrics["top1"] for r in recorded[:30])


def test_mirroring_again_adds_only_what_is_new(tmp_path):
    url = f"sqlite:///{tmp_path / 'lrtune.db'}"
    state = grow(make_state(sampler="random"), 5)
    for _ in range(2):
        mirror(state, url)
    assert len(optuna.load_study(study_name="fake", storage=url).trials) == 5
    mirror(grow(state, 2), url)
    assert len(optuna.load_study(study_name="fake", storage=url).trials) == 7


@pytest.mark.parametrize(
    "url", ["sqlite:///{}/lrtune.db", "postgresql://me:secret@127.0.0.1:1/lrtune"]
)
def test_a_database_that_optuna_cannot_use_is_one_line_without_its_password(tmp_path, url):
    (tmp_path / "lrtune.db").write_text("no database at all " * 100)
    with pytest.raises(StoreError, match=r"^Optuna cannot use this database: .+$") as raised:
        mirror(make_state(), url.format(tmp_path))
    assert "secret" not in str(raised.value)


def test_a_grid_whose_end_is_no_round_number_in_binary_is_searched_to_its_end():
    """0.1 + 6 * 0.1 is not 0.7 in binary, and Optuna, which reckons in decimals, refuses it."""
    grid = "hold_frac = { low = 0.1, high = 0.7, step = 0.1 }"
    toml = f"[parameters]\npeak_lr = 0.1\ndecay = 'hold-power'\n[decay.hold-power]\n{grid}"
    state = make_state(sampler="random")
    state = grow(replace(state, config=replace(state.config, space_toml=toml)), 20)
    assert {round(recipe.decay.hold_frac, 9) for recipe in recipes(state)[1:]} == {
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
    }


def test_a_budget_is_no_part_of_what_is_asked():
    small, large = (make_state(budget=Budget(amount, "trials")) for amount in (5, 500))
    assert recipes(grow(small, 12)) == recipes(grow(large, 12))
