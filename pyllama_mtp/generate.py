"""generate(): one call that loads a model once and keeps it."""

import os
import threading
from typing import Any

from pyllama_mtp.model import Model, Prompt
from pyllama_mtp.options import ModelOptions
from pyllama_mtp.stream import Stream

_LOAD_OPTIONS = frozenset(ModelOptions.__dataclass_fields__) - {"num_speculative_tokens"}
_models: dict[tuple, Model] = {}
_lock = threading.Lock()


def generate(
    prompt: Prompt, *, model: str | os.PathLike[str], mtp_head: str | os.PathLike[str] | None = None, **options: Any
) -> Stream:
    """Completes a prompt with a model file: `Model.generate` on a model that is loaded on the first call and kept.

    options: any of Model's and of Model.generate's keyword arguments. A model stays loaded for calls with the same
    files and the same loading options until `clear_cache()`. Raises what those two raise, and TypeError for an unknown
    option.
    """
    load = {name: options.pop(name) for name in _LOAD_OPTIONS & options.keys()}
    key = (os.path.realpath(model), mtp_head and os.path.realpath(mtp_head), *sorted(load.items()))
    with _lock:
        if key not in _models:
            _models[key] = Model(model, mtp_head=mtp_head, **load)
        loaded = _models[key]
    return loaded.generate(prompt, **options)


def clear_cache() -> None:
    """Closes every model that generate() loaded."""
    with _lock:
        while _models:
            _models.popitem()[1].close()
