"""The commands' options, and the functions that take them as arguments."""

import inspect
from collections import Counter
from typing import get_overloads

import pytest

import lrtune
from lrtune.core import commands
from lrtune.core.commands import takes
from lrtune.core.errors import Problems
from lrtune.core.options import OneOf, options_of
from lrtune.core.sources import TypedTask
from lrtune.core.study import TrainSettings

CLASSES = [
    commands.Search, commands.Compare, commands.Resume, commands.Report, commands.Export,
    commands.Delete, commands.Dashboard, commands.Studies, commands.Find,
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
def test_every_option_has_help_that_is_a_sentence_and_a_flag_of_its_own(kind):
    options = options_of(kind)
    assert all(option.help[-1] in ".!" and len(option.help) > 8 for option in options)
    assert Counter(option.flag for option in options).most_common(1)[0][1] == 1
    assert not [
        o.name for o in options if any(isinstance(r, OneOf) for r in o.rules) and not o.choices
    ]


def test_twelve_options_of_a_search_are_essential():
    options = [*options_of(TypedTask), *options_of(commands.Search)]
    assert sum(bool(option.option and option.option.essential) for option in options) == 12


@takes(commands.Search)
def asked(options: commands.Search) -> commands.Search:
    """Returns what is asked for.

    Raises:
        InputError: never.
    """
    return options


def test_a_function_takes_the_fields_of_its_options():
    options = asked("task.py", budget=7, num_seeds=2)
    assert (options.task, options.budget, options.num_seeds) == ("task.py", 7, 2)
    assert options.given == {"budget", "num_seeds"}
    assert asked(task="task.py", budget=7, num_seeds=2) == options
    with pytest.raises(TypeError, match=r"asked\(\) got .* 'sede'. Did you mean 'seed'\?"):
        asked("task.py", sede=1)
    with pytest.raises(TypeError, match=r"'seeds'. Did you mean 'num_seeds'\?"):
        asked("task.py", seeds=1)


# arguments that are gone, and what there is in their place
RETIRED_ARGUMENTS = {
    "rungs": "the search looks at each recipe .*, whose lengths `looks=` sets",
    "reduction_factor": "the search looks at each recipe .*, whose lengths `looks=` sets",
    "reduction": "the search looks at each recipe .*, whose lengths `looks=` sets",
    "signal": "looks are judged by the raw weights now, by what `rank_by=` says",
    "num_confirmed": "`confirm=` is full, quick or 0 now",
}


@pytest.mark.parametrize("name", commands.RETIRED)
def test_an_argument_that_is_gone_tells_what_there_is_in_its_place(name):
    with pytest.raises(TypeError, match=rf"`{name}` is gone: {RETIRED_ARGUMENTS[name]}"):
        asked("task.py", **{name: 3})
    for function, first in ((lrtune.search, "task.py"), (lrtune.resume, "mine")):
        with pytest.raises(TypeError, match=rf"{function.__name__}\(\): `{name}` is gone"):
            function(first, **{name: 3})


def test_no_option_of_today_is_gone():
    kinds = (*CLASSES, commands.Apply, commands.Log, TypedTask)
    options = [option for kind in kinds for option in options_of(kind)]
    names = {option.name for option in options} | {option.flag[2:] for option in options}
    assert not names & set(commands.RETIRED)


def test_a_function_has_the_signature_and_the_help_of_its_options():
    parameters = inspect.signature(asked).parameters
    assert list(parameters)[:4] == ["task", "space", "budget", "optimizer"]
    assert {p.kind for p in list(parameters.values())[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["num_seeds"].default == 3
    assert parameters["num_seeds"].annotation is int
    help_text = inspect.getdoc(asked)
    assert help_text.startswith("Returns what is asked for.\n\nRaises:\n    InputError: never.")
    assert "    sampler: What suggests recipes;" in help_text
    assert all(f"    {name}: " in help_text for name in parameters)


@pytest.mark.parametrize("name", ["search", "compare", "resume", "find_lr", "load", "export"])
def test_public_functions_describe_every_argument(name):
    function = getattr(lrtune, name)
    parameters = inspect.signature(function).parameters
    assert all(f"    {parameter}: " in inspect.getdoc(function) for parameter in parameters)


def test_settings_in_a_mapping_still_work_and_are_told_the_new_way():
    with pytest.warns(DeprecationWarning, match="give each setting as an argument, such as batch_"):
        options = asked("task.py", settings={"batch_size": 8, "threads": 1}, threads=2)
    assert (options.batch_size, options.threads) == (8, 2)
    assert options.given == {"batch_size", "threads"}


def test_a_conflict_with_a_setting_of_the_task_is_not_foreseen():
    """The task may have a batch that can be divided by 3; the class's own default cannot."""
    asked("task.py", accumulate=3).sound(problems := Problems())
    assert problems == []
    asked("task.py", accumulate=3, batch_size=8).sound(problems)
    assert len(problems) == 1
    with pytest.raises(lrtune.InputError):
        TrainSettings(accumulate=3)


# what is asked of looks and of a race that there are not, and what is said of it
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"looks": "1,3"}, 0),
        ({"rank_by": "top1", "matters": 0.5}, 0),
        ({"pruner": "none", "looks": "auto", "rank_by": None}, 0),
        ({"pruner": "none", "looks": "1,3"}, 1),
        ({"pruner": "none", "looks": "1,3", "rank_by": "top1"}, 2),
        ({"confirm": "quick", "matters": 0.5}, 1),
        ({"confirm": "0", "matters": 0.5}, 1),
        ({"pruner": "asha", "looks": "1,3"}, 1),  # which is no pruner, and that alone is said
    ],
)
def test_options_of_what_a_study_does_not_have_are_conflicts(options, wanted):
    asked("task.py", **options).sound(problems := Problems())
    assert len(problems) == wanted


def test_the_arguments_of_a_report_are_its_options():
    """`lrtune.report` has two meanings, so that its arguments are written out for type checkers."""
    of_study, of_metrics = get_overloads(lrtune.report)
    names = [option.name for option in options_of(commands.Report)]
    assert sorted(inspect.signature(of_study).parameters) == sorted(names)
    assert list(inspect.signature(of_metrics).parameters) == ["values"]
