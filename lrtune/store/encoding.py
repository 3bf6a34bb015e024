"""The values of a study as JSON text, and back."""

import hashlib
import json
import math
from dataclasses import asdict
from typing import Any

from lrtune.core.objective import Metrics, Objective
from lrtune.core.recipe import NamedRecipe, ParameterGroup, Recipe
from lrtune.core.space import Interval
from lrtune.core.study import Budget, Look, RangeCurve, RangeResult, StudyConfig, TrainSettings


def config_to_json(config: StudyConfig) -> str:
    """A configuration as JSON text; equal configurations give equal texts."""
    values = asdict(config) | {
        "budget": str(config.budget),
        "baseline": config.baseline.to_dict(),
        "tried": [recipe.to_dict() for recipe in config.tried],
        "recipes": [
            {"name": named.name, "recipe": named.recipe.to_dict()} for named in config.recipes
        ],
    }
    return json.dumps(values, sort_keys=True)


def config_from_json(text: str) -> StudyConfig:
    """A configuration from `config_to_json`."""
    values = _of_today(json.loads(text))
    return StudyConfig(
        **values
        | {
            "objective": Objective(**values["objective"]),
            "groups": tuple(ParameterGroup(**group) for group in values["groups"]),
            "settings": TrainSettings(**values["settings"]),
            "budget": Budget.parse(values["budget"]),
            "looks": tuple(Look(**look) for look in values["looks"]),
            "baseline": Recipe.from_dict(values["baseline"]),
            "tried": tuple(map(Recipe.from_dict, values["tried"])),
            "recipes": tuple(map(_named_recipe, values["recipes"])),
        }
    )


def _of_today(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a study, without those of the rungs that earlier ones had instead of looks."""
    if "rungs" not in values:
        return values
    gone = ("rungs", "signal", "reduction_factor", "num_confirmed")
    kept = {key: value for key, value in values.items() if key not in gone}
    confirm = "full" if values["num_confirmed"] else "0"
    return kept | {"pruner": "none", "looks": [], "confirm": confirm}


def _named_recipe(values: dict[str, Any]) -> NamedRecipe:
    return NamedRecipe(name=values["name"], recipe=Recipe.from_dict(values["recipe"]))


def metrics_to_json(metrics: Metrics) -> str:
    """Metrics as JSON text; what is not finite is a word or `null`, since JSON has no nan."""
    return json.dumps({name: _plain(value) for name, value in metrics.items()})


def metrics_from_json(text: str) -> Metrics:
    """Metrics from `metrics_to_json`."""
    values: dict[str, float | str | None] = json.loads(text)
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def compared(config: StudyConfig) -> dict[str, Any]:
    """The values that two studies must share for their results to go together.

    They are all but name, budget, command, threads, machine, and what was said of the data.
    """
    values: dict[str, Any] = json.loads(config_to_json(config))
    settings: dict[str, Any] = values.pop("settings")
    for key in ("name", "budget", "command", "environment", "data_facts"):
        del values[key]
    values["objective"] = str(config.objective)  # what else it says is found out from the data
    del settings["threads"]
    return values | settings


def digest(config: StudyConfig) -> str:
    """Four hexadecimal digits of what `compared` gives.

    What was added later counts only where it is not as it was before.
    """
    values = compared(config)
    before = {"tried": [], "follows": True, "own_epochs": 0}
    values = {key: value for key, value in values.items() if before.get(key, ...) != value}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:4]


def ranges_to_json(results: tuple[RangeResult, ...]) -> str:
    """Range tests as JSON text."""
    return json.dumps([asdict(result) for result in results])


def ranges_from_json(text: str) -> tuple[RangeResult, ...]:
    """Range tests from `ranges_to_json`."""

    def result(values: dict[str, Any]) -> RangeResult:
        interval = Interval(**values["interval"]) if values["interval"] else None
        curves = tuple(
            RangeCurve(**curve | {"lrs": tuple(curve["lrs"]), "losses": tuple(curve["losses"])})
            for curve in values["curves"]
        )
        return RangeResult(**values | {"interval": interval, "curves": curves})

    return tuple(result(values) for values in json.loads(text))
