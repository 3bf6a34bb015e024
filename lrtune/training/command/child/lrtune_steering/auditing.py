"""Has lrtune audit the learning rates of this process, where the package can be imported here.

This is the one place that imports lrtune. A Python or torch that is too old for it is a note.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import Any, Iterator

STUB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "stub")


class Auditing:
    """Watches the optimizers of this process.

    Args:
        package_folder: the folder that the package lrtune is in, which is looked into last.
    """

    def __init__(self, package_folder: str) -> None:
        self._watch: Any = None
        self._problem = ""
        try:
            with _real_lrtune(package_folder):
                from lrtune.auditing.process import ProcessWatch
            self._watch = ProcessWatch()
            self._watch.start()
        except Exception as error:
            version = "{}.{}".format(*sys.version_info[:2])
            self._problem = "Its schedulers could not be seen by Python %s (%s: %s)." % (
                version,
                type(error).__name__,
                error,
            )

    def document(self, is_cut: bool) -> dict[str, Any]:
        """Returns the findings as plain values.

        Args:
            is_cut: whether the program goes on.
        """
        audits = [] if self._watch is None else self._watch.audits(is_cut=is_cut)
        return {
            "version": 1,
            "notes": [self._problem] if self._problem else [],
            "audits": [audit.summary() for audit in audits],
        }


@contextmanager
def _real_lrtune(package_folder: str) -> Iterator[None]:
    """Lets lrtune itself be imported meanwhile, not its stub."""
    path, stub = list(sys.path), sys.modules.get("lrtune")
    sys.path[:] = [place for place in path if place != STUB] + [package_folder]
    is_stub = stub is not None and (getattr(stub, "__file__", None) or "").startswith(STUB)
    if is_stub:
        del sys.modules["lrtune"]
    try:
        yield
    finally:
        sys.path[:] = path
        if is_stub and stub is not None:
            sys.modules["lrtune"] = stub
