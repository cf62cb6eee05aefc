"""`pyllama-mtp bench --kv`: what types of the KV cache cost in quality and give in memory and speed.

Everything is compared with an f16 cache of the same target, on a text that the caller names.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pyllama_mtp.errors import BenchmarkError, InvalidRequestError
from pyllama_mtp.model import Model
from pyllama_mtp.names import CacheType

PIECE = 1024  # tokens of context, at most, behind a compared distribution
CONTEXTS = (60, 600, 2300)  # tokens, where one-token and four-token batches are compared
PROMPT = 200  # tokens, of completions that are timed
DRAFTS = 3
STRIDE = 4  # tokens between contexts after which drafts are counted
BLOCK = 128  # tokens of a block, whose mean counts as one observation
N_PLAIN = 3  # completions timed without drafts


@dataclass(frozen=True, slots=True)
class CacheTypes:
    """Types of K and V, and of the sliding layers' (None: the same)."""

    k: CacheType
    v: CacheType
    k_swa: CacheType | None = None
    v_swa: CacheType | None = None

    def __str__(self) -> str:
        return f"{self.k}, {self.v}" + (f" ({self.k_swa}, {self.v_swa})" if self.k_swa else "")


REFERENCE = CacheTypes("f16", "f16")


@dataclass(frozen=True, slots=True)
class Row:
    """What types cost. kl: of the next-token distribution from f16's, nats, mean over tokens, and its standard error;
    top_1: share of tokens whose most probable successor is the same; acceptance: share of three greedy drafts that are
    accepted, after every fourth token of the text, acceptance_rates: at each position, with all before it,
    acceptance_change: less that of f16 after the same tokens, and its standard error, and the number of drafts
    (None, 0 without a head); batch_errors: at each of CONTEXTS that the text is long enough for, the largest
    difference of a logit, over the logits' standard deviation, between evaluating one token and four tokens at a time;
    tokens_per_second: without drafts. Standard errors are over blocks of 128 tokens, None where there are not two."""

    types: CacheTypes
    kl: float
    kl_error: float | None
    top_1: float
    acceptance: float | None
    acceptance_rates: tuple[float, ...]
    acceptance_change: float | None
    acceptance_change_error: float | None
    drafted: int
    batch_errors: tuple[float, ...]
    cache_bytes: int
    tokens_per_second: float


def parse_cache_types(text: str) -> list[CacheTypes]:
    """ "q4_0,turbo4/turbo3,turbo4/turbo3/q8_0/q8_0": K/V, or K/V/sliding K/sliding V. Raises InvalidRequestError."""
    found = []
    for part in text.split(","):
        names = cast(list[CacheType], [name.strip() for name in part.split("/")])  # the engine refuses others
        if len(names) not in (1, 2, 4) or not all(names):
            raise InvalidRequestError(
                f"cache types are {part!r}, expected such as q4_0, turbo4/turbo3 (K/V) or turbo4/turbo3/q8_0/q8_0 "
                "(K/V/sliding K/sliding V)"
            )
        found.append(CacheTypes(*(names * 2 if len(names) == 1 else names)))
    return found


def read_texts(paths: Sequence[Path]) -> list[str]:
    """Each file's text. Raises BenchmarkError."""
    try:
        return [path.read_text(encoding="utf-8") for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"cannot read the text: {error}") from error


def compare(
    target: Path,
    head: Path | None,
    types: Sequence[CacheTypes],
    texts: Sequence[str],
    n_tokens: int,
    *,
    n_threads: int | None = None,
    n_gpu_layers: int = -1,
) -> Iterator[Row]:
    """One row for the f16 cache, then one for each of `types`. n_tokens: compared, of all texts in a row.
    Raises BenchmarkError if the texts are too short."""
    n_ctx = max(PIECE + DRAFTS + 2, CONTEXTS[-1])
    reference = reference_accepted = None
    for t in (REFERENCE, *(t for t in types if t != REFERENCE)):
        with Model(
            target,
            mtp_head=head,
            n_ctx=n_ctx,
            cache_type_k=t.k,
            cache_type_v=t.v,
            cache_type_k_swa=t.k_swa,
            cache_type_v_swa=t.v_swa,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
        ) as model:
            ids = model.tokenize("\n".join(texts))[:n_tokens]
            if len(ids) < n_tokens:
                raise BenchmarkError(f"the text has {len(ids)} tokens, expected {n_tokens}: name more files")
            pieces = [ids[i : i + PIECE] for i in range(0, n_tokens, PIECE)]
            log_p = _log_probabilities(model, pieces)
            reference = log_p if reference is None else reference
            kl = (np.exp(reference) * (reference - log_p)).sum(axis=1)
            accepted = accepted_after(model, pieces, DRAFTS, STRIDE) if head is not None else np.zeros(0)
            reference_accepted = accepted if reference_accepted is None else reference_accepted
            change = (accepted - reference_accepted) / DRAFTS
            yield Row(
                types=t,
                kl=float(kl.mean()),
                kl_error=standard_error(kl, BLOCK),
                top_1=float((log_p.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                acceptance=float(accepted.mean()) / DRAFTS if len(accepted) else None,
                acceptance_rates=tuple(float((accepted > i).mean()) for i in range(DRAFTS)) if len(accepted) else (),
                acceptance_change=float(change.mean()) if len(accepted) else None,
                acceptance_change_error=standard_error(change, BLOCK // STRIDE),
                drafted=DRAFTS * len(accepted),
                batch_errors=tuple(_batch_error(model, ids[:n]) for n in CONTEXTS if n <= len(ids)),
                cache_bytes=model.info.cache_bytes,
                tokens_per_second=_plain_speed(model, texts),
            )


def accepted_after(model: Model, texts: Sequence[list[int]], drafts: int, stride: int) -> npt.NDArray[np.int_]:
    """int [n]: of `drafts` greedy drafts after every stride-th token of the texts, the accepted ones. The texts are
    given, so models and caches can be compared context by context."""
    accepted = []
    for ids in texts:
        for end in range(stride, len(ids) + 1, stride):
            stream = model.generate(
                ids[:end],
                max_tokens=drafts + 2,
                num_speculative_tokens=drafts,
                temperature=0,
                ignore_eos=True,
                trace=True,
            )
            stream.text()
            accepted.append(stream.rounds[0].accepted)
    return np.array(accepted)


def standard_error(values: npt.NDArray[Any], block: int) -> float | None:
    """Of the mean of values that lie in a row and are alike to their neighbours': from the spread of the means of runs
    of `block` or a few more, which a plain standard error would take for as many independent values."""
    n_blocks = len(values) // block
    if n_blocks < 2:
        return None
    sums = np.array([part.sum() for part in np.array_split(values - values.mean(), n_blocks)])
    return float(np.sqrt((sums**2).sum() * n_blocks / (n_blocks - 1)) / len(values))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    columns = ["K, V (sliding K, V)", "KL", "top-1", "acceptance", "of draft 1/2/3", "less f16's"]
    columns += ["bytes", "tokens/s", "1 and 4 rows differ"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        drafts = row.acceptance is not None
        cells = [
            str(row.types),
            f"{row.kl:.4f}{_error(row.kl_error)}",
            f"{row.top_1:.3f}",
            f"{row.acceptance:.3f}" if drafts else "",
            "/".join(f"{rate:.2f}".removeprefix("0") for rate in row.acceptance_rates),
            f"{row.acceptance_change:+.4f}{_error(row.acceptance_change_error)}" if drafts else "",
            str(row.cache_bytes),
            f"{row.tokens_per_second:.1f}",
            ", ".join(f"{e:.4f}" for e in row.batch_errors),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _error(error: float | None) -> str:
    return "" if error is None else f" ± {error:.4f}"


def _log_probabilities(model: Model, pieces: Sequence[list[int]]) -> npt.NDArray[np.float64]:
    """float64 [tokens of all pieces, n_vocab]: of the next token, each piece on its own."""
    x = np.concatenate([model.logits(ids) for ids in pieces]).astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _plain_speed(model: Model, texts: Sequence[str]) -> float:
    """Median tokens per second of greedy completions without drafts."""
    rates = []
    for i in range(N_PLAIN):
        ids = model.tokenize(texts[i % len(texts)])[:PROMPT]
        stream = model.generate(ids, max_tokens=64, temperature=0, ignore_eos=True, num_speculative_tokens=0)
        stream.text()
        rates.append(stream.stats.tokens_per_second or 0.0)
    return float(np.median(rates))


def _batch_error(model: Model, ids: list[int]) -> float:
    one, four = (model.logits(ids, n_batch=n)[-4:] for n in (1, 4))
    return float(np.abs(one - four).max() / one.std())
