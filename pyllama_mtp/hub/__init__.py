"""Files of models out of the Hugging Face hub: find_files(), for a target and its MTP head; find_checkpoint(), for the
converter. See docs/models.md.

Nothing that a repository says is trusted: names, sizes and redirects are checked before anything is written, contents
after. huggingface_hub is imported when something is asked of the hub, and only then.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.progress import Progress


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """mtp_head: None if no head was asked for. head_source: where it is from and why it was taken, for people."""

    target: Path
    mtp_head: Path | None
    head_source: str | None = None


def find_files(
    target: str | os.PathLike[str] | None,
    *,
    hf: str | None = None,
    mtp_head: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    progress: bool | Progress = False,
) -> ModelFiles:
    """The files of a model, downloaded if they are not there yet.

    target: a file. hf: in its place "owner/repo", or "owner/repo:QUANT" with a quantisation such as Q4_0 or a file's
    pattern such as *Q4_0.gguf; revision is its branch, tag or commit. mtp_head: a file; "owner/repo", with :QUANT if
    it holds GGUF files; "auto": the assistant that belongs to the target; or None. A head's checkpoint is converted
    once and kept. progress: True shows bars on a terminal and says what is taken; a function is called with bytes
    done, bytes in all, and what is being done.

    Raises DownloadError, InvalidRequestError, ConversionError, and for heads ModelLoadError for a target that is none
    and IncompatibleHeadError for a head of another target.
    """
    from pyllama_mtp.hub.finding import find

    return find(target, hf, mtp_head, revision, progress)


def find_checkpoint(name_or_folder: str, *, revision: str | None = None, progress: bool = False) -> Path:
    """The folder of an assistant's checkpoint: one that is there, or that of the repository "owner/repo", downloaded.
    Raises DownloadError.
    """
    from pyllama_mtp.hub.finding import checkpoint

    return checkpoint(name_or_folder, revision, progress)
