"""Weight types and mixtures at one shape, one after the other: a plain token, the verify batch, and drafting beside
llama.cpp's own MTP with the same files. One row of a table for each, Markdown.

    python benchmarks/weights.py --weights q4_0,q8_0,q6_k,q4_k,q5_k,iq4_xs,q4_k_m,qat
    python benchmarks/weights.py --shape 26b-a4b --layers 6 --weights q4_0,q4_k_m --k 1,2,3

Completions of one type take turns: plain, drafting, llama.cpp. Acceptance is forced on both sides, and rates are those
of exactly the forced acceptance. With several numbers after --k a short search finds each side's fastest number of
drafts, plain decoding among them, and the row compares the two. Medians with their 95 % intervals, or ranges where
there are fewer than six runs; ratios are taken completion by completion. Parts of the list can be run one by one:
--json adds a line to its file for each row as it is there, and --remove makes room for the next type's files.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyllama_mtp.bench.measure import Run
from pyllama_mtp.bench.peer import PeerSetting
from pyllama_mtp.bench.peer_sweep import given_setting
from pyllama_mtp.bench.plan import Phase, Results, run
from pyllama_mtp.bench.report import interval
from pyllama_mtp.bench.settings import Settings, make_settings, parse_numbers
from pyllama_mtp.bench.shapes import random_pair
from pyllama_mtp.bench.summary import Spread, forced_speed, spread
from pyllama_mtp.errors import PyllamaMtpError

COLUMNS = [
    *("weights", "GB", "plain, ms", "verify, ms", "verify / plain", "k", "tokens/s"),
    *("llama.cpp's k", "llama.cpp's tokens/s", "over llama.cpp"),
]


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds of a plain token, and of a verify batch of k + 1 rows. gigabytes: of the target's file. None: not
    measured."""

    shape: str
    layers: int | None
    weights: str
    gigabytes: float
    k: int
    plain_ms: Spread
    verify_ms: Spread | None
    verify_over_plain: Spread | None
    tokens_per_second: Spread
    peer_k: int | None
    peer_tokens_per_second: Spread | None
    ratio: Spread | None

    def __str__(self) -> str:
        cells = [
            self.weights,
            f"{self.gigabytes:.2f}",
            _figure(self.plain_ms),
            _figure(self.verify_ms),
            _figure(self.verify_over_plain),
            str(self.k),
            _figure(self.tokens_per_second),
            "-" if self.peer_k is None else str(self.peer_k),
            _figure(self.peer_tokens_per_second),
            _figure(self.ratio),
        ]
        return "| " + " | ".join(cells) + " |"


def _figure(values: Spread | None) -> str:
    return "-" if values is None else f"{values.median:.2f} {interval(values)}"


def fastest(runs: Sequence[Run], rates: Sequence[float]) -> int:
    """The number of drafts of these runs with the highest rate."""
    speeds: dict[int, list[float]] = {}
    for r in runs:
        speeds.setdefault(int(r.num_speculative_tokens), []).append(forced_speed(r, rates))
    return max(speeds, key=lambda k: statistics.median(speeds[k]))


def find_best(settings: Settings, ks: Sequence[int], peer: PeerSetting | None, runs: int) -> tuple[int, int]:
    """Our fastest number of drafts, and the peer's."""
    phases = [Phase((0,), peer and replace(peer, n_max=0))]
    phases += [Phase((0, k), peer and replace(peer, n_max=k)) for k in ks]
    results = run(replace(settings, runs=runs), tell, phases)
    theirs = [other for comparison in results.comparisons for _, other in comparison.pairs]
    rates = settings.synthetic_acceptance
    return fastest(results.runs, rates), fastest(theirs, rates) if theirs else 0


def measure_row(args: argparse.Namespace, weights: str) -> Row:
    target, head = random_pair(args.shape, weights, args.folder, n_layers=args.layers)
    settings = make_settings(
        target,
        head,
        draft_lengths=args.k,
        contexts=[args.context],
        load={"n_threads": args.n_threads, "n_gpu_layers": args.n_gpu_layers},
        runs=args.runs,
        warmup=1,
        peer=None if args.no_peer else "llama.cpp",
        peer_settings=args.peer_settings,
        synthetic_acceptance=args.rates,
        max_tokens=args.max_tokens,
    )
    peer = None if args.no_peer else given_setting(settings)
    k, peer_k = args.k[0], args.k[0]
    if len(args.k) > 1:
        k, peer_k = find_best(settings, args.k, peer, args.search_runs)
    results = run(settings, tell, [Phase(tuple(dict.fromkeys((0, k))), peer and replace(peer, n_max=peer_k))])
    row = row_of(args, weights, target, k, results)
    if args.remove:
        target.unlink()
        head.unlink()
    return row


def row_of(args: argparse.Namespace, weights: str, target: Path, k: int, results: Results) -> Row:
    plain = [r for r in results.runs if r.num_speculative_tokens == 0]
    ours = [r for r in results.runs if r.num_speculative_tokens == k]
    plain_ms = [1e3 * r.wall_seconds / r.rounds for r in plain]
    verify_ms = [1e3 * r.verify_seconds / r.rounds for r in ours] if k > 0 else []
    pairs = [pair for comparison in results.comparisons for pair in comparison.pairs]
    speeds = [(forced_speed(own, args.rates), forced_speed(other, args.rates)) for own, other in pairs]
    return Row(
        shape=args.shape,
        layers=args.layers,
        weights=weights,
        gigabytes=target.stat().st_size / 1e9,
        k=k,
        plain_ms=spread(plain_ms),
        verify_ms=spread(verify_ms) if verify_ms else None,
        verify_over_plain=spread([v / p for v, p in zip(verify_ms, plain_ms, strict=True)]) if verify_ms else None,
        tokens_per_second=spread([forced_speed(r, args.rates) for r in ours]),
        peer_k=int(pairs[0][1].num_speculative_tokens) if pairs else None,
        peer_tokens_per_second=spread([theirs for _, theirs in speeds]) if pairs else None,
        ratio=spread([own / theirs for own, theirs in speeds]) if pairs else None,
    )


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def numbers(kind: type) -> object:
    return lambda text: parse_numbers(text, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="e2b")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--weights", default="q4_0,q8_0,q6_k,q4_k,q5_k,iq4_xs,q4_k_m,qat", help="types and mixtures")
    parser.add_argument("--k", type=numbers(int), default=(3,), help="drafts a round; several: the fastest of them")
    parser.add_argument("--rates", type=numbers(float), default=(0.868, 0.765, 0.687), help="forced acceptance")
    parser.add_argument("--runs", type=int, default=9, help="completions of each kind, after one that is not counted")
    parser.add_argument("--search-runs", type=int, default=3, help="the same, to find the fastest number of drafts")
    parser.add_argument("--context", type=int, default=100, help="tokens of the prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without llama.cpp")
    parser.add_argument("--peer-settings", default="backend_sampling=on", help="as of pyllama-mtp bench, but no sweep")
    parser.add_argument("--folder", type=Path, help="for the files, instead of the cache folder")
    parser.add_argument("--remove", action="store_true", help="remove a type's files when its row is there")
    parser.add_argument("--json", type=Path, help="add each row to this file")
    args = parser.parse_args()
    if args.peer_settings == "sweep":
        parser.error("--peer-settings sweep would measure every type with settings of its own")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for weights in args.weights.split(","):
        try:
            row = measure_row(args, weights)
        except PyllamaMtpError as error:
            sys.exit(f"{weights}: {error}")
        print(row, flush=True)
        if args.json is not None:
            with args.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    main()
