"""The process in which one chat template runs, started by pyllama_mtp.chat.template.

It compiles the template once and warms up with one of ours; every rendering then has a process of its own, forked from
this one before it is asked for. This one never sees a message, nor runs what it compiled, so nothing of a rendering is
left for the next one, and each has limits that end it whatever the template does: a sandbox within a process cannot
bound what one operation costs ('a' * 10**9, the text of a list that holds itself in every element). CPU time and memory
are limited, and no file can grow.

stdin and stdout are one socket: frames with four bytes of length in front. The first one to come is a JSON object with
template, parent, cpu_seconds, memory_bytes and rendered_chars, every other one a rendering (see Rendering), which is
answered by RENDERED and a JSON object or FAILED and why. Where a rendering's process ends in another way, this one ends
with the exit status KILLED + the signal's number, or DIED. It ends when its parent does.
"""

import gc
import json
import os
import resource
import select
import signal
import struct
from typing import Any, NoReturn

from pyllama_mtp.chat.rendering import Rendering, Template, answered
from pyllama_mtp.chat.warming import ROUNDS, Warming

RENDERED, FAILED = b"+", b"-"
LEFT, DIED, KILLED = 63, 64, 128
MAX_ERROR_CHARS = 1000
ALIVE_SECONDS = 5.0  # between two looks for the parent


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _rendered(template: Template, request: bytes, memory_bytes: int) -> bytes:
    try:
        return RENDERED + answered(template, Rendering(**json.loads(request)))
    except MemoryError:
        return FAILED + f"it needs more than {memory_bytes >> 20} MiB of memory".encode()
    except Exception as error:  # templates can raise anything: type errors, overflows, undefined names
        return FAILED + f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS].encode(errors="replace")


def _read(n_bytes: int, parent: int) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        ready, _, _ = select.select([0], [], [], ALIVE_SECONDS)
        piece = os.read(0, n_bytes - len(data)) if ready else b""
        if not piece and (ready or os.getppid() != parent):
            os._exit(LEFT)
        data += piece
    return bytes(data)


def _frame(parent: int) -> bytes:
    return _read(struct.unpack(">I", _read(4, parent))[0], parent)


def _write(answer: bytes) -> None:
    rest = memoryview(struct.pack(">I", len(answer)) + answer)
    while rest:
        rest = rest[os.write(1, rest) :]


def _wait(child: int, ended: int, parent: int) -> None:
    """Until the process of a rendering has ended, or the parent. ended: a pipe that hangs up then."""
    poll = select.poll()
    poll.register(ended, select.POLLHUP)
    poll.register(0, select.POLLRDHUP)
    while not (happened := poll.poll(1000 * ALIVE_SECONDS)) and os.getppid() == parent:
        pass
    if ended not in dict(happened):
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        os._exit(KILLED + os.WTERMSIG(status))
    if status:
        os._exit(DIED)


def _serve(template: Template | bytes, warming: Warming, start: dict[str, Any]) -> NoReturn:
    """template: or why there is none."""
    while isinstance(template, bytes):
        _frame(start["parent"])
        _write(template)
    this = os.getpid()
    while True:
        ended, alive = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _limit(resource.RLIMIT_CPU, start["cpu_seconds"])
                warming.render()  # copies the pages that a rendering writes to, while nobody waits
                _write(_rendered(template, _frame(this), start["memory_bytes"]))
                os._exit(0)
            finally:
                os._exit(1)
        os.close(alive)
        _wait(child, ended, start["parent"])
        os.close(ended)


def main(parent: int) -> NoReturn:
    start = json.loads(_frame(parent)) | {"parent": parent}
    _limit(resource.RLIMIT_AS, start["memory_bytes"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    used = sum(os.times()[:2])
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = int(used) + 1 + start["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    template: Template | bytes
    try:
        template = Template(start["template"], start["rendered_chars"])
    except MemoryError:
        template = FAILED + f"it needs more than {start['memory_bytes'] >> 20} MiB of memory".encode()
    except Exception as error:
        template = FAILED + f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS].encode(errors="replace")
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    warming = Warming()
    for _ in range(ROUNDS):
        warming.render()
    gc.collect()
    gc.freeze()  # so that a fork copies fewer pages
    gc.disable()  # likewise, and a rendering makes little garbage
    _serve(template, warming, start)
