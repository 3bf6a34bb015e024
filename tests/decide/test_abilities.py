"""What a study does without where its training lacks an ability, and that it is said."""

import pytest

from lrtune.core.training import ABILITIES
from lrtune.decide.abilities import limits, shares_seeds

# ability that is absent: words of the sentence about it
WORDS = {
    "resume": "only whole runs are reused",
    "repeat": "fresh runs are not compared seed by seed",
    "follow": "plateau decays are left out",
    "sweep": "the default bounds of peak LRs are searched",
    "test": "the report has no test results",
}


@pytest.mark.parametrize("name", sorted(ABILITIES))
def test_each_ability_that_is_absent_is_one_sentence(name):
    (sentence,) = limits(ABILITIES - {name})
    assert WORDS[name] in sentence
    assert sentence.startswith("This training ")
    assert sentence.endswith(".")


def test_all_of_them_and_none():
    assert limits(ABILITIES) == []
    assert len(limits(frozenset())) == len(ABILITIES)


def test_seeds_are_shared_where_runs_are_repeated():
    assert shares_seeds(ABILITIES)
    assert not shares_seeds(ABILITIES - {"repeat"})
