"""The benchmarks: the replay with the rules of its peers, overheads, and searches of commands."""

import math
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks import command, command_digits, decisions, overhead
from benchmarks.replay.ledger import NONE, Ledger, Over, replay
from benchmarks.replay.measure import Regrets, measure, quartiles
from benchmarks.replay.peers import NEED_RAY, PEERS
from benchmarks.replay.pools import Parameter, Pool, bank_pools, recorded_pools
from lrtune.core.decays import Constant, Plateau
from lrtune.core.recipe import Recipe
from lrtune.core.sources import NamedTask
from lrtune.schedules import build_schedule

NAN, INF = math.nan, math.inf


def pool_of(full, **short):
    """A pool of one ladder, made from the scores of each configuration's epochs.

    `h1=...` are the scores of horizon 1.
    """
    scores = {len(full[0]): full} | {int(name[1:]): rows for name, rows in short.items()}
    curves = {
        h: np.stack([rows, np.array(rows) / 2, np.negative(rows)], axis=-1)
        for h, rows in scores.items()
    }
    quality = np.nan_to_num([row[-1] for row in full])
    places = tuple(range(len(full)))
    return Pool(
        name="tiny", parameters=(Parameter(name="place", kind="ladder", choices=places),),
        configurations=[{"place": place} for place in places], curves=curves, repeats=True,
        regret_of="incumbent", quality=quality, best=quality.max(),
    )  # fmt: skip


# the third and the fifth diverge; the fourth looks worst until its end
TINY = pool_of(
    [[50, 60, 61], [55, 58, 60], [56, NAN, NAN], [10, 20, 90], [57, 58, NAN]],
    h1=[[50], [40], [NAN], [80], [57]],
)
# 27 configurations that keep their order, the later the better
ORDERED = pool_of([[i + epoch / 100 for epoch in range(27)] for i in range(27)])


def ledger_of(strategy, pool, budget_epochs):
    """What a strategy, or the peer of that name, has left in its ledger."""
    ledger = Ledger(pool, budget_epochs)
    with suppress(Over):
        PEERS.get(strategy, strategy)(ledger, 0)
    return ledger


RAY = [pytest.mark.ray, pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed")]
PEER_NAMES = [pytest.param(name, marks=RAY if name in NEED_RAY else []) for name in PEERS]

# what is trained (configuration, horizon, to which epoch), in this order; epochs spent; incumbents
# by epochs spent
REPLAYS = {
    "nothing": ([], 0, [NONE] * 6),
    "one run": ([(0, 3, 3)], 3, [0] * 6),
    "resumed": ([(0, 3, 1), (0, 3, 3)], 3, [0] * 6),
    "the same again": ([(0, 3, 2), (0, 3, 2)], 2, [0] * 6),
    "last reports, before any has finished": ([(0, 3, 2), (1, 3, 2)], 4, [0] * 6),
    "the best report gets worse": ([(1, 3, 1), (3, 3, 2), (0, 3, 2)], 5, [1, 1, 1, 1, 0, 0]),
    "finished before better reports": ([(3, 3, 3), (0, 3, 1), (1, 3, 1)], 5, [3] * 6),
    "finished, but worse than reported": ([(0, 3, 2), (1, 3, 3)], 5, [0, 0, 0, 0, 1, 1]),
    "diverged": ([(2, 3, 3)], 2, [2, NONE, NONE, NONE, NONE, NONE]),
    "diverged in its last epoch": ([(0, 3, 1), (4, 3, 3)], 4, [0, 4, 4, 0, 0, 0]),
    "compressed, then afresh": ([(3, 1, 1), (3, 3, 3)], 4, [3] * 6),
    "beyond the budget": ([(0, 3, 3), (3, 3, 3), (1, 3, 3)], 6, [0, 0, 0, 0, 0, 3]),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_ledger_counts_epochs_and_notes_incumbents(name):
    trained, spent, incumbents = REPLAYS[name]

    def strategy(ledger, seed):
        runs = {}
        for index, horizon, to_epoch in trained:
            run = runs.setdefault((index, horizon), ledger.start(index, horizon_epochs=horizon))
            run.train(to_epoch)

    ledger = ledger_of(strategy, TINY, budget_epochs=6)
    assert ledger.spent_epochs == spent
    assert ledger.trace().incumbents.tolist() == incumbents


def test_the_best_report_is_looked_for_again_when_it_falls():
    ledger = Ledger(pool_of([[50, 30, 0], [40, 0, 0]]), budget_epochs=3)
    first, second = ledger.start(0), ledger.start(1)
    first.train(1)
    second.train(1)
    first.train(2)
    assert ledger.trace().incumbents.tolist() == [0, 0, 1]


def test_what_a_strategy_recommends_counts_from_the_epoch_that_it_followed():
    def strategy(ledger, seed):
        ledger.start(0).train(2)
        ledger.recommend(3)
        ledger.start(1).train(1)

    assert replay(strategy, TINY, seed=0, budget_epochs=4).incumbents.tolist() == [0, 3, 3, 3]


def test_best_seen_passes_over_divergence():
    def strategy(ledger, seed):
        for index in (2, 0):
            ledger.start(index).train(3)

    assert replay(strategy, TINY, seed=0, budget_epochs=6).best_seen.tolist() == [
        56,
        56,
        56,
        60,
        61,
        61,
    ]


def test_nothing_left_to_try_ends_a_search():
    ledger = Ledger(TINY, budget_epochs=9)
    for index in range(5):
        ledger.start(index)
    assert ledger.nearest({"place": 2}, again=True) == 2
    with pytest.raises(Over):
        ledger.nearest({"place": 2}, again=False)


def test_halving_finds_the_survivor_for_81_epochs():
    trace = replay(PEERS["halving"], ORDERED, seed=0, budget_epochs=81)
    assert trace.incumbents[-1] == 26
    assert trace.best_seen[-2:].tolist() == [26.25, 26.26]  # 27 x 1 + 9 x 2 + 3 x 6 + 1 x 18 epochs


def test_halving_goes_on_with_those_left_behind():
    trace = replay(PEERS["halving"], TINY, seed=0, budget_epochs=15)
    assert trace.incumbents[-1] == 3  # dropped at first, for its 10 after an epoch


@pytest.mark.parametrize(
    ("budget_epochs", "lengths"), [(83, [27, 27, 27, 1, 1]), (200, [27] * 6 + [18] + [1] * 20)]
)
def test_one_epoch_for_all_leaves_budget_for_three(budget_epochs, lengths):
    ledger = ledger_of("one epoch for all", ORDERED, budget_epochs)
    assert sorted((len(run.epochs) for run in ledger.runs), reverse=True) == lengths


@pytest.mark.parametrize("name", PEER_NAMES)
def test_configurations_are_tried_again_on_a_grid_only(name):
    once = ledger_of(name, replace(TINY, repeats=False), budget_epochs=60)
    assert sorted(run.index for run in once.runs) == [0, 1, 2, 3, 4]
    again = ledger_of(name, TINY, budget_epochs=60)
    assert (len(again.runs) > 5) == (
        name not in {"halving", "one epoch for all"}
    )  # nothing would be learnt


@pytest.mark.parametrize("name", PEER_NAMES)
def test_a_peer_is_replayed_the_same_by_seed_and_survives_divergence(name):
    scores = np.array([curve[:, 0] for curve in ORDERED.curves[27]])
    scores[::5, 2:] = NAN
    pool = pool_of(scores.tolist())
    once, again, other = (replay(PEERS[name], pool, seed, budget_epochs=150) for seed in (1, 1, 2))
    assert once.incumbents.tolist() == again.incumbents.tolist() != other.incumbents.tolist()
    assert once.incumbents[-1] % 5  # no diverged run is recommended


@pytest.mark.parametrize("name", PEER_NAMES)
def test_a_peer_stops_runs_by_its_own_rule(name):
    ledger = ledger_of(name, ORDERED, budget_epochs=540)
    *lengths, _ = (
        len(run.epochs) for run in ledger.runs if run.epochs
    )  # the budget ended the last
    assert 27 in lengths
    assert (min(lengths) < 27) == (name not in {"random", "TPE"})


# regrets by epochs spent; the first epochs within 0.3; those for good
CLOSE = {
    "never": ([2, 1, 0.5], INF, INF),
    "at once": ([0.3, 0.2, 0.1], 1, 1),
    "and stays": ([1, 0.3, 0], 2, 2),
    "and leaves": ([1, 0, 2], 2, INF),
    "and returns": ([0, 1, 0.2], 1, 3),
    "nothing to recommend": ([INF, INF, 0], 3, 3),
}


@pytest.mark.parametrize("name", CLOSE)
def test_epochs_until_close(name):
    row, first, for_good = CLOSE[name]
    regrets = Regrets(by_epochs=np.array([row]), horizon_epochs=1)
    assert regrets.epochs_until_close() == [first]
    assert regrets.epochs_until_close_for_good() == [for_good]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3]),
        ([5, 5, INF], [5, 5, INF]),
        ([INF, INF], [INF, INF]),
        ([3], [3, 3, 3]),
    ],
)
def test_quartiles_are_values_of_seeds(values, expected):
    assert quartiles(np.array(values, float)).tolist() == (
        expected if len(expected) == 3 else [INF] * 3
    )


def test_regret_is_of_the_quality_not_of_the_score_that_was_seen():
    pool = replace(TINY, quality=np.array([70.0, 60.0, 0.0, 90.0, 0.0]))
    regrets = measure(lambda ledger, seed: ledger.start(0).train(3), pool, seeds=2, budgets=[1])
    assert regrets.by_epochs.tolist() == [[20, 20, 20]] * 2


def test_regret_of_the_best_seen_is_in_the_pools_unit():
    pool = replace(TINY, regret_of="best seen", best=90.0, unit=10.0)
    regrets = measure(lambda ledger, seed: ledger.start(0).train(3), pool, seeds=1, budgets=[1])
    assert regrets.by_epochs.tolist() == [[4, 3, 2.9]]


def test_a_plan_made_for_a_budget_is_judged_up_to_that_budget():
    def plan(ledger, seed):
        ledger.start(0 if ledger.budget_epochs == 3 else 3).train(3)

    regrets = measure(plan, TINY, seeds=1, budgets=[1, 2])
    assert regrets.by_epochs.tolist() == [[29, 29, 29, 0, 0, 0]]
    assert regrets.at(1) == [29]
    assert regrets.at(2) == [0]


RECIPES = [
    Recipe(optimizer="sgd", peak_lr=0.1, decay=Constant()),
    Recipe(optimizer="sgd", peak_lr=1.0, decay=Plateau(patience_epochs=1)),
    Recipe(optimizer="sgd", peak_lr=1.0, decay=Plateau(patience_epochs=4)),
    Recipe(optimizer="adamw", peak_lr=0.01, decay=Constant()),
]
TABLE = """recipe,seed,horizon,epoch,val_loss,top1,averaged_top1
0,0,1,1,1.5,40,30
0,0,2,1,1.4,45,35
0,0,2,2,1.2,50,52
0,1,2,1,1.4,46,36
0,1,2,2,1.2,54,53
1,0,1,1,1.5,41,31
1,0,2,1,,,
2,0,1,1,1.5,41,31
2,0,2,1,1.4,45,35
3,0,2,1,1.4,45,35
3,0,2,2,1.4,46,36
"""


@pytest.fixture
def sgd(tmp_path):
    (tmp_path / "curves.csv").write_text(TABLE)
    (pool,) = bank_pools(tmp_path / "curves.csv", RECIPES)  # none of AdamW has every horizon
    return pool


def test_the_bank_shows_seed_0_and_judges_by_all(sgd):
    assert list(sgd.recipes) == RECIPES[:2]  # the third's full run is still in the making
    assert sgd.quality.tolist() == [52, 0]  # the second diverged
    assert sgd.horizon_epochs == 2
    assert sgd.result(0, 2, 2) == [(45, 35, 1.4), (50, 52, 1.2)]
    assert sgd.result(0, 1, 1) == [(40, 30, 1.5)]
    assert [math.isnan(epoch.score) for epoch in sgd.result(1, 2, 2)] == [True]  # it ended


def test_patience_exists_for_plateau_only(sgd):
    assert sgd.configurations[0].keys() == {"peak_lr", "warmup_epochs", "decay"}
    *_, patience = sgd.parameters
    assert patience.choices == (1, 4)
    assert [patience.exists(values) for values in sgd.configurations] == [False, True]
    assert (
        sgd.nearest(
            {"peak_lr": 1.0, "warmup_epochs": 0.0, "decay": "plateau", "patience_epochs": 4}
        )
        == 1
    )
    assert sgd.nearest(dict(sgd.configurations[0])) == 0
    assert sgd.nearest(dict(sgd.configurations[0]), but={0}) == 1


def test_public_curves_are_scored_by_minus_the_loss_from_the_first_epoch_on(tmp_path):
    loss = np.array([[0.1, 3, 2], [0.1, 1, np.inf], [0.1, np.nan, np.nan], [0.1, 5, 4]])
    columns = np.array([[1e-3, 0.0], [1e-2, 0.4], [1e-1, 0.6], [1e-2, 1.0]])
    np.savez(
        tmp_path / "lcbench-a.npz", X=columns, val_loss=loss, names=np.array(["lr", "momentum"])
    )
    (pool,) = recorded_pools(tmp_path)
    assert (pool.name, pool.horizon_epochs, pool.repeats) == ("lcbench-a", 2, False)
    assert (pool.best, pool.unit) == (
        -1,
        2,
    )  # the best losses are 1, 2, 4 and none: 3 is the median
    assert [epoch.score for epoch in pool.result(0, 2, 2)] == [-3, -2]
    assert len(pool.result(1, 2, 2)) == 2
    assert len(pool.result(2, 2, 2)) == 1
    assert [parameter.kind for parameter in pool.parameters] == ["log", "linear"]
    assert pool.nearest({"lr": 2e-2, "momentum": 0.5}) == 1


@pytest.mark.slow
def test_a_simulated_sweep_ends_and_keeps_its_memory():
    stages = list(decisions.simulate(400, 100, 4))
    assert [stage["trials"] for stage in stages] == [100, 200, 300, 400]
    assert (
        sum(stage["decisions"] for stage in stages) > 3 * 400
    )  # an assignment and an epoch for each trial, and more
    assert stages[-1]["memory_mib"] - stages[1]["memory_mib"] < 30


@pytest.mark.slow
def test_the_overhead_is_what_a_search_takes_beside_its_epochs():
    names = NamedTask(data="digits", model="mlp", train_size=200, val_size=100)
    found = overhead.measure(names, trials=2, epochs=2)
    assert found["epochs"] >= 4
    assert 0 < found["training_s"] < found["search_s"]
    assert found["overhead_ms_per_epoch"] == pytest.approx(
        1000 * (found["search_s"] - found["training_s"]) / found["epochs"]
    )


def test_the_script_and_the_task_of_the_command_benchmark_train_alike(capsys):
    task, groups = command_digits.task(), []

    def note(optimizer, *_):
        (group,) = optimizer.param_groups
        groups.append(dict(group))

    hook = register_optimizer_step_pre_hook(note)
    command_digits.train()
    hook.remove()
    recipe, steps_per_epoch = task.baseline, len(task.train) // task.settings.batch_size
    schedule = build_schedule(recipe, epochs=task.epochs, steps_per_epoch=steps_per_epoch)
    assert len(task.train) == steps_per_epoch * task.settings.batch_size  # nothing is dropped
    expected = [recipe.peak_lr * schedule(step) for step in range(schedule.total_steps)]
    assert [group["lr"] for group in groups] == pytest.approx(expected, abs=1e-12)
    assert {(g["momentum"], g["nesterov"], g["weight_decay"]) for g in groups} == {
        (recipe.momentum, recipe.nesterov, recipe.weight_decay)
    }
    assert capsys.readouterr().out.count("val_loss") == task.epochs


def test_the_interval_of_a_mean_is_students():
    assert command.with_interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.484138, 2 + 2.484138))


@pytest.mark.slow
def test_the_hooks_of_a_command_take_time_only_where_it_is_steered():
    alone, steered = (
        command.step_times("SGD", 50, command.PLANS[name]) for name in (command.ALONE, "set")
    )
    assert alone[command.HOOKS] == [0, 0]
    assert min(steered[command.HOOKS]) > 0


@pytest.mark.slow
def test_searches_are_compared_by_what_they_found_and_by_their_time(capsys):
    task = command_digits.task()
    one = command.search(command.OWN_LOOP, task, trials=2, seed=0)
    found = command.compare({command.COMMAND: [one, one], command.OWN_LOOP: [one, one]}, task, 2)
    assert found["difference"] == (0, 0, 0)
    assert found["ratios"] == [1, 1]
    of_one = found["by"][command.OWN_LOOP][0]
    assert of_one["val_losses"] != found["baseline"]["val_losses"]
    assert one.seconds == pytest.approx(
        sum(of_one["starts_s"]) + of_one["epochs_s"] + of_one["other_s"]
    )
    command.print_searches(found)
    assert one.recipe.label in capsys.readouterr().out
