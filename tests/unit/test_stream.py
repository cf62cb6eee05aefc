"""Streams over scripted bursts: what is delivered, taken back and counted. The engine is not what is tested here."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from pyllama_mtp import InternalError
from pyllama_mtp._sequence import Burst, NativeStats
from pyllama_mtp.chat.formats import OutputFormat
from pyllama_mtp.chat.gemma4 import Gemma4Reader
from pyllama_mtp.completion import Producer
from pyllama_mtp.results import Stats
from pyllama_mtp.stream import AsyncStream, Stream

TEXTS = {0: b"a", 1: b"bc", 2: b"d", 3: "é".encode()[:1], 4: "é".encode()[1:], 5: b"<eos>"}
TEXTS |= {6: b"<|channel>", 7: b"<channel|>", 8: b"<|tool_call>", 9: b"<tool_call|>", 10: b"thought\n", 11: b"call:f{}"}
FORM = OutputFormat("gemma4", 6, 7, 8, 9)


class Script:
    """A source that gives bursts in order and remembers what it is told."""

    seed = 0

    def __init__(self, *bursts: Burst):
        self.bursts = [replace(burst, number=number) for number, burst in enumerate(bursts)]
        self.n = 0
        self.cancelled = 0
        self.truncated: list[int] = []

    def cancel(self) -> None:
        self.cancelled += 1

    def truncate(self, n_completion: int) -> None:
        self.truncated.append(n_completion)
        self.n = n_completion

    def stats(self) -> NativeStats:
        return NativeStats(completion_tokens=self.n)


class ScriptLoop:
    """Steps for one stream: hands out a burst whenever it waits. tidied: how often something may have ended."""

    closed = False

    def __init__(self, source: Script):
        self.source = source
        self.producer: Producer | None = None
        self.tidied = 0

    def step(self) -> None:
        burst = self.source.bursts.pop(0)
        self.source.n += len(burst.emitted)
        self.producer.take(burst)

    def wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self.step()

    async def wait_as_task(self, ready: Callable[[], bool]) -> None:
        self.wait(ready)

    def start(self) -> None:
        """Nobody steps ahead."""

    def tidy(self) -> None:
        self.tidied += 1


def first(token: int) -> Burst:
    return Burst(None, 0, 1, False, [], 0, [token], None, None, None)


def round_of(*emitted: int, finish: str | None = None, error: Exception | None = None) -> Burst:
    return Burst(None, 0, 0, True, list(emitted[:-1]), len(emitted) - 1, list(emitted), finish, error, None)


def stream_of(source: Script, kind=Stream, reader=None, **options):
    loop = ScriptLoop(source)
    loop.producer = Producer(source, token_bytes=TEXTS.__getitem__, trace=True, **options)
    if reader is not None:
        loop.producer.follow(reader)
    loop.producer.began()
    return kind(loop.producer, loop, 0, trace=True)


def test_an_end_token_has_no_text():
    source = Script(first(0), round_of(1, 5, finish="stop"))
    stream = stream_of(source)
    assert [(c.text, c.token_ids, c.finish_reason) for c in stream] == [("a", [0], None), ("bc", [1, 5], "stop")]
    assert stream.computed and source.truncated == []


def test_a_stop_string_over_several_rounds_cuts_all_of_them():
    source = Script(first(0), round_of(0), round_of(1, 2), round_of(2))
    stream = stream_of(source, stop=["abcdd"])
    assert stream.text() == "a"
    assert stream.finish_reason == "stop" and stream.token_ids == [0] and source.truncated == [1]
    assert [r.emitted for r in stream.rounds] == [[], [], []]
    assert stream.stats.completion_tokens == 1


def test_stop_strings_count_from_min_tokens_on():
    source = Script(first(0), round_of(1, 0), round_of(1, 2))
    assert stream_of(source, stop=["bc"], min_tokens=2).text() == "abca"


def test_leaving_early_takes_back_what_was_held():
    source = Script(first(0), round_of(2, 3), round_of(4, finish="length"))
    stream = stream_of(source)
    for chunk in stream:
        if chunk.text == "d":
            break
    assert stream.finish_reason == "cancelled" and source.cancelled == 1
    assert stream.token_ids == [0, 2] and stream.rounds[0].emitted == [2]
    assert stream.stats.completion_tokens == 2


def test_a_finished_stream_is_closed_before_its_last_chunk():
    stream = stream_of(Script(first(0), round_of(2, finish="length")))
    assert [stream.finish_reason for _ in stream] == [None, "length"]


def test_a_stream_is_read_once():
    stream = stream_of(Script(first(0), round_of(2, finish="length")))
    stream.text()
    stream.close()
    with pytest.raises(RuntimeError, match="read once"):
        iter(stream)


def test_what_nobody_read_is_taken_back():
    """Others step for a stream too: its chunks wait for it, and closing it counts those that were read."""
    source = Script(first(0), round_of(1, 0), round_of(2, 2, finish="length"))
    stream = stream_of(source)
    loop = stream._loop
    for _ in range(3):
        loop.step()
    assert stream.finish_reason is None and stream.stats.completion_tokens == 5
    chunks = iter(stream)
    assert next(chunks).text == "a" and next(chunks).text == "bca"
    stream.close()
    assert list(chunks) == []
    assert stream.finish_reason == "cancelled" and stream.token_ids == [0, 1, 0]
    assert stream.stats.completion_tokens == 3 and [r.emitted for r in stream.rounds] == [[1, 0]]


def test_an_error_comes_after_the_chunks_before_it():
    source = Script(first(0), round_of(1), round_of(error=InternalError("out of luck")))
    stream = stream_of(source)
    for _ in range(3):
        stream._loop.step()
    got = []
    with pytest.raises(InternalError, match="out of luck"):
        for chunk in stream:
            got.append(chunk.text)
    assert got == ["a", "bc"] and stream.token_ids == [0, 1] and stream.finish_reason == "cancelled"


def reader() -> Gemma4Reader:
    return Gemma4Reader(FORM, TEXTS.__getitem__)


def told(stream: Stream) -> list[tuple]:
    return [(c.text, c.reasoning, [t.name for t in c.tool_calls], c.token_ids, c.finish_reason) for c in stream]


def test_thoughts_and_calls_come_with_their_tokens():
    source = Script(first(6), round_of(10, 2), round_of(7, 1), round_of(8, 11), round_of(9, 5, finish="stop"))
    assert told(stream_of(source, reader=reader())) == [
        ("", "", [], [6], None),
        ("", "d", [], [10, 2], None),
        ("bc", "", [], [7, 1], None),
        ("", "", ["f"], [8, 11, 9, 5], "tool_calls"),
    ]


def test_a_call_that_is_left_open_is_text_at_the_end():
    stream = stream_of(Script(first(0), round_of(8, 1, finish="length")), reader=reader())
    chunks = list(stream)
    assert "".join(c.text for c in chunks) == "a<|tool_call>bc"
    assert chunks[-1].malformed_call and chunks[-1].finish_reason == "length" and stream.token_ids == [0, 8, 1]


def test_a_stop_string_in_what_was_held_to_the_end_cuts_it():
    source = Script(first(0), round_of(8, 11), round_of(2, finish="length"))
    chunks = list(stream_of(source, reader=reader(), stop=["{}d"]))
    assert "".join(c.text for c in chunks) == "a<|tool_call>call:f"
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", "{}d") and source.truncated == [3]


def test_cancelling_takes_back_a_call_that_is_not_out():
    source = Script(first(0), round_of(8, 11), round_of(9, finish="length"))
    stream = stream_of(source, reader=reader())
    for _ in range(2):
        stream._loop.step()
    assert next(iter(stream)).text == "a"
    stream.close()
    assert stream.token_ids == [0] and stream.stats.completion_tokens == 1


class Interrupt(Exception):
    pass


PLAIN = [first(0), round_of(1, 3), round_of(4, 2, 0), round_of(1, 2), round_of(2, finish="length")]
CALLS = [first(6), round_of(10, 2, 3), round_of(4, 7, 0, 8), round_of(11, 9, 1, 8), round_of(1, 9, 2, finish="length")]


@pytest.mark.parametrize("bursts", [PLAIN, CALLS], ids=["plain", "calls"])
@pytest.mark.parametrize("stop", [(), ("cd",)])
def test_a_burst_whose_taking_was_interrupted_is_taken_again(stop: tuple[str, ...], bursts: list[Burst]):
    """The exception of a signal handler that one reader gets must not cost another one a byte."""
    expected = told(stream_of(Script(*bursts), stop=stop, reader=reader()))
    for place in range(1, 200):
        source = Script(*bursts)
        calls = 0

        def interrupt(result, place=place):
            nonlocal calls
            calls += 1
            if calls == place:
                raise Interrupt
            return result

        stream = stream_of(source, stop=stop, reader=reader())
        producer = stream._producer
        producer._token_bytes = lambda token, interrupt=interrupt: interrupt(TEXTS[token])
        stats, save = source.stats, producer._assembler.save
        source.stats = lambda stats=stats, interrupt=interrupt: interrupt(stats())
        producer._assembler.save = lambda save=save, interrupt=interrupt: interrupt(save())
        for number, burst in enumerate(source.bursts):
            source.n += len(burst.emitted)
            for _ in range(2):
                try:
                    producer.take(replace(burst, number=number))
                    producer.take(replace(burst, number=number))  # nothing the second time
                    break
                except Interrupt:
                    pass
        assert told(stream) == expected
        if calls < place:
            return
    raise AssertionError("it never went through")


def test_tasks_read_likewise():
    async def read() -> list[tuple[str, str | None]]:
        stream = stream_of(Script(first(0), round_of(1, 2), round_of(5, finish="stop")), AsyncStream)
        chunks = [(chunk.text, chunk.finish_reason) async for chunk in stream]
        assert stream.finish_reason == "stop" and stream.token_ids == [0, 1, 2, 5]
        with pytest.raises(RuntimeError, match="read once"):
            aiter(stream)
        return chunks

    assert asyncio.run(read()) == [("a", None), ("bcd", None), ("", "stop")]


def test_a_loop_of_a_task_that_was_left_is_noticed():
    async def leave() -> AsyncStream:
        stream = stream_of(Script(first(0), round_of(1, 2), round_of(2, finish="length")), AsyncStream)
        async for _ in stream:
            break
        return stream

    stream = asyncio.run(leave())
    assert stream.finish_reason == "cancelled" and stream.token_ids == [0]


def test_rates_use_rounds_that_drafted_and_are_none_without():
    counters = dict.fromkeys(NativeStats._fields, 0) | {
        "completion_tokens": 9,
        "decode_seconds": 2.0,
        "rounds": 4,
        "drafted": 6,
        "accepted": 3,
        "drafting_rounds": 3,
        "drafting_rounds_emitted": 6,
        "drafted_per_position": [3, 2, 1, 0],
        "accepted_per_position": [2, 1, 0, 0],
    }
    stats = Stats.from_native(NativeStats(**counters), seed=5)
    assert (stats.tokens_per_second, stats.acceptance_rate, stats.mean_acceptance_length) == (4.0, 0.5, 2.0)
    assert stats.acceptance_per_position == [2 / 3, 1 / 2, 0.0]
    plain = counters | {"drafted": 0, "drafting_rounds": 0, "drafted_per_position": [0], "accepted_per_position": [0]}
    stats = Stats.from_native(NativeStats(**plain), seed=5)
    assert stats.acceptance_rate is stats.mean_acceptance_length is stats.acceptance_per_position is None
