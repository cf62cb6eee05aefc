"""Medians, ranges and pairwise ratios of runs."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyllama_mtp._library import MAX_DRAFT
from pyllama_mtp.bench.measure import Run
from pyllama_mtp.bench.plan import Comparison
from pyllama_mtp.bench.settings import extended_rates
from pyllama_mtp.names import DraftLength


@dataclass(frozen=True, slots=True)
class Spread:
    """low, high: the smallest and largest value. interval: a 95 % confidence interval of the median, by order
    statistics; None with fewer than six values.
    """

    n: int
    median: float
    mean: float
    low: float
    high: float
    interval: tuple[float, float] | None


def spread(values: Sequence[float]) -> Spread:
    """values: at least one."""
    ordered = sorted(values)
    n = len(ordered)
    # The median is below the j-th smallest value with probability P(Binomial(n, 1/2) < j), and likewise above.
    j, tail = 0, 0.0
    while (tail := tail + math.comb(n, j) / 2**n) <= 0.025:
        j += 1
    interval = (ordered[j - 1], ordered[n - j]) if j > 0 else None
    return Spread(n, statistics.median(ordered), statistics.fmean(ordered), ordered[0], ordered[-1], interval)


@dataclass(frozen=True, slots=True)
class ModeSummary:
    """The runs of a case with one draft length; those marked cold count only where there are no others.

    Times are milliseconds a round, medians of runs. ratio_to_plain: of tokens/s, run by run with the plain run before
    it. The two figures "at forced" are computed with exactly the forced tokens a round instead of those that the draw
    of a short run gave; None if nothing is forced. python_share: what the caller adds to the engine's own time.
    """

    case: str
    mode: str
    num_speculative_tokens: DraftLength
    tokens_per_second: Spread
    cold_tokens_per_second: float | None
    ratio_to_plain: Spread | None
    tokens_per_second_at_forced: float | None
    ratio_to_plain_at_forced: Spread | None
    round_ms: float
    draft_ms: float
    verify_ms: float
    sample_ms: float
    rest_ms: float
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    acceptance_per_position: list[float] | None
    prefill_tokens_per_second: float | None
    peak_memory_bytes: int
    python_share: float


@dataclass(frozen=True, slots=True)
class PeerSummary:
    """Ours beside the peer's, pair by pair. Times are milliseconds a round."""

    case: str
    num_speculative_tokens: DraftLength
    peer_num_speculative_tokens: int
    peer_setting: str
    tokens_per_second: Spread
    peer_tokens_per_second: Spread
    ratio: Spread
    ratio_at_forced: Spread | None
    round_ms: float
    peer_round_ms: float
    mean_acceptance_length: float | None
    peer_mean_acceptance_length: float | None
    peer_peak_memory_bytes: int


def summarize(runs: Sequence[Run], rates: Sequence[float]) -> list[ModeSummary]:
    """One summary for each case and draft length, in the order in which they first ran. rates: forced acceptance."""
    groups: dict[tuple[str, DraftLength], list[tuple[Run, Run | None]]] = {}
    plain: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        key = (run.case, run.prompt, run.repetition)
        if run.mode == "plain":
            plain[key] = run
        groups.setdefault((run.case, run.num_speculative_tokens), []).append((run, plain.get(key)))
    return [_summarize_mode(pairs, rates) for pairs in groups.values()]


def _summarize_mode(pairs: Sequence[tuple[Run, Run | None]], rates: Sequence[float]) -> ModeSummary:
    cold = [run for run, _ in pairs if run.cold]
    warm = [(run, plain) for run, plain in pairs if not run.cold] or list(pairs)
    runs = [run for run, _ in warm]
    neighbours = [(run, plain) for run, plain in warm if plain is not None and run is not plain]
    first = runs[0]
    forced = bool(rates) and isinstance(first.num_speculative_tokens, int) and first.mode == "mtp"
    prefills = [
        (run.prompt_tokens - run.cached_prompt_tokens) / run.prompt_seconds
        for run in runs
        if run.cached_prompt_tokens < run.prompt_tokens / 2
    ]
    return ModeSummary(
        case=first.case,
        mode=first.mode,
        num_speculative_tokens=first.num_speculative_tokens,
        tokens_per_second=spread([run.tokens_per_second for run in runs]),
        cold_tokens_per_second=cold[0].tokens_per_second if cold else None,
        ratio_to_plain=_ratios(neighbours, _speed),
        tokens_per_second_at_forced=statistics.median(forced_speed(run, rates) for run in runs) if forced else None,
        ratio_to_plain_at_forced=_ratios(neighbours, lambda run: forced_speed(run, rates)) if forced else None,
        round_ms=_milliseconds(runs, lambda run: run.wall_seconds),
        draft_ms=_milliseconds(runs, lambda run: _own(run.draft_seconds)),
        verify_ms=_milliseconds(runs, lambda run: _own(run.verify_seconds)),
        sample_ms=_milliseconds(runs, lambda run: _own(run.sample_seconds)),
        rest_ms=_milliseconds(runs, _rest_seconds),
        acceptance_rate=_mean([run.acceptance_rate for run in runs]),
        mean_acceptance_length=_mean([run.mean_acceptance_length for run in runs]),
        acceptance_per_position=_mean_per_position([run.acceptance_per_position for run in runs]),
        prefill_tokens_per_second=statistics.median(prefills) if prefills else None,
        peak_memory_bytes=max(run.peak_memory_bytes for run in runs),
        python_share=statistics.median(run.wall_seconds / _own(run.engine_seconds) - 1 for run in runs),
    )


def summarize_peer(comparison: Comparison, rates: Sequence[float]) -> list[PeerSummary]:
    """One summary for each case."""
    cases: dict[str, list[tuple[Run, Run]]] = {}
    for own, theirs in comparison.pairs:
        cases.setdefault(own.case, []).append((own, theirs))
    summaries = []
    for case, all_pairs in cases.items():
        pairs = [pair for pair in all_pairs if not (pair[0].cold or pair[1].cold)] or all_pairs
        ours, peers = [own for own, _ in pairs], [other for _, other in pairs]
        forced = bool(rates) and isinstance(comparison.num_speculative_tokens, int)
        summaries.append(
            PeerSummary(
                case=case,
                num_speculative_tokens=comparison.num_speculative_tokens,
                peer_num_speculative_tokens=comparison.setting.n_max,
                peer_setting=str(comparison.setting),
                tokens_per_second=spread([run.tokens_per_second for run in ours]),
                peer_tokens_per_second=spread([run.tokens_per_second for run in peers]),
                ratio=spread([_speed(own) / _speed(other) for own, other in pairs]),
                ratio_at_forced=_ratios(pairs, lambda run: forced_speed(run, rates)) if forced else None,
                round_ms=_milliseconds(ours, lambda run: run.wall_seconds),
                peer_round_ms=_milliseconds(peers, lambda run: run.wall_seconds),
                mean_acceptance_length=_mean([run.mean_acceptance_length for run in ours]),
                peer_mean_acceptance_length=_mean([run.mean_acceptance_length for run in peers]),
                peer_peak_memory_bytes=max(run.peak_memory_bytes for run in peers),
            )
        )
    return summaries


def forced_speed(run: Run, rates: Sequence[float]) -> float:
    """Tokens/s of a run's rounds at exactly the forced acceptance: 1 + the sum of rates tokens a round."""
    k = MAX_DRAFT if run.num_speculative_tokens == "auto" else int(run.num_speculative_tokens)
    return (1 + sum(extended_rates(rates, k))) * run.rounds / run.wall_seconds


def _own(seconds: float | None) -> float:
    """What our engine tells of a run, and the peer does not."""
    assert seconds is not None
    return seconds


def _rest_seconds(run: Run) -> float:
    parts = _own(run.draft_seconds), _own(run.verify_seconds), _own(run.sample_seconds)
    return _own(run.engine_seconds) - sum(parts)


def _speed(run: Run) -> float:
    return run.tokens_per_second


def _ratios(pairs: Sequence[tuple[Run, Run]], speed: Callable[[Run], float]) -> Spread | None:
    return spread([speed(a) / speed(b) for a, b in pairs]) if pairs else None


def _milliseconds(runs: Sequence[Run], seconds: Callable[[Run], float]) -> float:
    return statistics.median(seconds(run) / max(1, run.rounds) * 1e3 for run in runs)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mean_per_position(shares: Sequence[list[float] | None]) -> list[float] | None:
    known = [share for share in shares if share]
    if not known:
        return None
    positions = range(max(map(len, known)))
    return [statistics.fmean(share[i] for share in known if i < len(share)) for i in positions]
