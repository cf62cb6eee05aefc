"""A process that calls pyllama_mtp.hub: huggingface_hub reads its settings once in a process."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 60


class Failed(Exception):
    """An error of the package in a Caller: its class's name, and its message, which is one line."""

    def __init__(self, name: str, message: str):
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message
        assert message.isprintable() and message, repr(message)


class Caller:
    """A process with folders and settings of its own, which calls pyllama_mtp.hub. log: its lines so far."""

    def __init__(self, url: str, home: Path, *, before: str = "", **environment: str):
        """before: a shell command that the process is made under, such as "ulimit -f 100;"."""
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.cache, self.own_cache = home, home / "hf" / "hub", home / "own"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        ours = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "PYLLAMA_MTP_CACHE": str(home / "own")}
        ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5", "no_proxy": "127.0.0.1"}
        self._log = (home / "log").open("ab")
        self._process = subprocess.Popen(
            ["sh", "-c", f'{before} exec "$0" -P "$1"', sys.executable, __file__],
            env=kept | ours | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def runs(self) -> bool:
        return self._process.poll() is None

    def send(self, function: str, *args: Any, **options: Any) -> None:
        """Begins a call, for receive()."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([function, args, options], default=str) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process has ended:\n{self.log}"
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"], answer["message"])
        return answer["result"]

    def find(self, target: object = None, **options: Any) -> dict[str, Any]:
        """find_files(): its fields, and "told", what its function for the progress was told."""
        self.send("find", target, **options)
        result: dict[str, Any] = self.receive()
        return result

    def call(self, function: str, *args: Any, **options: Any) -> Any:
        self.send(function, *args, **options)
        return self.receive()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._log.close()

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _find(target: str | None, **options: Any) -> dict[str, Any]:
    from pyllama_mtp.hub import find_files

    told: list[tuple[int, int, str]] = []
    if options.pop("tell", False):
        options["progress"] = lambda *state: told.append(state)
    files = find_files(target, **options)
    head = None if files.mtp_head is None else str(files.mtp_head)
    return {"target": str(files.target), "mtp_head": head, "head_source": files.head_source, "told": told}


def _stopped(**options: Any) -> str:
    """What find_files() raises when its function for the progress does."""
    from pyllama_mtp.hub import find_files

    def stop(*_: object) -> None:
        raise LookupError("enough")

    try:
        find_files(None, progress=stop, **options)
    except LookupError as error:
        return str(error.args[0])
    return "nothing was raised"


def _checkpoint(name: str, **options: Any) -> str:
    from pyllama_mtp.hub import find_checkpoint

    return str(find_checkpoint(name, **options))


def _pretrained(*args: Any, prompt: str = "def main():", **options: Any) -> dict[str, Any]:
    """The text of a model, and what it says of itself."""
    from pyllama_mtp import Model

    with Model.from_pretrained(*args, n_ctx=256, n_threads=1, **options) as model:
        stream = model.generate(prompt, max_tokens=16, temperature=0, num_speculative_tokens=3)
        chunks = list(stream)
        return {
            "text": "".join(chunk.text for chunk in chunks),
            "reasoning": "".join(chunk.reasoning for chunk in chunks),
            "accepted": stream.stats.acceptance_rate,
            "drafter": model.info.drafter,
            "schema": model.options.response_schema,
        }


def _convert(*arguments: str) -> int:
    from pyllama_mtp.convert.cli import main

    sys.stdout = sys.stderr
    return main(list(arguments))


def _answer_calls() -> None:
    from pyllama_mtp.errors import PyllamaMtpError

    functions = {
        "find": _find,
        "stopped": _stopped,
        "checkpoint": _checkpoint,
        "pretrained": _pretrained,
        "convert": _convert,
    }
    logging.basicConfig(level=logging.WARNING)
    out = sys.stdout
    for line in sys.stdin:
        function, args, options = json.loads(line)
        try:
            answer = {"result": functions[function](*args, **options)}
        except PyllamaMtpError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    _answer_calls()
