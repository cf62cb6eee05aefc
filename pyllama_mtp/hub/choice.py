"""Which GGUF file of several is meant, by the rules of llama.cpp's -hf (its common/download.cpp)."""

import fnmatch
import re
from collections.abc import Iterable, Sequence

from pyllama_mtp.errors import DownloadError, shown

PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")  # in this order, where no quantisation is named
MAX_PARTS = 4096
MOST_NAMED = 24  # files in a message

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
_NO_MODELS = ("mmproj", "imatrix", "eagle3-", "dflash-", "dspark-")
_HEAD = re.compile(r"mtp-|[-_.]mtp[-_.]|assistant", re.IGNORECASE)


def base_name(path: str) -> str:
    return path.rpartition("/")[2]


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def heads_among(paths: Iterable[str]) -> list[str]:
    """The GGUF files that are MTP heads by their names."""
    return sorted(path for path in _models(paths) if _HEAD.search(base_name(path)))


def choose_target(paths: Sequence[str], pattern: str | None, where: str) -> list[str]:
    """The files of one model, all of its parts in their order. Heads, projectors and the like are never taken.

    pattern: a quantisation such as Q4_0, in letters of any case; or a file's name or pattern, such as *-Q4_0.gguf.
    None: the first of PREFERRED, else the first file by name. Raises DownloadError, which lists what is there, if
    nothing or more than one model is meant.
    """
    models = _models(paths)
    plain = [path for path in models if not _HEAD.search(base_name(path))]
    return _choose(plain or models, pattern, where, "model")


def choose_head(paths: Sequence[str], pattern: str | None, where: str) -> list[str]:
    """choose_target() for a repository of heads, whose files need not say that they are."""
    models = _models(paths)
    return _choose(heads_among(models) or models, pattern, where, "MTP head")


def _models(paths: Iterable[str]) -> list[str]:
    return sorted(p for p in paths if is_gguf(p) and not any(mark in base_name(p).lower() for mark in _NO_MODELS))


def _choose(paths: list[str], pattern: str | None, where: str, what: str) -> list[str]:
    models = _whole_models(paths)
    if not models:
        raise DownloadError(f"{where} has no GGUF file of a {what}: name a repository of GGUF files")
    if pattern is None:
        found = next((f for quant in PREFERRED if (f := _of_quantisation(models, quant))), [sorted(models)[0]])
    elif is_gguf(pattern) or any(c in pattern for c in "*?["):
        found = [first for first in models if _matches(first, pattern)]
    else:
        found = _of_quantisation(models, pattern)
    if len(found) != 1:
        meant = "no" if not found else "more than one"
        named = found or sorted(models)
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        raise DownloadError(
            f"{where} has {meant} {what} for {shown(repr(pattern or 'its usual quantisation'))}: "
            f"name one of {', '.join(map(shown, named[:MOST_NAMED]))}{more}"
        )
    return _parts(found[0], models[found[0]], where)


def _whole_models(paths: list[str]) -> dict[str, list[str]]:
    """First file -> all files."""
    models: dict[str, list[str]] = {}
    for path in paths:
        part = _PART.fullmatch(path)
        models.setdefault(f"{part[1]}-00001-of-{part[3]}.gguf" if part else path, []).append(path)
    return models


def _of_quantisation(models: Iterable[str], quant: str) -> list[str]:
    """Of several, those that are not a variant of it, such as UD-Q4_K_M of Q4_K_M."""
    pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}[.-]", re.IGNORECASE)
    found = [first for first in models if pattern.search(base_name(first))]
    found = found or [first for first in models if re.search(rf"(?:^|/){re.escape(quant)}/", first, re.IGNORECASE)]
    plain = [first for first in found if f"ud-{quant}".lower() not in first.lower()]
    return plain or found


def _matches(path: str, pattern: str) -> bool:
    names = (path, base_name(path))
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in names)


def _parts(first: str, files: list[str], where: str) -> list[str]:
    part = _PART.fullmatch(first)
    if part is None:
        return files
    count = int(part[3])
    if not 1 <= count <= MAX_PARTS:
        raise DownloadError(f"{where} says that {shown(first)} is one of {count} files, expected 1..{MAX_PARTS}")
    by_number = {int(m[2]): path for path in files if (m := _PART.fullmatch(path))}
    missing = [number for number in range(1, count + 1) if number not in by_number]
    if missing:
        raise DownloadError(f"{where} lacks part {missing[0]} of {count} of {shown(first)}")
    return [by_number[number] for number in range(1, count + 1)]
