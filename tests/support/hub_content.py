"""What repositories of the stand-in hold: the embedded pair, its assistant as a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.gguf.format import Entry
from support.demo_checkpoint import write_demo_checkpoint
from support.gguf_edit import rewrite

BASE = "google/gemma-4-demo-it"
ASSISTANT = f"{BASE}-assistant"
GGUF = "quantizer/gemma-4-demo-it-GGUF"
TARGET = "gemma-4-demo-it-Q8_0.gguf"


@dataclass(frozen=True, slots=True)
class Content:
    """target: the embedded one, with its base model named. checkpoint, other: of its assistant, and of another's."""

    target: bytes
    head: bytes
    checkpoint: dict[str, bytes]
    other: dict[str, bytes]


def hub_content(target: Path, head: Path, folder: Path) -> Content:
    base = Entry("string", f"https://huggingface.co/{BASE}")
    named = rewrite(target, folder / "target.gguf", {"general.base_model.0.repo_url": base})
    return Content(
        named.read_bytes(),
        head.read_bytes(),
        _files(write_demo_checkpoint(folder / "assistant", head)),
        _files(write_demo_checkpoint(folder / "other", head, backbone=320)),
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
