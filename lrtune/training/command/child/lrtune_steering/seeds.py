"""Offsets the seeds that a program sets, so that a fresh seed is fresh even if the script fixes it.

What builds on `random.seed`, `numpy.random.seed` and `torch.manual_seed` (such as `set_seed` of
transformers and `seed_everything` of Lightning) is offset once, because only the outermost of
nested calls is. A program that sets no seed starts from the offset itself.
"""

from __future__ import annotations

import functools
import sys
from types import FrameType
from typing import Any, Callable

from .imports import Callback

_LARGEST = {"numpy": 2**32 - 1, "torch": 2**64 - 1}
_SMALLEST = {"numpy": 0, "torch": -(2**63)}


class Seeds:
    """The seeds of one process.

    Args:
        offset: added to every integer seed.
        rank: of this process among those of the run. Ranks that set no seed start from different
            ones, as they would by themselves.
    """

    def __init__(self, offset: int, rank: int = 0) -> None:
        self.offset = offset
        self.seeded: list[str] = []
        """What the script has seeded with an integer, in order."""
        self.not_offset: list[str] = []
        """What the script has seeded with something else, which was left alone."""
        self._start = offset + 1_000_003 * rank
        self._inside = False
        self._seed_torch: Callable[[int], Any]

    def callbacks(self) -> dict[str, Callback]:
        """What to do after an import, by name of the module."""
        return {
            "random": self._on_random,
            "numpy.random": self._on_numpy,
            "torch.random": self._on_torch_random,
            "torch.cuda.random": self._on_cuda_random,
            "torch": self._on_torch,
        }

    def _on_random(self, random: Any) -> None:
        random.seed(self._start)
        random.seed = self._offset(random.seed, "random", "a")

    def _on_numpy(self, random: Any) -> None:
        random.seed(self._start % 2**32)
        random.seed = self._offset(random.seed, "numpy", "seed")

    def _on_torch_random(self, random: Any) -> None:
        self._seed_torch = random.manual_seed
        random.manual_seed = self._offset(random.manual_seed, "torch", "seed")

    def _on_cuda_random(self, random: Any) -> None:
        for name in ("manual_seed", "manual_seed_all"):
            setattr(random, name, self._offset(getattr(random, name), "torch", "seed"))

    def _on_torch(self, torch: Any) -> None:
        # The first call of `torch.manual_seed` imports the compiler, which takes seconds; the
        # function below does not. What it calls in its turn is not the script's.
        self._inside = True
        try:
            self._seed_torch(self._start % 2**64)
        finally:
            self._inside = False

    def _offset(self, function: Callable[..., Any], name: str, key: str) -> Callable[..., Any]:
        """The function with its seed offset; `key` is the name of its argument."""

        @functools.wraps(function)
        def seed(*args: Any, **kwargs: Any) -> Any:
            # A DataLoader seeds its workers from a number drawn by the main process.
            if self._inside or _caller().startswith("torch.utils.data._utils"):
                return function(*args, **kwargs)
            if args:
                args = (self._seed_for(name, args[0]), *args[1:])
            elif key in kwargs:
                kwargs[key] = self._seed_for(name, kwargs[key])
            else:
                self._seed_for(name, None)
            self._inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False

        return seed

    def _seed_for(self, name: str, seed: Any) -> Any:
        """The seed to use in place of the script's; an impossible one stays so."""
        number = _integer(name, seed)
        noted = self.not_offset if number is None else self.seeded
        if name not in noted:
            noted.append(name)
        if number is None:
            return seed
        if name == "random":
            return number + self.offset
        if not _SMALLEST[name] <= number <= _LARGEST[name]:
            return seed
        offset = number + self.offset
        return offset % (_LARGEST[name] + 1) if offset > _LARGEST[name] else offset


def _caller() -> str:
    """The module that called the function that called this one, not counting torch's compiler."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if not name.startswith(("torch._compile", "torch._dynamo")):
            return name
        frame = frame.f_back
    return ""


def _integer(name: str, seed: Any) -> int | None:
    """The integer that the library makes of a seed, or `None` where it makes none."""
    if isinstance(seed, int):
        return int(seed)
    if name == "random":
        return None  # it does not take integers of other libraries
    try:
        return int(seed) if name == "torch" else int(seed.__index__())
    except Exception:  # its own message is the better one
        return None
