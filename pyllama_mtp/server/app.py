"""The ASGI application: which path is answered by what."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pyllama_mtp.errors import PyllamaMtpError
from pyllama_mtp.model import Model
from pyllama_mtp.server.chat import chat_completions
from pyllama_mtp.server.completions import completions
from pyllama_mtp.server.errors import ApiError, api_error, draining
from pyllama_mtp.server.guard import Guard
from pyllama_mtp.server.metrics import CONTENT_TYPE
from pyllama_mtp.server.openapi import description
from pyllama_mtp.server.options import ServerOptions
from pyllama_mtp.server.page import page_routes
from pyllama_mtp.server.state import State
from pyllama_mtp.server.tokens import detokenize, tokenize


def create_app(model: Model, options: ServerOptions | None = None) -> Guard:
    """Serves a model, which stays the caller's to close. `app.state` is what `pyllama-mtp serve` drains."""
    state = State(model, options or ServerOptions())
    created = int(time.time())

    def entry(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "pyllama-mtp",
            "root": state.names[0],
            "max_model_len": model.info.n_ctx,
        }

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [entry(name) for name in state.names]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        state.check_model(name)
        return JSONResponse(entry(name))

    async def health(_: Request) -> Response:
        if state.draining:
            raise draining()
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        usage = await asyncio.to_thread(lambda: model.usage)  # it waits for a step
        return Response(state.metrics.exposition(usage), media_type=CONTENT_TYPE)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description(state))

    def route(path: str, method: str, endpoint: Callable[[Request], Awaitable[Any]]) -> Route:
        return Route(path, endpoint, methods=[method])

    app = Starlette(
        routes=[
            route("/v1/chat/completions", "POST", chat_completions),
            route("/v1/completions", "POST", completions),
            route("/v1/models", "GET", models),
            route("/v1/models/{name:path}", "GET", one_model),
            route("/tokenize", "POST", tokenize),
            route("/detokenize", "POST", detokenize),
            route("/health", "GET", health),
            route("/metrics", "GET", metrics),
            route("/openapi.json", "GET", openapi),
            *page_routes(),
        ],
        exception_handlers={
            ApiError: _told,
            PyllamaMtpError: _told,
            HTTPException: _unrouted,
            ClientDisconnect: _left,
            Exception: _told,
        },
    )
    app.router.redirect_slashes = False
    app.state.server = state
    return Guard(app, state)


async def _told(_: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: f"there is no {request.url.path[:200]!r} here", 405: f"{request.method} is not for this path"}
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it
