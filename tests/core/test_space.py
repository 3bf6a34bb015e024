"""What a search space may say, and what it comes to for a run of some length."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import DECAYS, Plateau, decay_from_dict
from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe
from lrtune.core.space import Choice, Interval, Range, parse_space

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.toml"))
INTERVALS = {
    "sgd": Interval(low=0.02, high=0.9, suggestion=0.2),
    "adamw": Interval(low=2e-4, high=9e-3, suggestion=2e-3),
}


def space_of(parameters="", tables="", *, top="", optimizer="sgd"):
    return parse_space(
        f"{top}\n[parameters]\n{parameters}\n{tables}", "spaces/mine.toml", optimizer=optimizer
    )


def problems_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return list(caught.value.problems)


def ends(parameter):
    """The lowest and highest value of each entry of a space; all its values where it lists them."""
    match parameter:
        case Choice():
            return list(parameter.choices)
        case Range():
            return [parameter.low, parameter.high]
        case _:
            return [parameter]


def assert_possible(space, epochs):
    """Every range is a range, and lengths are within the run.

    The ends of every parameter make a recipe.
    """
    keys = {key for table in (space.parameters, *space.optimizers.values()) for key in table}
    of_recipes = [
        ("", {key: space.parameter(key, optimizer) for key in keys})
        for optimizer in space.choices("optimizer")
    ]
    for decay, table in (*of_recipes, *space.decays.items()):
        for key, parameter in table.items():
            if isinstance(parameter, Range):
                assert -math.inf < parameter.low <= parameter.high < math.inf
                assert parameter.low > 0 or not parameter.log
                if parameter.step is not None:
                    num_steps = (parameter.high - parameter.low) / parameter.step
                    assert num_steps == pytest.approx(round(num_steps))
            if key in ("optimizer", "decay") or parameter is None:
                continue
            for value in ends(parameter):
                if key in ("warmup_epochs", "every_epochs"):
                    assert value < epochs
                if decay:
                    needed = {
                        "step": {"every_epochs": 1},
                        "multistep": {"milestones_epochs": (1,)},
                    }.get(decay, {})
                    Recipe(decay=decay_from_dict({"name": decay} | needed | {key: value}))
                else:
                    Recipe(**{key: value})


@pytest.mark.parametrize("intervals", [{}, INTERVALS], ids=["no signal", "intervals"])
@pytest.mark.parametrize("epochs", [5, 20, 90])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_space_fits(path, epochs, intervals):
    text = path.read_text()
    for optimizer in ("sgd", "adamw"):
        space = parse_space(text, str(path), optimizer=optimizer)
        if path.stem == "imagenet-resnet50" and epochs == 5:
            assert problems_of(space.fit, epochs, intervals) == [
                f"{path}: {TOO_LONG}5 with 5 epochs."
            ]
            continue
        fitted = space.fit(epochs, intervals)
        assert_possible(fitted, epochs)
        assert fitted.needs_range_test == ()
        assert fitted.description


def test_shipped_spaces_are_there():
    assert {path.stem for path in SHIPPED} >= {
        "default",
        "quick",
        "fine-tuning",
        "imagenet-resnet50",
    }


def test_a_whole_document():
    space = space_of(
        'optimizer = { choices = ["sgd", "adamw"] }\npeak_lr = "range-test"\n'
        'warmup_epochs = { low = 0, high = "25%" }\n'
        'decay = { choices = ["cosine", "plateau"] }\nnesterov = { choices = [true, false] }',
        "[optimizer.adamw]\npeak_lr = { low = 1e-5, high = 1e-2, log = true }\n"
        "[decay.plateau]\npatience_epochs = { low = 1, high = 4 }",
        top='description = "both"',
    )
    assert space.description == "both"
    assert space.choices("optimizer") == ("sgd", "adamw")
    assert space.needs_range_test == ("sgd",)
    assert space.parameter("peak_lr", "adamw") == Range(1e-5, 1e-2, log=True)
    assert space.parameter("momentum", "sgd") is None
    fitted = space.fit(10, INTERVALS)
    assert fitted.parameter("peak_lr", "sgd") == Range(0.02, 0.9, log=True)
    assert fitted.parameter("peak_lr", "adamw") == Range(1e-5, 1e-2, log=True)
    assert fitted.parameter("warmup_epochs", "sgd") == Range(0, 2.5)
    assert fitted.decays["plateau"]["patience_epochs"] == Range(1, 4, step=1)
    assert_possible(fitted, 10)
    assert space.needs_range_test == ("sgd",)  # fitting changes nothing of the space


def test_what_a_space_does_not_name_is_its_users_own():
    space = space_of('peak_lr = "range-test"', optimizer="lamb")
    assert (space.choices("optimizer"), space.choices("decay")) == (("lamb",), ("cosine",))
    assert space.needs_range_test == ("lamb",)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_a_signal_every_optimizer_has_bounds(optimizer):
    fitted = space_of('peak_lr = "range-test"', optimizer=optimizer).fit(10, {})
    searched = OPTIMIZERS[optimizer].searched
    assert fitted.parameter("peak_lr", optimizer) == Range(*searched, log=True)


# key, entry, epochs, what it comes to
FITTED = [
    ("warmup_epochs", '"25%"', 10, 2.5),
    ("warmup_epochs", '{ low = 0, high = "25%" }', 10, Range(0, 2.5)),
    ("warmup_epochs", '{ low = "10%", high = "25%", log = true }', 10, Range(1, 2.5, log=True)),
    ("warmup_epochs", '{ low = 0, high = "25%", step = 0.5 }', 10, Range(0, 2.5, step=0.5)),
    ("warmup_epochs", '{ low = 0, high = "27%", step = 0.5 }', 10, Range(0, 2.5, step=0.5)),
    ("warmup_epochs", '{ low = 0, high = "10%", step = 0.5 }', 4, Range(0, 0, step=0.5)),
    ("warmup_epochs", '{ low = 1, high = "30%", step = 0.7 }', 10, Range(1, 2.4, step=0.7)),
    ("warmup_epochs", '{ choices = [0, "5%", 1] }', 20, Choice((0, 1))),
    ("plateau.patience_epochs", '"20%"', 12, 2),
    ("plateau.patience_epochs", '"20%"', 13, 3),
    ("plateau.patience_epochs", '"20%"', 2, 1),
    ("plateau.patience_epochs", '"0%"', 20, 0),
    ("plateau.cooldown_epochs", '"0%"', 20, 0),
    ("plateau.cooldown_epochs", '"1%"', 20, 1),
    ("plateau.patience_epochs", '{ low = 1, high = "20%" }', 5, Range(1, 1, step=1)),
    ("plateau.patience_epochs", '{ low = 1, high = "20%" }', 90, Range(1, 18, step=1)),
    ("plateau.patience_epochs", '{ low = 1, high = "20%", step = 2 }', 20, Range(1, 3, step=2)),
    ("plateau.patience_epochs", '{ choices = ["10%", "20%", "30%"] }', 5, Choice((1, 2))),
    ("step.every_epochs", '{ choices = ["20%", "50%"] }', 5, Choice((1, 2.5))),
    ("multistep.milestones_epochs", '["50%", "75%"]', 10, (5, 7.5)),
    (
        "multistep.milestones_epochs",
        '{ choices = [["50%", "75%"], [6, 8]] }',
        10,
        Choice(((5, 7.5), (6, 8))),
    ),
]


@pytest.mark.parametrize(("key", "entry", "epochs", "expected"), FITTED)
def test_percentages_become_epochs(key, entry, epochs, expected):
    decay, _, key = key.rpartition(".")
    if decay:
        space = space_of(f'peak_lr = 0.1\ndecay = "{decay}"', f"[decay.{decay}]\n{key} = {entry}")
        found = space.fit(epochs, {}).decays[decay][key]
    else:
        found = space_of(f"peak_lr = 0.1\n{key} = {entry}").fit(epochs, {}).parameters[key]
    if isinstance(expected, Range):
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert (found.log, found.step) == (expected.log, expected.step)
    else:
        assert found == expected
    if key in ("patience_epochs", "cooldown_epochs"):
        assert all(isinstance(end, int) for end in ends(found))
        Plateau(**{key: ends(found)[-1]})


RECIPE_KEYS = (
    "optimizer, peak_lr, warmup_epochs, decay, final_frac, momentum, nesterov, weight_decay, "
    "group_scales"
)
DECAY_NAMES, OPTIMIZER_NAMES = ", ".join(DECAYS), ", ".join(OPTIMIZERS)
SHAPE = "must be a value, {choices}, or {low, high} with `log` or `step`"
CHOICES = "`choices` must be a list of at least one value, and stand alone"
STEP = "`0 < step` must hold, without `log`"
RISING = "`0 < milestones_epochs[0] < milestones_epochs[1] < ...` must hold"
WHOLE = "`patience_epochs` counts whole epochs, without `log`"
UNUSED = "nothing would use it."
TOO_LONG = "[parameters] warmup_epochs: `warmup_epochs < epochs` must hold, but got warmup_epochs="
LR = "peak_lr = 0.1\n"

# [parameters], the tables after it, and every problem, without the file
NUMBER = "a number must lie between -9007199254740992 and 9007199254740992"
GRID = "a grid must have at most 1000000000 points"
BAD = [
    # what a key may be
    (LR + "lr = 1", "", [f"[parameters] lr: unknown key; known here: {RECIPE_KEYS}."]),
    (LR + "patience_epochs = 3", "",
     [f"[parameters] patience_epochs: unknown key; known here: {RECIPE_KEYS}."]),
    (
        LR,
        '[optimizer.sgd]\noptimizer = "adam"',
        [
            "[optimizer.sgd] optimizer: unknown key; known here: "
            "peak_lr, warmup_epochs, final_frac, momentum, nesterov, weight_decay, group_scales."
        ],
    ),
    (LR, "[decay.cosine]\npower = 2", ["[decay.cosine] power: unknown key; known here: ."]),
    (LR, "[more]\nx = 1",
     ["more: unknown key; known here: description, parameters, decay, optimizer, command."]),
    (LR, "[decay]\ncosine = 3", ["[decay.cosine]: must be a table, but got 3."]),
    # names
    (LR + 'decay = "banana"', "",
     [f"[parameters] decay: must be one of {DECAY_NAMES}, but got 'banana'."]),
    (
        LR + 'decay = { choices = ["cosine", "banana"] }',
        "",
        [f"[parameters] decay: must be one of {DECAY_NAMES}, but got 'banana'."],
    ),
    (LR + 'optimizer = "sgdd"', "",
     [f"[parameters] optimizer: must be one of {OPTIMIZER_NAMES}, but got 'sgdd'."]),
    (LR, "[decay.banana]\nx = 1", [f"[decay.banana]: no such decay; there are {DECAY_NAMES}."]),
    (LR, "[optimizer.sgdd]\nx = 1",
     [f"[optimizer.sgdd]: no such optimizer; there are {OPTIMIZER_NAMES}."]),
    (
        LR + 'decay = "cosine"',
        "[decay.plateau]\npatience_epochs = 3",
        ["[decay.plateau]: decay 'plateau' is not among the choices of [parameters] decay: "
         + UNUSED],
    ),
    (
        LR,
        "[optimizer.adam]\npeak_lr = 1e-3",
        ["[optimizer.adam]: optimizer 'adam' is not among the choices of [parameters] optimizer: "
         + UNUSED],
    ),
    # what is missing
    ('decay = "cosine"', "",
     ['[parameters] peak_lr: is missing for sgd: give a range, or "range-test".']),
    (
        'optimizer = { choices = ["sgd", "adam"] }',
        "[optimizer.sgd]\npeak_lr = 0.1",
        ['[parameters] peak_lr: is missing for adam: give a range, or "range-test".'],
    ),
    (
        LR + 'decay = { choices = ["step", "multistep"] }',
        "",
        ["[decay.step] every_epochs: is missing.",
         "[decay.multistep] milestones_epochs: is missing."],
    ),
    # ranges
    (
        "peak_lr = { low = 1.0, high = 0.1 }",
        "",
        ["[parameters] peak_lr: `low <= high` must hold, but got low=1.0, high=0.1."],
    ),
    (
        "peak_lr = { low = 0, high = 0.1, log = true }",
        "",
        ["[parameters] peak_lr: `0 < low` must hold with `log`, but got low=0."],
    ),
    ("peak_lr = { low = 0, high = 0.1 }", "",
     ["[parameters] peak_lr: `0 < peak_lr` must hold, but got 0."]),
    ("peak_lr = { low = 1, high = inf }", "",
     [f"parameters.peak_lr.high: {NUMBER}, but got inf."]),
    ("peak_lr = { low = 1, high = inf, step = 1 }", "",
     [f"parameters.peak_lr.high: {NUMBER}, but got inf."]),
    ("peak_lr = { low = -1.7e308, high = 1.7e308, step = 5e-324 }", "",
     [f"parameters.peak_lr.low: {NUMBER}, but got -1.7e+308.",
      f"parameters.peak_lr.high: {NUMBER}, but got 1.7e+308."]),
    ("peak_lr = { low = 1, high = 2, step = 5e-324 }", "",
     [f"[parameters] peak_lr: {GRID}, but got low=1, high=2, step=5e-324."]),
    (LR + 'warmup_epochs = { low = 1, high = "5%", step = 5e-324 }', "",
     [f"[parameters] warmup_epochs: {GRID}, but got low=1, high=5%, step=5e-324."]),
    ("peak_lr = { low = 1 }", "", [f"[parameters] peak_lr: {SHAPE}, but got {{'low': 1}}."]),
    (
        "peak_lr = { low = 1, high = 2, base = 3 }",
        "",
        [f"[parameters] peak_lr: {SHAPE}, but got {{'low': 1, 'high': 2, 'base': 3}}."],
    ),
    ('peak_lr = { low = 0.1, high = "x" }', "",
     ["[parameters] peak_lr: `high` must be a number, but got 'x'."]),
    ("peak_lr = { low = false, high = 1 }", "",
     ["[parameters] peak_lr: `low` must be a number, but got False."]),
    (
        "peak_lr = { low = 0.1, high = 1, log = 1 }",
        "",
        ["[parameters] peak_lr: `log` must be true or false, but got 1."],
    ),
    (
        "peak_lr = { low = 0.1, high = 1, log = true, step = 0.1 }",
        "",
        [f"[parameters] peak_lr: {STEP}, but got step=0.1, log=True."],
    ),
    *(
        (
            LR + f"warmup_epochs = {{ low = 0, high = 1, step = {step} }}",
            "",
            [f"[parameters] warmup_epochs: {STEP}, but got step={got}, log=False."],
        )
        for step, got in [
            ("0", 0), ("-1", -1), ("[1]", "[1]"),
            ("true", "True"), ('"5%"', "'5%'"),
        ]
    ),
    # choices
    ("peak_lr = { choices = [] }", "",
     [f"[parameters] peak_lr: {CHOICES}, but got {{'choices': []}}."]),
    ("peak_lr = { choices = 3 }", "",
     [f"[parameters] peak_lr: {CHOICES}, but got {{'choices': 3}}."]),
    (
        "peak_lr = { choices = [1], low = 3 }",
        "",
        [f"[parameters] peak_lr: {CHOICES}, but got {{'choices': [1], 'low': 3}}."],
    ),
    (
        LR + "momentum = { choices = [0.9, 1.0] }",
        "",
        ["[parameters] momentum: `0 <= momentum < 1` must hold, but got 1.0."],
    ),
    # values
    ('peak_lr = "banana"', "",
     ["[parameters] peak_lr: `peak_lr` must be a number, but got 'banana'."]),
    ("peak_lr = nan", "",
     [f"parameters.peak_lr: {NUMBER}, but got nan."]),
    (LR + "momentum = [0.9]", "",
     ["[parameters] momentum: `momentum` must be a number, but got [0.9]."]),
    (LR + 'nesterov = "maybe"', "",
     ["[parameters] nesterov: `nesterov` must be true or false, but got 'maybe'."]),
    ("peak_lr = true", "", ["[parameters] peak_lr: `peak_lr` must be a number, but got True."]),
    (
        'optimizer = { choices = ["sgd", "schedule-free-sgd"] }\n' + LR
        + "momentum = { low = 0.0, high = 0.9 }",
        "",
        ["[parameters] momentum: `0 < momentum` must hold for schedule-free-sgd, but got 0.0."],
    ),
    (
        LR + 'optimizer = "schedule-free-sgd"',
        "[optimizer.schedule-free-sgd]\nmomentum = 0",
        ["[optimizer.schedule-free-sgd] momentum: `0 < momentum` must hold for schedule-free-sgd, "
         "but got 0."],
    ),
    (LR + "nesterov = 1", "",
     ["[parameters] nesterov: `nesterov` must be true or false, but got 1."]),
    (
        LR + 'weight_decay = "range-test"', "",
        ["[parameters] weight_decay: `weight_decay` must be a number, but got 'range-test'."],
    ),
    # lengths
    (
        LR + 'warmup_epochs = "120%"',
        "",
        ["[parameters] warmup_epochs: `0% <= warmup_epochs <= 100%` must hold, but got '120%'."],
    ),
    (
        LR + 'warmup_epochs = { low = "-1%", high = 2 }',
        "",
        ["[parameters] warmup_epochs: `0% <= warmup_epochs <= 100%` must hold, but got '-1%'."],
    ),
    (
        LR + 'warmup_epochs = "a%"',
        "",
        ["[parameters] warmup_epochs: must be a percentage such as '25%', but got 'a%'."],
    ),
    ('peak_lr = "5%"', "",
     ["[parameters] peak_lr: only lengths in epochs may be in percent, but got '5%'."]),
    *(
        (
            LR + 'decay = "multistep"',
            f"[decay.multistep]\nmilestones_epochs = {given}",
            [f"[decay.multistep] milestones_epochs: {problem}"],
        )
        for given, problem in [
            ("[5, 3]", f"{RISING}, but got [5, 3]."),
            ('["75%", "50%"]', f"{RISING}, but got [750000.0, 500000.0]."),
            ("[]", f"{RISING}, but got []."),
            ("{ choices = [[1, 2], [2, 1]] }", f"{RISING}, but got [2, 1]."),
            ("5", "`milestones_epochs` must be a list of numbers, but got 5."),
            ("{ low = 1, high = 4 }", "`milestones_epochs` must be a list of numbers, but got 1."),
            ('["a", "b"]', "`milestones_epochs` must be a list of numbers, but got ['a', 'b']."),
        ]
    ),
    (
        LR + 'decay = "step"',
        '[decay.step]\nevery_epochs = "0%"',
        ["[decay.step] every_epochs: `0 < every_epochs` must hold, but got 0.0."],
    ),
    *(
        (
            LR + 'decay = "plateau"',
            f"[decay.plateau]\npatience_epochs = {given}",
            [f"[decay.plateau] patience_epochs: {problem}"],
        )
        for given, problem in [
            ("2.5", "`patience_epochs` must be a whole number, but got 2.5."),
            ("{ low = -1, high = 2 }", "`0 <= patience_epochs` must hold, but got -1."),
            ("{ low = 1.5, high = 3 }", f"{WHOLE}, but got {{'low': 1.5, 'high': 3}}."),
            (
                "{ low = 1, high = 3, step = 0.5 }",
                f"{WHOLE}, but got {{'low': 1, 'high': 3, 'step': 0.5}}.",
            ),
            (
                "{ low = 1, high = 3, log = true }",
                f"{WHOLE}, but got {{'low': 1, 'high': 3, 'log': True}}.",
            ),
        ]
    ),
    (
        LR + 'decay = "plateau"',
        '[decay.plateau]\nmonitor = "banana"',
        [
            "[decay.plateau] monitor: `monitor` must be a metric whose direction is known, or "
            "NAME:max or NAME:min, but got 'banana'."
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "tables", "problems"), BAD)
def test_a_bad_document_is_refused_with_file_and_key(parameters, tables, problems):
    assert problems_of(space_of, parameters, tables) == [
        f"spaces/mine.toml: {problem}" for problem in problems
    ]


def test_a_value_is_tried_with_the_optimizers_that_use_it():
    space = space_of(
        'optimizer = { choices = ["sgd", "schedule-free-sgd"] }\nmomentum = 0.0\n' + LR,
        "[optimizer.schedule-free-sgd]\nmomentum = 0.9",
    )
    assert [space.parameter("momentum", name) for name in space.choices("optimizer")] == [0.0, 0.9]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('description = "x"', ["[parameters]: is missing."]),
        ("parameters = 3", ["[parameters]: must be a table, but got 3."]),
        ("decay = 3\n[parameters]\npeak_lr = 0.1", ["decay: must be a table, but got 3."]),
        (
            "[parameters",
            [
                "is not valid TOML: Expected ']' at the end of a table declaration "
                "(at end of document)."
            ],
        ),
        (
            "[parameters]\npeak_lr = 1\npeak_lr = 2",
            ["is not valid TOML: Cannot overwrite a value (at end of document)."],
        ),
    ],
)
def test_a_document_of_another_shape_is_refused(text, problems):
    assert problems_of(parse_space, text, "mine.toml") == [
        f"mine.toml: {problem}" for problem in problems
    ]


def test_all_problems_of_a_document_are_shown_together():
    problems = problems_of(
        parse_space,
        """
        beta = 1
        alpha = 2
        [parameters]
        peak_lr = { low = 1.0, high = 0.1 }
        warmup_epochs = "a%"
        lr = 3
        decay = "banana"
        optimizer = { choices = ["sgd", "sgdd"] }
        [decay.plateau]
        patience_epochs = { low = 1 }
        """,
        "mine.toml",
    )
    known = "known here: description, parameters, decay, optimizer, command."
    assert problems == [
        f"mine.toml: alpha: unknown key; {known}",
        f"mine.toml: beta: unknown key; {known}",
        "mine.toml: [parameters] peak_lr: `low <= high` must hold, but got low=1.0, high=0.1.",
        "mine.toml: [parameters] warmup_epochs: must be a percentage such as '25%', but got 'a%'.",
        f"mine.toml: [parameters] lr: unknown key; known here: {RECIPE_KEYS}.",
        f"mine.toml: [parameters] decay: must be one of {DECAY_NAMES}, but got 'banana'.",
        "mine.toml: [decay.plateau]: decay 'plateau' is not among the choices of [parameters] "
        f"decay: {UNUSED}",
        f"mine.toml: [decay.plateau] patience_epochs: {SHAPE}, but got {{'low': 1}}.",
        f"mine.toml: [parameters] optimizer: must be one of {OPTIMIZER_NAMES}, but got 'sgdd'.",
    ]


# what a good document says that does not go with 10 epochs
UNFIT = [
    ("warmup_epochs = 10", "", TOO_LONG + "10"),
    ('warmup_epochs = "100%"', "", TOO_LONG + "10"),
    (
        "warmup_epochs = { low = 0, high = 20 }",
        "",
        TOO_LONG + "20",
    ),
    (
        "warmup_epochs = { choices = [0, 12] }",
        "",
        TOO_LONG + "12",
    ),
    (
        'decay = "step"',
        "[decay.step]\nevery_epochs = 10",
        "[decay.step] every_epochs: `every_epochs < epochs` must hold, but got every_epochs=10",
    ),
    (
        'decay = "multistep"',
        "[decay.multistep]\nmilestones_epochs = [5, 30]",
        "[decay.multistep] milestones_epochs: `milestones_epochs < epochs` must hold, "
        "but got milestones_epochs=30",
    ),
    (
        'decay = "multistep"',
        '[decay.multistep]\nmilestones_epochs = [8, "50%"]',
        f"[decay.multistep] milestones_epochs: {RISING}, but got [8, 5.0].",
    ),
    (
        'warmup_epochs = { low = 3, high = "10%" }',
        "",
        "[parameters] warmup_epochs: `low <= high` must hold, but got low=3, high=1.",
    ),
    (
        'warmup_epochs = { low = 3, high = "10%", step = 0.3 }',
        "",
        "[parameters] warmup_epochs: `low <= high` must hold, but got low=3, high=1.",
    ),
    (
        'warmup_epochs = { low = "0%", high = "10%", log = true }',
        "",
        "[parameters] warmup_epochs: `0 < low` must hold with `log`, but got low=0.",
    ),
    (
        'decay = "plateau"',
        '[decay.plateau]\npatience_epochs = { low = 4, high = "20%" }',
        "[decay.plateau] patience_epochs: `low <= high` must hold, but got low=4, high=2.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "tables", "problem"), UNFIT)
def test_a_space_that_does_not_go_with_the_run_is_refused(parameters, tables, problem):
    ending = "" if problem.endswith(".") else " with 10 epochs."
    assert problems_of(space_of(LR + parameters, tables).fit, 10, {}) == [
        f"spaces/mine.toml: {problem}{ending}"
    ]


def test_all_that_does_not_fit_is_shown_together():
    space = space_of(
        LR + 'warmup_epochs = 10\ndecay = "multistep"',
        "[decay.multistep]\nmilestones_epochs = [5, 20]",
    )
    assert problems_of(space.fit, 10, {}) == [
        f"spaces/mine.toml: {TOO_LONG}10 with 10 epochs.",
        "spaces/mine.toml: [decay.multistep] milestones_epochs: `milestones_epochs < epochs` must "
        "hold, but got milestones_epochs=20 with 10 epochs.",
    ]


def test_a_patience_longer_than_the_run_is_a_constant_lr():
    space = space_of(LR + 'decay = "plateau"', "[decay.plateau]\npatience_epochs = 100")
    assert space.fit(10, {}).decays["plateau"]["patience_epochs"] == 100


LENGTHS = st.one_of(
    st.integers(-1, 30).map(str),
    st.floats(-1, 30).map(repr),
    st.integers(0, 100).map(lambda percent: f'"{percent}%"'),
)
STEPS = st.sampled_from(
    ["", ", log = true", ", step = 1", ", step = 0.5", ", step = 0.3", ", step = 3"]
)
RANGES = st.builds("{{ low = {}, high = {}{} }}".format, LENGTHS, LENGTHS, STEPS)
LISTS = st.lists(LENGTHS, min_size=1, max_size=3).map(lambda values: f"[{', '.join(values)}]")


def choices_of(values):
    return st.lists(values, min_size=1, max_size=3).map(
        lambda each: f"{{ choices = [{', '.join(each)}] }}"
    )


@given(
    warmup=RANGES | choices_of(LENGTHS),
    every=RANGES | choices_of(LENGTHS),
    patience=RANGES | choices_of(LENGTHS),
    milestones=LISTS | choices_of(LISTS),
    epochs=st.integers(1, 40),
)
@pytest.mark.parametrize("key", ["warmup", "every", "patience", "milestones"])
def test_whatever_fits_is_possible(key, warmup, every, patience, milestones, epochs):
    parameters, tables = {
        "warmup": (LR + f"warmup_epochs = {warmup}", ""),
        "every": (LR + 'decay = "step"', f"[decay.step]\nevery_epochs = {every}"),
        "patience": (LR + 'decay = "plateau"', f"[decay.plateau]\npatience_epochs = {patience}"),
        "milestones": (
            LR + 'decay = "multistep"',
            f"[decay.multistep]\nmilestones_epochs = {milestones}",
        ),
    }[key]
    try:
        fitted = space_of(parameters, tables).fit(epochs, {})
    except InputError:
        return  # refused, with its reasons: tested above
    assert_possible(fitted, epochs)
