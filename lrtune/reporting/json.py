"""The report as JSON: plain values for programs, as `report.schema.json` beside this module describes them.

What is not known (nan) and what is not finite is `null`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lrtune.core.run import RunRecord
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.decide.rungs import summaries
from lrtune.reporting.contenders import compared
from lrtune.reporting.cost import Cost
from lrtune.reporting.document import Document
from lrtune.reporting.trials import Left

SCHEMA = 2
"""A higher number means that something was renamed or left out."""


def render_json(document: Document) -> str:
    """A document of the schema."""
    report = document.report
    config = report.state.config
    names = (
        "name", "task", "epochs", "steps_per_epoch", "num_validation", "num_classes", "seed", "num_seeds", "max_seeds",
        "num_confirmed", "sampler", "pruner",
    )  # fmt: skip
    values = {
        "schema": SCHEMA,
        "command": config.command,
        "environment": dict(config.environment),
        "study": {name: getattr(config, name) for name in names}
        | {
            "kind": "comparison" if config.is_comparison else "search",
            "recipes": list(map(asdict, config.recipes)),
        }
        | {"rungs": list(map(str, config.rungs))}
        | {"reduction_factor": config.reduction_factor, "signal": config.signal}
        | {
            "space": config.space_name,
            "budget": str(config.budget),
            "settings": asdict(config.settings),
        },
        "cost": _cost(document.cost),
        "recommendation": _recommendation(document, report.recommendation),
        "contenders": [_contender(contender) for contender in compared(report.recommendation)],
        "rungs": [asdict(found) | {"rung": str(found.rung)} for found in summaries(report.state)],
        "left": list(map(_left, document.left)),
        "runs": [_run(record) for record in report.state.records],
        "range_tests": [asdict(result) for result in report.state.range_results],
        "importances": dict(document.importances),
    }
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _cost(cost: Cost) -> dict[str, Any]:
    values = asdict(cost)
    return {f"epochs_{name}": epochs for name, epochs in values.pop("spending").items()} | values


def _left(left: Left) -> dict[str, Any]:
    return {name: getattr(left, name) for name in ("trial", "rung", "score", "reason")}


def _recommendation(document: Document, found: Recommendation | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "trial": found.best.trial,
        "recipe": found.best.recipe.to_dict(),
        "name": found.best.name,
        "schedule": document.schedule,
        "final": found.final,
        "verdict": found.verdict,
        "target": found.target,
        "target_source": found.target_source,
        "ties": [contender.trial for contender in found.ties],
        "simplest": found.simplest.trial if found.simplest else None,
        "code": document.code,
    }


def _contender(contender: Contender) -> dict[str, Any]:
    names = ("mean", "spread", "optimism", "num_parts")
    return asdict(contender) | {name: getattr(contender, name) for name in names}


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        **asdict(record.run),
        "state": record.state,
        "reason": record.reason,
        "top1": record.top1,
        "test_top1": record.test_top1,
        "seconds": record.seconds,
        "retries": record.retries,
        "measurements": [asdict(measurement) for measurement in record.measurements],
    }


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity."""
    match value:
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value
