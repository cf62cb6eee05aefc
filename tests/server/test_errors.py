"""What is wrong with a request is told with the right status and OpenAI's error object, and costs nothing else."""

import json
import socket

import openai
import pytest

from pyllama_mtp import Model
from pyllama_mtp.server import ServerOptions, create_app
from support.serving import KEY, Served, asgi, events, http_request, raw, read_to_end

PROMPT = "def main():\n"
AUTHORISED = {"Authorization": f"Bearer {KEY}"}
MESSAGES = [{"role": "user", "content": "Hi"}]
GENERATES = ("/v1/completions", "/v1/chat/completions")


def wrong(served: Served, path: str, **fields):
    """The error object of a request that is at fault."""
    subject = {"messages": MESSAGES} if "chat" in path else {"prompt": PROMPT}
    answer = served.post(path, subject | {"max_tokens": 4} | fields)
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error"
    return answer.error


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n": 0}, "n is 0"),
        ({"n": 17}, "1..16"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"surprise": 1}}, "surprise"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"stop_token_ids": [1] * 4097}, "stop_token_ids"),
        ({"logit_bias": {"one": 1}}, "token ids"),
        ({"logit_bias": {"1": "much"}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"num_speculative_tokens": 17}, "num_speculative_tokens"),
        ({"acceptance": "always"}, "acceptance"),
        ({"structured_outputs": {"json": {}, "regex": "x"}}, "structured_outputs"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"colour": "blue"}, "colour"),
        ({"trace": True}, "trace"),
    ],
)
@pytest.mark.parametrize("path", GENERATES)
def test_a_field_that_is_wrong_is_named(served: Served, path: str, fields: dict, told: str):
    assert told in wrong(served, path, **fields)["message"]


@pytest.mark.parametrize(
    "messages", [None, [], "Hi", {}, [1, 2, 3], [[]], [{"role": "user"}], [{"content": "x"}], [{}]]
)
def test_messages_that_are_none(served: Served, messages):
    """A list of numbers was a list of token ids for Model."""
    assert wrong(served, "/v1/chat/completions", messages=messages)["message"]


@pytest.mark.parametrize(
    "prompt", [None, [], 7, {}, [[]], [{}], [["a"]], [-1], [10**9], ["a", 1], [[1], [10**9]], [True]]
)
def test_prompts_that_are_none(served: Served, prompt):
    assert wrong(served, "/v1/completions", prompt=prompt)["message"]


def test_logprobs_of_chats(served: Served):
    chat = "/v1/chat/completions"
    assert "top_logprobs" in wrong(served, chat, top_logprobs=2)["message"]
    assert "0..20" in wrong(served, chat, logprobs=True, top_logprobs=21)["message"]
    assert "logprobs" in wrong(served, chat, logprobs=3)["message"]
    assert "0..20" in wrong(served, "/v1/completions", logprobs=21)["message"]


def test_templates_of_requests_are_refused(served: Served):
    """A template is a program; one that asks does not get to bring it."""
    assert wrong(served, "/v1/chat/completions", chat_template="{{ 1 }}")["param"] == "chat_template"


def test_fields_without_effect_are_taken(served: Served):
    fields = {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "store": False, "n": None, "stop": None}
    fields |= {"response_format": {"type": "text"}, "parallel_tool_calls": True, "tools": [], "tool_choice": "auto"}
    answer = served.post("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 3} | fields)
    assert answer.status == 200, answer.body
    assert answer.json["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize("path", GENERATES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(served: Served, path: str, stream: bool):
    long = "word " * 5000
    fields = {"messages": [{"role": "user", "content": long}]} if "chat" in path else {"prompt": long}
    assert wrong(served, path, stream=stream, **fields)["code"] == "context_length_exceeded"


def test_what_shows_with_the_first_token_has_a_status_too(served: Served, reference: Model):
    """That no token is left to choose is found out when the text begins; a stream had told 200 by then."""
    every = list(range(reference.info.n_vocab))
    fields = {"prompt": PROMPT, "stop_token_ids": every, "min_tokens": 4, "max_tokens": 4}
    for stream in (False, True):
        answer = served.post("/v1/completions", fields | {"stream": stream})
        assert answer.status == 400 and "min_tokens" in answer.error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_told_and_hinders_nobody(served: Served, stream: bool):
    """A completion that was refused at its start told nobody, and kept a thread that prepares others: after four of
    them every request waited for ever.
    """
    for _ in range(6):
        fields = {"prompt": PROMPT, "stream": stream, "logit_bias": {"99999": 1}, "max_tokens": 3}
        assert "99999" in served.post("/v1/completions", fields).error["message"]
    assert served.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "stream": stream}).status == 200


@pytest.mark.parametrize(
    "body, told",
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"prompt": NaN}', "NaN"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16"), "UTF-8"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"a":' * 100_000, "deeply"),
    ],
)
def test_bodies_that_are_no_object(served: Served, body: bytes, told: str):
    answer = served.post("/v1/completions", body)
    assert answer.status == 400 and told in answer.error["message"]


def test_text_that_is_no_unicode(served: Served):
    """JSON can say half of a surrogate pair."""
    messages = b'{"messages": [{"role": "\\ud800", "content": "\\udfff"}]}'
    for path, body in (("completions", b'{"prompt": "\\ud800"}'), ("chat/completions", messages)):
        assert served.post(f"/v1/{path}", body).status == 400
    assert served.post("/v1/completions", b'{"model": "\\ud800", "prompt": "x"}').status == 404


def test_numbers_beyond_any_type(served: Served):
    for number in ("1e999", "-1e999", "9" * 300, "1e-999"):
        body = f'{{"prompt": "x", "max_tokens": 2, "temperature": {number}}}'.encode()
        assert served.post("/v1/completions", body).status == (200 if number == "1e-999" else 400)


def test_other_content_types(served: Served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = served.post("/v1/completions", b'{"prompt": "x"}', Content_Type=kind)
        assert answer.status == 415 and answer.error["message"]
    assert served.post("/tokenize", b'{"prompt": "x"}', Content_Type="application/JSON; charset=utf-8").status == 200


def test_other_names_paths_and_methods(served: Served):
    for path in GENERATES:
        answer = served.post(path, {"model": "gpt-5", "prompt": "x", "messages": MESSAGES})
        assert answer.status == 404 and answer.error["code"] == "model_not_found" and "pair" in answer.error["message"]
    for path in ("/v2", "/v1/chat/completions/", "/page/../state.py", "/page/%2e%2e/app.py", "/v1/models/x"):
        assert served.ask("GET", path).status == 404
        assert served.ask("GET", path).error
    assert served.ask("GET", "/v1/completions").status == 405
    assert served.ask("GET", "/v1/completions").headers["allow"] == "POST"
    assert served.post("/v1/models", {}).status == 405


def test_tokens_that_are_wrong(served: Served):
    for body in ({}, {"prompt": "x", "messages": MESSAGES}, {"prompt": 1}, {"prompt": "x", "more": 1}, {"messages": 3}):
        assert served.post("/tokenize", body).status == 400
    for body in ({}, {"tokens": "x"}, {"tokens": [-1]}, {"tokens": [1.5]}, {"tokens": [10**12]}, {"tokens": [[1]]}):
        assert served.post("/detokenize", body).status == 400


def test_limits_of_size(strict: Served):
    """Each has its error, and a body that is too large is answered although it is not read."""
    large = strict.post("/v1/completions", {"prompt": "x" * 5000}, **AUTHORISED)
    assert large.status == 413 and large.error["code"] == "body_too_large"
    many = strict.post("/v1/chat/completions", {"messages": MESSAGES * 4}, **AUTHORISED)
    assert many.status == 400 and many.error["code"] == "too_many_messages"
    prompts = strict.post("/v1/completions", {"prompt": ["x"] * 3}, **AUTHORISED)
    assert prompts.status == 400 and prompts.error["code"] == "too_many_prompts"
    for fields in ({"n": 3, "prompt": "x"}, {"n": 2, "prompt": ["x", "y"]}, {"max_tokens": 901, "prompt": "x"}):
        answer = strict.post("/v1/completions", fields, **AUTHORISED)
        assert answer.status == 400 and "expected" in answer.error["message"]


def test_a_body_in_pieces_has_the_same_limit(strict: Served):
    """Without a length in front of it."""
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [b"x" * 1000] * 6)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with raw(strict, head + pieces + b"0\r\n\r\n") as sock:
        assert read_to_end(sock).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come(strict: Served):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n{{".encode()
    with raw(strict, head) as sock:
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"


def test_a_full_queue_says_when_to_come_again(strict: Served):
    """One text runs and one waits; a third one is too many, and the official client takes the error for what it is."""
    body = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "n": 2, "stream": True}
    request = http_request("/v1/completions", body).replace(b"Host:", f"Authorization: Bearer {KEY}\r\nHost:".encode())
    with raw(strict, request) as sock:
        assert b"200" in sock.recv(100)
        answer = strict.post("/v1/completions", {"prompt": PROMPT}, **AUTHORISED)
        assert answer.status == 429 and answer.error["code"] == "queue_full" and int(answer.headers["retry-after"]) >= 1
        with openai.OpenAI(base_url=f"{strict.url}/v1", api_key=KEY, max_retries=0) as client:
            with pytest.raises(openai.RateLimitError):
                client.completions.create(model=strict.name, prompt=PROMPT)
    strict.until("vllm:num_requests_running")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_a_request_that_takes_too_long(demo_model: Model, stream: bool, n: int):
    """Both kinds of answers end, and their sequences with them."""
    app = create_app(demo_model, ServerOptions(request_seconds=0.05))
    body = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "n": n, "stream": stream, "logprobs": 20}
    answer = asgi(app, "/v1/completions", body)
    if stream and answer.status == 200:
        assert events(answer.body)[-1]["error"]["code"] == "timeout"
    else:
        assert answer.status == 504 and answer.error["code"] == "timeout"
        assert answer.headers["x-should-retry"] == "false"
    assert list(app.state.metrics._streams()) == []


def test_requests_that_are_no_http(served: Served):
    for request in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"A" * 100_000):
        with raw(served, b"") as sock:
            try:
                sock.sendall(request)
            except (BrokenPipeError, ConnectionResetError):
                continue
            sock.shutdown(socket.SHUT_WR)
            assert read_to_end(sock)[9:12] in (b"400", b"")
    assert served.ask("GET", "/health").json == {"status": "ok"}
