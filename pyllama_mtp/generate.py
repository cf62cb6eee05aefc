"""generate(): one call that loads a model once and keeps it."""

import os
import threading
from dataclasses import dataclass, field

from pyllama_mtp.errors import ModelLoadError, seen
from pyllama_mtp.model import Model
from pyllama_mtp.options import LoadOptions, Request, takes, values_of
from pyllama_mtp.progress import Progress, check_progress
from pyllama_mtp.stream import Stream


@dataclass(frozen=True)
class Call(Request, LoadOptions):
    """The parameters of generate(): files, and those of Model and of Model.generate."""

    model: str | os.PathLike[str] = field(kw_only=True)
    mtp_head: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    progress: bool | Progress | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_progress(self.progress)


Key = tuple[str, str | None, LoadOptions]

_models: dict[Key, Model] = {}
# One load of a model at a time; those of others go on beside it, as progress and handlers of the log may wait for them.
# A signal handler may call generate() while its own thread holds one.
_loading: dict[Key, threading.RLock] = {}


def _forget() -> None:
    """In a forked child: its models are those that it loads itself."""
    _loading.clear()
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
    the same loading options, whatever `progress` says, until `clear_cache()`. Raises what those two raise, and
    TypeError for an unknown option.
    """
    load = values_of(LoadOptions, call)
    head = None if call.mtp_head is None else _real_path(call.mtp_head)
    key = (_real_path(call.model), head, LoadOptions(**load))
    with _loading.setdefault(key, threading.RLock()):
        loaded = _models.get(key)
        if loaded is None:
            loaded = _models[key] = Model(call.model, mtp_head=call.mtp_head, progress=call.progress, **load)
    return loaded.generate(**values_of(Request, call))


def clear_cache() -> None:
    """Closes every model that generate() loaded; completions that run on them end."""
    for key in list(_models):
        with _loading.setdefault(key, threading.RLock()):
            if (model := _models.get(key)) is not None:
                model.close()
                _models.pop(key, None)
