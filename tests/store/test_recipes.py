"""Recipe files: those that come with lrtune, and the user's own."""

from pathlib import Path

import pytest

import lrtune
from lrtune.core.decays import Constant, Cosine, StepDecay
from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe
from lrtune.schedules import build_schedule
from lrtune.store.recipes import ORDER, describe_recipe, read_recipe, recipe_names


def test_all_that_are_shipped_are_listed():
    assert sorted(recipe_names()) == sorted(
        path.stem for path in Path(lrtune.__file__).parent.glob("recipes/*.toml")
    )


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("epochs", [2, 12, 300])
def test_a_shipped_one_goes_with_runs_of_any_length(name, epochs):
    found = read_recipe(name, epochs)
    schedule = build_schedule(found.recipe, epochs=epochs, steps_per_epoch=10)
    assert found.name == name
    assert found.recipe.optimizer in OPTIMIZERS
    assert 0 < schedule(schedule.total_steps - 1) <= 1
    assert describe_recipe(name).endswith(".")


def test_lengths_are_scaled_to_the_run():
    assert read_recipe("sgd-step", 90).recipe == Recipe(
        peak_lr=0.1, nesterov=False, weight_decay=1e-4, decay=StepDecay(every_epochs=30, factor=0.1)
    )
    assert read_recipe("sgd-step", 12).recipe.decay == StepDecay(every_epochs=4, factor=0.1)
    assert read_recipe("adamw-cosine", 18).recipe.warmup_epochs == 1


def test_a_file_without_a_length_is_meant_for_the_run(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('optimizer = "adamw"\npeak_lr = 3e-4\nwarmup_epochs = 2\ndecay = "constant"\n')
    found = read_recipe(path, 7)
    assert found.recipe == Recipe(
        optimizer="adamw", peak_lr=3e-4, warmup_epochs=2, decay=Constant()
    )
    assert found.name == "mine"


def test_a_recipe_without_values_is_the_default_one(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    assert read_recipe(tmp_path / "empty.toml", 5).recipe == Recipe(decay=Cosine())


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        'epochs = 0\npeak_lr = "1e-3"\nlr = 1\nwarmup_epochs = -1\n'
        '[decay]\nname = "step"\n[published]\nx = 1\n'
    )
    with pytest.raises(InputError) as refused:
        read_recipe(path, 5)
    said = refused.value.problems
    assert len(said) == 6
    assert all(problem.startswith(f"{path}: ") for problem in said)


MISTAKEN = {
    "true as a number": ("epochs = true", "`epochs` must be a whole number from 1, but got True."),
    "a list of decays": ('decay = ["cosine"]', "bad.toml: "),
    "a number in words": ('peak_lr = "0.1"', "`peak_lr` must be a number, but got '0.1'."),
    "a warmup without an end": (
        "warmup_epochs = 5",
        "`warmup_epochs < epochs` must hold, but got warmup_epochs=5 with",
    ),
    "a warmup longer than what it is meant for": (
        "epochs = 90\nwarmup_epochs = 95",
        "warmup_epochs=95 with 90 epochs",
    ),
}


@pytest.mark.parametrize(("text", "words"), MISTAKEN.values(), ids=MISTAKEN)
def test_a_value_of_the_wrong_kind_is_refused(tmp_path, text, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_recipe(path, 5)
    (said,) = refused.value.problems
    assert said.startswith(f"{path}: ")
    assert words in said
