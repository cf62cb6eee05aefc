"""Who may ask: keys, pages of other origins, names of other hosts; and what the log says of it."""

import asyncio
import hmac
from pathlib import Path

import openai
import pytest

from pyllama_mtp.server import create_app, guard
from support.serving import KEY, Served, asgi

BODY = {"prompt": "def main():\n", "max_tokens": 3}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/none"]
)
@pytest.mark.parametrize("value", [None, "Bearer wrong", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", "Bearer é"])
def test_without_the_key_nothing_is_answered(strict: Served, path: str, value: str | None):
    headers = {} if value is None else {"Authorization": value}
    answer = strict.ask("GET" if "models" in path else "POST", path, None if "models" in path else BODY, **headers)
    assert answer.status == 401 and answer.error["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [KEY, "another"])
def test_each_key_opens(strict: Served, key: str):
    assert strict.post("/v1/completions", BODY, Authorization=f"bearer {key}").status == 200
    with openai.OpenAI(base_url=f"{strict.url}/v1", api_key=key) as client:
        assert client.models.list().data[0].id == strict.name
    with openai.OpenAI(base_url=f"{strict.url}/v1", api_key="no") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_what_is_open_tells_nothing_of_texts(strict: Served):
    for path in ("/", "/health", "/metrics", "/openapi.json", "/page/main.js"):
        assert strict.ask("GET", path).status == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    """All of them, by digests of one length, whichever is right."""
    compared, true_compare = [], hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return true_compare(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    keys = guard.Keys(None, ["a", "bb", "c" * 100])
    for value, known in (("Bearer a", True), ("Bearer " + "c" * 100, True), ("Bearer z", False), ("", False)):
        compared.clear()
        assert keys._known(value) is known
        assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "8.8.8.8", "", "[::2]"]
)
def test_names_that_are_not_the_servers(served: Served, host: str):
    """DNS rebinding: a page of that name reached this address, and was answered as if it were the server's own."""
    for path in ("/", "/v1/models", "/health"):
        answer = served.ask("GET", path, Host=host)
        assert answer.status == 403 and answer.error["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.0.0.1:99", "[::1]:8000", "localhost."]
)
def test_names_that_are(served: Served, host: str):
    assert served.ask("GET", "/v1/models", Host=host).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:3000", ""])
def test_pages_of_other_origins(served: Served, origin: str):
    answer = served.post("/v1/completions", BODY, Host="localhost:8000", Origin=origin)
    assert answer.status == 403 and answer.error["code"] == "origin_not_allowed"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_own_page_may_ask(served: Served):
    assert served.post("/v1/completions", BODY, Host="localhost:8000", Origin="http://localhost:8000").status == 200


def test_allowed_origins(strict: Served):
    """And no others, of which a browser is told nothing that would let a page read."""
    good = "http://good.example"
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
    preflight = strict.ask("OPTIONS", "/v1/completions", Origin=good, **asked)
    assert preflight.status == 200 and preflight.headers["access-control-allow-origin"] == good
    answer = strict.post("/v1/completions", BODY, Authorization=f"Bearer {KEY}", Origin=good)
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == good
    refused = strict.post("/v1/completions", BODY, Origin=good)
    assert refused.status == 401 and refused.headers["access-control-allow-origin"] == good
    for origin in ("http://good.example.evil", "https://good.example", "http://bad.example"):
        answer = strict.post("/v1/completions", BODY, Authorization=f"Bearer {KEY}", Origin=origin)
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers


def test_the_log_has_a_line_for_each_request_and_no_texts(served: Served):
    secret = "a-text-that-no-log-may-hold"
    served.post("/v1/completions", {"prompt": secret, "max_tokens": 3})
    served.post("/v1/completions", {"prompt": secret, "seed": secret})
    served.post("/v1/chat/completions", {"messages": [{"role": secret, "content": secret}], secret: 1})
    served.ask("GET", f"/v1/models?{secret}")
    served.ask("GET", "/v1/models/%0a%1b[31mforged")
    assert "POST /v1/completions 200" in served.log and "POST /v1/completions 400" in served.log
    assert secret not in served.log and "\x1b" not in served.log and "\nforged" not in served.log


def test_every_answer_says_that_types_are_as_told(served: Served):
    for path in ("/", "/v1/models", "/metrics", "/nothing"):
        assert served.ask("GET", path).headers["x-content-type-options"] == "nosniff"


def test_failures_are_logged_without_what_they_say(caplog: pytest.LogCaptureFixture, demo_model):
    """An exception of Python's may quote the request that caused it."""
    app, said = create_app(demo_model), "a-text-that-no-" + "log-may-hold"

    async def broken(*_: object) -> None:
        raise KeyError(said)

    app._app = broken
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "scheme": "http", "client": None}
    with caplog.at_level("INFO", "pyllama_mtp.server"):
        asyncio.run(app(scope, None, None))
    assert "KeyError" in caplog.text and Path(__file__).name in caplog.text
    app = create_app(demo_model)
    app.state.check_model = lambda name: {}[said]  # within a route
    with caplog.at_level("INFO", "pyllama_mtp.server"):
        answer = asgi(app, "/v1/completions", {"prompt": "x"})
    assert answer.status == 500 and answer.error["code"] == "internal_error" and said not in answer.error["message"]
    assert said not in "".join(record.getMessage() for record in caplog.records)
