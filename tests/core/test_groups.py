"""Named parameter groups: their scales in recipes and in spaces."""

import pytest

from lrtune.core.errors import InputError
from lrtune.core.recipe import ParameterGroup, Recipe, group_problems, scaled_groups
from lrtune.core.space import Range, parse_space

GROUPS = (ParameterGroup(name="backbone", lr_scale=0.1), ParameterGroup(name="head"))
SCALES = (("backbone", 0.01), ("head", 2.0))


def test_a_recipe_comes_back_from_its_values():
    recipe = Recipe(group_scales=SCALES)
    assert recipe.to_dict()["group_scales"] == {"backbone": 0.01, "head": 2.0}
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict({"group_scales": {"head": 2.0, "backbone": 0.01}}) == recipe
    assert recipe.label.endswith("backbone x 0.01, head x 2")


@pytest.mark.parametrize(
    ("scales", "rule"),
    [
        ((("head", 1.0), ("backbone", 1.0)), "in the order of the names"),
        ((("head", 1.0), ("head", 2.0)), "each name once"),
        ((("head", 0.0),), "`0 < scale` must hold"),
        ((("head", float("nan")),), "`0 < scale` must hold"),
        ((("head", "half"),), "`0 < scale` must hold"),
        (("head", 1.0), "pairs of a group's name and a number"),
    ],
)
def test_impossible_scales_are_refused(scales, rule):
    with pytest.raises(InputError, match=rule):
        Recipe(group_scales=scales)


def test_scales_of_a_recipe_that_are_no_table_are_refused():
    with pytest.raises(InputError, match="`group_scales` must be a table of numbers, but got 3"):
        Recipe.from_dict({"group_scales": 3})


def test_a_recipe_takes_the_place_of_the_scale_that_the_task_gives():
    scaled = scaled_groups(Recipe(group_scales=(("backbone", 0.5),)), GROUPS)
    assert scaled == (ParameterGroup(name="backbone", lr_scale=0.5), ParameterGroup(name="head"))


def test_a_group_that_is_not_there_is_refused():
    with pytest.raises(InputError) as caught:
        scaled_groups(Recipe(group_scales=(("body", 0.5), ("head", 1.0), ("neck", 1.0))), GROUPS)
    assert caught.value.problems == (
        "`group_scales.body` must name a parameter group, but the training has the groups "
        "backbone, head.",
        "`group_scales.neck` must name a parameter group, but the training has the groups "
        "backbone, head.",
    )
    alone = (ParameterGroup(name="0"),)
    assert "has no named groups" in group_problems(["0"], alone)[0]


def space(line):
    return parse_space(f"[parameters]\npeak_lr = 0.1\n{line}", "my.toml")


def test_a_space_may_scale_a_group():
    parsed = space("group_scales.backbone = { low = 0.01, high = 1.0, log = true }")
    assert parsed.scaled_groups == ("backbone",)
    assert parsed.parameter("group_scales.backbone", "sgd") == Range(0.01, 1.0, log=True)
    fixed = space("[optimizer.sgd]\ngroup_scales = { head = 2.0, backbone = 0.1 }")
    assert fixed.scaled_groups == ("head", "backbone")
    assert fixed.parameter("group_scales.head", "sgd") == 2.0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("group_scales.head = 0.0", "[parameters] group_scales.head: `0 < scale` must hold"),
        (
            "group_scales.head = { low = 0.0, high = 1.0 }",
            "[parameters] group_scales.head: `0 < scale` must hold",
        ),
        (
            "group_scales.head = { low = 2.0, high = 1.0 }",
            "[parameters] group_scales.head: `low <= high` must hold, but got low=2.0, high=1.0.",
        ),
        (
            "group_scales.head = '10%'",
            "[parameters] group_scales.head: only lengths in epochs may be in percent",
        ),
        ("group_scales = 0.1", "[parameters] group_scales: must be a table"),
    ],
)
def test_impossible_scales_of_a_space_are_refused(line, problem):
    with pytest.raises(InputError) as caught:
        space(line)
    assert any(f"my.toml: {problem}" in line for line in caught.value.problems), caught.value
