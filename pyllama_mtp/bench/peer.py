"""The same completions by unmodified llama.cpp, in a process that is stopped while it is not its turn."""

import importlib.metadata
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyllama_mtp.bench.measure import Run, Task
from pyllama_mtp.bench.settings import Settings, extended_rates
from pyllama_mtp.errors import BenchmarkError

PACKAGE, VERSION = "xllamacpp", "2026.10.11549"
_WORKER = Path(__file__).with_name("peer_worker.py")
_LOG_BYTES = 2000


@dataclass(frozen=True, slots=True)
class PeerSetting:
    """How llama.cpp runs. n_max: most drafts a round, 0: plain decoding. flash_attention: "auto", "on" or "off".
    backend_sampling: the target's tokens are sampled inside the compute graph; draft_backend_sampling: the head's.
    p_min: a draft ends where the head's best token is less probable.
    """

    n_max: int
    backend_sampling: bool = False
    flash_attention: str = "auto"
    draft_backend_sampling: bool = True
    p_min: float = 0.0

    def __str__(self) -> str:
        if self.n_max == 0:
            return f"backend_sampling={_switch(self.backend_sampling)},flash_attention={self.flash_attention}"
        return (
            f"n_max={self.n_max},backend_sampling={_switch(self.backend_sampling)},"
            f"flash_attention={self.flash_attention},draft_backend_sampling={_switch(self.draft_backend_sampling)},"
            f"p_min={self.p_min:g}"
        )


def _switch(on: bool) -> str:
    return "on" if on else "off"


def check_installed() -> None:
    """Raises BenchmarkError, with the command that helps, unless the pinned llama.cpp is there."""
    try:
        found = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        found = "not installed"
    if found != VERSION:
        raise BenchmarkError(
            f"--peer llama.cpp needs {PACKAGE} {VERSION}, which is llama.cpp as this library vendors it; {PACKAGE} is "
            f"{found}: pip install '{PACKAGE}=={VERSION}'"
        )


class Peer:
    """A llama.cpp server with one setting. Use it as a context manager. Between two completions it is stopped
    (SIGSTOP), so that no thread of it spins. Raises BenchmarkError with llama.cpp's log if it fails.
    """

    def __init__(self, settings: Settings, setting: PeerSetting, n_ctx: int):
        self._settings, self.setting = settings, setting
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # pipes, as asked for
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            answer = self._ask(
                asdict(setting)
                | {
                    "target": str(settings.target),
                    "head": str(settings.head) if setting.n_max else None,
                    "n_ctx": n_ctx,
                    "n_threads": settings.n_threads,
                    "n_gpu_layers": settings.n_gpu_layers,
                    "synthetic_acceptance": extended_rates(settings.synthetic_acceptance, setting.n_max),
                }
            )
        except BaseException:
            self.close()
            raise
        self.load_seconds: float = answer["load_seconds"]
        self._process.send_signal(signal.SIGSTOP)

    def measure(self, task: Task) -> Run:
        """Completes the task's prompt with up to setting.n_max drafts a round."""
        settings = self._settings
        self._process.send_signal(signal.SIGCONT)
        answer = self._ask(
            {
                "ids": list(task.ids),
                "max_tokens": settings.max_tokens,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": settings.top_k,
                "min_p": settings.min_p,
                "seed": settings.seed_of(task.repetition),
                "ignore_eos": settings.ignore_eos,
                "backend_sampling": self.setting.backend_sampling,
            }
        )
        self._process.send_signal(signal.SIGSTOP)
        return _run(task, self.setting, answer)

    def _ask(self, request: dict[str, Any]) -> Any:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            log = self._log.read().decode("utf-8", "replace")[-_LOG_BYTES:].strip()
            raise BenchmarkError(f"llama.cpp ({self.setting}) ended with status {status}; the end of its log:\n{log}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()
        self._log.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(task: Task, setting: PeerSetting, answer: dict[str, Any]) -> Run:
    n, wall = len(answer["token_ids"]), answer["decode_seconds"]
    drafted, accepted = answer["drafted"], answer["accepted"]
    rounds = n - 1 - accepted  # every round emits its accepted drafts and one token more
    return Run(
        mode="plain" if setting.n_max == 0 else "mtp",
        num_speculative_tokens=setting.n_max,
        case=task.case,
        prompt=task.prompt,
        repetition=task.repetition,
        cold=task.cold,
        prompt_tokens=len(task.ids),
        cached_prompt_tokens=len(task.ids) - answer["prompt_tokens"],
        completion_tokens=n,
        tokens_per_second=(n - 1) / wall,
        wall_seconds=wall,
        engine_seconds=None,
        prompt_seconds=answer["prompt_seconds"],
        draft_seconds=None,
        verify_seconds=None,
        sample_seconds=None,
        rounds=rounds,
        drafted=drafted,
        accepted=accepted,
        acceptance_rate=accepted / drafted if drafted else None,
        mean_acceptance_length=(n - 1) / rounds if drafted and rounds else None,
        acceptance_per_position=None,
        peak_memory_bytes=answer["peak_memory_bytes"],
    )
