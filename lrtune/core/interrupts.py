"""Ctrl-C reaches every process of a terminal.

Which of them stops is for the one to decide that was started there.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """An interrupt waits until the context is left, and never comes to processes that are started within it.

    They inherit that the signal is blocked, unlike a handler, which a program that they go on to
    would set anew. In this process another thread may be given it, so the handler waits too; Python
    lets the main thread alone set it. Where the system blocks no signals (Windows), nothing is held
    back.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:  # an error within does not make it forgotten
            signal.raise_signal(signal.SIGINT)


def take_interrupts() -> None:
    """Asks for the interrupts that were held back when this process was started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
