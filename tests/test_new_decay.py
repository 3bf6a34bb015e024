"""A new decay is one class: this file defines one, and everything else works with it."""

import ast
import json
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jsonschema
import pytest

import lrtune
from lrtune.core.counts import count
from lrtune.core.decays import DECAYS, Constant, Cosine, Decay, Span
from lrtune.core.errors import InputError
from lrtune.core.options import above, within
from lrtune.core.recipe import Recipe
from lrtune.core.space import Range, parse_space
from lrtune.reporting.curves import lr_curve
from lrtune.reporting.document import compose
from lrtune.reporting.html import render_html
from lrtune.reporting.json import render_json
from lrtune.reporting.markdown import render_markdown
from lrtune.reporting.plots import decay_colours, draw
from lrtune.reporting.sheet import SERIES, VARIABLES
from lrtune.schedules import build_schedule
from lrtune.schedules.compress import compress, schedule_of
from lrtune.store.recipes import read_recipe
from tests.peers.cases import EPOCHS, STEPS_PER_EPOCH, exported, lrs_planned
from tests.reporting.test_export_torch import Run
from tests.reporting.test_files import SCHEMA
from tests.studies import full_run
from tests.test_app import search
from tests.tuning.test_reuse import keys, num_shared


@dataclass(frozen=True, kw_only=True)
class HoldExponential(Decay):
    """Constant for some epochs from the start of training, then exponential."""

    name = "hold-exponential"
    where: ClassVar = {"hold_steps": "round(hold_epochs * steps_per_epoch)"}
    shape = "1.0 if step < hold_steps else math.exp(p * math.log(end_frac))"

    hold_epochs: Annotated[float, above(0)]
    end_frac: Annotated[float, within(0, 1, "()")] = 1 / 16

    def phrase(self, span: Span) -> str:
        return f"hold it for {count(self.hold_epochs, 'epoch')}, and fall exponentially"


@pytest.fixture(autouse=True)
def new_decay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(DECAYS, HoldExponential.name, HoldExponential)


SPACE = """
[parameters]
peak_lr = { low = 0.01, high = 1.0, log = true }
warmup_epochs = { low = 0, high = "25%", step = 1 }
decay = "hold-exponential"

[decay.hold-exponential]
hold_epochs = { low = "25%", high = "75%" }
end_frac = { low = 0.01, high = 0.5 }
"""


def test_a_space_has_its_parameters():
    fitted = parse_space(SPACE, "mine.toml").fit(8, {})
    assert fitted.decays["hold-exponential"] == {
        "hold_epochs": Range(2.0, 6.0),
        "end_frac": Range(0.01, 0.5),
    }


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("end_frac = 0.1", "hold_epochs: is missing."),
        ("hold_epochs = 1\npower = 2", "power: unknown key; known here: hold_epochs, end_frac."),
        ("hold_epochs = 0", "hold_epochs: `0 < hold_epochs` must hold, but got 0."),
        (
            'hold_epochs = "50%"\nend_frac = { choices = [0.1, 1.5] }',
            "end_frac: `0 < end_frac < 1` must hold, but got 1.5.",
        ),
        ('hold_epochs = "half"', "hold_epochs: `hold_epochs` must be a number, but got 'half'."),
        (
            'hold_epochs = 1\nend_frac = "10%"',
            "end_frac: only lengths in epochs may be in percent, but got '10%'.",
        ),
    ],
)
def test_a_space_that_is_impossible_is_refused(table, problem):
    head = '[parameters]\npeak_lr = 0.1\ndecay = "hold-exponential"\n[decay.hold-exponential]\n'
    with pytest.raises(InputError) as caught:
        parse_space(head + table, "mine.toml")
    assert caught.value.problems == (f"mine.toml: [decay.hold-exponential] {problem}",)


def test_a_space_with_a_length_beyond_the_run_is_refused():
    with pytest.raises(
        InputError, match=r"`hold_epochs < epochs` must hold, but got hold_epochs=9"
    ):
        parse_space(SPACE.replace('"75%"', "9"), "mine.toml").fit(8, {})


def test_a_recipe_comes_back_from_its_values():
    recipe = Recipe(decay=HoldExponential(hold_epochs=1.5, end_frac=0.1))
    assert json.dumps(recipe.to_dict()["decay"]) == (
        '{"name": "hold-exponential", "hold_epochs": 1.5, "end_frac": 0.1}'
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.label == "sgd 0.1, hold-exponential(hold_epochs=1.5, end_frac=0.1)"


def test_a_recipe_with_broken_rules_is_refused():
    with pytest.raises(InputError) as caught:
        Recipe(decay=HoldExponential(hold_epochs=0, end_frac=1))
    assert caught.value.problems == (
        "`0 < hold_epochs` must hold, but got 0.",
        "`0 < end_frac < 1` must hold, but got 1.",
    )
    with pytest.raises(InputError, match="decay 'hold-exponential' needs 'hold_epochs'"):
        Recipe.from_dict({"decay": "hold-exponential"})


# warmup epochs, hold epochs, floor; 4 epochs of 2 steps each: the multiplier of each of the 8 steps
SCHEDULES = [
    (0, 2, 0, [1, 1, 1, 1, 2**-2, 2**-2.5, 2**-3, 2**-3.5]),
    (0, 0.5, 0, [1, 2**-0.5, 2**-1, 2**-1.5, 2**-2, 2**-2.5, 2**-3, 2**-3.5]),
    (0, 3, 0.5, [1, 1, 1, 1, 1, 1, 1 / 2 + 2**-4, 1 / 2 + 2**-4.5]),
    (2, 1, 0, [1 / 4, 2 / 4, 3 / 4, 1, 1, 2**-1, 2**-2, 2**-3]),
]


@pytest.mark.parametrize(("warmup_epochs", "hold_epochs", "floor", "expected"), SCHEDULES)
def test_the_schedule(warmup_epochs, hold_epochs, floor, expected):
    decay = HoldExponential(hold_epochs=hold_epochs)
    recipe = Recipe(decay=decay, warmup_epochs=warmup_epochs, final_frac=floor)
    schedule = build_schedule(recipe, epochs=4, steps_per_epoch=2)
    assert [schedule(step) for step in range(8)] == pytest.approx(expected)


def test_it_is_compressed():
    recipe = Recipe(decay=HoldExponential(hold_epochs=6))
    assert compress(recipe, 12, 4) == Recipe(decay=HoldExponential(hold_epochs=2))
    run = full_run(recipe, 12, horizon_epochs=4, stop_epochs=4)
    schedule = schedule_of(run, 2)
    assert [schedule(step) for step in range(8)] == pytest.approx(SCHEDULES[0][-1])


def test_it_shares_its_trunk():
    decay = HoldExponential(hold_epochs=4)
    ours, constant, cosine = (
        full_run(Recipe(decay=d, warmup_epochs=1), 9) for d in (decay, Constant(), Cosine())
    )
    assert num_shared(keys(ours), keys(constant)) == 4
    assert num_shared(keys(ours), keys(cosine)) == 1


def test_a_curve_of_it_is_drawn():
    recipe = Recipe(decay=HoldExponential(hold_epochs=2), peak_lr=0.5)
    curve = lr_curve("ours", recipe, 4, 2, ())
    assert curve.ys == pytest.approx([0.5 * value for value in SCHEDULES[0][-1]])


def test_its_colour_is_its_own():
    colours = decay_colours()
    assert colours[HoldExponential.name] == SERIES[10]
    assert len(set(colours.values())) == 11


@pytest.mark.slow
def test_a_search_finds_it_and_a_report_shows_it(here):
    (here / "mine.toml").write_text(SPACE)
    baseline = Recipe(peak_lr=0.05, decay=HoldExponential(hold_epochs=2))
    result = search(space="mine.toml", baseline=baseline, budget=8, epochs=4)
    tried = [run.run.recipe for run in result.state.of_kind("full")]
    assert len(tried) == 8
    assert {recipe.decay.name for recipe in tried} == {HoldExponential.name}
    assert len({recipe.decay.hold_epochs for recipe in tried}) > 1
    assert all(1 <= recipe.decay.hold_epochs <= 3 for recipe in tried)
    (stored,) = lrtune.studies()
    assert [stored_run.run for stored_run in stored.records] == [
        run.run for run in result.state.records
    ]

    document = compose(result.report)
    plots = draw(document)
    svgs = {plot.name: plot.svg for plot in plots}
    colour = decay_colours()[HoldExponential.name]
    assert "lr_curve" in svgs
    assert all(colour in svgs[name] for name in ("trials", "parallel"))
    html, markdown = render_html(document, plots), render_markdown(document, plots)
    assert f"var(--plot-{VARIABLES[colour]})" in html
    phrase = result.best.recipe.decay.phrase(result.best.recipe.span(4))
    assert phrase.endswith("and fall exponentially")
    for text in (html, markdown):
        assert phrase in text
        assert "hold-exponential(hold_epochs=" in text
    values = json.loads(render_json(document))
    jsonschema.validate(values, SCHEMA)
    assert values["recommendation"]["recipe"]["decay"]["name"] == HoldExponential.name


EXPORTED = [
    Recipe(decay=HoldExponential(hold_epochs=3.3, end_frac=0.2), peak_lr=0.03),
    Recipe(decay=HoldExponential(hold_epochs=3), warmup_epochs=1.5, final_frac=0.1, peak_lr=0.03),
]


@pytest.mark.parametrize("recipe", EXPORTED)
def test_pasted_code_has_the_lrs_of_the_schedule(recipe):
    run = Run()
    used = run.execute(exported(recipe, "torch").text)
    planned = lrs_planned(recipe, steps_per_epoch=len(run.loader))
    assert [lr for (lr,) in used] == pytest.approx(planned, rel=1e-12)


@pytest.mark.parametrize("recipe", EXPORTED)
@pytest.mark.parametrize("to", ["torch", "lightning", "timm", "transformers"])
def test_code_for_a_framework_has_the_multipliers_of_the_schedule(to, recipe):
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    multiplier = multiplier_in(exported(recipe, to).text)
    steps = range(schedule.total_steps)
    assert [multiplier(step) for step in steps] == [schedule(step) for step in steps]


def multiplier_in(code):
    """The function `multiplier` of exported code, with the constants that it needs."""
    names = {"epochs": EPOCHS, "steps_per_epoch": STEPS_PER_EPOCH, "math": math}
    for node in ast.walk(ast.parse(code)):
        constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in CONSTANTS
        if constant or (isinstance(node, ast.FunctionDef) and node.name == "multiplier"):
            exec(ast.unparse(node), names)
    return names["multiplier"]


CONSTANTS = (
    "total_steps", "warmup_steps", "final_frac", "hold_epochs", "end_frac", "hold_steps",
)  # fmt: skip


@pytest.mark.parametrize("recipe", EXPORTED)
def test_data_has_the_recipe(recipe, tmp_path):
    document = json.loads(exported(recipe, "json").text)
    assert Recipe.from_dict(document["recipe"]) == recipe
    assert document["lrs"] == lrs_planned(recipe)
    (tmp_path / "mine.toml").write_text(exported(recipe, "toml").text)
    assert read_recipe(tmp_path / "mine.toml", EPOCHS).recipe == recipe
    longer = read_recipe(tmp_path / "mine.toml", 2 * EPOCHS).recipe
    assert longer.decay.hold_epochs == 2 * recipe.decay.hold_epochs
