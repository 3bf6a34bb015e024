"""`lrtune audit -- COMMAND`: what is wrong with the learning rates that a script uses by itself."""

import json
import sys

import pytest

import lrtune
from lrtune.cli import main
from tests.training.command.scripts import python

pytestmark = pytest.mark.slow  # each of them starts processes

HEAD = """
import torch
from torch.optim import lr_scheduler as lrs

EPOCHS, STEPS = 6, 10
data = torch.utils.data.DataLoader(torch.ones(2 * STEPS, 2), batch_size=2)


def train(name, build, *, each="step"):
    model = torch.nn.Linear(2, 1)
    optimizer = type(name, (torch.optim.SGD,), {})(model.parameters(), lr=0.1)
    scheduler = build(optimizer)
    for epoch in range(EPOCHS):
        for batch in data:
            if each == "before":
                scheduler.step()
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            if each == "step":
                scheduler.step()
        if each == "epoch":
            scheduler.step()
        print("epoch", epoch, "val_loss:", 1 / (epoch + 1))
"""
MANY = (
    HEAD
    + """
class Own(lrs.LRScheduler):
    def __init__(self, optimizer, length):
        self.length = length
        super().__init__(optimizer)

    def get_lr(self):
        return [lr * max(0.0, 1 - self.last_epoch / self.length) for lr in self.base_lrs]


def joined(o):
    rise = lrs.LinearLR(o, 0.01, total_iters=20)
    return lrs.SequentialLR(o, [rise, lrs.CosineAnnealingLR(o, 40)], [20])


train("Right", joined)
train("Once", joined, each="epoch")
train("InEpochs", lambda o: lrs.CosineAnnealingLR(o, 6))
train("Never", lambda o: lrs.CosineAnnealingLR(o, 60), each="")
train("First", lambda o: lrs.CosineAnnealingLR(o, 60), each="before")
train("Short", lambda o: Own(o, 30))
train("Chained", lambda o: lrs.ChainedScheduler([
    lrs.LinearLR(o, 0.1, total_iters=10), lrs.LambdaLR(o, lambda step: 1 - step / 60)
]))
"""
)


def audited(capsys, *words):
    """Runs `lrtune audit`, and returns its exit code and what it printed."""
    try:
        sys.argv = ["lrtune", "audit", *words]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr()


def findings(printed):
    """The names of the findings by the class of the optimizer."""
    return {
        audit["title"].split(", ")[1]: [finding["name"] for finding in audit["findings"]]
        for audit in json.loads(printed.out)["audits"]
    }


def test_the_schedulers_of_a_script_are_seen(here, capsys):
    (here / "many.py").write_text(MANY)
    code, printed = audited(capsys, "--json", "--", *python(here / "many.py"))
    assert findings(printed) == {
        "Right": [],
        "Once": ["warmup-once-an-epoch"],
        "InEpochs": ["counted-in-epochs"],
        "Never": ["never-changes"],
        "First": ["scheduler-before-optimizer"],
        "Short": ["ends-early"],
        "Chained": ["no-product"],
    }
    assert code == 1
    notes = [json.loads(printed.out)["notes"]]
    assert notes == [[]]


def test_a_script_that_is_right(here, capsys):
    (here / "train.py").write_text(f"{HEAD}\ntrain('SGD', lambda o: lrs.CosineAnnealingLR(o, 60))")
    code, printed = audited(capsys, "--", *python(here / "train.py"))
    assert code == 0
    assert printed.out.startswith("60 optimizer steps, SGD, CosineAnnealingLR called once a step\n")
    assert printed.out.endswith("The audit found nothing wrong.\n")


def test_a_script_is_ended_after_some_steps(here, capsys):
    (here / "train.py").write_text(
        f"{HEAD}\nEPOCHS = 10**9\ntrain('SGD', lambda o: lrs.CosineAnnealingLR(o, 10**9))"
    )
    code, printed = audited(capsys, "--steps", "100", "--", *python(here / "train.py"))
    assert code == 0
    said = "The command was ended after 100 steps: its length is not known."
    assert printed.out.startswith(f"{said}\n\n100 optimizer steps, SGD")


def test_a_search_tells_what_is_wrong_with_its_baseline(here, capsys):
    (here / "train.py").write_text(
        f"{HEAD}\ntrain('SGD', lambda o: lrs.LinearLR(o, 0.01, total_iters=30), each='epoch')"
    )
    command = lrtune.CommandLine(python(here / "train.py"))
    notes = []
    result = lrtune.search(
        command, metric="val_loss", budget=2, confirm="0", num_seeds=1,
        on_event=lambda event: notes.append(getattr(event, "text", "")), quiet=True,
    )  # fmt: skip
    said = "LinearLR is called once an epoch, but counts optimizer steps: its warmup takes 30 calls"
    (folder,) = (here / "reports").iterdir()
    for name in ("report.md", "report.html"):
        assert said in (folder / name).read_text()
    environment = result.state.config.environment
    assert said in environment["Wrong with the command's own learning rates"]
    assert any(said in note for note in notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "The command to train must follow after `--`."),
        (("--steps", "1", "--", "true"), "`2 <= --steps <= 1000000000` must hold, but got 1."),
        (("--", "python", "x.py", "{epochs}"), "{epochs} stands for nothing in an audit: write a "),
        (("--", sys.executable, "-c", "pass"), "No step of a torch optimizer was seen in the com"),
        (("--", sys.executable, "-c", "raise SystemExit(3)"), "the command ended with exit code 3"),
    ],
)
def test_what_cannot_be_audited_is_said(here, capsys, words, message):
    code, printed = audited(capsys, *words)
    assert code == 2
    assert printed.err.startswith(f"lrtune: {message}")
    assert "Traceback" not in printed.err


def test_a_python_that_cannot_import_lrtune_shows_its_lrs_alone(here, capsys, monkeypatch):
    monkeypatch.setattr("lrtune.training.command.steered.PACKAGES", here)
    (here / "lrtune").mkdir()
    (here / "lrtune" / "__init__.py").write_text("from typing import NotInAnyPython")
    (here / "train.py").write_text(f"{HEAD}\ntrain('SGD', lambda o: lrs.CosineAnnealingLR(o, 20))")
    monkeypatch.setenv("PYTHONPATH", str(here))  # before any lrtune that is installed
    code, printed = audited(capsys, "--", *python(here / "train.py"))
    assert printed.out.startswith("Its schedulers could not be seen by Python 3.")
    assert "WRONG: turns-up-again" in printed.out or "SUSPICIOUS: turns-up-again" in printed.out
    assert code in (0, 1)


@pytest.mark.peers
def test_the_trainers_of_the_libraries(here, capsys):
    for name in ("lightning", "transformers", "timm"):
        pytest.importorskip(name)
    (here / "trainers.py").write_text(TRAINERS)
    code, printed = audited(capsys, "--json", "--", *python(here / "trainers.py"))
    assert findings(printed) == {
        "Lightning": ["warmup-once-an-epoch"],
        "AdamW": [],
        "Timm": ["one-epoch-late"],
    }
    assert code == 1


TRAINERS = """
import lightning.pytorch as pl
import torch
import transformers
from timm.scheduler import CosineLRScheduler
from torch.optim import lr_scheduler as lrs


class Lightning(torch.optim.SGD):
    pass


class Timm(torch.optim.SGD):
    pass


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        optimizer = Lightning(self.parameters(), lr=0.1)
        return [optimizer], [lrs.LinearLR(optimizer, 0.01, total_iters=30)]


batches = torch.utils.data.DataLoader(torch.ones(20, 2), batch_size=2)
pl.Trainer(
    max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
).fit(Module(), batches)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, labels=None):
        return {"loss": self.layer(x).square().mean()}


transformers.Trainer(
    Net(),
    transformers.TrainingArguments(
        "out", num_train_epochs=5, per_device_train_batch_size=2, warmup_steps=10, use_cpu=True,
        lr_scheduler_type="cosine", report_to="none", save_strategy="no", learning_rate=0.1,
        remove_unused_columns=False,
    ),
    train_dataset=[{"x": torch.ones(2), "labels": torch.ones(1)} for _ in range(20)],
).train()

model = torch.nn.Linear(2, 1)
optimizer = Timm(model.parameters(), lr=0.1)
scheduler = CosineLRScheduler(optimizer, t_initial=5)
for epoch in range(5):
    for batch in batches:
        optimizer.step()
    scheduler.step(epoch)
"""


def test_a_scheduler_that_ends_the_command_is_what_is_wrong(here, capsys):
    (here / "train.py").write_text(
        f"{HEAD}\ntrain('SGD', lambda o: lrs.OneCycleLR(o, 0.1, total_steps=30))"
    )
    code, printed = audited(capsys, "--", *python(here / "train.py"))
    assert code == 1
    assert printed.out.startswith("The command ended with exit code 1. Its last lines were:\n")
    assert "WRONG: scheduler-raises\n  OneCycleLR raised at its call 31, after 31" in printed.out


def test_what_has_gone_wrong_by_some_steps_is_said(here, capsys):
    (here / "train.py").write_text(f"{HEAD}\ntrain('SGD', lambda o: lrs.CosineAnnealingLR(o, 6))")
    code, printed = audited(capsys, "--steps", "40", "--", *python(here / "train.py"))
    assert code == 1
    assert "WRONG: turns-up-again" in printed.out


BY_HAND = """
it = 0
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(EPOCHS):
    for batch in data:
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1, (it % STEPS + 1) / 8)
        model(batch).square().mean().backward()
        optimizer.step()
        it += 1
"""


def test_a_warmup_by_hand_that_begins_again_with_each_epoch(here, capsys):
    (here / "train.py").write_text(HEAD + BY_HAND)
    code, printed = audited(capsys, "--", *python(here / "train.py"))
    assert code == 1
    assert "WRONG: lr-jumps\n  The LR jumps from 0.1 at step 9 to 0.0125 at step 10" in printed.out
    assert "turns-up-again" not in printed.out
