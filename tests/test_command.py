"""Searches in front of a training command, from the first line to the report."""

import importlib
import json
import re
import shutil
import sqlite3
from contextlib import closing

import pytest

import lrtune
from lrtune.core.decays import Own
from lrtune.decide.spending import spending_of
from lrtune.reporting.document import compose
from lrtune.reporting.json import render_json
from lrtune.reporting.trials import fates
from lrtune.schedules import build_schedule
from lrtune.schedules.compress import schedule_of
from lrtune.tuning.sampler import fitted_space
from tests.training.command.scripts import alive, lrs_of, python, quadratic, same_lrs

pytestmark = pytest.mark.slow  # each of them starts processes

SMALL = ("--metric", "val_loss", "--budget", "3", "--seeds", "1", "--confirm", "0", "--quiet")
"""Four runs: the command as it is, and three recipes, whose full runs are too short for looks."""


def write_values_only(report, folder):
    """Stands in for `write_report`, whose pictures take seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(render_json(compose(report)))


@pytest.fixture(autouse=True, scope="module")
def reports_without_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrtune.app.results.write_report", write_values_only)
        yield


@pytest.fixture
def train(here):
    """The command of a script whose optimum is known."""
    return ("--", *python(quadratic(here / "code")))


HOLDS_A_LARGE_LR = "(MODE == 'set' and LRS[-1] > 0.2 and math.isclose(LRS[0], LRS[-1]))"
"""Whether the script trains at the same large LR all the time."""


def states(result):
    """How often each state of a run was reached."""
    ends = [record.state for record in result.state.records]
    return {state: ends.count(state) for state in dict.fromkeys(ends)}


def loss_of(result, run):
    """The last loss of a run."""
    (record,) = [record for record in result.state.records if record.run.id == run]
    return record.measurements[-1].metrics["val_loss"]


def names_in(folder):
    """The names of the studies."""
    with closing(sqlite3.connect(folder / ".lrtune" / "lrtune.db")) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM lrtune_studies")]


# --- a search to the optimum


def test_a_script_is_searched_to_its_optimum(here, call, train):
    words = ("search", "--metric", "val_loss:min", "--budget", "8", "--seeds", "2", "--study", "x")
    done = call(*words, *train)
    assert done.code == 0, done.err
    assert "first run of" in done.err
    result = lrtune.load("x")
    assert loss_of(result, "baseline-0") > 0.35
    assert result.best.value < 0.02  # 20 times as good at least
    for record in result.state.records:
        if record.run.trial >= 0:
            noted = lrs_of(here / ".lrtune" / "runs" / "x" / record.run.id)
            schedule = build_schedule(
                record.run.recipe, epochs=record.run.horizon_epochs, steps_per_epoch=5
            )
            expected = [record.run.recipe.peak_lr * schedule(step) for step in range(len(noted))]
            assert same_lrs(noted, expected)


def test_a_search_begins_with_the_command_as_it_is_and_then_has_looks(here, call, train):
    words = ("--metric", "val_loss", "--budget", "7", "--looks", "2,4", "--seeds", "2")
    done = call("search", *words, "--max-seeds", "2", "--study", "x", "--quiet", *train)
    assert done.code == 0, done.err
    state = lrtune.load("x").state
    assert {record.state for record in state.records} == {"completed"}
    runs = [record.run for record in state.records]
    assert [run.id for run in runs[:8]] == [
        "baseline-0", *(f"trial-{number:04d}-look-1" for number in range(7)),
    ]  # fmt: skip
    assert [(run.kind, run.horizon_epochs, run.seed) for run in runs[8:11]] == [
        ("look", 4, 0), ("look", 4, 0), ("look", 4, 10_000),
    ]  # fmt: skip
    assert {(run.kind, run.horizon_epochs, run.seed) for run in runs[11:]} == {
        ("confirm", 8, 1), ("baseline", 8, 2), ("confirm", 8, 2),
    }  # fmt: skip
    assert {(run.kind, run.recipe.decay == Own()) for run in runs} == {
        ("baseline", True), ("look", False), ("confirm", False),
    }  # fmt: skip
    for run in (run for run in runs if run.kind != "baseline"):
        noted = lrs_of(here / ".lrtune" / "runs" / "x" / run.id)
        schedule = schedule_of(run, steps_per_epoch=5)
        last = 5 * run.horizon_epochs
        assert len(noted) >= last  # it may train on until it is ended
        assert same_lrs(noted[:last], [run.recipe.peak_lr * schedule(t) for t in range(last)])


def test_the_same_command_again_trains_nothing(here, call, train):
    first = call("search", *SMALL, *train)
    assert first.code == 0, first.err
    (name,) = names_in(here)
    shutil.rmtree(here / ".lrtune" / "runs" / name)
    again = call("search", *SMALL, *train)
    assert again.code == 0, again.err
    assert again.out == first.out
    assert names_in(here) == [name]
    assert not (here / ".lrtune" / "runs" / name).exists()


def test_a_changed_script_is_another_study(here, call, train):
    assert call("search", *SMALL, *train).code == 0
    (first,) = names_in(here)
    quadratic(here / "code", lr="0.02")
    assert call("search", *SMALL, *train).code == 0
    assert len(names_in(here)) == 2
    refused = call("resume", first)
    assert refused.code == 2
    assert "train.py" in refused.err
    assert "changed" in refused.err


def test_another_folder_is_refused(here, call, train, monkeypatch):
    assert call("search", *SMALL, "--study", "x", *train).code == 0
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    refused = call("resume", "x", "--home", here / ".lrtune")
    assert refused.code == 2
    assert str(here) in refused.err
    assert "go there first" in refused.err


def test_from_python(here):
    script = quadratic(here / "code")
    command = lrtune.CommandLine(python(script))
    events = []
    result = lrtune.search(
        command, metric="val_loss:min", budget=3, num_seeds=1, confirm="0", study="x",
        quiet=True, on_event=events.append,
    )  # fmt: skip
    assert states(result) == {"completed": 4}
    assert any("first run of" in getattr(event, "text", "") for event in events)
    assert lrtune.resume("x", quiet=True).best.recipe == result.best.recipe


def test_a_function_is_trained_in_a_process_of_its_own(here, monkeypatch):
    (here / "code").mkdir()
    quadratic(here / "code")
    (here / "code" / "mine.py").write_text("def train():\n    import train\n")
    monkeypatch.syspath_prepend(str(here / "code"))
    mine = importlib.import_module("mine")
    monkeypatch.setenv("PYTHONPATH", str(here / "code"))
    result = lrtune.search(
        mine.train, metric="val_loss:min", budget=2, num_seeds=1, confirm="0", quiet=True
    )
    assert states(result) == {"completed": 3}


# --- what can be done with the study


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory, reports_without_pictures):
    """A finished search, and the folder that it was made in."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lrtune.search(
            lrtune.CommandLine(python(quadratic(folder / "code"))),
            metric="val_loss:min", budget=3, num_seeds=2, study="x", quiet=True,
        )  # fmt: skip
    return folder


@pytest.fixture
def study(study_folder, monkeypatch):
    """The folder of that search, as the working directory."""
    monkeypatch.chdir(study_folder)
    return study_folder


def test_report_list_and_log(study, call):
    assert "· " in call("report", "x").out
    assert "x" in call("list").out
    for run in ("baseline-0", "baseline-1", "trial-0001"):
        log = call("log", "x", run)
        assert log.code == 0
        assert log.out.startswith("epoch 0 val_loss: ")
    missing = call("log", "x", "trial-0099")
    assert missing.code == 2
    assert missing.err.startswith(
        "lrtune: run 'trial-0099' of study 'x' has no log; these have one: baseline-1, "
    )


def test_export_names_the_way_home(study, call):
    refused = call("export", "x")
    assert refused.code == 2
    assert "`lrtune apply x -- " in refused.err
    exported = call("export", "x", "--to", "toml")
    assert exported.code == 0
    assert "peak_lr" in exported.out


def test_resume_of_what_is_finished_trains_nothing(study, call):
    before = sorted((study / ".lrtune" / "runs").rglob("log"))
    done = call("resume", "x", "--quiet")
    assert done.code == 0, done.err
    assert sorted((study / ".lrtune" / "runs").rglob("log")) == before


def test_resume_with_a_larger_budget_goes_on(study_folder, here, call):
    train = quadratic(here / "code")
    assert call("search", *SMALL, "--study", "y", "--", *python(train)).code == 0
    done = call("resume", "y", "--budget", "5", "--quiet")
    assert done.code == 0, done.err
    assert len({r.run.trial for r in lrtune.load("y").state.records}) == 6


def test_apply_trains_once_with_the_recommended_schedule(study, call):
    code = (
        f"import os; os.environ['LRTUNE_RUN_DIR'] = {str(study)!r}\n"
        f"import runpy, sys; sys.path.insert(0, {str(study / 'code')!r})\n"
        f"runpy.run_path({str(study / 'code' / 'train.py')!r}, run_name='__main__')"
    )
    assert call("apply", "x", "--", *python("-c", code)).code == 0
    recipe = lrtune.load("x").best.recipe
    schedule = build_schedule(recipe, epochs=8, steps_per_epoch=5)
    noted = json.loads((study / "lrs.json").read_text())
    assert same_lrs(noted, [recipe.peak_lr * schedule(step) for step in range(40)])


@pytest.mark.parametrize(
    ("ending", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 15)", 143)]
)
def test_apply_passes_the_exit_code_on(study, call, ending, code):
    words = python(quadratic(study / "code", name="ends.py", end=ending))
    assert call("apply", "x", "--", *words).code == code


def test_apply_needs_a_command_and_a_study(study, call):
    for words, message in {
        ("x",): "must follow after `--`",
        ("x", "--"): "must follow after `--`",
        ("y", "--", "true"): "'y'",
        ("x", "--recipe", "99", "--", "true"): "99",
        ("x", "--", "nosuchprogram"): "nosuchprogram",
    }.items():
        refused = call("apply", *words)
        assert refused.code == 2, words
        assert message in refused.err
        assert "Traceback" not in refused.err


def test_delete_takes_the_files_of_the_runs_along(here, call, train):
    assert call("search", *SMALL, "--study", "x", *train).code == 0
    assert (here / ".lrtune" / "runs" / "x" / "trial-0000" / "log").is_file()
    assert call("delete", "x", "--yes").code == 0
    assert not (here / ".lrtune" / "runs" / "x").exists()


def test_recipes_are_compared_with_the_command_as_it_is(here, call, train):
    done = call(
        "compare", "--metric", "val_loss", "--seeds", "1", "--study", "c", "--quiet", *train
    )
    assert done.code == 2
    assert "needs two recipes at least, but got own" in done.err  # its optimizer is not torch's
    (here / "mine.toml").write_text("optimizer = 'own'\npeak_lr = 0.4\ndecay = 'linear'\n")
    (here / "weak.toml").write_text("optimizer = 'own'\npeak_lr = 0.01\n")
    words = ("--metric", "val_loss", "--seeds", "2", "--study", "c", "--quiet")
    done = call("compare", "weak.toml", "mine.toml", *words, *train)
    assert done.code == 0, done.err
    assert "In the lead: mine" in done.out
    assert "against weak" in done.out


def test_a_recipe_of_another_optimizer_is_refused(here, call, train):
    for words in (("compare", "adamw", "sgd-wsd"), ("search", "--baseline", "adamw", *SMALL)):
        refused = call(*words, *train)
        assert refused.code == 2
        assert "`optimizer` must be own, which the command has, but got adamw" in refused.err


def test_a_plateau_decay_is_refused_where_the_metric_is_printed(here, call, train):
    (here / "p.toml").write_text("optimizer = 'own'\npeak_lr = 0.4\n[decay]\nname = 'plateau'\n")
    refused = call("search", "--baseline", "p.toml", *SMALL, *train)
    assert refused.code == 2
    assert "plateau decay needs its metric during the run" in refused.err
    done = call("search", *SMALL[:-1], "--study", "x", *train)
    assert done.code == 0, done.err
    assert done.err.count("Plateau decays are left out") == 1
    assert "plateau" not in fitted_space(lrtune.load("x").state).choices("decay")


def test_a_plateau_decay_is_searched_and_applied_where_the_metric_is_handed_over(here, call):
    lines = {"start": "import lrtune", "show": "lrtune.report(score=-val_loss)"}
    train = ("--", *python(quadratic(here / "code", **lines)))
    space = "[parameters]\npeak_lr = 0.8\ndecay = 'plateau'\n[decay.plateau]\npatience_epochs = 0\n"
    (here / "p.toml").write_text(space)
    words = ("--metric", "score:max", "--space", "p.toml", "--study", "x")
    done = call("search", *words, "--budget", "1", "--seeds", "1", *train)
    assert done.code == 0, done.err
    assert "left out" not in done.err
    (trial,) = {r.run.recipe for r in lrtune.load("x").state.records if r.run.trial == 0}
    assert trial.decay.monitor == "score:max"
    assert call("apply", "x", "--recipe", "0", *train).code == 0
    (folder,) = (here / ".lrtune" / "runs" / "x").glob("apply-*")
    scores = [json.loads(line)["values"]["score"] for line in (folder / "values.jsonl").open()]
    schedule = build_schedule(trial, epochs=8, steps_per_epoch=5)
    for score in scores:
        schedule = schedule.observe({"score": score})
    expected = [trial.peak_lr * schedule(step) for step in range(40)]
    assert expected[-1] < expected[0]
    assert same_lrs(lrs_of(folder), expected)


def test_find_tests_the_command(here, call, train):
    done = call("find", "--seeds", "2", *train)
    assert done.code == 0, done.err
    assert "use a peak LR of" in done.out
    assert (here / "reports" / "find-train-own" / "index.html").exists() or list(
        (here / "reports").glob("find-train-own/*")
    )


def test_fewer_epochs_than_the_script_has(here, call, train):
    assert call("search", *SMALL, "--epochs", "2", "--study", "x", *train).code == 0
    result = lrtune.load("x")
    epochs = {(record.run.kind, len(record.measurements)) for record in result.state.records}
    assert epochs == {("baseline", 8), ("full", 2)}  # the command as it is is not cut
    settings = dict(compose(result.report).settings)
    assert settings["Horizon"] == "2 epochs of 5 steps, of the baseline 8"
    assert call("resume", "x", "--budget", "4", "--quiet").code == 0
    refused = call("search", *SMALL[:2], "--budget", "9ep", "--epochs", "2", *train)
    assert "must cover the 10 epochs that a search of a single recipe takes" in refused.err
    full = [r for r in result.state.records if r.run.id == "trial-0000"]
    noted = lrs_of(here / ".lrtune" / "runs" / "x" / full[0].run.id)
    assert noted[9] < noted[5]  # the whole schedule is in the first ten steps


def test_the_placeholders_are_filled(here, call):
    start = "print('got', *sys.argv[1:])"
    epochs = "int(sys.argv[1])"
    script = quadratic(here / "code", start=start, epochs=epochs)
    words = python(script, "{epochs}", "{seed}", "{run_dir}", "{{seed}}", "{other}")
    assert call("search", *SMALL, "--epochs", "12", "--study", "x", "--", *words).code == 0
    result = lrtune.load("x")
    for record in result.state.records:
        if record.run.id != "baseline-0":
            folder = here / ".lrtune" / "runs" / "x" / record.run.id
            run = record.run
            got = f"got {run.horizon_epochs} {run.seed} {folder / 'files'} {{seed}} {{other}}"
            assert (folder / "log").read_text().splitlines()[0] == got
            assert json.loads((folder / "plan.json").read_text())["seed_offset"] is None
    refused = call("search", *SMALL, "--", *words)
    assert refused.code == 2
    assert refused.err == "lrtune: `--epochs` must say what {epochs} in the command stands for.\n"


SIZES = """
[parameters]
peak_lr = { low = 0.3, high = 0.5 }
decay = { choices = ["cosine", "plateau"] }
[decay.plateau]
patience_epochs = 0
[command]
size = { choices = [8, 4, 20] }
kind = { choices = ["a", "b"] }
"""


def test_a_placeholder_of_the_users_own_is_searched(here, call):
    """Of 40 examples, a batch of 8 makes 5 steps an epoch, one of 4 makes 10, one of 20 two."""
    noting = "open('starts', 'a').write(' '.join(sys.argv[1:]) + ' ' + MODE + ';')"
    lines = {
        "start": f"import lrtune; {noting}",
        "show": "lrtune.report(val_loss=val_loss)",
        "steps": "40 // int(sys.argv[1])",
    }
    train = ("--", *python(quadratic(here / "code", **lines), "{size}", "{kind}", "{{size}}"))
    (here / "s.toml").write_text(SIZES)
    words = ("--metric", "val_loss:min", "--space", "s.toml", "--seeds", "1", "--study", "x")
    done = call("search", *words, "--budget", "8", "--looks", "2,4", *train)
    assert done.code == 0, done.err
    state = lrtune.load("x").state
    assert dict(state.config.baseline.command) == {"kind": "a", "size": 8}
    sizes, decays = set(), set()
    for record in state.records:
        run = record.run
        if run.kind == "baseline":
            continue
        size = dict(run.recipe.command)["size"]
        sizes.add(size)
        decays.add(run.recipe.decay.name)
        assert [m.step for m in record.measurements] == [5 * m.epoch for m in record.measurements]
        schedule = schedule_of(run, 5)
        for measurement in record.measurements:
            schedule = schedule.observe(measurement.metrics)
        noted = lrs_of(here / ".lrtune" / "runs" / "x" / run.id)
        num_steps = record.epochs * 40 // size  # it may train on until it is ended
        steps = [t * size // 8 for t in range(num_steps)]
        assert same_lrs(noted[:num_steps], [run.recipe.peak_lr * schedule(t) for t in steps])
    assert sizes == {4, 8, 20}
    assert decays == {"cosine", "plateau"}
    starts = [start for start in (here / "starts").read_text().split(";") if start]
    assert all("{size}" in start for start in starts)
    # A first guess at the steps of an epoch costs one start for each set of values.
    trained = [r for r in state.records if not all(m.reused for m in r.measurements)]
    guesses = {r.run.recipe.command for r in state.records} - {state.config.baseline.command}
    assert sum(s.endswith("set") for s in starts) <= len(trained) - 1 + len(guesses)

    best = lrtune.load("x").best.recipe
    assert "with {kind} = " in " ".join(done.out.split())
    assert call("apply", "x", *train).code == 0
    (folder,) = (here / ".lrtune" / "runs" / "x").glob("apply-*")
    assert len(lrs_of(folder)) == 8 * 40 // dict(best.command)["size"]
    exported = call("export", "x", "--to", "toml")
    assert f'[command]\nkind = "{dict(best.command)["kind"]}"\n' in exported.out


def test_the_peak_lr_is_filled_in_where_a_baseline_tells_that_of_the_first_run(here, call):
    start = "print('got', sys.argv[1])"
    train = ("--", *python(quadratic(here / "code", start=start), "{peak_lr}"))
    (here / "b.toml").write_text("optimizer = 'own'\npeak_lr = 0.125\n")
    done = call("search", *SMALL, "--study", "x", "--baseline", "b.toml", *train)
    assert done.code == 0, done.err
    for record in lrtune.load("x").state.records:
        got = call("log", "x", record.run.id).out.splitlines()[0]
        assert got == f"got {record.run.recipe.peak_lr}"
    assert call("log", "x", "baseline-0").out.startswith("got 0.125")
    assert call("resume", "x", "--budget", "4", "--quiet").code == 0


def test_recipes_with_placeholders_are_compared(here, call):
    train = ("--", *python(quadratic(here / "code"), "{size}"))
    for name, text in {"one": "size = 4", "two": "size = 'b'", "none": ""}.items():
        (here / f"{name}.toml").write_text(f"optimizer = 'own'\n[command]\n{text}\n")
    words = ("--metric", "val_loss:min", "--seeds", "1", "--quiet")
    done = call("compare", "one.toml", "two.toml", *words, *train)
    assert done.code == 0, done.err
    refused = call("compare", "one.toml", "none.toml", *words, *train)
    assert refused.code == 2
    assert "none: `command` must fill {size}, but it fills nothing" in refused.err


def test_what_is_wrong_with_placeholders_is_said_before_anything_runs(here, call, train):
    space = here / "s.toml"
    space.write_text(
        "[parameters]\npeak_lr = 0.1\n[command]\nseed = 3\nn = { low = 3, high = 1 }\n"
    )
    refused = call("search", "--metric", "val_loss", "--space", "s.toml", *train)
    assert refused.code == 2
    assert "first run" not in refused.err
    assert refused.err.count("[command] seed: {seed} is filled in by lrtune.") == 1
    assert "s.toml: [command] n: `low <= high` must hold" in refused.err
    space.write_text("[parameters]\npeak_lr = 0.1\n[command]\nsize = { choices = [1] }\n")
    refused = call("search", "--metric", "val_loss", "--space", "s.toml", *train)
    assert refused.code == 2
    assert "`command.size` must have its place in the command, written {size}." in refused.err
    refused = call("search", "--data", "digits", "--space", "s.toml")
    assert refused.code == 2
    assert "needs a command" in refused.err


def test_what_a_recipe_file_leaves_out_is_the_commands_own(here, call):
    script = quadratic(here / "code").read_text()
    (here / "code" / "train.py").write_text(script.replace("lr=0.03", "lr=0.03, weight_decay=0.25"))
    train = ("--", *python(here / "code" / "train.py"))
    (here / "one.toml").write_text("peak_lr = 0.1\n")
    (here / "two.toml").write_text("peak_lr = 0.1\nweight_decay = 0.5\n")
    words = ("--metric", "val_loss:min", "--seeds", "1", "--study", "x")
    done = call("compare", "one.toml", "two.toml", *words, "--quiet", *train)
    assert done.code == 0, done.err
    plans = {
        run: json.loads((here / ".lrtune" / "runs" / "x" / run / "plan.json").read_text())
        for run in ("baseline-0", "trial-0001-confirm-0")
    }
    assert [plan["weight_decay"] for plan in plans.values()] == [None, 0.5]
    assert "own 0.1, cosine, weight decay 0.5" in done.out
    for name in ("one.toml", "two.toml"):
        done = call("search", *SMALL, "--baseline", name, "--study", name[:3], *train)
        assert done.code == 0, done.err
        best = lrtune.load(name[:3]).state.config.baseline
        assert best.weight_decay == (0.25 if name == "one.toml" else 0.5)


def test_a_space_cannot_set_what_is_the_commands_own(here, call, train):
    (here / "s.toml").write_text(
        "[parameters]\noptimizer = 'adamw'\npeak_lr = 0.1\nmomentum = 0.5\nnesterov = true\n"
    )
    refused = call("search", *SMALL, "--space", "s.toml", *train)
    assert refused.code == 2
    assert (
        "[parameters] optimizer: must be own, which the command has, but got adamw" in refused.err
    )
    assert "[parameters] momentum: is the command's own, so it cannot be set" in refused.err
    assert "[parameters] nesterov: is the command's own" in refused.err
    (here / "p.toml").write_text("[parameters]\npeak_lr = 0.1\ndecay = 'plateau'\n")
    refused = call("search", *SMALL, "--space", "p.toml", *train)
    assert refused.code == 2
    assert "p.toml: [parameters] decay: a plateau decay needs its metric during" in refused.err
    assert not lrtune.studies()


def test_apply_needs_the_placeholders_of_the_recipe(here, call):
    script = python(quadratic(here / "code", steps="10 // int(sys.argv[1])"))
    (here / "s.toml").write_text(
        "[parameters]\npeak_lr = 0.1\n[command]\nsize = { choices = [2, 1] }\n"
    )
    done = call("search", *SMALL, "--space", "s.toml", "--study", "x", "--", *script, "{size}")
    assert done.code == 0, done.err
    refused = call("apply", "x", "--recipe", "0", "--", *script, "2")
    assert refused.code == 2
    assert "{size} must be in the command, since the recipe has size " in refused.err
    refused = call("search", *SMALL, "--", *script, "{size}")
    assert "{size} stands for nothing; [command] of a space would fill it." in refused.err


def test_apply_says_what_became_of_the_steps_that_no_schedule_has(here, call, train):
    assert call("search", *SMALL, "--epochs", "4", "--study", "x", *train).code == 0
    done = call("apply", "x", "--recipe", "0", *train)
    assert done.code == 0
    said = " ".join(done.err.split())
    assert "made 40 optimizer steps, but the schedule has 20. The rest had its last LR." in said
    assert "it stands for 4." in said


# --- bad ends


def test_runs_that_fail_do_not_end_the_study(here, call):
    epoch = f"assert epoch < 3 or not {HOLDS_A_LARGE_LR}, 'bad luck'"
    script = quadratic(here / "code", epoch=epoch)
    words = ("--metric", "val_loss", "--budget", "6", "--seeds", "1", "--confirm", "0", "--quiet")
    done = call("search", *words, "--study", "x", "--", *python(script))
    assert done.code == 0, done.err
    result = lrtune.load("x")
    failed = [r for r in result.state.records if r.state == "failed"]
    assert failed
    assert states(result)["completed"] >= 2
    assert all(
        r.reason == "the command ended with exit code 1: AssertionError: bad luck" for r in failed
    )
    assert "bad luck" in call("log", "x", failed[0].run.id).out


def test_large_lrs_that_the_script_does_not_survive_do_not_end_the_study(here, call):
    epoch = "assert MODE != 'set' or max(LRS) < 0.25, 'it exploded'"
    script = quadratic(here / "code", epoch=epoch)
    (here / "s.toml").write_text("[parameters]\npeak_lr = { low = 0.2, high = 0.9 }\n")
    (here / "t.toml").write_text("optimizer = 'own'\npeak_lr = 0.2\n")
    words = ("--space", "s.toml", "--try", "t.toml", "--study", "x", "--pruner", "none")
    done = call("search", *SMALL, *words, "--budget", "6", "--", *python(script))
    assert done.code == 0, done.err
    assert states(lrtune.load("x"))["failed"] >= 3


def test_a_study_of_which_every_run_fails_says_why(here, call):
    epoch = "assert MODE != 'set', 'bad luck'"
    done = call("search", *SMALL, "--", *python(quadratic(here / "code", epoch=epoch)))
    assert done.code == 2
    assert "was given up" in done.err
    assert "bad luck" in done.err
    assert "Traceback" not in done.err


def test_a_range_test_whose_command_fails_says_how(here, call):
    start = "if MODE == 'sweep': sys.exit('no disk')"
    train = ("--", *python(quadratic(here / "code", start=start)))
    for words in (("find",), ("search", *SMALL)):
        done = call(*words, *train)
        assert done.code == 2
        assert "ended with exit code 1 in the range test, after 0 steps: no disk" in done.err


def test_nan_from_some_lr_on_is_divergence(here, call):
    show = "print(f\"val_loss: {val_loss if LRS[0] < 0.2 else float('nan')}\")"
    script = quadratic(here / "code", show=show)
    done = call("search", *SMALL, "--study", "x", "--", *python(script))
    assert done.code == 0, done.err
    ends = states(lrtune.load("x"))
    assert ends["diverged"] >= 1
    assert ends["completed"] >= 1


def test_a_run_that_hangs_is_ended(here, call):
    epoch = f"if epoch == 3 and {HOLDS_A_LARGE_LR}: time.sleep(1000)"
    words = (*SMALL, "--trial-timeout", "0.5", "--study", "x")
    done = call("search", *words, "--", *python(quadratic(here / "code", epoch=epoch)))
    result = lrtune.load("x")
    reasons = {r.reason for r in result.state.records if r.state == "failed"}
    assert reasons == {"the command gave no value of `val_loss` for 0.5 s"}
    assert done.code == 0, done.err


def test_a_first_run_that_hangs_is_ended(here, call):
    words = (*SMALL, "--trial-timeout", "0.5", "--")
    epoch = "epoch < 2 or time.sleep(1000)"
    done = call("search", *words, *python(quadratic(here / "code", epoch=epoch)))
    assert done.code == 2
    assert "gave no value of `val_loss` for 0.5 s" in done.err


def test_os_exit_before_the_end_is_early_stopping(here, call):
    epoch = "LRS[0] < 0.2 or epoch < 4 or os._exit(0)"
    script = quadratic(here / "code", epoch=epoch)
    done = call("search", *SMALL, "--study", "x", "--", *python(script))
    assert done.code == 0, done.err
    assert states(lrtune.load("x")) == {"completed": 4}
    state = lrtune.load("x").state
    assert "runs of all ended before the last epoch by their own early stopping" in fates(state)
    assert spending_of(state).reused == 0


def test_seeds_that_change_nothing_are_recognised_and_said(here, call, train):
    words = ("search", "--metric", "val_loss", "--budget", "1", "--seeds", "2", "--max-seeds", "2")
    done = call(*words, "--study", "x", "--seed-offset", "off", *train)
    assert done.code == 0, done.err
    same = "2 runs of the baseline with different seeds are the same run"
    assert done.err.count(same) == 1
    assert same in " ".join(done.out.split())
    done = call(*words, "--study", "y", *train)
    assert same not in done.err
    assert same not in " ".join(done.out.split())


def test_several_runs_at_once_are_warned_of_each_others_files(here, call, train):
    words = ("search", *SMALL[:-1], "--jobs", "2")
    done = call(*words, "--study", "x", *train)
    assert done.code == 0, done.err
    assert done.err.count("Several runs at once, and no {run_dir} in the command") == 1
    done = call(*words, "--study", "y", *train, "{run_dir}")
    assert "Several runs at once" not in done.err


# options, and the devices that the first run and the range tests see, and each job
DEVICES = [
    ((), {"3"}, {"3", "5"}),
    (("--gpus", "5,3"), {"5"}, {"3", "5"}),
    (("--jobs", "1"), {"3,5"}, {"3,5"}),
]


@pytest.mark.parametrize(("words", "first", "wanted"), DEVICES)
def test_the_command_of_each_job_sees_its_own_gpu(here, call, monkeypatch, words, first, wanted):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    see = "open(os.environ['LRTUNE_RUN_DIR'] + '/seen', 'w').write(os.environ[{!r}])"
    wait = "time.sleep(0.2)"  # long enough that both jobs get a run
    script = quadratic(here / "code", start=see.format("CUDA_VISIBLE_DEVICES"), epoch=wait)
    done = call("search", *SMALL, "--study", "x", *words, "--", *python(script))
    assert done.code == 0, done.err

    def seen_in(pattern):
        return {path.read_text() for path in here.glob(f".lrtune/runs/{pattern}/files/seen")}

    assert seen_in("recorded-*/run") == seen_in("x/sweep-*") == first
    assert seen_in("x/[bt]*") == wanted  # of the baseline and the trials


def test_looks_are_no_shorter_than_the_start_of_the_command(here, call):
    script = quadratic(here / "code", epochs="60", start="time.sleep(1)", epoch="time.sleep(0.05)")
    words = ("--metric", "val_loss", "--budget", "1", "--seeds", "1", "--confirm", "0")
    done = call("search", *words, "--study", "x", "--", *python(script))
    assert done.code == 0, done.err
    (start,) = re.findall(r"its start takes (\S+) s, an epoch (\S+) s", done.err)
    start_epochs = float(start[0]) / float(start[1])
    shortest = lrtune.load("x").state.config.looks[0]
    assert shortest.epochs == pytest.approx(start_epochs, rel=0.2)
    assert start_epochs > 12  # of 60 steps, which would be the shortest without it


@pytest.mark.slow
def test_children_that_outlive_the_command_are_ended(here, call):
    end = (
        "import subprocess\n"
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM; sleep 1000 & wait'])"
    )
    script = quadratic(here / "code", end=end)
    words = ("--metric", "val_loss", "--budget", "1", "--seeds", "1", "--confirm", "0", "--quiet")
    done = call("search", *words, "--study", "x", "--", *python(script))
    assert done.code == 0, done.err
    assert not alive(f"LRTUNE_RUN_DIR={here}")


BAD = {
    # what follows `search`, with what the message says
    "no command": (["--"], ["must follow after `--`"]),
    "a pattern that is none": (["--read", "(", "TRAIN"], ["not a valid regular expression"]),
    "a pattern without a group": (["--read", "loss", "TRAIN"], ["must have one group"]),
    "no such optimizer": (
        ["--optimizer-index", "5", "TRAIN"],
        ["`0 <= --optimizer-index <= 0` must hold, since the command has 1 optimizer, but got 5"],
    ),
    "a direction that is none": (
        ["--metric", "val_loss:down", "TRAIN"],
        ["NAME, NAME:max or NAME:min", "'val_loss:down'"],
    ),
    "a metric without a direction": (
        ["--metric", "fun", "TRAIN"],
        ["write fun:max if higher", "fun:min if lower"],
    ),
    "a metric that is not there": (
        ["--metric", "score:max", "TRAIN"],
        ["No value of `score` was seen", "val_loss"],
    ),
    "settings of our own loop": (
        ["--batch-size", "32", "--precision", "bf16", "TRAIN"],
        ["`--batch-size` is a setting of lrtune's own training", "`--precision` is a setting"],
    ),
    "a task as well": (["--task", "x.py", "TRAIN"], ["it does not go with `--task`"]),
    "data as well": (["--data", "digits", "TRAIN"], ["it does not go with `--data`"]),
    "an optimizer": (["--optimizer", "sgd", "TRAIN"], ["`--optimizer` does not go with a command"]),
    "more epochs": (
        ["--epochs", "99", "TRAIN"],
        ["`--epochs 99` may be fewer than the 8 epochs of the command itself, never more"],
    ),
    "lanes": (["--lanes", "2", "TRAIN"], ["`lanes` must be 1 for a command"]),
    "no such program": (["--", "nosuchprogram"], ["'nosuchprogram' could not be started"]),
    "no such script": (["--", *python("nosuch.py")], ["exit code 2", "nosuch.py"]),
    "a folder": (["--", "./code"], ["it is a folder"]),
    "a peak LR": (["TRAIN", "{peak_lr}"], ["{peak_lr} stands for nothing"]),
    "a misspelt placeholder": (
        ["TRAIN", "{epoch}", "{runs_dir}", "{other}"],
        ["{epoch} in the command stands for nothing; the nearest is {epochs}.", "{run_dir}."],
    ),
    "silence": (["--", "false"], ["the command ended with exit code 1 and printed nothing"]),
    "no torch": (["--", *python("-c", "print(1)")], ["No step of a torch optimizer was seen"]),
    "a home that is none": (
        ["--home", "/dev/null/x", "TRAIN"],
        ["`home` must be a folder that can"],
    ),
    "an out that is none": (["--out", "code/train.py/x", "TRAIN"], ["train.py is a file"]),
    "a CSV file that is not there": (["--read", "x.csv:y", "TRAIN"], ["wrote no CSV file"]),
    "all of it together": (
        ["--metric", "val_loss:down", "--space", "nosuch", "--budget", "lots", "TRAIN"],
        ["NAME, NAME:max", "`space` must be", "`budget` must look like"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_one_clear_message(here, call, train, case):
    words, messages = BAD[case]
    words = [other for word in words for other in (train if word == "TRAIN" else [word])]
    defaults = ("--budget", "3", "--metric", "val_loss", "--quiet")
    if "--metric" in words:
        defaults = ("--quiet",)
    refused = call("search", *defaults, *words)
    assert refused.code == 2, refused
    assert refused.out == ""
    assert all(message in refused.err for message in messages), refused.err
    assert all(refused.err.count(message) == 1 for message in messages), refused.err
    assert "Traceback" not in refused.err
    assert not (here / ".lrtune" / "lrtune.db").exists() or not lrtune.studies()
