"""Clients that leave, read slowly, or never ask: their texts end, and nobody else waits for them."""

import json
import re
import time
from contextlib import ExitStack

import pytest

from support.serving import KEY, Served, http_request, raw, read_to_end

LONG = {"prompt": "def main():\n", "max_tokens": 900, "ignore_eos": True, "num_speculative_tokens": 0}
SHORT = {"prompt": "import os\n", "max_tokens": 4}
AUTHORISED = {"Authorization": f"Bearer {KEY}"}
ENDED = re.compile(r"(\d+) prompt=\d+ cached=\d+ completion=(\d+) finish=(\S+)")


def authorised(request: bytes) -> bytes:
    return request.replace(b"\r\n", f"\r\nAuthorization: Bearer {KEY}\r\n".encode(), 1)


def last_ended(served: Served, begin: int, n: int = 1) -> list[tuple[str, int, str]]:
    """(status, tokens, reasons) of the last n requests in the log since `begin`."""
    end = time.monotonic() + 10
    while len(found := ENDED.findall(served.log[begin:])) < n:
        assert time.monotonic() < end, served.log[begin:]
        time.sleep(0.01)
    return [(status, int(tokens), reason) for status, tokens, reason in found]


def until_there_are(served: Served, gauge: str, n: int) -> None:
    """gauge: running or waiting."""
    end = time.monotonic() + 20
    while served.metrics()[f"vllm:num_requests_{gauge}"] < n:
        assert time.monotonic() < end


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_its_texts(served: Served, stream: bool, n: int):
    begin = len(served.log)
    with raw(served, http_request("/v1/completions", LONG | {"stream": stream, "n": n})) as sock:
        if stream:
            assert b"data: " in sock.recv(1 << 16) + sock.recv(1 << 16)
        else:
            until_there_are(served, "running", 1)
    ((status, tokens, reasons),) = last_ended(served, begin)
    assert (status, reasons) == ("499", ",".join(["abort"] * n)) and tokens < 900 * n
    figures = served.until("vllm:num_requests_running")
    assert figures["vllm:kv_cache_usage_perc"] == figures["vllm:num_requests_waiting"] == 0


def test_a_client_that_leaves_while_it_waits(served: Served):
    """Its turn never comes, and those behind it do not wait for it."""
    begin = len(served.log)
    with raw(served, http_request("/v1/completions", LONG | {"stream": True, "n": 16})):
        until_there_are(served, "waiting", 12)  # 4 run
        with raw(served, http_request("/v1/completions", LONG)):
            until_there_are(served, "waiting", 13)
        assert ("499", 0, "abort") in last_ended(served, begin)
    assert served.post("/v1/completions", SHORT).status == 200
    served.until("vllm:num_requests_running")


def test_a_client_that_reads_nothing_is_cut_off(strict: Served):
    """With one place for texts, which its own held: another one was answered, and the connection ended by itself.

    A text that is computed, and only its client has not read, counted as one that waits for its turn.
    """
    begin = len(strict.log)
    request = http_request("/v1/completions", LONG | {"stream": True, "logprobs": 20})
    with raw(strict, authorised(request), receive_buffer=4096) as sock:
        until_there_are(strict, "running", 1)
        assert strict.post("/v1/completions", SHORT, **AUTHORISED).status == 200
        assert strict.until("vllm:num_requests_running")["vllm:num_requests_waiting"] == 0
        ended = {(status, reasons) for status, _, reasons in last_ended(strict, begin, 2)}
        assert ended == {("200", "length"), ("499", "abort")}
        assert not read_to_end(sock).endswith(b"[DONE]\n\n")


def test_a_client_that_reads_slowly_gets_all(served: Served):
    with raw(
        served, http_request("/v1/completions", LONG | {"stream": True, "logprobs": 5}), receive_buffer=4096
    ) as sock:
        data = b""
        while b"[DONE]" not in data:
            part = sock.recv(1 << 14)
            assert part
            data += part
            time.sleep(0.002)
    assert data.count(b'"finish_reason": "length"') == 1


def test_connections_without_a_request_are_closed(strict: Served):
    """Half-open sockets: nothing, a part of a header, a request that is answered and half of another."""
    halves = [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: local",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET",
    ]
    with ExitStack() as connections:
        sockets = [connections.enter_context(raw(strict, half)) for half in halves * 25]
        assert strict.ask("GET", "/health").status == 200
        begun = time.monotonic()
        for sock in sockets:
            data = read_to_end(sock)
            assert data == b"" or data.startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - begun < 5
    assert strict.ask("GET", "/health").status == 200


def test_connections_beyond_the_limit_are_told_so(strict: Served):
    with ExitStack() as connections:
        for _ in range(150):
            connections.enter_context(raw(strict, b""))
        with raw(strict, b"") as sock:
            answer = read_to_end(sock)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in answer and b"too_many_connections" in answer
    end = time.monotonic() + 10
    while strict.ask("GET", "/health").status != 200:
        assert time.monotonic() < end


def test_a_connection_serves_several_requests(served: Served):
    """Sent at once too: answers come in order, each to its own request."""
    bodies = [SHORT | {"prompt": prompt, "seed": 3} for prompt in ("import os\n", "class A:\n", "def f():\n")]
    alone = [served.post("/v1/completions", body).json["choices"][0]["text"] for body in bodies]
    with raw(served, b"".join(http_request("/v1/completions", body) for body in bodies)) as sock:
        data = b""
        while data.count(b'"timings"') < 3 or not data.endswith(b"}}"):
            data += sock.recv(1 << 16)
    answers = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in data.split(b"HTTP/1.1 200 OK")[1:]]
    assert [answer["choices"][0]["text"] for answer in answers] == alone
