"""Thoughts and calls with Gemma 4's real vocabulary: a model of random weights writes whatever it is pushed to."""

from collections.abc import Iterator

import pytest

from pyllama_mtp import Model
from pyllama_mtp.chat.formats import OutputFormat, output_format
from pyllama_mtp.chat.gemma4 import Gemma4Reader
from support.real_chat import write_real_chat

# As the vocabulary of the pinned source has them.
FORM = OutputFormat("gemma4", 100, 101, 48, 49, 52, 50, 106)
MARKS = (100, 101, 48, 49, 52)
Q = '<|"|>'
# The end of a call, and then the end of the turn, which may not come first.
CALL_ENDS = {"logit_bias": {49: 500.0, 50: 1000.0}, "min_tokens": 1, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def model(archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    pair = write_real_chat(archive, tmp_path_factory.mktemp("real"))
    with Model(pair.target, mtp_head=pair.head, n_ctx=512, n_threads=1) as model:
        yield model


def test_the_format_of_the_real_vocabulary(model: Model):
    assert output_format(model._loop.native) == FORM


@pytest.mark.parametrize("k", [0, 3])
def test_a_call_ends_at_its_response(model: Model, k: int):
    prompt = f"<|turn>model\n<|tool_call>call:get{{city:{Q}Oslo{Q},n:[1,2]}}"
    chunks = list(model.generate(prompt, num_speculative_tokens=k, **CALL_ENDS))
    (call,) = [call for chunk in chunks for call in chunk.tool_calls]
    assert (call.name, call.arguments) == ("get", {"city": "Oslo", "n": [1, 2]})
    assert call.raw == prompt.removeprefix("<|turn>model\n") + "<tool_call|>" and call.id.startswith("call_")
    last = chunks[-1]
    assert (last.finish_reason, last.stop_reason) == ("tool_calls", None)
    assert [token for chunk in chunks for token in chunk.token_ids] == [49, 50]
    assert all(chunk.text == chunk.reasoning == "" and not chunk.malformed_call for chunk in chunks)


def test_a_stop_token_may_end_a_call(model: Model):
    (last,) = model.generate(
        "<|tool_call>call:f{}", **(CALL_ENDS | {"stop_token_ids": [49], "logit_bias": {49: 1000.0}, "min_tokens": 0})
    )
    assert [call.name for call in last.tool_calls] == ["f"]
    assert (last.finish_reason, last.stop_reason) == ("tool_calls", 49)


def test_a_call_at_the_last_token_leaves_the_reason(model: Model):
    (last,) = model.generate("<|tool_call>call:f{}", **(CALL_ENDS | {"max_tokens": 1}))
    assert last.finish_reason == "length" and last.tool_calls[0].name == "f"


def test_raw_is_what_was_written(model: Model):
    prompt = "<|turn>model\n<|tool_call>call:f{}"
    chunks = list(model.generate(prompt, raw=True, **CALL_ENDS))
    assert "".join(chunk.text for chunk in chunks) == "<tool_call|><|tool_response>"
    assert chunks[-1].finish_reason == "stop" and not any(chunk.tool_calls for chunk in chunks)


@pytest.mark.parametrize(
    ("opening", "thinks"),
    [("<|channel>thought\n", True), ("<|channel>thought\n<channel|>", False), ("<|channel>thought\nHm.<turn|>", False)],
)
def test_the_prompt_opens_the_thought(model: Model, opening: str, thinks: bool):
    forbidden = {"logit_bias": dict.fromkeys(MARKS, -1000.0), "ignore_eos": True}
    chunks = list(model.generate(f"<|turn>model\n{opening}", seed=1, max_tokens=20, **forbidden))
    text, reasoning = ("".join(getattr(c, name) for c in chunks) for name in ("text", "reasoning"))
    assert bool(reasoning) == thinks and bool(text) != thinks


def test_the_schema_of_a_file_reads_the_same(model: Model):
    template = {
        "start_anchor": "<|turn>model\n",
        "fields": {
            "tool_calls": {
                "open_pattern": r"<\|tool_call>call:(?P<name>\w+)", "close": "<tool_call|>", "content": "json",
                "content_args": {"unquoted_keys": True, "string_delims": [[Q, Q]]}, "repeats": True,
                "transform": {"name": "{name}", "arguments": "{content}"},
            },
            "content": {"close": ["<turn|>", "<|tool_response>"]},
        },
    }  # fmt: skip
    prompt = f"<|turn>model\n<|tool_call>call:get{{city:{Q}Oslo{Q}}}"
    chunks = list(model.generate(prompt, response_schema=template, **CALL_ENDS))
    calls = [(call.name, call.arguments) for chunk in chunks for call in chunk.tool_calls]
    assert calls == [("get", {"city": "Oslo"})] and chunks[-1].finish_reason == "tool_calls"
    assert not any(chunk.text for chunk in chunks)


def test_nothing_is_lost_or_told_twice(demo_model: Model):
    """Marks in great number, drafted or not, cut at any place: what is told is what the tokens say."""
    model, native = demo_model, demo_model._loop.native
    form = output_format(native)  # the embedded pair has these marks too
    marks = (form.thought_begin, form.thought_end, form.call_begin, form.call_end, form.quote)
    kinds = set()
    for seed in range(60):
        options = {"seed": seed, "max_tokens": 5 + seed, "temperature": 1.5}
        options |= {"logit_bias": dict.fromkeys(marks, 9.0 + seed % 9), "ignore_eos": seed % 2 == 0}
        raw = model.generate("<|turn>model\n", raw=True, num_speculative_tokens=0, **options)
        written = raw.text()
        assert written == b"".join(native.token_bytes(t, special=True) for t in raw.token_ids).decode(
            "utf-8", "replace"
        )
        stream = model.generate("<|turn>model\n", num_speculative_tokens=3, **options)
        chunks = list(stream)
        assert stream.token_ids == raw.token_ids
        reader = Gemma4Reader(form, lambda token: native.token_bytes(token, special=True))
        told: dict[str, bytes] = {"text": b"", "reasoning": b"", "call": b"", "mark": b""}
        for number, token in enumerate(raw.token_ids, 1):
            for piece in reader.feed(token, native.token_bytes(token, special=token in marks), number):
                told[piece.kind] += piece.data
        for piece in reader.finish():
            told[piece.kind] += piece.data
        kinds |= {kind for kind, data in told.items() if data}
        for kind in ("text", "reasoning"):
            got = "".join(getattr(chunk, kind) for chunk in chunks)
            assert got.replace("\ufffd", "") == told[kind].decode("utf-8", "ignore").replace("\ufffd", "")
        assert "".join(call.raw for chunk in chunks for call in chunk.tool_calls).encode() == told["call"]
        assert sum(map(len, told.values())) == sum(
            len(native.token_bytes(t, special=t in marks)) for t in raw.token_ids
        )
    assert {"text", "reasoning", "mark"} <= kinds
