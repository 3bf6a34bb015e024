"""The benchmarks: the replay with the rules of its peers, overheads, and searches of commands."""

import math
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks import ask, command, command_digits, decisions, overhead
from benchmarks.bank.contents import FASHION
from benchmarks.replay.bank import NUM_FRESH, Posterior, banks
from benchmarks.replay.ledger import NONE, Ledger, Over, replay
from benchmarks.replay.measure import Regrets, mean_and_error, measure, quartiles
from benchmarks.replay.ours import OURS
from benchmarks.replay.peers import NEED_RAY, PEERS
from benchmarks.replay.pools import Parameter, Pool
from benchmarks.replay.signals import measure as measure_signals
from lrtune.core.decays import Constant, Cosine, Linear, Plateau
from lrtune.core.recipe import Recipe, default_recipe
from lrtune.core.sources import NamedTask
from lrtune.schedules import build_schedule

NAN, INF = math.nan, math.inf


def pool_of(full, **short):
    """A pool of one ladder, made from the scores of each configuration's epochs.

    `h1=...` are the scores of horizon 1.
    """
    scores = {len(full[0]): full} | {int(name[1:]): rows for name, rows in short.items()}
    curves = {
        h: [[np.stack([row, np.negative(row)], axis=-1)] for row in rows]
        for h, rows in scores.items()
    }
    quality = np.nan_to_num([row[-1] for row in full])
    places = tuple(range(len(full)))
    return Pool(
        name="tiny", parameters=(Parameter(name="place", kind="ladder", choices=places),),
        configurations=[{"place": place} for place in places], curves=curves,
        quality=quality, best=quality.max(),
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


def test_a_run_is_answered_by_its_seed_or_by_one_that_there_is():
    first, second = ([[top1, 1.0]] * 3 for top1 in (50, 60))
    pool = replace(TINY, curves={3: [[np.array(first), np.array(second)]] * 5})
    tops = [pool.result(0, 3, 3, seed=seed)[-1].score for seed in range(3)]
    assert tops == [50, 60, 50]
    ledger = Ledger(pool, budget_epochs=6)
    run = ledger.start(0, seed=1)
    run.train(3)
    assert run.score == 60
    assert [run.is_same(ledger.start(0, seed=seed)) for seed in (0, 1)] == [False, True]


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
    assert trace.spent_epochs == 81  # 27 x 1 + 9 x 2 + 3 x 6 + 1 x 18 epochs


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
def test_configurations_are_tried_again_by_peers_that_ask_a_sampler(name):
    again = ledger_of(name, TINY, budget_epochs=60)
    assert (len(again.runs) > 5) == (
        name not in {"halving", "one epoch for all"}
    )  # nothing would be learnt


@pytest.mark.parametrize("name", PEER_NAMES)
def test_a_peer_is_replayed_the_same_by_seed_and_survives_divergence(name):
    scores = np.array([curve[:, 0] for (curve,) in ORDERED.curves[27]])
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


# regrets by epochs spent; the epochs until within 0.3 for good
CLOSE = {
    "never": ([2, 1, 0.5], INF),
    "at once": ([0.3, 0.2, 0.1], 1),
    "and stays": ([1, 0.3, 0], 2),
    "and leaves": ([1, 0, 2], INF),
    "and returns": ([0, 1, 0.2], 3),
    "nothing to recommend": ([INF, INF, 0], 3),
}


@pytest.mark.parametrize("name", CLOSE)
def test_epochs_until_close_for_good(name):
    row, for_good = CLOSE[name]
    regrets = Regrets(by_budget={3: np.array([row]), 9: np.zeros((1, 9))}, horizon_epochs=1)
    assert regrets.epochs_until_close_for_good(3) == [for_good]
    assert regrets.epochs_until_close_for_good(9) == [1]


@pytest.mark.parametrize(
    ("values", "mean", "error"),
    [
        ([1, 2, 3], 2, 1 / math.sqrt(3)),
        ([4, 4], 4, 0),
        ([4], 4, NAN),
        ([0, INF], INF, NAN),
        ([INF], INF, NAN),
    ],
)
def test_the_mean_has_the_standard_error_of_its_replays(values, mean, error):
    assert mean_and_error(np.array(values, float)) == pytest.approx((mean, error), nan_ok=True)


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
    regrets = measure(lambda ledger, seed: ledger.start(0).train(3), [pool] * 2, budgets=[1])
    assert regrets.by_epochs.tolist() == [[20, 20, 20]] * 2


def test_each_replay_has_a_world_and_the_seed_of_its_place():
    worlds = [replace(TINY, quality=TINY.quality + shift) for shift in (0, -7)]
    regrets = measure(lambda ledger, seed: ledger.start(3 * seed).train(3), worlds, budgets=[1])
    assert regrets.at(1).tolist() == [90 - 61, 90 - 83]


@pytest.mark.parametrize(("sized", "expected"), [(True, [29, 0]), (False, [0, 0])])
def test_a_plan_made_for_a_budget_is_replayed_for_each(sized, expected):
    def plan(ledger, seed):
        ledger.start(0 if ledger.budget_epochs == 3 else 3).train(3)

    regrets = measure(plan, [TINY], budgets=[1, 2], sized=sized)
    assert [regrets.at(budget)[0] for budget in (1, 2)] == expected
    assert [regrets.by_budget[budget].shape for budget in (1, 2)] == [(1, 3), (1, 6)]
    first, second = ([regret] * 3 for regret in expected)
    assert regrets.by_epochs.tolist() == [[*first, *second]]


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
    (bank,) = banks(tmp_path / "curves.csv", RECIPES)  # none of AdamW has every horizon
    return bank


def test_the_bank_has_the_recipes_that_ended_at_every_horizon(sgd):
    assert list(sgd.recipes) == RECIPES[:2]  # the third's full run is still in the making
    assert sgd.finals == [{0: 50, 1: 54}, {0: 0}]  # the second diverged
    assert sgd.horizon_epochs == 2
    world = sgd.recorded(0)
    assert world.result(0, 2, 2) == [(45, 1.4), (50, 1.2)]
    assert world.result(0, 1, 1) == [(40, 1.5)]
    assert [math.isnan(epoch.score) for epoch in world.result(1, 2, 2)] == [True]  # it ended


def test_patience_exists_for_plateau_only(sgd):
    world = sgd.recorded(0)
    assert world.configurations[0].keys() == {"peak_lr", "warmup_epochs", "decay"}
    *_, patience = world.parameters
    assert patience.choices == (1, 4)
    assert [patience.exists(values) for values in world.configurations] == [False, True]
    assert (
        world.nearest(
            {"peak_lr": 1.0, "warmup_epochs": 0.0, "decay": "plateau", "patience_epochs": 4}
        )
        == 1
    )
    assert world.nearest(dict(world.configurations[0])) == 0
    assert world.nearest(dict(world.configurations[0]), but={0}) == 1


# --- what is true of a recipe


def test_one_lucky_run_is_not_taken_at_its_word_but_five_are():
    """Of many recipes one has the highest run; it gets the more of it back, the more runs say so.

    The bad ones are far away and stay where they are.
    """
    rng = np.random.default_rng(0)
    good = [list(84 + 0.4 * rng.standard_normal(3)) for _ in range(60)]
    bad = [[60.0 + number] for number in range(10)]
    once, often = (
        Posterior.of([[84.8] * seeds, *good, *bad]).means for seeds in (1, 5)
    )  # two deviations above the others
    assert 84 < once[0] < 84.3 < often[0] < 84.8
    assert once[-10:] == pytest.approx([60 + number for number in range(10)], abs=0.1)


def test_the_noise_of_a_recipe_is_its_own_as_far_as_it_has_seeds():
    quiet, loud = [[80, 84.0, 84.1, 83.9, 84.0]] * 10, [[80, 83.0, 85.0, 83.0, 85.0]] * 10
    noise = Posterior.of([*quiet, *loud, [84.0]]).noise
    assert noise[0] < noise[-1] < noise[10]  # the last has no seeds to tell
    assert noise[-1] == pytest.approx(math.sqrt((0.02 + 4) / 6))  # the first of each is left out
    assert Posterior.of([[84.0], [83.0]]).noise.max() < 1e-3  # nothing is known of it


def test_truths_are_drawn_from_what_is_known():
    rng = np.random.default_rng(0)
    posterior = Posterior.of(
        [list(mean + 0.3 * rng.standard_normal(4)) for mean in np.linspace(80, 84, 40)]
    )
    draws = np.array([posterior.draw(rng) for _ in range(2000)])
    assert draws.mean(axis=0) == pytest.approx(posterior.means, abs=0.03)
    assert 0.03 < draws.std(axis=0).mean() < 0.2  # a standard error of .15, shrunk


def made_up_table(recipes, *, full_seeds, look_seeds=(0, 1, 2)):
    """The table of a bank in which recipe number i has `full_seeds(i)` full runs.

    The final Top-1 of seed s is 50 + i + s / 100; looks have a loss that tells the recipe and the
    seed, too, and those of three epochs a lower one.
    """
    rows = []
    for number in range(len(recipes)):
        runs = [(seed, horizon) for horizon in (1, 3) for seed in look_seeds]
        runs += [(seed, 27) for seed in range(full_seeds(number))]
        for seed, horizon in runs:
            top1 = 50 + number + seed / 100
            for epoch in range(1, horizon + 1):
                rows.append({
                    "recipe": number, "seed": seed, "horizon": horizon, "epoch": epoch,
                    "val_loss": 4 - top1 / 100 - horizon / 50,
                    "top1": top1 - (horizon - epoch) / 10,
                })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def bank(tmp_path):
    """24 recipes of SGD, the later the better; every third has five full runs, the others one."""
    lrs = [0.01 * 10 ** (number / 6) for number in range(12)]
    recipes = [
        replace(default_recipe("sgd"), peak_lr=lr, decay=decay)
        for lr in lrs
        for decay in (Cosine(), Linear())
    ]
    table = made_up_table(recipes, full_seeds=lambda number: 1 if number % 3 else 5)
    table.to_csv(tmp_path / "curves.csv", index=False)
    (bank,) = banks(tmp_path / "curves.csv", recipes)
    return bank


def test_in_a_recorded_world_no_run_that_is_shown_is_part_of_the_truth(bank):
    judged = set()
    for number in range(20):
        world = bank.recorded(number)
        for index, runs in enumerate(world.curves[27]):
            seeds = [round(100 * (curve[-1, 0] - 50 - index)) for curve in runs]
            assert seeds[0] == 0  # which chose who has more
            if index % 3:
                assert seeds == [0]
                assert world.quality[index] == bank.posterior.means[index]
            else:
                assert len(seeds) == 3
                rest = {1, 2, 3, 4} - set(seeds)
                assert world.quality[index] == pytest.approx(50 + index + sum(rest) / 200)
                judged.add(tuple(sorted(rest)))
        assert world.max_rounds == 3
        assert world.best == bank.posterior.means.max()
    assert len(judged) == 6  # every pair of the four in its turn


def test_in_a_resampled_world_full_runs_are_its_truth_and_new_noise(bank):
    worlds = bank.worlds("resampled", 200)
    finals = np.array([[[c[-1, 0] for c in runs] for runs in w.curves[27]] for w in worlds])
    truths = np.array([world.quality for world in worlds])
    assert finals.shape == (200, 24, NUM_FRESH)
    noise = finals - truths[:, :, None]
    assert np.abs(noise.mean(axis=(0, 2))).max() < 0.01
    assert noise.std(axis=(0, 2)) == pytest.approx(bank.posterior.noise, rel=0.1)
    assert np.abs(np.corrcoef(noise[:, 5, :3].T) - np.eye(3)).max() < 0.3  # seeds are new ones
    for world in worlds[:5]:
        assert world.best == world.quality.max()
    first = worlds[0].curves[27][3][0]
    assert first[:, 0] - first[-1, 0] == pytest.approx(-(27 - np.arange(1, 28)) / 10)  # its shape


@pytest.mark.parametrize("kind", ["resampled", "recorded"])
def test_a_world_follows_from_its_number(bank, kind):
    (one, other), (same, _) = bank.worlds(kind, 2), bank.worlds(kind, 2)

    def told(world):
        return [*world.quality, *(curve[-1, 0] for runs in world.curves[27] for curve in runs)]

    assert told(one) == told(same) != told(other)
    assert [len(runs) for runs in one.curves[1]] == [3] * 24


def test_the_seeds_of_looks_are_shuffled_for_all_recipes_alike(bank):
    orders = set()
    for world in bank.worlds("resampled", 30):
        seeds = [
            tuple(round(100 * (curve[-1, 0] - 50 - index)) for curve in runs)
            for index, runs in enumerate(world.curves[3])
        ]
        assert len(set(seeds)) == 1
        orders.add(seeds[0])
    assert len(orders) == 6


# --- the search of lrtune on a world


def search_of(world, budget_epochs, name="lrtune", seed=0):
    """What a search of lrtune has left in its ledger."""
    ledger = Ledger(world, budget_epochs)
    OURS[name](ledger, seed)
    return ledger


def test_a_small_budget_is_spent_on_looks_alone(bank):
    world = bank.recorded(0)
    ledger = search_of(world, 27)
    assert [
        sum(run.horizon_epochs == horizon for run in ledger.runs) for horizon in (1, 3, 27)
    ] == [12, 3, 0]  # 12 + 2 * 3 + 1 * 3 epochs; with 13 recipes it would be 28
    assert ledger.spent_epochs == 21
    short = [run for run in ledger.runs if run.horizon_epochs == 1]
    long = [run for run in ledger.runs if run.horizon_epochs == 3]
    assert [run.seed for run in short] == [0] * 12
    assert len({run.index for run in short}) == 12
    best = sorted((run.index for run in short), reverse=True)  # the later the better
    assert sorted((run.index, run.seed) for run in long) == sorted(
        [(best[0], 0), (best[1], 0), (best[0], 1)]
    )
    trace = ledger.trace()
    assert trace.incumbents[0] == short[0].index  # named from the first look on
    assert trace.incumbents[-1] == best[0]


def test_the_first_look_is_at_the_baseline_which_is_the_recipe_nearest_to_the_default(bank):
    world = bank.recorded(0)
    first = world.recipes[search_of(world, 27).runs[0].index]
    default = default_recipe("sgd")
    assert first.decay == default.decay
    assert first.peak_lr == pytest.approx(default.peak_lr)


def test_a_large_budget_ends_with_a_race_against_the_baseline(bank):
    world = bank.resampled(0)
    ledger = search_of(world, 20 * 27)
    full = [run for run in ledger.runs if run.horizon_epochs == 27]
    assert {run.seed for run in full} >= {0, 1, 2}  # three rounds at least
    baseline = ledger.runs[0].index
    of_baseline = [run.seed for run in full if run.index == baseline]
    assert of_baseline == list(range(len(of_baseline)))
    assert 3 <= len({run.index for run in full}) <= 5  # four finalists, and the baseline
    assert ledger.spent_epochs <= 20 * 27
    assert ledger.trace().incumbents[-1] in {run.index for run in full}


def test_what_was_trained_before_costs_nothing_again(bank):
    """More recipes are asked for than there are, so some are tried again."""
    ledger = search_of(bank.resampled(0), 20 * 27)
    short = [run for run in ledger.runs if run.horizon_epochs == 1]
    assert len(short) > len({run.index for run in short}) == 24
    trained = {(run.index, run.horizon_epochs, run.seed): run.horizon_epochs for run in ledger.runs}
    assert ledger.spent_epochs == sum(trained.values()) < sum(len(r.epochs) for r in ledger.runs)


def test_the_lag_changes_what_is_asked_and_nothing_else(bank):
    world = bank.resampled(1)
    ledgers = [search_of(world, 40, name) for name in ("lrtune", "lrtune, lag 1", "lrtune")]
    looked = [[run.index for run in ledger.runs] for ledger in ledgers]
    assert looked[0] == looked[2] != looked[1]
    assert looked[0][:4] == looked[1][:4]  # known good ones
    assert len(looked[0]) == len(looked[1])


def test_a_recipe_that_diverges_is_not_recommended(bank):
    world = bank.recorded(0)
    broken = {h: [list(runs) for runs in of_all] for h, of_all in world.curves.items()}
    for h in (1, 3):
        broken[h][23] = [np.full((h, 2), NAN)]
    ledger = search_of(replace(world, curves=broken), 2 * 27)
    assert 23 in {run.index for run in ledger.runs}
    assert 23 not in {run.index for run in ledger.runs if run.horizon_epochs == 3}
    assert ledger.trace().incumbents[-1] == 22


# --- looks


def test_a_signal_is_the_mean_of_looks_and_its_truth_is_of_runs_that_chose_nothing():
    """Full runs of seed 0 rank the recipes backwards, so only the others can agree with looks."""
    recipes = FASHION.recipes[:30]
    table = made_up_table(recipes, full_seeds=lambda number: 3 if number >= 10 else 1)
    of_first = (table.horizon == 27) & (table.seed == 0)
    table.loc[of_first, "top1"] = 150 - table[of_first].top1
    noisy = (table.horizon == 1) & (table.seed == 1)
    table.loc[noisy, "val_loss"] = 9.0 + table[noisy].recipe  # worse, the better the recipe is
    table = table[~((table.recipe == 29) & (table.horizon == 3) & (table.seed == 2))]
    rows = {(row["recipes"], row["signal"]): row for row in measure_signals(table, recipes)}
    third = {signal: row for (recipes, signal), row in rows.items() if recipes == "best third"}
    assert third["1 look of 1 epoch, val. loss"]["tau"] == 1
    assert third["2 looks of 1 epoch, val. loss"]["tau"] == -1
    assert third["2 looks of 1 epoch, Top-1"]["tau"] == 1
    assert third["one full run, Top-1"]["tau"] == -1
    assert third["3 looks of 3 epochs, Top-1"]["n"] == 19
    assert third["1 look of 3 epochs, Top-1"]["n"] == 20
    assert rows["all", "1 look of 3 epochs, Top-1"]["n"] == 30
    assert ("all", "one full run, Top-1") not in rows


def test_a_look_that_diverged_ranks_last():
    recipes = FASHION.recipes[:12]
    table = made_up_table(recipes, full_seeds=lambda number: 2)
    best = (table.recipe == 11) & (table.horizon == 1)
    table.loc[best, ["val_loss", "top1"]] = NAN
    rows = {(row["recipes"], row["signal"]): row["tau"] for row in measure_signals(table, recipes)}
    expected = pytest.approx(1 - 2 * 11 / 66, abs=1e-3)  # 11 of 66 pairs are the wrong way round
    for signal in ("1 look of 1 epoch, val. loss", "1 look of 1 epoch, Top-1"):
        assert rows["best third", signal] == expected


# --- the other benchmarks


@pytest.mark.slow
def test_every_part_of_a_turn_of_the_engine_is_timed():
    measured = ask.measure(12)
    assert measured.keys() == {"read", "plan", "ask", "name the best", "record"}
    assert all(0 < low <= middle <= high for low, middle, high in measured.values())


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
