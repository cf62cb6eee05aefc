"""What a grammar costs: seconds of the same completion with and without one, and how many drafts are accepted.

    python benchmarks/grammar.py [--target target.gguf --mtp-head assistant.gguf --pairs 25 --max-tokens 100]

Three figures. "the same text": a regular expression that allows all text beside none, so that both make the same tokens
in the same rounds: what masks cost. "JSON over free text": a schema beside none, other tokens in other rounds: its
acceptance. "masks": microseconds of a call for k drafts along the JSON text, by itself, and of each of its k + 1 masks.
Runs of a pair alternate; medians of ratios
with their 95 % intervals (order statistics).
"""

import argparse
import statistics
import time
from importlib import resources
from pathlib import Path
from typing import Any

from pyllama_mtp import Model
from pyllama_mtp._library import ffi, lib
from pyllama_mtp.grammar.options import GrammarOptions

ANY = r"(?s:.)*"
SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 4, "maxLength": 40},
                    "price": {"type": "number"},
                    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 6},
                },
                "required": ["name", "price", "tags"],
                "additionalProperties": False,
            },
            "minItems": 50,
        }
    },
    "required": ["items"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "items", "schema": SCHEMA}}


def interval(values: list[float]) -> str:
    ordered = sorted(values)
    skip = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return f"{statistics.median(ordered):.3f} ({ordered[skip]:.3f} to {ordered[-1 - skip]:.3f})"


def run(model: Model, prompt: Any, options: dict[str, Any]) -> tuple[float, Any]:
    """Seconds a token of decoding, by the clock of the reader, and the stream."""
    with model.generate(prompt, **options) as stream:
        chunks = iter(stream)
        first = next(chunks, None)
        begin = time.perf_counter()
        for _ in chunks:
            pass
        seconds = time.perf_counter() - begin
    n = len(stream.token_ids) - (0 if first is None else len(first.token_ids))
    return seconds / max(1, n), stream


def compare(model: Model, args: argparse.Namespace, k: int, temperature: float) -> None:
    common = {"max_tokens": args.max_tokens, "temperature": temperature, "num_speculative_tokens": k, "seed": 1}
    restricted = common | ({"response_format": FORMAT} if args.json else {"regex": ANY})
    ratios, rates = [], ([], [])
    for i in range(args.pairs + 1):
        order = [0, 1] if i % 2 else [1, 0]
        seconds = [0.0, 0.0]
        for which in order:
            seconds[which], stream = run(model, args.prompt, restricted if which else common)
            if stream.stats.acceptance_rate is not None:
                rates[which].append(stream.stats.acceptance_rate)
        if i > 0:  # the first one makes tables
            ratios.append(seconds[1] / seconds[0])
    shown = [f"{statistics.mean(r):.3f}" if r else "none" for r in rates]
    what = "JSON over free text" if args.json else "the same text"
    print(
        f"{what}, k {k}, temperature {temperature:g}: seconds a token with a grammar over without {interval(ratios)}; "
        f"acceptance without {shown[0]}, with {shown[1]}"
    )


def masks(model: Model, args: argparse.Namespace, k: int) -> None:
    options = GrammarOptions(response_format=FORMAT)
    constraints = model._constraints
    ids = run(model, args.prompt, {"max_tokens": args.max_tokens, "seed": 1, "response_format": FORMAT})[1].token_ids
    matcher = constraints.of(options, None, [])
    out = ffi.new("uint32_t[]", (k + 1) * ((model.info.n_vocab + 31) // 32))
    times = []
    for i in range(len(ids) - k):
        drafts = ffi.new("int32_t[]", ids[i : i + k])
        begin = time.perf_counter()
        n = lib.pmtp_matcher_masks(matcher._struct, drafts, k, out)
        times.append(1e6 * (time.perf_counter() - begin) / (n + 1))
        assert n == k and lib.pmtp_matcher_commit(matcher._struct, drafts, 1) == 0
    times.sort()
    shown = [f"{times[int(share * (len(times) - 1))]:.0f}" for share in (0.5, 0.9, 1)]
    median, most, worst = shown
    print(f"masks, k {k}, {model.info.n_vocab} tokens: {median} us a mask (median), {most} (90 %), {worst} (worst)")


def main() -> None:
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=str(demo / "target.gguf"))
    parser.add_argument("--mtp-head", default=str(demo / "assistant.gguf"))
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--k", type=int, nargs="+", default=[3, 0])
    parser.add_argument("--prompt", default="import os\n\n\ndef read(path):\n")
    args = parser.parse_args()
    with Model(args.target, mtp_head=args.mtp_head, n_ctx=1024, n_threads=args.n_threads) as model:
        for args.json in (False, True):
            for k in args.k:
                for temperature in (0.0, 1.0):
                    compare(model, args, k, temperature)
        for k in args.k:
            masks(model, args, max(1, k))


if __name__ == "__main__":
    main()
