"""Rungs: who goes up, who stays, and what is said of it."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import Cosine
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.run import RunRecord
from lrtune.core.study import Rung, StudyState
from lrtune.decide.rungs import (
    REGARDLESS_EVERY,
    automatic_rungs,
    check_rungs,
    factor_at,
    first_run,
    is_regardless,
    promotion,
    summaries,
)
from lrtune.decide.trials import trials_of
from tests.studies import config_of, measurement, record, state_of

RUNGS, FIRST = Rung.parse("c1,c3"), Rung.parse("1,3")
"""Below 9 epochs, so that one of three goes up from each."""
DEAD, RUNNING = "diverged", "running"


def climber(number, *ends, rungs=RUNGS):
    """The runs of a trial, each by its score, or by `DEAD` or `RUNNING`."""
    for rung, end in zip((*rungs, None), ends, strict=False):
        scored = end not in (DEAD, RUNNING)
        top1s = [end if scored else 99.0] * ((rung.epochs if rung else 9) if scored else 1)
        state = "completed" if scored else end
        yield record(top1s, trial=number, rung=rung, horizon_epochs=9, state=state)


def study_of(trials, **changes):
    """A study of trials: by number, or numbered from 0, the ends of the runs of each."""
    numbered = trials if isinstance(trials, dict) else dict(enumerate(trials))
    ends = {number: end if isinstance(end, tuple) else (end,) for number, end in numbered.items()}
    rungs = changes.setdefault("rungs", RUNGS)
    records = [
        r for number, of_trial in ends.items() for r in climber(number, *of_trial, rungs=rungs)
    ]
    return state_of(*records, epochs=9, **changes)


def goes_up(state, **kwargs):
    run = promotion(state, **kwargs)
    return run.id.removeprefix("trial-") if run else None


# --- who goes up

# the trials: of each the scores of its runs; who goes up, and to what
PROMOTIONS = {
    "nobody": ([], None),
    "too few": ([50, 60], None),
    "the best of three": ([50, 60, 40], "0001-rung-c3"),
    "one of five": ([50, 60, 40, 70, 30], "0003-rung-c3"),
    "is up already": ([50, (60, RUNNING), 40], None),
    "was up and is left there": ([50, (60, 10), 40], None),
    "was up and died there": ([50, (60, DEAD), 40], None),
    "a better one that came later waits": ([50, (60, 10), 40, 70, 80], None),
    "until there is room for two": ([50, (60, 10), 40, 70, 80, 75], "0004-rung-c3"),
    "and no more": ([50, (60, 10), 40, 70, (80, 10), 75], None),
    "the first of equals": ([50, 60, 60], "0001-rung-c3"),
    "of equals the other one is up": ([50, (60, RUNNING), 60, 60, 40], None),
    "of equals the next": ([50, (60, RUNNING), 60, 60, 40, 40], "0002-rung-c3"),
    "what runs has no score yet": ([50, 60, RUNNING], None),
    "what died counts": ([DEAD, 30, DEAD], "0001-rung-c3"),
    "and never goes up": ([DEAD, DEAD, DEAD, DEAD], None),
    "room for two, one alive": ([DEAD, DEAD, (30, 40), DEAD, DEAD, DEAD], None),
    "to the full run": ([(50, 50), (60, 60), (40, 70)], "0002"),
    "too few on the second": ([(50, 50), (60, 60)], None),
    "the full run is begun": ([(50, 50), (60, 60), (40, 70, RUNNING)], None),
    "the full run is over": ([(50, 50), (60, 60), (40, 70, 90)], None),
    "the highest first": ([(50, 50), (60, 60), (40, 70), 90, 80, 70, 60, 60, 60, 60], "0002"),
}


@pytest.mark.parametrize(("trials", "expected"), PROMOTIONS.values(), ids=PROMOTIONS)
def test_promotions(trials, expected):
    assert goes_up(study_of(trials)) == expected


# once no trial will be added
SETTLED = {
    "nobody": ([], None),
    "one of two": ([50, 60], "0001-rung-c3"),
    "the only one": ([50], "0000-rung-c3"),
    "is up already": ([50, (60, RUNNING)], None),
    "and goes to the end": ([50, (60, 70)], "0001"),
    "which is reached": ([50, (60, 70, 80)], None),
    "what died does not": ([DEAD, 30], "0001-rung-c3"),
    "nobody is alive": ([DEAD, DEAD], None),
    "the best died above": ([50, (60, DEAD)], None),
    "as ever where there are enough": ([50, (60, RUNNING), 40, 30, 30, 30], "0000-rung-c3"),
}


@pytest.mark.parametrize(("trials", "expected"), SETTLED.values(), ids=SETTLED)
def test_promotions_when_no_trial_will_be_added(trials, expected):
    assert goes_up(study_of(trials), settled=True) == expected


# From the first rung trial 10 goes up whatever its score, from the second trial 5.
REGARDLESS = {
    "the worst of few": ({10: 1, 0: 50}, "0010-rung-c3"),
    "before the best": ({0: 50, 1: 60, 2: 40, 10: 1}, "0010-rung-c3"),
    "once": ({0: 50, 1: 60, 10: (1, 1)}, "0001-rung-c3"),
    "it takes no place of the others": ({0: 50, 1: 60, 2: 40, 10: (1, 1)}, "0001-rung-c3"),
    "but on its merit it has one": ({0: 50, 1: 60, 2: 40, 10: (70, 1)}, None),
    "which a better one leaves free": ({0: 50, 1: 60, 2: 40, 10: (70, 1), 3: 80}, "0003-rung-c3"),
    "not what died": ({0: 50, 10: DEAD}, None),
    "from its own level alone": ({0: (50, 50), 10: (60, 60)}, None),
    "and another one from the next": ({0: (50, 50), 5: (40, 40)}, "0005"),
    "which is not lifted to it": ({0: 50, 5: 40}, None),
}


@pytest.mark.parametrize(("trials", "expected"), REGARDLESS.values(), ids=REGARDLESS)
def test_a_few_go_up_whatever_their_score(trials, expected):
    assert goes_up(study_of(trials)) == expected


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_one_in_so_many_goes_up_regardless_and_at_each_level_another_one(level):
    chosen = [
        number
        for number in range(10 * REGARDLESS_EVERY)
        if is_regardless(config_of(), number, level)
    ]
    assert [b - a for a, b in pairwise(chosen)] == [REGARDLESS_EVERY] * 9
    assert chosen[0] == [10, 5, 0, 11][level - 1]


@pytest.mark.parametrize("rungs", ["1", "1,3", "1,3,9"])
def test_of_hyperband_one_in_so_many_of_each_bracket(rungs):
    ladder = Rung.parse(rungs)
    config = config_of(pruner="hyperband", rungs=ladder, epochs=27)
    num_brackets = len(ladder) + 1
    for bracket in range(num_brackets):
        dealt = range(bracket, 2 * REGARDLESS_EVERY * num_brackets, num_brackets)
        for level in range(1, num_brackets - bracket):
            assert sum(is_regardless(config, number, level) for number in dealt) == 2


# rungs, epochs, reduction factor; how many trials it takes for one to go up from each rung
FACTORS = [
    ("c1,c3", 9, 3, [3, 3]),
    ("c1,c3", 9, 2, [3, 3]),  # a full run costs three times what the rung before it costs
    ("c1,c3", 9, 4, [4, 4]),
    ("c3,9", 27, 3, [3, 3]),
    ("c1,c2", 9, 2, [2, 4]),  # 4.5, to the even one
    ("c2", 9, 3, [4]),
    ("c1", 27, 3, [27]),
    ("c3,1", 9, 3, [3, 9]),  # the next level may be the cheaper one
    ("3,4", 9, 2, [2, 2]),
]


@pytest.mark.parametrize(("rungs", "epochs", "reduction_factor", "factors"), FACTORS)
def test_a_level_costs_no_more_than_the_one_below(rungs, epochs, reduction_factor, factors):
    ladder = Rung.parse(rungs)
    config = config_of(rungs=ladder, epochs=epochs, reduction_factor=reduction_factor)
    assert [factor_at(config, ladder, level) for level in range(1, len(ladder) + 1)] == factors


@pytest.mark.parametrize(("scores", "expected"), [([50, 60, 70], None), ([50, 60, 70, 40], "0002")])
def test_so_many_are_waited_for(scores, expected):
    assert (
        goes_up(study_of(scores, rungs=Rung.parse("c2"))) == expected
    )  # of four one, by the table above


def test_of_hyperband_each_bracket_has_its_own_rivals():
    """Trials climb different rungs by their number.

    Trials 0, 3, 6, ... climb both rungs, 1, 4, 7, ... only the second, and 2, 5, 8, ... none.
    """
    scores = {0: 50, 1: 90, 3: 60, 4: 30, 6: 40, 7: 20}
    state = study_of(
        {n: score for n, score in scores.items() if n % 3 == 0}, pruner="hyperband", rungs=FIRST
    )
    second = [r for n in (1, 4, 7) for r in climber(n, scores[n], rungs=FIRST[1:])]
    assert goes_up(state) == "0003-rung-3"
    assert goes_up(replace(state, records=(*state.records[:2], *second))) == "0001"
    assert goes_up(replace(state, records=(*state.records[:2], *second[:2]))) is None


# --- a search as a whole


@given(
    scores=st.lists(st.integers(0, 20) | st.just(-math.inf), min_size=1, max_size=60),
    reduction_factor=st.integers(2, 4),
    jobs=st.integers(1, 4),
    pruner=st.sampled_from(["fair", "hyperband"]),
    rng=st.randoms(use_true_random=False),
)
def test_of_each_rung_no_more_than_a_share_goes_up_and_only_the_best(
    scores, reduction_factor, jobs, pruner, rng
):
    state = StudyState(
        config=config_of(epochs=9, rungs=RUNGS, reduction_factor=reduction_factor, pruner=pruner)
    )
    number, settled = 0, False
    while True:
        running = [r for r in state.records if r.state == "running"]
        run = promotion(state, settled=settled)
        if len(running) == jobs or (running and settled and run is None):
            ended = rng.choice(running)
            done = end_of(ended, scores[ended.run.trial] + rng.randrange(3))
            state = replace(state, records=tuple(done if r is ended else r for r in state.records))
            continue
        if run is not None:
            check_deserved(state, run, settled=settled)
        elif number < len(scores):
            run = first_run(state, number, Recipe(decay=Cosine()))
            number += 1
        elif settled:
            break
        else:
            settled = True
            continue
        assert run.id not in {r.run.id for r in state.records}
        state = replace(state, records=(*state.records, RunRecord(run=run, state="running")))
    if -math.inf not in scores:
        assert any(trial.finished for trial in trials_of(state))


def end_of(record, score):
    if score == -math.inf:
        return replace(record, state="diverged")
    return replace(
        record, state="completed", measurements=(measurement(record.run.stop_epochs, float(score)),)
    )


def check_deserved(state, run, *, settled):
    """Checks that the promoted trial waits, is alive, and belongs to the share of its rung.

    The share must not be used up.
    """
    trials = trials_of(state)
    (trial,) = (t for t in trials if t.number == run.trial)
    level = trial.level
    assert not trial.running
    assert trial.alive
    assert level == len(trial.runs)
    if is_regardless(state.config, trial.number, level):
        return
    peers = [t for t in trials if t.ladder == trial.ladder and t.level >= level]
    share = len(peers) // factor_at(state.config, trial.ladder, level)
    share = max(share, 1) if settled else share
    better = sum(t.scores[level - 1] > trial.score for t in peers)
    assert better < share
    up = [
        t for t in peers if len(t.runs) > level and not is_regardless(state.config, t.number, level)
    ]
    assert len(up) < share


# --- the runs


# rungs, pruner, trial, level: id, kind, epochs that the schedule is fitted to, epochs that are
# trained
RUNS = [
    ("c1,c3,9", "fair", 7, 0, ("trial-0007-rung-c1", "rung", 1, 1)),
    ("c1,c3,9", "fair", 7, 1, ("trial-0007-rung-c3", "rung", 3, 3)),
    ("c1,c3,9", "fair", 7, 2, ("trial-0007-rung-9", "rung", 27, 9)),
    ("c1,c3,9", "fair", 7, 3, ("trial-0007", "full", 27, 27)),
    ("1,3", "hyperband", 6, 0, ("trial-0006-rung-1", "rung", 27, 1)),
    ("1,3", "hyperband", 7, 0, ("trial-0007-rung-3", "rung", 27, 3)),
    ("1,3", "hyperband", 7, 1, ("trial-0007", "full", 27, 27)),
    ("1,3", "hyperband", 8, 0, ("trial-0008", "full", 27, 27)),
]


@pytest.mark.parametrize(("rungs", "pruner", "number", "level", "expected"), RUNS)
def test_the_runs_of_a_trial(rungs, pruner, number, level, expected):
    config = config_of(epochs=27, rungs=Rung.parse(rungs), pruner=pruner, seed=5)
    state = StudyState(config=config)
    run = first_run(state, number, Recipe())
    for _ in range(level):
        state = replace(
            state, records=(*state.records, end_of(RunRecord(run=run, state="running"), 50))
        )
        run = promotion(state, settled=True)
    assert (run.id, run.kind, run.horizon_epochs, run.stop_epochs) == expected
    assert (run.trial, run.recipe, run.recipe_epochs, run.seed) == (number, Recipe(), 27, 5)


@pytest.mark.parametrize("pruner", ["fair", "none", "median", "hopeless"])
def test_without_rungs_a_trial_is_its_full_run(pruner):
    state = StudyState(config=config_of(pruner=pruner))
    assert first_run(state, 3, Recipe()).id == "trial-0003"
    assert promotion(state_of(record([50] * 4), record([60] * 4, trial=1)), settled=True) is None


# pruner, epochs, steps an epoch, reduction factor, rungs
AUTOMATIC = [
    ("halving", 27, 100, 3, "1,3,9"),
    ("halving", 28, 100, 3, "1,3,9,27"),
    ("halving", 12, 100, 3, "1,3,9"),
    ("halving", 30, 1, 3, "1,3,9,27"),  # what an epoch holds does not matter
    ("halving", 3, 100, 3, "1"),
    ("halving", 2, 100, 3, "1"),
    ("halving", 1, 100, 3, ""),
    ("halving", 16, 100, 4, "1,4"),
    ("halving", 10, 100, 2, "1,2,4,8"),
    ("hyperband", 27, 100, 3, "1,3,9"),
    ("fair", 27, 60, 3, "c1,9"),
    ("fair", 27, 59, 3, "c2,9"),  # one epoch would be 59 steps
    ("fair", 27, 10, 3, "c6"),  # a third of the run is not three times as long
    ("fair", 27, 2, 3, ""),  # 60 steps are longer than the run
    ("fair", 90, 5000, 3, "c3,30"),
    ("fair", 20, 9, 3, "c7"),
    ("fair", 2, 1000, 3, "c1"),
    ("fair", 1, 1000, 3, ""),
    ("none", 27, 100, 3, ""),
    ("median", 27, 100, 3, ""),
    ("hopeless", 27, 100, 3, ""),
    ("patient", 27, 100, 3, ""),
]


@pytest.mark.parametrize(
    ("pruner", "epochs", "steps_per_epoch", "reduction_factor", "rungs"), AUTOMATIC
)
def test_automatic_rungs(pruner, epochs, steps_per_epoch, reduction_factor, rungs):
    found = automatic_rungs(pruner, epochs, steps_per_epoch, reduction_factor)
    assert found == (Rung.parse(rungs) if rungs else ())


@pytest.mark.parametrize(
    ("start_epochs", "rungs"), [(0, "c2,18"), (2, "c2,18"), (5, "c5,18"), (7, "c7"), (54, "")]
)
def test_a_look_is_no_shorter_than_the_start_of_a_run(start_epochs, rungs):
    found = automatic_rungs("fair", 54, 100, start_epochs=start_epochs)
    assert found == (Rung.parse(rungs) if rungs else ())


@given(pruner=st.sampled_from(["fair", "halving", "hyperband"]), epochs=st.integers(1, 300),
       steps_per_epoch=st.integers(1, 500), reduction_factor=st.integers(2, 9))  # fmt: skip
def test_automatic_rungs_are_rungs_that_go_with_the_run(
    pruner, epochs, steps_per_epoch, reduction_factor
):
    rungs = automatic_rungs(pruner, epochs, steps_per_epoch, reduction_factor)
    check_rungs(rungs, pruner, epochs)
    if rungs:
        assert Rung.parse(",".join(map(str, rungs))) == rungs


# rungs, pruner: what is wrong with them for 9 epochs
WRONG = [
    ("c1,c3", "fair", ()),
    ("c8,8", "hyperband", ()),
    ("c1,c9", "fair", ("a rung must be shorter than the full run of 9 epochs, but got c9.",)),
    (
        "9,10", "halving",
        (
            "a rung must be shorter than the full run of 9 epochs, but got 9.",
            "a rung must be shorter than the full run of 9 epochs, but got 10.",
        ),
    ),
    (
        "1", "median",
        ("`rungs` go with `pruner` fair, halving, hyperband, but got median, which has none.",),
    ),
    (
        "9", "none",
        (
            "a rung must be shorter than the full run of 9 epochs, but got 9.",
            "`rungs` go with `pruner` fair, halving, hyperband, but got none, which has none.",
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rungs", "pruner", "problems"), WRONG)
def test_rungs_that_do_not_go_with_the_rest_are_refused(rungs, pruner, problems):
    if not problems:
        check_rungs(Rung.parse(rungs), pruner, 9)
        return
    with pytest.raises(InputError) as caught:
        check_rungs(Rung.parse(rungs), pruner, 9)
    assert caught.value.problems == problems


# --- what is said of it


def test_what_became_of_the_trials_of_each_rung():
    trials = [(50, 45), (60, 70, 80), (40, 50, 55), (30, 35), 20, DEAD, RUNNING]
    summary = summaries(study_of({**dict(enumerate(trials)), 10: (1, 2)}))
    assert [s.rung for s in summary] == list(RUNGS)
    first, second = summary
    # seven have a score: the best two of them are up on it, and so are two that were among the best
    # when they were few
    assert (first.num_trials, first.num_promoted, first.num_regardless) == (7, 4, 1)
    assert (second.num_trials, second.num_promoted, second.num_regardless) == (5, 2, 0)
    assert first.tau == pytest.approx(
        0.8
    )  # of ten pairs one is the other way round: 50 > 40, and 45 < 50
    assert math.isnan(second.tau)  # of two


# scores on two rungs, of those that went up
@pytest.mark.parametrize(
    ("pairs", "tau"),
    [
        ([(1, 1), (2, 2), (3, 3)], 1),
        ([(1, 3), (2, 2), (3, 1)], -1),
        ([(1, 1), (2, 3), (3, 2)], 1 / 3),
        ([(1, 1), (2, DEAD), (3, 3)], 1 / 3),  # what dies is the last
        ([(1, 1), (2, 2), 3, 4], math.nan),
        ([(1, 1), (2, 2), (3, RUNNING)], math.nan),
        ([], math.nan),
    ],
)
def test_kendalls_tau_between_a_rung_and_the_next(pairs, tau):
    state = study_of(pairs or [RUNNING])
    assert summaries(state)[0].tau == pytest.approx(tau, nan_ok=True)


def test_a_study_without_rungs_has_no_summaries():
    assert summaries(state_of(record([50] * 4))) == []
