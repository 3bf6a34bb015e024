"""Who has a run, and whether that process is still there."""

import os
import socket
import time

import psutil

NOBODY = ""
"""Owner of a run that was given back."""
LEASE_S = 120.0
"""A worker on another machine that was silent for this long is taken for dead."""


def this_worker(lane: int = 0) -> str:
    """A name for one lane of this process: `host#lane/pid/start time`.

    No later process with the same id shares it.
    """
    host = socket.gethostname() + (f"#{lane}" if lane else "")
    return f"{host}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_gone(worker: str, seen_at: float) -> bool:
    """Whether a worker has died.

    On this machine the process table says it at once; elsewhere its silence does.
    """
    if worker == NOBODY:
        return True
    host, pid, created = worker.rsplit("/", 2)
    if host.partition("#")[0] != socket.gethostname():
        return time.time() - seen_at > LEASE_S
    try:
        process = psutil.Process(int(pid))
        return bool(
            abs(process.create_time() - float(created)) > 1.0
            or process.status() == psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return True
