"""What `export` gives for every framework; `tests/peers` runs the code in the real packages."""

import json

import pytest

from lrtune.core.decays import Constant, Plateau
from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement
from lrtune.reporting.export import export
from lrtune.schedules.compress import compress
from lrtune.store.recipes import read_recipe
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    GROUPS,
    METRICS,
    PLAIN,
    PLATEAUS,
    STEPS_PER_EPOCH,
    UNUSUAL,
    exported,
    lrs_planned,
)

REFUSED = {"timm": ["schedule-free-sgd", "schedule-free-adamw"]}
TARGETS = ["torch", "lightning", "timm", "transformers", "json", "toml"]
CODE = TARGETS[:4]


@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
@pytest.mark.parametrize("to", CODE)
def test_code_compiles_and_fits_the_page(to, decay):
    made = exported(Recipe(decay=decay, warmup_epochs=1, final_frac=0.1), to, UNUSUAL, GROUPS)
    assert made.to == to
    compile(made.text, to, "exec")
    assert max(map(len, made.text.splitlines())) <= 100
    assert '{"params": ..., "lr": 0.1 * 0.25, "name": "backbone"},\n' in made.text


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_target_takes_an_optimizer_or_says_what_to_use_instead(to, optimizer):
    recipe = Recipe(optimizer=optimizer, decay=Constant())
    if optimizer in REFUSED.get(to, ()):
        with pytest.raises(InputError, match=r"use .*`--to torch`"):
            exported(recipe, to)
    else:
        assert exported(recipe, to).text


@pytest.mark.parametrize("to", TARGETS)
def test_every_target_says_what_the_lr_holds_for(to):
    made = exported(Recipe(), to, UNUSUAL)
    assert made.note.endswith(
        "Found with batches of 6, gradients clipped to a norm of 0.5, labels smoothed by 0.1."
    )
    assert exported(Recipe(), to).note.endswith("Found with batches of 2.")


@pytest.mark.parametrize("to", TARGETS)
def test_what_cannot_be_is_refused(to):
    with pytest.raises(InputError, match="`warmup_epochs < epochs` must hold"):
        export(Recipe(warmup_epochs=5), epochs=5, steps_per_epoch=10, settings=PLAIN, to=to)
    with pytest.raises(InputError, match=r"`group_scales.tail` must name a parameter group"):
        exported(Recipe(group_scales=(("tail", 0.1),)), to, PLAIN, GROUPS)


@pytest.mark.parametrize("decay", DECAYS, ids=str)
def test_json_has_the_recipe_and_every_lr(decay):
    recipe = Recipe(decay=decay, warmup_epochs=1.5, final_frac=0.1, optimizer="prodigy")
    document = json.loads(exported(recipe, "json").text)
    assert Recipe.from_dict(document["recipe"]) == recipe
    assert document["lrs"] == lrs_planned(recipe)
    assert document["schedule"] == {
        "epochs": 8,
        "steps_per_epoch": 5,
        "warmup_steps": 8,
        "total_steps": 40,
    }
    assert document["optimizer"]["class"] == "pytorch_optimizer.Prodigy"
    assert document["optimizer"]["arguments"]["lr"] == recipe.peak_lr
    assert document["groups"] == []
    assert document["settings"] == {"batch_size": 2, "clip_norm": None, "label_smoothing": 0.0}


def test_json_has_the_groups_with_the_scales_of_the_recipe():
    recipe = Recipe(group_scales=(("head", 2.0),))
    document = json.loads(exported(recipe, "json", PLAIN, GROUPS).text)
    assert document["groups"] == [
        {"name": "backbone", "lr_scale": 0.25},
        {"name": "head", "lr_scale": 2.0},
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_a_recipe_file_is_read_back(tmp_path, decay, optimizer):
    recipe = Recipe(
        decay=decay,
        optimizer=optimizer,
        peak_lr=1.7e-5,
        warmup_epochs=1.5,
        final_frac=0.1,
        nesterov=False,
        weight_decay=1e-20,
        group_scales=(("backbone", 1e-3), ("the head.1", 2.0)),
    )
    groups = (GROUPS[0], *(type(GROUPS[0])(name=name) for name in ("head", "the head.1")))
    (tmp_path / "mine.toml").write_text(exported(recipe, "toml", PLAIN, groups).text)
    assert read_recipe(tmp_path / "mine.toml", EPOCHS).recipe == recipe
    assert read_recipe(tmp_path / "mine.toml", 3 * EPOCHS).recipe == compress(
        recipe, EPOCHS, 3 * EPOCHS
    )


def measured(epochs):
    return [
        Measurement(
            epoch=epoch + 1,
            step=(epoch + 1) * STEPS_PER_EPOCH,
            lr_first=0.1,
            lr_last=0.1,
            metrics={name: values[epoch] for name, values in METRICS.items()},
            seconds=1.0,
            examples_per_s=1.0,
            ended_at=0.0,
        )
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize(("epochs", "known_epochs"), [(8, 8), (7, 8), (2, 3)])
@pytest.mark.parametrize("decay", PLATEAUS, ids=str)
def test_json_of_a_plateau_has_the_lrs_of_the_run_that_was_measured(decay, epochs, known_epochs):
    recipe = Recipe(decay=decay, warmup_epochs=1.5)
    made = export(
        recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH, settings=PLAIN, to="json",
        measurements=measured(epochs),
    )  # fmt: skip
    assert json.loads(made.text)["lrs"] == lrs_planned(recipe)[: known_epochs * STEPS_PER_EPOCH]


def test_json_of_a_plateau_that_nobody_measured_has_no_lrs():
    assert json.loads(exported(Recipe(decay=Plateau()), "json").text)["lrs"] is None
