"""One measured completion by this library, and what is told of any completion, ours or the peer's."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.bench.settings import Settings
from pyllama_mtp.model import Model
from pyllama_mtp.names import DraftLength

IDLE_CHECK_SECONDS = 0.02
IDLE_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Run:
    """A completion. Counts are in tokens; seconds are wall time.

    mode: "plain" or "mtp". case, prompt: what was completed; repetition counts from 0; cold: the first completion in
    this mode, with no warm-up before it. wall_seconds: from the first token to the last, on the caller's clock;
    tokens_per_second: the tokens after the first over it. engine_seconds: the same span on the engine's own clock =
    draft + verify + sample + a rest. Acceptance figures are those of pyllama_mtp.Stats, None where nothing was drafted.
    peak_memory_bytes: most resident memory of the engine's process during the completion; since its start where the
    kernel does not let it be reset. None: the engine does not tell.
    """

    mode: str
    num_speculative_tokens: DraftLength
    case: str
    prompt: str
    repetition: int
    cold: bool
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float
    wall_seconds: float
    engine_seconds: float | None
    prompt_seconds: float
    draft_seconds: float | None
    verify_seconds: float | None
    sample_seconds: float | None
    rounds: int
    drafted: int
    accepted: int
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    acceptance_per_position: list[float] | None
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Task:
    """What any engine is given: the prompt's name and ids, the draft length (0: plain), and which run it is."""

    case: str
    prompt: str
    ids: Sequence[int]
    k: DraftLength
    repetition: int
    cold: bool = False


def measure(model: Model, settings: Settings, task: Task) -> Run:
    """Completes the task's prompt and reads the stream as a caller would."""
    reset_peak_memory()
    begin = time.perf_counter()
    stream = model.generate(list(task.ids), **settings.request(task.repetition, task.k))
    stream.text()
    elapsed = time.perf_counter() - begin
    stats = stream.stats
    wall = elapsed - stats.prompt_seconds
    return Run(
        mode="plain" if task.k == 0 else "mtp",
        num_speculative_tokens=task.k,
        case=task.case,
        prompt=task.prompt,
        repetition=task.repetition,
        cold=task.cold,
        prompt_tokens=stats.prompt_tokens,
        cached_prompt_tokens=stats.cached_prompt_tokens,
        completion_tokens=stats.completion_tokens,
        tokens_per_second=(stats.completion_tokens - 1) / wall,
        wall_seconds=wall,
        engine_seconds=stats.decode_seconds,
        prompt_seconds=stats.prompt_seconds,
        draft_seconds=stats.draft_seconds,
        verify_seconds=stats.verify_seconds,
        sample_seconds=stats.sample_seconds,
        rounds=stats.rounds,
        drafted=stats.drafted,
        accepted=stats.accepted,
        acceptance_rate=stats.acceptance_rate,
        mean_acceptance_length=stats.mean_acceptance_length,
        acceptance_per_position=stats.acceptance_per_position,
        peak_memory_bytes=peak_memory_bytes(),
    )


def reset_peak_memory() -> None:
    """Makes this process's resident memory its peak, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # then the peak is that since the start of the process, as Run says
        pass


def peak_memory_bytes() -> int:
    """Most resident memory of this process since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def wait_until_idle() -> bool:
    """Waits until this process's threads have stopped looking for work, so that another one can be measured: False if
    they have not after two seconds.
    """
    end = time.monotonic() + IDLE_TIMEOUT_SECONDS
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(IDLE_CHECK_SECONDS)
        if time.process_time() - before < IDLE_CHECK_SECONDS / 10:
            return True
    return False
