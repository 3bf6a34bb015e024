"""Starts the steering in a Python process that belongs to a steered command.

Python imports the first `sitecustomize` on its path at every start. This one does nothing unless
`LRTUNE_STEER` names a run folder. It then runs the `sitecustomize` that would have been imported
without it.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _steer() -> None:
    try:
        import lrtune_steering  # type: ignore[import-not-found]  # it is beside this file

        lrtune_steering.start()
    except Exception as error:  # the user's program runs in any case
        sys.stderr.write("lrtune could not start its steering: %r\n" % (error,))


def _run_the_next() -> None:
    """Imports the next `sitecustomize` on the path; what it raises reaches Python's own handler."""
    own = sys.modules.pop("sitecustomize", None)
    places = [place for place in sys.path if os.path.abspath(place) == _HERE]
    for place in places:
        sys.path.remove(place)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if own is not None:
            sys.modules["sitecustomize"] = own
    finally:
        sys.path[:0] = places


if os.environ.get("LRTUNE_STEER"):
    _steer()
_run_the_next()
