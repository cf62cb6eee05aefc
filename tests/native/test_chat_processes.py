"""The processes of templates: quick once they run, ended with their parent, of no use to another rendering."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyllama_mtp import ChatTemplateError, Model
from pyllama_mtp.chat import processes, render
from pyllama_mtp.chat import template as limits
from support.real_chat import RealChat

MESSAGES = [{"role": "user", "content": "Hi"}]
SLOW = "{% for i in range(60000) %}{% for j in range(60000) %}{% endfor %}{% endfor %}"


def rendered(template: str, messages: list = MESSAGES) -> str:
    return render(template, messages, bos_token="<bos>", eos_token="<eos>")


def pids() -> set[int]:
    return {process._process.pid for process in processes._all if process._process is not None}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(pids: set[int], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(runs, pids))


def test_a_rendering_takes_no_new_interpreter():
    """Each one took a tenth of a second, for a process of its own."""
    rendered("{{ messages[0].content }}")
    before = pids()
    seconds = []
    for i in range(40):
        begin = time.perf_counter()
        assert rendered("{{ messages[0].content }}", [{"role": "user", "content": str(i)}]) == str(i)
        seconds.append(time.perf_counter() - begin)
    assert pids() == before
    assert min(seconds) < 0.02


def test_only_a_few_processes_stay():
    before = pids()
    for i in range(processes.MAX_IDLE + 3):
        assert rendered(f"{{{{ {i} }}}}") == str(i)
    assert len(processes._idle) == processes.MAX_IDLE
    assert ended(before)


def test_after_a_process_was_killed_there_is_a_new_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_CPU_SECONDS", 1)
    template = "{% if messages[0].content == 'x' %}" + SLOW + "{% endif %}{{ messages[0].content }}"
    assert rendered(template) == "Hi"
    with pytest.raises(ChatTemplateError, match="CPU time"):
        rendered(template, [{"role": "user", "content": "x"}])
    assert rendered(template) == "Hi"
    (idle,) = [process for process in processes._idle if process.start.find(b"== 'x'") > 0]
    os.kill(idle._process.pid, signal.SIGKILL)
    assert rendered(template) == "Hi"


def test_an_interrupted_rendering_leaves_no_answer_for_the_next_one():
    template = "{% for i in range(20000) %}{% for j in range(20) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
    rendered(template)

    def interrupt(*_: object) -> None:
        raise TimeoutError("a handler's own")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(8):
            signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.005 * i)
            try:
                rendered(template, [{"role": "user", "content": "first"}])
            except (TimeoutError, ChatTemplateError):
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert rendered("{{ messages[0].content }}", [{"role": "user", "content": str(i)}]) == str(i)
            assert rendered(template, [{"role": "user", "content": str(i)}]) == str(i)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_nothing_of_a_rendering_is_left_for_the_next_one():
    template = "{% set n = namespace(x=messages[0].content) %}{{ cycler('a', 'b').next() }}{{ n.x }}{{ joiner('-')() }}"
    assert [rendered(template, [{"role": "user", "content": c}]) for c in "xyx"] == ["ax", "ay", "ax"]


def test_many_threads_render():
    results: dict[int, str] = {}

    def work(i: int) -> None:
        results[i] = rendered("{{ messages[0].content }}", [{"role": "user", "content": str(i)}])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: str(i) for i in range(12)}
    assert len(processes._idle) <= processes.MAX_IDLE


PARENT = """
import sys, threading, time
from pyllama_mtp.chat import processes, render
def rendered(template):
    return render(template, [{"role": "user", "content": "Hi"}], bos_token="", eos_token="")
assert rendered("{{ messages[0].content }}") == "Hi"
if sys.argv[1] == "busy":
    threading.Thread(target=rendered, args=(sys.argv[2],), daemon=True).start()
    time.sleep(1)
if sys.argv[1] == "forks":
    import os
    if os.fork() == 0:
        assert rendered("{{ messages[0].content }}x") == "Hix"
        time.sleep(60)
    time.sleep(1)
print(*(process._process.pid for process in processes._all), flush=True)
if sys.argv[1] != "ends":
    time.sleep(60)
"""


@pytest.mark.parametrize("way", ["ends", "killed", "busy", "forks"])
def test_processes_do_not_outlive_their_parent(way: str):
    """Also not where a child of its, made by fork, goes on."""
    command = [sys.executable, "-P", "-c", PARENT, way, SLOW]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    try:
        children = {int(pid) for pid in parent.stdout.readline().split()}
        assert children and (way == "ends" or all(map(runs, children)))
        if way == "ends":
            assert parent.wait(timeout=20) == 0
        else:
            parent.kill()
        assert ended(children)
    finally:
        try:
            os.killpg(parent.pid, signal.SIGKILL)  # the forked child, which is asleep
        except ProcessLookupError:
            pass
        parent.wait()
        parent.stdout.close()


def test_a_forked_child_renders_by_itself():
    assert rendered("{{ messages[0].content }}") == "Hi"
    before = pids()
    child = os.fork()
    if child == 0:
        try:
            good = not processes._all and rendered("{{ messages[0].content }}") == "Hi" and not pids() & before
            processes._end_all()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rendered("{{ messages[0].content }}") == "Hi" and pids() == before


def longest_pause(model: Model, prompts: list) -> tuple[list[str], float]:
    """The completions of the prompts as tasks, and the longest time in which the event loop did nothing else."""
    pause = 0.0

    async def watch() -> None:
        nonlocal pause
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            pause, last = max(pause, now - last), now

    async def main() -> list[str]:
        watcher = asyncio.create_task(watch())
        streams = [model.agenerate(prompt, max_tokens=2, temperature=0) for prompt in prompts]
        texts = await asyncio.gather(*(stream.text() for stream in streams))
        watcher.cancel()
        return texts

    return asyncio.run(main()), pause


def test_an_event_loop_waits_for_no_template(real_chat: RealChat):
    """agenerate() rendered and split its prompt itself: a tenth of a second for a template, much more for long text."""
    slow = "{% for i in range(90000) %}{% if i > 89998 %}{{ messages[0].content }}{% endif %}{% endfor %}"
    with Model(real_chat.target, n_ctx=1024, n_threads=1) as model:
        long = [{"role": "user", "content": "word " * 500}]
        texts, pause = longest_pause(model, [MESSAGES, long, "Hi"])
        assert pause < 0.5
        assert texts[0] == model.generate(MESSAGES, max_tokens=2, temperature=0).text()

        async def first_rendering() -> None:
            begin = time.perf_counter()
            stream = model.agenerate(MESSAGES, chat_template=slow, max_tokens=2)
            seconds = time.perf_counter() - begin
            await stream.text()
            assert time.perf_counter() - begin > 2 * seconds

        asyncio.run(first_rendering())


def test_what_is_wrong_with_a_prompt_is_raised_where_the_stream_is_read(real_chat: RealChat):
    with Model(real_chat.target, n_ctx=256, n_threads=1) as model:

        async def main() -> None:
            for wrong in ([{"role": "user", "content": [{"type": "image"}]}], [{"content": "x"}], "x" * 100_000, [-1]):
                stream = model.agenerate(wrong)
                with pytest.raises(Exception, match="expected|tokens"):
                    await stream.text()
            stream = model.agenerate(MESSAGES, max_tokens=4)
            stream.cancel()
            chunks = [chunk async for chunk in stream]
            assert chunks[-1].finish_reason == "cancelled"
            left = model.agenerate(MESSAGES, max_tokens=4)
            await left.aclose()
            assert left.finish_reason == "cancelled" and left.token_ids == []
            assert len(await model.agenerate(MESSAGES, max_tokens=4, ignore_eos=True).text()) > 0

        asyncio.run(main())
