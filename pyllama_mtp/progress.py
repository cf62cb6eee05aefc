"""How far a load is: a caller's function, or a line on the terminal."""

import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pyllama_mtp.errors import InvalidRequestError, seen

# Bytes done, bytes in all, and what is being done: "target", "context" or "MTP head".
Progress = Callable[[int, int, str], None]

_STAGES = ("target", "context", "MTP head")  # by pmtp_stage


def check_progress(progress: object) -> None:
    """Raises InvalidRequestError unless progress is True, False, None or callable."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InvalidRequestError(f"progress is {seen(progress)}, expected True, False, None or a function")


def load_meter(progress: object, target: Path, head: str | None) -> Callable[[int, float], None] | None:
    """What turns a stage of a load and its share into calls of `progress`; None if there is nobody to tell. Raises what
    check_progress() raises.
    """
    check_progress(progress)
    if progress is None or progress is False:
        return None
    if progress is True:
        if not sys.stderr.isatty():
            return None
        tell: Progress = _Line()
    else:
        tell = cast(Progress, progress)
    sizes = (_bytes_of(target), 0, 0 if head is None else os.path.getsize(head))

    def meter(stage: int, share: float) -> None:
        done = sum(sizes[:stage]) + int(sizes[stage] * min(1.0, share))
        tell(done, sum(sizes), _STAGES[stage])

    return meter


def _bytes_of(target: Path) -> int:
    """Of all files of a model that may be split."""
    name, separator, rest = target.name.partition("-00001-of-")
    paths = target.parent.glob(f"{glob.escape(name)}-*-of-{rest}") if separator else [target]
    return sum(path.stat().st_size for path in paths)


class _Line:
    """One line on the terminal, written over and over."""

    def __call__(self, done: int, total: int, what: str) -> None:
        end = "\n" if done >= total else ""
        line = f"\rloading {what}: {done / 2**20:,.0f} of {total / 2**20:,.0f} MiB"
        print(f"{line:40}", end=end, file=sys.stderr, flush=True)
