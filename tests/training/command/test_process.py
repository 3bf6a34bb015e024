"""Commands that end in all ways, and what is left of them: nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from lrtune.core.errors import InputError
from lrtune.training.command.process import (
    Process,
    end_leftovers,
    filled,
    last_lines,
    placeholders,
)
from lrtune.training.command.supervisor import NOTE_BYTES, PART_BYTES, Log, processes, remaining

pytestmark = pytest.mark.slow  # each of them starts processes, and waits for them to end
ROOT = Path(__file__).parents[3]
LONG_S = 60.0
"""Longer than anything here takes on a busy machine."""
SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('on')\n{SLEEP}"
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    print("daemon", os.getpid())
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    time.sleep(600)
os.wait()
time.sleep(float(sys.argv[1]))
"""
"""Leaves a daemon, which is in another session and holds no pipe, and goes on for some seconds."""


@pytest.fixture
def start(tmp_path):
    """Starts a command in an empty folder, and ends it after the test."""
    started = []

    def start_command(*command, environment=None, **others):
        process = Process.start(
            command,
            folder=tmp_path / "run",
            environment=environment or {},
            cwd=others.pop("cwd", tmp_path),
            log=tmp_path / "run" / "log",
            **others,
        )
        started.append(process)
        return process

    yield start_command
    for process in started:
        process.end(grace_s=0)


def python(code, *words):
    return (sys.executable, "-u", "-c", code, *words)


def wait_for(condition):
    """Waits until a condition holds; the clock only bounds a failure."""
    deadline = time.monotonic() + LONG_S
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def printed(process, word):
    wait_for(lambda: any(word in line for line in process.last_lines()))


def alive(mark):
    return remaining(None, mark)


# --- how commands end


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (("true",), 0, "exit code 0"),
        (("sh", "-c", "exit 7"), 7, "exit code 7"),
        (("sh", "-c", "kill -9 $$"), -9, "signal 9 (SIGKILL)"),
        (("sh", "-c", "kill -SEGV $$"), -11, "signal 11 (SIGSEGV)"),
        (python("import os; os._exit(3)"), 3, "exit code 3"),
        (python("raise ValueError"), 1, "exit code 1"),
    ],
)
def test_the_status_of_a_command_that_ends_by_itself(start, command, status, text):
    ended = start(*command).wait(LONG_S)
    assert (ended.status, str(ended), ended.was_ended) == (status, text, False)
    assert ended.succeeded == (status == 0)
    assert (ended.num_outliving, ended.survivors, ended.log_problem) == (0, (), "")


def test_output_and_errors_are_in_one_file_in_order(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log").write_text("an earlier run\n")
    words = "echo one; echo two >&2; echo three; pwd; cat; echo $A $LRTUNE_MARK"
    process = start("sh", "-c", words, environment={"A": "b c"})
    process.wait(LONG_S)
    lines = ("one", "two", "three", str(tmp_path), f"b c {process.mark}")
    assert process.last_lines() == lines
    assert process.last_lines(2) == lines[-2:]
    assert process.log.read_text().splitlines() == ["an earlier run", *lines]


def test_a_command_that_goes_on_is_not_over(start):
    process = start(*python(SLEEP))
    assert process.poll() is None
    assert process.wait(0.1) is None
    ended = process.end()
    assert (ended.status, ended.was_ended, ended.succeeded) == (-15, True, False)
    assert process.end() is ended
    assert process.poll() is ended
    assert not alive(process.mark)


def test_a_command_may_end_itself_when_it_is_told(start):
    code = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("on")
signal.pause()
"""
    process = start(*python(code))
    printed(process, "on")
    assert process.end().status == 5


def test_a_command_that_ignores_the_signal_is_killed(start):
    process = start(*python(STUBBORN), grace_s=0.3)
    printed(process, "on")
    assert process.end().status == -9
    assert not alive(process.mark)


def test_a_shorter_grace_time_overrides_the_first(start):
    process = start(*python(STUBBORN), grace_s=1e6)
    printed(process, "on")
    process._ask("end 1000000")
    assert process.wait(0.3) is None
    assert process.end(grace_s=0).status == -9


def test_a_stopped_command_is_ended(start):
    process = start(*python("print('on')\n" + SLEEP), grace_s=1e6)
    printed(process, "on")
    os.kill(process.pid, signal.SIGSTOP)
    assert process.end().status == -15


def test_a_context_ends_its_command(start):
    with start(*python(SLEEP)) as process:
        assert alive(process.mark)
    assert not alive(process.mark)


def test_a_command_has_default_signals_and_no_files_of_lrtune(start):
    code = """
import os, signal
print(sorted(os.listdir("/proc/self/fd"))[:3], len(os.listdir("/proc/self/fd")))
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), os.getsid(0) == os.getpid() == os.getpgrp())
"""
    process = start(*python(code))
    process.wait(LONG_S)
    assert process.last_lines() == ("['0', '1', '2'] 4", "True", "set() True")


# --- commands that cannot be started


def test_a_command_that_cannot_be_started_is_an_input_error(start, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("echo")
    (tmp_path / "noise").write_bytes(b"\0\1\2")
    (tmp_path / "noise").chmod(0o755)
    (tmp_path / "script").write_text("#!/no/such/shell\n")
    (tmp_path / "script").chmod(0o755)
    for command, reason in {
        "no-such-program": "there is no such program on PATH",
        "plain": f"there is no such program on PATH (for the file in {tmp_path}, write ./plain)",
        "./missing": f"the file does not exist (the working directory is {tmp_path})",
        "./folder": "it is a folder",
        "./plain": "the file is not executable (`chmod +x ./plain` makes it so)",
        "./noise": "it is not a program, and its first line (#!) does not name one",
        "./script": "the program in its first line (#!) does not exist",
    }.items():
        with pytest.raises(InputError) as caught:
            start(command)
        assert str(caught.value) == f"The command {command!r} could not be started: {reason}."
    assert not children()


def test_impossible_requests_are_input_errors(start, tmp_path):
    with pytest.raises(InputError, match="must not be empty"):
        start()
    with pytest.raises(InputError, match="working directory"):
        start("true", cwd=tmp_path / "missing")
    with pytest.raises(InputError, match="null byte"):
        start("echo", "a\0b")


# --- what outlives a command


def children():
    """Processes whose parent is this one, but for what other tests keep running in it."""
    text = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    own = (" ps ", "multiprocessing.resource_tracker")
    return [line for line in text.splitlines() if not any(words in line for words in own)]


@pytest.mark.parametrize(
    "code",
    [
        "{sleep} & exit 4",
        "setsid {sleep} & exit 4",
        "nohup {sleep} >/dev/null 2>&1 & exit 4",
        "env -i {sleep} & exit 4",
        "env -i setsid {sleep} & sleep 0.3; exit 4",
        "(setsid {sleep} &) ; exit 4",
    ],
)
def test_processes_that_outlive_their_command_are_ended(start, code):
    sleep = f"sleep 600.{uuid.uuid4().int}"  # no other process has this line
    process = start("sh", "-c", code.format(sleep=sleep))
    ended = process.wait(LONG_S)
    assert (ended.status, ended.was_ended) == (4, False)
    assert ended.num_outliving >= 1
    assert not alive(process.mark)
    assert subprocess.run(["pgrep", "-f", f"^{sleep}"]).returncode == 1


def test_a_daemon_that_outlives_its_command_is_ended(start):
    process = start(*python(f"{DAEMON}sys.exit(4)", "0"))
    ended = process.wait(LONG_S)
    assert (ended.status, ended.num_outliving) == (4, 1)
    assert not alive(process.mark)


def test_a_process_that_only_finishes_late_is_not_disturbed(start):
    process = start("sh", "-c", "(sleep 0.3; echo late) & exit 0")
    ended = process.wait(LONG_S)
    assert (ended.status, ended.num_outliving, process.last_lines()) == (0, 0, ("late",))


def test_a_daemon_is_ended_with_its_command(start):
    process = start(*python(DAEMON, "600"))
    printed(process, "daemon")
    assert len(alive(process.mark)) >= 2
    process.end()
    assert not alive(process.mark)


# --- what outlives lrtune

PARENT = """
import sys, time
from pathlib import Path
from lrtune.training.command.process import Process
folder = Path(sys.argv[1])
process = Process.start(sys.argv[2:], folder=folder, environment={}, cwd=folder,
                        log=folder / "log", grace_s=1)
print(process.mark, process.pid, flush=True)
while process.poll() is None:
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("over", flush=True)
"""


@pytest.fixture
def parent(tmp_path):
    """A process like lrtune, which has started a command."""
    helpers = []

    def start_parent(*command):
        helper = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path), *command],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        helpers.append(helper)
        mark, pid = helper.stdout.readline().split()
        return helper, mark, int(pid)

    yield start_parent
    for helper in helpers:
        helper.kill()
        helper.wait()
        helper.stdout.close()
    end_leftovers(tmp_path, grace_s=0)


@pytest.mark.parametrize("command", [python(SLEEP), python(STUBBORN), python(DAEMON, "600")])
def test_nothing_survives_when_lrtune_is_killed(parent, command):
    helper, mark, pid = parent(*command)
    supervisor = parent_of(pid)
    assert supervisor in processes()
    helper.kill()
    wait_for(lambda: not alive(mark))
    wait_for(lambda: processes().get(supervisor, (b"Z",))[0] == b"Z")


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_supervisor_that_is_killed_is_replaced_by_lrtune(start):
    process = start(*python(DAEMON, "600"), grace_s=0.5)
    printed(process, "daemon")
    process._helper.kill()
    ended = process.wait(LONG_S)
    assert (ended.status, str(ended)) == (None, "unknown exit code")
    assert not alive(process.mark)


def test_leftovers_of_a_run_are_found_when_both_were_killed(parent, tmp_path):
    helper, mark, pid = parent(*python(DAEMON, "600"))
    wait_for(lambda: "daemon" in (tmp_path / "log").read_text())
    supervisor = parent_of(pid)
    os.kill(helper.pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    helper.kill()
    wait_for(lambda: alive(mark))
    assert end_leftovers(tmp_path) >= 1
    assert not alive(mark)
    assert end_leftovers(tmp_path) == 0
    assert end_leftovers(tmp_path / "missing") == 0


def test_an_interrupt_of_lrtune_does_not_reach_the_command(parent, tmp_path):
    code = f"print('on')\ntry: {SLEEP}\nexcept KeyboardInterrupt: print('no')"
    helper, mark, _ = parent(*python(code))
    wait_for(lambda: "on" in (tmp_path / "log").read_text())
    os.killpg(helper.pid, signal.SIGINT)  # as a terminal does
    assert helper.stdout.readline() == "interrupted\n"
    assert len(alive(mark)) == 1
    helper.terminate()
    wait_for(lambda: not alive(mark))
    assert (tmp_path / "log").read_text() == "on\n"


# --- many of them


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_many_starts_leak_nothing(start):
    start("true").wait(LONG_S)
    before = open_files()
    for number in range(20):
        process = start("sh", "-c", f"exit {number}")
        assert process.wait(LONG_S).status == number
    assert open_files() == before
    assert not children()


# --- the log


@pytest.mark.parametrize("num_lines", [250_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_log_is_bounded(start, num_lines):
    """50 or 200 MB: the first lines and the last ones are kept, and what is missing is said."""
    code = f"for i in range({num_lines}): print(f'{{i:0199d}}')"
    process = start(sys.executable, "-c", code)
    largest = 0
    while process.wait(0.02) is None:
        largest = max(largest, process.log.stat().st_size)
    assert process.poll().succeeded
    content = process.log.read_bytes()
    assert max(largest, len(content)) <= 5 * PART_BYTES
    assert len(content) <= 2 * PART_BYTES + NOTE_BYTES
    lines = content.decode().splitlines()
    assert lines[0] == f"{0:0199d}"
    (note,) = [line for line in lines if line.startswith("[")]
    num_left_out = int(note.split()[3].replace(",", ""))
    assert len(content) - NOTE_BYTES + num_left_out == 200 * num_lines
    after = lines[lines.index(note) + 1 :]
    assert after == [f"{i:0199d}" for i in range(num_lines - len(after), num_lines)]


@pytest.mark.parametrize("size", [1, 1000, PART_BYTES + 17])
def test_a_log_holds_all_that_was_written_or_says_what_not(tmp_path, size):
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    log = Log(str(path))
    block = b"".join(b"%015d\n" % number for number in range(size // 16 + 1))
    num_written = 0
    for _ in range(7):
        log.write(block)
        num_written += len(block)
    log.close()
    content = path.read_bytes()
    assert content.startswith(b"before\n" + block[: PART_BYTES - 8])
    assert content.endswith(block[-PART_BYTES // 2 :])
    if num_written < 2 * PART_BYTES:
        assert len(content) == num_written + 7
    else:
        assert len(content) <= 2 * PART_BYTES + NOTE_BYTES + 7


def test_a_log_that_cannot_be_written_does_not_stop_the_command(tmp_path):
    log = Log(str(tmp_path / "log"))
    log.file.close()
    log.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    log.write(b"much")
    log.write(b"more")
    log.close()
    assert log.problem == os.strerror(28)


def test_last_lines_are_as_a_terminal_shows_them(tmp_path):
    path = tmp_path / "log"
    assert last_lines(path) == ()
    path.write_bytes(b"\x1b[31mred\x1b[0m\n\n 1%\r 2%\r 3%\n\xff\nlast")
    assert last_lines(path) == ("red", " 3%", "\ufffd", "last")
    assert last_lines(path, 1) == ("last",)
    assert last_lines(path, start=12) == (" 3%", "\ufffd", "last")
    path.write_bytes(b"x" * 300_000)
    assert last_lines(path) == ("x" * 500,)


# --- placeholders

VALUES = {"seed": 3, "peak_lr": 1e-05, "run_dir": Path("/r u/n"), "epochs": 2}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("--seed={seed}", "--seed=3"),
        ("{seed}{seed}", "33"),
        ("{peak_lr}", "1e-05"),
        ("{run_dir}/x", "/r u/n/x"),
        ("{{seed}}", "{seed}"),
        ("${HOME} ${seed}", "${HOME} ${seed}"),
        ("awk '{print $1}'", "awk '{print $1}'"),
        ('{"seed": {seed}, "b": {}}', '{"seed": 3, "b": {}}'),
        ('{"a":{"b":{seed}}}', '{"a":{"b":3}}'),
        ("{lr} {epoch} {{x}} { seed } {seed:03d}", "{lr} {epoch} {{x}} { seed } {seed:03d}"),
        ("{" * 1000 + "seed" + "}" * 1000, "{" * 999 + "seed" + "}" * 999),
        ("", ""),
    ],
)
def test_known_placeholders_are_filled(word, result):
    assert filled([word], VALUES) == (result,)


def test_a_value_is_not_filled_again():
    assert filled(["{a}"], {"a": "{b}", "b": 1}) == ("{b}",)


def test_placeholders_are_told():
    command = ["x", "{seed} {epoch}", "${epochs}", "{{run_dir}}", "{seed}", "{peak_lr}"]
    assert placeholders(command, VALUES) == ("seed", "peak_lr")


def test_a_run_tells_which_processes_it_has(start, tmp_path):
    process = start(*python(SLEEP))
    content = json.loads((tmp_path / "run" / "process.json").read_text())
    assert (content["mark"], content["pid"]) == (process.mark, process.pid)
