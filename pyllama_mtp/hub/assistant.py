"""Which assistant belongs to a target: by what its file, its repository and its sizes say."""

import re
from collections.abc import Iterator
from typing import Any

from pyllama_mtp.errors import DownloadError, shown
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.gguf.gemma4 import SHAPES
from pyllama_mtp.hub.faults import NotThere
from pyllama_mtp.hub.names import is_repository
from pyllama_mtp.hub.repository import Repository, open_repository

OWNER = "google"
SIZES = {"e2b": "E2B", "e4b": "E4B", "12b": "12B", "26b-a4b": "26B-A4B", "31b": "31B"}  # of SHAPES, as in names
QAT = "-qat-q4_0-unquantized"  # of the checkpoints, and so of their assistants, that were trained for Q4_0
MOST_BASES = 4


def find_assistant(target: GGUFFile, repository: Repository | None) -> tuple[Repository, str]:
    """The repository of the assistant's checkpoint, and why it is that. repository: the target's.

    Raises DownloadError if none is found.
    """
    if target.architecture != "gemma4":
        raise DownloadError(
            f"{target.path.name} is a {shown(target.architecture)} model, and assistants are known for Gemma 4 alone: "
            "leave out the MTP head, or name its file"
        )
    tried: dict[str, NotThere] = {}
    for name, reason in candidates(target, repository):
        if name not in tried:
            try:
                return open_repository(name), reason
            except NotThere as error:
                tried[name] = error
    told = "; ".join(f"{name}: {error}" for name, error in tried.items())
    raise DownloadError(
        f"no assistant was found that belongs to {target.path.name}: name a repository, such as "
        f"{OWNER}/gemma-4-E2B-it-assistant, or a file ({told or 'nothing of it names its base model'})"
    )


def candidates(target: GGUFFile, repository: Repository | None) -> Iterator[tuple[str, str]]:
    """Names of repositories that may hold it, the likeliest first, each with the reason."""
    bases = [(base, f"the file's base model is {base}") for base in _bases_of_file(target.metadata)]
    if repository is not None:
        bases += [(base, f"the base model of {repository.name} is {base}") for base in repository.base_models]
        own = re.sub(r"-gguf$", "", repository.name.partition("/")[2], flags=re.IGNORECASE)
        if own.lower().startswith("gemma-4-"):
            bases.append((f"{OWNER}/{own}", f"the repository is named {repository.name}"))
    for base, reason in bases:
        if is_repository(name := f"{base}-assistant"):
            yield name, reason
    size = _size(target.metadata)
    if size is None:
        return
    clues = " ".join([base for base, _ in bases] + [str(target.metadata.get("general.name")), target.path.name])
    reason = f"the target has the sizes of Gemma 4 {size}"
    if re.search(r"(?<![a-z0-9])qat(?![a-z0-9])", clues, re.IGNORECASE):
        yield f"{OWNER}/gemma-4-{size}-it{QAT}-assistant", reason
    yield f"{OWNER}/gemma-4-{size}-it-assistant", reason


def _size(metadata: dict[str, Any]) -> str | None:
    sizes = (metadata.get("gemma4.block_count"), metadata.get("gemma4.embedding_length"))
    found = [SIZES[name] for name, shape in SHAPES.items() if (shape.n_layer, shape.n_embd) == sizes]
    return found[0] if found else None


def _bases_of_file(metadata: dict[str, Any]) -> Iterator[str]:
    """owner/repo of each general.base_model: from its address, or from its organisation and name."""
    for number in range(MOST_BASES):
        url, owner, name = (
            metadata.get(f"general.base_model.{number}.{key}") for key in ("repo_url", "organization", "name")
        )
        if isinstance(url, str) and (found := re.fullmatch(r"https://huggingface\.co/([^/]+/[^/]+)/?", url)):
            yield found[1]
        elif isinstance(owner, str) and isinstance(name, str):
            yield f"{owner.strip().replace(' ', '-')}/{name.strip().replace(' ', '-')}"
