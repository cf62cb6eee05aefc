"""Errors as OpenAI's API tells them: a status, and an object that says what is wrong."""

import json
from collections.abc import Mapping

from starlette.responses import Response

from pyllama_mtp.errors import (
    ChatTemplateError,
    ContextOverflowError,
    InvalidRequestError,
    ModelClosedError,
    OutOfMemoryError,
    PyllamaMtpError,
    QueueFullError,
)

RETRY_SECONDS = 1  # what Retry-After says

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "internal_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """What ends a request. headers: further ones of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def as_object(self) -> dict[str, object]:
        """The body of the answer."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def as_json(self) -> bytes:
        return json.dumps(self.as_object()).encode()

    def response(self) -> Response:
        return Response(self.as_json(), self.status, self.headers, "application/json")


def wrong(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is at fault."""
    return ApiError(400, message, param=param, code=code)


def retry(status: int, message: str, code: str) -> ApiError:
    """The request may succeed later."""
    return ApiError(status, message, code=code, headers={"Retry-After": str(RETRY_SECONDS)})


def draining() -> ApiError:
    return retry(503, "the server is shutting down: ask another one", "shutting_down")


def too_late(seconds: float) -> ApiError:
    message = f"the request took longer than {seconds:g} s: ask for fewer tokens"
    return ApiError(504, message, code="timeout", headers={"x-should-retry": "false"})  # openai's client heeds it


def api_error(error: Exception) -> ApiError:
    """What an exception of the model means for who asked."""
    match error:
        case ApiError():
            return error
        case ContextOverflowError():
            return wrong(str(error), code="context_length_exceeded")
        case InvalidRequestError() | ChatTemplateError():
            return wrong(str(error))
        case QueueFullError():
            return retry(429, str(error), "queue_full")
        case ModelClosedError():
            return draining()
        case OutOfMemoryError():
            return retry(503, str(error), "out_of_memory")
        case PyllamaMtpError():
            return ApiError(500, str(error), code="internal_error")
        case _:
            return ApiError(500, "the server failed; its log says where", code="internal_error")
