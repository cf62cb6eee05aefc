"""How models, streams and processes begin and end."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyllama_mtp import InvalidRequestError, Model, ModelClosedError, clear_cache, generate

TIMEOUT_SECONDS = 60
LOAD = """
import os, sys
from pyllama_mtp import Model
def load(**options):
    return Model(sys.argv[1], mtp_head=sys.argv[2], **({"n_ctx": 256, "n_threads": 2} | options))
"""


def python(demo, code: str, *, wait: bool = True) -> subprocess.Popen[str]:
    """A child that runs the code. wait: until it has ended, which must take less than a minute."""
    command = [sys.executable, "-P", "-c", LOAD + code, demo.target, demo.head]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if wait:
        try:
            child.wait(TIMEOUT_SECONDS)
        finally:
            child.kill()
    return child


@pytest.mark.parametrize(
    "code",
    [
        "model = load(); sys.excepthook = lambda *_: model",
        "import logging; logging.root.addHandler(type('H', (logging.NullHandler,), {})()); logging.root.model = load()",
        "import atexit; atexit.register(lambda m=load(): m.close())",
        "model = load(); stream = model.generate('x'); chunks = iter(stream); next(chunks); sys.modules['x'] = stream",
        "model = load(); model.generate('x', max_tokens=50).text(); sys.modules['x'] = model; sys.exit(0)",
        "class C: pass\nc = C(); c.model, c.self = load(), c",
    ],
)
def test_python_may_end_with_a_model_in_use(demo, code: str):
    """Where one was referenced when Python took its modules apart, the library went while its threads were in it."""
    child = python(demo, code)
    assert child.returncode == 0, child.stderr.read()


@pytest.mark.parametrize(
    "work",
    [
        "load().close()",
        "load().generate('x', max_tokens=200, ignore_eos=True, logprobs=5).text()",
        "load().logits([5] * 200)",
        "model = load(); model.tokenize('ab <bos>' * 100_000)",
        "list(load(n_threads=1).generate([5] * 200, max_tokens=3))",
    ],
)
def test_python_may_end_while_daemon_threads_are_at_it(demo, work: str):
    """55 of 80 exits were SIGSEGV or SIGABRT: static objects were destroyed under running calls, and a log callback was
    made into an interpreter that was no more.
    """
    code = """
import threading, time
def work():
    while True:
        WORK
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(DELAY)
"""
    children = []
    for i in range(8):  # side by side: most often on a busy machine
        children.append(python(demo, code.replace("WORK", work).replace("DELAY", str(0.1 + 0.06 * i)), wait=False))
    for child in children:
        try:
            assert child.wait(TIMEOUT_SECONDS) == 0, child.stderr.read()
        finally:
            child.kill()


def test_no_lock_is_held_while_lines_are_logged(demo):
    """A garbage collector that freed a model within the log callback waited for the lock that its own thread held; with
    a lock of the logging module held by another thread the same happened across threads.
    """
    code = """
import gc, itertools, logging, threading
class Keep(logging.Handler):
    count = itertools.count()
    def emit(self, record):
        if next(self.count) % 100 == 0:
            gc.collect()
logging.getLogger("pyllama_mtp").setLevel(logging.DEBUG)
logging.getLogger("pyllama_mtp").addHandler(Keep())
class Engine:
    def __init__(self):
        self.model = load()
        self.answer = lambda prompt: self.model.generate(prompt, max_tokens=2).text()  # a cycle
def work():
    for _ in range(4):
        Engine().answer("x")
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    child = python(demo, code)
    assert child.returncode == 0, child.stderr.read()


def in_fork(action: Callable[[], object]) -> str:
    """What the action returns or raises in a forked child, as text."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def tell() -> None:
        try:
            theirs.send(repr(action()))
        except BaseException as error:
            theirs.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=tell)
    child.start()
    try:
        assert ours.poll(20), "the child hangs"
        answer: str = ours.recv()
        child.join(20)
        assert child.exitcode == 0
        return answer
    finally:
        child.kill()
        child.join()


@pytest.fixture
def forking(demo):
    with Model(demo.target, mtp_head=demo.head, n_ctx=256, n_threads=2) as model:
        yield model


@pytest.mark.parametrize(
    "use",
    [
        lambda m, s: m.generate("x").text(),
        lambda m, s: m.logits([5]),
        lambda m, s: m.tokenize("x"),
        lambda m, s: m.detokenize([300]),
        lambda m, s: s.text(),
        lambda m, s: s.stats,
    ],
)
def test_a_forked_child_is_told_that_the_model_is_another_processs(forking: Model, use: Callable):
    """It waited for ever for threads that are not there in a child."""
    stream = forking.generate("x", max_tokens=3, ignore_eos=True)
    assert in_fork(lambda: use(forking, stream)).startswith("ModelClosedError")
    assert stream.text() and forking.generate("x", max_tokens=3).text() is not None


def test_a_forked_child_may_close_and_load(forking: Model, demo):
    expected = forking.generate("x", max_tokens=5, temperature=0).text()
    stream = forking.generate("x", max_tokens=5, temperature=0)

    def child() -> str:
        stream.close()
        forking.close()
        with Model(demo.target, mtp_head=demo.head, n_ctx=256, n_threads=2) as own:
            return own.generate("x", max_tokens=5, temperature=0).text()

    assert in_fork(child) == repr(expected)
    assert stream.text() == expected


def test_a_fork_while_another_thread_generates(forking: Model):
    """Locks that the other thread holds are held for ever in the child."""
    stream = forking.generate([5] * 200, max_tokens=50, ignore_eos=True)
    thread = threading.Thread(target=stream.text)
    thread.start()
    for _ in range(5):
        assert in_fork(lambda: (stream.close(), forking.close())) == "(None, None)"
        assert in_fork(lambda: stream.stats).startswith(("ModelClosedError", "Stats"))  # where it has ended
    thread.join()


def test_generate_loads_again_in_a_forked_child(demo):
    options = {"model": demo.target, "n_ctx": 256, "n_threads": 2, "max_tokens": 5, "temperature": 0}
    expected = generate("x", **options).text()
    assert in_fork(lambda: generate("x", **options).text()) == repr(expected)
    assert generate("x", **options).text() == expected
    clear_cache()


class Stop(Exception):
    pass


def mappings(path: Path) -> int:
    """Of a file, in this process: models that are loaded from it, those of other tests included."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(os.path.realpath(path))


@pytest.mark.parametrize("kind", [Stop, SystemExit, KeyboardInterrupt])
def test_a_signal_ends_a_load_at_once(demo, kind: type[BaseException]):
    """Exceptions of handlers were swallowed in the log callback, but for KeyboardInterrupt, which came at the end."""

    def handler(*_: object) -> None:
        raise kind

    before = mappings(demo.target)
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(30):
            delay = 0.002 + 0.004 * i
            signal.setitimer(signal.ITIMER_REAL, delay)
            begin = time.perf_counter()
            try:
                Model(demo.target, mtp_head=demo.head, n_ctx=256, n_threads=2).close()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except kind:
                assert time.perf_counter() - begin < delay + 0.2 + 1  # a busy machine's part
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    deadline = time.monotonic() + 5
    while (after := mappings(demo.target)) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert after == before


def test_progress_is_told_where_the_model_is_loaded(demo):
    told: list[tuple[int, int, str, int]] = []
    Model(
        demo.target,
        mtp_head=demo.head,
        n_ctx=256,
        progress=lambda done, total, what: told.append((done, total, what, threading.get_ident())),
    ).close()
    size = demo.target.stat().st_size + demo.head.stat().st_size
    assert told[0][:3] == (0, size, "target") and told[-1][:3] == (size, size, "MTP head")
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    assert {thread for *_, thread in told} == {threading.get_ident()}


def test_progress_may_end_the_load(demo):
    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        Model(demo.target, n_ctx=256, progress=stop)
    with pytest.raises(InvalidRequestError, match="progress is 'yes'"):
        Model(demo.target, n_ctx=256, progress="yes")
    Model(demo.target, n_ctx=256, progress=True).close()  # no terminal: nothing is written


def test_generate_tells_progress_of_the_load_that_it_makes(demo):
    """It had no such option. Calls that differ in it alone share a model."""
    told: list[str] = []
    options = {"model": demo.target, "n_ctx": 256, "n_threads": 2, "max_tokens": 2}
    try:
        generate("x", **options, progress=lambda done, total, what: told.append(what)).text()
        n = len(told)
        assert {"target"} <= set(told) <= {"target", "context"}
        before = mappings(demo.target)
        for progress in (True, None, lambda *what: told.append("again")):
            generate("x", **options, progress=progress).text()
        assert len(told) == n and mappings(demo.target) == before
        with pytest.raises(InvalidRequestError, match="progress is 'yes'"):
            generate("x", **options, progress="yes")
    finally:
        clear_cache()


def test_progress_may_wait_for_a_thread_that_generates(demo):
    """One lock was held while any model was loaded."""
    options = {"model": demo.target, "n_threads": 2, "max_tokens": 2, "ignore_eos": True}
    texts: list[str] = []

    def other(*_: object) -> None:
        if not texts:
            thread = threading.Thread(target=lambda: texts.append(generate("x", n_ctx=64, **options).text()))
            thread.start()
            thread.join(60)
            assert texts, "the other thread hangs"

    try:
        assert generate("x", n_ctx=256, progress=other, **options).text() is not None
    finally:
        clear_cache()


@pytest.mark.parametrize("what", ["stream", "model"])
def test_a_handler_may_close_what_it_interrupts(demo, what: str):
    """close() freed the generation under the step of its own thread, whose log probabilities were read afterwards."""

    def load() -> Model:
        return Model(demo.target, mtp_head=demo.head, n_ctx=1024, n_threads=1)

    tokens, model = 0, load()
    for i in range(60):
        stream = model.generate(
            "def main():\n", max_tokens=300, temperature=0, ignore_eos=True, logprobs=64, num_speculative_tokens=16
        )
        closed = {"stream": stream, "model": model}[what]
        previous = signal.signal(signal.SIGALRM, lambda *_, closed=closed: closed.close())
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0007 * i)
        try:
            chunks = list(stream)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        got = [token for chunk in chunks for token in chunk.token_ids]
        assert [row[0].token_id for chunk in chunks for row in chunk.logprobs] == got == stream.token_ids
        assert stream.stats.completion_tokens == len(got)
        if what == "model":
            model.close()
            with pytest.raises(ModelClosedError):
                model.generate("x")
            model = load()
        tokens += len(got)
    model.close()
    assert 0 < tokens < 60 * 300


def test_leaving_a_loop_is_noticed_by_the_next_completion(demo_model: Model):
    for _ in range(3):
        for _ in demo_model.generate("x", max_tokens=50, ignore_eos=True):
            break
    stream = demo_model.generate("x", max_tokens=50, ignore_eos=True)
    next(iter(stream))
    assert stream.finish_reason == "cancelled" and stream.stats.completion_tokens == len(stream.token_ids)
    demo_model.logits([5])


def test_interrupts_at_random_instants():
    """See support/interrupts.py; docs/development.md has the command for ten thousand."""
    script = Path(__file__).resolve().parent.parent / "support" / "interrupts.py"
    command = [sys.executable, "-P", script, "--interrupts", "300", "--seed", str(time.time_ns() % 1000)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
