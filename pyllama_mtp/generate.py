"""generate(): one call that loads a model once and keeps it."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

from pyllama_mtp.errors import ModelLoadError
from pyllama_mtp.model import Model, Prompt
from pyllama_mtp.options import ModelOptions
from pyllama_mtp.stream import Stream


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of Model that generate() passes on."""

    n_ctx: int | None
    cache_type_k: str
    cache_type_v: str
    cache_type_k_swa: str | None
    cache_type_v_swa: str | None
    n_gpu_layers: int
    n_threads: int | None
    n_batch: int
    flash_attention: bool | None


class GenerateOptions(LoadOptions, total=False):
    """Keyword arguments of generate(): those of Model and of Model.generate."""

    max_tokens: int | None
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float] | None
    logprobs: int | None
    num_speculative_tokens: int | str | None
    acceptance: str
    synthetic_acceptance: Sequence[float]
    trace: bool


_models: dict[tuple[str, str | None, ModelOptions], Model] = {}
_lock = threading.Lock()


def _real_path(path: str | os.PathLike[str]) -> str:
    try:
        return os.path.realpath(path)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"the path of a model is {path!r}: {error}") from error


def generate(
    prompt: Prompt,
    *,
    model: str | os.PathLike[str],
    mtp_head: str | os.PathLike[str] | None = None,
    **options: Unpack[GenerateOptions],
) -> Stream:
    """Completes a prompt with a model file: `Model.generate` on a model that is loaded on the first call and kept.

    options: keyword arguments of Model and of Model.generate. A model stays loaded for calls with the same files and
    the same loading options until `clear_cache()`. Raises what those two raise, and TypeError for an unknown option.
    """
    unknown = options.keys() - GenerateOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"generate() got unknown options: {', '.join(sorted(unknown))}")
    load = {name: value for name, value in options.items() if name in LoadOptions.__annotations__}
    request = {name: value for name, value in options.items() if name not in LoadOptions.__annotations__}
    load_options = ModelOptions(**load)
    key = (_real_path(model), None if mtp_head is None else _real_path(mtp_head), load_options)
    with _lock:
        if key not in _models:
            _models[key] = Model(model, mtp_head=mtp_head, **load)
        loaded = _models[key]
    return loaded.generate(prompt, **request)


def clear_cache() -> None:
    """Closes every model that generate() loaded; completions that run on them end."""
    with _lock:
        while _models:
            _models.popitem()[1].close()
