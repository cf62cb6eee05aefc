"""What a benchmark found: a table for the terminal and an object for a JSON file."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyllama_mtp._library import MAX_DRAFT
from pyllama_mtp.bench.peer import PACKAGE, VERSION
from pyllama_mtp.bench.plan import Results
from pyllama_mtp.bench.settings import Settings, extended_rates
from pyllama_mtp.bench.summary import ModeSummary, PeerSummary, Spread, summarize, summarize_peer
from pyllama_mtp.sampling import Sampling

FORMAT = 1  # of the JSON file; counted up when a field changes its meaning


def as_json(
    settings: Settings, results: Results, environment: dict[str, object], arguments: Sequence[str]
) -> dict[str, Any]:
    """`runs` has our completions only, `peer.runs` llama.cpp's, each with the fields of measure.Run; `summary` and
    `peer.summary` the medians that the table shows.
    """
    rates = settings.synthetic_acceptance
    report: dict[str, Any] = {
        "format": FORMAT,
        "arguments": list(arguments),
        "environment": environment,
        "settings": asdict(settings) | {"target": str(settings.target), "head": settings.head and str(settings.head)},
        "chat_template": results.chat_template,
        "model": asdict(results.info),
        "load_seconds": results.load_seconds,
        "runs": [asdict(run) for run in results.runs],
        "summary": [asdict(summary) for summary in summarize(results.runs, rates)],
        "peer": None,
    }
    if results.peer_fastest is not None:
        report["peer"] = {
            "package": PACKAGE,
            "version": VERSION,
            "trials": [asdict(trial) for trial in results.peer_trials],
            "fastest": asdict(results.peer_fastest),
            "runs": [
                asdict(theirs) | {"setting": asdict(comparison.setting)}
                for comparison in results.comparisons
                for _, theirs in comparison.pairs
            ],
            "summary": [asdict(s) for comparison in results.comparisons for s in summarize_peer(comparison, rates)],
        }
    return report


def format_report(settings: Settings, results: Results, environment: dict[str, object]) -> str:
    """Lines of text for a terminal."""
    lines = _header(settings, results, environment)
    summaries = summarize(results.runs, settings.synthetic_acceptance)
    for case in dict.fromkeys(summary.case for summary in summaries):
        lines += ["", *_case(case, [summary for summary in summaries if summary.case == case])]
    if results.peer_fastest is not None:
        lines += ["", *_peer(settings, results)]
    return "\n".join(lines)


def _header(settings: Settings, results: Results, environment: dict[str, object]) -> list[str]:
    info = results.info
    sampling = Sampling.of(settings)
    drawn = "greedy" if sampling.temperature == 0 else str(sampling)
    lines = [
        f"{info.name} on {environment['cpu']}, {settings.n_threads} threads; {info.placement}",
        f"loaded in {results.load_seconds:.2f} s: target {_size(info.target_bytes)}, head {_size(info.head_bytes)}, "
        f"KV cache {_size(info.cache_bytes)} ({info.n_ctx} tokens), scratch {_size(info.compute_bytes)}",
        f"{settings.max_tokens} tokens a completion, {drawn}; {settings.warmup} warm-up "
        f"and {settings.runs} counted runs a prompt, modes alternating",
    ]
    if settings.synthetic_acceptance:
        longest = max((MAX_DRAFT if k == "auto" else int(k) for k in settings.draft_lengths), default=0)
        lines.append(f"acceptance forced to {_shares(extended_rates(settings.synthetic_acceptance, longest))}")
        if longest > len(settings.synthetic_acceptance):
            lines.append(
                f"  (rates past position {len(settings.synthetic_acceptance)} continue with the last conditional rate)"
            )
    if results.chat_template is False:
        lines.append("the target has no chat template: the requests are completed as plain text")
    return lines


def _case(case: str, summaries: Sequence[ModeSummary]) -> list[str]:
    rows = [
        (
            "k",
            "tokens/s",
            "range",
            "mean",
            "cold",
            "x plain",
            "95 %",
            "round ms",
            "draft",
            "verify",
            "sample",
            "rest",
            "accepted",
            "length",
            "per position",
            "peak",
        )
    ]
    for s in summaries:
        speed, ratio = s.tokens_per_second, s.ratio_to_plain
        rows.append(
            (
                "plain" if s.mode == "plain" else str(s.num_speculative_tokens),
                f"{speed.median:.1f}",
                f"{speed.low:.1f}-{speed.high:.1f}",
                f"{speed.mean:.1f}",
                _number(s.cold_tokens_per_second, ".1f"),
                _number(ratio.median if ratio else None, ".2f"),
                interval(ratio),
                f"{s.round_ms:.2f}",
                f"{s.draft_ms:.2f}",
                f"{s.verify_ms:.2f}",
                f"{s.sample_ms:.2f}",
                f"{s.rest_ms:.2f}",
                _number(s.acceptance_rate, ".1%"),
                _number(s.mean_acceptance_length, ".2f"),
                _shares(s.acceptance_per_position or ()) or "-",
                _size(s.peak_memory_bytes),
            )
        )
    lines = [f"{case}:", *_table(rows)]
    for s in summaries:
        if s.ratio_to_plain_at_forced is not None:
            lines.append(
                f"k={s.num_speculative_tokens} at exactly the forced rates: {s.tokens_per_second_at_forced:.1f} "
                f"tokens/s, {s.ratio_to_plain_at_forced.median:.2f} times plain {interval(s.ratio_to_plain_at_forced)}"
            )
    prefill = [s.prefill_tokens_per_second for s in summaries if s.prefill_tokens_per_second is not None]
    if prefill:
        lines.append(f"prefill: {prefill[0]:.0f} tokens/s")
    share = max(s.python_share for s in summaries)
    lines.append(f"Python adds {share:.2%} or less to the engine's own time")
    return lines


def _peer(settings: Settings, results: Results) -> list[str]:
    lines = [f"llama.cpp ({PACKAGE} {VERSION}), alternating with ours:"]
    if results.peer_trials:
        lines += _table(
            [
                ("setting tried", "tokens/s"),
                *((str(t.setting), f"{t.tokens_per_second:.1f}") for t in results.peer_trials),
            ]
        )
    lines.append(f"its fastest setting: {results.peer_fastest}" if results.peer_trials else f"{results.peer_fastest}")
    rows: list[tuple[str, ...]] = [
        (
            "case",
            "k",
            "its k",
            "tokens/s",
            "its",
            "ratio",
            "95 %",
            "at forced",
            "round ms",
            "its",
            "length",
            "its",
            "peak",
        )
    ]
    for comparison in results.comparisons:
        rows += [_peer_row(summary) for summary in summarize_peer(comparison, settings.synthetic_acceptance)]
    return [*lines, "", *_table(rows)]


def _peer_row(s: PeerSummary) -> tuple[str, ...]:
    return (
        s.case,
        _length(s.num_speculative_tokens),
        _length(s.peer_num_speculative_tokens),
        f"{s.tokens_per_second.median:.1f}",
        f"{s.peer_tokens_per_second.median:.1f}",
        f"{s.ratio.median:.2f}",
        interval(s.ratio),
        _number(s.ratio_at_forced.median if s.ratio_at_forced else None, ".2f"),
        f"{s.round_ms:.2f}",
        f"{s.peer_round_ms:.2f}",
        _number(s.mean_acceptance_length, ".2f"),
        _number(s.peer_mean_acceptance_length, ".2f"),
        _size(s.peer_peak_memory_bytes),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns right-aligned, the first one left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _length(k: int | str) -> str:
    return "plain" if k == 0 else str(k)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def interval(values: Spread | None) -> str:
    """The 95 % interval of a median, or the range where there are too few values for one."""
    if values is None:
        return "-"
    low, high = values.interval or (values.low, values.high)
    return f"[{low:.2f}, {high:.2f}]" if values.interval else f"{low:.2f}-{high:.2f}"


def _shares(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.3f}".lstrip("0") for share in shares)


def _size(n_bytes: int) -> str:
    """Bytes with a decimal unit."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
