"""The command line: its surface, what it prints where, and that it answers at once."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import click
import optuna
import pytest

from lrtune.app import commands, load
from lrtune.cli import _command, lrtune
from lrtune.store.spaces import space_names
from lrtune.tuning.sampler import delete_mirror, mirror

HEAVY = ("torch", "torchvision", "optuna", "matplotlib", "pandas", "sklearn", "scipy", "sqlalchemy")

TASK = (
    "--accumulate", "--augment", "--batch-size", "--clip-norm", "--compile", "--cutout", "--data",
    "--data-dir", "--data-on-device", "--device", "--ema-half-life", "--image-size",
    "--label-smoothing", "--model", "--no-augment", "--no-compile", "--precision", "--task",
    "--strict", "--threads", "--train-size", "--val-size", "--read", "--seed-offset",
    "--optimizer-index",
)  # fmt: skip
PLACES = ("--home", "--storage")

ENGINE = {
    "--address", "--cpus-per-trial", "--engine", "--gpus-per-trial", "--jobs", "--gpus", "--lanes",
    "--max-concurrent", "--max-retries", "--no-reuse-actors", "--reuse-actors", "--storage-path",
    "--trial-timeout",
}  # fmt: skip

# Every command, its arguments and its options: what users' scripts rely on.
SURFACE = {
    "apply": {"STUDY", *PLACES, "--recipe"},
    "audit": {"--steps", "--seed", "--json"},
    "log": {"STUDY", "RUN", *PLACES},
    "compare": {
        "[RECIPE]...", *TASK, *PLACES, *ENGINE, "--epochs", "--include", "--json", "--max-seeds",
        "--out", "--quiet", "--seed", "--seeds", "--study", "--target", "--metric", "--traceback",
    },
    "dashboard": {"STUDY", *PLACES, "--host", "--port"},
    "delete": {"STUDY", *PLACES, "--storage-path", "--yes"},
    "export": {"STUDY", *PLACES, "--recipe", "--to"},
    "find": {
        *TASK, "--high", "--json", "--low", "--optimizer", "--out", "--quiet", "--seed",
        "--seeds", "--steps", "--traceback",
    },
    "list": {*PLACES},
    "recipes": set(),
    "report": {"STUDY", *PLACES, "--json", "--out"},
    "resume": {"STUDY", *PLACES, *ENGINE, "--budget", "--json", "--out", "--quiet", "--traceback"},
    "search": {
        *TASK, *PLACES, *ENGINE, "--baseline", "--budget", "--confirm", "--epochs", "--json",
        "--lag", "--looks", "--matters", "--max-seeds", "--metric", "--optimizer", "--out",
        "--pruner", "--quiet", "--rank-by", "--sampler", "--seed", "--seeds", "--space", "--study",
        "--target", "--traceback", "--try",
    },
    "spaces": set(),
}  # fmt: skip

# What the words of an option may be.
CHOICES = {
    "--optimizer": [
        "sgd",
        "adagrad",
        "rmsprop",
        "adam",
        "adamw",
        "lamb",
        "adabound",
        "schedule-free-sgd",
        "schedule-free-adamw",
        "prodigy",
    ],
    "--sampler": ["tpe", "gp", "random", "qmc"],
    "--pruner": ["fair", "none"],
    "--confirm": ["full", "quick", "0"],
    "--precision": ["auto", "fp32", "bf16", "fp16"],
    "--data-on-device": ["auto", "yes", "no"],
    "--engine": ["local", "ray"],
}

DEFAULTS = {
    "--data": "cluttered-digits", "--model": "small-cnn", "--space": "default",
    "--budget": "50", "--sampler": "tpe", "--pruner": "fair", "--looks": "auto",
    "--rank-by": None, "--lag": 8, "--confirm": "full", "--matters": None,
    "--seeds": 3, "--max-seeds": None, "--seed": 0,
    "--engine": "local", "--home": ".lrtune", "--out": "reports", "--storage": "",
}  # fmt: skip


def names_of(parameter):
    return (
        [*parameter.opts, *parameter.secondary_opts]
        if isinstance(parameter, click.Option)
        else [parameter.human_readable_name]
    )


def test_the_commands_and_their_options():
    surface = {
        name: {n for p in command.params for n in names_of(p)}
        for name, command in lrtune.commands.items()
    }
    assert surface == SURFACE


def test_the_words_that_options_take_and_their_defaults():
    parameters = {name: p for p in lrtune.commands["search"].params for name in names_of(p)}
    assert {name: list(parameters[name].type.choices) for name in CHOICES} == CHOICES
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS


def shown_by(call, command, flag):
    outcome = call(*command.split(), flag)
    assert (outcome.code, outcome.err) == (0, "")
    words = SURFACE.get(command, SURFACE)
    return {w for w in words if re.search(rf"(^|[\s/,]){re.escape(w)}(?![\w-])", outcome.out)}


# What `--help` shows of the commands that have more options than one can take in.
ESSENTIAL = {
    "search": {
        "--baseline", "--batch-size", "--budget", "--data", "--engine", "--epochs", "--image-size",
        "--jobs", "--metric", "--model", "--space", "--task",
    },
    "compare": {
        "[RECIPE]...", "--batch-size", "--data", "--engine", "--epochs", "--image-size",
        "--include", "--jobs", "--metric", "--model", "--task",
    },
    "find": {
        "--batch-size", "--data", "--high", "--image-size", "--low", "--model", "--optimizer",
        "--seeds", "--steps", "--task",
    },
    "resume": {"STUDY", "--budget", "--engine", "--jobs"},
}  # fmt: skip


@pytest.mark.parametrize("command", ["", *SURFACE])
def test_help_shows_the_options_that_matter_and_help_all_shows_every_one(call, command):
    assert shown_by(call, command, "--help") == ESSENTIAL.get(
        command, set(SURFACE.get(command, SURFACE))
    )
    if command in ESSENTIAL:
        assert shown_by(call, command, "--help-all") == SURFACE[command]


def test_the_version_is_the_packages(call):
    outcome = call("--version")
    assert outcome.code == 0
    assert re.fullmatch(r"lrtune, version \d+\.\d+\.\d+\S*\n", outcome.out)


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "search --help",
        "find --help",
        "resume --help",
        "--version",
        "spaces",
        "search --budget",
    ],
)
def test_what_trains_nothing_imports_nothing_heavy(words):
    program = (
        f"import sys; sys.argv = ['lrtune', *{words.split()!r}]\n"
        "from lrtune.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('imported:', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_spaces_are_listed_with_whom_they_are_for(call):
    outcome = call("spaces")
    assert [line.split()[0] for line in outcome.out.splitlines()] == space_names()
    assert all(len(line.split()) > 3 for line in outcome.out.splitlines())


# --- a search

PLOTS = ("learning_curves", "lr_curve", "parallel", "range_test", "trials")
FILES = {"report.md", "report.html", "report.json", "trials.csv"}
FILES |= {f"plots/{name}.{kind}" for name in PLOTS for kind in ("png", "svg")}


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def names_in(folder):
    """Without what SQLite keeps beside an open database."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}


def num_measurements(here):
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        return connection.execute("SELECT count(*) FROM lrtune_measurements").fetchone()[0]


def tables_in(here):
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        return {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }


def runs_in(here):
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        return dict(connection.execute("SELECT id, state FROM lrtune_runs ORDER BY position"))


def test_a_search_prints_the_recommendation_and_keeps_progress_apart(finished, here):
    assert "Report: reports/tiny/report.html" in finished.out
    assert "Fresh seeds" in finished.out
    assert "completed: 2 of 2 epochs" not in finished.out
    assert "range test of sgd" in finished.err
    assert (
        len(re.findall(r"^trial-000\d completed: 2 of 2 epochs, Top-1", finished.err, re.MULTILINE))
        == 3
    )


def test_a_search_writes_its_files_and_nothing_else(finished, here):
    assert files_of(here / "reports" / "tiny") == FILES
    assert names_in(here) == {".lrtune", "reports"}
    assert names_in(here / ".lrtune") == {"lrtune.db", "checkpoints"}
    for path in (here / "reports" / "tiny").rglob("*.*"):
        assert path.stat().st_size > 100


def test_the_same_command_again_trains_nothing(finished, here, call, tiny):
    before = num_measurements(here)
    outcome = call(*tiny)
    assert outcome.code == 0
    assert outcome.out == finished.out
    assert outcome.err == ""
    assert num_measurements(here) == before


@pytest.mark.slow
def test_the_name_of_a_study_is_made_from_its_command(here, call, tiny):
    words = [word for word in tiny if word not in ("--study", "tiny")]
    names = set()
    for changed in ([], ["--seed", "1"], []):
        assert call(*words, *changed, "--budget", "1").code == 0
        names.add(tuple(sorted(path.name for path in (here / "reports").iterdir())))
    assert len(names) == 2
    assert all(
        re.fullmatch("digits-mlp-2ep-[0-9a-f]{4}", name) for found in names for name in found
    )
    assert max(map(len, names)) == 2


@pytest.mark.parametrize("how", ["resume", "search"])
def test_a_larger_budget_trains_only_what_is_new(finished, here, call, tiny, how):
    before = runs_in(here)
    words = ("resume", "tiny", "--budget", "5") if how == "resume" else (*tiny, "--budget", "5")
    outcome = call(*words)
    assert outcome.code == 0
    after = runs_in(here)
    assert {key: after[key] for key in before} == before
    new = set(after) - set(before)
    assert {"trial-0003", "trial-0004"} <= new
    assert all("confirm" in name for name in new - {"trial-0003", "trial-0004"})
    assert not re.search(r"^(baseline-0|trial-000[012]) ", outcome.err, re.MULTILINE)


def test_a_budget_that_is_too_small_to_go_on_with_is_refused(finished, here, call):
    before = num_measurements(here)
    refused = call("resume", "tiny", "--budget", "1ep")
    assert (refused.code, num_measurements(here)) == (2, before)
    assert "must cover the 2 epochs that a search of a single recipe takes" in refused.err
    assert "1ep" not in call("list").out


def test_json_is_all_that_is_printed(finished, call):
    outcome = call("resume", "tiny", "--json")
    printed = json.loads(outcome.out)
    assert printed["study"]["name"] == "tiny"
    assert printed["recommendation"]["final"] is True
    assert printed == json.loads(call("report", "tiny", "--json").out)


def test_quiet_prints_no_progress(here, call, tiny):
    outcome = call(*tiny, "--budget", "1", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Report:" in outcome.out


def test_json_and_quiet_together(here, call, tiny):
    outcome = call(*tiny, "--budget", "1", "--quiet", "--json")
    assert outcome.err == ""
    assert json.loads(outcome.out)["study"]["budget"] == "1"


def test_list_shows_how_far_studies_are(finished, call):
    outcome = call("list")
    assert outcome.code == 0
    assert re.search(r"^tiny .* done *$", outcome.out, re.MULTILINE)


def test_a_study_of_another_version_hides_no_other(finished, here, call):
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection, connection:
        (config,) = connection.execute("SELECT config FROM lrtune_studies").fetchone()
        for name, values in (
            ("newer", json.loads(config) | {"momentum_warmup": 3}),
            ("older", {"epochs": 4}),
        ):
            row = (name, 0.0, json.dumps(values), "[]")
            connection.execute("INSERT INTO lrtune_studies VALUES (?, ?, ?, ?)", row)
    outcome = call("list")
    assert (outcome.code, outcome.out.splitlines()[1].split()[0]) == (0, "tiny")
    said = "study {!r} is of another version of lrtune."
    assert outcome.err.splitlines() == [said.format("newer"), said.format("older")]
    assert call("resume", "newer").err == f"lrtune: {said.format('newer')}\n"
    assert call("delete", "newer", "--yes").code == call("delete", "older", "--yes").code == 0
    assert call("list").err == ""


def test_a_study_that_is_deleted_is_gone_with_its_checkpoints_and_can_be_begun_again(
    finished, here, call, tiny
):
    assert call("delete", "tiny", "--yes").code == 0
    assert "no studies" in call("list").out
    assert not any((here / ".lrtune" / "checkpoints").rglob("*.*"))
    assert files_of(here / "reports" / "tiny") == FILES
    assert tables_in(here) == {"lrtune_measurements", "lrtune_runs", "lrtune_studies"}
    assert call(*tiny).code == 0
    assert runs_in(here).keys() >= {"baseline-0", "trial-0000"}


def test_a_study_that_is_deleted_is_gone_from_the_dashboard(finished, call):
    state, url = load("tiny").state, "sqlite:///.lrtune/lrtune.db"
    for name in ("tiny", "other"):
        mirror(replace(state, config=replace(state.config, name=name)), url)
    assert call("delete", "tiny", "--yes").code == 0
    assert optuna.get_all_study_names(storage=url) == ["other"]


def test_the_dashboard_follows_its_study_after_the_database_failed(
    finished, here, call, monkeypatch
):
    url = "sqlite:///.lrtune/lrtune.db"

    def rename(old, new):
        with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection, connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    def serve(url, host, port):
        rename("lrtune_runs", "away")
        time.sleep(1)
        rename("away", "lrtune_runs")
        delete_mirror("tiny", url)
        deadline = time.monotonic() + 20
        while optuna.get_all_study_names(storage=url) != ["tiny"] and time.monotonic() < deadline:
            time.sleep(0.1)

    monkeypatch.setattr(commands, "FOLLOW_S", 0.01)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", SimpleNamespace(run_server=serve))
    assert call("dashboard", "tiny").code == 0
    assert optuna.get_all_study_names(storage=url) == ["tiny"]


@pytest.mark.slow
def test_the_way_to_do_it_again_is_the_last_search_and_what_went_on_with_it(finished, call, tiny):
    def quoted():
        return load("tiny").state.config.command

    search = f"lrtune {' '.join(tiny)}"
    assert quoted() == search
    assert call(*tiny, "--budget", "4").code == 0
    assert quoted() == f"{search} --budget 4"
    for budget in ("5", "6"):
        assert call("resume", "tiny", "--budget", budget).code == 0
        assert quoted() == f"{search} --budget 4; lrtune resume tiny --budget {budget}"
    assert call("resume", "tiny").code == 0
    assert quoted().endswith("6")


@pytest.mark.parametrize(
    ("words", "quoted"),
    [
        (
            ["--storage=postgresql://me:SECRET@host/db?Password=SECRET"],
            "'--storage=postgresql://***@host/db?***'",
        ),
        (["--storage", "postgresql:/me:SECRET@host/db"], "--storage '***'"),
        (["--storage", "postgresql://me:SEC @SECRET@h/db"], "--storage 'postgresql://***@h/db'"),
        (["--storage-path", "s3://me:SECRET@host/x"], "--storage-path 's3://***@host/x'"),
        (["--address", "me:SECRET@head:6379"], "--address '***'"),
        (["--address", "head:6379", "--metric", "f1:max"], "--address head:6379 --metric f1:max"),
        (
            ["--", "python", "train.py", "--db=mysql://me:SECRET@host/db", "--lr=0.1"],
            "-- python train.py '--db=mysql://***@host/db' --lr=0.1",
        ),
    ],
)
def test_no_password_is_quoted(monkeypatch, words, quoted):
    monkeypatch.setattr(sys, "argv", ["lrtune", "search", *words])
    with click.Context(lrtune.commands["search"]):
        assert _command() == f"lrtune search {quoted}"


def test_list_without_studies_says_so_and_makes_nothing(here, call):
    outcome = call("list")
    assert (outcome.code, outcome.out.strip()) == (0, "There are no studies yet.")
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_report_writes_it_again(finished, here, call):
    text = (here / "reports" / "tiny" / "report.md").read_text()
    for path in (here / "reports").rglob("*.*"):
        if path.is_file():
            path.unlink()
    before = num_measurements(here)
    outcome = call("report", "tiny")
    assert outcome.code == 0
    assert files_of(here / "reports" / "tiny") == FILES
    assert (here / "reports" / "tiny" / "report.md").read_text() == text
    assert num_measurements(here) == before


@pytest.mark.slow
def test_reports_and_database_go_where_they_are_told(here, call, tiny):
    outcome = call(
        *tiny,
        "--budget",
        "1",
        "--home",
        "state/here",
        "--out",
        "out",
        "--storage",
        f"sqlite:///{here}/other.db",
    )
    assert outcome.code == 0
    assert names_in(here) == {"state", "out", "other.db"}
    assert "tiny" in call("list", "--storage", f"sqlite:///{here}/other.db").out
    written = files_of(here / "out" / "tiny")
    assert written == FILES - {
        "plots/parallel.png",
        "plots/parallel.svg",
    }  # of one trial there is nothing to compare


@pytest.mark.slow
def test_an_optimizer_or_a_recipe_of_ones_own_is_the_baseline(here, call, tiny):
    (here / "mine.toml").write_text(
        'optimizer = "adamw"\npeak_lr = 0.002\n[decay]\nname = "step"\nevery_epochs = 1\n'
    )
    for name, words in (("flag", ["--optimizer", "adamw"]), ("file", ["--baseline", "mine.toml"])):
        outcome = call(*tiny, "--budget", "1", "--study", name, *words, "--json")
        assert outcome.code == 0, outcome.err
        runs = {run["id"]: run["recipe"] for run in json.loads(outcome.out)["runs"]}
        assert runs["baseline-0"]["optimizer"] == runs["trial-0000"]["optimizer"] == "adamw"
        assert runs["baseline-0"]["peak_lr"] == {"flag": 1e-3, "file": 2e-3}[name]
        assert runs["baseline-0"]["decay"]["name"] == {"flag": "cosine", "file": "step"}[name]


# --- looks, the proof, and workers

DIGITS = (
    "search", "--data", "digits", "--model", "mlp", "--epochs", "3", "--looks", "1,2",
    "--train-size", "200", "--val-size", "100", "--space", "x.toml", "--study", "digits",
    "--threads", "1", "--quiet",
)  # fmt: skip
SPACE = """
[parameters]
peak_lr = { low = 0.01, high = 1.0, log = true }
decay = { choices = ["cosine", "linear", "constant"] }
"""


def kinds_in(here):
    with closing(sqlite3.connect(here / ".lrtune" / "lrtune.db")) as connection:
        runs = connection.execute("SELECT kind, horizon_epochs, seed FROM lrtune_runs")
        return Counter(runs)


LOOKED_AT = {("look", 1, 0): 7, ("look", 2, 0): 2, ("look", 2, 10_000): 1}
"""Of seven recipes."""


def test_a_search_without_a_proof_looks_at_recipes_and_says_that_nothing_is_confirmed(here, call):
    (here / "x.toml").write_text(SPACE)
    done = call(*DIGITS, "--budget", "7", "--confirm", "0")
    assert done.code == 0, done.err
    assert kinds_in(here) == LOOKED_AT
    assert "not confirmed" in " ".join(done.out.split()).lower()
    printed = json.loads(call("report", "digits", "--json").out)
    assert printed["recommendation"]["final"] is False
    assert printed["runs"][0]["recipe"]["decay"]["name"] == "cosine"  # the baseline's
    before = num_measurements(here)
    assert call("resume", "digits", "--quiet").out == done.out
    assert num_measurements(here) == before


def test_a_quick_proof_is_one_run_of_the_best_by_looks_and_one_of_the_baseline(here, call):
    (here / "x.toml").write_text(SPACE)
    done = call(*DIGITS, "--budget", "7", "--confirm", "quick", "--json")
    assert done.code == 0, done.err
    assert kinds_in(here) == LOOKED_AT | {("baseline", 3, 1): 1, ("confirm", 3, 1): 1}
    printed = json.loads(done.out)
    assert printed["recommendation"]["final"] is True
    assert {run["state"] for run in printed["runs"]} == {"completed"}


@pytest.mark.parametrize(
    ("budget", "raced"), [("18ep", False), ("6runs", False), ("30ep", True), ("10runs", True)]
)
def test_a_small_budget_is_spent_on_looks_alone(here, call, budget, raced):
    (here / "x.toml").write_text(SPACE)
    done = call(*DIGITS, "--budget", budget, "--seeds", "2", "--json")
    assert done.code == 0, done.err
    kinds = {kind for kind, *_ in kinds_in(here)}
    assert kinds == ({"look", "baseline", "confirm"} if raced else {"look"})
    asked_for = sum(run["stop_epochs"] for run in json.loads(done.out)["runs"])
    most = 18 if not raced else 30
    assert most - 3 < asked_for <= most


def numbers_in(home):
    """What was trained and what came of it, whoever trained it and when."""
    with closing(sqlite3.connect(home / "lrtune.db")) as connection:
        runs = connection.execute(
            "SELECT id, kind, trial, recipe, horizon_epochs, seed, state, reason, test "
            "FROM lrtune_runs"
        )
        epochs = connection.execute(
            "SELECT run, epoch, step, lr_first, lr_last, metrics FROM lrtune_measurements"
        )
        return sorted(map(repr, runs)), sorted(map(repr, epochs))


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["20", "36ep"])
def test_two_jobs_give_the_study_of_one(here, call, budget):
    (here / "x.toml").write_text(SPACE)
    words = (*DIGITS, "--budget", budget, "--seeds", "2", "--max-seeds", "3", "--lag", "4")
    printed = {}
    for jobs in ("1", "2"):
        done = call(*words, "--jobs", jobs, "--home", f"home-{jobs}", "--out", jobs, "--json")
        assert done.code == 0, done.err
        printed[jobs] = json.loads(done.out)["recommendation"]
    one, two = (numbers_in(here / f"home-{jobs}") for jobs in ("1", "2"))
    assert two == one
    assert printed["2"] == printed["1"]


TASK_FILE = """
import torch
from torch.utils.data import TensorDataset
import lrtune

def images(num, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    return TensorDataset(torch.randn(num, 3, generator=generator) + labels[:, None], labels)

def task():
    return lrtune.Task(
        model=lambda: torch.nn.Linear(3, 2), train=images(64, 0), validation=images(64, 1),
        test=images(64, 2), num_classes=2, epochs=2, name="blobs",
    )
"""


@pytest.mark.slow
def test_a_task_file_is_searched_and_resumed(here, call):
    (here / "blobs.py").write_text(TASK_FILE)
    outcome = call(
        "search",
        "--task",
        "blobs.py",
        "--budget",
        "2",
        "--seeds",
        "1",
        "--confirm",
        "0",
        "--study",
        "blobs",
    )
    assert outcome.code == 0, outcome.err
    assert call("resume", "blobs", "--budget", "3").code == 0
    assert "trial-0002" in runs_in(here)
    (here / "blobs.py").write_text(TASK_FILE.replace("Linear(3, 2)", "Linear(3, 2, bias=False)"))
    outcome = call("resume", "blobs", "--budget", "4")
    assert outcome.code == 2
    assert "blobs.py has changed since the study began" in outcome.err
    assert "trial-0003" not in runs_in(here)


@pytest.mark.parametrize(
    ("low", "high", "code"), [("1e-5", "10", 0), ("1e-9", "1e-8", 1)], ids=["signal", "no signal"]
)
def test_find_says_what_it_saw(here, call, low, high, code):
    words = (
        "find",
        "--data",
        "digits",
        "--model",
        "mlp",
        "--steps",
        "60",
        "--seeds",
        "2",
        "--train-size",
        "400",
        "--low",
        low,
        "--high",
        high,
    )
    outcome = call(*words)
    assert outcome.code == code, outcome.err
    assert outcome.err.splitlines() == [
        f"range test of sgd, sweep {number} of 2" for number in (1, 2)
    ]
    (folder,) = (here / "reports").iterdir()
    assert folder.name == "find-digits-mlp-sgd"
    assert files_of(folder) == {
        "range_test.png",
        "range_test.svg",
        "range_test.csv",
        "range_test.json",
    }
    assert str(folder.relative_to(here)) in outcome.out
    found = json.loads(call(*words, "--json").out)
    assert found["optimizer"] == "sgd"
    assert (found["interval"] is None) == bool(found["reason"]) == bool(code)


def test_an_interrupt_of_what_trains_nothing_says_no_more(finished, call, monkeypatch):
    from lrtune.store.database import StudyStore

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyStore, "state", stop)
    outcome = call("list")
    assert (outcome.code, outcome.err.strip()) == (130, "lrtune: stopped.")


def stop_in(monkeypatch, stopped):
    """Interrupts after the first epoch of a run."""
    from lrtune.store.database import StudyStore

    record = StudyStore.record

    def record_and_stop(self, run, measurement):
        record(self, run, measurement)
        if run.id == stopped:
            raise KeyboardInterrupt

    monkeypatch.setattr(StudyStore, "record", record_and_stop)


KEPT = "lrtune: stopped. What was finished is kept: `lrtune resume tiny` goes on from there."


@pytest.mark.parametrize(("stopped", "flags"), [("trial-0000", ()), ("trial-0001", ("--quiet",))])
def test_an_interrupt_prints_no_more_where_nothing_is_known_or_wanted(
    here, call, tiny, monkeypatch, stopped, flags
):
    stop_in(monkeypatch, stopped)
    outcome = call(*tiny, *flags)
    assert (outcome.code, outcome.out, outcome.err.splitlines()[-1]) == (130, "", KEPT)
    assert "not confirmed" not in outcome.err


@pytest.mark.slow
def test_an_interrupt_prints_what_is_known_and_nothing_is_lost(here, call, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, "trial-0002-confirm-0")
        outcome = call(*tiny, "--json")
    assert (outcome.code, outcome.out) == (130, "")
    assert "The study is not finished." in outcome.err
    assert re.search(r"^> trial 2 +not confirmed ", outcome.err, re.MULTILINE)
    assert outcome.err.splitlines()[-1] == KEPT
    assert runs_in(here) == {
        "trial-0000": "completed",
        "trial-0001": "completed",
        "trial-0002": "completed",
        "baseline-0": "completed",
        "trial-0002-confirm-0": "running",
    }
    assert re.search(r"^tiny .* done *$", call("list").out, re.MULTILINE) is None
    assert call("report", "tiny").code == 0
    assert files_of(here / "reports" / "tiny") >= {"report.md", "trials.csv"}
    resumed = call("resume", "tiny")
    assert resumed.code == 0
    assert "trial-0002-confirm-0 goes on after epoch 1 of 2" in resumed.err
