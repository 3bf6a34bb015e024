"""The report as JSON: plain values for programs.

`report.schema.json` beside this module describes them. What is not known (nan) and
what is not finite is `null`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lrtune.core.objective import Objective
from lrtune.core.options import options_of
from lrtune.core.printing import printable
from lrtune.core.run import RunRecord
from lrtune.core.study import SearchRules
from lrtune.decide.noise import Difference
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.reporting import wording
from lrtune.reporting.contenders import compared
from lrtune.reporting.cost import Cost
from lrtune.reporting.document import Document
from lrtune.reporting.trials import Left

SCHEMA = 4
"""A higher number means that something was renamed or left out."""


def render_json(document: Document) -> str:
    """A document of the schema."""
    report = document.report
    config = report.state.config
    facts = ("name", "task", "epochs", "steps_per_epoch", "num_validation", "max_seeds")
    names = (*facts, *(option.name for option in options_of(SearchRules)))
    values = {
        "schema": SCHEMA,
        "command": config.command,
        "environment": dict(config.environment),
        "study": {name: getattr(config, name) for name in names}
        | {
            "kind": "comparison" if config.is_comparison else "search",
            "recipes": [
                {"name": named.name, "recipe": named.recipe.to_dict()} for named in config.recipes
            ],
        }
        | {"looks": list(map(asdict, config.looks))}
        | {
            "task": {
                key: wording.task(config.task) if key == "command" else value
                for key, value in config.task.items()
            },
            "space": config.space_name,
            "budget": str(config.budget),
            "settings": {} if document.steers else asdict(config.settings),
            "objective": asdict(config.objective),
            "groups": list(map(asdict, config.groups)),
            "data_facts": dict(config.data_facts),
        },
        "cost": _cost(document.cost),
        "recommendation": _recommendation(document, report.recommendation),
        "contenders": [
            _contender(config.objective, contender) for contender in compared(report.recommendation)
        ],
        "looks": list(map(asdict, document.summaries)),
        "left": list(map(_left, document.left)),
        "runs": [_run(record) for record in report.state.records],
        "range_tests": [asdict(result) for result in report.state.range_results],
        "importances": dict(document.importances),
    }
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _cost(cost: Cost) -> dict[str, Any]:
    values = asdict(cost)
    return {f"epochs_{name}": epochs for name, epochs in values.pop("spending").items()} | values


def _left(trial: Left) -> dict[str, Any]:
    return {name: getattr(trial, name) for name in ("trial", "look", "value", "reason")}


def _recommendation(
    document: Document, recommendation: Recommendation | None
) -> dict[str, Any] | None:
    if recommendation is None:
        return None
    return {
        "trial": recommendation.best.trial,
        "recipe": recommendation.best.recipe.to_dict(),
        "name": recommendation.best.name,
        "schedule": document.schedule,
        "final": recommendation.final,
        "verdict": recommendation.verdict,
        "target": recommendation.target,
        "target_source": recommendation.target_source,
        "ties": [contender.trial for contender in recommendation.ties],
        "simplest": recommendation.simplest.trial if recommendation.simplest else None,
        "code": document.code,
    }


def _contender(objective: Objective, contender: Contender) -> dict[str, Any]:
    values = {name: getattr(contender, name) for name in ("mean", "spread", "num_parts")}
    return (
        asdict(contender)
        | values
        | {
            "recipe": contender.recipe.to_dict(),
            "optimism": contender.optimism(objective),
            "difference": _difference(objective, contender.difference),
        }
    )


def _difference(objective: Objective, difference: Difference | None) -> dict[str, float] | None:
    """Of the metric itself."""
    if difference is None:
        return None
    return dict(zip(("mean", "low", "high"), difference.of_values(objective), strict=True))


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        **asdict(record.run),
        "recipe": record.run.recipe.to_dict(),
        "state": record.state,
        "reason": record.reason,
        "metrics": dict(record.metrics),
        "test": dict(record.test) if record.test else None,
        "seconds": record.seconds,
        "retries": record.retries,
        "measurements": [asdict(measurement) for measurement in record.measurements],
    }


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity, and a name of a file need not be text."""
    match value:
        case str():
            return printable(value)
        case Mapping():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value
