"""What a study does without where its training lacks an ability."""

from collections.abc import Set as AbstractSet

from lrtune.core.training import ABILITIES, Ability

_WITHOUT: dict[Ability, str] = {
    "resume": "This training cannot go on from a saved state: a run that is interrupted starts "
    "again, and only whole runs are reused.",
    "repeat": "This training does not repeat its results for the same seed: no epoch of one run "
    "is reused for another, and fresh runs are not compared seed by seed.",
    "follow": "This training has its metrics too late for its learning rates to follow them: "
    "plateau decays are left out.",
    "sweep": "This training has no range test: the default bounds of peak LRs are searched.",
    "test": "This training has no test split: the report has no test results.",
}


def limits(abilities: AbstractSet[Ability]) -> list[str]:
    """Sentences for the user: what is done otherwise, one for each ability that is absent."""
    return [_WITHOUT[name] for name in sorted(ABILITIES - abilities)]


def shares_seeds(abilities: AbstractSet[Ability]) -> bool:
    """Whether two runs of the same seed have its luck in common, so that they may be paired."""
    return "repeat" in abilities
