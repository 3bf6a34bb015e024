"""Where the epochs of a study went, counted by hand and against the training itself."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtune.core.decays import WSD, Constant, Cosine, Plateau, StepDecay
from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget
from lrtune.decide.looks import looks_of
from lrtune.decide.spending import Spending, spending_of
from tests.studies import LOOKS, config_of, record, state_of
from tests.tuning.fake_training import MiniStates, MiniTraining, search


def keyed(record, keys, *, reused=0, again_epochs=0):
    """A record whose epochs have these keys, the first so many of them taken over from others."""
    measurements = [
        replace(m, prefix=key, reused=i < reused, again_epochs=again_epochs if i == reused else 0)
        for i, (m, key) in enumerate(zip(record.measurements, keys, strict=True))
    ]
    return replace(record, measurements=tuple(measurements))


BASELINE = keyed(record([50] * 4, "baseline", seed=1), "pqrs")
ABCD = keyed(record([50] * 4), "abcd")
FIRST = keyed(record([50], look=1), "x")
SECOND = keyed(record([50, 60], look=2), "yz")
THIRD = keyed(record([50, 60], look=3), "uv")
OTHER = keyed(record([50], trial=1, look=1), "w")

# records: epochs that were asked for, trained, reused and avoided
SPENT = {
    "nothing": ([], (0, 0, 0, 0)),
    "the baseline": ([BASELINE], (4, 4, 0, 0)),
    "a trial in full": ([ABCD], (4, 4, 0, 0)),
    "one look": ([FIRST], (4, 1, 0, 3)),
    "two looks": ([FIRST, SECOND], (4, 3, 0, 1)),
    "three looks, which did not pay": ([FIRST, SECOND, THIRD], (4, 5, 0, -1)),
    "a look at each of two trials": ([FIRST, OTHER], (8, 2, 0, 6)),
    "a look that begins as the one before, which is no reuse": (
        [keyed(record([50], look=1), "y"), keyed(record([50, 60], look=2), "yz", reused=1)],
        (4, 2, 0, 2),
    ),
    "a duplicate": ([ABCD, keyed(record([50] * 4, trial=1), "abcd", reused=4)], (8, 4, 4, 0)),
    "a look at a duplicate": (
        [FIRST, keyed(record([50], trial=1, look=1), "x", reused=1)], (8, 1, 1, 6),
    ),
    "a trunk": ([ABCD, keyed(record([50] * 4, trial=1), "abef", reused=2)], (8, 6, 2, 0)),
    "a trunk that two looks show": (
        [
            SECOND,
            keyed(record([50], trial=1, look=1), "y", reused=1),
            keyed(record([50] * 2, trial=1, look=2), "yt", reused=1),
        ],
        (8, 3, 1, 4),
    ),
    "a lost checkpoint": (
        [
            keyed(record([50], look=1), "y"),
            keyed(record([50, 60], look=2), "yz", reused=1, again_epochs=1),
        ],
        (4, 3, 0, 1),
    ),
    "pruned": ([keyed(record([50], state="pruned"), "a")], (4, 1, 0, 3)),
    "diverged": ([keyed(record([50, 50], state="diverged"), "ab")], (4, 2, 0, 2)),
    "failed": ([record([], state="failed")], (4, 0, 0, 4)),
    "running": ([keyed(record([50, 50], state="running"), "ab")], (2, 2, 0, 0)),
    "a confirmation": (
        [BASELINE, keyed(record([50] * 4, "confirm", seed=1), "pqtu", reused=2)], (8, 6, 2, 0),
    ),
    "a confirmation that is running": (
        [BASELINE, keyed(record([50] * 3, "confirm", seed=1, state="running"), "pqt", reused=2)],
        (7, 5, 2, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("records", "expected"), SPENT.values(), ids=SPENT)
def test_spending(records, expected):
    asked, trained, reused, avoided = expected
    assert spending_of(state_of(*records, looks=LOOKS)) == Spending(
        asked=asked, trained=trained, reused=reused, avoided=avoided
    )


DECAYS = [
    Constant(),
    Cosine(),
    WSD(cooldown_frac=0.5),
    StepDecay(every_epochs=3),
    Plateau(patience_epochs=0),
]


def ask(state, number):
    """Few recipes, so that they meet; some diverge."""
    return Recipe(peak_lr=(0.1, 0.3, 6.0)[number % 3], decay=DECAYS[(7 * number) % 5])


@settings(max_examples=60)
@given(
    lengths=st.sampled_from([(1, 3), (1, 2), (2, 2), ()]),
    num_trials=st.integers(1, 20),
    lost=st.sets(st.integers(1, 6)),
)
def test_what_was_asked_for_is_trained_reused_or_avoided(lengths, num_trials, lost):
    """Counts epochs by what the training itself remembers, and by their keys.

    States are lost on the way.
    """
    training, states = MiniTraining(), MiniStates()
    config = config_of(
        epochs=6, looks=looks_of(*lengths, seed=0) if lengths else (),
        budget=Budget(num_trials, "trials"), num_seeds=2, max_seeds=2,
        baseline=Recipe(peak_lr=0.1, decay=Constant()),
    )  # fmt: skip
    for state in search(config, ask, training, states):
        for key in [key for key, epochs in states.epochs.items() if epochs in lost]:
            states.drop(key)
        keys = {(r.run.id, m.epoch): m.prefix for r in state.records for m in r.measurements}
        owners = {r.run.id: r.run.trial if r.run.is_of_search else r.run.id for r in state.records}
        first = {}  # who trained the epochs of each key
        for run_id, epoch in training.trained:
            first.setdefault(keys[run_id, epoch], owners[run_id])
        shown = {(owners[run_id], key) for (run_id, _), key in keys.items()}
        spending = spending_of(state)
        assert spending.asked == 6 * len(set(owners.values()))
        assert spending.trained == len(training.trained)
        assert spending.reused == sum(first[key] != owner for owner, key in shown)
        again = len(training.trained) - len(first)
        assert spending.avoided == spending.asked - len(shown) - again
