"""Calls a function right after a module has been imported for the first time."""

from __future__ import annotations

import sys
from typing import Any, Callable

Callback = Callable[[Any], None]
"""It is given the module."""


class ImportHook:
    """A finder that finds nothing by itself, and calls back after an import that is watched.

    Args:
        callbacks: by name of the module. They must not raise.
    """

    def __init__(self, callbacks: dict[str, Callback]) -> None:
        self._callbacks = dict(callbacks)

    def install(self) -> None:
        """Watches from now on; a module that is imported already counts as imported now."""
        for name in [name for name in self._callbacks if name in sys.modules]:
            self._callbacks.pop(name)(sys.modules[name])
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of a watched module as the other finders give it, with a callback."""
        if name not in self._callbacks:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                self._call_after_loading(spec)
                return spec
        return None

    def _call_after_loading(self, spec: Any) -> None:
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: Any) -> None:
            execute(module)
            callback = self._callbacks.pop(spec.name, None)
            if callback is not None:
                callback(module)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # a loader whose attributes cannot be set
            return
