"""Whatever lrtune accepts it can read again: what is stored of a study, and a recipe's own file."""

import json
import math
from decimal import Decimal
from functools import cache
from types import NoneType
from typing import Literal, get_args, get_origin

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lrtune.core.decays import DECAYS
from lrtune.core.documents import parse_document
from lrtune.core.errors import InputError
from lrtune.core.objective import Objective
from lrtune.core.optimizers import OPTIMIZERS, OWN
from lrtune.core.options import LARGEST, fields_of
from lrtune.core.recipe import NamedRecipe, ParameterGroup, Recipe
from lrtune.core.study import Budget, Look, StudyConfig, TrainSettings
from lrtune.reporting.export.toml import export
from lrtune.schedules import build_schedule
from lrtune.store.encoding import config_from_json, config_to_json

SPANS = [(-LARGEST, -1), (0, 1), (1, 9), (10, 999), (1000, LARGEST)]
SINGLE = [0, 0.0, -0.0, 1, 1.0, 5e-324, 1e-7, 0.1 + 0.2, math.inf, -math.inf]
WHOLE = st.integers(0, 9) | st.integers(-LARGEST, LARGEST)
NUMBERS = WHOLE | st.floats(-LARGEST, LARGEST)
NAMES = st.text("abzäΔ学.-_/\"'`\\{}#= ", min_size=1, max_size=5).map(lambda text: f"x{text}x")
METRICS = st.builds(
    Objective,
    metric=NAMES,
    direction=st.sampled_from(["max", "min"]),
    num_counted=st.integers(0, LARGEST),
    guessing=st.none() | st.floats(allow_nan=False),
)


@cache
def values_of(field):
    """What a field accepts."""

    def keep(*values):
        return not any(map(field.broken_rule, values))

    found = [st.sampled_from(field.choices)] if field.choices else []
    for kind in field.kinds:
        if get_origin(kind) is Literal:
            found.append(st.sampled_from(get_args(kind)))
        elif kind in (int, float):
            numbers = st.integers if kind is int else st.floats
            inner = [span for span in SPANS if keep(*(kind(end) for end in span))]
            found += [numbers(*span) for span in inner]
            found += [st.just(value) for value in (*SINGLE, *map(kind, (0, 1))) if keep(value)]
            found += [st.floats(0.01, 0.99)] if keep(0.01, 0.99) else []
        elif kind is bool:
            found.append(st.booleans())
        elif kind is NoneType:
            found.append(st.none())
        elif kind is str and not field.choices:
            found.append(NAMES if keep("x") else METRICS.map(str))
        elif get_origin(kind) is tuple:
            lengths = st.floats(0.01, 999)
            found.append(st.sets(lengths, min_size=1, max_size=3).map(sorted).map(tuple))
    return st.one_of(found)


@st.composite
def objects_of(draw, kind, **more):
    """Values of a dataclass, each field of which accepts its own."""
    fields = [field for field in fields_of(kind) if field.name not in more]
    given = {field.name: draw(values_of(field)) for field in fields}
    try:
        return kind(**given, **{name: draw(strategy) for name, strategy in more.items()})
    except InputError:  # of two values that do not go together
        assume(False)


def tables(values):
    """Pairs of a name and a value, as a recipe has them."""
    return st.dictionaries(NAMES, values, max_size=2).map(
        lambda table: tuple(sorted(table.items()))
    )


RECIPES = objects_of(
    Recipe,
    optimizer=st.sampled_from([OWN, *OPTIMIZERS]),
    decay=st.sampled_from(list(DECAYS.values())).flatmap(objects_of),
    group_scales=tables(st.floats(5e-324, LARGEST)),
    command=tables(NUMBERS | NAMES | st.booleans()),
)
BUDGETS = st.one_of(
    st.builds(Budget, st.integers(1, 10**9).map(float), st.sampled_from(["trials", "epochs"])),
    st.builds(
        lambda amount, unit: Budget.parse(f"{Decimal(amount):f}{unit}"),
        st.floats(1, 1e5).map(repr) | st.decimals(1, 10**5, places=12),
        st.sampled_from(["runs", "s", "min", "h"]),
    ),
    st.builds(lambda amount: Budget.parse(f"{Decimal(amount):f}runs"), st.floats(1e-12, 1e9)),
)
CONFIGS = objects_of(
    StudyConfig,
    name=NAMES,
    task=st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.none(), max_size=2),
    space_name=st.text(max_size=9),
    space_toml=st.text(max_size=9),
    objective=METRICS,
    data_facts=st.dictionaries(NAMES, NAMES, max_size=2),
    groups=st.lists(
        st.builds(ParameterGroup, name=NAMES, lr_scale=st.floats(0, 9)), max_size=2
    ).map(tuple),
    settings=objects_of(TrainSettings, accumulate=st.just(1)),
    budget=BUDGETS,
    looks=st.lists(st.builds(Look, WHOLE, WHOLE, WHOLE), max_size=2).map(tuple),
    baseline=RECIPES,
    tried=st.lists(RECIPES, max_size=1).map(tuple),
    recipes=st.lists(st.builds(NamedRecipe, name=NAMES, recipe=RECIPES), max_size=1).map(tuple),
    environment=st.dictionaries(NAMES, NAMES, max_size=2),
)
LARGE = settings(suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])


@given(BUDGETS)
def test_a_budget_is_read_again_as_it_was(budget):
    assert Budget.parse(str(budget)) == budget


@given(RECIPES)
def test_a_recipe_is_read_again_from_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@given(RECIPES, st.integers(1, 1000))
def test_a_recipe_is_read_again_from_its_file(recipe, epochs):
    try:
        schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=7)
    except InputError:
        assume(False)
    values = parse_document(export(schedule).text, "mine.toml")
    assert values.pop("epochs") == epochs
    assert Recipe.from_dict(values) == recipe


@LARGE
@given(CONFIGS)
def test_a_configuration_is_read_again(config):
    text = config_to_json(config)
    assert config_from_json(text) == config
    assert config_to_json(config_from_json(text)) == text
