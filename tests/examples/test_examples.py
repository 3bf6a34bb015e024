"""Every example is a task that trains, by itself and from the command line to the report."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lrtune.core.objective import averaged
from lrtune.core.recipe import ParameterGroup
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import load_task_file
from tests.studies import full_run
from tests.training.runs import timeless, train

EXAMPLES = Path(__file__).parents[2] / "examples"
# the objective, what else is measured, and whether a constant prediction has a value
TASKS = {
    "my_task": ("top1:max", ["train_loss", "val_loss", "top1"], True),
    "regression": ("r2:max", ["train_loss", "val_loss", "r2", "mae"], True),
    "multi_label": ("f1:max", ["train_loss", "val_loss", "f1", "map"], True),
    "segmentation": ("miou:max", ["train_loss", "val_loss", "miou"], True),
    "language_model": ("val_loss:min", ["train_loss", "val_loss", "perplexity"], True),
    "minority_class": ("weighted_f1:max", ["train_loss", "val_loss", "top1", "weighted_f1"], True),
    "dict_batches": ("val_loss:min", ["train_loss", "val_loss", "top1"], False),
    "two_groups": ("top1:max", ["train_loss", "val_loss", "top1"], True),
}


def opened(name):
    torch.set_num_threads(1)
    task = load_task_file(EXAMPLES / f"{name}.py")
    return task, NativeTraining(task, replace(task.settings, ema_half_life_epochs=0.5))


def test_every_task_of_the_examples_is_tested():
    found = {path.stem for path in EXAMPLES.glob("*.py") if "lrtune search" in path.read_text()}
    assert found == set(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_an_example_states_what_it_measures_and_learns(name):
    objective, metrics, has_constant = TASKS[name]
    task, training = opened(name)
    facts = training.facts
    assert (str(facts.objective), list(facts.metrics)) == (objective, metrics)
    assert facts.abilities >= {"resume", "repeat", "sweep"}
    assert (facts.objective.constant is not None) == has_constant
    run = full_run(task.baseline, task.epochs)
    measurements, states = train(training, run)
    assert all(math.isfinite(value) for m in measurements for value in m.metrics.values())
    assert averaged(facts.objective.metric) in measurements[-1].metrics
    learnt = facts.objective.best(facts.objective.value(m.metrics) for m in measurements)
    if facts.objective.constant is not None:
        assert facts.objective.improves(learnt, facts.objective.constant)
    again, _ = train(training, run, history=measurements[:2], state=states[1])
    assert timeless(again) == timeless(measurements[2:])


def test_the_groups_are_named():
    _, training = opened("two_groups")
    backbone, head = training.facts.groups
    assert backbone == ParameterGroup(name="backbone", lr_scale=0.1)
    assert head == ParameterGroup(name="head", lr_scale=1.0)


SPACE = """
[parameters]
optimizer = "sgd"
warmup_epochs = 0
peak_lr = { low = 0.01, high = 1.0, log = true }
decay = { choices = ["cosine", "linear"] }
group_scales.backbone = { low = 0.01, high = 1.0, log = true }
"""


def searched(call, name, *words):
    outcome = call(
        "search", "--task", EXAMPLES / f"{name}.py", "--budget", "4", "--seeds", "1",
        "--max-seeds", "1", "--pruner", "none", "--study", "example", *words,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return json.loads(next(Path().glob("reports/**/report.json")).read_text())


SEARCHED = [
    pytest.param(name, marks=[pytest.mark.slow] * (name == "language_model")) for name in TASKS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_an_example_is_searched_to_its_report(call, here, name):
    report = searched(call, name, "--epochs", "2")
    metric, _, direction = TASKS[name][0].partition(":")
    objective = report["study"]["objective"]
    assert (objective["metric"], objective["direction"]) == (metric, direction)
    assert {run["state"] for run in report["runs"]} == {"completed"}
    assert all(math.isfinite(run["metrics"][metric]) for run in report["runs"])


@pytest.mark.slow
def test_the_scale_of_a_group_is_searched(call, here):
    Path("space.toml").write_text(SPACE)
    report = searched(call, "two_groups", "--epochs", "2", "--space", "space.toml")
    scales = {
        run["recipe"]["group_scales"]["backbone"] for run in report["runs"] if run["trial"] > 0
    }  # trial 0 is the baseline, whose scales are the task's
    assert len(scales) > 1
    assert all(0.01 <= scale <= 1 for scale in scales)
