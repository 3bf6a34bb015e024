"""Scripts in the styles of other people: they are read, and trained at the LRs of a recipe."""

import os
import stat
import subprocess

import pytest

from lrtune.core.decays import Cosine
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.sources import CommandLine
from tests.training.command.scripts import PYTHON, lrs_of, python, quadratic, same_lrs
from tests.training.command.test_training import recorded_by, run_of, trained, training_of

pytestmark = pytest.mark.slow  # each of them starts processes

MNIST = (
    'print(f"Train Epoch: {epoch} [0/60000 (0%)]\\tLoss: {loss:.6f}"); '
    'print(f"\\nTest set: Average loss: {val_loss:.4f}, '
    'Accuracy: {int(100 - 10 * val_loss)}/100 ({100 - 10 * val_loss:.0f}%)\\n")'
)
TORCHVISION = (
    'print(f"Epoch: [{epoch}]  [ 0/10]  eta: 0:00:11  lr: {lr}  img/s: 40.5  '
    'loss: 2.3 (2.3)  acc1: 10.5 (10.5)  time: 1.1  data: 0.2  max mem: 3"); '
    'print(f"Test:   [ 0/10]  eta: 0:00:01  loss: {val_loss:.4f} (2.0)  acc1: 9.0 (9.0)"); '
    'print(f"Test:  Acc@1 {99 - val_loss:.3f} Acc@5 99.0")'
)
TIMM = (
    'print(f"Train: {epoch} [   0/100 (  0%)]  Loss: {loss:.3f} (1.2)  '
    'LR: {lr:.3e}  Data: 0.010 (0.010)"); '
    'print(f"Test: [   1/1]  Time: 0.1 (0.1)  Loss:  {val_loss:>7.4f} (1.0)  '
    'Acc@1:  90.000 ({99 - val_loss:>7.3f})", file=sys.stderr); '
    "rows.append([epoch, loss, val_loss, 99 - val_loss]); write()"
)
TIMM_START = """
rows = [["epoch", "train_loss", "eval_loss", "eval_top1"]]
def write():
    with open(os.path.join(os.environ["LRTUNE_RUN_DIR"], "summary.csv"), "w") as file:
        file.writelines(",".join(map(str, row)) + "\\n" for row in rows)
"""
NANOGPT_START = """
print(f"step 0: train loss {4.0:.4f}, val loss {4.1:.4f}")
"""
NANOGPT = (
    'print(f"iter {5 * epoch}: loss {loss:.4f}, time 11.50ms, mfu 1.20%"); '
    'print(f"step {5 * epoch + 5}: train loss {loss:.4f}, val loss {val_loss:.4f}"); '
    'optimizer.param_groups[0]["lr"] = 0.03 * 0.9 ** epoch'
)
TQDM = (
    '[sys.stderr.write(f"\\r{10 * i}%|## | {i}/10 [00:0{i}<00:01, 3.1it/s, val_loss=9.9]") '
    'for i in range(10)]; sys.stderr.write("\\n"); print(f"val_loss={val_loss:.5f}")'
)

STYLES = {
    # changes of the script, the metric, and how it is read
    "pytorch/examples, loss": ({"show": MNIST}, "average loss:min", ""),
    "pytorch/examples, accuracy": ({"show": MNIST}, "accuracy:max", ""),
    "torchvision's references": ({"show": TORCHVISION}, "acc@1:max", ""),
    "timm, its lines": (
        {"show": TIMM, "start": TIMM_START}, "acc@1:max", "",
    ),
    "timm, its CSV file": (
        {"show": TIMM + "; time.sleep(0.3)", "start": TIMM_START},
        "eval_top1:max",
        "{run_dir}/summary.csv:eval_top1",
    ),
    "nanoGPT": ({"show": NANOGPT, "start": NANOGPT_START}, "val loss:min", ""),
    "tqdm": ({"show": TQDM}, "val_loss:min", ""),
    "a pattern": (
        {"show": 'print(f"Result >>{val_loss}<<")'}, "score:min", r"Result >>(\S+)<<",
    ),
    "JSON lines": (
        {"show": 'print(json.dumps({"epoch": epoch, "val_loss": val_loss}))'}, "val_loss:min", "",
    ),
    "logging": (
        {
            "start": "import logging; logging.basicConfig(level=20, "
            "format='%(asctime)s %(levelname)s %(name)s: %(message)s')",
            "show": 'logging.info("epoch %d: val_loss %.4f", epoch, val_loss)',
        },
        "val_loss:min",
        "",
    ),
    "lrtune.report": (
        {"start": "import lrtune", "show": "lrtune.report(f1=1 - val_loss)"}, "f1:max", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_read_and_trained(style, here):
    changes, metric, read = STYLES[style]
    command = CommandLine(python(quadratic(here / "code", **changes)), read=read)
    training = training_of(command, here, objective=Objective.parse(metric))
    assert training.recorded.epochs == 8
    run = run_of(Recipe(peak_lr=0.4, decay=Cosine()), 8)
    measurements, lrs = trained(training, run)
    assert same_lrs(lrs_of(here / "runs" / run.id), lrs)
    assert len(measurements) == 8
    name = training.objective.metric
    own = training.recorded.measurements[-1].metrics[name]
    best = measurements[-1].metrics[name]
    assert best > own if metric.endswith("max") else best < own
    if "CSV" not in style:  # whose rows have no steps
        assert [m.step for m in measurements] == list(range(5, 41, 5))


# --- whatever starts Python


def script_started_by(folder, words):
    training = training_of(CommandLine(words), folder)
    run = run_of(Recipe(peak_lr=0.4, decay=Cosine()), 8)
    _, lrs = trained(training, run)
    assert same_lrs(lrs_of(folder / "runs" / run.id), lrs)


def test_a_shell_script(here):
    script = quadratic(here / "code")
    starter = here / "train.sh"
    starter.write_text(f'#!/bin/sh\necho "epoch 0: ready"\n"{PYTHON}" {script} "$@"\n')
    starter.chmod(starter.stat().st_mode | stat.S_IXUSR)
    script_started_by(here, ("./train.sh",))


def test_a_module_of_a_package(here):
    quadratic(here / "code")
    (here / "package").mkdir()
    (here / "package" / "__init__.py").touch()
    (here / "package" / "train.py").write_text((here / "code" / "train.py").read_text())
    (here / "torch").symlink_to(here / "code" / "torch")
    script_started_by(here, (PYTHON, "-m", "package.train"))


def test_another_environment_that_does_not_have_lrtune(here, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    made = [PYTHON, "-m", "venv", "--without-pip", here / "env"]
    subprocess.run(made, check=True)
    start = "import lrtune; assert 'stub' in lrtune.__file__, lrtune.__file__"
    other = here / "env" / "bin" / "python"
    script = quadratic(here / "code", start=start, show="lrtune.report(val_loss=val_loss)")
    script_started_by(here, (str(other), str(script)))


def test_a_script_that_reads_its_own_lr_sees_its_own(here):
    """Its scheduler, its logs and its checks see what they always saw."""
    epoch = "assert lr == 0.03 * 0.5 ** epoch; optimizer.param_groups[0]['lr'] *= 0.5"
    script_started_by(here, python(quadratic(here / "code", epoch=epoch)))


# --- torch itself

REAL = """
import json, os
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(1)
data = torch.randn(96, 4)
target = (data @ torch.randn(4, 1)).squeeze(1)
net, critic = nn.Linear(4, 1), nn.Linear(4, 1)
def mean_of(average, value, count):
    return 0.9 * average + 0.1 * value
average = torch.optim.swa_utils.AveragedModel(net, avg_fn=mean_of)
first = torch.optim.AdamW([
    {"params": [net.weight], "lr": 0.004, "weight_decay": 0.0},
    {"params": [net.bias], "lr": 0.001, "weight_decay": 0.0},
])
second = torch.optim.SGD(critic.parameters(), lr=0.002)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(first, 24)
probes = [nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(3)]
for probe, optimizer, place in zip(probes, (first, first, second), (0, 1, 0)):
    optimizer.param_groups[place]["params"].append(probe)
LRS = []
for epoch in range(4):
    for start in range(0, 96, 16):
        part = slice(start, start + 16)
        for optimizer, model in ((first, net), (second, critic)):
            optimizer.zero_grad()
            loss = ((model(data[part]).squeeze(1) - target[part]) ** 2).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for probe in probes:
                probe.grad = torch.ones_like(probe)
            before = [probe.item() for probe in probes]
            optimizer.step()
            if optimizer is second:
                LRS[-1].append(before[2] - probes[2].item())
            else:
                LRS.append([before[i] - probes[i].item() for i in range(2)])
        schedule.step()
        average.update_parameters(net)
    with torch.no_grad():
        loss = ((average(data).squeeze(1) - target) ** 2).mean()
    print(f"epoch {epoch}: val_loss {loss.item():.5f}")
if "LRTUNE_RUN_DIR" in os.environ:
    with open(os.path.join(os.environ["LRTUNE_RUN_DIR"], "lrs.json"), "w") as file:
        json.dump(LRS, file)
"""


@pytest.mark.slow
def test_two_optimizers_with_groups_a_schedule_clipping_and_averages(here):
    (here / "train.py").write_text(REAL)
    training = training_of(CommandLine(python(here / "train.py")), here)
    recorded = training.recorded
    assert recorded.ratios == ((1.0, 0.25), (0.5,))
    assert recorded.known_optimizer == "adamw"
    assert (recorded.epochs, recorded.steps_per_epoch) == (4, 6)
    run = run_of(Recipe(optimizer="adamw", peak_lr=0.02, weight_decay=0.0, decay=Cosine()), 4)
    _, lrs = trained(training, run)
    noted = lrs_of(here / "runs" / run.id)
    for place, ratio in enumerate((1.0, 0.25, 0.5)):
        found = [row[place] for row in noted]
        # A constant gradient makes Adam's steps as long as its LR, but for its epsilon.
        assert found == pytest.approx([lr * ratio for lr in lrs], rel=1e-5, abs=1e-9)


def test_a_steering_of_one_of_several_optimizers(here):
    start = "other = torch.optim.SGD([{'value': 1.0, 'grad': 1.0}], lr=0.5)"
    epoch = "other.step()"
    command = CommandLine(python(quadratic(here / "code", start=start, epoch=epoch)))
    recorded = recorded_by(command, here)
    assert recorded.ratios == ((1.0,), (0.5 / 0.03,))


@pytest.mark.slow
def test_output_of_300_mb_is_bounded(here):
    size = int(os.environ.get("LRTUNE_TEST_MB", "300"))
    epoch = f"[sys.stdout.write('x' * 99 + '\\n') for _ in range({size} * 10**4 // 8)]"
    command = CommandLine(python(quadratic(here / "code", epoch=epoch)))
    recorded = recorded_by(command, here)
    assert recorded.epochs == 8
    folder = here / "recorded" / "run"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 40 * 2**20
