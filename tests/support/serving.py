"""`pyllama-mtp serve` as a process of its own, and requests to it without a client library in between."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 60
STOP_SECONDS = 40
KEY = "sesame-42"
ADDRESS = re.compile(r"serving (.+) at http://(\S+):(\d+)/v1")
FIGURE = re.compile(r"^(vllm:\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


class Served:
    """A server that runs. log: its lines so far. Use it as a context manager."""

    def __init__(self, target: Path, *flags: str, log: Path):
        self.log_path = log
        command = [sys.executable, "-P", "-m", "pyllama_mtp.cli", "serve", str(target), "--port", "0", *flags]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            found = self._await_address()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.name, self.host, self.port = found[1], found[2], int(found[3])

    def _await_address(self) -> re.Match[str]:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if found := ADDRESS.search(self.log):
                self._await_listening(int(found[3]))
                return found
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log}")

    def _await_listening(self, port: int) -> None:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> "Answer":
        """One request on a connection of its own. body: bytes, or what becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, data, named)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> "Answer":
        return self.ask("POST", path, body, **headers)

    def metrics(self) -> dict[str, float]:
        """Figures by name; of those that are counted by something, the name with that: name{label=value}."""
        figures = {}
        for name, labels, value in FIGURE.findall(self.ask("GET", "/metrics").body.decode()):
            rest = re.sub(r'(model_name|engine)="[^"]*",?', "", labels).strip(",").replace('"', "")
            figures[f"{name}{{{rest}}}" if rest else name] = float(value)
        return figures

    def until(self, condition: str, seconds: float = 10) -> dict[str, float]:
        """Waits until a figure is 0, and returns all."""
        end = time.monotonic() + seconds
        while (figures := self.metrics())[condition] != 0:
            assert time.monotonic() < end, (condition, figures[condition])
            time.sleep(0.02)
        return figures

    def memory_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Answer:
    """To a request."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes):
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error object, checked for what all have."""
        error = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code"} and error["message"] and error["type"]
        return error


def events(body: bytes) -> list[Any]:
    """Those of a stream, which must have ended as streams do."""
    lines = [line for line in body.decode().split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@contextmanager
def raw(served: Served, request: bytes, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection on which `request` was sent as it is."""
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", served.port))
        sock.sendall(request)
        yield sock


def http_request(path: str, body: Any) -> bytes:
    """A POST as it goes over the wire."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    return head.encode() + b"\r\n" + data


def read_to_end(sock: socket.socket) -> bytes:
    """What comes until the other side closes; a reset counts as that."""
    data = b""
    try:
        while part := sock.recv(1 << 16):
            data += part
    except ConnectionResetError:
        pass
    return data


def asgi(app: Any, path: str, body: Any) -> Answer:
    """A POST to an application in this process."""
    sent: list[dict[str, Any]] = []
    scope = {"type": "http", "method": "POST", "path": path, "scheme": "http", "client": ("test", 1)}
    scope["headers"] = [(b"host", b"localhost"), (b"content-type", b"application/json")]

    async def run() -> None:
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not messages:
                await left.wait()
            return messages.pop()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(run())
    start, *parts = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(part["body"] for part in parts))
