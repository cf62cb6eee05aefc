"""Unmodified llama.cpp, through the wheel xllamacpp, in a process of its own: greedy completions of token-id prompts.

As a program it reads a request as JSON from its input and writes the answer as the last line of its output.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class PeerCompletion:
    """drafted, accepted: draft tokens; both 0 without a head."""

    token_ids: list[int]
    drafted: int
    accepted: int


def complete(
    target: Path, head: Path | None, prompts: Sequence[Sequence[int]], *, max_tokens: int, k: int = 3, n_ctx: int = 1024
) -> list[PeerCompletion]:
    """Greedy completions, ended by the end of text or max_tokens. Raises RuntimeError with llama.cpp's log."""
    request = {
        "target": str(target),
        "head": head and str(head),
        "prompts": [list(prompt) for prompt in prompts],
        "max_tokens": max_tokens,
        "k": k,
        "n_ctx": n_ctx,
    }
    process = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_SECONDS,
    )
    if process.returncode != 0:
        raise RuntimeError(f"llama.cpp ended with {process.returncode}:\n{process.stderr[-4000:]}")
    return [PeerCompletion(**answer) for answer in json.loads(process.stdout.splitlines()[-1])]


def _serve(request: dict) -> list[dict]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["target"]
    params.n_ctx = request["n_ctx"]
    params.n_parallel = 1
    params.warmup = False
    params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if request["head"] is not None:
        speculative = params.speculative
        speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        speculative.draft.mparams.path = request["head"]
        speculative.draft.n_max = request["k"]
        speculative.draft.n_min = 0
        speculative.draft.p_min = 0.0
        speculative.draft.cpuparams.n_threads = speculative.draft.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    answers = []
    for prompt in request["prompts"]:
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "max_tokens": request["max_tokens"],
                "temperature": 0.0,
                "cache_prompt": False,
                "return_tokens": True,
                "verbose": True,
            }
        )
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp answered {answer}")
        timings = answer["timings"]
        answers.append(
            {
                "token_ids": answer["__verbose"]["tokens"],
                "drafted": timings.get("draft_n", 0),
                "accepted": timings.get("draft_n_accepted", 0),
            }
        )
    return answers


if __name__ == "__main__":
    print("\n" + json.dumps(_serve(json.load(sys.stdin))), flush=True)
