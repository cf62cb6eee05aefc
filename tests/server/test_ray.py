"""Two replicas on Ray Serve, of examples/ray_serve.py, behind OpenAI's client; one of them is killed."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI

from pyllama_mtp import Model
from support.cmake import PROJECT

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'")

START_SECONDS = 180
SHORT: dict[str, Any] = {"model": "gemma", "max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
LONG = SHORT | {"max_tokens": 900, "extra_body": {"ignore_eos": True, "num_speculative_tokens": 0}}


class Replicas:
    """support/ray_replicas.py as a process."""

    def __init__(self, *settings: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets lie in it, whose paths must be short
        script = PROJECT / "tests" / "support" / "ray_replicas.py"
        command = [sys.executable, "-P", script, str(port), self._folder, *settings]
        env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # else one is left in HOME
        self._log = open(Path(self._folder) / "log", "w+")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        # Ray's workers import from this folder too, in which a checkout's package would be without its library.
        self._process = subprocess.Popen(command, **pipes, text=True, env=env, cwd=self._folder)
        self.client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
        assert self._process.stdout.readline() == "ready\n", self.log()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def tell(self, line: str) -> str:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def until_texts(self, n: int, messages: list[dict[str, str]]) -> None:
        """Waits until the replica of a conversation has n texts that run or wait."""
        line = f"metrics {json.dumps({'messages': messages})}"
        figure = re.compile(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", re.MULTILINE)
        end = time.monotonic() + 30
        while (seen := sum(map(float, figure.findall(json.loads(self.tell(line)))))) != n:
            assert time.monotonic() < end, seen

    def stop(self) -> None:
        self._process.stdin.close()
        try:
            assert self._process.wait(60) == 0, self.log()
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, messages: list[dict[str, str]], **options: Any) -> tuple[str, Any]:
        """Who answered, and what."""
        raw = self.client.chat.completions.with_raw_response.create(messages=messages, **SHORT | options)
        return raw.headers["x-replica"], raw.parse()


@pytest.fixture(scope="module")
def replicas(chat_target: Path, demo) -> Iterator[Replicas]:
    settings = {"target": chat_target, "mtp_head": demo.head, "n_ctx": 1024, "max_num_seqs": 3, "cpus": 1}
    running = Replicas(*(f"{name}={value}" for name, value in settings.items()))
    yield running
    running.stop()


def opening(i: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Write Python."}, {"role": "user", "content": f"def function_{i}(a, b):"}]


def test_texts_are_those_of_the_model(replicas: Replicas, reference: Model):
    expected = reference.generate(opening(0), max_tokens=40, temperature=0).text()
    stream = replicas.client.chat.completions.create(
        messages=opening(0), **SHORT | {"max_tokens": 40, "extra_body": {}}, stream=True
    )
    chunks = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(chunks) == expected and len([chunk for chunk in chunks if chunk]) > 5
    assert replicas.ask(opening(0), max_tokens=40, extra_body={})[1].choices[0].message.content == expected


def test_a_conversation_stays_with_the_replica_that_has_its_beginning(replicas: Replicas):
    """And other conversations go elsewhere."""
    used = set()
    for i in range(24):
        messages = opening(i)
        first, answer = replicas.ask(messages)
        messages += [{"role": "assistant", "content": answer.choices[0].message.content}]
        messages += [{"role": "user", "content": "And now in C."}]
        second, answer = replicas.ask(messages)
        assert first == second
        assert answer.usage.prompt_tokens_details.cached_tokens > answer.usage.prompt_tokens / 3
        used.add(first)
    assert len(used) == 2


def test_a_client_that_leaves_ends_its_text(replicas: Replicas):
    body = json.dumps({"messages": opening(3)})
    before = replicas.tell(f"metrics {body}")
    stream = replicas.client.chat.completions.create(messages=opening(3), **LONG, stream=True)
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 30
    while 'finished_reason="abort"' not in (now := json.loads(replicas.tell(f"metrics {body}"))):
        assert time.monotonic() < end, now
    assert 'finished_reason="abort"' not in json.loads(before)


def test_errors_are_those_of_the_server(replicas: Replicas):
    with pytest.raises(APIError, match="temperature"):
        replicas.ask(opening(0), temperature=-1)
    with pytest.raises(APIError, match="does not exist"):
        replicas.ask(opening(0), model="other")


def test_what_ran_elsewhere_or_waited_survives_a_replica(replicas: Replicas):
    """Streams that the killed one had begun are told; nothing else is lost, not even texts that it had not sent yet."""
    places = {i: replicas.ask(opening(i))[0] for i in range(24)}
    killed = places[0]
    lost = [i for i in places if places[i] == killed]
    kept = [i for i in places if places[i] != killed]
    begun = [replicas.client.chat.completions.create(messages=opening(lost[0]), **LONG, n=16, stream=True)]
    begun += [replicas.client.chat.completions.create(messages=opening(kept[0]), **LONG, stream=True)]
    parts = [[next(iter(stream)).choices[0].delta.content or ""] for stream in begun]
    with ThreadPoolExecutor(len(places) + 1) as pool:
        unsent = pool.submit(replicas.ask, opening(lost[0]), n=2, max_tokens=200)
        replicas.until_texts(18, opening(lost[0]))  # the killed one has it: after the 16 of the stream
        answers = [pool.submit(replicas.ask, opening(i), max_tokens=200) for i in (*lost, *kept)]
        assert replicas.tell(f"kill {killed}") == "killed"
        with pytest.raises(APIError, match="the replica that answered has died"):
            parts[0] += [chunk.choices[0].delta.content or "" for chunk in begun[0] if chunk.choices]
        parts[1] += [chunk.choices[0].delta.content or "" for chunk in begun[1] if chunk.choices]
        told = [answer.result(60) for answer in answers]
        elsewhere, answer = unsent.result(60)
    assert elsewhere != killed and answer.usage.completion_tokens == 400
    assert all(answer.usage.completion_tokens == 200 for _, answer in told)
    whole = replicas.ask(opening(kept[0]), max_tokens=900, extra_body=LONG["extra_body"])[1]
    assert "".join(parts[1]) == whole.choices[0].message.content
    assert all(replicas.ask(opening(i))[0] != killed for i in lost)
