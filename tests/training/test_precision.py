"""Devices and arithmetic: what `auto` comes to, and what is refused."""

import pytest
import torch

from lrtune.core.errors import InputError
from lrtune.training.native.devices import choose_arithmetic, choose_device

CPU = torch.device("cpu")

# precision, whether the processor computes in bf16: name, type of a product, whether gradients are
# scaled
ON_CPU = [
    ("auto", False, "fp32", torch.float32, False),
    ("auto", True, "fp32", torch.float32, False),
    ("fp32", False, "fp32", torch.float32, False),
    ("bf16", True, "bf16", torch.bfloat16, False),
    ("fp16", False, "fp16", torch.float16, True),
]


@pytest.fixture
def bf16_units(monkeypatch):
    """Makes the processor one with or without bf16 units."""
    return lambda there: monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: there
    )


@pytest.mark.parametrize(("precision", "units", "name", "dtype", "scaled"), ON_CPU)
def test_precisions_on_a_cpu(bf16_units, precision, units, name, dtype, scaled):
    bf16_units(units)
    arithmetic = choose_arithmetic(precision, CPU)
    assert arithmetic.name == name
    assert arithmetic.scaler().is_enabled() is scaled
    with arithmetic.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_bf16_is_refused_where_it_would_be_slow(bf16_units):
    bf16_units(False)
    with pytest.raises(InputError) as caught:
        choose_arithmetic("bf16", CPU)
    assert str(caught.value) == (
        "`precision` bf16 needs a processor that computes in bf16, and this one does not: use fp32 "
        "or auto."
    )


@pytest.mark.parametrize("precision", ["int8", "", "FP32", "float32"])
def test_unknown_precisions_are_refused(precision):
    with pytest.raises(InputError) as caught:
        choose_arithmetic(precision, CPU)
    assert (
        str(caught.value)
        == f"`precision` must be one of auto, fp32, bf16, fp16, but got {precision!r}."
    )


# "cuda:99" is refused by a machine without a GPU, and by one with fewer; `meta` has tensors, but no
# values
@pytest.mark.parametrize(
    "name", ["banana", "", "cuda:99", "cuda:banana", "meta", "xla", "hpu", "privateuseone"]
)
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(InputError) as caught:
        choose_device(name)
    (problem,) = caught.value.problems
    start = f"`device` must be auto or a device that is there, but got {name!r}: "
    assert problem.startswith(start)
    assert len(problem) > len(start)
    assert "\n" not in problem


def test_the_automatic_device():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "name", "dtype"),
    [
        ("fp32", "fp32", torch.float32),
        ("bf16", "bf16", torch.bfloat16),
        ("fp16", "fp16", torch.float16),
    ],
)
def test_precisions_on_a_gpu(precision, name, dtype):
    arithmetic = choose_arithmetic(precision, choose_device("auto"))
    assert (arithmetic.name, arithmetic.device.type) == (name, "cuda")
    assert arithmetic.scaler().is_enabled() is (dtype is torch.float16)
    with arithmetic.autocast():
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype is dtype


@pytest.mark.gpu
def test_auto_on_a_gpu_is_bf16_where_it_computes_in_it():
    computes = torch.cuda.get_device_capability() >= (8, 0)  # Ampere
    assert choose_arithmetic("auto", torch.device("cuda")).name == ("bf16" if computes else "fp16")
