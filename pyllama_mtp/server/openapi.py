"""The description of the API, as OpenAPI 3.1: what requests may hold, and what each status means."""

import importlib.metadata
from typing import Any

from pyllama_mtp.server import schemas
from pyllama_mtp.server.state import State

ERRORS = {
    400: "what is wrong in the request",
    401: "the API key is missing or wrong",
    403: "the host or the origin may not ask",
    404: "no model of this name, or no such path",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is no JSON",
    429: "as many wait as may: Retry-After says when to ask again",
    500: "the server failed",
    503: "the server shuts down, or lacks memory",
    504: "the answer took longer than it may",
}
GET_ERRORS = (401, 403, 405)
POST_ERRORS = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504)


def description(state: State) -> dict[str, Any]:
    """Of the server that runs."""
    chat, completion = schemas.requests(state)
    events = {"text/event-stream": {"schema": schemas.EVENT}}
    paths = {
        "/v1/chat/completions": {"post": _post("Complete a conversation", chat, "ChatCompletion", events)},
        "/v1/completions": {"post": _post("Complete a text", completion, "Completion", events)},
        "/tokenize": {"post": _post("Split a text into tokens", schemas.tokenize(state), "Tokens")},
        "/detokenize": {"post": _post("The text of tokens", schemas.detokenize(state), "Text")},
        "/v1/models": {"get": _get("The names of the model", "Models")},
        "/v1/models/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"enum": list(state.names)}}],
            "get": _get("One of its names", "Model", 404),
        },
        "/health": {"get": _get("Whether requests are taken", "Health", 503)},
    }
    texts = (("/metrics", "Prometheus' figures", "text/plain"), ("/", "The page", "text/html"))
    for path, summary, kind in texts:
        paths[path] = {"get": _answers(summary, {kind: {"schema": {"type": "string"}}}, GET_ERRORS)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pyllama-mtp", "version": importlib.metadata.version("pyllama-mtp")},
        "paths": paths,
        "components": {
            "schemas": schemas.ANSWERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}] if state.options.api_keys else [],
    }


def _answers(summary: str, content: dict[str, Any], errors: tuple[int, ...]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    told = {str(status): {"description": ERRORS.get(status, "not this method"), "content": error} for status in errors}
    return {"summary": summary, "responses": {"200": {"description": "the answer", "content": content}} | told}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _get(summary: str, answer: str, *errors: int) -> dict[str, Any]:
    return _answers(summary, _json(answer), (*GET_ERRORS, *errors))


def _post(summary: str, request: dict[str, Any], answer: str, also: dict[str, Any] | None = None) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": request}}}
    return _answers(summary, _json(answer) | (also or {}), POST_ERRORS) | {"requestBody": body}
