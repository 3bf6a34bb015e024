"""The sampler: a pure function of the study's state, and always inside the space."""

import math
from dataclasses import replace

import optuna
import pytest

from lrtune.core.decays import WSD, Cosine, Linear, MultiStep, Polynomial, decay_parameters
from lrtune.core.errors import StoreError
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.run import RunRecord
from lrtune.core.space import Choice, Range
from lrtune.core.study import Budget, Rung, StudyState
from lrtune.decide.plan import next_run
from lrtune.decide.trials import ladder_of, trials_of
from lrtune.store.spaces import space_names
from lrtune.store.workers import this_worker
from lrtune.tuning import sampler
from lrtune.tuning.sampler import ask, fitted_space, importances, known_good, mirror, moved
from tests import studies
from tests.studies import full_run
from tests.tuning.fake_objective import (
    BASELINE,
    BEST_TOP1,
    EPOCHS,
    INTERVAL,
    completed,
    final_top1,
    grow,
    make_config,
    make_state,
    measurement,
    open_store,
    range_results,
)

SAMPLERS = ("tpe", "gp", "random", "qmc")


def recipes(state):
    return [record.run.recipe for record in state.of_kind("full")]


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
    assert [outside(fitted, recipe) for recipe in recipes(state)] == [[]] * 14


@pytest.mark.slow
@pytest.mark.parametrize("space", space_names())
def test_every_recipe_of_gp_is_in_the_fitted_space(space):
    state = grow(make_state(sampler="gp", space=space), 12)
    assert [outside(fitted_space(state), recipe) for recipe in recipes(state)] == [[]] * 12


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("space", ["default", "quick", "fine-tuning"])
def test_short_runs_have_a_space_too(space, epochs):
    state = grow(make_state(sampler="random", space=space, epochs=epochs), 25)
    assert [outside(fitted_space(state), recipe) for recipe in recipes(state)] == [[]] * 25


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
    """The baseline as it is, and the others with a warmup of 5 % and the suggested LR, on grids."""
    return [
        ("default", "sgd", [
            Recipe(peak_lr=0.02),
            Recipe(peak_lr=0.0464, decay=Cosine(), warmup_epochs=1),
            Recipe(peak_lr=0.0464, decay=Linear(), warmup_epochs=1),
            Recipe(peak_lr=0.0464, decay=WSD(cooldown_frac=0.2), warmup_epochs=1),
        ]),
        ("quick", "sgd", [
            Recipe(peak_lr=0.02),
            Recipe(peak_lr=0.0464, decay=Cosine(), warmup_epochs=0.5),
            Recipe(peak_lr=0.0464, decay=Linear(), warmup_epochs=0.5),
        ]),
    ]  # fmt: skip


@pytest.mark.parametrize(("space", "optimizer", "wanted"), known_table())
def test_the_known_good_ones_come_first_and_the_users_own_before_all(space, optimizer, wanted):
    state = make_state(space=space)
    assert known_good(state, fitted_space(state)) == wanted
    assert recipes(grow(state, len(wanted))) == wanted
    assert ask(state, len(wanted)) not in wanted


def test_a_known_good_one_is_moved_into_the_space():
    wild = Recipe(
        peak_lr=50.0, warmup_epochs=11.0, decay=MultiStep(milestones_epochs=(1.0, 2.0), factor=0.9)
    )
    state = make_state(baseline=wild)
    first = ask(state, 0)
    assert first.peak_lr == INTERVAL.high
    assert first.warmup_epochs == EPOCHS / 4
    assert first.decay == MultiStep(milestones_epochs=(6.0, 9.0), factor=0.1)


def test_what_is_to_be_tried_comes_after_the_baseline_and_is_moved_into_the_space():
    inside = Recipe(peak_lr=0.05, decay=Polynomial(power=3.0))
    wild = Recipe(peak_lr=50.0, warmup_epochs=11.0, decay=Linear(), weight_decay=0.1)
    state = make_state(tried=(inside, BASELINE, wild, Recipe(optimizer="adam")))
    space = fitted_space(state)
    tame = Recipe(peak_lr=INTERVAL.high, warmup_epochs=EPOCHS / 4, decay=Linear())
    assert known_good(state, space) == [
        BASELINE,
        inside,
        tame,
        *known_good(make_state(), space)[1:],
    ]
    assert recipes(grow(state, 3)) == [BASELINE, inside, tame]
    assert not [
        problem for recipe in recipes(grow(state, 12)) for problem in outside(space, recipe)
    ]


def test_a_baseline_of_an_optimizer_that_is_not_searched_is_not_tried():
    state = make_state(space="fine-tuning", baseline=Recipe(optimizer="adam", peak_lr=1e-3))
    assert {recipe.optimizer for recipe in known_good(state, fitted_space(state))} == {
        "adamw",
        "sgd",
    }


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
    """30 trials of which the last ones came to every possible end."""
    state = grow(make_state(**changes), 30)
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


@pytest.mark.slow
def test_a_divergence_is_learnt_as_bad():
    """Twenty divergences at high LRs drive TPE away; twenty failures, which it ignores, do not."""
    state = grow(make_state(space="quick"), 12)

    def high(end):
        wild = [
            ended(
                12 + i,
                Recipe(peak_lr=1.0 + i / 10, decay=Linear(), warmup_epochs=0.5),
                end,
                epochs=1,
                diverged=True,
            )
            for i in range(20)
        ]
        after = replace(state, records=(*state.records, *wild))
        return sum(ask(after, number).peak_lr > 0.9 for number in range(32, 72))

    assert high("diverged") < high("failed")


@pytest.mark.parametrize("space", space_names())
def test_a_recipe_survives_the_way_through_optuna(space):
    state = grow(make_state(sampler="random", space=space), 40)
    fitted = fitted_space(state)
    for trial in trials_of(state):
        frozen = sampler._frozen(state, trial, fitted)
        frozen._validate()
        asked_again = optuna.trial.FixedTrial(dict(frozen.params))
        assert sampler._suggest(asked_again, fitted, BASELINE) == trial.recipe


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


# --- trials on rungs

C1, FIRST_4 = Rung(1, compressed=True), Rung(4)


def on_rungs(*ends, number=0, rungs=(C1, FIRST_4), pruner="fair"):
    """A trial, by the Top-1 or the state of each of its runs, as the sampler sees it."""
    recipe = Recipe(peak_lr=0.1, decay=Linear())
    config = make_config(rungs=rungs, pruner=pruner, space="quick", signal="raw")
    records = []
    for rung, end in zip((*ladder_of(config, number), None), ends, strict=False):
        top1s = [] if isinstance(end, str) else [end] * (rung.epochs if rung else EPOCHS)
        state = end if isinstance(end, str) else "completed"
        records.append(
            studies.record(
                top1s, trial=number, rung=rung, recipe=recipe, horizon_epochs=EPOCHS, state=state
            )
        )
    state = StudyState(config=config, range_results=range_results(), records=tuple(records))
    (trial,) = trials_of(state)
    return trial, sampler._kind(
        fitted_space(state), trial.recipe.optimizer, trial.recipe.decay.name
    )


def seen(*trials):
    """What the sampler takes such trials for, that it sees together."""
    ranks = sampler._ranks([trial for trial, _ in trials])
    return [sampler._seen(trial, kind, ranks.get(trial.number, 0.0)) for trial, kind in trials]


# the runs of a trial; what the sampler takes it for, worst first
SEEN = [
    (["diverged"], "COMPLETE"),
    ([90, "pruned"], "COMPLETE"),
    ([20], "COMPLETE"),
    ([60], "COMPLETE"),  # waits for promotion, and is a result meanwhile
    ([70, "running"], "COMPLETE"),
    ([90, 30], "COMPLETE"),
    ([60, 60], "COMPLETE"),
    ([60, 60, 10], "COMPLETE"),
    ([60, 60, 95], "COMPLETE"),
]


def test_the_further_a_trial_came_the_better_it_is_to_the_sampler_and_then_by_its_score():
    trials = seen(*(on_rungs(*ends, number=number) for number, (ends, _) in enumerate(SEEN)))
    assert [trial.state.name for trial in trials] == [state for _, state in SEEN]
    values = [trial.value for trial in trials]
    assert values == sorted(values)
    assert values[0] == values[1]  # of those that died one is as bad as the other
    assert len(set(values)) == len(values) - 1


@pytest.mark.parametrize(
    ("ends", "state"),
    [(["running"], "RUNNING"), (["failed"], "FAIL"), ([60, "failed"], "FAIL"), ([60], "COMPLETE")],
)
def test_only_a_trial_that_has_no_score_yet_is_running_to_the_sampler(ends, state):
    (trial,) = seen(on_rungs(*ends))
    assert trial.state.name == state


def test_a_trial_of_a_shorter_bracket_is_as_good_as_one_that_came_as_far():
    brackets = {"rungs": (Rung(1), FIRST_4), "pruner": "hyperband"}
    *in_full, left = seen(
        on_rungs(60, 60, 80, number=0, **brackets),
        on_rungs(60, 80, number=1, **brackets),
        on_rungs(80, number=2, **brackets),
        on_rungs(60, 90, number=3, **brackets),
    )
    assert len({trial.value for trial in in_full}) == 1
    assert in_full[0].value > left.value


def test_a_search_over_rungs_is_mirrored_as_far_as_it_is(tmp_path):
    url = f"sqlite:///{tmp_path / 'lrtune.db'}"
    state = grow_on_rungs(make_state(sampler="random", rungs=(C1, FIRST_4)), 12)
    mirror(state, url)
    trials = optuna.load_study(study_name="fake", storage=url).get_trials()
    ended = [trial for trial in trials_of(state) if not trial.running]
    assert [t.user_attrs["lrtune_trial"] for t in trials] == [
        f"{t.number}/{t.level}" for t in ended
    ]
    assert [t.state.name for t in trials] == ["COMPLETE" if t.finished else "PRUNED" for t in ended]
    assert [t.value for t in trials if t.state.name == "COMPLETE"] == [
        t.final_metrics["top1"] for t in ended if t.finished
    ]


def grow_on_rungs(state, num_runs):
    """`state` after the baseline and so many runs more, each trained to its end."""
    state = replace(state, config=replace(state.config, budget=Budget(10_000, "trials")))
    for _ in range(2 + num_runs):
        state = replace(state, records=(*state.records, completed(next_run(state, ask))))
    assert bool(state.of_kind("rung")) == bool(state.config.rungs)
    return state


@pytest.mark.parametrize("name", SAMPLERS)
def test_on_rungs_too_recipes_are_of_the_space_and_asking_again_gives_the_same(name):
    state = grow_on_rungs(make_state(sampler=name, space="quick", rungs=(C1, FIRST_4)), 16)
    number = int(state.spent("trials"))
    assert outside(fitted_space(state), ask(state, number)) == []
    assert ask(state, number) == ask(state, number)


@pytest.mark.parametrize(
    "rungs", [(), (C1,), (FIRST_4,)], ids=["no rungs", "compressed", "first epochs"]
)
def test_what_was_tried_is_not_asked_for_again(rungs):
    tried = [
        trial.recipe
        for trial in trials_of(grow_on_rungs(make_state(space="quick", rungs=rungs), 25))
    ]
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
    scales = [dict(recipe.group_scales) for recipe in recipes(state)]
    assert all(set(of_it) == {"backbone"} for of_it in scales)
    values = [of_it["backbone"] for of_it in scales]
    assert all(0.01 <= value <= 1.0 for value in values)
    # What is known to be good keeps the ratio that the task fixed; all others are asked for.
    num_known = len(known_good(state, fitted_space(state)))
    assert values[:num_known] == [0.1] * num_known
    assert len({round(value, 6) for value in values[num_known:]}) > 5
    assert len({recipe.peak_lr for recipe in recipes(state)}) > 5


def test_optuna_sees_the_scale_by_the_name_of_its_group(tmp_path):
    state = grow(make_state(space_toml=SCALED, groups=GROUPS), 10)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    mirror(state, url)
    study = optuna.load_study(study_name=state.config.name, storage=url)
    for trial, recipe in zip(study.get_trials(), recipes(state), strict=True):
        assert trial.params["group_scales.backbone"] == dict(recipe.group_scales)["backbone"]
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
        f"{record.run.trial}/1" for record in recorded
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
    state = grow(replace(state, config=replace(state.config, space_toml=toml)), 16)
    assert {round(recipe.decay.hold_frac, 9) for recipe in recipes(state)} == {
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
