"""The command `pyllama-mtp info`: what a model's files say of themselves, and what of it fits into memory.

Headers alone are read: no weights, and no model is loaded.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

from pyllama_mtp.commands.fits import gibibytes, table
from pyllama_mtp.commands.model import (
    COMPUTED,
    LOADED,
    add_files,
    add_generation_config,
    add_loading,
    find_model,
    load_options,
)
from pyllama_mtp.commands.parser import Commands
from pyllama_mtp.errors import shown
from pyllama_mtp.estimate import free_bytes, on_gpu, weights
from pyllama_mtp.gguf.checks import check_head, check_target
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.options import LoadOptions
from pyllama_mtp.sampling import NEUTRAL, sampling_of

DESCRIPTION = """Says what a model is, and which contexts, numbers of texts at once and types of the KV cache fit into
the memory that is free. It reads the files' headers and loads nothing."""

EXAMPLES = """examples:
  pyllama-mtp info model.gguf --mtp-head assistant.gguf
  pyllama-mtp info model.gguf --n-ctx 32768 --max-num-seqs 8
  pyllama-mtp info model.gguf --cache-type-k turbo4 --cache-type-v turbo3"""

_OPTIONS = frozenset(option.name for option in fields(LoadOptions))
_SIZES = {  # name in the header, and what is said
    "context_length": "trained for {} tokens",
    "block_count": "{} layers",
    "embedding_length": "{} wide",
    "attention.sliding_window": "sliding window {}",
}


def add_parser(commands: Commands) -> None:
    """Adds `info` to the command line."""
    about = "say what a model is, and what fits into memory"
    parser = commands.add_parser("info", help=about, description=DESCRIPTION, epilog=EXAMPLES)
    parser.set_defaults(action=info)
    add_files(parser)
    add_loading(parser, LOADED + ("max_num_seqs",) + COMPUTED)
    add_generation_config(parser)


def info(args: argparse.Namespace) -> int:
    """Runs the command. Raises PyllamaMtpError."""
    load = LoadOptions(**{name: value for name, value in load_options(args).items() if name in _OPTIONS})
    files = find_model(args)
    target = check_target(files.target)
    head = None if files.mtp_head is None else check_head(files.mtp_head, target)
    rows = list(_rows(target, head, load))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    print("\n".join([*lines, "", *table(target, head, load)]))
    return 0


def _rows(target: GGUFFile, head: GGUFFile | None, load: LoadOptions) -> Iterator[tuple[str, str]]:
    metadata, architecture = target.metadata, target.architecture
    yield "file", shown(target.path)
    yield "name", shown(metadata.get("general.name", target.path.stem))
    sizes = [(text, metadata.get(f"{architecture}.{key}")) for key, text in _SIZES.items()]
    told = [text.format(value) for text, value in sizes if isinstance(value, int)]
    yield "architecture", ", ".join([shown(architecture), *told])
    yield "vocabulary", f"{len(metadata['tokenizer.ggml.tokens'])} tokens"
    yield "weights", _weights(target)
    if head is None:
        yield "MTP head", "none: --mtp-head names one"
    else:
        yield "MTP head", f"{shown(head.path)}, {_weights(head)}, {_lm_head(head)}"
    yield "chat template", "yes" if isinstance(metadata.get("tokenizer.chat_template"), str) else "none: run --raw"
    own = load.sampling_defaults == "model"
    yield "sampling", str(sampling_of(target) if own else NEUTRAL)
    yield "memory", f"{gibibytes(free_bytes())} free" + (", without a GPU's own" if on_gpu(load) else "")


def _weights(header: GGUFFile) -> str:
    """Their size and types, the one with the most bytes first."""
    sizes: Counter[str] = Counter()
    for tensor in header.tensors.values():
        sizes[tensor.type] += tensor.n_bytes
    n = sum(math.prod(tensor.shape) for tensor in header.tensors.values())
    kinds = ", ".join(kind for kind, _ in sizes.most_common(4))
    return f"{gibibytes(weights(header))}, {_count(n)} parameters, {kinds}"


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} billion" if n >= 1e8 else f"{n / 1e6:.2f} million"


def _lm_head(head: GGUFFile) -> str:
    """In whichever layout: all have the centroids under a name that says so."""
    has_centroids = any("centroids" in name for name in (*head.metadata, *head.tensors))
    return f"{'centroid' if has_centroids else 'dense'} LM head"
