"""MTP heads out of repositories: GGUF files as they are, checkpoints converted once and kept.

A conversion has its name from the repository, the commit and the converter, and gets it when it is complete and fits
the target. The converter is imported for it alone: this is the one module of the package that does so.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyllama_mtp.errors import ConversionError, DownloadError, IncompatibleHeadError, shown
from pyllama_mtp.gguf.checks import check_head
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.gguf.gemma4_assistant import PREFIX
from pyllama_mtp.hub.choice import choose_head, is_gguf
from pyllama_mtp.hub.repository import Repository
from pyllama_mtp.paths import get_cache_dir
from pyllama_mtp.progress import Progress

CONFIG = "config.json"
TEXTS = (CONFIG, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors.index.json")
PACKAGE = Path(__file__).parent.parent
# Name, key of the head, key of the target.
SIZES = (
    ("backbone width", "embedding_length_out", "embedding_length"),
    ("head size on full attention layers", "attention.key_length", "attention.key_length"),
    ("head size on sliding layers", "attention.key_length_swa", "attention.key_length_swa"),
    ("sliding window", "attention.sliding_window", "attention.sliding_window"),
)


def head_of(repository: Repository, pattern: str | None, target: GGUFFile, progress: bool | Progress) -> Path:
    """The head's file. Raises DownloadError, ConversionError, ModelLoadError, or IncompatibleHeadError if it is another
    target's.
    """
    if pattern is None and CONFIG in repository.files and any(_is_weights(name) for name in repository.files):
        return _converted(repository, target, progress)
    if not any(map(is_gguf, repository.files)):
        raise DownloadError(f"{repository.name} has neither a checkpoint (config.json, *.safetensors) nor a GGUF file")
    path = repository.get(choose_head(list(repository.files), pattern, repository.where), progress)[0]
    check_head(path, target)
    return path


def checkpoint_of(repository: Repository, progress: bool | Progress) -> Path:
    """The folder of the checkpoint's files. Raises DownloadError."""
    names = [name for name in sorted(repository.files) if _is_weights(name) or name in TEXTS]
    if CONFIG not in names or not any(map(_is_weights, names)):
        raise DownloadError(f"{repository.name} holds no checkpoint: expected config.json and *.safetensors")
    paths = repository.get(names, progress)
    return paths[names.index(CONFIG)].parent


def _is_weights(name: str) -> bool:
    return "/" not in name and name.startswith("model") and name.endswith(".safetensors")


def _converted(repository: Repository, target: GGUFFile, progress: bool | Progress) -> Path:
    kept = _kept(repository)
    if not kept.exists():
        _require_config(repository, target, progress)
        folder = checkpoint_of(repository, progress)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with _alone(kept):
                if not kept.exists():  # another process may have made it meanwhile
                    _convert(folder, repository, kept, target, progress is True)
        except OSError as error:
            raise ConversionError(
                f"cannot keep the converted head in {kept.parent}: {error.strerror or error}; make room there, or name "
                "another folder by PYLLAMA_MTP_CACHE"
            ) from error
    _require_fit(repository, kept, target)
    return kept


def _require_fit(repository: Repository, head: Path, target: GGUFFile) -> None:
    """Raises IncompatibleHeadError, ModelLoadError."""
    _require_sizes(repository.name, check_head(head, target).metadata, target)


def _convert(folder: Path, repository: Repository, kept: Path, target: GGUFFile, progress: bool) -> None:
    from pyllama_mtp.convert import convert_assistant

    part = kept.with_name(f"{kept.stem}.{os.getpid()}.new")
    try:
        convert_assistant(folder, part, name=repository.name.partition("/")[2], progress=progress)
        _require_fit(repository, part, target)
        os.replace(part, kept)  # convert_assistant() has written all of it to the disk
    finally:
        part.unlink(missing_ok=True)


def _kept(repository: Repository) -> Path:
    folder = get_cache_dir() / "heads" / repository.name.replace("/", "--")
    return folder / f"{repository.commit}-{converter_version()}.gguf"


@functools.cache
def converter_version() -> str:
    """A digest of the converter's source and of the tables that it writes by."""
    digest = hashlib.sha256()
    for path in sorted([*(PACKAGE / "convert").glob("*.py"), *(PACKAGE / "gguf").glob("*.py")]):
        digest.update(b"%s\0%d\0" % (path.name.encode(), path.stat().st_size) + path.read_bytes())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """One conversion at a time of a checkpoint; on file systems without locks each process makes its own."""
    with open(kept.with_suffix(".lock"), "wb") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in kept.parent.glob(f"*{kept.stem}.*.new*"):  # by a process that was killed
                left.unlink(missing_ok=True)
        yield


def _require_config(repository: Repository, target: GGUFFile, progress: bool | Progress) -> None:
    """Before the weights are downloaded. Raises IncompatibleHeadError, ConversionError."""
    from pyllama_mtp.convert.checkpoint import read_json
    from pyllama_mtp.convert.config import read_config

    config = read_config(read_json(repository.get([CONFIG], progress)[0]))
    _require_sizes(repository.name, {key: entry.value for key, entry in config.metadata().items()}, target)
    n_vocab = len(target.metadata["tokenizer.ggml.tokens"])
    if config.n_vocab != n_vocab:
        raise _another(repository.name, "vocabulary", config.n_vocab, target, n_vocab)


def _require_sizes(name: str, head: Mapping[str, Any], target: GGUFFile) -> None:
    """What csrc/drafters/gemma4/mtp_head.cpp compares again when it has the target. Raises IncompatibleHeadError."""
    for what, own, of_target in SIZES:
        theirs = target.metadata.get(f"{target.architecture}.{of_target}")
        if head.get(f"{PREFIX}.{own}") != theirs:
            raise _another(name, what, head.get(f"{PREFIX}.{own}"), target, theirs)


def _another(name: str, what: str, head: object, target: GGUFFile, expected: object) -> IncompatibleHeadError:
    return IncompatibleHeadError(
        f"{name} was made for another target: its {what} is {shown(head)}, that of {target.path.name} is "
        f"{shown(expected)}. Use the assistant that belongs to this model."
    )
