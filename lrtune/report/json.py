"""The report as JSON: plain values for programs. What is not known (nan) and what is not finite is `null`.

schema           2; a higher number means that something here was renamed or left out
command          that does it again
environment      {"Python": "3.11.7", ...}
study            name, task, space, epochs (horizon), steps_per_epoch, num_validation, num_classes, seed,
                     sampler, pruner, rungs (as on the command line: "c3"), reduction_factor, signal, budget, settings
cost             epochs_asked (if each recipe had been trained in full) = epochs_trained + epochs_reused +
                     epochs_avoided (below 0 where rungs cost more than they saved); epochs_again (trained a second
                     time, counted in epochs_trained too), seconds, num_trials, num_finished (trials trained in full),
                     num_runs by state
recommendation   null where nothing has finished, or
                 trial (-1: the baseline), recipe, schedule (in a sentence), final, verdict, target, target_source,
                 ties (trials), code (plain PyTorch)
contenders       the recommended one first: trial, recipe, search_top1, top1s by seed, mean, spread, test_top1s,
                 convergence {epochs: one a seed, null where not reached; horizon_epochs}, settling_epoch,
                 difference to the baseline {mean, low, high: 95 % interval}
rungs            lowest first: rung, num_trials, num_promoted (on their score), num_regardless (of it), tau (Kendall's,
                     between the scores there and one level up)
left             trials that went no further than a rung: trial, rung, score (percent), reason
runs             id, kind (baseline, rung, search, confirm), trial, seed, recipe, recipe_epochs (that its lengths are
                     meant for), horizon_epochs (that the schedule is fitted to), stop_epochs (that are trained),
                     state, reason, top1, test_top1, seconds, and
                 measurements {epoch, step, lr_first, lr_last, train_loss, val_loss, top1, averaged_val_loss,
                     averaged_top1, seconds, images_per_s, ended_at, prefix (equal where the training so far is),
                     reused (taken over, not trained), again_epochs (trained a second time before this one)}
range_tests      optimizer, interval {low, high, suggestion} or null, rule, reason, suggestions by rule,
                 curves {seed, lrs, losses, diverged}
importances      parameter to share
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lrtune.core.study import StudyState
from lrtune.core.trial import RunRecord
from lrtune.decide.recommend import Contender, Recommendation
from lrtune.decide.rungs import summaries, why_left
from lrtune.decide.trials import trials_of
from lrtune.report.document import Cost, Document, compared
from lrtune.report.trials import left_trials

SCHEMA = 2


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
        | {"rungs": list(map(str, config.rungs))}
        | {"reduction_factor": config.reduction_factor, "signal": config.signal}
        | {"space": config.space_name, "budget": str(config.budget), "settings": asdict(config.settings)},
        "cost": _cost(document.cost),
        "recommendation": _recommendation(document, report.recommendation),
        "contenders": [_contender(contender) for contender in compared(report.recommendation)],
        "rungs": [asdict(found) | {"rung": str(found.rung)} for found in summaries(report.state)],
        "left": _left(report.state),
        "runs": [_run(record) for record in report.state.records],
        "range_tests": [asdict(result) for result in report.state.range_results],
        "importances": dict(document.importances),
    }
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _cost(cost: Cost) -> dict[str, Any]:
    values = asdict(cost)
    return {f"epochs_{name}": epochs for name, epochs in values.pop("spending").items()} | values


def _left(state: StudyState) -> list[dict[str, Any]]:
    trials = trials_of(state)
    return [
        {
            "trial": trial.number,
            "rung": str(trial.ladder[trial.level - 1]),
            "score": trial.score,
            "reason": why_left(state, trial, trials),
        }
        for trial in left_trials(state)
    ]


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
