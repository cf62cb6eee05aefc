"""Stream over scripted bursts: what is delivered, taken back and counted. The engine is not what is tested here."""

import pytest

from pyllama_mtp._native import Burst, NativeStats
from pyllama_mtp.stream import Stats, Stream

TEXTS = {0: b"a", 1: b"bc", 2: b"d", 3: "é".encode()[:1], 4: "é".encode()[1:], 5: b"<eos>"}


class Script:
    """A token source that gives bursts in order and remembers what it is told."""

    def __init__(self, *bursts: Burst):
        self.bursts = list(bursts)
        self.n = 0
        self.closed = 0
        self.truncated: list[int] = []

    def step(self) -> Burst:
        burst = self.bursts.pop(0)
        self.n += len(burst.emitted)
        return burst

    def cancel(self) -> None:
        pass

    def truncate(self, n_completion: int) -> None:
        self.truncated.append(n_completion)
        self.n = n_completion

    def stats(self) -> NativeStats:
        counters = dict.fromkeys(NativeStats.__dataclass_fields__, 0)
        return NativeStats(
            **counters | {"completion_tokens": self.n, "drafted_per_position": [], "accepted_per_position": []}
        )

    def close(self) -> None:
        self.closed += 1


def first(token: int) -> Burst:
    return Burst(False, [], 0, [token], None, None)


def round_of(*emitted: int, finish: str | None = None) -> Burst:
    return Burst(True, list(emitted[:-1]), len(emitted) - 1, list(emitted), finish, None)


def stream_of(source: Script, **options) -> Stream:
    return Stream(source, token_bytes=TEXTS.__getitem__, trace=True, **options)


def test_an_end_token_has_no_text():
    source = Script(first(0), round_of(1, 5, finish="stop"))
    stream = stream_of(source)
    assert [(c.text, c.token_ids, c.finish_reason) for c in stream] == [("a", [0], None), ("bc", [1, 5], "stop")]
    assert source.closed == 1 and source.truncated == []


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
    assert stream.finish_reason == "cancelled" and source.closed == 1
    assert stream.token_ids == [0, 2] and stream.rounds[0].emitted == [2]
    assert stream.stats.completion_tokens == 2


def test_a_finished_stream_is_closed_before_its_last_chunk():
    source = Script(first(0), round_of(2, finish="length"))
    closed = [source.closed for _ in stream_of(source)]
    assert closed == [0, 1]


def test_a_stream_is_read_once_and_closed_once():
    source = Script(first(0), round_of(2, finish="length"))
    stream = stream_of(source)
    stream.text()
    stream.close()
    with pytest.raises(RuntimeError, match="read once"):
        iter(stream)
    assert source.closed == 1


def test_rates_use_rounds_that_drafted_and_are_none_without():
    counters = dict.fromkeys(NativeStats.__dataclass_fields__, 0) | {
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
