"""Who may ask, before anything of a request is looked at: hosts, origins, keys; and the line of the log.

A server on loopback is reached by every page that its user's browser shows: by name, where that name's address was
changed to this machine's (DNS rebinding), or directly. So there the names that it goes by are few, and pages of other
origins are refused unless they were allowed.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyllama_mtp.errors import one_line
from pyllama_mtp.server.errors import ApiError
from pyllama_mtp.server.state import State

log = logging.getLogger("pyllama_mtp.server")

# What tells no one's texts, and what asks for the key itself.
OPEN_PATHS = frozenset({"/", "/health", "/metrics", "/openapi.json"})
OPEN_FOLDER = "/page/"
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin")]
LEFT = 499  # in the log: nobody was there to be answered
SHOWN_PATH = 100  # characters of a path in the log


def header(scope: Scope, name: bytes) -> str | None:
    """None: there is none, or several."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1").strip() if len(values) == 1 else None


def host_name(authority: str) -> str:
    """Without the port."""
    name = authority.lower()
    if name.startswith("["):
        return name[: name.find("]") + 1]
    return name.partition(":")[0].rstrip(".")


class Keys:
    """Asks for one of some keys, in the header Authorization."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]):
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
        if is_open or self._known(header(scope, b"authorization") or ""):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "the API key is missing or wrong, expected the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await error.response()(scope, receive, send)

    def _known(self, value: str) -> bool:
        """Takes as long for every key, right or wrong: digests have one length, and all are compared."""
        kind, _, key = value.partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return kind.lower() == "bearer" and any(found)


class Guard:
    """The application with everything in front of it. state: what is behind it."""

    def __init__(self, app: ASGIApp, state: State):
        options = state.options
        self.state = state
        self._app = Keys(app, options.api_keys) if options.api_keys else app
        self._origins = options.allowed_origins
        self._hosts = None if options.allowed_hosts is None else {name.lower() for name in options.allowed_hosts}
        if self._origins:
            self._app = CORSMiddleware(
                self._app,
                allow_origins=list(self._origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["Retry-After"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.monotonic(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            refused = self._refused(scope)
            app: ASGIApp = self._app if refused is None else refused.response()
            await app(scope, receive, send_on)
        except Exception as error:  # Starlette has answered, if it was not too late
            self.state.log_failure(error)
        finally:
            client = (scope.get("client") or ("-",))[0]
            path = one_line(scope["path"][:SHOWN_PATH])
            log.info("%s %s %s %d %.3f s", client, scope["method"], path, status or LEFT, time.monotonic() - begun)

    def _refused(self, scope: Scope) -> ApiError | None:
        if self._hosts is None:
            return None
        host = header(scope, b"host") or ""
        if host_name(host) not in self._hosts:
            message = f"the host {host[:100]!r} is not this server's: start it with --allowed-hosts to add names"
            return ApiError(403, message, code="host_not_allowed")
        origin = header(scope, b"origin")
        given = any(key == b"origin" for key, _ in scope["headers"])
        if given and not self._known(origin or "", host, scope["scheme"]):
            message = (
                f"pages of {(origin or '')[:100]!r} may not ask: start the server with --allowed-origins to let them"
            )
            return ApiError(403, message, code="origin_not_allowed")
        return None

    def _known(self, origin: str, host: str, scheme: str) -> bool:
        own = f"{scheme}://{host}".lower()
        return origin.lower() == own or origin in self._origins or "*" in self._origins
