"""Lets the main process alone decide what Ctrl-C stops, and loses no interrupt.

The terminal sends the interrupt to every one of its processes.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Delays an interrupt until the context is left.

    Processes that are started within the context never get it: they inherit the blocked signal. (A
    handler would not do, since a program that such a process executes sets its own.) In this
    process the signal may be delivered to another thread, so a handler delays it as well; Python
    lets only the main thread set one. Where the system cannot block signals (Windows), nothing is
    delayed.
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
    """Unblocks the interrupts that were blocked when this process was started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def interrupts_repeated() -> Iterator[None]:
    """Repeats an interrupt that came while Python finalized an object.

    Python prints an exception of a finalizer, such as `__del__`, and goes on as if it had not been,
    so the interrupt would be lost.
    """
    others = sys.unraisablehook

    def repeat(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            # At once it would come within this function, and be lost again.
            threading.Timer(0.01, _interrupt_main_thread).start()
        else:
            others(unraisable)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = others


def _interrupt_main_thread() -> None:
    """Interrupts the main thread, also where it waits in a call of the system."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
