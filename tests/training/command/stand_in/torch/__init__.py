"""A stand-in for torch that is imported in no time, for tests that start many commands.

It has what the steering watches: the step hooks, `backward`, and the seeds. Parameters are floats.
"""

import sys
from types import ModuleType, SimpleNamespace

from torch import random

__version__ = "2.99.0"


class Tensor:
    """A loss, or a learning rate."""

    device = SimpleNamespace(type="cpu")

    def __init__(self, value):
        self.value = float(value)

    def numel(self):
        return 1

    def item(self):
        return self.value

    def backward(self):
        autograd.backward(self)


def _module(name, **values):
    module = ModuleType(f"torch.{name}")
    vars(module).update(values)
    sys.modules[module.__name__] = module
    return module


autograd = _module("autograd", backward=lambda tensors, grad_tensors=None: None)
compiler = _module("compiler", disable=lambda function: function)
cuda = _module(
    "cuda", _initialized=False, amp=SimpleNamespace(GradScaler=type("GradScaler", (), {}))
)


def manual_seed(seed):
    random.manual_seed(seed)


from torch import optim  # noqa: E402, F401
