"""The part that runs inside a steered command: real scripts, each in a process of its own.

What a step really used is recorded by the scripts themselves, inside the `step()` of the optimizer.
"""

import array
import ast
import json
import math
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.command.scripts import PYTHON, needs

pytestmark = pytest.mark.slow  # each of them starts a Python with torch
ROOT = Path(__file__).parents[3]
CHILD = ROOT / "lrtune" / "training" / "command" / "child"
TABLE = [0.01 * (1 + step % 7) for step in range(12)]
"""LRs that no scheduler would come to."""

RECORDING = """
import json, os, torch

USED = []

def record(kind):
    '''A subclass of an optimizer whose step notes the LRs that it runs with.'''
    inner = kind.step
    def step(self, closure=None):
        USED.append([float(group["lr"]) for group in self.param_groups])
        return inner(self, closure)
    return type(kind.__name__, (kind,), {"step": step})

torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Linear(3, 1)
data = torch.randn(16, 3)
def loss_of(scale=1.0):
    return (model(data) - 1).square().mean() * scale
def show(**more):
    print("SHOWN " + json.dumps({"used": USED, **more}))
"""


@dataclass(frozen=True)
class Ran:
    """What a script came to, and the run folder."""

    done: subprocess.CompletedProcess
    folder: Path

    @property
    def shown(self):
        """What `show()` has printed."""
        (line,) = [x for x in self.done.stdout.splitlines() if x.startswith("SHOWN ")]
        return json.loads(line[len("SHOWN ") :])

    @property
    def used(self):
        return self.shown["used"]

    @property
    def steps(self):
        """LR and loss of each step, as written."""
        return np.fromfile(self.folder / "steps.bin", "<f8").reshape(-1, 2)

    @property
    def board(self):
        magic, *values = struct.unpack("<8sQddQ", (self.folder / "board.bin").read_bytes()[:40])
        assert magic == b"LRTUNE1\0"
        return values

    @property
    def optimizers(self):
        return self.json("groups.json")["optimizers"]

    def json(self, name):
        return json.loads((self.folder / name).read_text())

    def lines(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def files(self):
        """The names of what was written."""
        return {path.name for path in self.folder.iterdir()} - {"plan.json", "table.bin", "files"}


def start(folder, words, *, plan=None, table=TABLE, environment=None):
    """Runs a command as lrtune would."""
    folder = folder / "run"
    (folder / "files").mkdir(parents=True)
    if isinstance(plan, str):
        (folder / "plan.json").write_text(plan)
    elif plan is not False:
        document = {"version": 1, "mode": "set", "seed_offset": None, **(plan or {})}
        (folder / "plan.json").write_text(json.dumps(document))
        (folder / "table.bin").write_bytes(array.array("d", table).tobytes())
    paths = [str(CHILD), *(environment or {}).pop("PYTHONPATH", "").split(os.pathsep)]
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RANK")}
    done = subprocess.run(
        words,
        env={
            **inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "LRTUNE_STEER": str(folder), "LRTUNE_RUN_DIR": str(folder / "files"),
            "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **(environment or {}),
        },
        cwd=folder.parent, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return Ran(done, folder)


@pytest.fixture
def run(tmp_path):
    """`run(code, plan={...})` runs a script that is steered and must end well."""

    def run_script(code, *, fails=False, head=RECORDING, errors=False, **options):
        (tmp_path / "script.py").write_text(head + code)
        ran = start(tmp_path, [PYTHON, "script.py"], **options)
        assert fails or ran.done.returncode == 0, ran.done.stderr
        log = ran.folder / "child-errors.log"
        assert errors == log.exists(), log.read_text() if log.exists() else "no error"
        return ran

    return run_script


def expected(ratios, num_steps, table=TABLE):
    """The LRs of each group at each step."""
    lrs = [*table, *[table[-1]] * num_steps][:num_steps]
    return [[pytest.approx(lr * ratio, rel=1e-6) for ratio in ratios] for lr in lrs]


# ---- LRs


def test_a_plain_loop_with_a_scheduler_two_groups_and_accumulation(run):
    ran = run(
        """
kind = record(torch.optim.SGD)
optimizer = kind([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}], lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
seen, losses = [], []
for step in range(15):
    total = 0.0
    for _ in range(2):
        loss = loss_of(0.5)
        loss.backward()
        total += loss.item()
    losses.append(total)
    seen.append([group["lr"] for group in optimizer.param_groups])
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()
show(seen=seen, losses=losses)
""",
        plan={"ratios": [[1.0, 0.1]]},
    )
    assert ran.used == expected([1.0, 0.1], 15)
    own = [0.1 * 0.5 ** (step // 4) for step in range(15)]
    assert ran.shown["seen"] == [[pytest.approx(lr), pytest.approx(lr / 10)] for lr in own]
    assert ran.steps[:, 0].tolist() == [lr for (lr,) in expected([1.0], 15)]
    assert ran.steps[:, 1] == pytest.approx(ran.shown["losses"])
    num_steps, lr, loss, pid = ran.board
    assert (num_steps, lr) == (15, pytest.approx(TABLE[-1]))
    assert loss == pytest.approx(ran.shown["losses"][-1])
    assert (ran.folder / "writer").read_text() == str(pid)
    (optimizer,) = ran.optimizers
    assert (optimizer["class"], optimizer["num_steps"]) == ("SGD", 15)
    assert [group["max_lr"] for group in optimizer["groups"]] == [0.1, 0.01]


def test_the_values_written_are_the_exact_products(run):
    ran = run(
        """
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
for step in range(12):
    loss_of().backward(); optimizer.step()
show()
""",
        plan={"ratios": [[0.3]]},
    )
    assert ran.used == [[lr * 0.3] for lr in TABLE]


def test_a_script_that_writes_its_lr_by_hand_at_each_step(run):
    ran = run(
        """
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.0)
for step in range(10):
    for group in optimizer.param_groups:
        group["lr"] = 0.5 / (1 + step)
    loss_of().backward(); optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5 / (1 + step)
show()
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.used == expected([1.0], 10)
    assert ran.optimizers[0]["groups"][0] == {
        "name": None, "lr": 0.5, "max_lr": 0.5, "weight_decay": 0.0,
    }  # fmt: skip


TENSOR = """
lr = torch.tensor(0.1)
optimizer = record(torch.optim.AdamW)(
    [{{"params": [model.weight]}}, {{"params": [model.bias]}}], lr=lr, {options}
)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
same = []
for step in range(10):
    own = optimizer.param_groups[0]["lr"]
    loss_of().backward(); optimizer.step()
    same.append(optimizer.param_groups[0]["lr"] is own)
    scheduler.step()
show(same=all(same), own=float(optimizer.param_groups[0]["lr"]))
"""


@pytest.mark.parametrize("options", ["fused=True", "foreach=False", ""])
def test_a_tensor_is_written_in_place_and_put_back(run, options):
    if "fused" in options:
        needs("torch>=2.4")  # before, only on a GPU
    ran = run(TENSOR.format(options=options), plan={"ratios": [[1.0, 0.5]]})
    assert ran.used == expected([1.0, 0.5], 10)
    assert ran.shown["same"]
    # Both groups share the tensor, which some versions of torch multiply once for each of them.
    assert ran.shown["own"] == pytest.approx(0.1 * 0.5**4) or ran.shown["own"] == pytest.approx(
        0.1 * 0.5**2
    )


def test_foreach(run):
    ran = run(
        """
optimizer = record(torch.optim.Adam)(model.parameters(), lr=0.1, foreach=True)
for step in range(6):
    loss_of().backward(); optimizer.step()
show()
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.used == expected([1.0], 6)


@pytest.mark.parametrize("kind", ["SGD", "LBFGS"])
def test_a_closure(run, kind):
    ran = run(
        f"""
optimizer = record(torch.optim.{kind})(model.parameters(), lr=0.1)
losses = []
def closure():
    optimizer.zero_grad()
    loss = loss_of(); loss.backward()
    return loss
for step in range(6):
    losses.append(float(optimizer.step(closure)))
show(losses=losses)
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.used == expected([1.0], 6)
    assert ran.steps[:, 1] == pytest.approx(ran.shown["losses"])


WRAPPER = """
class Lookahead(torch.optim.Optimizer):
    def __init__(self, inner, share):
        self.inner = inner
        groups = inner.param_groups
        super().__init__(groups if share else [dict(group) for group in groups], {{}})
    def step(self, closure=None):
        if not {share}:
            for own, group in zip(self.param_groups, self.inner.param_groups):
                group["momentum"] = own["momentum"]
        loss = self.inner.step(closure)
        if len(USED) % 5 == 0:
            with torch.no_grad():
                model.weight.mul_(0.9)
        return loss
optimizer = Lookahead(record(torch.optim.SGD)(model.parameters(), lr=0.1), {share})
for step in range(10):
    loss_of().backward(); optimizer.step()
show(own=[optimizer.param_groups[0]["lr"], optimizer.inner.param_groups[0]["lr"]])
"""


@pytest.mark.parametrize("share", [True, False])
def test_a_step_inside_another_one_is_steered_and_counted_once(run, share):
    ran = run(WRAPPER.format(share=share), plan={"ratios": [[1.0], [1.0]]})
    assert ran.used == expected([1.0], 10)
    assert ran.shown["own"] == [0.1, 0.1]
    assert ran.board[0] == 10
    assert len(ran.steps) == 10
    counts = [(optimizer["num_steps"], optimizer["inside"]) for optimizer in ran.optimizers]
    assert counts == ([(10, None)] if share else [(10, None), (10, 0)])


def test_a_subclass_that_calls_its_parents_step_is_counted_once(run):
    ran = run(
        """
class Twice(torch.optim.SGD):
    def step(self, closure=None):
        USED.append([self.param_groups[0]["lr"]])
        super().step(closure)
        assert self.param_groups[0]["lr"] == USED[-1][0]  # not put back too early
        super().step()
optimizer = Twice(model.parameters(), lr=0.1)
for step in range(8):
    loss_of().backward(); optimizer.step()
show()
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.used == expected([1.0], 8)
    assert ran.board[0] == len(ran.steps) == 8


TWO = """
SEEN = {"a": [], "b": []}
one = record(torch.optim.SGD)([model.weight], lr=0.1)
two = record(torch.optim.Adam)([model.bias], lr=0.05)
losses = []
for step in range(10):
    loss = loss_of(); loss.backward(); losses.append(loss.item()); one.step()
    SEEN["a"].append(USED.pop()[0])
    if step % 2:
        one.zero_grad(); loss_of(100.0).backward(); two.step()
        SEEN["b"].append(USED.pop()[0])
    one.zero_grad(); two.zero_grad()
show(seen=SEEN, losses=losses)
"""


def test_two_optimizers_have_a_count_of_their_own(run):
    ran = run(TWO, plan={"ratios": [[1.0], [0.5]]})
    assert ran.shown["seen"]["a"] == [lr for (lr,) in expected([1.0], 10)]
    assert ran.shown["seen"]["b"] == [lr for (lr,) in expected([0.5], 5)]
    assert [optimizer["num_steps"] for optimizer in ran.optimizers] == [10, 5]
    assert ran.steps[:, 1] == pytest.approx(ran.shown["losses"])


def test_one_of_two_optimizers_is_chosen(run):
    ran = run(TWO, plan={"ratios": [[1.0], [0.5]], "optimizer_index": 1})
    assert ran.shown["seen"] == {"a": [0.1] * 10, "b": [lr for (lr,) in expected([0.5], 5)]}
    assert ran.board[0] == len(ran.steps) == 5


def test_an_optimizer_that_is_not_planned_keeps_the_ratios_of_its_own_groups(run):
    ran = run(
        """
groups = [{"params": [model.weight], "lr": 0.2}, {"params": [model.bias], "lr": 0.05}]
optimizer = record(torch.optim.SGD)(groups)
for step in range(6):
    loss_of().backward(); optimizer.step()
show()
""",
        plan={},
    )
    assert ran.used == expected([1.0, 0.25], 6)


def test_a_group_that_is_added_later_and_a_group_at_zero(run):
    ran = run(
        """
first = {"params": [model.weight]}
still = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.0}
optimizer = record(torch.optim.SGD)([first, still], lr=0.1)
for step in range(8):
    if step == 3:
        optimizer.add_param_group({"params": [model.bias], "lr": 0.05})
    loss_of().backward(); optimizer.step()
show()
""",
        plan={"ratios": [[2.0, 0.0]]},
    )
    late = expected([2.0, 0.0, 1.0], 8)[3:]
    assert ran.used == [*expected([2.0, 0.0], 3), *late]
    assert [group["lr"] for group in ran.optimizers[0]["groups"]] == [0.1, 0.0, 0.05]


def test_groups_by_name_are_scaled(run):
    ran = run(
        """
groups = [{"params": [model.weight], "name": "backbone"}, {"params": [model.bias], "name": "head"}]
optimizer = record(torch.optim.SGD)(groups, lr=0.1)
for step in range(4):
    loss_of().backward(); optimizer.step()
show()
""",
        plan={"ratios": [[1.0, 1.0]], "scales": {"backbone": 0.1}},
    )
    assert ran.used == expected([0.1, 1.0], 4)
    assert [group["name"] for group in ran.optimizers[0]["groups"]] == ["backbone", "head"]


def test_weight_decay_is_set_except_in_groups_without(run):
    ran = run(
        """
DECAYS = []
class Recording(torch.optim.AdamW):
    def step(self, closure=None):
        DECAYS.append([group["weight_decay"] for group in self.param_groups])
        return super().step(closure)
groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
optimizer = Recording(groups, lr=0.1, weight_decay=0.05)
for step in range(4):
    loss_of().backward(); optimizer.step()
show(decays=DECAYS, own=[group["weight_decay"] for group in optimizer.param_groups])
""",
        plan={"ratios": [[1.0, 1.0]], "weight_decay": 0.3},
    )
    assert ran.shown["decays"] == [[0.3, 0.0]] * 4
    assert ran.shown["own"] == [0.05, 0.0]


def test_a_step_that_raises_is_not_counted_and_leaves_no_lr_behind(run):
    ran = run(
        """
fails = [True]
class Failing(torch.optim.SGD):
    def step(self, closure=None):
        USED.append([self.param_groups[0]["lr"]])
        if len(USED) == 3:
            raise MemoryError
        return super().step(closure)
optimizer = Failing(model.parameters(), lr=0.1)
for step in range(6):
    try:
        loss_of().backward(); optimizer.step()
    except MemoryError:
        pass
show(own=optimizer.param_groups[0]["lr"])
""",
        plan={"ratios": [[1.0]]},
    )
    third = TABLE[2]
    assert [lr for (lr,) in ran.used] == [*TABLE[:3], third, *TABLE[3:5]]
    assert ran.shown["own"] == 0.1
    assert ran.board[0] == 5


def test_a_state_that_is_loaded_keeps_the_ratios(run):
    ran = run(
        """
import copy
groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}]
optimizer = record(torch.optim.SGD)(groups, lr=0.1)
for step in range(6):
    loss_of().backward(); optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
show()
""",
        plan={"ratios": [[1.0, 0.1]]},
    )
    assert ran.used == expected([1.0, 0.1], 6)


SCALER = """
optimizer = record(torch.optim.Adam)(model.parameters(), lr=0.1, fused={fused})
scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
losses, real = [], []
before = model.weight.detach().clone()
for step in range(14):
    loss = loss_of(math.inf if step in (2, 3, 8) else 1.0)
    scaler.scale(loss).backward()
    scaler.step(optimizer); scaler.update(); optimizer.zero_grad()
    moved = not torch.equal(before, model.weight)
    before = model.weight.detach().clone()
    real.append(moved)
    if moved:
        losses.append(loss.item())
show(losses=losses, real=real)
"""


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_steps_that_a_gradient_scaler_skips(run, fused, late):
    """`late`: with the count and the table kept as on a GPU, which is not waited for."""
    needs("torch>=2.4" if fused else "torch>=2.3")  # before, only on a GPU
    head = RECORDING + "import math\n"
    if late:
        head += """
from lrtune_steering import groups, losses, steps
steps.is_late = losses.is_late = groups.is_late = lambda tensor: True
"""
    ran = run(SCALER.format(fused=fused), plan={"ratios": [[1.0]]}, head=head)
    assert [step for step, real in enumerate(ran.shown["real"]) if not real] == [2, 3, 8]
    assert ran.board[0] == 11
    assert ran.steps[:, 0] == pytest.approx([lr for (lr,) in expected([1.0], 11)])
    assert ran.steps[:, 1] == pytest.approx(ran.shown["losses"], rel=1e-5)
    # The hooks and the step of a fused one run for a skipped step too, with the LR of the next.
    places = [0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10] if fused else range(11)
    assert [lr for (lr,) in ran.used] == pytest.approx([TABLE[i] for i in places])


@pytest.mark.parametrize("mode", ["record", "set"])
def test_lrs_on_a_device_are_read_and_verified_without_waiting(run, mode):
    head = (
        RECORDING
        + """
from lrtune_steering import groups, losses, steps
steps.is_late = losses.is_late = groups.is_late = lambda tensor: True
"""
    )
    code = """
lr = torch.tensor(0.1)
groups = [{"params": [model.weight], "lr": lr}, {"params": [model.bias], "lr": 0.05}]
optimizer = record(torch.optim.Adam)(groups)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 10)
for step in range(10):
    loss_of().backward(); optimizer.step(); scheduler.step()
show(own=float(optimizer.param_groups[0]["lr"]))
"""
    ran = run(code, plan={"mode": mode, "ratios": [[1.0, 0.5]]}, head=head)
    own = [0.1 * (step + 1) / 10 for step in range(10)]
    lrs = own if mode == "record" else TABLE[:10]
    assert ran.used == [[pytest.approx(lr), pytest.approx(lr / 2)] for lr in lrs]
    assert ran.steps[:, 0] == pytest.approx(lrs)
    assert ran.shown["own"] == pytest.approx(0.11)
    assert ran.optimizers[0]["groups"][0]["max_lr"] == pytest.approx(0.1)
    assert "failed.json" not in ran.files


@pytest.mark.slow
def test_a_compiled_step(run):
    needs('torch>=2.1; python_version >= "3.11"')
    ran = run(
        """
lr = torch.tensor(0.1)
optimizer = torch.optim.SGD(model.parameters(), lr=lr)
step_of = torch.compile(optimizer.step, backend="eager")
moves = []
for step in range(6):
    optimizer.zero_grad(); loss_of().backward()
    before = model.weight.detach().clone()
    step_of()
    moves.append(((before - model.weight) / model.weight.grad).mean().item())
print("SHOWN", json.dumps({"used": [[move] for move in moves]}))
""",
        plan={"ratios": [[1.0]]},
    )
    assert [lr for (lr,) in ran.used] == pytest.approx(TABLE[:6], rel=1e-3)
    assert ran.board[0] == 6


def test_an_lr_that_changes_within_the_step_fails_the_run(run):
    ran = run(
        """
class Stubborn(torch.optim.SGD):
    def step(self, closure=None):
        if len(USED) == 2:
            self.param_groups[1]["lr"] = 0.5
        USED.append([group["lr"] for group in self.param_groups])
        return super().step(closure)
optimizer = Stubborn([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
for step in range(5):
    loss_of().backward(); optimizer.step()
show(own=[group["lr"] for group in optimizer.param_groups])
""",
        plan={"ratios": [[1.0, 1.0]]},
    )
    assert ran.json("failed.json") == {
        "step": 2, "group": "1", "key": "lr", "wanted": TABLE[2], "got": 0.5,
    }  # fmt: skip
    assert ran.shown["own"] == [0.1, 0.5]


def test_a_tensor_that_changes_within_the_step_fails_the_run(run):
    ran = run(
        """
class Stubborn(torch.optim.Adam):
    def step(self, closure=None):
        if len(USED) == 3:
            self.param_groups[0]["lr"].fill_(0.5)
        USED.append([0.0])
        return super().step(closure)
optimizer = Stubborn(model.parameters(), lr=torch.tensor(0.1))
for step in range(5):
    loss_of().backward(); optimizer.step()
""",
        plan={"ratios": [[1.0]]},
    )
    failed = ran.json("failed.json")
    assert (failed["step"], failed["got"]) == (3, 0.5)


# ---- The other modes


def test_in_the_mode_record_nothing_is_written_over(run):
    ran = run(
        """
groups = [{"params": [model.weight], "name": "w"}, {"params": [model.bias], "lr": 0.2}]
optimizer = record(torch.optim.AdamW)(groups, lr=0.1, weight_decay=0.03)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.4, 0.8], total_steps=120)
losses = []
for step in range(120):
    loss = loss_of(); losses.append(loss.item())
    loss.backward(); optimizer.step(); optimizer.zero_grad(); scheduler.step()
show(losses=losses)
""",
        plan={"mode": "record", "weight_decay": 0.5},
    )
    used = np.array(ran.used)
    assert ran.steps[:, 0].tolist() == used.max(axis=1).tolist()
    assert ran.steps[:, 1].tolist() == ran.shown["losses"]
    assert ran.board[:2] == [120, used[-1].max()]
    document = ran.json("groups.json")
    assert document["version"] == 1
    assert document["python"].startswith("3.")
    (optimizer,) = document["optimizers"]
    assert (optimizer["class"], optimizer["num_steps"]) == ("AdamW", 120)
    first, second = optimizer["groups"]
    assert first == {
        "name": "w", "lr": used[0, 0], "max_lr": used[:, 0].max(), "weight_decay": 0.03,
    }  # fmt: skip
    assert second["max_lr"] == used[:, 1].max()


def test_a_sweep_holds_its_last_lr(run):
    ran = run(
        """
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
for step in range(9):
    loss_of().backward(); optimizer.step()
show()
""",
        plan={"mode": "sweep", "ratios": [[1.0]]},
        table=[1e-6, 1e-4, 1e-2],
    )
    assert [lr for (lr,) in ran.used] == [1e-6, 1e-4, *[1e-2] * 7]


def test_backward_with_gradients_or_of_many_elements_is_no_loss(run):
    ran = run(
        """
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
out = model(data); out.backward(torch.ones_like(out)); optimizer.step()
loss = loss_of(); torch.autograd.backward([loss]); optimizer.step()
optimizer.step()
show(loss=loss.item())
""",
        plan={"ratios": [[1.0]]},
    )
    first, second, third = ran.steps[:, 1]
    assert math.isnan(first)
    assert second == pytest.approx(ran.shown["loss"])
    assert math.isnan(third)


# ---- Seeds

DRAWS = """
import random, json
import numpy as np
import torch
{seeding}
print("SHOWN", json.dumps([random.random(), float(np.random.rand()), torch.rand(1).item()]))
"""


def drawn(seed_random, seed_numpy, seed_torch):
    """What the generators draw first after these seeds."""
    import random

    import torch

    return [
        random.Random(seed_random).random(), np.random.RandomState(seed_numpy).rand(),
        torch.rand(1, generator=torch.Generator().manual_seed(seed_torch)).item(),
    ]  # fmt: skip


ALL_THREE = "random.seed(5); np.random.seed(6); torch.manual_seed(7)"


@pytest.mark.parametrize(
    ("seeding", "offset", "seeds"),
    [
        (ALL_THREE, 3, (8, 9, 10)),
        (ALL_THREE, None, (5, 6, 7)),
        (ALL_THREE, 0, (5, 6, 7)),
        ("", 3, (3, 3, 3)),
        ("torch.manual_seed(seed=7); torch.cuda.manual_seed_all(7)", 3, (3, 3, 10)),
        ("np.random.seed(np.int64(2**32 - 1)); torch.manual_seed(np.int64(7))", 3, (3, 2, 10)),
        ("torch.random.manual_seed(torch.initial_seed())", 3, (3, 3, 6)),
        ("torch.manual_seed(-1)", 3, (3, 3, 2)),
        ("import transformers; transformers.set_seed(5)", 3, (8, 8, 8)),
        ("from lightning import seed_everything; seed_everything(5)", 3, (8, 8, 8)),
        ("from accelerate.utils import set_seed; set_seed(5)", 3, (8, 8, 8)),
    ],
)
def test_each_seed_is_offset_once(run, seeding, offset, seeds):
    if "import" in seeding:
        needs(seeding.split()[1].split(".")[0].rstrip(";"))
    ran = run(DRAWS.format(seeding=seeding), plan={"seed_offset": offset}, head="")
    assert ran.shown == drawn(*seeds)


def test_what_the_script_has_seeded_is_told(run):
    ran = run(
        """
import random, numpy
random.seed("a word"); torch.manual_seed(1); numpy.random.seed(2); random.seed(None)
torch.optim.SGD(model.parameters(), lr=0.1).step()
""",
        plan={"seed_offset": 3},
    )
    told = {"seeded": ["torch", "numpy"], "not_offset": ["random"], "offset": 3}
    assert ran.json("seeds.json") == told


def test_a_wrong_seed_raises_as_ever(run):
    ran = run(
        """
import numpy
for seed in (-1, 2**32):
    try:
        numpy.random.seed(seed)
    except ValueError as error:
        print(error)
""",
        plan={"seed_offset": 3},
        head="",
    )
    assert ran.done.stdout.count("Seed must be between 0 and 2**32 - 1") == 2


# ---- Output and values


def test_lines_are_kept_with_the_step_at_which_they_were_written(run):
    ran = run(
        r"""
import sys
print("start 1")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
print("no number")
for step in range(3):
    loss_of().backward(); optimizer.step()
    print("step", step, end=" "); print("done")
    sys.stderr.write("warning 7\r\n")
sys.stderr.write("\rbar 1"); sys.stderr.write("\rbar 2"); sys.stderr.flush()
sys.stderr.write("\n")
print("\x1b[32mloss nan\x1b[0m")
print("x1" * 3000)
sys.stdout.writelines(["a 1\n", "b 2\n"])
assert sys.stdout.fileno() == 1 and sys.stdout.encoding and sys.stdout.buffer
assert type(sys.stdout).__name__ == "TextIOWrapper"
""",
        plan={"ratios": [[1.0]]},
    )
    lines = ran.lines("lines.jsonl")
    assert [(x["step"], x["line"]) for x in lines if x["stream"] == "stdout"] == [
        (0, "start 1"), (1, "step 0 done"), (2, "step 1 done"), (3, "step 2 done"),
        (3, "loss nan"), (3, "x1" * 1000), (3, "a 1"), (3, "b 2"),
    ]  # fmt: skip
    errors = [(x["step"], x["line"]) for x in lines if x["stream"] == "stderr"]
    assert errors == [(1, "warning 7"), (2, "warning 7"), (3, "warning 7"), (3, "bar 2")]
    assert ran.done.stdout.startswith("start 1\nno number\nstep 0 done\n")


def test_a_progress_bar_is_kept_once_at_its_end(run):
    needs("tqdm")
    ran = run(
        """
from tqdm import tqdm
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in tqdm(range(2), desc="epochs", mininterval=0):
    bar = tqdm(range(4), mininterval=0, leave=False)
    for step in bar:
        loss_of().backward(); optimizer.step()
        bar.set_postfix(loss=0.5)
    tqdm.write(f"epoch {epoch} val loss 0.25")
for step in tqdm(range(4), desc="last", mininterval=0):
    pass
""",
        plan={"ratios": [[1.0]]},
    )
    lines = [x["line"] for x in ran.lines("lines.jsonl")]
    assert [line for line in lines if "val loss" in line] == [
        "epoch 0 val loss 0.25", "epoch 1 val loss 0.25",
    ]  # fmt: skip
    rest = [line for line in lines if "val loss" not in line]
    assert [line.split(":")[0] for line in rest] == ["epochs", "last"]
    assert all("100%" in line for line in rest)


REPORT = """
import os, lrtune
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
answers = [lrtune.report(early=1)]
for step in range(4):
    loss_of().backward(); optimizer.step()
    if step % 2:
        answers.append(lrtune.report(val_loss=loss_of().detach(), step=step))
    if step == 2:
        open(os.path.join(os.environ["LRTUNE_STEER"], "stop"), "w").close()
try:
    lrtune.report(word="x")
except TypeError as error:
    print(error)
show(answers=answers, folder=str(lrtune.run_dir()), file=lrtune.__file__)
"""
HIDDEN = """
import sys
class Blocker:
    '''Hides lrtune, except the one inside the child.'''
    def find_spec(self, name, path=None, target=None):
        if name == "lrtune":
            from importlib.machinery import PathFinder
            places = [place for place in sys.path if place.endswith("stub")]
            return PathFinder.find_spec(name, places)
sys.meta_path.insert(0, Blocker())
"""


def test_a_report_where_there_is_no_lrtune(run):
    ran = run(REPORT, plan={"ratios": [[1.0]]}, head=HIDDEN + RECORDING)
    shown = ran.shown
    assert shown["answers"] == [True, True, False]
    assert shown["folder"] == str(ran.folder / "files")
    assert shown["file"] == str(CHILD / "stub" / "lrtune" / "__init__.py")
    assert "takes numbers, but got word='x'" in ran.done.stdout
    values = ran.lines("values.jsonl")
    assert [(value["step"], value["source"]) for value in values] == [
        (0, "report"), (2, "report"), (4, "report"),
    ]  # fmt: skip
    assert values[0]["values"] == {"early": 1.0}
    assert values[1]["values"].keys() == {"val_loss", "step"}


def test_the_stub_outside_of_a_steered_command(tmp_path):
    code = "import lrtune; print(lrtune.report(a=1), lrtune.run_dir())"
    words = [PYTHON, "-S", "-c", code]
    surroundings = {**os.environ, "PYTHONPATH": str(CHILD / "stub")}
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "True .\n"


def test_a_real_lrtune_wins_over_the_stub(run):
    needs("lrtune")
    ran = run("import lrtune; show(file=lrtune.__file__)", plan={"mode": "record"})
    assert "stub" not in ran.shown["file"]


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_what_lightning_logs(run, package):
    needs(package.split(".")[0])
    ran = run(
        f"""
import {package} as pl
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model
    def training_step(self, batch, i):
        loss = (self.model(batch[0]) - 1).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss
    def validation_step(self, batch, i):
        self.log("val_loss", (self.model(batch[0]) - 1).square().mean())
        self.log("constant", 1.0)
    def configure_optimizers(self):
        optimizer = record(torch.optim.SGD)(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=20)
        return [optimizer], [{{"scheduler": scheduler, "interval": "step"}}]
def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=2)
trainer = pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
    accumulate_grad_batches=2, enable_progress_bar=False)
trainer.fit(Module(), loader(), loader())
show()
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.used == expected([1.0], 12)
    values = [value for value in ran.lines("values.jsonl") if value["source"] == "lightning"]
    losses = [value["step"] for value in values if "val_loss" in value["values"]]
    assert losses == [4, 8, 12]  # neither the check before training, nor twice an epoch
    assert [value["step"] for value in values if "constant" in value["values"]] == [4, 8, 12]
    trained = [value["step"] for value in values if "train_loss_epoch" in value["values"]]
    assert trained == [4, 8, 12]


@pytest.mark.peers
@pytest.mark.slow
def test_what_transformers_logs(run):
    needs("transformers>=4.41")  # `eval_strategy` had another name before
    needs("accelerate")
    ran = run(
        """
from transformers import Trainer, TrainingArguments
class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = model
    def forward(self, x, labels=None):
        out = self.inner(x).squeeze(-1)
        return {"loss": (out - labels).square().mean(), "logits": out}
rows = [{"x": row, "labels": torch.tensor(1.0)} for row in data]
arguments = TrainingArguments("out", num_train_epochs=3, per_device_train_batch_size=2,
    gradient_accumulation_steps=2, eval_strategy="epoch", logging_strategy="epoch", use_cpu=True,
    report_to=[], save_strategy="no", disable_tqdm=True)
trainer = Trainer(Module(), arguments, train_dataset=rows, eval_dataset=rows,
    optimizers=(record(torch.optim.SGD)(model.parameters(), lr=0.1), None))
trainer.train()
show()
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.used == expected([1.0], 12)
    values = [value for value in ran.lines("values.jsonl") if value["source"] == "transformers"]
    assert [value["step"] for value in values if "eval_loss" in value["values"]] == [4, 8, 12]
    assert [value["step"] for value in values if "loss" in value["values"]] == [4, 8, 12]


@pytest.mark.peers
def test_what_tensorboard_is_given(run):
    needs("tensorboard")
    ran = run(
        """
from torch.utils.tensorboard import SummaryWriter
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
with SummaryWriter("logs") as writer:
    for epoch in range(3):
        for row in data:
            optimizer.zero_grad()
            model(row).square().mean().backward()
            optimizer.step()
        writer.add_scalar("Loss/val", torch.tensor(0.5) ** epoch, epoch)
        writer.add_text("note", "none")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
kept = EventAccumulator("logs").Reload().Scalars("Loss/val")
assert [scalar.value for scalar in kept] == [1.0, 0.5, 0.25], kept
show()
""",
        plan={"ratios": [[1.0]]},
    )
    values = [value for value in ran.lines("values.jsonl") if value["source"] == "tensorboard"]
    steps = len(ran.used) // 3
    assert [(value["step"], value["values"]) for value in values] == [
        (steps * (epoch + 1), {"Loss/val": 0.5**epoch}) for epoch in range(3)
    ]


# ---- Processes


def test_a_sitecustomize_that_was_there_before_still_runs(run, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys; sys.own = __file__\n")
    code = "import sys, sitecustomize; print(sys.own, sitecustomize.__file__ == sys.own)"
    environment = {"PYTHONPATH": str(tmp_path / "own")}
    ran = run(code, plan={"mode": "record"}, head="", environment=environment)
    assert ran.done.stdout == f"{tmp_path / 'own' / 'sitecustomize.py'} True\n"


def test_a_sitecustomize_that_chains_in_its_turn_does_not_recurse(run, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text(
        "import os, sys; print('own')\n"
        "sys.path.remove(os.path.dirname(__file__)); del sys.modules['sitecustomize']\n"
        "import sitecustomize\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "own")}
    ran = run("print('script')", plan={"mode": "record"}, head="", environment=environment)
    assert ran.done.stdout == "own\nscript\n"
    assert "Error" not in ran.done.stderr


def test_what_it_raises_is_shown_as_ever_and_the_steering_goes_on(run, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("1 / 0\n")
    code = """
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
loss_of().backward(); optimizer.step()
show()
"""
    ran = run(code, plan={}, environment={"PYTHONPATH": str(tmp_path / "own")})
    assert "Error in sitecustomize" in ran.done.stderr
    assert "ZeroDivisionError" in ran.done.stderr
    assert ran.used == expected([1.0], 1)


def test_without_the_variable_nothing_happens(tmp_path):
    code = "import sys; print([name for name in sys.modules if 'lrtune' in name])"
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith("LRTUNE")}
    surroundings["PYTHONPATH"] = str(CHILD)
    words = [PYTHON, "-c", code]
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_python_without_torch_or_without_a_step_writes_nothing(run):
    code = "import sys; print('loss 1'); assert 'json' not in sys.modules"
    ran = run(code, head="", plan={"mode": "record", "seed_offset": 3})
    assert ran.files == set()


def test_a_python_that_makes_no_step_writes_nothing(run):
    ran = run("print('loss 1'); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)", plan={})
    assert ran.files == set()


def test_the_import_of_torch_stays_as_quick_as_it_was(run):
    """The compiler takes seconds to import."""
    code = "import sys, torch; assert 'torch._dynamo' not in sys.modules"
    run(code, head="", plan={"mode": "record", "seed_offset": 3})


PLAIN = """
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
for step in range(3):
    loss_of().backward(); optimizer.step()
show()
"""


@pytest.mark.parametrize(
    "plan", ["{", '{"version": 2, "mode": "record"}', '{"version": 1, "mode": "set"}', False]
)
def test_a_broken_plan_does_not_break_the_script(run, plan):
    ran = run(PLAIN, plan=plan, errors=True)
    assert ran.used == [[0.1]] * 3
    assert ran.files == {"child-errors.log"}


def test_an_error_of_our_own_does_not_break_the_script(run):
    ran = run(PLAIN, plan={"ratios": [["a"]]}, errors=True)
    assert ran.used == [[0.1]] * 3
    assert "Traceback" in (ran.folder / "child-errors.log").read_text()
    assert "error" in ran.json("failed.json")


def test_workers_of_a_data_loader_write_nothing_and_keep_their_seeds(run):
    ran = run(
        """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        info = torch.utils.data.get_worker_info()
        print("worker", os.getpid(), i)
        assert torch.initial_seed() == info.seed
        return data[i]
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
for epoch in range(2):
    options = {"num_workers": 2, "multiprocessing_context": "fork"}
    for batch in torch.utils.data.DataLoader(Data(), 2, **options):
        model(batch).mean().backward(); optimizer.step(); optimizer.zero_grad()
show()
""",
        plan={"ratios": [[1.0]], "seed_offset": 3},
    )
    assert ran.used == expected([1.0], 8)
    assert ran.board[0] == len(ran.steps) == 8
    assert [x["line"] for x in ran.lines("lines.jsonl") if "worker" in x["line"]] == []


def test_a_second_process_is_steered_and_writes_nothing(run):
    ran = run(
        """
import subprocess, sys
optimizer = record(torch.optim.SGD)(model.parameters(), lr=0.1)
if len(sys.argv) == 1:
    for step in range(2):
        loss_of().backward(); optimizer.step()
    subprocess.run([sys.executable, __file__, "again"], check=True)
else:
    for step in range(9):
        loss_of().backward(); optimizer.step()
    print("loss 1")
    assert USED[4] == [0.05], USED
""",
        plan={"ratios": [[1.0]]},
    )
    assert ran.board[0] == len(ran.steps) == 2
    assert ran.lines("lines.jsonl") == []


def test_a_rank_other_than_zero_is_steered_and_writes_nothing(run):
    ran = run(PLAIN, plan={"ratios": [[1.0]]}, environment={"RANK": "1"})
    assert ran.used == expected([1.0], 3)
    assert ran.files == set()


def test_a_process_that_leaves_at_once_has_written_its_steps(run):
    ran = run(PLAIN + "os._exit(0)\n", plan={"ratios": [[1.0]]})
    assert len(ran.steps) == 3


@pytest.mark.slow
def test_two_ranks_of_torchrun(tmp_path):
    (tmp_path / "script.py").write_text(
        RECORDING
        + """
import torch.distributed as dist

def main():  # what belongs to the group is gone before the interpreter ends: gloo aborts otherwise
    dist.init_process_group("gloo")
    ranks = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = record(torch.optim.SGD)(ranks.parameters(), lr=0.1)
    for step in range(6):
        (ranks(data) - 1).square().mean().backward(); optimizer.step(); optimizer.zero_grad()
        print("rank", dist.get_rank(), "step", step)
    used = [None, None]
    dist.all_gather_object(used, USED)
    if dist.get_rank() == 0:
        print("SHOWN", json.dumps({"used": used}))
    dist.destroy_process_group()

main()
"""
    )
    words = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = start(tmp_path, [*words, "script.py"], plan={"ratios": [[1.0]]})
    assert ran.done.returncode == 0, ran.done.stderr
    assert "child-errors.log" not in ran.files
    assert ran.used == [expected([1.0], 6)] * 2
    assert ran.board[0] == len(ran.steps) == 6
    lines = [line["line"] for line in ran.lines("lines.jsonl") if line["line"].startswith("rank")]
    assert lines == [f"rank 0 step {step}" for step in range(6)]


@pytest.mark.parametrize(
    "path", sorted(CHILD.rglob("*.py")), ids=lambda path: str(path.relative_to(CHILD))
)
def test_it_is_written_for_python_3_8_and_imports_no_lrtune(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    if path.name == "auditing.py":  # which does without where it cannot
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert "lrtune" not in {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level or (node.module or "").split(".")[0] != "lrtune"
