"""A new optimizer is one entry of a table: this file adds one, and everything works with it."""

import json
from dataclasses import replace

import pytest
import torch

import lrtune
from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS, OptimizerFacts
from lrtune.core.recipe import Recipe, default_recipe, optimizer_arguments
from lrtune.core.space import Range, parse_space
from lrtune.reporting.document import compose
from lrtune.reporting.html import render_html
from lrtune.reporting.markdown import render_markdown
from lrtune.reporting.plots import draw
from lrtune.store.recipes import read_recipe
from lrtune.training.native.optimizers import build_optimizer, library_of
from tests.peers.cases import EPOCHS, exported, lrs_planned
from tests.reporting.test_export_torch import Run
from tests.test_app import make_task, search
from tests.tuning.fake_training import MiniTraining

FACTS = OptimizerFacts(
    title="NAdam", class_name="NAdam", peak_lr=2e-3, weight_decay=1e-3, warmup_epochs=0.25,
    searched=(1e-4, 1e-2), swept=(1e-5, 1.0), is_capturable=True, takes_capturable=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def new_optimizer(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(OPTIMIZERS, "nadam", FACTS)


def built(recipe, **others):
    return build_optimizer(recipe, torch.nn.Linear(2, 1).parameters(), **others)


def test_it_has_a_default_recipe():
    assert default_recipe("nadam") == Recipe(
        optimizer="nadam", peak_lr=2e-3, weight_decay=1e-3, warmup_epochs=0.25
    )


def test_a_recipe_comes_back_from_its_values():
    recipe = Recipe(optimizer="nadam", peak_lr=0.02)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.label == "nadam 0.02, cosine"


def test_what_is_no_optimizer_is_told_of_it():
    with pytest.raises(InputError, match=r"must be one of sgd, .*, prodigy, nadam, but got 'adan'"):
        Recipe(optimizer="adan")


def test_a_space_has_bounds_for_it():
    text = '[parameters]\noptimizer = { choices = ["sgd", "nadam"] }\npeak_lr = "range-test"'
    space = parse_space(f"{text}\n[optimizer.nadam]\nweight_decay = 0.1", "mine.toml")
    assert space.needs_range_test == ("sgd", "nadam")
    fitted = space.fit(10, {})
    assert fitted.parameter("peak_lr", "nadam") == Range(1e-4, 1e-2, log=True)
    assert fitted.parameter("weight_decay", "nadam") == 0.1


def test_it_is_built_with_the_settings_of_the_recipe():
    recipe = Recipe(optimizer="nadam", peak_lr=0.02, weight_decay=0.1, momentum=0.5)
    optimizer = built(recipe)
    assert type(optimizer) is torch.optim.NAdam
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.1)
    assert optimizer.defaults["capturable"] is False
    assert optimizer_arguments(recipe) == {"lr": 0.02, "weight_decay": 0.1}
    assert library_of(recipe).keys() == {"torch"}


def test_a_cluster_is_told_of_it():
    pytest.importorskip("ray")
    from lrtune.tuning.trainable import statements

    assert statements(MiniTraining()).identities.keys() == OPTIMIZERS.keys()


def test_a_range_test_of_it_finds_lrs_or_says_why_not(here):
    found = lrtune.find_lr(make_task(), optimizer="nadam", num_steps=60, num_seeds=1)
    assert found.optimizer == "nadam"
    assert found.curves[0].lrs[0] == pytest.approx(1e-5)


@pytest.mark.slow
def test_a_search_finds_it_and_a_report_shows_it(here):
    (here / "mine.toml").write_text('[parameters]\noptimizer = "nadam"\npeak_lr = "range-test"')
    baseline = default_recipe("nadam")
    result = search(space="mine.toml", baseline=baseline, budget=4)
    tried = [run.run.recipe for run in result.state.of_kind("full")]
    assert len(tried) == 4
    assert {recipe.optimizer for recipe in tried} == {"nadam"}
    assert [test.optimizer for test in result.state.range_results] == ["nadam"]
    (stored,) = lrtune.studies()
    assert {record.run.recipe.optimizer for record in stored.records} == {"nadam"}
    document = compose(result.report)
    plots = draw(document)
    assert document.schedule.startswith("Train 3 epochs with NAdam at a peak learning rate of")
    for text in (render_html(document, plots), render_markdown(document, plots)):
        assert "with NAdam at a peak" in text
        assert "torch.optim.NAdam(" in text


def test_pasted_code_builds_it_and_has_the_lrs_of_the_schedule():
    recipe = replace(default_recipe("nadam"), peak_lr=0.03)
    run = Run()
    used = run.execute(exported(recipe, "torch").text)
    assert type(run.names["optimizer"]) is torch.optim.NAdam
    planned = lrs_planned(recipe, steps_per_epoch=len(run.loader))
    assert [lr for (lr,) in used] == pytest.approx(planned, rel=1e-12)


@pytest.mark.parametrize("to", ["torch", "lightning", "timm", "transformers"])
def test_code_for_a_framework_has_it(to):
    code = exported(default_recipe("nadam"), to).text
    compile(code, to, "exec")
    assert "torch.optim.NAdam(" in code
    assert "lr=0.002, weight_decay=0.001" in code


def test_data_has_it(tmp_path):
    recipe = default_recipe("nadam")
    document = json.loads(exported(recipe, "json").text)
    assert Recipe.from_dict(document["recipe"]) == recipe
    assert document["optimizer"]["class"] == "torch.optim.NAdam"
    (tmp_path / "mine.toml").write_text(exported(recipe, "toml").text)
    assert read_recipe(tmp_path / "mine.toml", EPOCHS).recipe == recipe


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_nothing_asks_for_an_optimizer_by_its_name(name, monkeypatch):
    """With the facts of another one it is that one, but for its name."""
    monkeypatch.setitem(OPTIMIZERS, "twin", OPTIMIZERS[name])
    recipe = default_recipe(name)
    twin = replace(recipe, optimizer="twin")
    assert default_recipe("twin") == twin
    ours, theirs = built(twin), built(recipe)
    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults
    assert len(ours.state) == len(theirs.state)
    for to in ("torch", "lightning", "timm", "transformers"):
        assert exported_or_refused(twin, to) == exported_or_refused(recipe, to)
    values = [refused_momentum(recipe), refused_momentum(twin).replace("twin", name)]
    assert values[0] == values[1]
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr_scale": s} for s in (1.0, 2.0)]
    assert refused_groups(twin, groups).replace("twin", name) == refused_groups(recipe, groups)


def exported_or_refused(recipe, to):
    try:
        return exported(recipe, to).text
    except InputError as error:
        return str(error).replace(recipe.optimizer, "it")


def refused_momentum(recipe):
    try:
        replace(recipe, momentum=0)
    except InputError as error:
        return str(error)
    return ""


def refused_groups(recipe, groups):
    try:
        build_optimizer(recipe, groups)
    except InputError as error:
        return str(error)
    return ""
