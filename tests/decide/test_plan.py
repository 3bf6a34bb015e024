"""What is trained next, in whole studies with a made-up objective.

The studies are killed, spread over workers, and short of budget.
"""

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run, RunRecord
from lrtune.core.study import Budget, Rung, StudyState
from lrtune.decide.plan import MAX_DIVERGED, MAX_FAILURES, Done, Wait, next_run, outcome
from lrtune.decide.race import fresh_seeds
from lrtune.decide.trials import best_first, trials_of
from tests.studies import BASELINE, config_of, measurement, record, state_of


def ask(state, number):
    """Seven peak LRs and the baseline in turn.

    Each recipe comes twice, so that a search of some length has duplicates.
    """
    return (
        BASELINE
        if number % 8 == 0
        else Recipe(peak_lr=0.05 * (number % 8), weight_decay=1e-4 * (number // 16))
    )


def top1_of(run):
    """Best at a peak LR of 0.2; seeds differ a little."""
    return 90 - 100 * abs(run.recipe.peak_lr - 0.2) + 0.1 * (run.seed % 3)


def changed(state, run, /, **changes):
    records = (replace(r, **changes) if r.run == run else r for r in state.records)
    return replace(state, records=tuple(records))


def study(budget, *, jobs=1, kill_share=0.0, early_end_share=0.0, rng=None, **config):
    """Trains a study to its end as an engine does, and checks every step of the plan on the way.

    Args:
        budget: of the study.
        jobs: workers that train side by side.
        kill_share: chance of a worker's death instead of an epoch.
        early_end_share: chance that a run is pruned or diverges after an epoch.
        rng: where chance comes from.
        config: what else differs from the made-up study.

    Returns:
        The state at the end, and the ids of the runs in the order of their first start.
    """
    rng, trained = rng or Random(0), set()
    state, started, now = (
        StudyState(config=config_of(budget=Budget.parse(budget), **config)),
        [],
        0.0,
    )
    while True:
        working = [r for r in state.records if r.state == "running" and not r.orphaned]
        step = next_run(state, ask) if len(working) < jobs else Wait()
        if isinstance(step, Done):
            assert not working
            assert outcome(state) == step
            return state, started
        assert outcome(state) is None
        orphans = [r.run for r in state.records if r.orphaned]
        if isinstance(step, Run):
            if orphans:
                assert step == orphans[0]
                state = changed(state, step, orphaned=False)
            else:
                assert step.id not in started
                started.append(step.id)
                if step.kind == "confirm":  # the best few are known
                    assert all(
                        r.state != "running"
                        for r in state.records
                        if r.run.kind in ("rung", "full")
                    )
                state = replace(
                    state, records=(*state.records, RunRecord(run=step, state="running"))
                )
            continue
        assert working  # a wait ends only with a run
        record = rng.choice(working)
        if rng.random() < kill_share:
            state = changed(state, record.run, orphaned=True)
            continue
        epoch = (record.run.trial, record.run.horizon_epochs, record.run.seed, record.epochs + 1)
        reused = (
            epoch in trained
        )  # a promoted run goes on where its rung ended; what trials share is not reckoned with
        trained.add(epoch)
        now += not reused
        measured = measurement(record.epochs + 1, top1_of(record.run), ended_at=now, reused=reused)
        state = changed(state, record.run, measurements=(*record.measurements, measured))
        if record.epochs + 1 == record.run.stop_epochs:
            state = changed(state, record.run, state="completed")
        elif record.run.kind != "baseline" and rng.random() < early_end_share:
            state = changed(
                state, record.run, state="diverged" if record.run.kind == "confirm" else "pruned"
            )


def baseline_done(*records, **changes):
    return state_of(
        *(record([50] * 4, "baseline", seed=seed) for seed in (1, 2, 3)), *records, **changes
    )


def kinds(state, started):
    of_id = {r.run.id: r.run.kind for r in state.records}
    return [of_id[run_id] for run_id in started]


def test_the_order_of_a_study():
    state, started = study("5", num_confirmed=2)
    assert started == [
        *("baseline-0", "baseline-1", "baseline-2"),
        *("trial-0000", "trial-0001", "trial-0002", "trial-0003", "trial-0004"),
        *("trial-0004-confirm-0", "trial-0004-confirm-1", "trial-0004-confirm-2"),  # peak LR 0.2
        *("trial-0003-confirm-0", "trial-0003-confirm-1", "trial-0003-confirm-2"),  # 0.15
    ]
    assert [r.run.seed for r in state.of_kind("baseline")] == [1, 2, 3]
    assert [r.run.seed for r in state.of_kind("full")] == [0] * 5
    assert [r.run.seed for r in state.of_kind("confirm")] == [1, 2, 3] * 2
    assert {r.run.trial for r in state.of_kind("baseline")} == {-1}
    assert all(r.run.horizon_epochs == 4 for r in state.records)


def test_the_order_of_a_study_with_rungs():
    """One of four trials goes up from the compressed run, as soon as it may.

    The full run is four times as long as the compressed one, so that is the share.
    """
    state, started = study("9", num_confirmed=1, rungs=Rung.parse("c1"))
    assert started == [
        *("baseline-0", "baseline-1", "baseline-2"),
        *(f"trial-{i:04d}-rung-c1" for i in range(4)),
        "trial-0003",  # peak LR 0.15
        *(f"trial-{i:04d}-rung-c1" for i in range(4, 8)),
        "trial-0004",  # 0.2
        "trial-0008-rung-c1",
        *(f"trial-0004-confirm-{i}" for i in range(3)),
    ]
    assert state.spent("trials") == 9
    assert state.epochs_trained == 12 + 9 + 2 * 4 + 12


def test_the_best_of_a_few_goes_up_when_no_trial_is_left():
    _, started = study("2", num_confirmed=0, rungs=Rung.parse("c1,2"))
    assert started[3:] == [
        "trial-0000-rung-c1",
        "trial-0001-rung-c1",
        "trial-0000-rung-2",
        "trial-0000",
    ]


# recipes by a letter: whether another trial is begun
@pytest.mark.parametrize(
    ("tried", "goes_on"),
    [
        ("ab" * 6, False),
        ("ab" + "a" * 9, True),
        ("ab" + "a" * 10, False),
        ("ab" * 5 + "c", True),
        ("abcdefghijkl", True),
    ],
)
def test_a_space_in_which_everything_was_tried_ends_the_search(tried, goes_on):
    """Repeats cost nothing, so a budget of epochs would never come to its end."""
    trials = (
        record([50] * 4, trial=i, recipe=Recipe(peak_lr=ord(letter) / 1000))
        for i, letter in enumerate(tried)
    )
    step = next_run(baseline_done(*trials, budget=Budget(1000, "epochs")), ask)
    assert step.kind == ("full" if goes_on else "confirm")


def test_fresh_seeds_are_none_of_the_search():
    assert list(fresh_seeds(config_of(seed=5, num_seeds=4))) == [6, 7, 8, 9]


def test_the_sampler_is_asked_with_what_is_known():
    asked = []

    def listening(state, number):
        asked.append((len(state.records), number))
        return ask(state, number)

    assert next_run(baseline_done(record([50] * 4)), listening).id == "trial-0001"
    assert asked == [(4, 1)]


def test_a_duplicate_is_confirmed_once_and_the_baseline_not_again():
    state, _ = study("17", num_confirmed=20)
    confirmed = Counter(r.run.recipe for r in state.of_kind("confirm"))
    assert confirmed == {Recipe(peak_lr=0.05 * i): 3 for i in range(1, 8)}
    assert BASELINE in {r.run.recipe for r in state.of_kind("full")}
    # of two trials of the same recipe and the same Top-1, the first stands for both
    assert {r.run.trial for r in state.of_kind("confirm")} == set(range(1, 8))


@pytest.mark.parametrize("num_confirmed", [0, 1, 3])
def test_so_many_recipes_are_confirmed(num_confirmed):
    state, _ = study("8", num_confirmed=num_confirmed)
    best_first = [4, 3, 5, 2, 6, 1, 7]
    assert [r.run.trial for r in state.of_kind("confirm")[::3]] == best_first[:num_confirmed]


def test_only_finished_trials_are_confirmed():
    records = [
        record([50] * 4, "baseline", seed=1),
        record([90] * 3, trial=0, state="pruned"),
        record([95, 95], trial=1, state="diverged"),
        record([], trial=2, state="failed"),
        record([60, 70, 80, 85], trial=3),
        record([90, 90, 90, 84], trial=4),
        record([60, 70, 80, 85], trial=5),
    ]
    state = state_of(*records, budget=Budget(6, "trials"), num_seeds=1, num_confirmed=2)
    assert [t.number for t in best_first(trials_of(state))] == [
        3,
        5,
        4,
    ]  # by the last epoch; of equals the earlier
    first = next_run(state, ask)
    assert (first.id, first.recipe, first.seed) == (
        "trial-0003-confirm-0",
        records[4].run.recipe,
        1,
    )


SHARES = st.floats(0, 0.4)


@settings(max_examples=40)
@given(
    amount=st.integers(16, 120),
    jobs=st.integers(1, 5),
    early=SHARES,
    kill=SHARES,
    rng=st.randoms(use_true_random=False),
)
@pytest.mark.parametrize("unit", ["ep", "runs"])
def test_a_budget_is_not_overspent(unit, amount, jobs, early, kill, rng):
    budget = f"{amount}ep" if unit == "ep" else f"{amount / 4}runs"
    state, _ = study(budget, jobs=jobs, early_end_share=early, kill_share=kill, rng=rng)
    assert state.epochs_trained <= amount
    wanted = 3 * min(3, len({trial.recipe for trial in best_first(trials_of(state))} - {BASELINE}))
    assert (
        len(state.of_kind("confirm")) == wanted or amount - state.epochs_trained < 4
    )  # nor left lying


@pytest.mark.slow
@settings(max_examples=60)
@given(
    amount=st.integers(16, 120),
    jobs=st.integers(1, 5),
    early=SHARES,
    kill=SHARES,
    rungs=st.sampled_from(["c1", "c1,c2", "c2,1", "1,2,3"]),
    pruner=st.sampled_from(["fair", "hyperband"]),
    rng=st.randoms(use_true_random=False),
)
@pytest.mark.parametrize("unit", ["ep", "runs"])
def test_with_rungs_a_budget_is_not_overspent_either(
    unit, amount, jobs, early, kill, rungs, pruner, rng
):
    budget = f"{amount}ep" if unit == "ep" else f"{amount / 4}runs"
    changes = {"rungs": Rung.parse(rungs), "pruner": pruner}
    state, started = study(
        budget, jobs=jobs, early_end_share=early, kill_share=kill, rng=rng, **changes
    )
    assert state.epochs_trained <= amount
    assert len(started) == len(set(started)) == len(state.records)
    assert all(r.state != "running" for r in state.records)


@pytest.mark.parametrize(
    ("budget", "epochs"), [("60s", 60), ("1min", 60), ("61s", 60), ("37s", 36)]
)
def test_a_budget_of_time_is_not_overspent(budget, epochs):
    state, _ = study(budget)  # an epoch takes a second
    assert state.spent("seconds") == state.epochs_trained == epochs


# The three baselines took 4 s side by side, so an epoch costs a third of a second; how many runs
# have begun since then.
@pytest.mark.parametrize(
    ("num_begun", "budget", "begins"),
    [
        (2, "8s", True), (2, "7s", False), (5, "11s", False), (5, "12s", True),
        (0, "8s", True), (0, "7s", False),
    ],
)  # fmt: skip
def test_of_a_budget_of_time_as_many_runs_begin_side_by_side_as_there_is_time_for(
    num_begun, budget, begins
):
    begun = (record([], trial=trial, state="running") for trial in range(num_begun))
    step = next_run(baseline_done(*begun, budget=Budget.parse(budget), num_confirmed=0), ask)
    assert isinstance(step, Run) == begins


def test_a_third_of_the_budget_is_kept_for_the_confirmation():
    state, _ = study("24runs")
    assert Counter(r.run.kind for r in state.records) == {"baseline": 3, "full": 13, "confirm": 8}
    state, _ = study("60runs")  # more than nine runs are not needed
    assert Counter(r.run.kind for r in state.records) == {"baseline": 3, "full": 48, "confirm": 9}


# 12 epochs for the baseline, 4 for the run that is being trained, 4 for the next, and what is kept
# for the confirmation
@pytest.mark.parametrize(("num_confirmed", "enough"), [(0, 20), (1, 30)])
@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_run_that_is_being_trained_is_counted_in_full(epochs, num_confirmed, enough):
    for amount, expected in [(enough - 1, Wait), (enough, Run)]:
        running = record([50] * epochs, state="running")
        state = baseline_done(running, budget=Budget(amount, "epochs"), num_confirmed=num_confirmed)
        assert isinstance(next_run(state, ask), expected)


unbroken_study = cache(study)


@pytest.mark.slow
@settings(max_examples=30)
@given(kill=st.floats(0, 0.7), rng=st.randoms(use_true_random=False))
@pytest.mark.parametrize(
    ("budget", "rungs"), [("9", ""), ("100ep", ""), ("25runs", ""), ("80ep", "c1,2")]
)
def test_a_study_that_was_killed_ends_as_an_unbroken_one(budget, rungs, kill, rng):
    ladder = Rung.parse(rungs) if rungs else ()
    broken, broken_order = study(budget, kill_share=kill, rng=rng, rungs=ladder)
    unbroken, order = unbroken_study(budget, rungs=ladder)
    assert broken_order == order
    finals = [
        [(r.run, r.state, r.epochs, r.metrics) for r in state.records]
        for state in (broken, unbroken)
    ]
    assert finals[0] == finals[1]


@pytest.mark.slow
@settings(max_examples=40)
@given(jobs=st.integers(1, 6), early=SHARES, kill=SHARES, rng=st.randoms(use_true_random=False))
def test_side_by_side_every_trial_is_trained_once(jobs, early, kill, rng):
    state, started = study("12", jobs=jobs, early_end_share=early, kill_share=kill, rng=rng)
    assert len(started) == len(set(started)) == len(state.records)
    assert [r.run.id for r in state.of_kind("full")] == [f"trial-{i:04d}" for i in range(12)]
    assert kinds(state, started) == sorted(
        kinds(state, started), key=["baseline", "full", "confirm"].index
    )
    assert all(r.state != "running" for r in state.records)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        # the trials are started, but one is not over: which are best is not known yet
        (baseline_done(record([60], trial=0, state="running"), budget=Budget(1, "trials")), Wait()),
        # every confirmation is started, and the last one is not over
        (
            baseline_done(
                record([60] * 4),
                record([60] * 4, "confirm", seed=1),
                record([60] * 4, "confirm", seed=2),
                record([60], "confirm", seed=3, state="running"),
                budget=Budget(1, "trials"),
                num_confirmed=1,
            ),
            Wait(),
        ),
        (
            baseline_done(
                record([60] * 4),
                *(record([60] * 4, "confirm", seed=seed) for seed in (1, 2, 3)),
                budget=Budget(1, "trials"),
            ),
            Done("the budget is spent and the best recipes are confirmed"),
        ),
    ],
)
def test_waiting_and_being_done(state, expected):
    assert next_run(state, ask) == expected
    assert outcome(state) == (expected if isinstance(expected, Done) else None)


def failures(*states, budget=50):
    """Trials that ended so, one after another."""
    return baseline_done(
        *(
            record(
                [50] * 4 if state == "completed" else [50],
                trial=i,
                state=state,
                reason=f"reason {i}",
            )
            for i, state in enumerate(states)
        ),
        budget=Budget(budget, "trials"),
    )


@pytest.mark.parametrize(
    "states",
    [
        ["failed"] * (MAX_FAILURES - 1),
        ["failed", "failed", "completed", "failed"],
        ["failed", "failed", "diverged", "failed", "failed"],
        ["failed", "failed", "failed", "pruned"],
    ],
)
def test_some_failures_are_the_recipes_fault(states):
    step = next_run(failures(*states), ask)
    assert step.id == f"trial-{len(states):04d}"


@pytest.mark.parametrize(
    "states", [["failed"] * 3, ["failed"] * 5, ["diverged", "failed", "failed", "failed"]]
)
def test_three_failures_in_a_row_end_the_study(states):
    reason = f"3 runs in a row failed, the last one with: reason {len(states) - 1}"
    assert next_run(failures(*states), ask) == Done(reason, failed=True)


def test_a_training_that_a_recipe_can_make_fail_is_given_more_time():
    states = ["completed", *["failed"] * 9]
    assert next_run(failures(*states), ask).id == "trial-0010"
    reason = "10 runs in a row failed, the last one with: reason 10"
    assert next_run(failures(*states, "failed"), ask) == Done(reason, failed=True)


def test_a_study_that_is_given_up_waits_for_the_runs_that_are_left():
    assert next_run(failures("failed", "failed", "failed", "running"), ask) == Wait()
    assert next_run(failures("failed", "running", "failed", "failed"), ask) == Wait()


def test_a_baseline_that_fails_three_times_ends_the_study():
    state = state_of(
        *(record([], "baseline", seed=seed, state="failed", reason="no GPU") for seed in (1, 2, 3))
    )
    assert next_run(state, ask) == Done(
        "3 runs in a row failed, the last one with: no GPU", failed=True
    )


def all_diverged(num_trials, **changes):
    """A study in which no run came to its end."""
    baseline = (record([50] * seed, "baseline", seed=seed, state="diverged") for seed in (1, 2, 3))
    return state_of(
        *baseline, *(record([10], trial=i, state="diverged") for i in range(num_trials)), **changes
    )


def test_a_study_in_which_everything_diverges_is_given_up():
    assert next_run(all_diverged(MAX_DIVERGED - 1), ask).id == f"trial-{MAX_DIVERGED - 1:04d}"
    assert next_run(all_diverged(MAX_DIVERGED), ask) == Done(
        "each of 13 runs diverged, at peak LRs down to 0.01: look for NaNs in the data, the model "
        "or the loss",
        failed=True,
    )


@pytest.mark.parametrize(("budget", "num_trials"), [("4", 4), ("20ep", 9)])
def test_a_study_that_ends_with_nothing_before_that_has_failed_too(budget, num_trials):
    done = next_run(all_diverged(num_trials, budget=Budget.parse(budget)), ask)
    assert done.failed
    assert f"each of {3 + num_trials} runs diverged" in done.reason


@pytest.mark.parametrize(
    ("state", "top1s"), [("completed", [50] * 4), ("pruned", [50]), ("running", [50])]
)
def test_one_run_that_did_not_diverge_is_enough_to_go_on(state, top1s):
    study = all_diverged(MAX_DIVERGED)
    other = record(top1s, trial=MAX_DIVERGED, state=state)
    assert (
        next_run(replace(study, records=(*study.records, other)), ask).id
        == f"trial-{MAX_DIVERGED + 1:04d}"
    )


def test_a_study_in_which_everything_has_diverged_waits_for_the_runs_that_are_left():
    state = all_diverged(MAX_DIVERGED)
    assert (
        next_run(
            replace(state, records=(*state.records, record([], trial=10, state="running"))), ask
        )
        == Wait()
    )


@pytest.mark.parametrize("kind", ["baseline", "full", "confirm"])
def test_an_orphan_goes_first_whatever_it_is(kind):
    orphan = record([50], kind, trial=0, seed=1, state="running", orphaned=True)
    for others in ([], [record([], trial=i, state="failed") for i in (5, 6, 7)]):
        assert next_run(state_of(*others, orphan), ask) == orphan.run


def test_a_study_whose_objective_is_never_a_number_is_given_up():
    state = all_diverged(2, objective=Objective(metric="f1"))
    losses = {"train_loss": 1.0, "val_loss": 1.0, "f1": math.nan}
    records = tuple(
        replace(
            r,
            state="completed",
            measurements=tuple(replace(m, metrics=losses) for m in r.measurements),
        )
        for r in state.records
    )
    state = replace(
        state, records=records, config=replace(state.config, budget=Budget(2, "trials"))
    )
    done = next_run(state, ask)
    while not isinstance(done, Done):
        ended = RunRecord(run=done, state="completed", measurements=records[0].measurements)
        state = replace(state, records=(*state.records, ended))
        done = next_run(state, ask)
    assert done.failed
    assert done.reason.startswith("f1 was not a number at the end of any of ")
