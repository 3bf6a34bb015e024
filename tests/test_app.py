"""From Python, and with several processes: the whole of lrtune, on tasks that take a second."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

import lrtune
from lrtune.app.arguments import num_cores, threads_of
from lrtune.core.decays import Cosine, Linear, Plateau, StepDecay
from lrtune.core.events import EpochEnded, Note, RunEnded
from lrtune.schedules import build_schedule
from lrtune.schedules.compress import compress, schedule_of
from lrtune.training.native.loop import NativeTraining
from tests.studies import timeless

NAMED = lrtune.NamedTask(data="digits", model="mlp", train_size=200, val_size=100)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def blobs(num_images, seed, apart=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % 2
    noise = torch.randn(num_images, 3, generator=generator)
    return TensorDataset(noise + apart * labels[:, None], labels)


def make_task(**changes):
    values = {
        "model": lambda: torch.nn.Linear(3, 2), "train": blobs(64, 0), "validation": blobs(100, 1),
        "test": blobs(100, 2), "num_classes": 2, "epochs": 3, "name": "blobs",
        "settings": lrtune.TrainSettings(batch_size=16),
    }  # fmt: skip
    return lrtune.Task(**values | changes)


def search(task=None, **changes):
    values = {"budget": 3, "num_seeds": 2, "pruner": "none", "quiet": True}
    values |= {"max_seeds": changes.get("num_seeds", 2)} | changes
    return lrtune.search(task or make_task(), **values)


def rows(here, table, columns="*"):
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3").fetchall()


def trained_alone(task, settings, run):
    """The measurements of a run that is trained by itself; a plateau sees them as they come."""
    training, seen = NativeTraining(task, settings), []
    schedule = schedule_of(run, training.facts.steps_per_epoch)

    def multiplier(step):
        now = schedule
        for measurement in seen:
            now = now.observe(measurement.metrics)
        return now(step)

    for measurement in training.train(run, multiplier):
        seen.append(measurement)
    return tuple(seen)


# --- from Python


def test_search_is_a_function_of_the_package():
    from lrtune import search as imported

    assert lrtune.search is imported is lrtune.app.search


def test_every_public_name_is_there():
    everywhere = [name for name in lrtune.__all__ if name != "AuditCallback"]  # needs Lightning
    assert [name for name in everywhere if getattr(lrtune, name, None) is None] == []
    assert dir(lrtune) == sorted(lrtune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        lrtune.serch  # noqa: B018


def test_the_callback_is_there_where_lightning_is():
    pytest.importorskip("lightning")
    assert lrtune.AuditCallback.__name__ == "AuditCallback"


@pytest.mark.slow
def test_the_best_schedule_of_a_task_is_ready_to_use(here):
    result = search()
    best = result.best
    config = result.state.config
    assert best.recipe == result.recommendation.best.recipe
    assert best.value == result.recommendation.best.mean
    assert best.convergence == result.recommendation.best.convergence
    used = [best.schedule(step) for step in range(config.epochs * config.steps_per_epoch)]
    (run, *_) = [
        r for r in result.state.records if r.run.recipe == best.recipe and r.run.kind != "full"
    ]
    for m in run.measurements:
        assert m.lr_first == best.recipe.peak_lr * used[m.step - config.steps_per_epoch]
        assert m.lr_last == best.recipe.peak_lr * used[m.step - 1]
    assert (result.folder / "report.html").is_file()


def test_a_plateau_schedule_is_as_its_run_had_it(here):
    plateau = lrtune.Recipe(
        peak_lr=0.5,
        decay=Plateau(patience_epochs=0, factor=0.5, threshold=0.9, threshold_mode="abs"),
    )
    (here / "x.toml").write_text("[parameters]\npeak_lr = 0.5\ndecay = 'cosine'")
    result = search(space="x.toml", budget=1, baseline=plateau, epochs=5, confirm="0")
    (run,) = result.state.records  # trial 0, which is the baseline's own recipe
    assert run.measurements[0].lr_first > run.measurements[-1].lr_last
    assert result.best.recipe == plateau
    steps = result.state.config.steps_per_epoch
    assert [0.5 * result.best.schedule(m.step - steps) for m in run.measurements] == [
        m.lr_first for m in run.measurements
    ]


@pytest.mark.slow
def test_the_runs_as_a_data_frame(here):
    result = search()
    table = result.trials_dataframe()
    assert list(table["run"]) == [record.run.id for record in result.state.records]
    assert set(table["kind"]) == {"baseline", "full", "confirm"}
    assert list(table["top1"]) == [record.metrics["top1"] for record in result.state.records]
    assert set(table["state"]) == {"completed"}
    assert set(table.columns) >= {
        "trial",
        "seed",
        "optimizer",
        "peak_lr",
        "warmup_epochs",
        "decay",
        "test_top1",
        "reason",
    }


@pytest.mark.slow
def test_a_python_task_goes_on_with_search_and_not_with_resume(here):
    first = search(study="mine")
    with pytest.raises(lrtune.InputError, match=r"is a Python object: call lrtune\.search with it"):
        lrtune.resume("mine", budget=4, quiet=True)
    again = search(study="mine", budget=4)
    before = {record.run.id: record for record in first.state.records}
    after = {record.run.id: record for record in again.state.records}
    assert {name: after[name] for name in before} == before
    assert len(again.state.of_kind("full")) == 4


@pytest.mark.slow
def test_the_same_arguments_give_the_same_study(here, tmp_path_factory):
    def recorded(home, **changes):
        state = search(home=home, out=home / "out", **changes).state
        return [
            (r.run, r.state, [m.metrics for m in r.measurements], r.test) for r in state.records
        ]

    one, same, other = (tmp_path_factory.mktemp("home") for _ in range(3))
    assert recorded(one) == recorded(same)
    assert recorded(one) != recorded(other, seed=1)


@pytest.mark.slow
def test_the_callers_random_numbers_are_left_alone(here):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    search(budget=1)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.slow
def test_a_study_without_a_finished_run_has_no_best(here):
    result = search(budget=1)
    empty = replace(result, state=replace(result.state, records=()), recommendation=None)
    with pytest.raises(lrtune.LrtuneError, match=r"no run of study .* has finished"):
        _ = empty.best


def test_find_lr_gives_an_interval_or_says_why_not(here):
    found = lrtune.find_lr(NAMED, num_steps=80)
    assert found.interval.low < found.interval.suggestion < found.interval.high
    assert [curve.seed for curve in found.curves] == [0, 1, 2]
    flat = lrtune.find_lr(NAMED, num_steps=80, low=1e-9, high=1e-8)
    assert flat.interval is None
    assert flat.reason
    assert list(here.iterdir()) == []


def fails_in_training(logits, labels):
    return logits[:, :3].sum() if logits.requires_grad else logits.no_such_thing


@pytest.mark.parametrize(
    ("changes", "asked", "failed"),
    [
        ({"model": lambda: torch.nn.Linear(5, 2)}, {}, "failed in the range test"),
        ({"metrics": {"f1": fails_in_training}}, {"jobs": 1}, "the metric 'f1' failed"),
        ({"metrics": {"f1": fails_in_training}}, {"study": "mine"}, "the metric 'f1' failed"),
    ],
)
def test_a_start_that_fails_before_its_first_run_leaves_no_study(here, changes, asked, failed):
    with pytest.raises(lrtune.TaskError, match=failed):
        search(make_task(**changes), **asked)
    assert rows(here, "lrtune_studies") == rows(here, "lrtune_runs") == []
    assert [path for path in (here / ".lrtune").rglob("*") if path.is_dir()] == [
        here / ".lrtune" / "checkpoints"
    ]
    assert not (here / "reports").exists()


def test_a_study_that_was_there_before_is_kept_when_its_next_start_fails(here):
    search(budget=1, confirm="0", study="mine")
    before = rows(here, "lrtune_measurements")
    with pytest.raises(lrtune.TaskError, match="the metric 'f1' failed"):
        search(make_task(metrics={"f1": fails_in_training}), budget=1, confirm="0")
    assert [row[0] for row in rows(here, "lrtune_studies")] == ["mine"]
    assert rows(here, "lrtune_measurements") == before


def test_a_task_whose_loss_is_never_finite_ends_in_words(here):
    def nan_loss(logits, labels):
        return logits.sum() * float("nan")

    (here / "x.toml").write_text("[parameters]\npeak_lr = 0.1\ndecay = 'cosine'")
    with pytest.raises(
        lrtune.LrtuneError, match=r"given up: each of \d+ runs diverged.*look for NaNs"
    ):
        search(make_task(loss=nan_loss), space="x.toml", budget=2, study="mine")
    assert {record.state for record in lrtune.load("mine").state.records} == {"diverged"}
    assert (here / "reports" / "mine" / "report.html").is_file()


@pytest.mark.slow
def test_a_study_that_was_given_up_has_a_report_and_goes_on_once_the_fault_is_gone(here, call):
    broken = False

    def loss(logits, labels):
        if broken:
            raise RuntimeError("the disk is away")
        return torch.nn.functional.cross_entropy(logits, labels)

    def break_after_the_first_run(event):
        nonlocal broken
        broken = broken or isinstance(event, RunEnded)

    task, changes = make_task(loss=loss), {"study": "mine", "num_seeds": 1, "budget": 12}
    with pytest.raises(
        lrtune.LrtuneError,
        match=r"(?s)given up: 10 runs .*disk is away.*\n`lrtune resume mine` tries them",
    ):
        search(task, **changes, on_event=break_after_the_first_run)
    assert (here / "reports" / "mine" / "report.html").is_file()
    assert not lrtune.load("mine").recommendation.final
    assert call("list").out.rstrip().endswith("given up")
    given_up = lrtune.load("mine").state.records
    assert [record.state for record in given_up] == ["completed"] + 10 * ["failed"]
    broken = False
    result = search(task, **changes)
    assert result.recommendation.final
    assert {(record.state, record.reason) for record in result.state.records} == {("completed", "")}
    assert result.state.records[0].measurements == given_up[0].measurements
    assert [record.run for record in result.state.records[:11]] == [
        record.run for record in given_up
    ]


@pytest.mark.parametrize(
    "function", [lrtune.search, lrtune.find_lr, lambda task: lrtune.compare(task, ("adamw",))]
)
def test_a_task_is_one_or_the_path_of_a_file(here, function):
    with pytest.raises(lrtune.InputError, match=r"there is no file my_task\.py"):
        function("my_task.py")
    with pytest.raises(
        lrtune.InputError, match=r"`task` must be an lrtune\.Task, .*, but got a Linear\."
    ):
        function(torch.nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("engine", "limit", "threads"),
    [
        (lrtune.Local(), "", 6),
        (lrtune.Local(), "4", 4),
        (lrtune.Local(), "8", 6),
        (lrtune.Local(jobs=2), "", 3),
        (lrtune.Local(jobs=9), "", 1),
        (lrtune.Ray(cpus_per_trial=2), "", 2),
    ],
)
def test_the_cores_that_may_be_used_are_divided_among_the_jobs(monkeypatch, engine, limit, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert threads_of(engine, "cpu", source=make_task()) == threads


@pytest.mark.slow
def test_the_batch_size_of_a_loader_is_the_studys(here):
    loader = torch.utils.data.DataLoader(blobs(64, 0), batch_size=8)
    result = search(make_task(train=loader), budget=1, confirm="0")
    assert (result.state.config.settings.batch_size, result.state.config.steps_per_epoch) == (8, 8)


DATA_OF_ANOTHER_FILE = """
import torch
from torch.utils.data import TensorDataset
import lrtune

images = torch.load("images.pt")
data = TensorDataset(images, torch.arange(len(images)) % 2)
task = lrtune.Task(
    model=lambda: torch.nn.Linear(3, 2), train=data, validation=data, num_classes=2, epochs=2
)
"""


@pytest.mark.slow
def test_resume_refuses_data_of_another_size(here):
    (here / "my_task.py").write_text(DATA_OF_ANOTHER_FILE)
    torch.save(torch.randn(64, 3), here / "images.pt")
    search(here / "my_task.py", study="mine", settings={"batch_size": 16})
    before = rows(here, "lrtune_studies")
    torch.save(torch.randn(48, 3), here / "images.pt")
    with pytest.raises(lrtune.InputError) as caught:
        lrtune.resume("mine", budget=9, quiet=True)
    said = "study 'mine' has {}, but got {}: that takes a study of another name."
    assert caught.value.problems == (
        said.format("num_validation=64", 48),
        said.format("steps_per_epoch=4", 3),
    )
    assert rows(here, "lrtune_studies") == before


@pytest.mark.slow
def test_events_are_told_as_they_happen_and_a_study_is_loaded_without_a_trace(here):
    told = []
    result = search(study="mine", on_event=told.append)
    assert [(e.run.id, e.measurement) for e in told if isinstance(e, EpochEnded)] == [
        (record.run.id, m) for record in result.state.records for m in record.measurements
    ]
    before = {path: path.read_bytes() for path in (here / "reports").rglob("*.*") if path.is_file()}
    # compared as text, because in Python 3.13 the same NaN is not equal to itself
    assert repr(lrtune.load("mine")) == repr(result)
    assert repr(lrtune.studies()) == repr([result.state])
    assert {path: path.read_bytes() for path in before} == before


# --- recipes to try first


@pytest.mark.slow
def test_recipes_are_tried_first_and_what_the_space_changes_in_them_is_told(here):
    (here / "mine.toml").write_text(
        "peak_lr = 0.03\nwarmup_epochs = 2\ndecay = 'linear'\nnesterov = false"
    )
    (here / "x.toml").write_text(
        "[parameters]\npeak_lr = { low = 0.01, high = 1.0, log = true }\n"
        "warmup_epochs = { low = 0, high = 1, step = 1 }\n"
        "decay = { choices = ['cosine', 'linear'] }"
    )
    told = []
    tries = {
        "tries": ["mine.toml", lrtune.Recipe(peak_lr=0.5)],
        "space": "x.toml",
        "study": "mine",
        "baseline": lrtune.Recipe(),
    }
    state = search(**tries, on_event=told.append).state
    tried = [record.run.recipe for record in state.of_kind("full")]
    assert tried[1:] == [
        lrtune.Recipe(peak_lr=0.03, warmup_epochs=1, decay=Linear()),
        lrtune.Recipe(peak_lr=0.5),
    ]

    def said():
        notes = (event.text for event in told if isinstance(event, Note))
        return [text for text in notes if "moved into the space" in text]

    assert said() == [
        "sgd 0.03, warmup 2 ep, linear: moved into the space, "
        "warmup_epochs 2 to 1, nesterov False to True"
    ]
    assert search(**tries, budget=4, on_event=told.append).state.records[:5] == state.records[:5]
    assert len(said()) == 1
    with pytest.raises(lrtune.InputError, match=r"study 'mine' has tried=\[\{.*, but got \[\]"):
        search(**tries | {"tries": []})


def test_a_recipe_to_try_has_an_optimizer_and_a_decay_of_the_space(here):
    with pytest.raises(lrtune.InputError) as caught:
        search(
            space="quick",
            tries=["nosuch", lrtune.Recipe(optimizer="adamw"), lrtune.Recipe(decay=Plateau())],
        )
    unreadable, optimizer, decay = caught.value.problems
    assert "'nosuch'" in unreadable
    assert optimizer.startswith(
        "the optimizer of `tries` must be one of the space's, sgd, but got adamw"
    )
    assert decay.startswith(
        "the decay of `tries` must be one of the space's, cosine, linear, but got sgd"
    )


# --- looks and reuse


def numbers(record):
    """What of a run does not depend on what was known before it, nor on the clock."""
    return timeless(record.measurements, reused=False, again_epochs=0)


@pytest.mark.slow
def test_a_search_by_looks_trains_nothing_twice_and_nobody_can_tell(here):
    """Against the same task trained run by run, each from its start."""
    result = search(epochs=6, budget=24, looks="2,4", pruner="fair")
    records = result.state.records
    lengths = {(record.run.kind, record.run.horizon_epochs, record.run.seed) for record in records}
    assert lengths == {
        ("look", 2, 0), ("look", 4, 0), ("look", 4, 10_000),
        ("baseline", 6, 1), ("baseline", 6, 2), ("confirm", 6, 1), ("confirm", 6, 2),
    }  # fmt: skip
    assert sorted(r.run.id[11:] for r in result.state.of_kind("look")) == (
        24 * ["look-1"] + 4 * ["look-2"] + 2 * ["look-3"]
    )
    assert {record.run.stop_epochs for record in records} == {2, 4, 6}
    task, settings = make_task(), result.state.config.settings
    for record in records:
        alone = trained_alone(task, settings, record.run)
        assert [replace(m, prefix="") for m in numbers(record)] == numbers(
            replace(record, measurements=alone)
        )
    keys = [m.prefix for record in records for m in record.measurements if not m.reused]
    assert len(keys) == len(set(keys)) == result.state.epochs_trained
    assert any(m.reused for record in records for m in record.measurements)


@pytest.mark.slow
def test_after_a_study_only_the_recommended_weights_are_kept(here):
    result = search(epochs=4, budget=4, looks="1,2", pruner="fair")
    best = result.recommendation.best.trial
    (folder,) = (here / ".lrtune" / "checkpoints").iterdir()
    kept = {record.measurements[-1].prefix for record in result.state.records
            if record.run.trial == best and record.run.kind in ("baseline", "confirm")}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {f"{key}.4.ckpt" for key in kept}
    assert len(kept) == 2
    search(epochs=4, budget=4, looks="1,2", pruner="fair", confirm="0", study="unproven")
    assert not list((here / ".lrtune" / "checkpoints").glob("unproven/*"))


@pytest.mark.slow
def test_only_a_run_with_a_fresh_seed_leaves_its_last_state(here):
    left = {}

    def look(event):
        if isinstance(event, RunEnded):
            key = event.record.measurements[-1].prefix
            left[event.record.run.id] = any((here / ".lrtune" / "checkpoints").glob(f"*/{key}.*"))

    result = search(on_event=look)
    assert {(r.run.kind, r.state, left[r.run.id]) for r in result.state.records} == {
        ("baseline", "completed", True),
        ("full", "completed", False),
        ("confirm", "completed", True),
    }


@pytest.mark.slow
def test_lost_checkpoints_cost_epochs_and_no_number(here):
    changes = {"study": "lost", "num_seeds": 1, "confirm": "0"}
    first = search(**changes, budget=2)
    for path in (here / ".lrtune" / "checkpoints" / "lost").iterdir():
        path.unlink()
    again = search(**changes, budget=4)
    whole = search(**changes | {"study": "whole"}, budget=4)
    assert again.state.records[: len(first.state.records)] == first.state.records
    ours, theirs = (
        {r.run.id: numbers(r) for r in result.state.of_kind("full")} for result in (again, whole)
    )
    assert ours == theirs


# --- what a space and a command ask of the training


def test_a_plateau_that_monitors_what_is_not_measured_is_refused_before_all_else(here):
    (here / "odd.toml").write_text(
        "[parameters]\npeak_lr = 0.1\ndecay = 'plateau'\n[decay.plateau]\n"
        "monitor = { choices = ['val_loss', 'nosuch:max'] }\n"
    )
    with pytest.raises(lrtune.InputError) as caught:
        search(space=here / "odd.toml")
    assert caught.value.problems == (
        f"{here / 'odd.toml'}: `monitor` must be a metric that the training measures (train_loss, "
        "val_loss, top1), but got 'nosuch:max'.",
    )
    assert not (here / ".lrtune").exists()


@pytest.mark.slow
def test_a_metric_of_the_task_keeps_the_direction_that_it_has_there(here):
    task = make_task(metrics={"mine": lambda outputs, targets: float(len(outputs))},
                     objective="mine:min")  # fmt: skip
    assert search(task, metric="mine", budget=1).state.config.objective.direction == "min"
    with pytest.raises(lrtune.InputError, match=r"`metric` must be one that the training measures"):
        search(task, metric="mine2:max")


# --- the race


@pytest.mark.slow
def test_what_two_seeds_do_not_tell_apart_is_trained_with_more(here):
    """Blobs so far apart that every recipe gets nearly all of them right."""
    far = {"train": blobs(64, 0, apart=6), "validation": blobs(100, 1, apart=6), "test": None}
    task = make_task(**far, epochs=6)
    (here / "x.toml").write_text(
        "[parameters]\npeak_lr = { low = 0.05, high = 0.2 }\ndecay = 'cosine'"
    )
    changes = {"space": "x.toml", "max_seeds": 4}
    result = search(task, **changes, matters=1e-9)
    assert {len(c.values) for c in result.recommendation.contenders} == {4}
    assert result.recommendation.final
    again = search(task, **changes, matters=1e-9)
    assert again.state == result.state
    result = search(task, **changes, matters=50.0)
    assert {len(c.values) for c in result.recommendation.contenders} == {2}


@pytest.mark.slow
def test_a_quick_proof_is_one_run_of_the_best_and_one_of_the_baseline(here):
    result = search(epochs=4, budget=6, looks="1,2", pruner="fair", confirm="quick")
    assert [(r.run.kind, r.run.seed) for r in result.state.fresh] == [
        ("baseline", 1), ("confirm", 1),
    ]  # fmt: skip
    assert result.recommendation.final


@pytest.mark.slow
def test_looks_are_ranked_by_what_is_asked_for(here):
    ranked_by = [{}, {"rank_by": "top1"}, {"rank_by": "train_loss:min"}, {"metric": "val_loss"}]
    configs = [
        search(epochs=4, budget=1, looks="1,2", pruner="fair", confirm="0", **asked).state.config
        for asked in ranked_by
    ]
    assert [str(config.ranked_by) for config in configs] == [
        "val_loss:min", "top1:max", "train_loss:min", "val_loss:min",
    ]  # fmt: skip
    assert len({config.name for config in configs}) == 4  # they are studies of their own


# --- comparisons


def compare(recipes=("sgd-step", "adamw"), **changes):
    return lrtune.compare(make_task(), recipes, **{"num_seeds": 2, "quiet": True} | changes)


@pytest.mark.slow
def test_a_comparison_trains_each_recipe_with_each_seed(here):
    result = compare(("sgd-step", "schedule-free-adamw", "prodigy"))
    assert [c.name for c in sorted(result.recommendation.contenders, key=lambda c: c.trial)] == [
        "sgd-step", "schedule-free-adamw", "prodigy",
    ]  # fmt: skip
    trained = [(r.run.seed, r.run.recipe.optimizer) for r in result.state.records]
    assert len(trained) == 6
    assert set(trained[:3]) == {(1, o) for o in ("sgd", "schedule-free-adamw", "prodigy")}
    assert set(trained[3:]) == {(2, o) for o in ("sgd", "schedule-free-adamw", "prodigy")}
    assert {r.epochs for r in result.state.records} == {3}
    assert result.recommendation.final
    assert result.recommendation.target_source == "the median final Top-1 of sgd-step over 2 seeds"
    assert result.state.config.recipes[0].recipe.decay.every_epochs == 1  # 30 of 90 epochs


@pytest.mark.slow
def test_the_same_comparison_again_trains_nothing(here):
    first = compare()
    assert compare().state == first.state


@pytest.mark.slow
def test_a_comparison_runs_as_its_recipes_would_alone(here):
    result = compare()
    task, settings = make_task(), result.state.config.settings
    for record in result.state.records:
        alone = trained_alone(task, settings, record.run)
        assert [replace(m, prefix="") for m in numbers(record)] == numbers(
            replace(record, measurements=alone)
        )


@pytest.mark.slow
def test_a_study_takes_part_with_its_recommended_recipe(here):
    found = search(study="mine").best.recipe
    result = compare(("adamw",), include=["mine"])
    name = result.state.config.recipes[1].name
    assert name.endswith(" of mine")
    assert result.state.config.recipes[1].recipe == found


def test_any_recipe_of_a_study_takes_part(here):
    state = search(study="mine").state
    result = compare(("adamw",), include=["mine:2", "mine:baseline"])
    assert result.state.config.recipes[1:] == (
        lrtune.NamedRecipe(name="trial 2 of mine", recipe=state.of_kind("full")[2].run.recipe),
        lrtune.NamedRecipe(name="baseline of mine", recipe=state.config.baseline),
    )


def test_an_included_recipe_is_scaled_to_other_runs(here):
    warm = lrtune.Recipe(warmup_epochs=1, peak_lr=0.1)
    search(study="mine", epochs=4, baseline=warm, confirm="0", budget=1)
    result = compare(("adamw",), include=["mine"], epochs=8)
    assert result.state.config.recipes[1].recipe.warmup_epochs == 2 * warm.warmup_epochs


def test_a_comparison_with_a_study_has_its_task_its_settings_and_its_baseline(here, call):
    mine = lrtune.Recipe(peak_lr=0.2)
    small = lrtune.NamedTask(data="digits", model="mlp", train_size=100, val_size=50)
    asked = {"epochs": 2, "batch_size": 25, "metric": "val_loss", "confirm": "0", "budget": 2}
    search(small, study="mine", baseline=mine, **asked)
    done = call("compare", "--include", "mine:1", "--seeds", "1", "--study", "both", "--quiet")
    assert done.code == 0, done.err
    both = lrtune.load("both").state.config
    study = lrtune.load("mine").state.config
    assert [it.name for it in both.recipes] == ["baseline of mine", "trial 1 of mine"]
    assert both.recipes[0].recipe == mine
    assert (both.task, both.epochs, both.objective) == (study.task, 2, study.objective)
    assert replace(both.settings, threads=study.settings.threads) == study.settings


# what is given beside the study: what is said, and the batch size that results
GIVEN = [
    (["--batch-size", "50"], "batch_size is 50, as given; the study 'mine' has 25", 50),
    (["--batch-size", "25", "--epochs", "2", "--metric", "top1"], "", 25),
    (["--epochs", "1", "adamw"], "epochs is 1, as given; the study 'mine' has 2", 25),
    (["--data", "digits", "--model", "mlp", "--train-size", "100", "--val-size", "50"], "", 25),
    (["--data", "digits"], "small-cnn on digits is trained, as given, with settings of its ow", 64),
]


@pytest.fixture
def two_studies(here):
    small = lrtune.NamedTask(data="digits", model="mlp", train_size=100, val_size=50)
    (here / "x.toml").write_text("[parameters]\npeak_lr = 0.1\ndecay = 'linear'")
    asked = {"epochs": 2, "confirm": "0", "budget": 2, "space": "x.toml"}
    for study, batch_size in (("mine", 25), ("other", 50)):
        search(small, study=study, batch_size=batch_size, **asked)


@pytest.mark.parametrize(("words", "said", "batch_size"), GIVEN)
def test_what_is_given_beside_a_study_is_told(two_studies, call, words, said, batch_size):
    done = call("compare", "--include", "mine:1", *words, "--seeds", "1", "--study", "both")
    assert done.code == 0, done.err
    told = " ".join(done.err.split())
    assert said in told
    assert "as given" not in told.replace(said, "")
    assert lrtune.load("both").state.config.settings.batch_size == batch_size


def test_studies_that_differ_are_compared_by_what_is_given(two_studies, call):
    words = ["compare", "--include", "mine:1", "--include", "other:1", "--seeds", "1", "--quiet"]
    done = call(*words)
    assert done.code == 2
    assert done.err == (
        "lrtune: `--batch-size` must be given where the included studies differ: 25 (mine) and 50 "
        "(other).\n"
    )
    assert call(*words, "--batch-size", "10", "--study", "both").code == 0
    assert len(lrtune.load("both").state.config.recipes) == 4


def test_recipes_of_ones_own_are_compared(here):
    mine = lrtune.NamedRecipe(name="mine", recipe=lrtune.Recipe(peak_lr=0.05))
    result = compare((mine, "adamw"))
    assert result.recommendation.baseline.name == "mine"


# --- exports


def test_an_export_is_of_the_recommended_recipe(here):
    result = search(study="mine")
    found = lrtune.export("mine", to="json")
    assert lrtune.Recipe.from_dict(json.loads(found.text)["recipe"]) == result.best.recipe
    assert "optimizer.step()" in lrtune.export("mine", to="torch").text
    with pytest.raises(lrtune.InputError, match="`to` must be one of torch"):
        lrtune.export("mine", to="jax")


def test_an_export_is_of_the_recipe_that_is_asked_for(here):
    result = search(study="mine")
    found, trials = result.recommendation, result.state.of_kind("full")
    wanted = {
        record.run.trial: (f"trial {record.run.trial}", record.run.recipe) for record in trials
    }
    wanted |= {"baseline": ("baseline", result.state.config.baseline)}
    wanted |= {"best": (found.best.name, found.best.recipe)}
    simplest = found.simplest or found.best
    wanted |= {"simplest": (simplest.name, simplest.recipe)}
    confirmed = {contender.name for contender in found.contenders}
    for which, (name, recipe) in wanted.items():
        export = lrtune.export("mine", to="json", recipe=which)
        assert lrtune.Recipe.from_dict(json.loads(export.text)["recipe"]) == recipe
        assert export.note.startswith(f"{name}: {recipe.label}. ")
        assert ("not confirmed" in export.note) == (name not in confirmed)
    with pytest.raises(
        lrtune.InputError,
        match=r"best, simplest, baseline or the number of one of its 3 trials.*'x'",
    ):
        lrtune.export("mine", to="json", recipe="x")


def test_an_export_of_a_comparison_is_of_a_recipe_by_its_name(here):
    compare(study="both")
    for name, optimizer in (("adamw", "adamw"), ("baseline", "sgd"), ("sgd-step", "sgd")):
        recipe = json.loads(lrtune.export("both", to="json", recipe=name).text)["recipe"]
        assert recipe["optimizer"] == optimizer
    with pytest.raises(lrtune.InputError, match="baseline or one of sgd-step, adamw, but got 1"):
        lrtune.export("both", to="json", recipe=1)


@pytest.mark.slow
def test_an_export_of_what_is_not_confirmed_says_so(here):
    search(study="mine")
    assert "Not final" not in lrtune.export("mine", to="torch").note
    search(study="bare", confirm="0", baseline=lrtune.Recipe(peak_lr=1e-7))
    assert lrtune.export("bare", to="torch").note.endswith(
        "Not final: the recipe is not confirmed with fresh seeds."
    )


# --- somebody's own loop


@pytest.mark.slow
def test_a_study_is_applied_to_a_loop_of_ones_own(here):
    result = search(study="mine", baseline=lrtune.Recipe(warmup_epochs=1, decay=Linear()))
    recipe = compress(result.best.recipe, 3, 6)
    run = {"steps_per_epoch": 5, "epochs": 6}
    for given in (result, "mine", recipe):
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.7)
        schedule = build_schedule(recipe, **run)
        with lrtune.apply(optimizer, given, **run) as applied:
            for step in range(30):
                optimizer.step()
                assert applied.lrs == (recipe.peak_lr * schedule(step),)
        assert optimizer.param_groups[0]["lr"] == 0.7


def test_what_cannot_be_applied_is_refused(here):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.7)
    for given, message in (("other", "no stud"), (0.1, "`recipe_or_study` must be .* got 0.1")):
        with pytest.raises(lrtune.InputError, match=message):
            lrtune.apply(optimizer, given, steps_per_epoch=5, epochs=6)


# --- the test split


@pytest.mark.slow
def test_the_test_split_is_read_once_and_only_for_the_recommended_recipe_and_the_baseline(
    here, monkeypatch
):
    read = []
    test = NativeTraining.test

    def counted(self, state):
        read.append(test(self, state))
        return read[-1]

    monkeypatch.setattr(NativeTraining, "test", counted)
    result = search(budget=5)
    best = result.recommendation.best.trial
    entitled = {
        r.run.id for r in result.state.records if r.run.kind != "full" and r.run.trial in (best, -1)
    }
    assert {r.run.id for r in result.state.records if r.test is not None} == entitled
    assert len(read) == len(entitled)
    again = search(budget=5)
    assert again.state == result.state
    assert len(read) == len(entitled)


@pytest.mark.slow
def test_a_task_without_a_test_split_is_not_tested(here):
    result = search(make_task(test=None))
    assert [record.test for record in result.state.records if record.test is not None] == []


def test_a_test_split_that_cannot_be_read_costs_no_report(here):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            raise lrtune.TaskError("test image 7 is no image")

    told = []
    result = search(make_task(test=Broken()), on_event=told.append)
    assert [event.text for event in told if isinstance(event, Note)][-1].endswith(
        "test image 7 is no image"
    )
    assert (result.folder / "report.html").is_file()
    assert result.recommendation.final
    assert [record.test for record in result.state.records if record.test is not None] == []


# --- several processes


@pytest.mark.slow
def test_two_commands_at_once_share_one_study(here, tiny, command):
    both = [
        subprocess.Popen(
            command(*tiny, "--budget", "12"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = rows(here, "lrtune_runs", "id, kind, state")
    assert sum(kind == "full" for _, kind, _ in runs) == 12
    assert {state for *_, state in runs} == {"completed"}
    epochs = rows(here, "lrtune_measurements", "run, epoch, study")
    assert len(epochs) == len(set(epochs)) == 2 * len(runs)
    ended = [line for _, err in said for line in err.splitlines() if " completed: " in line]
    assert len(ended) == len(runs)  # each was trained by one of them


@pytest.mark.slow
def test_jobs_share_one_study_and_the_same_command_goes_on_with_it(here, call, tiny, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    outcome = call(*tiny, "--budget", "6", "--jobs", "2")
    assert outcome.code == 0, outcome.err
    assert "2 jobs x 1 threads > 1 cores: fewer jobs may be faster" in outcome.err
    runs = rows(here, "lrtune_runs", "id, kind, state")
    assert sum(kind == "full" for _, kind, _ in runs) == 6
    before = rows(here, "lrtune_measurements")
    assert call(*tiny, "--budget", "6").out == outcome.out  # however many jobs
    assert rows(here, "lrtune_measurements") == before


UNGUARDED = """
import sys
from lrtune.core.sources import NamedTask
from lrtune.tuning import jobs
import lrtune

print("the program runs")
jobs.WORTH_S = 0
task = NamedTask(data="digits", model="mlp", train_size=200, val_size=100)
lrtune.search(
    task, epochs=3, budget=6, num_seeds=1, max_seeds=2, study="x", jobs=sys.argv[1],
    home=sys.argv[1] + "/.lrtune",
)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_trained_by_several_processes_all_the_same(here):
    (here / "script.py").write_text(UNGUARDED)
    ran = {
        jobs: subprocess.run(
            [sys.executable, "script.py", jobs], capture_output=True, text=True, check=True
        )
        for jobs in ("auto", "2", "1")
    }
    assert [done.stdout for done in ran.values()] == ["the program runs\n"] * 3
    cores = num_cores()
    assert (f"{min(cores, 8)} jobs of 1 thread" in ran["auto"].stderr) == (1 < cores < 16)
    auto, two, one = (
        sorted(rows(here / home, "lrtune_measurements", "run, epoch, metrics")) for home in ran
    )
    assert auto == two == one


TASK_MODULE = """
import lrtune
import torch
from torch.utils.data import TensorDataset

inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def model():
    return torch.nn.Linear(4, 2)


data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
task = lrtune.Task(model=model, train=data, validation=data, num_classes=2, epochs=3)
"""
CALLED = "lrtune.search(task, budget=1, confirm='0', jobs=2, home=__file__[:-3], pruner='none')"


@pytest.mark.slow
def test_a_task_of_a_module_needs_no_guard_and_one_of_the_program_is_told_that_it_does(here):
    (here / "task_module.py").write_text(TASK_MODULE)
    (here / "imports.py").write_text(f"import lrtune\nfrom task_module import task\n{CALLED}\n")
    (here / "defines.py").write_text(f"{TASK_MODULE}\n{CALLED}\n")
    ran = {
        name: subprocess.run(
            [sys.executable, f"{name}.py"], capture_output=True, text=True, check=False
        )
        for name in ("imports", "defines")
    }
    assert (ran["imports"].returncode, "Traceback" in ran["imports"].stderr) == (0, False)
    assert ran["defines"].returncode == 1
    last = ran["defines"].stderr.splitlines()[-1]
    assert last.endswith('it must call lrtune under `if __name__ == "__main__":`.')


@pytest.mark.slow
def test_a_report_of_a_study_that_is_being_trained(here, call, tiny, monkeypatch):
    from lrtune.store.database import StudyStore

    record, said = StudyStore.record, []

    def record_and_report(self, run, measurement):
        record(self, run, measurement)
        said.append(lrtune.app.report("tiny"))

    monkeypatch.setattr(StudyStore, "record", record_and_report)
    assert call(*tiny, "--budget", "1").code == 0
    assert [result.state.epochs_trained for result in said] == list(range(1, len(said) + 1))
    assert said[0].recommendation is None
    assert not any(result.recommendation.final for result in said[2:-1])


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        (lrtune.Recipe(warmup_epochs=2.9), r"warmup_epochs=2.9, epochs=3 \(12 of 12 steps\)"),
        (
            lrtune.Recipe(decay=StepDecay(every_epochs=0.1)),
            "`every_epochs` must be at least one optimizer step, 1/4 of an",
        ),
    ],
)
def test_a_baseline_that_does_not_go_with_the_tasks_steps_is_refused(here, baseline, said):
    with pytest.raises(lrtune.InputError, match=said):
        search(baseline=baseline)


def test_schedules_of_a_recipe_are_public(here):
    schedule = lrtune.build_schedule(lrtune.Recipe(decay=Cosine()), epochs=2, steps_per_epoch=10)
    assert [schedule(step) for step in range(20)] == [
        build_schedule(lrtune.Recipe(), epochs=2, steps_per_epoch=10)(step) for step in range(20)
    ]


def test_all_bad_arguments_are_shown_together(here):
    with pytest.raises(lrtune.InputError) as caught:
        lrtune.search(make_task(), sampler="cmaes", pruner="asha", budget="banana", engine="slurm")
    said = [problem.split(" must")[0].strip("`") for problem in caught.value.problems]
    assert said == ["sampler", "pruner", "engine", "budget"]
    assert not list(here.iterdir())
