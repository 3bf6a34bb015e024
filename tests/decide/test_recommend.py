"""The recommendation: which recipe is named, how sure, and against what."""

import math
from dataclasses import replace

import pytest

from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget
from lrtune.decide.convergence import Convergence
from lrtune.decide.race import standings
from lrtune.decide.recommend import recommend, target_of
from tests.studies import BASELINE, LOOKS, record, state_of


def final(top1):
    """Four epochs that end at this Top-1."""
    return [top1 - 30, top1 - 20, top1 - 10, top1]


def runs(kind, *finals, trial=0, states=None):
    """Runs of seeds 1, 2, ...; `None`: this seed was not trained."""
    states = states or ["completed"] * len(finals)
    return [
        record(final(top1), kind, trial=trial, seed=seed, state=state)
        for seed, (top1, state) in enumerate(zip(finals, states, strict=True), start=1)
        if top1 is not None
    ]


def trials(*finals):
    return [record(final(top1), trial=trial) for trial, top1 in enumerate(finals)]


def finished_study(*records, **changes):
    """A study of as many trials as there are, whose race is over."""
    num_trials = sum(r.run.kind == "full" for r in records)
    return state_of(*records, **{"budget": Budget(num_trials, "trials")} | changes)


BY_LOOKS = "It is the best by the looks of the search, and not confirmed with fresh seeds."
UNCONFIRMED = "It is the best by the full runs of the search, and not confirmed with fresh seeds."
OVER_3 = "the median final Top-1 of the baseline over 3 seeds"
KEEP = "No recipe that was confirmed beats the baseline."
NOT_FINISHED = "The study is not finished."


def test_of_nothing_nothing_is_recommended():
    assert recommend(state_of()) is None
    assert recommend(state_of(record([50], "baseline", seed=1, state="running"))) is None
    assert (
        recommend(
            state_of(record(final(50), state="pruned"), record([50], trial=1, state="running"))
        )
        is None
    )


def test_the_baseline_alone():
    found = recommend(state_of(*runs("baseline", 80, 82)))
    assert (found.best, found.baseline.name) == (found.baseline, "baseline")
    assert found.best.recipe == BASELINE
    assert found.best.values == (80, 82)
    assert (found.best.mean, found.best.spread) == (81, pytest.approx(math.sqrt(2)))
    assert found.best.difference is None
    assert math.isnan(found.best.search_value)
    assert (found.final, found.ties) == (False, ())
    assert found.verdict == NOT_FINISHED


def test_the_best_of_the_search_until_one_is_confirmed():
    found = recommend(state_of(*runs("baseline", 80, 82, 84), *trials(70, 85, 75)))
    assert (found.best.name, found.best.search_value, found.best.values) == ("trial 1", 85, ())
    assert math.isnan(found.best.mean)
    assert found.best.difference is None
    assert str(found.best.convergence) == "not measured"
    assert math.isnan(found.best.settling_epoch)
    assert (found.final, found.ties) == (False, ())
    assert found.verdict == f"{UNCONFIRMED} {NOT_FINISHED}"
    assert [c.name for c in found.contenders] == ["baseline"]


def test_without_a_proof_nothing_is_final():
    found = recommend(finished_study(*trials(85), confirm="0"))
    assert (found.best.name, found.final, found.verdict) == ("trial 0", False, UNCONFIRMED)


NO_ROOM = "A budget of up to 6 full runs leaves no room for that; `--confirm quick` makes some."


# Top-1s of the first looks, budget: who is named, and what is said of it
@pytest.mark.parametrize(
    ("tops", "changes", "name", "words"),
    [
        ((70, 85, 75), {"budget": "7ep"}, "trial 1", [BY_LOOKS, NO_ROOM]),
        ((70, 85, 75), {"budget": "1.75runs"}, "trial 1", [BY_LOOKS, NO_ROOM]),
        ((70, 85, 75), {"budget": "7ep", "confirm": "0"}, "trial 1", [BY_LOOKS]),
        ((70, 85, 75), {"budget": "24ep"}, "trial 1", [BY_LOOKS, NOT_FINISHED]),
        ((70, 85, 75), {"budget": "50"}, "trial 1", [BY_LOOKS, NOT_FINISHED]),
        ((85, 70, 75), {"budget": "7ep"}, "baseline", [BY_LOOKS, NO_ROOM]),
    ],
)
def test_after_looks_alone_the_best_is_not_confirmed(tops, changes, name, words):
    """Trial 0 has the baseline's own recipe. The best of the three has the other looks, too."""
    best = max(range(3), key=lambda number: tops[number])
    recipes = {0: BASELINE, 1: Recipe(peak_lr=1.0), 2: Recipe(peak_lr=2.0)}
    records = [
        *(record([t], trial=n, look=1, recipe=recipes[n]) for n, t in enumerate(tops)),
        *(record([50] * 2, trial=best, look=look, recipe=recipes[best]) for look in (2, 3)),
    ]
    changes = changes | {"budget": Budget.parse(changes["budget"])}
    found = recommend(state_of(*records, looks=LOOKS, **changes))
    assert (found.best.name, found.best.recipe, found.best.values) == (name, recipes[best], ())
    assert math.isnan(found.best.search_value)  # of a full run, which it had none of
    assert (found.final, found.contenders, found.ties) == (False, (), ())
    assert found.verdict == " ".join(words)


def test_the_confirmed_mean_decides_and_not_the_search():
    found = recommend(
        finished_study(
            *runs("baseline", 80, 81, 82),
            *trials(95, 90),
            *runs("confirm", 85, 86, 87, trial=0),
            *runs("confirm", 88, 89, 90, trial=1),
        )
    )
    assert [c.name for c in found.contenders] == ["trial 1", "trial 0", "baseline"]
    assert (found.best.name, found.best.search_value, found.best.mean) == ("trial 1", 90, 89)
    assert (found.baseline.name, found.final, found.ties) == ("baseline", True, ())
    # by 8 points with every seed: the spread is that of one image of 1,000, with 5 degrees of
    # freedom
    difference = found.best.difference
    assert (difference.mean, round(difference.low, 2), round(difference.high, 2)) == (8, 7.72, 8.26)
    assert (
        found.verdict
        == "+8.00 points of Top-1 against the baseline, 95 % interval [+7.72, +8.26]: better."
    )


def test_a_gain_that_chance_explains_is_a_tie():
    found = recommend(
        finished_study(*runs("baseline", 80, 81, 82), *trials(95), *runs("confirm", 86, 79, 84))
    )
    # differences of 6, -2 and 2: 2 +- 8.0728 * 4 / sqrt(3)
    assert (found.best.name, [c.name for c in found.ties]) == ("trial 0", ["baseline"])
    assert found.verdict == (
        "+2.00 points of Top-1 against the baseline, 95 % interval [-16.64, +20.64]: no gain is "
        "proved. Trial 0 ties with the baseline: 3 fresh seeds do not tell them apart."
    )


def test_two_good_recipes_are_a_tie_and_the_baseline_is_none():
    found = recommend(
        finished_study(
            *runs("baseline", 60, 61, 62),
            *trials(95, 90),
            *runs("confirm", 85, 86, 90, trial=0),
            *runs("confirm", 86, 85, 88, trial=1),
        )
    )
    assert (found.best.name, [c.name for c in found.ties]) == ("trial 0", ["trial 1"])
    assert "Trial 0 ties with trial 1" in found.verdict


@pytest.mark.parametrize(("behind", "simplest"), [(0.3, "trial 1"), (0.5, "trial 0")])
def test_the_simplest_of_a_tie_is_one_that_may_well_be_the_best(behind, simplest):
    """Half a point behind it is a tie still, but the best with a probability of 3 % only."""
    warm, plain = Recipe(warmup_epochs=1), Recipe()
    theirs = [90.3 - behind, 90.9 - behind, 91.8 - behind]
    found = recommend(
        finished_study(
            *runs("baseline", 60, 61, 62),
            record(final(95), recipe=warm),
            record(final(94), trial=1, recipe=plain),
            *(
                replace(r, run=replace(r.run, recipe=warm))
                for r in runs("confirm", 90, 91, 92, trial=0)
            ),
            *(
                replace(r, run=replace(r.run, recipe=plain))
                for r in runs("confirm", *theirs, trial=1)
            ),
        )
    )
    assert (found.best.name, [c.name for c in found.ties]) == ("trial 0", ["trial 1"])
    assert found.simplest.name == simplest


def test_the_baseline_is_named_where_a_new_recipe_only_equals_it():
    found = recommend(
        finished_study(*runs("baseline", 80, 81, 82), *trials(95), *runs("confirm", 82, 80, 81))
    )
    assert found.best is found.baseline
    assert [c.name for c in found.ties] == ["trial 0"]
    assert found.verdict == (
        f"{KEEP} The baseline ties with trial 0: 3 fresh seeds do not tell them apart. "
        "The simplest that may well be the best is trial 0: sgd 0.01, cosine."
    )


def test_the_baseline_is_named_where_its_posterior_mean_is_the_highest():
    """The best of two candidates is drawn to the other one, by more than it leads."""
    study = finished_study(
        *runs("baseline", 80.0, 80.6, 80.2),
        *trials(95, 94),
        *runs("confirm", 80.1, 80.4, 80.32, trial=0),
        *runs("confirm", 78.9, 79.6, 79.3, trial=1),
    )
    found, ranking = recommend(study), standings(study)
    assert ranking.means[0] > ranking.means[-1] > ranking.means[1]
    assert ranking.posterior_means[-1] > ranking.posterior_means[0] > ranking.posterior_means[1]
    assert found.best is found.baseline
    assert [c.name for c in found.contenders] == ["baseline", "trial 0", "trial 1"]
    assert found.verdict.startswith(KEEP)


def test_a_baseline_that_nothing_beats_is_kept():
    found = recommend(
        finished_study(*runs("baseline", 80, 81, 82), *trials(95), *runs("confirm", 70, 71, 72))
    )
    assert (found.best, found.ties, found.verdict) == (found.baseline, (), KEEP)
    assert found.contenders[1].difference.mean == -10


def test_a_trial_of_the_baselines_own_recipe_stands_for_the_baseline():
    own = record(final(85), recipe=BASELINE)
    found = recommend(finished_study(*runs("baseline", 80, 81, 82), own))
    assert (found.best, found.final) == (found.baseline, True)
    assert found.verdict == "The budget had no room for another recipe."
    better = record(final(86), trial=1)
    assert (
        recommend(finished_study(*runs("baseline", 80, 81, 82), own, better)).best.name == "trial 1"
    )


def test_seeds_that_were_hard_for_all_do_not_make_a_winner_of_who_was_out_before_them():
    found = recommend(
        finished_study(
            *runs("baseline", 90.45, 90.55, 90.5, 88.0, 88.1),
            *trials(95, 94),
            *runs("confirm", 90.50, 90.6, 90.52, 88.05, 88.2, trial=0),
            *runs("confirm", 89.98, 90.1, 90.02, trial=1),
            max_seeds=5,
        )
    )
    assert [c.name for c in found.contenders] == ["trial 0", "baseline", "trial 1"]
    assert found.contenders[2].mean > found.best.mean
    assert "Trial 0 ties with the baseline: 5 fresh seeds do not tell them apart." in found.verdict


def test_a_diverged_confirmation_is_the_worst_and_has_no_value():
    found = recommend(
        finished_study(
            *runs("baseline", 80, 81, 82),
            *trials(95),
            *runs("confirm", 90, 91, 92, states=["completed", "diverged", "completed"]),
        )
    )
    assert found.best is found.baseline
    diverged = found.contenders[1]
    assert diverged.values == pytest.approx((90, math.nan, 92), nan_ok=True)
    assert (diverged.num_diverged, math.isnan(diverged.mean)) == (1, True)
    assert (math.isnan(diverged.difference.mean), diverged.difference.low) == (True, -math.inf)


def test_a_failed_confirmation_says_nothing_of_its_recipe():
    found = recommend(
        finished_study(
            *runs("baseline", 60, 70, 80),
            *trials(95),
            *runs("confirm", 70, 75, 90, states=["completed", "failed", "completed"]),
        )
    )
    assert (found.best.seeds, found.best.values) == ((1, 3), (70, 90))
    assert (
        found.best.difference.mean == 10
    )  # against seeds 1 and 3 of the baseline, and not against 1 and 2


def test_a_tie_is_judged_over_the_seeds_that_both_have():
    found = recommend(
        finished_study(
            *runs("baseline", 10, 20, 30),
            *trials(95, 90),
            *runs("confirm", 60, 70, 80, trial=0),
            *runs("confirm", 50, None, 70, trial=1),
        )
    )
    # 10 points lower with seeds 1 and 3; paired by place, seed 2 would meet seed 3, and spread the
    # differences
    assert (found.best.name, found.ties) == ("trial 0", ())


def test_a_single_seed_is_a_tie_with_everything():
    found = recommend(
        state_of(
            *runs("baseline", 60, 61, 62),
            *trials(95),
            *runs("confirm", 90),
            budget=Budget(1, "trials"),
        )
    )
    assert (found.best.name, [c.name for c in found.ties], found.final) == (
        "trial 0",
        ["baseline"],
        False,
    )
    assert (found.best.difference.low, found.best.difference.high) == (-math.inf, math.inf)
    assert found.verdict == (
        "Trial 0 ties with the baseline: one fresh seed does not tell them apart. " + NOT_FINISHED
    )


def test_without_a_baseline_nothing_is_compared():
    state = finished_study(
        *runs("baseline", 80, 80, 80, states=["failed", "completed", "failed"]),
        *trials(95),
        *runs("confirm", 90, 91, 92),
    )
    alone = replace(state, records=tuple(r for r in state.records if r.run.kind != "baseline"))
    found = recommend(alone)
    assert (found.best.name, found.baseline, found.best.difference) == ("trial 0", None, None)
    assert found.target_source == "the baseline has fewer than 3 seeds"
    assert found.best.convergence.num_reached == 0


def test_test_images_are_those_of_the_same_runs():
    confirmed = [replace(r, test={"top1": 80.0 + r.run.seed}) for r in runs("confirm", 90, 91, 92)]
    baseline = [replace(r, test={"top1": 70.0 + r.run.seed}) for r in runs("baseline", 80, 81, 82)]
    found = recommend(finished_study(*baseline, *trials(95), *confirmed))
    assert (found.best.test_values, found.baseline.test_values) == ((81, 82, 83), (71, 72, 73))


FEWER = "the baseline has fewer than 3 seeds"
# final Top-1s of the baseline, how its runs ended, what was asked for: the target, and its source
TARGETS = [
    ((80, 84, 81), "ccc", None, 81, OVER_3),
    ((80, 84), "cc", None, math.nan, FEWER),
    ((80, 84, 20), "ccf", None, math.nan, FEWER),
    (
        (80, 84, 81, 99, 99),
        "ccccc",
        None,
        81,
        OVER_3,
    ),
    ((80, 84, 81), "ccc", 90.5, 90.5, "asked for"),
    ((), "", 90.5, 90.5, "asked for"),
    ((), "", None, math.nan, FEWER),
    ((80, 0, 0), "cdd", None, math.nan, "the baseline diverged"),
    ((80, 84, 0), "ccd", None, 80, OVER_3),
]
STATES = {"c": "completed", "d": "diverged", "f": "failed"}


@pytest.mark.parametrize(("finals", "states", "target", "expected", "source"), TARGETS)
def test_target(finals, states, target, expected, source):
    """It is not known before the baseline has as many seeds as there are at least."""
    baseline = runs("baseline", *finals, states=[STATES[state] for state in states])
    found = target_of(state_of(*baseline, target=target, max_seeds=8))
    assert found == (pytest.approx(expected, nan_ok=True), source)


def test_the_target_of_a_quick_proof_is_its_one_run_of_the_baseline():
    source = "the final Top-1 of the baseline"
    assert target_of(state_of(*runs("baseline", 80), confirm="quick")) == (80, source)
    none = target_of(state_of(confirm="quick"))
    assert (math.isnan(none[0]), none[1]) == (True, "the baseline has fewer than 1 seed")


@pytest.mark.parametrize(
    ("target", "epochs", "text"),
    [
        (None, (3, 4, 3), "3 [3, 4] of 4"),  # the baseline's median, 81
        (75.0, (3, 3, 3), "3 of 4"),
        (62.0, (1, 2, 2), "2 [1, 2] of 4"),
        (91.5, (4, None, 4), "4, by 2 of 3 in 4 epochs"),
        (99.0, (None, None, None), "not reached in 4 epochs"),
    ],
)
def test_convergence_is_measured_on_fresh_seeds_against_the_target(target, epochs, text):
    state = finished_study(
        *runs("baseline", 80, 81, 82), *trials(99), *runs("confirm", 92, 87, 91.5), target=target
    )
    convergence = recommend(state).best.convergence
    assert convergence == Convergence(epochs=epochs, horizon_epochs=4)
    assert str(convergence) == text


def test_settling_is_the_median_over_fresh_seeds():
    confirmed = [record([90] * 4, "confirm", seed=1), *runs("confirm", None, 91, 92)]
    found = recommend(finished_study(*runs("baseline", 80, 81, 82), *trials(95), *confirmed))
    assert found.best.settling_epoch == 4  # of 1, 4 and 4
