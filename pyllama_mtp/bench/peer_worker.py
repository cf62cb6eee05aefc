"""Unmodified llama.cpp's server in a process of its own. A program, run by its path: knows the standard library and
xllamacpp only, so that nothing of ours is loaded beside it.

Reads one JSON object a line: first how to load, then completions. Answers each with one line. llama.cpp's own output
goes to standard error.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
SAMPLERS = ("temperature", "min_p", "top_k", "top_p")  # the order of vLLM and of pyllama-mtp
FLASH_ATTENTION = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}


def load(request: dict[str, Any]) -> Any:
    """The server. request: target, head (None: plain decoding), n_ctx, n_threads, n_gpu_layers (-1: all), n_max,
    synthetic_acceptance (n_max rates or none), and the settings of peer.PeerSetting.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["target"]
    params.n_ctx = request["n_ctx"]
    params.n_parallel = 1
    params.fit_params = False
    params.n_ctx_checkpoints = 0  # copies of the cache for later requests, which never come
    params.cache_ram_mib = 0
    params.n_gpu_layers = request["n_gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["n_threads"]
    flash_attention = f"LLAMA_FLASH_ATTN_TYPE_{FLASH_ATTENTION[request['flash_attention']]}"
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, flash_attention)
    params.sampling.backend_sampling = request["backend_sampling"]
    if request["head"] is not None:
        speculative = params.speculative
        speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        draft = speculative.draft
        draft.mparams.path = request["head"]
        draft.n_max = request["n_max"]
        draft.n_min = 0
        draft.p_min = request["p_min"]
        draft.backend_sampling = request["draft_backend_sampling"]
        draft.n_gpu_layers = request["n_gpu_layers"]
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = request["n_threads"]
        if request["synthetic_acceptance"]:
            speculative.synth_rates = request["synthetic_acceptance"]
    return xllamacpp.Server(params)


def complete(server: Any, request: dict[str, Any]) -> dict[str, Any]:
    """request: ids, max_tokens, temperature, top_p, top_k, min_p, seed (None: drawn), ignore_eos, backend_sampling."""
    begin = time.perf_counter()
    answer = server.handle_completions(
        {
            "prompt": request["ids"],
            "max_tokens": request["max_tokens"],
            "temperature": request["temperature"],
            "top_p": request["top_p"],
            "top_k": request["top_k"],
            "min_p": request["min_p"],
            "samplers": SAMPLERS,
            "ignore_eos": request["ignore_eos"],
            "backend_sampling": request["backend_sampling"],
            "cache_prompt": False,
            "return_tokens": True,
            "verbose": True,
            **({} if request["seed"] is None else {"seed": request["seed"] % 2**32}),
        }
    )
    if "choices" not in answer:
        raise RuntimeError(f"llama.cpp answered {answer}")
    timings = answer["timings"]
    return {
        "token_ids": answer["__verbose"]["tokens"],
        "prompt_tokens": timings["prompt_n"],
        "prompt_seconds": timings["prompt_ms"] / 1e3,
        "decode_seconds": timings["predicted_ms"] / 1e3,  # from the first token to the last, as ours
        "request_seconds": time.perf_counter() - begin,
        "drafted": timings.get("draft_n", 0),
        "accepted": timings.get("draft_n_accepted", 0),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it may be stopped when its parent dies
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = None
    for line in sys.stdin:
        request = json.loads(line)
        if server is None:
            begin = time.perf_counter()
            server = load(request)
            answer = {"load_seconds": time.perf_counter() - begin}
        else:
            answer = complete(server, request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
