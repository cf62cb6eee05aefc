"""Several completions on one model: their texts are those of a model of their own, whoever reads, leaves or closes."""

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyllama_mtp import (
    ContextOverflowError,
    InvalidRequestError,
    Model,
    ModelClosedError,
    QueueFullError,
    Stream,
    StreamError,
)
from pyllama_mtp.stream import STEPS_AHEAD

SOURCES = (
    "def main():\n",
    "import os\nimport sys\n\n\ndef read(path):\n    with open(path) as file:\n        return file.read()\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "for i in range(10):\n    print(i)\n",
    "x",
    "def add(a, b):\n    return a + b\n\n\ndef test_add():\n    assert add(1, 2) == 3\n" * 4,
    "from dataclasses import dataclass\n\n\n@dataclass\nclass Point:\n    x: int\n",
    "try:\n    value = int(text)\nexcept ValueError:\n",
)
GREEDY = {"temperature": 0, "max_tokens": 30, "ignore_eos": True}


def load(demo, **options) -> Model:
    return Model(demo.target, mtp_head=demo.head, **({"n_ctx": 512, "n_threads": 1} | options))


@pytest.fixture(scope="module")
def model(demo) -> Iterator[Model]:
    with load(demo) as model:
        yield model


@pytest.fixture(scope="module")
def alone(demo) -> dict[str, str]:
    """The greedy text of each source, one after the other."""
    with load(demo, max_num_seqs=1) as model:
        return {source: model.generate(source, **GREEDY).text() for source in SOURCES}


def ids_of(streams: Sequence[Stream]) -> list[list[int]]:
    for stream in streams:
        stream.text()
    return [stream.token_ids for stream in streams]


@pytest.mark.parametrize("k", [0, 3, "auto"])
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"seed": 7}], ids=["greedy", "seeded"])
@pytest.mark.parametrize("drafter", ["mtp", "ngram"])
def test_eight_together_are_eight_alone(demo, k, sampling: dict, drafter: str):
    options = {"max_tokens": 40, "ignore_eos": True, "num_speculative_tokens": k, **sampling}
    with load(demo, max_num_seqs=8, drafter=drafter) as model:
        assert model.info.batch_invariant and model.info.max_num_seqs == 8 and model.info.drafter == drafter
        together = ids_of([model.generate(source, **options) for source in SOURCES])
    with load(demo, max_num_seqs=1) as one:
        expected = ids_of([one.generate(source, **options) for source in SOURCES])
    assert together == expected
    assert all(len(ids) == 40 for ids in together)


def test_nothing_is_computed_ahead_of_a_single_reader(model: Model):
    stream = model.generate(SOURCES[0], **GREEDY)
    chunks = iter(stream)
    next(chunks)
    before = stream.stats
    time.sleep(0.05)
    assert stream.stats == before and before.completion_tokens < 30
    stream.close()


def test_reading_one_stream_computes_the_others(model: Model, alone: dict[str, str]):
    options = {**GREEDY, "num_speculative_tokens": 0}  # as many tokens of each in a step
    first, second = (model.generate(source, **options) for source in SOURCES[:2])
    assert second.text() == alone[SOURCES[1]]
    assert first.stats.completion_tokens > 20 and first.token_ids == [] and first.finish_reason is None
    assert first.text() == alone[SOURCES[0]] and len(first.token_ids) == 30


def test_completions_wait_for_their_turn(demo, alone: dict[str, str]):
    with load(demo, max_num_seqs=2) as model:
        streams = [model.generate(source, **GREEDY) for source in SOURCES[:6]]
        assert streams[-1].text() == alone[SOURCES[5]]
        assert all(stream.computed for stream in streams[:4])
        waited = [stream.stats.queue_seconds for stream in streams]
        assert waited[:2] < waited[2:4] < waited[4:]
        assert [stream.text() for stream in streams[:-1]] == [alone[source] for source in SOURCES[:5]]


def test_no_more_wait_than_max_queue_allows(demo):
    with load(demo, max_num_seqs=1, max_queue=1) as model:
        streams = [model.generate("x", **GREEDY) for _ in range(2)]
        with pytest.raises(QueueFullError, match="max_queue is 1"):
            model.generate("x", **GREEDY)
        streams[1].close()
        third = model.generate("x", **GREEDY)
        assert third.text() == streams[0].text()


def unread(model: Model) -> object:
    model.generate("x", **GREEDY)
    return None


def broken_loop(model: Model) -> object:
    stream = model.generate("x", **GREEDY)
    for _ in stream:
        break
    return stream


def collected_iterator(model: Model) -> object:
    stream = model.generate("x", **GREEDY)
    next(iter(stream))
    return stream


def loop_over_a_temporary(model: Model) -> object:
    for _ in model.generate("x", **GREEDY):
        break
    return None


def interrupted_iterator(model: Model) -> object:
    stream = model.generate("x", **GREEDY)
    chunks = iter(stream)
    next(chunks)
    with pytest.raises(ZeroDivisionError):
        chunks.throw(ZeroDivisionError())
    return stream


def cancelled_task(model: Model) -> object:
    async def leave() -> object:
        stream = model.agenerate([5] * 300, max_tokens=200)
        task = asyncio.create_task(stream.text())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stream

    return asyncio.run(leave())


def left_loop_of_a_task(model: Model) -> object:
    async def leave() -> object:
        async for _ in model.agenerate("x", **GREEDY):
            break
        return None

    return asyncio.run(leave())


@pytest.mark.parametrize(
    "abandon",
    [
        unread,
        broken_loop,
        collected_iterator,
        loop_over_a_temporary,
        interrupted_iterator,
        cancelled_task,
        left_loop_of_a_task,
    ],
)
def test_an_abandoned_completion_frees_its_slot(demo, alone: dict[str, str], abandon):
    with load(demo, max_num_seqs=1, max_queue=0) as model:
        held = [abandon(model) for _ in range(4)]
        assert model.generate(SOURCES[0], **GREEDY).text() == alone[SOURCES[0]]
        for stream in held:
            assert stream is None or stream.finish_reason == "cancelled"
            assert stream is None or stream.stats.completion_tokens == len(stream.token_ids)


def test_cancelling_one_leaves_the_others_as_they_are(model: Model, alone: dict[str, str]):
    streams = [model.generate(source, **GREEDY) for source in SOURCES[:4]]
    chunks = iter(streams[1])
    next(chunks)
    streams[1].cancel()
    assert list(chunks)[-1].finish_reason == streams[1].finish_reason == "cancelled"
    assert [streams[i].text() for i in (0, 2, 3)] == [alone[SOURCES[i]] for i in (0, 2, 3)]
    streams[2].cancel()  # it has ended
    assert streams[2].finish_reason == "length"


def test_a_fault_of_one_ends_that_one(model: Model, alone: dict[str, str]):
    forbidden = {token: -math.inf for token in range(model.info.n_vocab)}
    first = model.generate(SOURCES[0], **GREEDY)
    wrong = model.generate(SOURCES[1], logit_bias=forbidden, **GREEDY)
    last = model.generate(SOURCES[2], **GREEDY)
    assert first.text() == alone[SOURCES[0]]
    with pytest.raises(InvalidRequestError):
        wrong.text()
    assert last.text() == alone[SOURCES[2]]
    full = model.generate([5] * 505, temperature=0, ignore_eos=True)
    beside = model.generate(SOURCES[3], **GREEDY)
    full.text()
    assert full.finish_reason == "length" and len(full.token_ids) == 7
    assert beside.text() == alone[SOURCES[3]]


def test_closing_the_model_ends_all_and_wakes_who_waits(demo):
    model = load(demo, max_num_seqs=2)
    streams = [model.generate(source, ignore_eos=True) for source in SOURCES]
    ends: list[object] = []

    def read(stream: Stream) -> None:
        list(stream)
        ends.append(stream.finish_reason)

    def read_as_task() -> None:
        async def go() -> None:
            stream = model.agenerate("x", ignore_eos=True)
            started.set()
            await stream.text()
            ends.append(stream.finish_reason)

        asyncio.run(go())

    started = threading.Event()
    threads = [threading.Thread(target=read, args=(stream,)) for stream in streams[:4]]
    threads.append(threading.Thread(target=read_as_task))
    for thread in threads:
        thread.start()
    assert started.wait(20)
    time.sleep(0.05)
    model.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert ends == ["cancelled"] * 5
    assert {stream.finish_reason for stream in streams} == {"cancelled"}
    assert all(stream.stats.completion_tokens == len(stream.token_ids) for stream in streams)
    with pytest.raises(ModelClosedError):
        model.generate("x")
    model.close()


def test_threads(model: Model, alone: dict[str, str]):
    wrong: list[str] = []

    def work(source: str) -> None:
        for _ in range(3):
            stream = model.generate(source, **GREEDY)
            if (text := stream.text()) != alone[source] or stream.finish_reason != "length":
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(source,)) for source in SOURCES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


def test_tasks_of_two_event_loops(model: Model, alone: dict[str, str]):
    got: list[list[str]] = []

    async def gather() -> list[str]:
        return await asyncio.gather(*(model.agenerate(source, **GREEDY).text() for source in SOURCES))

    threads = [threading.Thread(target=lambda: got.append(asyncio.run(gather()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert got == [[alone[source] for source in SOURCES]] * 2


def test_an_event_loop_runs_while_its_tasks_wait(model: Model, alone: dict[str, str]):
    async def go() -> int:
        turns = 0
        task = asyncio.create_task(model.agenerate(SOURCES[5], **GREEDY).text())
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert task.result() == alone[SOURCES[5]]
        async with model.agenerate(SOURCES[0], **GREEDY) as stream:
            async for _ in stream:
                break
        assert stream.finish_reason == "cancelled"
        return turns

    assert asyncio.run(go()) > 5


def test_a_task_that_is_busy_is_a_few_steps_behind_at_most(model: Model):
    """Engine and event loop took turns: a step began when a task had come back for more."""

    async def go() -> None:
        async with model.agenerate(SOURCES[0], **(GREEDY | {"num_speculative_tokens": 0, "max_tokens": 60})) as stream:
            chunks = aiter(stream)
            for taken in range(1, 20):
                assert len((await anext(chunks)).token_ids) == 1
                deadline = time.monotonic() + 20
                while stream.stats.completion_tokens <= taken:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            assert taken < stream.stats.completion_tokens <= taken + STEPS_AHEAD

    asyncio.run(go())


def test_a_step_wakes_an_event_loop_once(model: Model, alone: dict[str, str]):
    """Each task of a loop had a call of its own: eight turns of the loop for a step of eight tasks."""
    calls = 0

    async def go() -> list[str]:
        nonlocal calls
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counted(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            return call(*arguments)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[assignment,method-assign]
        options = GREEDY | {"num_speculative_tokens": 0}
        return await asyncio.gather(*(model.agenerate(source, **options).text() for source in SOURCES))

    assert asyncio.run(go()) == [alone[source] for source in SOURCES]
    assert calls < len(SOURCES) * 30 / 2


def test_waiting_takes_no_cpu(demo):
    """A reader that waits for another thread's steps sleeps, be it a thread or a task."""
    with load(demo, max_num_seqs=1) as model:
        model.generate("x", max_tokens=1).text()
        step = model._loop.native.step

        def slow_step() -> None:
            time.sleep(0.3)
            step()

        model._loop.native.step = slow_step  # type: ignore[method-assign]

        async def gather() -> None:
            await asyncio.gather(*(model.agenerate("x", max_tokens=1).text() for _ in range(2)))

        threads = [threading.Thread(target=model.generate("x", max_tokens=1).text) for _ in range(2)]
        begin = time.process_time()
        for thread in threads:
            thread.start()
        asyncio.run(gather())
        for thread in threads:
            thread.join()
        assert time.process_time() - begin < 0.4  # of 1.2 seconds and more


def test_many_prompts_at_once(demo, alone: dict[str, str]):
    taken = 0

    def prompts() -> Iterator[object]:
        nonlocal taken
        for prompt in (*SOURCES[:3], [5] * 600, *SOURCES[3:], [], *SOURCES):
            taken += 1
            yield prompt

    with load(demo, max_num_seqs=2, max_queue=0) as model:
        results = model.generate_all(prompts(), **GREEDY)
        first = next(results)
        assert taken <= 6
        results = [first, *results]
        texts = [alone[source] for source in SOURCES]
        assert [r.text for r in results] == [*texts[:3], "", *texts[3:], "", *texts]
        assert [type(r.error) for r in results if r.error] == [ContextOverflowError, InvalidRequestError]
        assert all(len(r.token_ids) == r.stats.completion_tokens == 30 for r in results if r.error is None)
        assert {r.finish_reason for r in results if r.error is None} == {"length"}
        for _ in model.generate_all(SOURCES, **GREEDY):
            break
        assert model.generate(SOURCES[0], **GREEDY).text() == texts[0]
        with pytest.raises(InvalidRequestError, match="prompts is a str"):
            model.generate_all("one")
        with pytest.raises(InvalidRequestError, match="temperature"):
            model.generate_all(SOURCES, temperature=-1)


def test_results_have_what_their_streams_had(model: Model):
    options = {"max_tokens": 12, "temperature": 0.8, "logprobs": 2}
    wrong = {token: -math.inf for token in range(model.info.n_vocab)}
    results = list(model.generate_all([SOURCES[0], SOURCES[0]], **options))
    assert results[0].stats.seed != results[1].stats.seed and results[0].token_ids != results[1].token_ids
    for result in results:
        stream = model.generate(SOURCES[0], seed=result.stats.seed, **options)
        rows = [row for chunk in stream for row in chunk.logprobs]
        assert (stream.token_ids, rows) == (result.token_ids, result.logprobs)
    one, other = model.generate_all([SOURCES[0], SOURCES[1]], logit_bias=wrong)
    assert isinstance(one.error, InvalidRequestError) and isinstance(other.error, InvalidRequestError)
    assert one.text == "" and one.finish_reason is None


def test_an_ngram_drafter_repeats_what_was_there(demo):
    prompt = "".join(f"    value_{i} = settings['value_{i}']\n" for i in range(4)) * 3
    options = {"max_tokens": 100, "temperature": 0, "ignore_eos": True, "num_speculative_tokens": 3}
    with Model(demo.target, n_ctx=512, n_threads=1, drafter="ngram") as model:
        stream = model.generate(prompt, **options)
        text = stream.text()
        assert stream.stats.drafted > 20 and stream.stats.acceptance_rate > 0.5
    with load(demo, drafter="none") as plain:
        assert plain.info.drafter == "none"
        stream = plain.generate(prompt, **options)
        assert stream.text() == text and stream.stats.drafted == 0


def test_logits_wait_for_room(demo, alone: dict[str, str]):
    with load(demo, max_num_seqs=1) as model:
        expected = model.logits([5, 6, 7])
        stream = model.generate(SOURCES[1], **GREEDY)
        next(iter(other := model.generate(SOURCES[2], **GREEDY)))
        assert other.finish_reason == "cancelled"
        assert (model.logits([5, 6, 7]) == expected).all()
        assert stream.text() == alone[SOURCES[1]]


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("after", ["step", "bursts", "stepped"])
def test_an_interrupt_of_one_reader_costs_another_one_nothing(demo, alone: dict[str, str], after: str):
    """What the handler of a signal raises in a reader's step must not take the tokens of others with it."""
    with load(demo, max_num_seqs=2) as model:
        native, lost = model._loop.native, threading.get_ident()
        function = getattr(native, after)

        def interrupted():
            result = function()
            if threading.get_ident() == lost:
                raise Interrupt
            return result

        for _ in range(5):
            ours, theirs = model.generate(SOURCES[0], **GREEDY), model.generate(SOURCES[1], **GREEDY)
            setattr(native, after, interrupted)
            with pytest.raises(Interrupt):
                ours.text()
            delattr(native, after)
            assert ours.finish_reason == "cancelled"
            thread = threading.Thread(target=theirs.text)
            thread.start()
            thread.join(20)
            assert theirs.finish_reason == "length" and len(theirs.token_ids) == 30
            assert model.detokenize(theirs.token_ids) == alone[SOURCES[1]]


def test_who_waits_goes_on_where_who_stepped_was_interrupted(demo, alone: dict[str, str]):
    with load(demo, max_num_seqs=2) as model:
        native, lost = model._loop.native, threading.get_ident()
        step = native.step
        texts: list[str] = []
        theirs = model.generate(SOURCES[1], **GREEDY)
        thread = threading.Thread(target=lambda: texts.append(theirs.text()))

        def interrupted() -> None:
            if threading.get_ident() == lost:
                thread.start()
                time.sleep(0.1)
                raise Interrupt
            step()

        native.step = interrupted  # type: ignore[method-assign]
        with pytest.raises(Interrupt):
            model.generate(SOURCES[0], **GREEDY).text()
        thread.join(20)
        assert texts == [alone[SOURCES[1]]]


def test_a_handler_amid_a_step_may_begin_and_close_but_not_read(demo, alone: dict[str, str]):
    with load(demo) as model:
        native = model._loop.native
        step = native.step
        begun: list[Stream] = []

        def handler() -> None:
            step()
            if not begun:
                begun.append(model.generate(SOURCES[1], **GREEDY))
                model.generate(SOURCES[2], **GREEDY).close()
                with pytest.raises(StreamError, match="signal handler"):
                    model.generate(SOURCES[2], **GREEDY).text()
                with pytest.raises(StreamError, match="signal handler"):
                    model.logits([5])

        native.step = handler  # type: ignore[method-assign]
        assert model.generate(SOURCES[0], **GREEDY).text() == alone[SOURCES[0]]
        assert begun[0].text() == alone[SOURCES[1]]


def test_random_interleavings_are_fresh_models():
    """See support/interleavings.py; docs/development.md has the command for twenty thousand."""
    script = Path(__file__).resolve().parent.parent / "support" / "interleavings.py"
    command = [sys.executable, "-P", script, "--interleavings", "200", "--seed", str(time.time_ns() % 1000)]
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
