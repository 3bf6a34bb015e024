"""What a cluster needs of a task: tensors without a copy, its modules, a process as new."""

import random
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lrtune.core.sources import NamedTask, TaskFile
from lrtune.training.native.devices import reset_process
from lrtune.training.native.sharing import TENSORS, from_array, to_array
from lrtune.training.task import load_task, modules_of

ROOT = Path(__file__).parents[2]

# --- tensors as arrays

DTYPES = [
    torch.uint8,
    torch.int64,
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.bool,
]


def tensor_of(shape, dtype):
    """Values of all bytes, of which some are nan where a type has any."""
    generator = torch.Generator().manual_seed(0)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    num_bytes = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    return (
        torch.randint(256, (num_bytes,), dtype=torch.uint8, generator=generator)
        .view(dtype)
        .reshape(shape)
    )


def sent(parts):
    """As an object store hands them over: an array that cannot be written to."""
    content, dtype, shape = parts
    content.flags.writeable = False
    return content, dtype, shape


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (2, 3, 5, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_comes_back_as_it_was(dtype, shape):
    tensor = tensor_of(shape, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = from_array(sent(to_array(tensor)))
    assert (back.dtype, back.shape, back.device.type) == (dtype, torch.Size(shape), "cpu")
    assert torch.equal(
        back.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)
    )  # nan is not nan


VIEWS = {
    "transposed": lambda t: t.T,
    "every other": lambda t: t[:, ::2],
    "a slice": lambda t: t[2:5, 1:4],
    "backwards": lambda t: t.flip(0),
    "repeated": lambda t: t[:1].expand(5, -1),
    "channels last": lambda t: t.reshape(2, 3, 2, 4).to(memory_format=torch.channels_last),
    "a step of a view": lambda t: t.reshape(-1)[3],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16], ids=str
)
def test_a_view_comes_back_as_what_it_showed(dtype, view):
    whole = torch.arange(48).reshape(6, 8).to(dtype)
    shown = view(whole)
    parts = to_array(shown)
    assert parts[0].nbytes == shown.numel() * dtype.itemsize  # and not what lies behind it
    assert torch.equal(from_array(sent(parts)), shown)


def test_a_tensor_that_is_trained_comes_back_as_its_values():
    trained = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    back = from_array(sent(to_array(trained)))
    assert torch.equal(back, trained.detach())
    assert not back.requires_grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_copied_on_either_way(dtype):
    tensor = tensor_of((4, 9), dtype)
    content, name, shape = to_array(tensor)
    assert content.ctypes.data == tensor.data_ptr()
    assert from_array(sent((content, name, shape))).data_ptr() == content.ctypes.data


def test_the_table_has_both_ways():
    ((take_apart, put_together),) = TENSORS.values()
    tensor = tensor_of((2, 3), torch.int64)
    assert [*TENSORS] == [torch.Tensor]
    assert torch.equal(put_together(take_apart(tensor)), tensor)


# --- the modules of a task


@pytest.fixture
def write(tmp_path):
    """`write("task.py", "...")`: a file in a folder of its own, whose imports are forgotten."""
    before, paths = dict(sys.modules), list(sys.path)

    def write_file(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    yield write_file
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]
    sys.path[:] = paths


TASK = """
import sys
from torch import nn

import lrtune.training.task
{imports}

task = lrtune.training.task.Task(
    model=lambda: nn.Linear(6, 3), train=[(0, 0)], validation=[(0, 0)], num_classes=3
)
"""


def names_of(source):
    return {Path(module.__file__).name for module in modules_of(source)}


def test_a_task_file_goes_with_the_modules_beside_it(write):
    write("beside_it.py")
    write("beside_package/__init__.py")
    write("beside_package/inside.py", "import beside_deeper.further")
    write("beside_deeper/further.py")
    write("never_imported.py")
    path = write(
        "task.py", TASK.format(imports="import beside_it, beside_package.inside, json, numpy")
    )
    load_task(TaskFile(path=path))
    assert names_of(TaskFile(path=path)) == {
        "task.py",
        "beside_it.py",
        "__init__.py",
        "inside.py",
        "further.py",
    }


def test_a_task_file_on_its_own_goes_alone(write):
    path = write("task.py", TASK.format(imports=""))
    load_task(TaskFile(path=path))
    (module,) = modules_of(TaskFile(path=path))
    assert module.task.num_classes == 3


def test_what_is_installed_beside_a_task_does_not_go_with_it(write):
    installed = write("venv/lib/python3.11/site-packages/installed_there.py")
    imports = f"sys.path.append({str(installed.parent)!r})\nimport installed_there"
    path = write("task.py", TASK.format(imports=imports))
    load_task(TaskFile(path=path))
    assert "installed_there" in sys.modules
    assert names_of(TaskFile(path=path)) == {"task.py"}


def test_what_lies_elsewhere_does_not_go_with_it(write):
    elsewhere = write("elsewhere/shared_code.py")
    imports = f"sys.path.append({str(elsewhere.parent)!r})\nimport shared_code"
    path = write("tasks/task.py", TASK.format(imports=imports))
    load_task(TaskFile(path=path))
    assert names_of(TaskFile(path=path)) == {"task.py"}


def test_lrtune_itself_does_not_go_with_a_task_beside_it():
    found = modules_of(TaskFile(path=ROOT / "task.py"))
    assert sys.modules["lrtune.training.native.sharing"].__file__.startswith(str(ROOT))
    assert {module.__name__.partition(".")[0] for module in found}.isdisjoint(
        {"lrtune", "torch", "numpy", "__main__"}
    )


@pytest.mark.parametrize("given", ["relative", "by a link to its folder", "with a detour"])
def test_however_its_path_is_given_a_task_file_is_found(write, tmp_path, monkeypatch, given):
    write("real/beside_it.py")
    write("real/task.py", TASK.format(imports="import beside_it"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    path = {
        "relative": Path("task.py"),
        "by a link to its folder": tmp_path / "link" / "task.py",
        "with a detour": tmp_path / "real" / ".." / "real" / "task.py",
    }[given]
    load_task(TaskFile(path=path))
    assert names_of(TaskFile(path=path)) == {"task.py", "beside_it.py"}


def test_a_task_that_is_no_file_has_no_modules(write):
    path = write("task.py", TASK.format(imports=""))
    assert modules_of(NamedTask()) == []
    assert modules_of(load_task(TaskFile(path=path))) == []


# --- a process that is as new


@pytest.fixture
def random_numbers_as_before():
    """What is drawn here is nobody else's business."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draws():
    return (
        random.random(),
        *np.random.rand(3),
        *torch.rand(3).tolist(),
        random.gauss(0, 1),
        np.random.randn(),
    )


@pytest.mark.usefixtures("random_numbers_as_before")
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32 + 7, 2**62])
def test_after_a_reset_the_same_is_drawn_again(seed):
    reset_process(seed)
    first = draws()
    further = draws()
    reset_process(seed)
    assert draws() == first
    assert draws() == further != first


@pytest.mark.usefixtures("random_numbers_as_before")
def test_another_seed_draws_something_else_from_every_generator():
    reset_process(1)
    one = draws()
    reset_process(2)
    assert all(a != b for a, b in zip(one, draws(), strict=True))


@pytest.mark.usefixtures("random_numbers_as_before")
def test_a_reset_leaves_no_cast_of_the_weights_of_the_run_before():
    weights, inputs = torch.nn.Parameter(torch.ones(4, 4)), torch.ones(1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.nn.functional.linear(inputs, weights)
        with torch.no_grad():
            weights.zero_()
        assert torch.nn.functional.linear(inputs, weights).sum() != 0  # its cast, which is kept
        reset_process(0)
        assert torch.nn.functional.linear(inputs, weights).sum() == 0
