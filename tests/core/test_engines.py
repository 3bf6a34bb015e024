"""Where runs happen: numbers that cannot be are refused, all of them at once."""

import math

import pytest

from lrtune.core.engines import Local, Ray
from lrtune.core.errors import InputError


@pytest.mark.parametrize("engine", [Local, Ray])
def test_what_nobody_asked_for_is_possible(engine):
    assert engine() == engine()


@pytest.mark.parametrize(
    "changes",
    [
        {"jobs": "auto", "lanes": "auto"},
        {"jobs": 1, "lanes": "auto"},
        {"jobs": 8, "lanes": "auto"},
        {"jobs": 1, "lanes": 1},
        {"jobs": 8, "lanes": 1},
        {"jobs": 8, "lanes": "1"},
        {"jobs": 1, "lanes": 16},
        {"jobs": 1, "lanes": "16"},
        {"jobs": 3, "lanes": 2},
    ],
)
def test_local_engines(changes):
    engine = Local(**changes)
    assert (engine.jobs, engine.lanes) == (changes["jobs"], changes["lanes"])


JOBS = "`jobs` must be auto or a whole number from 1, but got {!r}."
LANES = "`lanes` must be auto or a whole number from 1, but got {!r}."
GPUS_NAMED = "`gpus` must be all, or name different GPUs like 0,2, but got {!r}."


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"jobs": -1}, [JOBS.format(-1)]),
        ({"jobs": 0}, [JOBS.format(0)]),
        ({"lanes": 0}, [LANES.format(0)]),
        ({"lanes": "0"}, [LANES.format("0")]),
        ({"lanes": -2}, [LANES.format(-2)]),
        ({"lanes": "-2"}, [LANES.format("-2")]),
        ({"lanes": "two"}, [LANES.format("two")]),
        ({"lanes": "Auto"}, [LANES.format("Auto")]),
        ({"lanes": ""}, [LANES.format("")]),
        ({"lanes": 2.0}, ["`lanes` must be text or a whole number, but got 2.0."]),
        ({"lanes": "1.5"}, [LANES.format("1.5")]),
        ({"jobs": "²"}, [JOBS.format("²")]),
        ({"jobs": -(10**5000)}, [JOBS.replace("{!r}", "a value of type int")]),
        ({"gpus": ""}, [GPUS_NAMED.format("")]),
        ({"gpus": "0,"}, [GPUS_NAMED.format("0,")]),
        ({"gpus": "1,1"}, [GPUS_NAMED.format("1,1")]),
        ({"jobs": -1, "lanes": "two"}, [JOBS.format(-1), LANES.format("two")]),
    ],
)
def test_impossible_local_engines_are_refused_with_all_that_is_wrong(changes, problems):
    with pytest.raises(InputError) as caught:
        Local(**changes)
    assert list(caught.value.problems) == problems


@pytest.mark.parametrize(
    "changes",
    [
        {"cpus_per_trial": 1e-3},
        {"cpus_per_trial": 2.5},
        {"cpus_per_trial": 64},
        {"gpus_per_trial": None},
        {"gpus_per_trial": 0},
        {"gpus_per_trial": 0.0},
        {"gpus_per_trial": 0.25},
        {"gpus_per_trial": 1},
        {"gpus_per_trial": 2.0},
        {"max_concurrent": 0},
        {"max_concurrent": 1000},
        {"trial_timeout_s": 0},
        {"trial_timeout_s": 0.5},
        {"max_retries": 0},
    ],
)
def test_ray_engines(changes):
    ((name, value),) = changes.items()
    assert getattr(Ray(**changes), name) == value


CPUS = "`0 < cpus_per_trial` must hold, but got {}."
GPUS = "`0 <= gpus_per_trial` must hold, but got {}."
WHOLE = "`gpus_per_trial` must be whole above 1, but got {}."
CONCURRENT = "`0 <= max_concurrent` must hold, but got {}."
TIMEOUT = "`0 <= trial_timeout_s` must hold, but got {}."
RETRIES = "`0 <= max_retries` must hold, but got {}."
ALL_WRONG = {
    "cpus_per_trial": 0,
    "gpus_per_trial": -1,
    "max_concurrent": -1,
    "trial_timeout_s": -1,
    "max_retries": -1,
}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"cpus_per_trial": 0}, [CPUS.format(0)]),
        ({"cpus_per_trial": -0.5}, [CPUS.format(-0.5)]),
        ({"cpus_per_trial": math.inf}, [f"`cpus_per_trial <= {2**53}` must hold, but got inf."]),
        ({"cpus_per_trial": math.nan}, [CPUS.format("nan")]),
        ({"gpus_per_trial": -0.5}, [GPUS.format(-0.5)]),
        ({"gpus_per_trial": 1.5}, [WHOLE.format(1.5)]),
        ({"gpus_per_trial": 1.0000001}, [WHOLE.format(1.0000001)]),
        ({"max_concurrent": -1}, [CONCURRENT.format(-1)]),
        ({"trial_timeout_s": -0.1}, [TIMEOUT.format(-0.1)]),
        ({"trial_timeout_s": math.inf}, [f"`trial_timeout_s <= {2**53}` must hold, but got inf."]),
        ({"trial_timeout_s": math.nan}, [TIMEOUT.format("nan")]),
        ({"max_retries": -1}, [RETRIES.format(-1)]),
        (
            ALL_WRONG,
            [TIMEOUT.format(-1), CPUS.format(0),
             *(rule.format(-1) for rule in (GPUS, CONCURRENT, RETRIES))],
        ),
        (ALL_WRONG | {"gpus_per_trial": 2.5, "max_retries": 0},
         [TIMEOUT.format(-1), CPUS.format(0), WHOLE.format(2.5), CONCURRENT.format(-1)]),
    ],
)  # fmt: skip
def test_impossible_ray_engines_are_refused_with_all_that_is_wrong(changes, problems):
    with pytest.raises(InputError) as caught:
        Ray(**changes)
    assert list(caught.value.problems) == problems


@pytest.mark.parametrize(
    ("gpus", "problem"),
    [(math.inf, f"`gpus_per_trial <= {2**53}` must hold"), (math.nan, GPUS.format("nan"))],
)
def test_gpus_that_are_no_number_are_refused_in_words(gpus, problem):
    with pytest.raises(InputError, match=problem):
        Ray(gpus_per_trial=gpus)
