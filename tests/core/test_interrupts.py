"""Ctrl-C that is held back.

It comes later to the process itself, and never to processes that it starts meanwhile.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from lrtune.core.interrupts import interrupts_held_back, interrupts_repeated

CHILD = (
    "import sys; from lrtune.core.interrupts import take_interrupts; {}; "
    "print('up', flush=True); sys.stdin.read()"
)


@pytest.fixture
def interruptible():
    """Takes interrupts as a program in the foreground does.

    A program that a script starts in the background may ignore them.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [None, OSError("meanwhile")], ids=repr)
def test_an_interrupt_comes_when_the_context_is_left(interruptible, error):
    held_back = []

    def interrupted():
        with interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            held_back.append(True)
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert held_back
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("first", "code"), [("pass", 0), ("take_interrupts()", -signal.SIGINT)])
def test_a_process_that_is_started_has_to_ask_for_interrupts(first, code):
    with interrupts_held_back():
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert child.returncode == code


class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # where Python raises the interrupt


def test_an_interrupt_in_a_finalizer_comes_again(interruptible, capfd):
    def interrupted():
        with interrupts_repeated():
            Finalized()
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not capfd.readouterr().err


def test_other_errors_of_finalizers_are_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    class Broken:
        def __del__(self):
            raise ValueError

    with interrupts_repeated():
        Broken()
    Broken()
    assert told == [ValueError, ValueError]
