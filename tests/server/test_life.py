"""How a server begins and ends: what hinders it is told in one line, and what runs when it ends is finished."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.serving import Served, events, http_request, raw, read_to_end

LONG = {"prompt": "def main():\n", "max_tokens": 600, "ignore_eos": True, "num_speculative_tokens": 0, "stream": True}
SHORT = {"prompt": "import os\n", "max_tokens": 4}


@pytest.fixture
def start(chat_target: Path, demo, tmp_path: Path):
    def start(*flags: str) -> Served:
        sizes = ("--max-model-len", "1024", "--n-threads", "1", "--mtp-head", str(demo.head))
        return Served(chat_target, *sizes, *flags, log=tmp_path / "log")

    return start


def body_of(data: bytes) -> bytes:
    """What was sent in chunks."""
    rest = data.partition(b"\r\n\r\n")[2]
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_nothing_else_begins(start, number: int):
    with start() as served, raw(served, http_request("/v1/completions", LONG | {"n": 4, "logprobs": 5})) as sock:
        first = sock.recv(1 << 16)
        served.process.send_signal(number)
        while served.ask("GET", "/health").status == 200:
            pass
        for answer in (served.post("/v1/completions", SHORT), served.ask("GET", "/health")):
            assert answer.status == 503 and answer.error["code"] == "shutting_down"
            assert int(answer.headers["retry-after"]) >= 1
        told = events(body_of(first + read_to_end(sock)))
        reasons = [choice["finish_reason"] for event in told for choice in event["choices"]]
        assert reasons.count("length") == 4
        assert served.process.wait(20) == 0
    assert "Traceback" not in served.log


def test_a_second_signal_ends_it_at_once(start):
    with start("--drain-seconds", "60") as served:
        with raw(
            served, http_request("/v1/completions", LONG | {"n": 16, "logprobs": 20}), receive_buffer=4096
        ) as sock:
            sock.recv(100)
            served.process.send_signal(signal.SIGTERM)
            while served.ask("GET", "/health").status == 200:
                pass
            begun = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(20) == 128 + signal.SIGTERM
            assert time.monotonic() - begun < 2


def test_what_takes_longer_than_the_drain_is_ended(start):
    with start("--drain-seconds", "0.2") as served:
        with raw(served, http_request("/v1/completions", LONG | {"n": 16})) as sock:
            first = sock.recv(1 << 16)
            served.process.send_signal(signal.SIGTERM)
            told = events(body_of(first + read_to_end(sock)))
            assert told[-1]["error"]["code"] == "shutting_down"
        assert served.process.wait(20) == 0


def test_an_idle_server_ends_at_once(start):
    with start() as served, raw(served, b"") as _:
        begun = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - begun < 5


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-P", "-m", "pyllama_mtp.cli", "serve", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def one_line(result: subprocess.CompletedProcess[str], *told: str) -> None:
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("pyllama-mtp: error: ") and all(word in line for word in told), line


def test_a_port_in_use(demo):
    """It is told before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one_line(command(demo.target, "--port", taken.getsockname()[1]), str(taken.getsockname()[1]), "in use")


def test_a_model_that_cannot_be_read(tmp_path: Path, demo):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(demo.target.read_bytes()[:1000])
    one_line(command(tmp_path / "none.gguf", "--port", 0), "none.gguf")
    one_line(command(damaged, "--port", 0), "damaged.gguf")
    one_line(command(demo.target, "--port", 0, "--mtp-head", damaged), "damaged.gguf")


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--host", "no.such.host.invalid"], "no.such.host"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--port", "70000"], "70000"),
        (["--speculative-config", "{"], "speculative-config"),
        (["--speculative-config", '{"method": "eagle"}'], "eagle"),
        (["--speculative-config", '{"num_speculative_tokens": 99}'], "99"),
        (["--speculative-config", '{"colour": 1}'], "colour"),
        (["--max-model-len", "many"], "many"),
        (["--max-num-seqs", "0"], "max_num_seqs"),
        (["--request-seconds", "0"], "request_seconds"),
        (["--api-key", ""], "api_keys"),
        (["--cache-type-k", "f15"], "f15"),
    ],
)
def test_flags_that_make_no_sense(demo, flags: list[str], told: str):
    port = [] if "--port" in flags else ["--port", 0]
    one_line(command(demo.target, *port, *flags), told)


def test_a_command_line_of_vllms(chat_target: Path, demo, tmp_path: Path):
    """What the other server was started with starts this one."""
    speculative = f'{{"method": "mtp", "model": "{demo.head}", "num_speculative_tokens": 2}}'
    line = "--served-model-name gemma --max-model-len 512 --max-num-seqs 2 --dtype bfloat16 --tensor-parallel-size 1"
    line += " --enable-prefix-caching --gpu-memory-utilization 0.9 --enable-auto-tool-choice --tool-call-parser gemma4"
    line += " --reasoning-parser gemma4 --trust-remote-code --no-enable-log-requests --host 0.0.0.0 --n-threads 1"
    with Served(chat_target, *line.split(), "--speculative-config", speculative, log=tmp_path / "log") as served:
        assert "--api-key" in served.log  # a warning: it listens to all
        answer = served.post(
            "/v1/completions", SHORT | {"model": "gemma", "ignore_eos": True}, Host="pod.cluster.local"
        )
        assert answer.status == 200
        assert answer.json["metrics"]["speculative_decoding"]["num_spec_tokens"] == 2
        assert served.ask("GET", "/v1/models").json["data"][0]["max_model_len"] == 512
