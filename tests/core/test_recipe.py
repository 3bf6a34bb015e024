"""What a recipe may be, and its way to plain values and back."""

import json
import math

import pytest

from lrtune.core import recipe as recipe_module
from lrtune.core.decays import (
    DECAYS,
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
    decay_from_dict,
)
from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import NamedRecipe, Recipe, default_recipe

# decay, what people read of it
EVERY_DECAY = [
    (Constant(), "constant"),
    (StepDecay(every_epochs=2.5, factor=0.2), "step(every_epochs=2.5, factor=0.2)"),
    (
        MultiStep(milestones_epochs=(3, 5.5), factor=0.3),
        "multistep(milestones_epochs=[3, 5.5], factor=0.3)",
    ),
    (Cosine(), "cosine"),
    (Linear(), "linear"),
    (Polynomial(power=1.5), "polynomial(power=1.5)"),
    (Exponential(end_frac=0.001), "exponential(end_frac=0.001)"),
    (WSD(cooldown_frac=0.3), "wsd(cooldown_frac=0.3)"),
    (HoldPower(hold_frac=0.25, power=0.5), "hold-power(hold_frac=0.25, power=0.5)"),
    (
        Plateau(
            monitor="top1",
            factor=0.5,
            patience_epochs=2,
            threshold=0.1,
            threshold_mode="abs",
            cooldown_epochs=1,
        ),
        "plateau(patience_epochs=2, factor=0.5)",
    ),
]


def test_the_table_has_every_decay():
    assert {decay.name for decay, _ in EVERY_DECAY} == set(DECAYS)


@pytest.mark.parametrize(("decay", "described"), EVERY_DECAY)
def test_round_trip_through_json(decay, described):
    recipe = Recipe(
        optimizer="lamb",
        peak_lr=0.0123456789,
        warmup_epochs=1.5,
        decay=decay,
        final_frac=0.01,
        momentum=0.8,
        nesterov=False,
        weight_decay=5e-4,
    )
    arrived = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert arrived == recipe
    assert hash(arrived) == hash(recipe)
    assert arrived.label == f"lamb 0.0123, warmup 1.5 ep, {described}, to 0.01 of peak"


@pytest.mark.parametrize(("decay", "described"), EVERY_DECAY)
def test_the_label_of_a_decay(decay, described):
    assert decay.label == described


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Recipe()),
        ({"decay": "linear"}, Recipe(decay=Linear())),
        (
            {"decay": {"name": "multistep", "milestones_epochs": [2, 3]}},
            Recipe(decay=MultiStep(milestones_epochs=(2, 3))),
        ),
        ({"optimizer": "adam", "peak_lr": 1e-3}, Recipe(optimizer="adam", peak_lr=1e-3)),
    ],
)
def test_what_is_left_out_has_its_default(values, expected):
    assert Recipe.from_dict(values) == expected


def test_what_is_left_out_is_not_in_the_label():
    assert Recipe(peak_lr=0.2).label == "sgd 0.2, cosine"


# what they have all the same
NEED_NO_SCHEDULE = {
    "schedule-free-sgd": (Constant(), 0.5), "schedule-free-adamw": (Constant(), 0.5),
    "prodigy": (Constant(), 0),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_has_a_default_recipe(optimizer):
    recipe = default_recipe(optimizer)
    decay, warmup_epochs = NEED_NO_SCHEDULE.get(optimizer, (Cosine(), 0))
    assert (recipe.optimizer, recipe.decay, recipe.warmup_epochs) == (
        optimizer,
        decay,
        warmup_epochs,
    )


RULES = [
    (
        {"optimizer": "sgdd"},
        "`optimizer` must be one of sgd, adagrad, rmsprop, adam, adamw, lamb, adabound, "
        "schedule-free-sgd, schedule-free-adamw, prodigy, but got 'sgdd'.",
    ),
    ({"peak_lr": 0}, "`0 < peak_lr` must hold, but got 0."),
    ({"peak_lr": -0.1}, "`0 < peak_lr` must hold, but got -0.1."),
    ({"warmup_epochs": -1}, "`0 <= warmup_epochs` must hold, but got -1."),
    ({"final_frac": -0.1}, "`0 <= final_frac <= 1` must hold, but got -0.1."),
    ({"final_frac": 1.1}, "`0 <= final_frac <= 1` must hold, but got 1.1."),
    ({"momentum": -0.1}, "`0 <= momentum < 1` must hold, but got -0.1."),
    ({"momentum": 1}, "`0 <= momentum < 1` must hold, but got 1."),
    (
        {"optimizer": "schedule-free-sgd", "momentum": 0},
        "`0 < momentum` must hold for schedule-free-sgd, but got 0.",
    ),
    ({"nesterov": "maybe"}, "`nesterov` must be true or false, but got 'maybe'."),
    ({"weight_decay": -1e-4}, "`0 <= weight_decay` must hold, but got -0.0001."),
    ({"decay": StepDecay(every_epochs=0)}, "`0 < every_epochs` must hold, but got 0."),
    ({"decay": StepDecay(every_epochs=1, factor=0)}, "`0 < factor < 1` must hold, but got 0."),
    ({"decay": StepDecay(every_epochs=1, factor=1)}, "`0 < factor < 1` must hold, but got 1."),
    (
        {"decay": MultiStep(milestones_epochs=(1,), factor=1)},
        "`0 < factor < 1` must hold, but got 1.",
    ),
    ({"decay": Polynomial(power=0)}, "`0 < power` must hold, but got 0."),
    ({"decay": Exponential(end_frac=0)}, "`0 < end_frac <= 1` must hold, but got 0."),
    ({"decay": Exponential(end_frac=1.1)}, "`0 < end_frac <= 1` must hold, but got 1.1."),
    ({"decay": WSD(cooldown_frac=0)}, "`0 < cooldown_frac <= 1` must hold, but got 0."),
    ({"decay": WSD(cooldown_frac=1.1)}, "`0 < cooldown_frac <= 1` must hold, but got 1.1."),
    ({"decay": HoldPower(hold_frac=-0.1)}, "`0 <= hold_frac < 1` must hold, but got -0.1."),
    ({"decay": HoldPower(hold_frac=1)}, "`0 <= hold_frac < 1` must hold, but got 1."),
    ({"decay": HoldPower(power=0)}, "`0 < power` must hold, but got 0."),
    (
        {"decay": Plateau(monitor="banana")},
        "`monitor` must be a metric whose direction is known, or NAME:max or NAME:min, "
        "but got 'banana'.",
    ),
    (
        {"decay": Plateau(threshold_mode="r")},
        "`threshold_mode` must be one of rel, abs, but got 'r'.",
    ),
    ({"decay": Plateau(factor=1)}, "`0 < factor < 1` must hold, but got 1."),
    ({"decay": Plateau(patience_epochs=-1)}, "`0 <= patience_epochs` must hold, but got -1."),
    (
        {"decay": Plateau(patience_epochs=1.5)},
        "`patience_epochs` must be a whole number, but got 1.5.",
    ),
    ({"decay": Plateau(cooldown_epochs=-1)}, "`0 <= cooldown_epochs` must hold, but got -1."),
    (
        {"decay": Plateau(cooldown_epochs=1.5)},
        "`cooldown_epochs` must be a whole number, but got 1.5.",
    ),
    ({"decay": Plateau(threshold=-1)}, "`0 <= threshold` must hold, but got -1."),
    *(
        (
            {"decay": MultiStep(milestones_epochs=milestones)},
            "`0 < milestones_epochs[0] < milestones_epochs[1] < ...` must hold, but got "
            + f"{list(milestones)}.",
        )
        for milestones in [(), (0,), (-1, 2), (3, 2), (2, 2), (2, math.nan), (2, math.inf)]
    ),
    (
        {"decay": MultiStep(milestones_epochs=tuple(range(1, 1002)))},
        f"`milestones_epochs` must have at most 1000 entries, but got {str([*range(1, 99)])[:200]}"
        "....",
    ),
]


@pytest.mark.parametrize(("values", "message"), RULES)
def test_a_broken_rule_is_stated_with_what_it_got(values, message):
    with pytest.raises(InputError) as caught:
        Recipe(**values)
    assert caught.value.problems == (message,)


def test_all_broken_rules_are_stated_together():
    with pytest.raises(InputError) as caught:
        Recipe(
            peak_lr=-1,
            warmup_epochs=-1,
            momentum=1,
            decay=Plateau(patience_epochs=-1, threshold=-1, factor=1),
        )
    assert caught.value.problems == (
        "`0 < peak_lr` must hold, but got -1.",
        "`0 <= warmup_epochs` must hold, but got -1.",
        "`0 <= momentum < 1` must hold, but got 1.",
        "`0 < factor < 1` must hold, but got 1.",
        "`0 <= patience_epochs` must hold, but got -1.",
        "`0 <= threshold` must hold, but got -1.",
    )


@pytest.mark.parametrize("milestones", ["3", 3, ("3",), (True,)])
def test_milestones_are_numbers(milestones):
    with pytest.raises(InputError, match="`milestones_epochs` must be a list of numbers, but got"):
        Recipe(decay=MultiStep(milestones_epochs=milestones))


@pytest.mark.parametrize("name", ["", "a\x1b[31m", "a\nb", "caf\udce9", None, 3])
def test_the_name_of_a_recipe_is_visible(name):
    with pytest.raises(InputError) as caught:
        NamedRecipe(name=name, recipe=None)
    assert caught.value.problems == (
        "the name of a recipe must be a text of one line without hidden characters, but got "
        f"{name!r}.",
        "`recipe` must be a Recipe, but got None.",
    )


def test_the_words_of_a_command_are_visible():
    with pytest.raises(InputError, match="`command` must have words without hidden characters"):
        Recipe(command=(("x", "a\x1b"),))


def test_a_decay_is_more_than_its_name():
    with pytest.raises(
        InputError, match=r"`decay` must be one of the decays of .*, but got 'cosine'"
    ):
        Recipe(decay="cosine")


NUMBERS = ["peak_lr", "warmup_epochs", "final_frac", "momentum", "weight_decay"]
DECAY_NUMBERS = [
    (StepDecay, {"every_epochs": 1.0}, "every_epochs"),
    (StepDecay, {"every_epochs": 1.0}, "factor"),
    (MultiStep, {"milestones_epochs": (1.0,)}, "factor"),
    (Polynomial, {}, "power"),
    (Exponential, {}, "end_frac"),
    (WSD, {}, "cooldown_frac"),
    (HoldPower, {}, "hold_frac"),
    (HoldPower, {}, "power"),
    (Plateau, {}, "factor"),
    (Plateau, {}, "patience_epochs"),
    (Plateau, {}, "cooldown_epochs"),
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308])
@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_nan_or_infinite(key, value):
    with pytest.raises(InputError, match=key):
        Recipe(**{key: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "needed", "key"), DECAY_NUMBERS)
def test_no_number_of_a_decay_is_nan_or_infinite(kind, needed, key, value):
    with pytest.raises(InputError, match=key):
        Recipe(decay=kind(**needed | {key: value}))


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_true(key):
    with pytest.raises(InputError) as caught:
        Recipe(**{key: True})
    assert caught.value.problems == (f"`{key}` must be a number, but got True.",)


@pytest.mark.parametrize(("kind", "needed", "key"), DECAY_NUMBERS)
def test_no_number_of_a_decay_is_true(kind, needed, key):
    with pytest.raises(InputError) as caught:
        Recipe(decay=kind(**needed | {key: True}))
    number = "a whole number" if key in ("patience_epochs", "cooldown_epochs") else "a number"
    assert caught.value.problems == (f"`{key}` must be {number}, but got True.",)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_the_threshold_of_a_plateau_is_not_nan(value):
    with pytest.raises(InputError, match="threshold"):
        Recipe(decay=Plateau(threshold=value))


RECIPE_KEYS = (
    "optimizer, peak_lr, warmup_epochs, decay, final_frac, momentum, nesterov, weight_decay, "
    "group_scales, command"
)


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        (
            {"lr": 1, "peek": 2},
            (
                f"unknown key 'lr' in a recipe; it has {RECIPE_KEYS}.",
                f"unknown key 'peek' in a recipe; it has {RECIPE_KEYS}.",
            ),
        ),
        (
            {"decay": "banana"},
            (
                "`decay` must be one of cosine, linear, wsd, hold-power, plateau, step, constant, "
                "polynomial, multistep, exponential, but got 'banana'.",
            ),
        ),
        (
            {"decay": {"name": "cosine", "power": 2}},
            ("decay 'cosine' has no parameter 'power'; it has none.",),
        ),
        (
            {"decay": {"name": "wsd", "power": 2, "hold": 1}},
            (
                "decay 'wsd' has no parameter 'hold'; it has cooldown_frac.",
                "decay 'wsd' has no parameter 'power'; it has cooldown_frac.",
            ),
        ),
        (
            {"decay": {"name": "step", "factor": 0.1}},
            ("decay 'step' needs 'every_epochs'.",),
        ),
        (
            {"decay": ["cosine"]},
            ("`decay` must be a name, or a table with a name, but got ['cosine'].",),
        ),
        (
            {"decay": {"name": ["step"]}},
            (f"`decay` must be one of {', '.join(DECAYS)}, but got ['step'].",),
        ),
        ({"peak_lr": 0}, ("`0 < peak_lr` must hold, but got 0.",)),
        ({"peak_lr": "1e-3"}, ("`peak_lr` must be a number, but got '1e-3'.",)),
        (
            {
                "optimizer": "SGD",
                "lr": 1,
                "momentum": "most",
                "decay": {"name": "step", "every": 3, "factor": 2},
            },
            (
                "decay 'step' has no parameter 'every'; it has every_epochs, factor.",
                "decay 'step' needs 'every_epochs'.",
                "`0 < factor < 1` must hold, but got 2.",
                f"unknown key 'lr' in a recipe; it has {RECIPE_KEYS}.",
                f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, but got 'SGD'.",
                "`momentum` must be a number, but got 'most'.",
            ),
        ),
    ],
)
def test_plain_values_that_are_no_recipe(values, problems):
    with pytest.raises(InputError) as caught:
        Recipe.from_dict(values)
    assert caught.value.problems == problems


def test_a_decay_without_a_name_is_none():
    with pytest.raises(InputError, match="but got None"):
        decay_from_dict({"power": 2})


def test_the_decays_can_still_be_imported_from_where_they_were():
    with pytest.warns(DeprecationWarning, match=r"now in lrtune\.core\.decays"):
        moved = recipe_module.WSD
    assert moved is WSD
    with pytest.raises(ImportError):
        from lrtune.core.recipe import Quadratic  # noqa: F401
