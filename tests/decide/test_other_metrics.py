"""Metrics other than Top-1: a loss, one that is made up here, and their nans."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import Budget
from lrtune.decide.looks import looks_of
from lrtune.decide.plan import Done, next_run
from lrtune.decide.prune import why_hopeless
from lrtune.decide.ranking import rank
from lrtune.decide.recommend import recommend, untrained_reason
from lrtune.schedules import build_schedule
from tests.studies import config_of, measurement, record, state_of

NAN = math.nan
LOSS = Objective.parse("val_loss")


def final(loss):
    """Four epochs that end at this loss."""
    return [loss + 0.3, loss + 0.2, loss + 0.1, loss]


def of_metric(run, metric="val_loss"):
    """A record whose values are those of another metric."""
    measurements = tuple(
        replace(m, metrics={"train_loss": 1.0, metric: m.metrics["top1"]}) for m in run.measurements
    )
    return replace(run, measurements=measurements)


def runs(kind, *losses, trial=0, states=None):
    states = states or ["completed"] * len(losses)
    return [
        of_metric(record(final(loss), kind, trial=trial, seed=seed, state=state))
        for seed, (loss, state) in enumerate(zip(losses, states, strict=True), start=1)
    ]


def study(*confirmed, baseline=(0.5, 0.51, 0.52), num_trials=1, **changes):
    trials = [of_metric(record(final(0.4 + n / 100), trial=n)) for n in range(num_trials)]
    values = {"objective": LOSS, "num_validation": 0, "budget": Budget(num_trials, "trials")}
    return state_of(*runs("baseline", *baseline), *trials, *confirmed, **values | changes)


def test_a_lower_loss_is_recommended_with_the_sign_of_the_loss():
    outcome = recommend(study(*runs("confirm", 0.3, 0.32, 0.34)))
    assert (outcome.best.name, outcome.best.search_value) == ("trial 0", 0.4)
    assert outcome.best.values == (0.3, 0.32, 0.34)
    assert (outcome.target, outcome.target_source) == (
        0.51,
        "the median final validation loss of the baseline over 3 seeds",
    )
    # of scores: 0.19 +- 8.0728 * 0.01 / sqrt(3), and of the loss the other way round
    half = 8.0728 * 0.01 / math.sqrt(3)
    mean, low, high = outcome.best.difference.of_values(LOSS)
    assert (mean, low, high) == pytest.approx((-0.19, -0.19 - half, -0.19 + half), rel=1e-3)
    assert outcome.verdict == (
        "-0.190 in validation loss against the baseline, 95 % interval [-0.237, -0.143]: better."
    )
    assert outcome.best.optimism(LOSS) == pytest.approx(-0.08)  # the search saw a worse one
    assert outcome.best.convergence.epochs == (2, 3, 3)


def test_a_higher_loss_is_not():
    outcome = recommend(study(*runs("confirm", 0.6, 0.62, 0.64)))
    assert outcome.best is outcome.baseline
    assert outcome.verdict == "No recipe that was confirmed beats the baseline."
    assert outcome.contenders[1].difference.mean == pytest.approx(-0.11)


def test_a_loss_that_chance_explains_is_a_tie():
    outcome = recommend(study(*runs("confirm", 0.45, 0.55, 0.51)))
    assert outcome.verdict.startswith("-0.007 in validation loss against the baseline, 95 % ")
    assert "no gain is proved" in outcome.verdict
    assert "Trial 0 ties with the baseline: 3 fresh seeds do not tell them apart." in (
        outcome.verdict
    )


def test_what_was_not_confirmed_is_said_to_be_so():
    assert recommend(study(baseline=(), confirm="0")).verdict == (
        "It is the best by the full runs of the search, and not confirmed with fresh seeds."
    )


@pytest.mark.parametrize("state", ["diverged", "completed"])
def test_a_seed_without_a_value_is_the_worst(state):
    """nan, whether its run diverged or its metric is not defined."""
    confirmed = runs("confirm", 0.3, NAN, 0.34, states=["completed", state, "completed"])
    outcome = recommend(study(*confirmed))
    assert outcome.best is outcome.baseline
    candidate = outcome.contenders[1]
    assert (candidate.num_diverged, math.isnan(candidate.mean)) == (1, True)
    assert LOSS.summary(candidate.values) == "1 of 3 diverged"
    assert math.isnan(candidate.difference.mean)


def test_of_two_that_diverged_the_one_that_did_so_less_often_comes_first():
    twice = runs("confirm", NAN, NAN, 0.1, trial=0, states=["diverged", "diverged", "completed"])
    once = runs("confirm", NAN, 0.9, 0.9, trial=1, states=["diverged", "completed", "completed"])
    outcome = recommend(study(*twice, *once, num_trials=2))
    assert [c.name for c in outcome.contenders] == ["baseline", "trial 1", "trial 0"]


# --- a training that cannot repeat


def test_where_seeds_do_nothing_recipes_are_compared_by_their_means():
    """Of two samples of three, the interval is that of Student's unpaired test."""
    scores = {0: {1: 1.0, 2: 2.0, 3: 3.0}, 1: {1: 5.0, 2: 4.0, 3: 3.0}}
    unpaired = rank(scores, reference=0, least_difference=0.0, paired=False).difference(1, 0)
    half = 4.08797 * 1 * math.sqrt(2 / 3)  # t at 99.25 % with 4 degrees of freedom
    assert unpaired.mean == 2
    assert (unpaired.low, unpaired.high) == pytest.approx((2 - half, 2 + half), rel=1e-4)
    paired = rank(scores, reference=0, least_difference=0.0).difference(1, 0)
    assert paired.high - paired.low > unpaired.high - unpaired.low  # 4, 2, 0 seed by seed


def test_where_seeds_do_nothing_they_need_not_be_shared():
    scores = {0: {1: 1.0, 2: 2.0}, 1: {3: 5.0, 4: 4.0}}
    unpaired = rank(scores, reference=0, least_difference=0.0, paired=False)
    assert unpaired.difference(1, 0).mean == 3
    assert math.isfinite(unpaired.difference(1, 0).low)
    assert unpaired.means == {0: 1.5, 1: 4.5}
    assert rank(scores, reference=0, least_difference=0.0).difference(1, 0) is None


def test_which_seed_had_which_value_does_not_matter_where_seeds_do_nothing():
    confirmed, shuffled = ((0.3, 0.32, 0.4), (0.4, 0.3, 0.32))
    one, other = (
        recommend(study(*runs("confirm", *losses), paired=False))
        for losses in (confirmed, shuffled)
    )
    assert one.best.difference.low == pytest.approx(other.best.difference.low)
    assert one.verdict == other.verdict


# --- units


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 50.0, -50.0])
def test_a_ranking_goes_with_the_unit_and_minds_no_shift(scale, shift):
    rng = np.random.default_rng(0)
    base = {recipe: dict(enumerate(rng.normal(recipe / 2, 1, 4))) for recipe in range(4)}
    moved = {
        recipe: {seed: scale * (score + shift) for seed, score in by_seed.items()}
        for recipe, by_seed in base.items()
    }
    expected = rank(base, reference=0, least_difference=0.0)
    ranking = rank(moved, reference=0, least_difference=0.0)
    for recipe in (1, 2, 3):
        wanted, got = expected.difference(recipe, 0), ranking.difference(recipe, 0)
        values = [scale * value for value in (wanted.mean, wanted.low, wanted.high)]
        assert [got.mean, got.low, got.high] == pytest.approx(values, rel=1e-6)
        assert ranking.probability_above(recipe, 0) == pytest.approx(
            expected.probability_above(recipe, 0), abs=1e-6
        )
    assert ranking.probability_best == pytest.approx(expected.probability_best, abs=1e-3)


# --- whether anything was learnt

GUESSED = {
    "guessing": (
        Objective(num_counted=1000, guessing=10.0),
        [9.0, 11.8],
        "guessing (Top-1 10.00 %), by more than chance explains",
    ),
    "a constant": (
        replace(LOSS, constant=0.6931),
        [NAN, 0.9, 0.6931],
        "a constant prediction (validation loss 0.6931)",
    ),
    "the better one of both": (
        Objective(num_counted=1000, guessing=10.0, constant=60.0),
        [61.0],
        "a constant prediction (Top-1 60.00 %), by more than chance explains",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("objective", "values", "words"), GUESSED.values(), ids=GUESSED)
def test_a_study_in_which_nothing_was_learnt_says_so(objective, values, words):
    bad = of_metric(record(values), objective.metric)
    reason = untrained_reason(state_of(bad, objective=objective))
    assert reason == (
        f"No epoch of any run is better than {words}: look for a fault in the data, the model or "
        "the loss before you use any of this."
    )
    assert recommend(state_of(bad, objective=objective)).verdict.startswith(reason)


# objective, values
LEARNT = [
    (Objective(num_counted=1000, guessing=10.0), [9.0, 12.0]),  # two counting errors are 1.9
    (Objective(guessing=10.0), [10.1]),
    (replace(LOSS, constant=0.6931), [0.6930, 5.0]),
    (LOSS, [50.0]),  # nothing is known of guesses
    (Objective.parse("f1"), [0.0]),
]


@pytest.mark.parametrize(("objective", "values"), LEARNT)
def test_one_epoch_that_is_better_is_enough(objective, values):
    good = of_metric(record(values), objective.metric)
    assert untrained_reason(state_of(good, objective=objective)) == ""


def test_before_anything_was_trained_nothing_is_said():
    assert untrained_reason(state_of(objective=replace(LOSS, constant=1.0))) == ""


# --- a metric that nobody has heard of


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_made_up_metric_goes_from_plan_to_recommendation(direction):
    """`wobble` is best at a peak LR of 0.1 and 30 worse for each decade from there."""
    objective = Objective.parse(f"wobble:{direction}")
    sign = 1 if direction == "max" else -1

    def wobble(run, epoch):
        lost = 30 * abs(math.log10(run.recipe.peak_lr / 0.1)) + 0.1 * run.seed
        return sign * (5.0 - lost - 2 * (run.horizon_epochs - epoch))

    lrs = [1.0, 0.01, 0.1, 0.3, 0.001]
    config = config_of(
        objective=objective, num_validation=0, budget=Budget(5, "trials"), num_seeds=3, max_seeds=3,
        looks=looks_of(1, 2, seed=0), baseline=Recipe(peak_lr=0.02),
    )  # fmt: skip
    state = replace(state_of(), config=config)
    while not isinstance(
        run := next_run(state, lambda _, number: Recipe(peak_lr=lrs[number])), Done
    ):
        ended = RunRecord(run=run, state="running")
        for epoch in range(1, run.stop_epochs + 1):
            metrics = {"train_loss": 1.0, "wobble": wobble(run, epoch)}
            measured = replace(measurement(epoch, 0.0), metrics=metrics)
            ended = replace(ended, measurements=(*ended.measurements, measured))
            assert not why_hopeless(ended, config)
        state = replace(state, records=(*state.records, replace(ended, state="completed")))
    outcome = recommend(state)
    assert outcome.final
    assert (outcome.best.recipe.peak_lr, outcome.best.name) == (0.1, "trial 2")
    assert outcome.best.values == pytest.approx((sign * 4.9, sign * 4.8, sign * 4.7))
    assert "in wobble against the baseline" in outcome.verdict
    assert outcome.verdict.startswith("+" if direction == "max" else "-")
    assert "better" in outcome.verdict
    assert outcome.best.convergence.epochs == (1, 1, 1)
    # One in six has a second look: the best one.
    seconds = [r.run for r in state.of_kind("look") if r.run.horizon_epochs == 2]
    assert {run.trial for run in seconds} == {2}


@pytest.mark.parametrize(("direction", "lowered"), [("min", 0.1), ("max", 1.0)])
def test_a_plateau_monitors_a_made_up_metric(direction, lowered):
    recipe = Recipe(decay=Plateau(monitor=f"wobble:{direction}", patience_epochs=0))
    schedule = build_schedule(recipe, epochs=4, steps_per_epoch=1)
    for value in (1.0, 2.0):  # it rises
        schedule = schedule.observe({"val_loss": 1.0, "wobble": value})
    assert schedule(2) == pytest.approx(lowered)
