"""What a report says, before it is set."""

import itertools
import math
import re
from dataclasses import replace

import pytest

from lrtune.core.decays import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
)
from lrtune.core.objective import Objective
from lrtune.core.options import options_of
from lrtune.core.recipe import Recipe
from lrtune.core.study import RangeResult, SearchRules, StudyState, TrainSettings
from lrtune.decide.looks import looks_of
from lrtune.decide.noise import Difference
from lrtune.decide.spending import Spending
from lrtune.reporting import wording
from lrtune.reporting.cost import Cost
from lrtune.reporting.curves import lr_curve
from lrtune.reporting.document import compose
from lrtune.reporting.parallel import axis_of
from lrtune.schedules import build_schedule
from tests.reporting.conftest import (
    EPOCHS,
    RECIPES,
    STEPS_PER_EPOCH,
    looked_state,
    report_of,
    stages,
)


@pytest.mark.parametrize(
    ("decay", "final_frac", "end"),
    [
        (Constant(), 0, "hold it to the end."),
        (StepDecay(every_epochs=3), 0, "multiply it by 0.1 every 3 epochs."),
        (
            StepDecay(every_epochs=1), 0.01,
            "multiply it by 0.1 every 1 epoch, above a floor of 1 % of the peak.",
        ),
        (MultiStep(milestones_epochs=(6,)), 0, "multiply it by 0.1 after epoch 6."),
        (
            MultiStep(milestones_epochs=(4, 6.5, 9)), 0,
            "multiply it by 0.1 after epochs 4, 6.5 and 9.",
        ),
        (Cosine(), 0, "follow half a cosine down to zero."),
        (Linear(), 0.05, "go down in a straight line to 5 % of the peak."),
        (Polynomial(power=2), 0, "go down to zero by a polynomial of power 2."),
        (Exponential(end_frac=0.01), 0, "decay exponentially to 1 % of the peak."),
        (Exponential(end_frac=0.2), 0.5, "decay exponentially to 60 % of the peak."),
        (
            WSD(cooldown_frac=0.2), 0,
            "hold it, and cool down by 1 − √x over the last 2 epochs to zero.",
        ),
        (
            HoldPower(hold_frac=0.5), 0,
            "hold it for 5 epochs, and go down to zero in a straight line.",
        ),
        (HoldPower(hold_frac=0, power=1.5), 0, "go down to zero by a polynomial of power 1.5."),
        (
            Plateau(), 0,
            "multiply it by 0.1 after more than 3 epochs without a better validation loss.",
        ),
        (
            Plateau(monitor="top1", patience_epochs=1), 0.01,
            "multiply it by 0.1 after more than 1 epoch without a better Top-1, above a floor of "
            "1 % of the peak.",
        ),
    ],
)  # fmt: skip
def test_schedule_in_one_sentence(decay, final_frac, end):
    recipe = Recipe(peak_lr=0.213, warmup_epochs=2, decay=decay, final_frac=final_frac)
    start = (
        "Train 12 epochs with SGD at a peak learning rate of 0.213: warm up linearly over 2 "
        "epochs, then "
    )
    assert wording.schedule_sentence(recipe, 12) == start + end


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (42.4, "42 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (math.nan, "–"),
    ],
)
def test_duration(seconds, said):
    assert wording.duration(seconds) == said


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (None, "–"),
        (Difference(mean=0.5, low=-math.inf, high=math.inf), "+0.50 (no interval)"),
        (Difference(mean=-0.5, low=-0.75, high=0.25), "-0.50 [-0.75, +0.25]"),
    ],
)
def test_difference(difference, said):
    assert wording.difference(Objective(), difference) == said


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (math.nan, "–"),
        (0.0, "< 1 %"),
        (0.0099, "< 1 %"),
        (0.01, "1 %"),
        (0.735, "74 %"),
        (0.99, "99 %"),
        (1.0, "> 99 %"),
    ],
)
def test_probability(probability, said):
    assert wording.probability(probability) == said


def test_finished_study(done):
    document = compose(done)
    assert document.headline.startswith(
        "Train 12 epochs with SGD at a peak learning rate of 0.35: warm up linearly over"
    )
    best, *_, baseline = document.contenders
    assert (best.name, best.recommended, best.num_seeds, best.test_value) == (
        "trial 1",
        True,
        3,
        "91.30 ± 0.00",
    )
    assert (baseline.name, baseline.difference, baseline.search_value) == ("baseline", "–", "–")
    assert [row.id for row in document.finished[:2]] == ["trial-0001", "trial-0002"]
    assert [row.state for row in document.stopped] == ["pruned", "diverged", "failed"]
    assert document.cost.spending.avoided == (12 - 4) + (12 - 2) + 12
    assert document.cost.spending.trained == 3 * 12 + 8 * 12 + 4 + 2 + 9 * 12
    assert (document.looks, document.left) == ((), ())
    assert document.cost.num_runs == {"completed": 20, "pruned": 1, "diverged": 1, "failed": 1}
    assert [curve.label for curve in document.lr_curves] == ["trial 1", "baseline"]
    assert [curve.label for curve in document.learning_curves] == [
        "trial 1",
        "trial 2",
        "trial 5",
        "baseline",
    ]
    assert document.importances[0] == ("peak_lr", 0.61)


def test_first_screen_of_a_finished_study(done):
    top1, convergence, difference, best = compose(done).facts
    assert top1 == ("Top-1, %", "91.60 ± 0.36", "3 fresh seeds; baseline 89.60 ± 0.06 (3)")
    assert convergence[1:] == (
        "7 [6, 7] of 12",
        "3 of 3 runs reach 89.61 %; baseline 11 [11, 12] of 12",
    )
    assert difference[:2] == ("To baseline, points", "+2.00")
    assert re.fullmatch(r"95 % interval \[\+1\.\d\d, \+2\.\d\d\]", difference.note)
    assert best.label == "Probability that it is the best"
    assert best.note == f"of 4 recipes; it ties with {len(done.recommendation.ties)} of them"


def test_a_baseline_that_diverged_gives_no_target(done):
    found = replace(done.recommendation, target=math.nan, target_source="the baseline diverged")
    document = compose(replace(done, recommendation=found))
    assert document.target == (
        "Convergence is not known: it has no target, since the baseline diverged. Give one with "
        "`--target`."
    )
    assert {row.convergence for row in document.contenders} == {"–"}
    assert "convergence" not in {column.field for column in document.columns}
    assert not any(fact.label.startswith("Convergence") for fact in document.facts)


def test_a_difference_without_an_interval_on_the_first_screen(done):
    best = replace(
        done.recommendation.best, difference=Difference(mean=2.0, low=-math.inf, high=math.inf)
    )
    facts = compose(replace(done, recommendation=replace(done.recommendation, best=best))).facts
    assert facts[2] == ("To baseline, points", "+2.00", "no interval")


def test_the_order_is_explained_where_seeds_differ(done, comparison):
    assert "The numbers of seeds differ" in compose(comparison).table_note
    assert "The numbers of seeds differ" not in compose(done).table_note


def test_winners_curse_in_numbers(done, config, comparison):
    assert compose(done).optimism == (
        "Winner's curse: the best search score of those confirmed was 92.02 % (trial 1); over 3 "
        "fresh seeds it has 91.60 %, 0.42 points less. On average over the 3 that have both, fresh "
        "seeds give 0.42 points less."
    )
    assert compose(stages(config)["unconfirmed"]).optimism == ""
    assert compose(comparison).optimism == ""


def test_of_equal_search_scores_the_first_is_the_best(done):
    first, *others = (
        replace(c, search_value=92.0)
        for c in reversed(done.recommendation.contenders)
        if c.trial >= 0
    )
    found = replace(done.recommendation, contenders=(first, *others))
    assert "was 92.00 % (trial 1)" in compose(replace(done, recommendation=found)).optimism


def test_fates_and_cost_by_purpose(looked, done, config, comparison):
    document = compose(looked)
    assert document.fates == (
        "Of 18 trials: 3 raced in full with fresh seeds, 13 had 1 look, 1 pruned, 1 diverged."
    )
    assert document.cost_rows == (
        ("baseline", 3, "36", "0", "1 min 30 s"),
        ("search, looks", 23, "55", "1", "2 min 15 s"),
        ("confirmation", 7, "84", "0", "3 min 30 s"),
    )
    assert compose(done).fates == "Of 11 trials: 8 trained in full, 1 pruned, 1 diverged, 1 failed."
    assert compose(stages(config)["looks alone"]).fates == (
        "Of 18 trials: 2 had 3 looks, 1 had 2 looks, 13 had 1 look, 1 pruned, 1 diverged."
    )
    assert (compose(comparison).fates, compose(comparison).cost_rows) == ("", ())


def test_comparison(comparison):
    document = compose(comparison)
    assert document.headline == "Comparison of 5 recipes"
    assert document.schedule.startswith("Train 12 epochs with SGD at a peak learning rate of 0.2")
    assert [row.name for row in document.contenders] == [
        "sgd-linear", "adamw-<cosine>", "sgd-step", "sgd-plateau", "prodigy",
    ]  # fmt: skip
    assert [row.num_seeds for row in document.contenders] == [5, 5, 5, 3, 3]
    assert [row.marks for row in document.contenders[:2]] == [("in the lead", "simplest"), ("tie",)]
    assert [column.field for column in document.columns] == [
        "value", "num_seeds", "difference", "probability_best", "convergence",
        "settling", "val_loss", "time",
    ]  # fmt: skip
    assert document.columns[2].heading == "To sgd-step"
    assert document.contenders[2].difference == "–"
    assert document.contenders[-1].convergence == "not reached"
    assert {curve.label for curve in document.lr_curves} == {
        row.name for row in document.contenders
    }
    assert len(document.learning_curves) == 5
    assert document.replayed  # by its plateau
    assert (document.points, document.parallel, document.looks, document.left) == ((), None, (), ())
    settings = dict(document.settings)
    assert not {"Space", "Budget", "Sampler", "Pruner", "Looks", "Proof"} & settings.keys()
    assert settings["Seeds of each recipe"] == "3"
    assert settings["Seeds of recipes that these do not tell apart"] == "5"


def test_comparison_of_one_so_far_shows_that_one(config):
    document = compose(stages(config)["comparison of one so far"])
    assert [row.name for row in document.contenders] == ["sgd-step"]
    assert document.facts[0].label == "Top-1 of sgd-step, %"


def test_a_loss_of_everything_has_no_interval(config):
    document = compose(stages(config)["comparison with a loss"])
    lost = document.contenders[-1]
    assert lost[:1] + lost[3:7] == ("adamw-<cosine>", "diverged", 1, "–", "–")
    assert lost.val_loss == "–"
    assert [row.id for row in document.stopped] == ["adamw-<cosine>, seed 1"]


def test_what_was_tried_in_parallel_coordinates(done):
    parallel = compose(done).parallel
    assert [axis.label for axis in parallel.axes] == [
        "peak LR", "warmup, epochs", "decay", "floor, of peak", "weight decay", "place",
    ]  # fmt: skip
    assert parallel.axes[0].ticks == (
        (0.0, "0.004"), (pytest.approx(0.143, abs=1e-3), "0.01"),
        (pytest.approx(0.503, abs=1e-3), "0.1"),
        (pytest.approx(0.863, abs=1e-3), "1"), (1.0, "2.4"),
    )  # fmt: skip
    assert parallel.axes[-1].ticks == ((0.0, "stopped"), (pytest.approx(0.2), "8"), (1.0, "1"))
    assert [line.place for line in parallel.lines] == [4, 1, 2, 8, 6, 3, 7, 5, 0, 0, 0]
    assert (
        parallel.lines[1].text == "trial 1: place 1, 92.02 % Top-1; sgd 0.35, warmup 0.6 ep, linear"
    )
    assert all(0 <= position <= 1 for line in parallel.lines for position in line.positions)


@pytest.mark.parametrize(
    ("values", "positions", "ticks"),
    [
        ([0.0, 1.0, 4.0], [0, 0.25, 1], ((0, "0"), (1, "4"))),
        ([1.0, 2.0, 3.0], [0, 0.5, 1], ((0, "1"), (1, "3"))),
        ([0.0, 0.0, 1e-4], [0, 0, 1], ((0, "0"), (1, "0.0001"))),
        ([0.01, 0.1, 1.0], [0, 0.5, 1], ((0, "0.01"), (0.5, "0.1"), (1, "1"))),
        ([0.0, 0.01, 1.0], [0, 0.1, 1], ((0, "0"), (0.1, "0.01"), (0.55, "0.1"), (1, "1"))),
        (["wsd", "cosine", "wsd"], [1, 0, 1], ((0, "cosine"), (1, "wsd"))),
    ],
)
def test_axis_is_linear_or_logarithmic_or_of_words(values, positions, ticks):
    axis, found = axis_of("x", values)
    assert found == pytest.approx(positions)
    assert [text for _, text in axis.ticks] == [text for _, text in ticks]
    assert [at for at, _ in axis.ticks] == pytest.approx([at for at, _ in ticks])


def test_what_was_not_varied_has_no_axis():
    assert axis_of("x", [0.9, 0.9]) is None


def spending(asked, trained, reused):
    return Spending(asked=asked, trained=trained, reused=reused, avoided=asked - trained - reused)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_runs": {}}, "Nothing has been trained yet."),
        (
            {},
            "424 epochs trained in 35 s and 60 taken over from other runs, of 1,240 that all "
            "recipes in full would take; 50 trials, 6 of them in full; 29 runs completed.",
        ),
        (
            {"epochs_again": 9, "num_runs": {"completed": 1, "pruned": 1200}},
            "424 epochs trained in 35 s (9 of them a second time, their checkpoint gone) and 60 "
            "taken over from other runs, of 1,240 that all recipes in full would take; 50 trials, "
            "6 of them in full; 1 run completed, 1,200 pruned.",
        ),
        (
            {"spending": spending(424, 424, 0), "num_finished": 0},
            "424 epochs trained in 35 s; 50 trials, none of them in full; 29 runs completed.",
        ),
        (
            {"spending": spending(600, 424, 0), "num_finished": 50},
            "424 epochs trained in 35 s, of 600 that all recipes in full would take; 50 trials, "
            "all in full; 29 runs completed.",
        ),
        (
            {
                "spending": spending(1, 7, 0),
                "num_trials": 1,
                "num_finished": 1,
                "num_runs": {"running": 2},
            },
            "7 epochs trained in 35 s, 6 more than all recipes in full would take; 1 trial in "
            "full; 2 runs running.",
        ),
        (
            {"num_trials": 0, "num_finished": 0, "retries": 2},
            "424 epochs trained in 35 s and 60 taken over from other runs, of 1,240 that all "
            "recipes in full would take; 29 runs completed; a run lost its worker 2 times, and "
            "went on with another.",
        ),
    ],
)
def test_cost_in_one_sentence(changes, said):
    values = {
        "spending": spending(1240, 424, 60), "epochs_again": 0, "seconds": 35.2, "num_trials": 50,
        "num_finished": 6, "num_runs": {"completed": 29},
    }  # fmt: skip
    assert str(Cost(**values | changes)) == said


def test_study_with_looks(looked):
    document = compose(looked)
    assert document.looks == (
        ("1: 2 epochs", 18, "0.33", "–", "1.00"),
        ("2: 4 epochs", 3, "–", "–", "0.82"),
        ("3: 4 epochs, new seed", 2, "–", "–", "–"),
    )
    assert "Looks are ranked by validation loss." in document.look_note
    assert document.finished == ()
    assert [row.name for row in document.contenders] == [
        "trial 2",
        "trial 3",
        "trial 8",
        "baseline",
    ]
    assert [row.num_seeds for row in document.contenders] == [3, 2, 2, 3]
    # Who raced was not left.
    assert [trial.trial for trial in document.left[:4]] == [6, 1, 12, 11]
    assert document.left[0].reason == "place 4 of 18 in look 1"
    assert [row.id for row in document.stopped] == ["trial-0007-look-1", "trial-0013-look-1"]
    # Each trial once, by its first look, which all of them had.
    assert [point.trial for point in document.points] == list(range(18))
    assert [point.num_looks for point in document.points[:9]] == [1, 1, 3, 3, 1, 1, 1, 1, 2]
    assert document.points[2].value == 79.59
    assert [(p.trial, p.state) for p in document.points if p.state != "completed"] == [
        (7, "diverged"), (13, "pruned"),
    ]  # fmt: skip
    assert [line.place for line in document.parallel.lines[:9]] == [11, 5, 1, 2, 15, 8, 4, 0, 3]


def test_a_search_by_looks_has_no_column_of_search_values(looked, done):
    headings = {name: [c.heading for c in compose(r).columns]
                for name, r in (("looked", looked), ("done", done))}  # fmt: skip
    assert "Search" not in headings["looked"]
    assert "Search" in headings["done"]
    assert "Search:" not in compose(looked).table_note
    assert "Search:" in compose(done).table_note


def test_looks_that_are_ranked_by_the_objective_are_not_compared_with_it(looked_config):
    config = replace(looked_config, rank_by=None)
    document = compose(report_of(looked_state(config)))
    assert document.tables["looks"].headings == (
        "Look", "Trials", "Tau with next", "Best peak LR",
    )  # fmt: skip
    assert {len(row) for row in document.tables["looks"].rows} == {4}
    assert "Looks are ranked by Top-1." in document.look_note
    assert "The first tau" not in document.look_note
    assert compose(report_of(looked_state(looked_config))).tables["looks"].headings[4:] == (
        "Tau with Top-1",
    )


@pytest.mark.parametrize("study", ["done", "looked", "comparison"])
def test_each_column_of_a_table_has_a_heading_and_a_side(request, study):
    for table in compose(request.getfixturevalue(study)).tables.values():
        assert {len(row) for row in table.rows} <= {len(table.headings)} == {len(table.alignment)}


def test_the_settings_are_every_stored_option_by_its_label(config):
    changed = replace(
        config,
        looks=looks_of(1, 3, seed=0),
        rank_by="val_loss:min",
        matters=0.2,
        settings=TrainSettings(clip_norm=1.5, augment=False, ema_half_life_epochs=0.5),
    )
    settings = dict(compose(report_of(StudyState(config=changed), {})).settings)
    labels = [option.label for kind in (TrainSettings, SearchRules) for option in options_of(kind)]
    assert len(set(labels)) == len(labels)
    assert set(labels) <= settings.keys()
    assert {
        "Batch size": "128", "Largest norm of the gradient": "1.5", "Augmentation by lrtune": "no",
        "Half-life of the averaged weights, epochs": "0.5", "Compiled model": "no",
        "Sampler": "tpe", "Looks are ranked by": "val_loss:min", "Target": "the baseline's median",
        "Looks": "1 epoch; 3 epochs; 3 epochs, new seed", "Proof": "full",
        "Smallest difference that matters": "0.2",
    }.items() <= settings.items()  # fmt: skip
    assert dict(compose(report_of(StudyState(config=config), {})).settings)["Looks"] == "none"


def test_what_an_automatic_setting_came_to_stands_beside_it(config):
    changed = replace(
        config, environment={"Device": "CPU, made up", "Precision": "fp32", "OS": "x"}
    )
    settings = compose(report_of(StudyState(config=changed), {})).settings
    labels = [label for label, _ in settings]
    assert len(set(labels)) == len(labels)
    assert dict(settings)["Device"] == "CPU, made up (asked for: auto)"
    assert dict(settings)["Precision"] == "fp32 (asked for: auto)"


def test_a_run_that_nobody_trains_any_more_is_interrupted(config):
    state = stages(config)["in the first looks"].state
    orphans = [replace(r, orphaned=r.state == "running") for r in state.records]
    cost = compose(report_of(replace(state, records=tuple(orphans)), {})).cost
    assert cost.num_runs.get("interrupted") == sum(r.orphaned for r in orphans) > 0
    assert "running" not in cost.num_runs


def test_peak_memory_is_that_of_the_process_that_took_most(done):
    state = done.state
    assert not [name for name, _ in compose(done).settings if "memory" in name]  # it is not known
    sizes = itertools.cycle([(900.0, math.nan), (1500.4, 2048.0), (800.0, 1024.0)])
    records = tuple(
        replace(record, measurements=tuple(
            replace(m, memory_mib=memory, gpu_memory_mib=gpu)
            for m, (memory, gpu) in zip(record.measurements, sizes, strict=False)
        ))
        for record in state.records
    )  # fmt: skip
    settings = dict(compose(report_of(replace(state, records=records))).settings)
    assert settings["Peak memory of a process"] == "1,500 MiB"
    assert settings["Peak memory of a GPU"] == "2,048 MiB"


def test_lr_curve_is_the_schedule():
    recipe = RECIPES[0][0]
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    curve = lr_curve("x", recipe, EPOCHS, STEPS_PER_EPOCH, ())
    assert curve.xs == tuple(step / STEPS_PER_EPOCH for step in range(EPOCHS * STEPS_PER_EPOCH))
    assert curve.ys == tuple(
        recipe.peak_lr * schedule(step) for step in range(EPOCHS * STEPS_PER_EPOCH)
    )


def test_long_lr_curve_is_thinned_but_keeps_its_jumps():
    recipe = Recipe(decay=StepDecay(every_epochs=1))
    curve = lr_curve("x", recipe, 90, 5000, ())
    assert len(curve.xs) < 2000
    jumps = [
        (a, b)
        for a, b, y, z in zip(curve.xs, curve.xs[1:], curve.ys, curve.ys[1:], strict=False)
        if y != z
    ]
    assert all(b - a == pytest.approx(1 / 5000) for a, b in jumps)
    assert len(jumps) == 89


def test_plateau_is_shown_as_it_ran(config):
    report = stages(config)["plateau"]
    curve = compose(report).lr_curves[0]
    best = max(report.state.of_kind("confirm"), key=lambda record: record.metrics["top1"])
    for m in best.measurements:
        assert curve.ys[m.step - 1] == pytest.approx(m.lr_last)
        assert curve.ys[m.step - STEPS_PER_EPOCH] == pytest.approx(m.lr_first)


def test_unconfirmed_says_so(config):
    document = compose(stages(config)["unconfirmed"])
    assert "not confirmed" in document.verdict
    assert document.facts[0].note == "trial 1, one run of the search, not confirmed"
    assert document.contenders[0].value == "not confirmed"
    assert not any("tie" in row.marks for row in document.contenders)
    assert len(document.learning_curves) == 5


def test_best_that_was_not_trained_in_full_says_so(config):
    document = compose(stages(config)["looks alone"])
    note = "trial 2, after 3 looks, not confirmed"
    assert document.facts[0] == ("Validation loss", "0.3882", note)
    assert document.learning_curves == ()
    assert not document.shows_contenders
    assert document.contenders_title == "Not confirmed with fresh seeds"
    assert document.target == (
        "Convergence is not known: its target is that of the baseline, which was not trained in "
        "full."
    )
    running = compose(stages(config)["in the first looks"])
    assert running.target.endswith("the baseline, which has not finished.")


@pytest.mark.parametrize(
    ("stage", "end"),
    [
        ("in the first looks", "fresh seeds. The study is not finished."),
        (
            "looks alone",
            "A budget of up to 6 full runs leaves no room for that; `--confirm quick` makes some.",
        ),
        ("no proof", "by the looks of the search, and not confirmed with fresh seeds."),
    ],
)
def test_what_is_not_confirmed_says_why(config, stage, end):
    assert compose(stages(config)[stage]).verdict.endswith(end)


def test_the_baseline_may_be_the_best_by_looks_alone(config):
    document = compose(stages(config)["looks alone for the baseline"])
    assert document.facts[0].label == "Validation loss"
    assert document.facts[0].note == "baseline, after 3 looks, not confirmed"
    assert [row.name for row in document.contenders] == ["baseline"]


def test_a_target_that_is_still_to_come_asks_for_nothing(config):
    target = compose(stages(config)["racing"]).target
    assert target.startswith("Convergence is not known yet: it has no target, since the base")


def test_trials_that_raced_were_trained_in_full(config, looked):
    assert compose(looked).cost.num_finished == 3
    assert compose(stages(config)["looks alone"]).cost.num_finished == 0


def test_ties_are_said(config):
    document = compose(stages(config)["plateau"])
    assert [row.name for row in document.contenders if "tie" in row.marks] == ["baseline"]


@pytest.mark.parametrize(
    ("stage", "headline"),
    [
        ("nothing", "Nothing has finished yet."),
        ("diverged baseline", "Nothing has finished yet."),
        ("everything diverged", "Nothing has finished."),
        ("baseline", "Only the baseline has been tried so far: train 12 epochs"),
        ("worse than the baseline", "Keep the baseline: train 12 epochs"),
        ("in the first looks", "Not confirmed: train 12 epochs"),
        ("looks alone", "Not confirmed: train 12 epochs"),
        ("looks alone for the baseline", "Keep the baseline, which is not confirmed: train 12"),
        ("no proof", "Not confirmed: train 12 epochs"),
        ("unconfirmed", "Not confirmed: train 12 epochs"),
        ("quick", "Train 12 epochs"),
        ("racing", "Train 12 epochs"),
    ],
)
def test_headline_claims_no_more_than_is_known(config, stage, headline):
    assert compose(stages(config)[stage]).headline.startswith(headline)


def test_a_study_that_was_given_up_promises_nothing(config):
    document = compose(stages(config)["everything diverged"])
    assert document.verdict.startswith(
        "The study was given up: each of 2 runs diverged, at peak LRs"
    )
    assert not any("yet" in said for said in (document.headline, document.verdict, document.target))


def test_no_signal_gives_its_reason(config):
    said = compose(stages(config)["no signal"]).range_tests
    assert (
        said[0]
        == "SGD: no signal in 3 sweeps: The loss fell by less than its noise at every learning "
        "rate."
    )
    assert said[1].startswith("AdamW: use a peak LR of 0.21, or search from 0.012 to 0.94")


def test_diverged_confirmation_does_not_break_the_curves(config, done):
    records = list(done.state.records)
    for i, record in enumerate(records):
        if record.run.id == "trial-0001-confirm-0":
            broken = replace(
                record.measurements[1], metrics={"train_loss": math.nan, "val_loss": math.nan}
            )
            records[i] = replace(
                record, state="diverged", measurements=(record.measurements[0], broken)
            )
    document = compose(report_of(replace(done.state, records=tuple(records))))
    assert all(len(curve.ys) == EPOCHS for curve in document.learning_curves)


def test_a_range_test_of_somebodys_own_optimizer_is_told_by_its_name():
    result = RangeResult(
        optimizer="schedulefreesgd", curves=(), interval=None, rule="", reason="the loss only rises"
    )
    assert wording.range_result(result).startswith("schedulefreesgd: no signal")
