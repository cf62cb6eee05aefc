"""The command `pyllama-mtp`: demo, run, serve, bench, info."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path

from pyllama_mtp.arguments import DEFAULTS, add_options, read_options
from pyllama_mtp.bench.cli import add_parser as add_bench_parser
from pyllama_mtp.chat import Message
from pyllama_mtp.errors import PyllamaMtpError, one_line, shown
from pyllama_mtp.model import Model
from pyllama_mtp.results import Stats
from pyllama_mtp.sampling import Sampling
from pyllama_mtp.serve import add_parser as add_serve_parser
from pyllama_mtp.stream import Stream

DEMO_PROMPT = '''def read_config(path):
    """Return the settings in the file as a dictionary."""
'''


def _print_stream(stream: Stream) -> None:
    """Text and calls; what the model thinks goes to stderr."""
    for chunk in stream:
        if chunk.reasoning:
            print(chunk.reasoning, end="", file=sys.stderr, flush=True)
        print(chunk.text + "".join(call.raw for call in chunk.tool_calls), end="", flush=True)
    print()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def format_stats(stats: Stats) -> str:
    """The figures of a completion as a few lines of text."""
    per_position = " ".join(_percent(share) for share in stats.acceptance_per_position or ()) or "-"
    length = "-" if stats.mean_acceptance_length is None else f"{stats.mean_acceptance_length:.2f} tokens a round"
    speed = "-" if stats.tokens_per_second is None else f"{stats.tokens_per_second:.1f} tokens/s"
    rounds = max(1, stats.rounds)
    rest = stats.decode_seconds - stats.draft_seconds - stats.verify_seconds - stats.sample_seconds
    times = (stats.draft_seconds, stats.verify_seconds, stats.sample_seconds, rest)
    return "\n".join(
        (
            f"prompt                   {stats.prompt_tokens} tokens ({stats.cached_prompt_tokens} cached), "
            f"{stats.prompt_seconds:.3f} s",
            f"completion               {stats.completion_tokens} tokens in {stats.rounds} rounds, seed {stats.seed}, "
            f"acceptance {stats.acceptance}",
            f"sampling                 {stats.sampling}",
            f"speed                    {speed}",
            f"acceptance rate          {_percent(stats.acceptance_rate)} of {stats.drafted} drafted tokens",
            f"mean acceptance length   {length}",
            f"acceptance per position  {per_position}",
            "time a round             "
            + ", ".join(
                f"{name} {seconds / rounds * 1e3:.2f} ms"
                for name, seconds in zip(("draft", "verify", "sample", "rest"), times, strict=True)
            ),
        )
    )


def _add_generation_options(parser: argparse.ArgumentParser, **defaults: object) -> None:
    notes = {field.name: "default: the model's own" for field in fields(Sampling) if field.name not in defaults}
    add_options(parser, DEFAULTS | defaults, notes)
    parser.add_argument("--n-threads", type=int, help="default: every CPU this process may use")


def _generate(args: argparse.Namespace, target: Path, head: Path | None, prompt: str | list[Message]) -> int:
    with Model(target, mtp_head=head, n_ctx=getattr(args, "n_ctx", None), n_threads=args.n_threads) as model:
        stream = model.generate(prompt, **read_options(args))
        if isinstance(prompt, str):
            print(prompt, end="", flush=True)
        _print_stream(stream)
        print(f"\n{format_stats(stream.stats)}", file=sys.stderr if args.command == "run" else sys.stdout)
    return 0


def _demo(args: argparse.Namespace) -> int:
    demo = Path(str(resources.files("pyllama_mtp") / "demo"))
    return _generate(args, demo / "target.gguf", demo / "assistant.gguf", args.prompt)


def _run(args: argparse.Namespace) -> int:
    prompt: str | list[Message] = [{"role": "user", "content": args.prompt}] if args.chat else args.prompt
    return _generate(args, args.target, args.mtp_head, prompt)


def _info(args: argparse.Namespace) -> int:
    with Model(args.target, mtp_head=args.mtp_head, n_ctx=args.n_ctx) as model:
        width = max(len(f.name) for f in fields(model.info))
        for f in fields(model.info):
            print(f"{f.name:{width}}  {shown(getattr(model.info, f.name))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pyllama-mtp", description="Gemma 4 with multi-token prediction.")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="stream a completion from the embedded pair, and show the figures")
    demo.add_argument("--prompt", default=DEMO_PROMPT, help="text to complete: Python source")
    # The pair is so small that drafting does not pay and "auto" would soon stop: a fixed number shows how it works.
    _add_generation_options(demo, max_tokens=200, temperature=0.8, num_speculative_tokens=3)
    demo.set_defaults(action=_demo)

    run = commands.add_parser("run", help="complete a prompt with a model file")
    run.add_argument("--prompt", required=True)
    run.add_argument(
        "--chat", action="store_true", help="the prompt is a user's message: use the model's chat template"
    )
    _add_generation_options(run, max_tokens=512, num_speculative_tokens="auto")
    run.set_defaults(action=_run)

    add_serve_parser(commands)
    add_bench_parser(commands)

    info = commands.add_parser("info", help="load a model file and say what it is and where it lies")
    info.set_defaults(action=_info)

    for command in (run, info):
        command.add_argument("target", type=Path, help="GGUF file")
        command.add_argument("--mtp-head", type=Path, help="GGUF file that convert-assistant made")
        command.add_argument("--n-ctx", type=int, help="tokens of prompt and completion together")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (an error, told in one line), 2 (usage) or 130 (Ctrl-C)."""
    args = _parser().parse_args(argv)
    args.arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return int(args.action(args))
    except PyllamaMtpError as error:
        print(f"pyllama-mtp: error: {one_line(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has left, so nothing more can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\npyllama-mtp: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
