"""Runs one command for lrtune, and leaves nothing of it behind.

lrtune starts this file as a script, in a process of its own, once for each run. It imports only
small modules of the standard library, so that it starts fast.

The supervisor reads a request from standard input, starts the command in a session of its own,
copies the command's output to a log of bounded size, and reports to standard output. It ends the
command when it reads `end SECONDS`, when standard input is closed, or when its parent has died,
whichever is first: the kernel closes the pipe even if lrtune is killed by SIGKILL. When the command
is over, however that came about, the supervisor ends the processes that the command left behind.

Requests and reports are lines of JSON:

    {"command": ["python", "train.py"], "cwd": "/home/me", "environment": {"A": "1"},
     "log": "/runs/7/log", "mark": "5f3c", "grace_s": 10.0}
    {"pid": 4711, "time": 1714.5}                       the command was started
    {"failed": 2, "message": "No such file or ..."}     it could not be started
    {"status": -15, "time": 1720.0, "outliving": 0, "survivors": [], "log_problem": ""}
                                                        it is over, and nothing of it is left
    {"broken": "MemoryError: "}                         the supervisor itself failed
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` itself would make the start a third slower
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

PART_BYTES = 8 * 1024 * 1024
"""A log keeps as many bytes from the start of the output, and as many from its end."""
MAX_TAIL_BYTES = 3 * PART_BYTES
"""While a command runs, its log may hold so many bytes of the latest output."""
NOTE = "\n[lrtune left out {:015,d} bytes of output here]\n"
"""Stands in a log where output was left out. Its length does not depend on the number."""
NOTE_BYTES = len(NOTE.format(0))
CHUNK_BYTES = 1024 * 1024
PARENT_CHECK_S = 1.0
LINGER_S = 1.0
"""How long the processes of a command that has ended may take to end by themselves."""
UNKILLABLE_S = 30.0
"""How long a process may take to vanish after SIGKILL before it is reported as a survivor.

A driver may take long to free the memory of a GPU."""
MARK_VARIABLE = "LRTUNE_MARK"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Log:
    """Appends output to a file, and keeps only the start and the end of it.

    Args:
        path: the file. What it holds already is kept.
    """

    def __init__(self, path: str):
        self.path = path
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 -- closed by `close`
        self.tail_start = self.file.tell() + PART_BYTES
        self.size = self.file.tell()
        self.num_left_out = 0
        self.problem = ""

    def write(self, content: bytes) -> None:
        """Appends to the log; a full disk stops the log, not the command."""
        if self.problem:
            return
        try:
            view = memoryview(content)
            while view:
                view = view[self.file.write(view) :]
            self.size += len(content)
            if self.size > self.tail_start + MAX_TAIL_BYTES:
                self.shorten()
        except OSError as error:
            self.problem = error.strerror or str(error)

    def shorten(self) -> None:
        """Replaces the file by one with its head, a note, and the last bytes of its tail."""
        first = self.tail_start + (NOTE_BYTES if self.num_left_out else 0)
        num_dropped = self.size - first - PART_BYTES
        if num_dropped <= NOTE_BYTES:
            return
        shorter = self.path + ".shorter"
        with open(self.path, "rb") as source, open(shorter, "wb") as target:
            target.write(source.read(self.tail_start))
            source.seek(first + num_dropped)
            tail = source.read()
            cut = tail.find(b"\n", 0, CHUNK_BYTES) + 1  # the tail begins with a whole line
            self.num_left_out += num_dropped + cut
            target.write(NOTE.format(self.num_left_out).encode())
            target.write(memoryview(tail)[cut:])
        os.replace(shorter, self.path)
        self.file.close()
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self.size = self.file.tell()

    def close(self) -> None:
        """Shortens the log to its final size."""
        try:
            if not self.problem:
                self.shorten()
            self.file.close()
        except OSError as error:
            self.problem = error.strerror or str(error)


# --- which processes belong to a command


def processes() -> dict[int, tuple[bytes, int, int, int]]:
    """Returns state, parent, group and session of each process by its pid; `{}` without /proc."""
    known: dict[int, tuple[bytes, int, int, int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return known
    for name in filter(str.isdigit, names):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            parent, group, session = map(int, fields[1:4])
            known[int(name)] = (fields[0], parent, group, session)
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return known


def is_marked(pid: int, mark: str) -> bool:
    """Returns whether a process was started with the mark in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK_VARIABLE}={mark}".encode() in file.read().split(b"\0")
    except OSError:
        return False  # it has ended, or belongs to somebody else


def remaining(group: int | None, mark: str, *, ancestor: int | None = None) -> list[int]:
    """Returns the pids of a command's processes that are alive.

    Args:
        group: the id of the command's process group and session; `None` if it is not known.
        mark: what its processes have in their environment.
        ancestor: a process whose descendants all belong to the command.
    """
    known = processes()
    if not known:  # no /proc: the group is all that can be seen
        try:
            os.killpg(group or 0, 0)
        except OSError:
            return []
        return [-group] if group else []
    mine = {pid for pid, (_, _, *groups) in known.items() if group in groups}
    if ancestor is not None:
        children: dict[int, list[int]] = {}
        for pid, (_, parent, *_) in known.items():
            children.setdefault(parent, []).append(pid)
        waiting = [ancestor]
        while waiting:
            below = children.pop(waiting.pop(), [])
            mine.update(below)
            waiting += below
    rest = known.keys() - mine
    mine.update(pid for pid in rest if known[pid][0] not in b"ZX" and is_marked(pid, mark))
    return [pid for pid in mine - {os.getpid(), ancestor} if known[pid][0] not in b"ZX"]


def send(pids: Iterable[int], number: int) -> None:
    """Sends a signal to processes; a negative pid is that of a group."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue  # it has ended, or belongs to somebody else


class Ending:
    """Ends the processes of a command: SIGTERM, and SIGKILL after a while.

    Args:
        group: as `remaining` takes it.
        mark: as `remaining` takes it.
        ancestor: as `remaining` takes it.
        grace_s: seconds from SIGTERM to SIGKILL.
        linger_s: seconds until SIGTERM.
    """

    def __init__(
        self,
        group: int | None,
        mark: str,
        grace_s: float,
        *,
        ancestor: int | None = None,
        linger_s: float = 0.0,
    ):
        self.group, self.mark, self.ancestor = group, mark, ancestor
        self.begin = time.monotonic() + linger_s
        self.grace_s = grace_s
        self.asked: set[int] = set()
        self.left: list[int] = []
        self.kill_time: float | None = None
        self.pause_s = 0.01
        self.outlives = linger_s > 0
        self.num_outliving = 0

    def hurry(self, grace_s: float) -> None:
        """Sends SIGTERM now, and SIGKILL after so many seconds or sooner."""
        now = time.monotonic()
        kill_time = min(self.begin + self.grace_s, now + grace_s)
        self.begin = min(self.begin, now)
        self.grace_s = kill_time - self.begin

    def go_on(self) -> bool:
        """Sends what is due. Returns whether it is over."""
        self.left = remaining(self.group, self.mark, ancestor=self.ancestor)
        if not self.left:
            return True
        now = time.monotonic()
        self.pause_s = min(0.2, 1.5 * self.pause_s)
        if now < self.begin:
            return False
        if now < self.begin + self.grace_s:
            fresh = [pid for pid in self.left if pid not in self.asked]
            self.asked.update(fresh)
            if self.outlives:
                self.num_outliving += len(fresh)
            send(fresh, signal.SIGTERM)
            send(fresh, signal.SIGCONT)  # a stopped process sees SIGTERM only once it goes on
        else:
            self.kill_time = self.kill_time or now
            send(self.left, signal.SIGKILL)
            if now > self.kill_time + UNKILLABLE_S:
                return True
        return False


# --- the script


class Supervisor:
    """The command, its log, and the two pipes to lrtune."""

    def __init__(self, request: dict[str, Any], words: bytes):
        self.request = request
        self.words = words
        self.log = Log(request["log"])
        self.parent = os.getppid()
        self.pid = 0
        self.status: int | None = None
        self.ended = False
        self.ending: Ending | None = None
        self.libc = _libc()

    def start(self) -> None:
        """Starts the command. Raises OSError or ValueError where it cannot be started."""
        if self.libc is not None:  # orphans of the command become children of this process
            self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.output, writer = os.pipe()
        error_reader, error_writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become_command(writer, error_writer)
        os.close(writer)
        os.close(error_writer)
        with open(error_reader, "rb") as file:
            error = file.read()
        if error:
            os.waitpid(self.pid, 0)
            number, _, message = error.decode(errors="replace").partition(" ")
            raise OSError(int(number), message)
        os.set_blocking(self.output, False)

    def _become_command(self, writer: int, error_writer: int) -> NoReturn:
        """In the forked process: replaces it by the command."""
        try:
            os.setsid()
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGXFSZ", "SIGCHLD"):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if self.libc is not None:
                self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            null = os.open(os.devnull, os.O_RDONLY)
            for target, source in enumerate((null, writer, writer)):
                os.dup2(source, target)
            os.chdir(self.request["cwd"])
            command = self.request["command"]
            environment = {**os.environ, **self.request["environment"]}
            os.execvpe(command[0], command, environment)  # noqa: S606 -- the user's command
        except OSError as error:
            message = f"{error.errno} {error.strerror}"
        except BaseException as error:
            message = f"{errno.EINVAL} {error}"
        os.write(error_writer, message.encode(errors="replace"))
        os._exit(127)

    def run(self) -> None:
        """Waits until the command and all that it started are gone."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.output, select.POLLIN)
        wake_reader, wake_writer = os.pipe()
        os.set_blocking(wake_reader, False)
        os.set_blocking(wake_writer, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        poll.register(wake_reader, select.POLLIN)
        signal.signal(signal.SIGTERM, lambda *_: self.end(self.request["grace_s"]))
        self.reap()
        while True:
            pause_s = self.ending.pause_s if self.ending else PARENT_CHECK_S
            ready = [number for number, _ in poll.poll(1000 * pause_s)]
            if self.output in ready and not self.drain():
                poll.unregister(self.output)
            if wake_reader in ready:
                os.read(wake_reader, 4096)
            if 0 in ready and not self.obey():
                poll.unregister(0)
                self.end(self.request["grace_s"])
            if os.getppid() != self.parent:
                self.end(self.request["grace_s"])
            self.reap()
            if self.ending and self.ending.go_on() and (self.ended or self.ending.left):
                break
        self.drain()
        self.log.close()
        report(
            status=self.status,
            time=time.time(),
            outliving=self.ending.num_outliving,
            survivors=self.ending.left,
            log_problem=self.log.problem,
        )

    def drain(self) -> bool:
        """Copies output that is there to the log. Returns False at its end."""
        for _ in range(16):  # and then looks at what else has happened
            try:
                content = os.read(self.output, CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not content:
                return False
            self.log.write(content)
        return True

    def obey(self) -> bool:
        """Reads what lrtune asks for. Returns False when the pipe is closed."""
        content = os.read(0, 4096)
        *lines, self.words = (self.words + content).split(b"\n")
        for line in lines:
            if line.startswith(b"end "):
                self.end(float(line[4:]))
        return bool(content)

    def end(self, grace_s: float) -> None:
        """Begins to end the command, or makes the end come sooner."""
        if self.ending is None:
            self.ending = self.new_ending(grace_s)
        self.ending.hurry(grace_s)

    def new_ending(self, grace_s: float, linger_s: float = 0.0) -> Ending:
        """Returns the end of all that the command started."""
        mark, ancestor = self.request["mark"], os.getpid()
        return Ending(self.pid, mark, grace_s, ancestor=ancestor, linger_s=linger_s)

    def reap(self) -> None:
        """Takes the exit status of processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.ended = True
                self.status = os.waitstatus_to_exitcode(status)
                if self.ending is None:
                    self.ending = self.new_ending(self.request["grace_s"], LINGER_S)


def _libc() -> Any:
    """Returns the C library where it has `prctl` (Linux), else `None`."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        return ctypes.CDLL(None)
    except (ImportError, OSError):
        return None


def report(**message: Any) -> None:
    """Writes one message to lrtune, which may be dead."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:
        return


def main() -> None:
    """Reads the request, and runs the command that it asks for."""
    for name in ("SIGINT", "SIGHUP", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    content = b""
    while b"\n" not in content:
        more = os.read(0, CHUNK_BYTES)
        if not more:
            return  # lrtune died while it was asking
        content += more
    line, _, rest = content.partition(b"\n")
    supervisor = None
    try:
        supervisor = Supervisor(json.loads(line), rest)
        try:
            supervisor.start()
        except (OSError, ValueError) as error:
            number, message = getattr(error, "errno", 0), getattr(error, "strerror", str(error))
            report(failed=number, message=message)
            return
        report(pid=supervisor.pid, time=time.time())
        supervisor.run()
    except BaseException as error:  # lrtune is told, and the command is ended all the same
        report(broken=f"{type(error).__name__}: {error}")
        if supervisor is not None and supervisor.pid:
            send(remaining(supervisor.pid, supervisor.request["mark"]), signal.SIGKILL)
        raise


if __name__ == "__main__":
    main()
