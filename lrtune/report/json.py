"""The report as JSON: plain values for programs. What is not known (nan) and what is not finite is `null`.

schema           1; a higher number means that something here was renamed or left out
command          that does it again
environment      {"Python": "3.11.7", ...}
study            name, task, space, epochs (horizon), steps_per_epoch, num_validation, num_classes, seed,
                     sampler, pruner, budget, settings
cost             epochs_trained, epochs_avoided, seconds, num_runs by state
recommendation   null where nothing has finished, or
                 trial (-1: the baseline), recipe, schedule (in a sentence), final, verdict, target, target_source,
                 ties (trials), code (plain PyTorch)
contenders       the recommended one first: trial, recipe, search_top1, top1s by seed, mean, spread, test_top1s,
                 convergence {epochs: one a seed, null where not reached; horizon_epochs}, settling_epoch,
                 difference to the baseline {mean, low, high: 95 % interval}
runs             id, kind, trial, seed, horizon_epochs, recipe, state, reason, top1, test_top1, seconds, and
                 measurements {epoch, step, lr_first, lr_last, train_loss, val_loss, top1, seconds,
                     images_per_s, ended_at}
range_tests      optimizer, interval {low, high, suggestion} or null, rule, reason, suggestions by rule,
                 curves {seed, lrs, losses, diverged}
importances      parameter to share
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lrtune.core.trial import RunRecord
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.report.document import Document, compared

SCHEMA = 1


def render_json(document: Document) -> str:
    """The document that the head of this module describes."""
    report = document.report
    config = report.state.config
    names = ("name", "task", "epochs", "steps_per_epoch", "num_validation", "num_classes", "seed", "sampler", "pruner")
    values = {
        "schema": SCHEMA,
        "command": report.command,
        "environment": dict(report.environment),
        "study": {name: getattr(config, name) for name in names}
        | {"space": config.space_name, "budget": str(config.budget), "settings": asdict(config.settings)},
        "cost": asdict(document.cost),
        "recommendation": _recommendation(document, report.recommendation),
        "contenders": [_contender(contender) for contender in compared(report.recommendation)],
        "runs": [_run(record) for record in report.state.records],
        "range_tests": [asdict(result) for result in report.state.range_results],
        "importances": dict(document.importances),
    }
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _recommendation(document: Document, found: Recommendation | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "trial": found.best.trial,
        "recipe": found.best.recipe.to_dict(),
        "schedule": document.headline,
        "final": found.final,
        "verdict": found.verdict,
        "target": found.target,
        "target_source": found.target_source,
        "ties": [contender.trial for contender in found.ties],
        "code": document.code,
    }


def _contender(contender: Contender) -> dict[str, Any]:
    return asdict(contender) | {"mean": contender.mean, "spread": contender.spread}


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        **asdict(record.run),
        "state": record.state,
        "reason": record.reason,
        "top1": record.top1,
        "test_top1": record.test_top1,
        "seconds": record.seconds,
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
