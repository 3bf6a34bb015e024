"""Commands as trainings: what the first run tells, runs at set learning rates, and sweeps."""

import math
import time
from dataclasses import replace
from threading import Thread

import pytest

from lrtune.core.decays import Cosine
from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.core.sources import CommandLine
from lrtune.schedules.build import build_schedule
from lrtune.training.command.recording import First, Recorded, alone, peek, record, steerable_in
from lrtune.training.command.run_files import (
    Groups,
    SteeredGroup,
    SteeredOptimizer,
    Step,
    Steps,
)
from lrtune.training.command.training import CommandTraining
from lrtune.training.task import describe_source
from tests.training.command.scripts import lrs_of, python, quadratic, same_lrs

VAL_LOSS = Objective.parse("val_loss:min")


def recorded_by(command, folder, *, objective=VAL_LOSS, seed=1, timeout_s=0.0, tell=None):
    return record(
        command,
        objective,
        First(seed=seed),
        folder=folder / "recorded",
        timeout_s=timeout_s,
        tell=tell or (lambda text: None),
    )


def training_of(command, folder, *, objective=VAL_LOSS, recorded=None, timeout_s=0.0):
    return CommandTraining(
        command=command,
        description=describe_source(command),
        recorded=recorded or recorded_by(command, folder, objective=objective),
        objective=objective,
        folder=folder / "runs",
        threads=1,
        timeout_s=timeout_s,
    )


def run_of(recipe, epochs, *, seed=5, stop=None):
    return Run(
        id="trial-0000",
        kind="full",
        trial=0,
        recipe=recipe,
        recipe_epochs=epochs,
        horizon_epochs=epochs,
        stop_epochs=stop or epochs,
        seed=seed,
    )


def trained(training, run):
    """The measurements of a run, and the LRs that its recipe has."""
    schedule = build_schedule(
        run.recipe, epochs=run.horizon_epochs, steps_per_epoch=training.recorded.steps_per_epoch
    )
    steps = range(schedule.total_steps)
    return list(training.train(run, schedule)), [run.recipe.peak_lr * schedule(s) for s in steps]


@pytest.fixture
def command(here):
    """A command whose optimum is known."""
    return CommandLine(python(quadratic(here / "code")))


# --- the first run


def test_the_first_run_tells_all_that_a_search_needs_to_know(command, here):
    said = []
    recorded = recorded_by(command, here, tell=said.append)
    assert (recorded.epochs, recorded.steps_per_epoch, recorded.num_steps) == (8, 5, 40)
    steps = Steps(here / "recorded" / "run" / "steps.bin").read()
    assert [step.lr for step in steps] == [0.03] * 40
    assert (recorded.peak_lr, recorded.known_optimizer, recorded.ratios) == (0.03, "own", ((1.0,),))
    assert recorded.measurements[-1].metrics["val_loss"] == pytest.approx(0.41, abs=0.05)
    assert [m.step for m in recorded.measurements] == list(range(5, 41, 5))
    assert said == [f"first run of `{command.text}`: as it is, with its learning rates recorded"]
    assert repr(Recorded.load(here / "recorded" / "recorded-val-loss.json")) == repr(recorded)


def test_a_metric_that_is_not_named_is_found_where_it_is_obvious(command, here):
    said = []
    recorded = recorded_by(command, here, objective=None, tell=said.append)
    assert recorded.objective == "val_loss:min"
    assert "val_loss:min" in said[-1]


def test_a_run_that_did_not_show_the_metric_is_not_made_again_for_another_one(here):
    start = "open('starts', 'a').write('x')"
    show = (
        "print(f'val_loss: {val_loss}'); "
        "file = open(os.environ['LRTUNE_RUN_DIR'] + '/a.csv', 'a'); "
        "print(*(['epoch,f1\\n'] * (epoch == 0)), f'{epoch},{1 - val_loss}', sep='', file=file); "
        "file.close()"
    )
    command = CommandLine(python(quadratic(here / "code", start=start, show=show)))
    with pytest.raises(InputError, match=r"No value of `f1` was seen\. Seen were: val_loss"):
        recorded_by(command, here, objective=Objective.parse("f1:max"))
    said = []
    by_loss = recorded_by(command, here, tell=said.append)
    assert said == [f"first run of `{command.text}`: read again"]
    obvious = recorded_by(command, here, objective=None)
    by_csv = recorded_by(
        replace(command, read="{run_dir}/a.csv:f1"), here, objective=Objective.parse("f1:max")
    )
    assert (here / "starts").read_text() == "x"
    assert by_loss.measurements == obvious.measurements
    steps = [m.step for m in by_loss.measurements]
    assert steps == [m.step for m in by_csv.measurements] == list(range(5, 41, 5))
    for one, other in zip(by_loss.measurements, by_csv.measurements, strict=True):
        assert one.metrics["val_loss"] == pytest.approx(1 - other.metrics["f1"])
    assert sum(m.seconds for m in by_loss.measurements) < 60
    recorded_by(command, here, seed=2)
    with pytest.raises(InputError, match="wrote no CSV file"):
        recorded_by(replace(command, read="other.csv:f1"), here, objective=Objective.parse("f1"))
    assert (here / "starts").read_text() == "xxx"


def test_two_that_make_the_first_run_at_once_do_so_one_after_the_other(here):
    said, done = [], []

    def second():
        with alone(here / "recorded", said.append):
            done.append("second")

    with alone(here / "recorded", said.append):
        thread = Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        done.append("first")
    thread.join()
    assert said == ["another lrtune makes the first run of this command: waiting for it"]
    assert done == ["first", "second"]


def test_two_metrics_without_a_name_are_listed(here):
    show = 'print(f"val_loss {val_loss:.4f} val_acc {1 - val_loss:.4f}")'
    command = CommandLine(python(quadratic(here / "code", show=show)))
    with pytest.raises(InputError, match=r"must name what decides.*val_loss.*val_acc"):
        recorded_by(command, here, objective=None)


def test_a_peek_ends_after_so_many_steps(here):
    script = quadratic(here / "code", epochs="10**6", epoch="time.sleep(0.05)")
    steerable = peek(CommandLine(python(script)), num_steps=20, folder=here / "peek", seed=0)
    assert 20 <= steerable.num_steps < 10**4
    assert steerable.peak_lr == 0.03


ENDS_BADLY = {
    # what is wrong, with what the message says
    "exit at the start": ({"start": "sys.exit('no data')"}, ["exit code 1", "no data"]),
    "exit in an epoch": (
        {"epoch": "assert epoch < 3, 'out of luck'"},
        ["exit code 1", "out of luck"],
    ),
    "killed": ({"epoch": "os.kill(os.getpid(), 9)"}, ["signal 9 (SIGKILL)"]),
    "no optimizer": ({"lr": "sys.exit(0)"}, ["No step of a torch optimizer was seen"]),
    "an LR of 0": ({"lr": "0.0", "epoch": "params[0]['grad'] = 1.0"}, ["was 0 at every step"]),
    "no metric": (
        {"show": 'print(f"step {epoch} lr {lr}, train loss {val_loss}")'},
        ["No value of `val_loss` was seen", "train loss"],
    ),
    "nothing printed": ({"show": "pass"}, ["The command printed and reported no values"]),
    "only before": (
        {"start": "print('val_loss 3.0')", "show": "pass"},
        ["only before the first optimizer step"],
    ),
}


@pytest.mark.parametrize("case", ENDS_BADLY)
def test_a_first_run_that_ends_badly_says_how(case, here):
    changes, words = ENDS_BADLY[case]
    command = CommandLine(python(quadratic(here / "code", **changes)))
    with pytest.raises((TaskError, InputError)) as raised:
        recorded_by(command, here)
    message = str(raised.value)
    assert all(word in message for word in words), message
    lines = message.splitlines()
    assert len(lines) == len(set(lines)), message  # nothing is said twice
    assert not list((here / "recorded").glob("*.json"))


def test_without_torch_the_message_says_what_is_missing(here):
    (here / "train.py").write_text("print('val_loss: 0.3')")
    with pytest.raises(TaskError, match="No step of a torch optimizer was seen"):
        recorded_by(CommandLine(python(here / "train.py")), here)


def test_the_lr_and_the_weight_decay_of_a_command_are_the_largest_of_its_groups():
    """The others keep their ratio to them."""
    groups = tuple(
        SteeredGroup(name=None, lr=lr, max_lr=lr, weight_decay=weight_decay)
        for lr, weight_decay in ((0.01, None), (0.04, 0.05), (0.02, 0.1))
    )
    optimizer = SteeredOptimizer(class_name="AdamW", module="torch", num_steps=1, groups=groups)
    seen = Groups(torch="2.0", python="3.8", optimizers=(optimizer,))
    found = steerable_in(seen, [Step(0.04, 1.0)], CommandLine(("python", "a.py")))
    assert (found.peak_lr, found.weight_decay) == (0.04, 0.1)
    assert found.ratios == ((0.25, 1.0, 0.5),)


def test_an_optimizer_that_is_not_there_is_named(here, command):
    with pytest.raises(InputError, match=r"the command has 1 optimizer, but got 5"):
        recorded_by(replace(command, optimizer_index=5), here)


# --- runs


def test_each_real_step_has_the_lr_of_the_recipe(command, here):
    training = training_of(command, here)
    run = run_of(Recipe(peak_lr=0.4, warmup_epochs=1, decay=Cosine()), 8)
    measurements, lrs = trained(training, run)
    assert same_lrs(lrs_of(here / "runs" / run.id), lrs)
    assert [m.epoch for m in measurements] == list(range(1, 9))
    assert [m.lr_first for m in measurements] == lrs[::5]
    assert [m.lr_last for m in measurements] == lrs[4::5]
    assert measurements[-1].metrics["val_loss"] < 0.02


def test_a_compressed_run_is_ended_after_its_last_epoch(here):
    script = quadratic(here / "code", epoch="time.sleep(0.3)", end="open('ended', 'w')")
    training = training_of(CommandLine(python(script)), here)
    (here / "ended").unlink()
    run = run_of(Recipe(peak_lr=0.4, decay=Cosine()), 2)
    measurements, lrs = trained(training, run)
    assert [m.step for m in measurements] == [5, 10]
    noted = lrs_of(here / "runs" / run.id)
    assert same_lrs(noted[:10], lrs)
    assert set(noted[10:]) <= {noted[9]} or same_lrs(noted[10:], [lrs[-1]] * len(noted[10:]))
    assert not (here / "ended").exists()


@pytest.mark.parametrize(
    "show",
    ["\n    if not lrtune.report(val_loss=val_loss): break", "lrtune.report(val_loss=val_loss)"],
)
def test_a_command_that_asks_is_told_to_stop_and_may_write_what_it_has(here, show):
    """One that trains on nevertheless is ended."""
    end = "time.sleep(0.5); open(os.environ['LRTUNE_RUN_DIR'] + '/saved', 'w').write(str(epoch))"
    lines = {"start": "import lrtune", "show": show, "epochs": "100", "end": end}
    training = training_of(CommandLine(python(quadratic(here / "code", **lines))), here)
    measurements, lrs = trained(training, run_of(Recipe(peak_lr=0.4, decay=Cosine()), 3))
    assert [m.step for m in measurements] == [5, 10, 15]
    folder = here / "runs" / "trial-0000"
    assert same_lrs(lrs_of(folder)[:10], lrs[:10])
    assert (folder / "files" / "saved").exists() == ("break" in show)
    own = run_of(training.recorded.baseline, 100, seed=7)
    assert len(list(training.train(own, lambda step: math.nan))) == 100
    assert (folder / "files" / "saved").read_text() == "99"


def test_one_seed_trains_the_same_and_another_does_not(command, here):
    training = training_of(command, here)
    recipe = Recipe(peak_lr=0.1)
    first, again, other = (
        [m.metrics["val_loss"] for m in trained(training, run_of(recipe, 8, seed=seed))[0]]
        for seed in (5, 5, 6)
    )
    assert first == again != other


def test_the_baseline_of_the_first_seed_is_not_trained_again(command, here):
    training = training_of(command, here)
    own = training.recorded.baseline
    measurements = list(training.train(run_of(own, 8, seed=1), lambda step: math.nan))
    assert tuple(measurements) == training.recorded.measurements
    assert not (here / "runs").exists()


def test_the_baseline_of_another_seed_keeps_its_own_lrs(here):
    lr = "0.03"
    epoch = "optimizer.param_groups[0]['lr'] *= 0.5"
    training = training_of(CommandLine(python(quadratic(here / "code", lr=lr, epoch=epoch))), here)
    list(training.train(run_of(training.recorded.baseline, 8, seed=2), lambda step: math.nan))
    expected = [0.03 * 0.5 ** (step // 5) for step in range(40)]
    assert same_lrs(lrs_of(here / "runs" / "trial-0000"), expected)


def test_early_stopping_by_the_script_itself_ends_a_run_there(here):
    epoch = "if lr == 0.03 and params[0]['value'] < 0.5: print(f'val_loss {val_loss}'); break"
    training = training_of(CommandLine(python(quadratic(here / "code", epoch=epoch))), here)
    assert training.recorded.epochs == 8
    measurements, _ = trained(training, run_of(Recipe(peak_lr=0.3), 8))
    assert len(measurements) == 8
    real = [m for m in measurements if not m.reused]
    assert 1 <= len(real) < 8
    assert all(m.metrics == real[-1].metrics for m in measurements[len(real) :])


def test_a_diverged_run_has_a_loss_that_is_not_finite(here):
    show = "print(f\"val_loss: {val_loss if val_loss < 1e3 else float('nan')}\")"
    training = training_of(CommandLine(python(quadratic(here / "code", show=show))), here)
    measurements, _ = trained(training, run_of(Recipe(peak_lr=3.0), 8))
    assert any(m.diverged for m in measurements)


RUNS_BADLY = {
    "exit code": ("assert LRS[0] < 0.1, 'out of luck'", "exit code 1.*out of luck"),
    "os._exit before an epoch": ("LRS[0] < 0.1 or os._exit(0)", "without a value of `val_loss`"),
    "a hang": ("LRS[0] < 0.1 or time.sleep(100)", "gave no value of `val_loss` for 0.5 s"),
}


@pytest.mark.parametrize("case", RUNS_BADLY)
def test_a_run_that_ends_badly_says_how(case, here):
    epoch, message = RUNS_BADLY[case]
    command = CommandLine(python(quadratic(here / "code", epoch=epoch)))
    training = training_of(command, here, timeout_s=0.5)
    with pytest.raises(TrialError, match=message):
        trained(training, run_of(Recipe(peak_lr=0.4), 8))


def test_a_value_before_the_first_step_is_no_epoch(here):
    show = 'print(f"val_loss {val_loss:.4f}")'
    start = "print('val_loss 3.0')"
    script = quadratic(here / "code", start=start, show=show)
    training = training_of(CommandLine(python(script)), here)
    assert training.recorded.epochs == 8
    assert training.recorded.series.source == "output"
    measurements, _ = trained(training, run_of(Recipe(peak_lr=0.4), 8))
    assert [m.step for m in measurements] == list(range(5, 41, 5))


def test_an_lr_that_the_script_changes_within_its_step_ends_the_run(here):
    start = (
        "class Noting(Noting):\n"
        "    def update(self):\n"
        "        super().update()\n"
        "        self.param_groups[0]['lr'] = 0.7\n"
    )
    training = training_of(CommandLine(python(quadratic(here / "code", start=start))), here)
    with pytest.raises(TrialError, match=r"at step 0 was 0\.7, and not 0\.4 as it was set"):
        trained(training, run_of(Recipe(peak_lr=0.4), 8))


# --- sweeps


def test_a_sweep_ends_where_the_loss_goes_away(command, here):
    training = training_of(command, here)
    curve = training.sweep(training.recorded.baseline, seed=3, low=1e-3, high=100.0)
    assert curve.diverged
    assert 10 < len(curve.losses) < 40
    assert curve.lrs[0] == pytest.approx(1e-3)
    assert all(map(math.isfinite, curve.losses))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "`0 < low < high` must hold"),
        ({"num_steps": 2}, "<= num_steps` must hold"),
    ],
)
def test_a_sweep_with_impossible_bounds_is_refused(command, here, bounds, message):
    training = training_of(command, here)
    with pytest.raises(InputError, match=message):
        training.sweep(training.recorded.baseline, seed=3, **bounds)
