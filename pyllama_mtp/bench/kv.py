"""`pyllama-mtp bench --kv`: what types of the KV cache cost in quality and give in memory and speed.

Everything is compared with an f16 cache of the same target, on a text that the caller names.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyllama_mtp.errors import BenchmarkError, InvalidRequestError
from pyllama_mtp.model import Model

PIECE = 1024  # tokens of context, at most, behind a compared distribution
CONTEXTS = (60, 600, 2300)  # tokens, where one-token and four-token batches are compared
PROMPT, COMPLETION = 200, 100  # tokens
N_PLAIN = 3  # completions timed without drafts


@dataclass(frozen=True, slots=True)
class CacheTypes:
    """Types of K and V, and of the sliding layers' (None: the same)."""

    k: str
    v: str
    k_swa: str | None = None
    v_swa: str | None = None

    def __str__(self) -> str:
        return f"{self.k}, {self.v}" + (f" ({self.k_swa}, {self.v_swa})" if self.k_swa else "")


REFERENCE = CacheTypes("f16", "f16")


@dataclass(frozen=True, slots=True)
class Row:
    """What types cost. kl: of the next-token distribution from f16's, nats, mean over tokens, and its standard error;
    top_1: share of tokens whose most probable successor is the same; acceptance: of sampled completions at temperature
    0.8, three drafts a round, and the number of drafts (None, 0 without a head); batch_errors: at each of CONTEXTS that
    the text is long enough for, the largest difference of a logit, over the logits' standard deviation, between
    evaluating one token and four tokens at a time; tokens_per_second: without drafts."""

    types: CacheTypes
    kl: float
    kl_error: float
    top_1: float
    acceptance: float | None
    drafted: int
    batch_errors: tuple[float, ...]
    cache_bytes: int
    tokens_per_second: float


def parse_cache_types(text: str) -> list[CacheTypes]:
    """ "q4_0,turbo4/turbo3,turbo4/turbo3/q8_0/q8_0": K/V, or K/V/sliding K/sliding V. Raises InvalidRequestError."""
    found = []
    for part in text.split(","):
        names = [name.strip() for name in part.split("/")]
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
    **options: int | None,
) -> Iterator[Row]:
    """One row for the f16 cache, then one for each of `types`. n_tokens: compared, of all texts in a row; the first 200
    tokens of each text are completed. options: of Model. Raises BenchmarkError if the texts are too short."""
    n_ctx = max(PIECE, PROMPT + COMPLETION, CONTEXTS[-1])
    reference = None
    for t in (REFERENCE, *(t for t in types if t != REFERENCE)):
        caches = {"cache_type_k": t.k, "cache_type_v": t.v, "cache_type_k_swa": t.k_swa, "cache_type_v_swa": t.v_swa}
        with Model(target, mtp_head=head, n_ctx=n_ctx, **caches, **options) as model:
            ids = model.tokenize("\n".join(texts))[:n_tokens]
            if len(ids) < n_tokens:
                raise BenchmarkError(f"the text has {len(ids)} tokens, expected {n_tokens}: name more files")
            log_p = _log_probabilities(model, ids)
            reference = log_p if reference is None else reference
            kl = (np.exp(reference) * (reference - log_p)).sum(axis=1)
            drafted, accepted = _drafts(model, texts) if head is not None else (0, 0)
            yield Row(
                types=t,
                kl=float(kl.mean()),
                kl_error=float(kl.std() / np.sqrt(len(kl))),
                top_1=float((log_p.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                acceptance=accepted / drafted if drafted else None,
                drafted=drafted,
                batch_errors=tuple(_batch_error(model, ids[:n]) for n in CONTEXTS if n <= len(ids)),
                cache_bytes=model.info.cache_bytes,
                tokens_per_second=_plain_speed(model, texts),
            )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| K, V (sliding K, V) | KL | top-1 | acceptance | bytes | tokens/s | 1 and 4 rows differ |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate = row.acceptance
        error = 0.0 if rate is None else (rate * (1 - rate) / row.drafted) ** 0.5
        cells = [
            str(row.types),
            f"{row.kl:.4f} ± {row.kl_error:.4f}",
            f"{row.top_1:.3f}",
            "" if rate is None else f"{rate:.3f} ± {error:.3f}",
            str(row.cache_bytes),
            f"{row.tokens_per_second:.1f}",
            ", ".join(f"{e:.4f}" for e in row.batch_errors),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _log_probabilities(model: Model, ids: list[int]) -> np.ndarray:
    """float64 [len(ids), n_vocab]: of the next token, each piece on its own."""
    x = np.concatenate([model.logits(ids[i : i + PIECE]) for i in range(0, len(ids), PIECE)]).astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _drafts(model: Model, texts: Sequence[str]) -> tuple[int, int]:
    """Drafted and accepted tokens, one completion of each text."""
    drafted = accepted = 0
    for seed, text in enumerate(texts):
        sampling = {"temperature": 0.8, "seed": seed, "ignore_eos": True, "num_speculative_tokens": 3}
        stream = model.generate(model.tokenize(text)[:PROMPT], max_tokens=COMPLETION, **sampling)
        stream.text()
        drafted += stream.stats.drafted
        accepted += stream.stats.accepted
    return drafted, accepted


def _plain_speed(model: Model, texts: Sequence[str]) -> float:
    """Median tokens per second of greedy completions without drafts."""
    rates = []
    for i in range(N_PLAIN):
        ids = model.tokenize(texts[i % len(texts)])[:PROMPT]
        stream = model.generate(ids, max_tokens=64, temperature=0, ignore_eos=True, num_speculative_tokens=0)
        stream.text()
        rates.append(stream.stats.tokens_per_second)
    return float(np.median(rates))


def _batch_error(model: Model, ids: list[int]) -> float:
    one, four = (model.logits(ids, n_batch=n)[-4:] for n in (1, 4))
    return float(np.abs(one - four).max() / one.std())
