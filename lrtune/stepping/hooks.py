"""Hooks on the real steps of a torch optimizer, also of one inside a wrapper.

Torch calls an optimizer's own hooks, in the order in which they were registered, around each
`step()`. An optimizer that is not fused is not called at all where a gradient scaler skips a step.
A fused one is: its kernel skips the step by itself, and `overflow_of` tells afterwards.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable
from inspect import unwrap
from types import FrameType
from typing import Any, cast

import torch

Hook = Callable[[torch.optim.Optimizer], None]
"""It is given the optimizer that steps."""


def torch_optimizer(optimizer: Any) -> Any:
    """The torch optimizer inside the wrappers of accelerate, Fabric and Lightning.

    These wrappers are instances of `torch.optim.Optimizer` without its hooks, and have the
    optimizer that steps as `.optimizer`. Anything else is returned as it is.
    """
    while "_optimizer_step_pre_hooks" not in getattr(optimizer, "__dict__", {}):
        inside = getattr(optimizer, "optimizer", None)
        if not isinstance(inside, torch.optim.Optimizer):
            break
        optimizer = inside
    return optimizer


def overflow_of(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """A tensor on the optimizer's device that is 0 where the step that just ended was a real one.

    It is there only within the step of a fused optimizer under a gradient scaler.
    """
    overflow: torch.Tensor | None = getattr(optimizer, "found_inf", None)
    return overflow


class StepHooks:
    """Calls `before` and `after` around each step of an optimizer, until `remove()`.

    The `step()` of a subclass that calls its parent's runs torch's hooks twice; the inner calls are
    left out here. After a step that raises, `after` is not called.

    Args:
        optimizer: the one that steps.
        before: called before each step, if at all.
        after: called after each step.
        reads: whether `after` only reads the LR that the step used. It is then called before the
            hooks that are registered already, since one of them may put another LR back.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        before: Hook | None = None,
        after: Hook,
        reads: bool = False,
    ) -> None:
        self._before, self._after = before, after
        self._frame: FrameType | None = None  # of the outer step, while it runs
        self._depth = 0  # of the steps inside it
        pre = optimizer.register_step_pre_hook(_uncompiled(self._on_begin))
        post = optimizer.register_step_post_hook(_uncompiled(self._on_end))
        self._handles = (pre, post)
        if reads:
            hooks = cast("OrderedDict[int, Any]", optimizer._optimizer_step_post_hooks)
            hooks.move_to_end(post.id, last=False)

    def remove(self) -> None:
        """Takes the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._frame = None

    def belong_to(self, kind: type) -> bool:
        """Whether they are methods of an instance of `kind`."""
        return isinstance(getattr(self._after, "__self__", None), kind)

    def _on_begin(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._frame is not None and _is_running(self._frame):
            self._depth += 1
            return
        self._frame, self._depth = _caller(), 0
        if self._before is not None:
            self._before(optimizer)

    def _on_end(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._depth:
            self._depth -= 1
            return
        self._frame = None
        self._after(optimizer)


def hooks_of(optimizer: torch.optim.Optimizer) -> list[StepHooks]:
    """The step hooks that lrtune has on an optimizer."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    owners = (getattr(unwrap(hook), "__self__", None) for hook in hooks)
    return [owner for owner in owners if isinstance(owner, StepHooks)]


def _uncompiled(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook as a compiled step calls it: as it is, between what is compiled."""
    disabled: Callable[..., None] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


def _caller() -> FrameType | None:
    """The frame that called the hook: torch's wrapper of the optimizer's `step()`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals["__name__"].startswith("torch._dynamo"):
        frame = frame.f_back
    return frame


def _is_running(frame: FrameType) -> bool:
    """Whether a frame is on the stack; that of a step that raised is not."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is frame
