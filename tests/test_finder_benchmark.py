"""The finder benchmark: what a suggestion loses, and that every finder is run by its own code."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.finders.judge import OURS, OURS_WITH, Grid, grids, judge, overall, summary, verdicts
from benchmarks.finders.peers import PEERS, Replay, our_curve, quiet
from benchmarks.finders.record import (
    CASES,
    Job,
    Outcome,
    do,
    grid,
    jobs,
    read,
    record,
    sweep_to_the_end,
    sweeps,
)
from lrtune.core.recipe import default_recipe
from lrtune.decide.bounds import MIN_POINTS
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import load_task

DIGITS = "digits, mlp"
PEAKED = Grid(
    lrs=np.array([0.001, 0.01, 0.1, 1.0]), top1s=np.array([[60, 60], [88, 92], [97, 99], [10, 10]])
)


@pytest.fixture(scope="module")
def training():
    return NativeTraining(load_task(CASES[DIGITS].data), CASES[DIGITS].settings)


# --- what is lost ---


@pytest.mark.parametrize(
    ("lr", "lost"),
    [
        (0.1, 0),
        (0.01, 8),
        (math.sqrt(0.001), 4),
        (math.sqrt(0.1), 44),
        (1, 88),
        (1e-9, 38),
        (50, 88),
    ],
)
def test_points_lost_at_an_lr(lr, lost):
    assert PEAKED.lost(lr) == pytest.approx(lost)


@pytest.mark.parametrize(
    ("low", "high", "lost"),
    [
        (0.02, 0.5, 0),
        (0.001, 0.01, 8),
        (math.sqrt(0.001), 0.05, PEAKED.lost(0.05)),
        (0.2, 0.9, PEAKED.lost(0.2)),
    ],
)
def test_the_least_that_is_lost_in_an_interval(low, high, lost):
    assert PEAKED.lost_within(low, high) == pytest.approx(lost)


def test_the_error_of_a_grid_is_that_of_its_means_near_the_best():
    level = np.random.default_rng(0).normal(90, 0.8, size=(1000, 4))
    far = np.random.default_rng(1).normal(50, 20, size=(1000, 4))
    assert Grid(
        lrs=np.geomspace(1e-6, 1, 2000), top1s=np.concatenate([far, level])
    ).error == pytest.approx(0.4, rel=0.1)


def outcome(*values):
    return Outcome(values=values, seconds=1.0, num_steps=len(values))


def trained(top1_of, num_seeds=2, optimizer="sgd"):
    """A grid of real LRs with made-up accuracies."""
    return {
        Job(case=DIGITS, optimizer=optimizer, seed=seed, lr=lr): outcome(top1_of(lr))
        for seed in range(num_seeds)
        for lr in grid(optimizer)
    }


def swept(loss_of, num_seeds=6, optimizer="sgd", sweep="ours"):
    """Sweeps with made-up losses."""
    lrs = sweeps(optimizer)[sweep].lrs
    noise = np.random.default_rng(0).normal(0, 0.01, size=(num_seeds, len(lrs)))
    return {
        Job(case=DIGITS, optimizer=optimizer, seed=seed, sweep=sweep): outcome(
            *(loss_of(np.array(lrs)) + noise[seed])
        )
        for seed in range(num_seeds)
    }


def falling(lrs):
    return 2.3 - 1.5 / (1 + (0.01 / lrs) ** 2) + (lrs / 2) ** 4


def test_a_seed_counts_once_it_was_trained_at_every_lr():
    outcomes = trained(lambda lr: 90.0)
    begun = {
        replace(job, seed=2): found
        for job, found in outcomes.items()
        if job.seed == 0 and job.lr > 1
    }
    found = grids(outcomes | begun)[DIGITS, "sgd"]
    assert found.top1s.shape == (len(grid("sgd")), 2)
    assert list(found.lrs) == sorted(grid("sgd"))


def test_who_gets_no_answer_trains_at_the_customary_lr():
    outcomes = trained(lambda lr: 90 - 10 * abs(math.log10(lr))) | swept(np.zeros_like)
    answers = judge(outcomes, peers={})
    assert answers.lr.isna().all()
    customary = grids(outcomes)[DIGITS, "sgd"].lost(default_recipe("sgd").peak_lr)
    assert customary > 9
    assert list(answers.lost) == [customary] * len(answers)
    assert set(summary(answers).unanswered) == {1.0}


def test_ours_reads_one_curve_or_three_each_of_them_once():
    answers = judge(trained(lambda lr: 90.0) | swept(falling, num_seeds=8), peers={})
    assert answers.groupby("rule").size().to_dict() == {OURS_WITH[1]: 8, OURS: 2}
    assert (answers[answers.rule == OURS].seconds == 3).all()
    assert ((answers.low < answers.lr) & (answers.lr < answers.high)).all()


def test_others_are_judged_on_our_sweep_and_on_their_own():
    asked = []

    def stranger(replay):
        asked.append((replay.lrs[0], len(replay.lrs)))
        return {"stranger": 0.1}

    outcomes = trained(lambda lr: 90.0)
    for sweep in sweeps("sgd"):
        outcomes |= swept(falling, num_seeds=2, sweep=sweep)
    answers = judge(outcomes, peers={"lightning": stranger})
    assert asked == [(1e-5, 200)] * 2 + [(1e-8, 100)] * 2
    theirs = answers[answers.rule == "stranger"]
    assert list(theirs.sweep) == ["ours", "ours", "own", "own"]


@pytest.mark.parametrize(
    ("best_lr", "spread", "met"),
    [(0.1, 0.0, "yes"), (0.01, 0.0, "no"), (0.01, 8.0, "tie")],
)
def test_the_verdict_is_against_the_best_of_theirs(best_lr, spread, met):
    """Theirs is right where the best LR is 0.01, and ours suggests a higher one."""
    outcomes = trained(lambda lr: 90 - 10 * abs(math.log10(lr / best_lr))) | swept(falling)
    noisy = {
        job: replace(found, values=(found.values[0] + spread * job.seed,))
        if not job.sweep
        else found
        for job, found in outcomes.items()
    }
    answers = judge(noisy, peers={"fastai": lambda replay: {"worse": 10.0, "best": 0.01}})
    (verdict,) = verdicts(summary(answers), grids(noisy)).to_dict("records")
    assert answers[answers.rule == OURS].lr.min() > 0.03
    assert (verdict["best_of_theirs"], verdict["met"]) == ("best, ours sweep", met)


def test_over_all_tasks_a_rule_is_as_good_as_its_mean_and_as_bad_as_its_worst():
    summarised = pd.DataFrame(
        [
            {
                "case": case,
                "optimizer": "sgd",
                "rule": rule,
                "sweep": "ours",
                "lost": lost,
                "lost_p90": p90,
                "unanswered": 0.0,
            }
            for case, rule, lost, p90 in [
                ("a", "x", 1.0, 9.0),
                ("b", "x", 3.0, 4.0),
                ("a", "y", 0.5, 1.0),
                ("b", "y", 1.5, 2.0),
            ]
        ]
    )
    rows = overall(summarised)[["rule", "mean", "worst", "worst_p90"]].to_numpy().tolist()
    assert rows == [["y", 1.0, 1.5, 2.0], ["x", 2.0, 3.0, 9.0]]


# --- what is recorded ---


def test_recording_goes_on_with_what_is_missing(tmp_path):
    path = tmp_path / "record.jsonl.gz"
    wanted = [
        job for job in jobs([DIGITS], 2, 1, 1) if job.sweep == "ours" and job.optimizer == "sgd"
    ]
    first = record(path, wanted[:1])
    both = record(path, wanted)
    assert list(both) == wanted
    assert both[wanted[0]] == first[wanted[0]]  # its seconds too: it was not done again
    assert read(path) == both


def test_a_job_is_done_the_same_again(training):
    for job in (
        Job(case=DIGITS, optimizer="adamw", seed=1000, sweep="fastai"),
        Job(case=DIGITS, optimizer="adamw", seed=0, lr=0.25),
    ):
        assert do(job, training).values == do(job, training).values


def test_a_training_that_diverges_is_worth_as_much_as_chance(training):
    assert do(Job(case=DIGITS, optimizer="sgd", seed=0, lr=10.0), training).values == (10.0,)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_our_sweep_replayed_is_our_sweep(training, optimizer):
    recipe = default_recipe(optimizer)
    lrs = sweeps(optimizer)["ours"].lrs
    replay = Replay(lrs=lrs, losses=sweep_to_the_end(training, recipe, lrs, 7))
    real = training.sweep(recipe, seed=7)
    assert our_curve(replay, 7) == real
    if optimizer == "sgd":  # whether adamw's breaks off is a matter of the last bit
        assert len(real.lrs) < len(replay.losses)


# --- the others, by their own code ---


def replay_of(loss_of, num_steps=200, low=1e-5, high=10.0):
    lrs = np.geomspace(low, high, num_steps)
    losses = loss_of(lrs)
    return Replay(
        lrs=lrs.tolist(), losses=losses[: np.argmin(np.isfinite(losses)) or None].tolist()
    )


def answers_of(package, replay):
    pytest.importorskip(package.replace("-", "_"))
    with quiet():
        return PEERS[package](replay)


EACH_PEER = pytest.mark.parametrize("package", PEERS)


@pytest.mark.peers
@EACH_PEER
@pytest.mark.parametrize("num_steps", [100, 200])
def test_the_lrs_that_a_peer_sweeps_are_the_recorded_ones(package, num_steps):
    replay = replay_of(falling, num_steps)
    for rule, lr in answers_of(package, replay).items():
        swept_at = 10 * lr if rule == "fastai minimum" else lr
        assert np.abs(np.log(replay.lrs) - math.log(swept_at)).min() < 1e-5


@pytest.mark.peers
@EACH_PEER
def test_a_peer_stops_where_it_thinks_fit(package):
    steep = replay_of(lambda lrs: falling(lrs) + (lrs / 0.1) ** 6)
    answers_of(package, steep)
    assert 100 < steep.num_steps < 200
    calm = replay_of(lambda lrs: 2.3 - 0.1 * np.log(lrs))
    answers_of(package, calm)
    assert calm.num_steps == 200


@pytest.mark.peers
@EACH_PEER
def test_a_peer_bears_a_sweep_that_ends_in_nan(package):
    replay = replay_of(lambda lrs: np.where(lrs < 1, 2.3 - 0.1 * np.log(lrs), np.nan))
    assert all(lr is None or 0 < lr <= 10 for lr in answers_of(package, replay).values())


@pytest.mark.peers
@pytest.mark.parametrize("package", ["fastai", "lightning"])
def test_a_peer_without_an_answer_has_none(package):
    """One of fastai's rules needs 16 points; Lightning needs two finite losses after ten."""
    replay = replay_of(
        lambda lrs: np.where(np.arange(len(lrs)) < 8, 2.3, np.nan), num_steps=MIN_POINTS
    )
    assert None in answers_of(package, replay).values()
