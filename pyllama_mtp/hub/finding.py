"""From what a caller names to files: paths, repositories, "auto"."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.errors import InvalidRequestError, ModelLoadError, seen, shown
from pyllama_mtp.gguf.checks import check_target
from pyllama_mtp.hub import ModelFiles
from pyllama_mtp.hub.assistant import find_assistant
from pyllama_mtp.hub.choice import choose_head, choose_target, heads_among, is_gguf
from pyllama_mtp.hub.heads import checkpoint_of, head_of
from pyllama_mtp.hub.names import is_repository, wanted
from pyllama_mtp.hub.repository import Repository, open_repository
from pyllama_mtp.progress import Progress, check_progress

AUTO = "auto"
TOKENIZER_CONFIG = "tokenizer_config.json"
MOST_LISTED = 10_000  # files of a local folder

StrPath = str | os.PathLike[str]
logger = logging.getLogger("pyllama_mtp")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """tokenizer_config: the file of that name, if there is one."""

    files: ModelFiles
    tokenizer_config: Path | None


def find(
    target: StrPath | None, hf: str | None, mtp_head: StrPath | None, revision: str | None, progress: bool | Progress
) -> ModelFiles:
    """find_files()."""
    check_progress(progress)
    if (target is None) == (hf is None):
        raise InvalidRequestError("a model is named by a file or by a repository (hf): give one of the two")
    if hf is None:
        if revision is not None:
            raise InvalidRequestError(f"revision is {seen(revision)}, which a file has not: name a repository by hf")
        return _with_head(_path(target), mtp_head, None, [], progress)
    if not isinstance(hf, str):
        raise InvalidRequestError(f"hf is {seen(hf)}, expected a text such as owner/repo:Q4_0")
    named = wanted(hf)
    return _of_repository(open_repository(named.repository, revision), named.pattern, mtp_head, progress)


def find_pretrained(
    name: StrPath,
    pattern: str | None,
    mtp_head: StrPath | None,
    revision: str | None,
    progress: bool | Progress,
) -> Pretrained:
    """What Model.from_pretrained loads, of a repository or of a local folder, which wins."""
    check_progress(progress)
    if os.path.isdir(_path(name)):
        return _of_folder(_path(name), pattern, mtp_head, progress)
    named = wanted(str(name))
    if pattern is not None and named.pattern is not None:
        raise InvalidRequestError(f"{seen(name)} and file_pattern {seen(pattern)} both name a file: give one of them")
    repository = open_repository(named.repository, revision)
    files = _of_repository(repository, pattern or named.pattern, mtp_head, progress)
    config = repository.get([TOKENIZER_CONFIG])[0] if TOKENIZER_CONFIG in repository.files else None
    return Pretrained(files, config)


def checkpoint(name_or_folder: str, revision: str | None, progress: bool) -> Path:
    """find_checkpoint()."""
    if os.path.isdir(name_or_folder):
        return Path(name_or_folder)
    return checkpoint_of(open_repository(wanted(name_or_folder).repository, revision), progress)


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise ModelLoadError(f"the path of a model is {seen(value)}, expected str or os.PathLike")
    return Path(value)


def _of_repository(
    repository: Repository, pattern: str | None, mtp_head: StrPath | None, progress: bool | Progress
) -> ModelFiles:
    names = choose_target(list(repository.files), pattern, repository.where)
    _say(f"target: {names[0]} of {repository.name} at {repository.commit[:12]}", progress)
    return _with_head(repository.get(names, progress)[0], mtp_head, repository, [], progress)


def _of_folder(folder: Path, pattern: str | None, mtp_head: StrPath | None, progress: bool | Progress) -> Pretrained:
    names = [path.relative_to(folder).as_posix() for path in _files_below(folder)]
    target = folder / choose_target(names, pattern, str(folder))[0]
    own = [folder / name for name in heads_among(names)]
    config = folder / TOKENIZER_CONFIG
    return Pretrained(_with_head(target, mtp_head, None, own, progress), config if config.is_file() else None)


def _files_below(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*.[gG][gG][uU][fF]"):
        found.append(path)
        if len(found) > MOST_LISTED:
            raise ModelLoadError(f"{folder} has more than {MOST_LISTED} GGUF files: name one of them")
    return found


def _with_head(
    target: Path, mtp_head: StrPath | None, repository: Repository | None, own: list[Path], progress: bool | Progress
) -> ModelFiles:
    """own: heads that lie beside the target."""
    if mtp_head is None:
        return ModelFiles(target, None)
    if not isinstance(mtp_head, str) or (mtp_head != AUTO and (os.path.exists(mtp_head) or not _names_one(mtp_head))):
        return ModelFiles(target, _path(mtp_head))
    header = check_target(target)
    pattern = None
    if mtp_head != AUTO:
        named = wanted(mtp_head)
        found, pattern, reason = open_repository(named.repository), named.pattern, "named by the caller"
    elif own:
        path = Path(choose_head([str(path) for path in own], None, str(target.parent))[0])
        return ModelFiles(target, path, f"{path} (it lies beside the target)")
    else:
        found, reason = find_assistant(header, repository)
    source = f"{found.name} at {found.commit[:12]} ({reason})"
    _say(f"MTP head: {source}", progress)
    return ModelFiles(target, head_of(found, pattern, header, progress), source)


def _names_one(text: str) -> bool:
    """Whether a text that is no file's name means a repository."""
    return is_repository(text.partition(":")[0]) and not is_gguf(text.partition(":")[0])


def _say(text: str, progress: bool | Progress) -> None:
    logger.info("%s", text)
    if progress is True and not logger.isEnabledFor(logging.INFO):
        print(shown(text), file=sys.stderr)
