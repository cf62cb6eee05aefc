"""The command `pyllama-mtp bench`: its arguments, and what is done with them."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pyllama_mtp.bench import kv, plan, plot, report
from pyllama_mtp.bench.environment import environment
from pyllama_mtp.bench.settings import (
    PROMPT_DEFAULTS,
    PROMPT_KINDS,
    SPACE_INVADERS,
    TOKENS,
    Number,
    Settings,
    make_settings,
    parse_draft_lengths,
    parse_numbers,
)
from pyllama_mtp.bench.shapes import random_pair
from pyllama_mtp.commands.arguments import LOADING, SAMPLING, add_options, read_sampling
from pyllama_mtp.commands.model import (
    CACHE_TYPES,
    add_files,
    add_loading,
    asked_head,
    find_model,
    load_options,
)
from pyllama_mtp.commands.parser import Commands
from pyllama_mtp.errors import BenchmarkError, InvalidRequestError
from pyllama_mtp.gguf.gemma4 import SHAPES
from pyllama_mtp.gguf.mixtures import MIXTURES
from pyllama_mtp.gguf.random_weights import WEIGHT_TYPES
from pyllama_mtp.paths import get_cache_dir

DESCRIPTION = """Measures a target with and without its MTP head: load time, prefill, tokens/s, what a round's time goes
into, acceptance and memory. Plain decoding, each draft length and, with --peer, unmodified llama.cpp take turns; ratios
are medians over neighbouring completions. docs/benchmark.md explains the figures."""


EXAMPLES = """examples:
  pyllama-mtp bench target.gguf --mtp-head assistant.gguf
  pyllama-mtp bench target.gguf --mtp-head assistant.gguf \\
      --num-speculative-tokens 0..8 --plot sweep.png
  pyllama-mtp bench --shape e2b --synthetic-acceptance .868,.765,.687 \\
      --peer llama.cpp"""


def add_parser(commands: Commands) -> None:
    """Adds `bench` to the command line."""
    about = "measure speed, acceptance and memory"
    parser = commands.add_parser("bench", help=about, description=DESCRIPTION, epilog=EXAMPLES)
    parser.set_defaults(action=bench)
    add_files(parser)
    random = parser.add_argument_group("random weights")
    random.add_argument(
        "--shape",
        choices=sorted(SHAPES),
        help=f"instead of files: random weights at this model's exact shape, written once to {get_cache_dir()}",
    )
    random.add_argument(
        "--weights",
        metavar="TYPE",
        help=f"of all matrices: {', '.join(WEIGHT_TYPES)}; mixtures: {', '.join(MIXTURES)} (default: q4_0)",
    )
    random.add_argument("--layers", type=int, metavar="N", help="fewer layers than the shape has")
    add_loading(parser, CACHE_TYPES + ("n_gpu_layers", "n_threads"))

    drafting = parser.add_argument_group("drafting")
    drafting.add_argument(
        "--num-speculative-tokens",
        metavar="K",
        help="drafts a round: 3, auto, a sweep 0..8, a list 1,3,auto (default: auto; plain is always measured)",
    )
    drafting.add_argument(
        "--synthetic-acceptance",
        metavar="RATES",
        help="force acceptance: shares of rounds that accept the first draft, the first two, such as .868,.765,.687",
    )
    add_options(drafting, {"acceptance": SAMPLING["acceptance"]})

    work = parser.add_argument_group("work")
    work.add_argument(
        "--prompts",
        choices=PROMPT_KINDS,
        help="tokens: random ids; space-invaders: three requests for a program, up to 800 tokens at temperature 0.6, "
        "top_p 0.95 (default: space-invaders, unless --shape, --contexts or --synthetic-acceptance is given)",
    )
    work.add_argument("--contexts", metavar="N,N", help="prompt lengths in tokens (default: 100)")
    tokens, game = PROMPT_DEFAULTS[TOKENS], PROMPT_DEFAULTS[SPACE_INVADERS]
    notes = {
        name: f"default: {tokens[name]:g}; {SPACE_INVADERS}: {game[name]:g}"
        for name in ("max_tokens", "temperature", "top_p")
    }
    notes |= {
        "seed": "of the first run; each further one counts up",
        "top_k": "default: 0",
        "min_p": "default: 0",
        "ignore_eos": "implied by --prompts tokens and --peer",
    }
    add_options(work, dict.fromkeys(notes) | {"ignore_eos": SAMPLING["ignore_eos"]}, notes)
    work.add_argument("--runs", type=int, help="counted completions of each prompt (default: 5; space-invaders: 1)")
    work.add_argument("--warmup", type=int, help="completions before them (default: 1; space-invaders: 0)")

    cache = parser.add_argument_group("KV cache types (instead of speed; docs/turboquant.md)")
    cache.add_argument(
        "--kv",
        metavar="TYPES",
        help="compare with f16: such as q4_0,turbo4/turbo3 (K/V),turbo4/turbo3/q8_0/q8_0 (K/V/sliding K/sliding V)",
    )
    cache.add_argument("--kv-text", type=Path, nargs="+", metavar="FILE", help="text to read; each file is completed")
    cache.add_argument("--kv-tokens", type=int, default=4096, help="tokens to compare (default: %(default)s)")

    peer = parser.add_argument_group("peer")
    peer.add_argument(
        "--peer", choices=["llama.cpp"], help="the same work by unmodified llama.cpp, alternating with ours"
    )
    peer.add_argument(
        "--peer-settings",
        default="sweep",
        metavar="SETTINGS",
        help="sweep: find its fastest setting; default: its own; or such as backend_sampling=on,flash_attention=off,"
        "draft_backend_sampling=on,n_max=3,p_min=0 (default: %(default)s)",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, help="write every figure to this file")
    output.add_argument("--plot", type=Path, help="draw a picture (PNG); needs matplotlib")


def bench(args: argparse.Namespace) -> int:
    """Runs the command; progress goes to stderr, the table to stdout."""
    _check(args)
    if args.plot is not None:
        plot.check_installed()
    for path in (args.json, args.plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise BenchmarkError(f"cannot write {path}: {path.parent} is not a folder")

    target, head = _pair(args)
    if args.kv is not None:
        return _compare_caches(args, target, head)
    settings = _settings(args, target, head)
    machine = environment()
    results = plan.run(settings, tell=lambda line: print(line, file=sys.stderr, flush=True))
    print(report.format_report(settings, results, machine))
    if args.json is not None:
        data = report.as_json(settings, results, machine, args.arguments)
        try:
            args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise BenchmarkError(f"cannot write {args.json}: {error.strerror or error}") from error
    if args.plot is not None:
        plot.plot(settings, results, args.plot)
    return 0


def _pair(args: argparse.Namespace) -> tuple[Path, Path | None]:
    if args.shape is None:
        files = find_model(args)
        return files.target, files.mtp_head
    _settings(args, Path("random"), Path("random"))  # refuses nonsense before gigabytes are written
    return random_pair(args.shape, args.weights or "q4_0", n_layers=args.layers)


def _check(args: argparse.Namespace) -> None:
    """Raises InvalidRequestError for what makes no sense together."""
    if (args.target is None and args.hf is None) == (args.shape is None):
        raise InvalidRequestError("expected either a target GGUF file (or -hf) or --shape")
    if args.shape is None and args.weights is not None:
        raise InvalidRequestError("--weights is for --shape: a file has its own types")
    if args.shape is None and args.layers is not None:
        raise InvalidRequestError("--layers is for --shape: a file has its own layers")
    if args.shape is not None and asked_head(args) is not None:
        raise InvalidRequestError("--mtp-head is for a target file: --shape brings its own head")
    if args.kv is not None and any(getattr(args, name) != LOADING[name] for name in CACHE_TYPES):
        raise InvalidRequestError("--kv compares types of the KV cache: name them there")
    if (drafter := load_options(args).get("drafter", "auto")) not in ("mtp", "auto"):
        raise InvalidRequestError(f"the method of --speculative-config is {drafter!r}: bench measures MTP heads")


def _compare_caches(args: argparse.Namespace, target: Path, head: Path | None) -> int:
    if not args.kv_text:
        raise InvalidRequestError("--kv needs a text to compare on: name files after --kv-text")
    if args.kv_tokens < 1:
        raise InvalidRequestError(f"--kv-tokens is {args.kv_tokens}, expected 1 or more")
    types, texts = kv.parse_cache_types(args.kv), kv.read_texts(args.kv_text)
    sizes = {"n_threads": args.n_threads, "n_gpu_layers": args.n_gpu_layers}
    rows = list(kv.compare(target, head, types, texts, args.kv_tokens, **sizes))
    print(kv.table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def _settings(args: argparse.Namespace, target: Path, head: Path | None) -> Settings:
    load = load_options(args)
    lengths = args.num_speculative_tokens or load.pop("num_speculative_tokens", None)
    if lengths is None:
        lengths = "0" if head is None else "auto"
    load.pop("drafter", None)
    sampling = read_sampling(args) | {"synthetic_acceptance": _numbers(args.synthetic_acceptance, float)}
    del sampling["num_speculative_tokens"]  # here it may be several
    return make_settings(
        target,
        head,
        draft_lengths=parse_draft_lengths(str(lengths)),
        **sampling,
        prompts=args.prompts,
        contexts=_numbers(args.contexts, int),
        load=load,
        runs=args.runs,
        warmup=args.warmup,
        peer=args.peer,
        peer_settings=args.peer_settings,
        random_weights=args.shape is not None,
    )


def _numbers(text: str | None, kind: type[Number]) -> tuple[Number, ...]:
    return () if text is None else parse_numbers(text, kind)
