"""The body of a request: read within limits, and understood as a JSON object."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from pyllama_mtp.server.errors import ApiError, wrong
from pyllama_mtp.server.options import ServerOptions

CLOSE = {"Connection": "close"}
DISCARDED_SECONDS = 2.0  # for the rest of a body that is too large, so that its client gets to read the answer
QUICKLY_PARSED_BYTES = 1 << 16


async def read_json(request: Request, options: ServerOptions) -> dict[str, Any]:
    """Raises ApiError (400, 408, 413, 415), and ClientDisconnect."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        shown = kind[:100] or "missing"
        raise ApiError(415, f"the content type is {shown}, expected application/json", headers=CLOSE)
    body = await _read(request, options)
    if len(body) <= QUICKLY_PARSED_BYTES:
        return parse(body)
    return await asyncio.to_thread(parse, body)


async def _read(request: Request, options: ServerOptions) -> bytes:
    limit = options.max_body_bytes
    declared = request.headers.get("content-length", "")
    too_large = declared.isdigit() and (len(declared) > 18 or int(declared) > limit)
    parts: list[bytes] = []
    n = 0
    try:
        async with asyncio.timeout(DISCARDED_SECONDS if too_large else options.body_seconds) as scope:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                n += len(part)
                if not too_large and n > limit:
                    too_large = True
                    parts.clear()
                    scope.reschedule(asyncio.get_running_loop().time() + DISCARDED_SECONDS)
                if not too_large:
                    parts.append(part)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        if not too_large:
            text = f"the body did not arrive within {options.body_seconds:g} s"
            raise ApiError(408, text, code="timeout", headers=CLOSE) from None
    if too_large:
        text = f"the body has more than {limit} bytes: send less, or start the server with a larger limit"
        raise ApiError(413, text, code="body_too_large", headers=CLOSE)
    return b"".join(parts)


def parse(body: bytes) -> dict[str, Any]:
    """Raises ApiError (400) unless body is a JSON object in UTF-8."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise wrong("the body nests too deeply", code="invalid_json") from None
    except ValueError as error:  # also of bytes that are no UTF-8, and of integers with thousands of digits
        raise wrong(f"the body is no JSON in UTF-8: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(value, Mapping):
        raise wrong(f"the body is a JSON {type(value).__name__}, expected an object", code="invalid_json")
    return dict(value)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
