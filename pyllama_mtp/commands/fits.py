"""What fits into memory: a table over types of the KV cache, tokens of a sequence, and sequences at once."""

from collections.abc import Iterator
from dataclasses import replace

from pyllama_mtp.errors import InvalidRequestError
from pyllama_mtp.estimate import estimate, free_bytes, largest_context, on_gpu
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.names import CacheType
from pyllama_mtp.options import LoadOptions

# K, V, and both of the sliding layers: the plain ones, and those that docs/turboquant.md recommends.
KINDS: tuple[tuple[CacheType, CacheType, CacheType | None], ...] = (
    ("f16", "f16", None),
    ("q8_0", "q8_0", None),
    ("turbo4", "turbo4", "q8_0"),
    ("turbo4", "turbo3", "q8_0"),
)
CONTEXTS = (4096, 32768, 131072)
SEQUENCES = (1, 2, 4, 8)


def gibibytes(n: int) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 1 << 30 else f"{n / 2**20:.0f} MiB"


def table(target: GGUFFile, head: GGUFFile | None, load: LoadOptions) -> Iterator[str]:
    """Lines of at most 80 columns. load: its KV cache comes first, its n_ctx and max_num_seqs are in it. A model of
    another architecture than gemma4 has no table. Raises InvalidRequestError for a cache that it cannot have.
    """
    if target.architecture != "gemma4":
        yield "What fits is known of gemma4 alone."
        return
    trained = target.metadata["gemma4.context_length"]
    free = None if on_gpu(load) else free_bytes()
    sequences = sorted({*SEQUENCES, load.max_num_seqs})[-len(SEQUENCES) :]
    yield _row("KV cache (K/V, sliding)", "n_ctx", [f"{n} at once" if n == 1 else f"{n} " for n in sequences])
    for options in _kinds(load):
        name = _name(options)
        for n_ctx in _contexts(load, trained):
            totals = [estimate(target, head, replace(options, max_num_seqs=n), n_ctx).total_bytes for n in sequences]
            yield _row(name, str(n_ctx), [_cell(total, free) for total in totals])
            name = ""
        if free is not None:
            most = [_most(target, head, replace(options, max_num_seqs=n), trained, free) for n in sequences]
            yield _row("", "most", most)
    yield ""
    if free is None:
        yield "GiB in all. How much a GPU has free is not known before a model is loaded."
    else:
        yield f"GiB in all, of {gibibytes(free)} that are free; !: does not fit. most: the largest"
        yield "n_ctx that does, a tenth to spare, up to what the model was trained for."


def _cell(total: int, free: int | None) -> str:
    return f"{total / 2**30:.2f}{' ' if free is None or total <= free else '!'}"


def _row(name: str, n_ctx: str, cells: list[str]) -> str:
    width = 44 // len(cells)
    return f"{name:24}{n_ctx:>8}" + "".join(f"{cell:>{width}}" for cell in cells)


def _kinds(load: LoadOptions) -> list[LoadOptions]:
    plain = [
        replace(load, cache_type_k=k, cache_type_v=v, cache_type_k_swa=swa, cache_type_v_swa=swa) for k, v, swa in KINDS
    ]
    return [load, *(options for options in plain if _name(options) != _name(load))]


def _name(load: LoadOptions) -> str:
    name = load.cache_type_k if load.cache_type_k == load.cache_type_v else f"{load.cache_type_k}/{load.cache_type_v}"
    sliding = [load.cache_type_k_swa or load.cache_type_k, load.cache_type_v_swa or load.cache_type_v]
    if sliding == [load.cache_type_k, load.cache_type_v]:
        return name
    return f"{name}, {sliding[0] if sliding[0] == sliding[1] else '/'.join(sliding)}"


def _contexts(load: LoadOptions, trained: int) -> list[int]:
    own = {load.n_ctx} if isinstance(load.n_ctx, int) else set()
    return sorted({n for n in CONTEXTS if n < trained} | {min(trained, CONTEXTS[-1])} | own)


def _most(target: GGUFFile, head: GGUFFile | None, options: LoadOptions, trained: int, free: int) -> str:
    try:
        return f"{largest_context(target, head, options, trained, free)} "
    except InvalidRequestError:
        return "- "
