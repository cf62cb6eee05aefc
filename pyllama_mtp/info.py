"""What a loaded model says of itself."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from pyllama_mtp._library import BUILD, DRAFTERS
from pyllama_mtp._native import NativeModel
from pyllama_mtp.names import DrafterName
from pyllama_mtp.options import ModelOptions
from pyllama_mtp.sampling import Sampling


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What was loaded. Counts are in tokens, layers or values; sizes in bytes.

    target_bytes, head_bytes: weights in memory, repacked for the CPU or on a device; what of the file was copied takes
    none. embedding_bytes: tables of which a token reads a row from the file: rows take memory once they were read.
    n_ctx: most tokens of prompt and completion together. max_num_seqs: completions that are decoded together. n_cells:
    tokens that the KV cache holds for all of them together. prefix_cache_bytes: at most, of what is saved for later
    prompts besides; Model.usage says how much it is. drafter: the one in use, never "auto". n_swa: sliding
    window, 0 if there is none. head_n_centroids: clusters of the head's centroid LM head, of which head_top_k are
    scored for a token; 0 for a dense LM head or no head. batch_invariant: a row of logits has the same bits alone and
    among the drafts of a round, so greedy text and the text of a seed are the same bytes with drafting on and off; else
    batch_dependence says why not. sampling: what completions take for the options that they leave out. build: of the
    library, for which CPUs ("native", "x86-64-v3", ...; PYLLAMA_MTP_BUILD names another).
    """

    name: str
    architecture: str
    placement: str
    n_vocab: int
    n_ctx: int
    max_num_seqs: int
    n_cells: int
    drafter: DrafterName
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_swa: int
    n_threads: int
    n_params: int
    has_head: bool
    head_n_centroids: int
    head_top_k: int
    flash_attention: bool
    batch_invariant: bool
    batch_dependence: str
    cache_type_k: str
    cache_type_v: str
    cache_type_k_swa: str
    cache_type_v_swa: str
    target_bytes: int
    embedding_bytes: int
    head_bytes: int
    cache_bytes: int
    prefix_cache_bytes: int
    compute_bytes: int
    sampling: Sampling
    build: str


class SpecialTokens(NamedTuple):
    """Ids, -1 where there is none. add_bos: prompts begin with bos."""

    bos: int
    eos: int
    add_bos: bool


def describe(
    native: NativeModel, stem: str, options: ModelOptions, sampling: Sampling
) -> tuple[ModelInfo, SpecialTokens]:
    """stem: the name of a model that has none in its file."""
    fields: dict[str, Any] = dict(native.info())
    special = SpecialTokens(fields.pop("token_bos"), fields.pop("token_eos"), bool(fields.pop("add_bos")))
    for name in ("has_head", "flash_attention", "batch_invariant"):
        fields[name] = bool(fields[name])
    fields["drafter"] = DRAFTERS[fields["drafter"]]
    info = ModelInfo(
        name=native.metadata("general.name") or stem,
        architecture=native.metadata("general.architecture") or "unknown",
        placement=native.placement(),
        batch_dependence=native.batch_dependence(),
        prefix_cache_bytes=options.prefix_cache_bytes,
        cache_type_k=options.cache_type_k,
        cache_type_v=options.cache_type_v,
        cache_type_k_swa=options.cache_type_k_swa or options.cache_type_k,
        cache_type_v_swa=options.cache_type_v_swa or options.cache_type_v,
        sampling=sampling,
        build=BUILD.name,
        **fields,
    )
    return info, special
