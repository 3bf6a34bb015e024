"""Placeholders of a training command: in recipes, and in spaces."""

import pytest

from lrtune.core.errors import InputError
from lrtune.core.optimizers import OWN
from lrtune.core.recipe import Recipe
from lrtune.core.space import Choice, Range, first_values, parse_space

COMMAND = """
[parameters]
peak_lr = 0.1
[command]
size = { choices = [64, 128] }
dropout = { low = 0.0, high = 0.5 }
layers = { low = 2, high = 6 }
kind = "large"
"""


def test_a_recipe_has_them_by_name_and_is_read_back():
    recipe = Recipe(command=(("kind", "a"), ("size", 64)))
    assert recipe.to_dict()["command"] == {"kind": "a", "size": 64}
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict({"command": {"size": 64, "kind": "a"}}) == recipe
    assert recipe.label.endswith("cosine, kind a, size 64")


def test_a_recipe_without_any_is_written_as_before():
    assert "command" not in Recipe().to_dict()


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        ({"size": 64}, "pairs of a placeholder's name"),
        ((("b", 1), ("a", 2)), "each name once, in the order of the names"),
        ((("size", (1, 2)),), "a number or a word for each placeholder"),
        ((("size", None),), "a number or a word for each placeholder"),
    ],
)
def test_impossible_ones_are_refused(command, rule):
    with pytest.raises(InputError, match=rule):
        Recipe(command=command)


def test_a_space_varies_them():
    space = parse_space(COMMAND, "mine.toml")
    assert space.parameter("command.size", "sgd") == Choice((64, 128))
    assert space.parameter("command.dropout", "sgd") == Range(0.0, 0.5)
    assert space.parameter("command.layers", "sgd") == Range(2, 6, step=1)
    assert space.parameter("command.kind", "sgd") == "large"
    assert space.fit(3, {}).parameter("command.dropout", "sgd") == Range(0.0, 0.5)
    first = {"size": 64, "dropout": 0.0, "layers": 2, "kind": "large"}
    assert first_values(COMMAND) == first
    assert first_values("[command") == first_values("command = 3") == {}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("run_dir = 3", "[command] run_dir: {run_dir} is filled in by lrtune."),
        ("'batch-size' = 3", "[command] batch-size: must be a name of letters"),
        ("size = { choices = [] }", "[command] size: `choices` must be a list"),
        ("size = { low = 8, high = 64, log = true }", "[command] size: `size` must be a whole"),
        ("size = [1, 2]", "[command] size: `command` must have a number or a word"),
    ],
)
def test_a_space_names_what_is_wrong_with_one(table, problem):
    with pytest.raises(InputError) as caught:
        parse_space(f"[parameters]\npeak_lr = 0.1\n[command]\n{table}\n", "mine.toml")
    assert str(caught.value).startswith(f"mine.toml: {problem}")


def test_a_space_can_be_read_before_the_optimizer_is_known():
    text = "[parameters]\npeak_lr = 0.1\n[optimizer.adamw]\nweight_decay = 0.1\n"
    assert parse_space(text, "mine.toml", optimizer=None).choices("optimizer") == (OWN,)
    with pytest.raises(InputError, match="nothing would use it"):
        parse_space(text, "mine.toml")
