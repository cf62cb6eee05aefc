"""What a model will take of memory, from the headers of its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pyllama_mtp._library import HAS_CUDA
from pyllama_mtp.errors import InvalidRequestError, seen
from pyllama_mtp.gguf.format import GGUFFile, tensor_bytes
from pyllama_mtp.gguf.hyperparameters import HyperParameters
from pyllama_mtp.names import CacheType
from pyllama_mtp.options import LoadOptions

PAGE_CELLS = 64  # kernels/attention/pages.h
CELL_MULTIPLE = 256  # llama.cpp rounds the number of cells up
ROUND_ROWS = 17  # of a sequence at most: 16 drafts and one
LEAST_ROWS = 32
REPACKED = ("q4_0", "q4_k", "iq4_nl", "mxfp4")  # by ggml, on CPUs with AVX2
TURBO_BYTES = {"turbo4": 34, "turbo3": 26, "turbo2": 18}  # of 64 values
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
SPARE = 0.9  # of what is free: the share that n_ctx="max" takes


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. target_bytes, head_bytes: weights in memory, which on a CPU may be repacked copies of those in the file.
    embedding_bytes: at most, of tables of which a token reads a row from the file: a row takes memory once it was read,
    which the system may take back. cache_bytes: the KV cache if all of its cells are in use; on a CPU those of no token
    take none. prefix_cache_bytes: at most, of what is saved for later prompts. compute_bytes: scratch, roughly. n_ctx:
    tokens of a sequence.
    """

    n_ctx: int
    target_bytes: int
    embedding_bytes: int
    head_bytes: int
    cache_bytes: int
    prefix_cache_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        weights = self.target_bytes + self.embedding_bytes + self.head_bytes
        return weights + self.cache_bytes + self.prefix_cache_bytes + self.compute_bytes


def on_gpu(options: LoadOptions) -> bool:
    """Whether layers may be offloaded."""
    return HAS_CUDA and options.n_gpu_layers != 0


def n_cells(options: LoadOptions, n_ctx: int) -> int:
    """Tokens that the KV cache holds for all sequences together. On a CPU cells that no token was in take no memory:
    there are enough for all. A GPU's are allocated at once, so there are as many as for one.
    """
    return n_ctx if on_gpu(options) else n_ctx * options.max_num_seqs


def padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def row_bytes(cache_type: str, n: int) -> int:
    """Of n values of one cell. Raises InvalidRequestError for a type that a cache cannot have, or not with n values."""
    if cache_type not in get_args(CacheType):
        raise InvalidRequestError(
            f"the type of a KV cache is {seen(cache_type)}, expected one of {', '.join(get_args(CacheType))}"
        )
    try:
        return n // 64 * TURBO_BYTES[cache_type] if cache_type in TURBO_BYTES else tensor_bytes(cache_type, (n,))
    except ValueError as error:
        raise InvalidRequestError(f"a KV cache in {cache_type} does not fit this model: {error}") from error


def estimate(target: GGUFFile, head: GGUFFile | None, options: LoadOptions, n_ctx: int) -> MemoryEstimate:
    """Raises InvalidRequestError for another architecture than gemma4, and ModelLoadError for damaged headers."""
    if target.architecture != "gemma4":
        raise InvalidRequestError(
            f"the memory of a {target.architecture} model cannot be estimated, only that of gemma4: load it"
        )
    p = HyperParameters(target, "gemma4")
    n_layer = p.integer("block_count", 1, 1 << 10)
    heads = p.integers("attention.head_count", 1, 1 << 16, n_layer)
    heads_kv = p.integers("attention.head_count_kv", 1, 1 << 16, n_layer, default=heads[0])
    owners = n_layer - p.integer("attention.shared_kv_layers", 0, n_layer, default=0)
    sliding = p.flags("attention.sliding_window_pattern", n_layer)
    n_batch = max(options.n_batch, ROUND_ROWS * options.max_num_seqs, LEAST_ROWS)
    n_full = padded(n_cells(options, n_ctx), CELL_MULTIPLE)
    window = padded(p.integer("attention.sliding_window", 1, 1 << 30), PAGE_CELLS) + PAGE_CELLS
    touched = min(options.max_num_seqs, n_batch)
    batch_cells = (touched + (n_batch - touched) // PAGE_CELLS) * PAGE_CELLS
    n_sliding = options.max_num_seqs * window + batch_cells
    n_sliding = min(padded(n_sliding, CELL_MULTIPLE) if on_gpu(options) else n_sliding, n_full)
    cache_bytes = 0
    for layer in range(owners):
        suffix = "_swa" if sliding[layer] else ""
        types = [
            (sliding[layer] and getattr(options, f"cache_type_{part}_swa")) or getattr(options, f"cache_type_{part}")
            for part in "kv"
        ]
        sizes = [p.integer(f"attention.{part}_length{suffix}", 1, 1 << 16) for part in ("key", "value")]
        cell = sum(row_bytes(kind, heads_kv[layer] * size) for kind, size in zip(types, sizes, strict=True))
        cache_bytes += cell * (n_sliding if sliding[layer] else n_full)
    n_embd = p.integer("embedding_length", 1, 1 << 20)
    n_ff = max(p.integers("feed_forward_length", 1, 1 << 24, n_layer))
    n_vocab = target.tensors["token_embd.weight"].shape[1]
    logits = max(ROUND_ROWS * options.max_num_seqs, LEAST_ROWS) * n_vocab
    compute_bytes = 4 * (logits + n_batch * (2 * n_ff + 6 * n_embd)) + 2 * n_batch * (n_full + n_sliding)
    target_bytes, embedding_bytes = weights_in_memory(target, options)
    return MemoryEstimate(
        n_ctx=n_ctx,
        target_bytes=target_bytes,
        embedding_bytes=embedding_bytes,
        head_bytes=0 if head is None else weights(head),
        cache_bytes=cache_bytes,
        prefix_cache_bytes=options.prefix_cache_bytes,
        compute_bytes=compute_bytes,
    )


def weights(header: GGUFFile) -> int:
    return sum(tensor_bytes(tensor.type, tensor.shape) for tensor in header.tensors.values())


def weights_in_memory(target: GGUFFile, options: LoadOptions) -> tuple[int, int]:
    """Bytes of a gemma4 target that every token reads, and of tables of which it reads a row."""
    sizes = {name: tensor_bytes(tensor.type, tensor.shape) for name, tensor in target.tensors.items()}
    embedding = target.tensors["token_embd.weight"]
    tables = sizes.get("per_layer_token_embd.weight", 0)
    copied = 0
    if "output.weight" in sizes:
        tables += sizes["token_embd.weight"]
    elif on_gpu(options) or (embedding.type in REPACKED and embedding.shape[1] % 8 == 0):
        tables += sizes["token_embd.weight"]
        copied = sizes["token_embd.weight"]  # which is the output matrix too
    return sum(sizes.values()) - tables + copied, tables


def free_bytes() -> int:
    """Memory that this process may still take: what the system has, within the control groups' limits."""
    free = 1 << 62
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            free = int(value.split()[0]) << 10
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (CGROUP / limit).read_text().strip(), int((CGROUP / used).read_text())
        except (OSError, ValueError):
            continue
        if most.isdigit():
            free = min(free, max(0, int(most) - now))
    return free


def largest_context(target: GGUFFile, head: GGUFFile | None, options: LoadOptions, trained: int, free: int) -> int:
    """The most tokens a sequence, of those that the model was trained with, that fit into `free` bytes.

    Raises InvalidRequestError if not even a page does.
    """
    low, high = 0, max(1, trained // PAGE_CELLS)
    while low < high:
        middle = (low + high + 1) // 2
        fits = estimate(target, head, options, middle * PAGE_CELLS).total_bytes <= SPARE * free
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        needed = estimate(target, head, options, PAGE_CELLS).total_bytes
        raise InvalidRequestError(f'n_ctx="max": {free} bytes are free, the least that the model takes is {needed}')
    return min(low * PAGE_CELLS, trained)
