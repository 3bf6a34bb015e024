"""What `export` says of itself, for every framework; `tests/peers` runs what it prints."""

import json
import os
from pathlib import Path

import pytest

from lrtune.core.errors import InputError
from lrtune.core.recipe import (
    OPTIMIZERS,
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.core.run import Measurement
from lrtune.reporting.export import export
from lrtune.schedules.compress import compress
from lrtune.store.recipes import read_recipe
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    PLAIN,
    PLATEAUS,
    STEPS_PER_EPOCH,
    TOP1S,
    UNUSUAL,
    VAL_LOSSES,
    exported,
    lrs_planned,
)

TABLE = Path(__file__).parents[2] / "docs" / "export.md"
REFUSED = {
    "timm": ["schedule-free-sgd", "schedule-free-adamw"],
    "keras": ["lamb", "adabound", "schedule-free-sgd", "schedule-free-adamw", "prodigy"],
}
TARGETS = ["torch", "lightning", "timm", "transformers", "keras", "json", "toml"]


@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
@pytest.mark.parametrize("to", TARGETS)
def test_every_target_takes_every_decay_and_says_how_exact_it_is(to, decay):
    found = exported(Recipe(decay=decay, warmup_epochs=1), to)
    assert found.to == to
    assert found.text.endswith("\n")
    assert found.exact == ("Up to" not in found.note and "up to" not in found.note)
    assert max(map(len, found.text.splitlines())) < 500 or to == "json"


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_target_takes_an_optimizer_or_says_what_to_use_instead(to, optimizer):
    recipe = Recipe(optimizer=optimizer, decay=Constant())
    if optimizer in REFUSED.get(to, ()):
        with pytest.raises(InputError, match=r"use .*`--to torch`"):
            exported(recipe, to)
    else:
        assert exported(recipe, to).exact


@pytest.mark.parametrize("to", TARGETS)
def test_every_target_says_what_the_lr_holds_for(to):
    found = exported(Recipe(), to, UNUSUAL)
    assert found.note.endswith(
        "Found with batches of 6, gradients clipped to a norm of 0.5, labels smoothed by 0.1."
    )
    assert exported(Recipe(), to).note.endswith("Found with batches of 1.")


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(decay=Exponential())]
)  # by a command line, and by code alone
def test_train_py_is_told_how_the_search_trained(recipe):
    flags = "--batch-size 2 --smoothing 0.1 --grad-accum-steps 3 --clip-grad 0.5"
    found = exported(recipe, "timm", UNUSUAL)
    assert flags in found.text + found.note
    found = exported(recipe, "timm")
    assert "--batch-size 1 --smoothing 0.0" in found.text + found.note
    assert "--clip-grad" not in found.text + found.note


def test_a_run_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="`warmup_epochs < epochs` must hold"):
        export(Recipe(warmup_epochs=5), epochs=5, steps_per_epoch=10, settings=PLAIN, to="timm")


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
    assert document["settings"] == {"batch_size": 1, "clip_norm": None, "label_smoothing": 0.0}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_a_recipe_file_is_read_back(tmp_path, decay, optimizer):
    values = {
        "peak_lr": 1.7e-5,
        "warmup_epochs": 1.5,
        "final_frac": 0.1,
        "nesterov": False,
        "weight_decay": 1e-20,
    }
    recipe = Recipe(decay=decay, optimizer=optimizer, **values)
    (tmp_path / "mine.toml").write_text(exported(recipe, "toml").text)
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
            train_loss=1.0,
            val_loss=VAL_LOSSES[epoch],
            top1=TOP1S[epoch],
            seconds=1.0,
            images_per_s=1.0,
            ended_at=0.0,
        )
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize(("epochs", "known_epochs"), [(8, 8), (7, 8), (2, 3)])
@pytest.mark.parametrize("decay", PLATEAUS, ids=str)
def test_json_of_a_plateau_has_the_lrs_of_the_run_that_was_measured(decay, epochs, known_epochs):
    recipe = Recipe(decay=decay, warmup_epochs=1.5)
    found = export(
        recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH, settings=PLAIN, to="json",
        measurements=measured(epochs),
    )  # fmt: skip
    assert json.loads(found.text)["lrs"] == lrs_planned(recipe)[: known_epochs * STEPS_PER_EPOCH]


def test_json_of_a_plateau_that_nobody_measured_has_no_lrs():
    assert json.loads(exported(Recipe(decay=Plateau()), "json").text)["lrs"] is None


def test_the_reason_of_a_deviation_is_the_one_there_is():
    def note(decay, warmup_epochs):
        return exported(Recipe(decay=decay, warmup_epochs=warmup_epochs), "timm").note

    late, early, whole = (
        "the peak one update late",
        "drops one update early",
        "counted in whole updates",
    )
    milestones = MultiStep(milestones_epochs=(3, 6))
    assert late in note(Cosine(), 1)
    assert whole not in note(StepDecay(every_epochs=3), 1)
    assert late not in note(milestones, 0)
    assert early in note(milestones, 0)
    assert f"{late} and it {early}" in note(milestones, 1)
    assert whole in note(WSD(cooldown_frac=0.33), 0)


def table() -> str:
    """How far off are those that cannot always be exact, in a run of 27 epochs of 391 steps."""

    def cell(to, decay, warmup_epochs, final_frac):
        recipe = Recipe(decay=decay, warmup_epochs=warmup_epochs, final_frac=final_frac)
        found = export(recipe, epochs=27, steps_per_epoch=391, settings=PLAIN, to=to)
        if to == "timm" and not found.text.startswith("# python train.py"):
            return "–"
        if "optimizers=(optimizer, scheduler)" in found.text:
            return "torch's"
        return f"{found.deviation:.2g}" if found.deviation else "exact"

    decays = [
        Constant(),
        StepDecay(every_epochs=9),
        MultiStep(milestones_epochs=(9, 18)),
        Cosine(),
        Linear(),
        Polynomial(),
        Exponential(),
        WSD(),
        HoldPower(),
        Plateau(),
    ]
    lines = [
        "| decay | to | train.py | train.py, warmup | transformers | transformers, warmup |",
        "|---|---|---|---|---|---|",
    ]
    for decay in decays:
        for final_frac in (0.0, 0.1):
            cells = [
                cell(to, decay, warmup, final_frac)
                for to in ("timm", "transformers")
                for warmup in (0, 2)
            ]
            lines.append(f"| {' | '.join([decay.name, f'{final_frac:g}', *cells])} |")
    return "\n".join(lines)


def test_the_table_in_the_docs_is_true():
    text = TABLE.read_text()
    before, begin, rest = text.partition("<!-- table -->\n\n")
    old, end, after = rest.partition("\n\n<!-- end -->")
    assert begin
    assert end
    if os.environ.get("UPDATE_GOLDEN"):
        TABLE.write_text(before + begin + (old := table()) + end + after)
    assert old == table()
