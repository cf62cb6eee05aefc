"""Sockets, connections and signals of `pyllama-mtp serve`: uvicorn with limits on what a client may leave undone."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pyllama_mtp.errors import ServerError
from pyllama_mtp.server.errors import retry
from pyllama_mtp.server.guard import Guard
from pyllama_mtp.server.options import ServerOptions

HEADER_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 30
MAX_PORT = 65535
SEND_BUFFER_BYTES = 256 << 10  # of the kernel, for a connection: what is beyond waits here, and makes its text wait
CLOSING_SECONDS = 2  # for connections that are open after the last answer

log = logging.getLogger("pyllama_mtp.server")


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet. Raises ServerError."""
    if not 0 <= port <= MAX_PORT:  # the system would take what is left of it
        raise ServerError(f"the port is {port}, expected 0..{MAX_PORT}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, UnicodeError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ServerError(f"cannot listen on {host}, port {port}: {reason}") from error


class Connection(H11Protocol):
    """A connection that may not be held open by doing nothing: headers come in time, and answers are read in time."""

    options = ServerOptions()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None
        if (sock := transport.get_extra_info("socket")) is not None:  # notices clients that vanished
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        most = self.options.max_connections
        if len(self.connections) > most:
            body = retry(503, f"{most} connections are open", "too_many_connections").as_json()
            head = f"HTTP/1.1 503 \r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            transport.write(f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + body)
            transport.close()
        else:
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reading()
        elif self.cycle.response_complete and self.conn.trailing_data[0]:  # a part of another request came already
            self._unset_keepalive_if_required()
            self._await_headers()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading_due is not None and not self.transport.is_closing():
            self._reading_due.cancel()
            self._reading_due = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._headers_due, self._reading_due):
            if timer is not None:
                timer.cancel()

    def _await_headers(self) -> None:
        """A timer while no request is under way, but for where uvicorn waits for one to begin."""
        waits = self.cycle is None or (self.cycle.response_complete and self.timeout_keep_alive_task is None)
        if waits and self._headers_due is None:
            self._headers_due = self.loop.call_later(self.options.header_seconds, self.transport.abort)
        elif not waits and self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _await_reading(self) -> None:
        if self._reading_due is None:
            self._reading_due = self.loop.call_later(self.options.write_seconds, self.transport.abort)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to serve()."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


def serve(app: Guard, sock: socket.socket) -> None:
    """Until a signal: SIGTERM or SIGINT drains, a second one ends the process at once. Raises ServerError."""
    connection = type("Connection", (Connection,), {"options": app.state.options})
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    try:
        sock.listen(config.backlog)
    except OSError as error:
        raise ServerError(f"cannot listen: {error.strerror or error}") from error
    asyncio.run(_serve(app, _Uvicorn(config), sock))


async def _serve(app: Guard, server: uvicorn.Server, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    async def drain() -> None:
        await app.state.drain()
        server.should_exit = True

    def on_signal(number: int) -> None:
        if draining:
            sys.stderr.flush()
            os._exit(128 + number)  # whatever runs: nothing is left to be saved
        log.info("draining: up to %g s for what runs; a second signal ends it at once", app.state.options.drain_seconds)
        draining.append(loop.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await server.serve(sockets=[sock])
