"""The processes in which chat templates run (pyllama_mtp.chat.sandbox), one for each template.

A few stay, so that only the first rendering waits for one to start, some tenths of a second. None outlives this
process, and a forked child starts its own.
"""

import atexit
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from pathlib import Path

from pyllama_mtp.errors import ChatTemplateError

MAX_IDLE = 4  # processes that wait for a rendering
KILLED = 128  # and a signal's number: what such a process ends with when one in it was killed

# The package's own modules without pyllama_mtp/__init__.py, which would load the library.
_PROGRAM = """import sys, types
for name, folder in zip(("pyllama_mtp", "pyllama_mtp.chat"), sys.argv[2:]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from pyllama_mtp.chat.sandbox import main
main(int(sys.argv[1]))
"""


class ProcessEnded(Exception):
    """Without an answer, with this exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with the status {status}")
        self.status = status


class _Process:
    """Renders one template, one conversation at a time."""

    def __init__(self, start: bytes) -> None:
        """start: what the process is told first."""
        if not sys.executable or getattr(sys, "frozen", False):
            raise ChatTemplateError("there is no Python interpreter to run the chat template: pass the prompt as text")
        self.start = start
        self.is_new = True
        folder = Path(__file__).parent
        # -S and -P: no code of the environment's runs, and this package's modules do not shadow others.
        command = [sys.executable, "-S", "-P", "-c", _PROGRAM, str(os.getpid()), str(folder.parent), str(folder)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._socket, other = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        _all.add(self)
        try:
            with other:
                self._process = subprocess.Popen(
                    command,
                    stdin=other.fileno(),
                    stdout=other.fileno(),
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # Ctrl-C on a terminal is not for it
                )
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError):
                raise ChatTemplateError(f"cannot start a process for the chat template: {error}") from error
            raise

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, request: bytes, deadline: float) -> bytes | None:
        """The answer; None if the process ended without one. Raises TimeoutError."""
        frames = [self.start, request] if self.is_new else [request]
        self.is_new = False
        try:
            self._set_timeout(deadline)
            self._socket.sendall(b"".join(struct.pack(">I", len(frame)) + frame for frame in frames))
            return self._read(struct.unpack(">I", self._read(4, deadline))[0], deadline)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            return None

    def _read(self, n_bytes: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < n_bytes:
            self._set_timeout(deadline)
            piece = self._socket.recv(min(n_bytes - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _set_timeout(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def end(self) -> int:
        """Kills it, and the rendering in it. Its exit status."""
        self._socket.close()
        if self._process is None:
            return 0
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except OSError:  # it has ended
            pass
        return self._process.wait()

    def status(self) -> int:
        """Of one that ends by itself."""
        try:
            return 0 if self._process is None else self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return self.end()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._socket.close()
        if self._process is not None:
            self._process.returncode = 0


_idle: list[_Process] = []  # those used last are at the end
_all: weakref.WeakSet[_Process] = weakref.WeakSet()


def ask(start: bytes, request: bytes, seconds: float) -> bytes:
    """A rendering by an idle process that was told `start`, or by a new one. Raises ProcessEnded, TimeoutError, and
    ChatTemplateError if no process can be started.
    """
    while True:
        process = _taken(start) or _Process(start)
        was_new = process.is_new
        try:
            answer = process.ask(request, time.monotonic() + seconds)
            if answer is not None:
                _put_back(process)
                return answer
            status = process.status()
        except BaseException:
            process.end()
            raise
        process.end()
        if was_new or status >= 0:  # else something else killed it while it waited
            raise ProcessEnded(status)


def _taken(start: bytes) -> _Process | None:
    for process in reversed(_idle.copy()):
        if process.start == start:
            try:
                _idle.remove(process)
            except ValueError:  # another thread has it
                continue
            if process.lives:
                return process
            process.end()
    return None


def _put_back(process: _Process) -> None:
    _idle.append(process)
    while len(_idle) > MAX_IDLE:
        try:
            _idle.pop(0).end()
        except IndexError:  # another thread was faster
            return


def _end_all() -> None:
    for process in list(_all):
        process.end()


def _forget_all() -> None:
    for process in list(_all):
        process.forget()
    _all.clear()
    _idle.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)
