"""generate(): one call that loads a model once and keeps it."""

import os
import threading
from dataclasses import dataclass, field

from pyllama_mtp.errors import ModelLoadError, seen
from pyllama_mtp.model import Model
from pyllama_mtp.options import LoadOptions, Request, takes, values_of
from pyllama_mtp.stream import Stream


@dataclass(frozen=True)
class Call(Request, LoadOptions):
    """The parameters of generate(): files, and those of Model and of Model.generate."""

    model: str | os.PathLike[str] = field(kw_only=True)
    mtp_head: str | os.PathLike[str] | None = field(default=None, kw_only=True)


_models: dict[tuple[str, str | None, LoadOptions], Model] = {}
_lock = threading.RLock()  # a signal handler may call generate() while its own thread holds it


def _forget() -> None:
    """In a forked child: its models are those that it loads itself."""
    global _lock
    _lock = threading.RLock()
    _models.clear()


os.register_at_fork(after_in_child=_forget)


def _real_path(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, str | os.PathLike):
        raise ModelLoadError(f"the path of a model is {seen(path)}, expected str or os.PathLike")
    try:
        return os.path.realpath(path)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"the path of a model is {seen(path)}: {error}") from error


@takes(Call)
def generate(call: Call) -> Stream:
    """Completes a prompt with a model file: `Model.generate` on a model that is loaded on the first call and kept.

    options: keyword arguments of Model and of Model.generate. A model stays loaded for calls with the same files and
    the same loading options until `clear_cache()`. Raises what those two raise, and TypeError for an unknown option.
    """
    load = values_of(LoadOptions, call)
    head = None if call.mtp_head is None else _real_path(call.mtp_head)
    key = (_real_path(call.model), head, LoadOptions(**load))
    with _lock:
        if key not in _models:
            _models[key] = Model(call.model, mtp_head=call.mtp_head, **load)
        loaded = _models[key]
    return loaded.generate(**values_of(Request, call))


def clear_cache() -> None:
    """Closes every model that generate() loaded; completions that run on them end."""
    with _lock:
        while _models:
            key, model = next(iter(_models.items()))
            model.close()
            _models.pop(key, None)
