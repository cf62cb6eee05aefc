"""A picture of a benchmark. matplotlib is imported when it is needed and not before."""

import importlib.util
from pathlib import Path

from pyllama_mtp.bench.plan import Results
from pyllama_mtp.bench.settings import Settings
from pyllama_mtp.bench.summary import summarize, summarize_peer
from pyllama_mtp.errors import BenchmarkError


def check_installed() -> None:
    """Raises BenchmarkError, with the command that helps, unless matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchmarkError("--plot needs matplotlib, which is not installed: pip install matplotlib")


def plot(settings: Settings, results: Results, path: Path) -> None:
    """Writes tokens/s over draft lengths, with the range of the runs, and what a round's time goes into, as a PNG.

    Raises BenchmarkError.
    """
    check_installed()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    rates = settings.synthetic_acceptance
    summaries = summarize(results.runs, rates)
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    speed, time = figure.subplots(1, 2)
    for case in dict.fromkeys(summary.case for summary in summaries):
        rows = [summary for summary in summaries if summary.case == case]
        spreads = [row.tokens_per_second for row in rows]
        medians = [s.median for s in spreads]
        errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        speed.errorbar(
            [_label(r.num_speculative_tokens) for r in rows], medians, errors, marker="o", capsize=3, label=case
        )
    peers = [summary for comparison in results.comparisons for summary in summarize_peer(comparison, rates)]
    for case in dict.fromkeys(summary.case for summary in peers):
        theirs = [summary for summary in peers if summary.case == case]
        speed.plot(
            [_label(peer.peer_num_speculative_tokens) for peer in theirs],
            [peer.peer_tokens_per_second.median for peer in theirs],
            linestyle="none",
            marker="x",
            label=f"llama.cpp, {case}",
        )
    speed.set(xlabel="drafts a round", ylabel="tokens/s")
    speed.set_ylim(bottom=0)
    speed.legend()

    rows = [summary for summary in summaries if summary.case == summaries[0].case]
    labels = [_label(row.num_speculative_tokens) for row in rows]
    bottom = [0.0] * len(rows)
    for part in ("verify", "draft", "sample", "rest"):
        heights = [getattr(row, f"{part}_ms") for row in rows]
        time.bar(labels, heights, bottom=bottom, label=part)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    time.set(xlabel="drafts a round", ylabel="ms a round", title=rows[0].case)
    time.legend()
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise BenchmarkError(f"cannot write {path}: {error.strerror or error}") from error


def _label(k: int | str) -> str:
    return "plain" if k == 0 else str(k)
