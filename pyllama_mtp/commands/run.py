"""The command `pyllama-mtp run`: one answer, or one completion, to standard output."""

import argparse
import sys
from typing import Any

from pyllama_mtp.commands.arguments import read_sampling
from pyllama_mtp.commands.figures import format_stats
from pyllama_mtp.commands.model import add_files, add_loading, add_sampling, check_named, find_model, load_options
from pyllama_mtp.commands.parser import Commands
from pyllama_mtp.commands.reading import read_prompt, read_text
from pyllama_mtp.commands.terminal import DIM, write
from pyllama_mtp.errors import ChatTemplateError, InvalidRequestError
from pyllama_mtp.model import Model
from pyllama_mtp.options import Prompt
from pyllama_mtp.stream import Stream

DESCRIPTION = """Answers one prompt. The answer goes to standard output; what the model thinks, and the figures, go to
standard error. The prompt is a user's message for the model's chat template, unless --raw is given."""

EXAMPLES = """examples:
  pyllama-mtp run model.gguf "Why is the sky blue?"
  pyllama-mtp run -hf unsloth/gemma-4-E2B-it-GGUF:Q4_0 --mtp-head auto "Hello"
  pyllama-mtp run model.gguf --file notes.txt "Sum this up in three sentences."
  git diff | pyllama-mtp run model.gguf --quiet "Write a commit message." > out
  echo "def fibonacci(n):" | pyllama-mtp run model.gguf --raw --max-tokens 80 -"""


def add_parser(commands: Commands) -> None:
    """Adds `run` to the command line."""
    parser = commands.add_parser("run", help="answer one prompt", description=DESCRIPTION, epilog=EXAMPLES)
    parser.words = "words"
    parser.set_defaults(action=run)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL PROMPT",
        help='GGUF file (with -hf none), and the prompt; "-" reads it from standard input, a pipe is read anyhow',
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the prompt; then a pipe is not read")
    parser.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="text in front of the prompt")
    parser.add_argument("-q", "--quiet", action="store_true", help="no thoughts and no figures")
    add_template_options(parser)
    parser.add_argument("--raw", action="store_true", help="complete the prompt as it is, without a chat template")
    add_files(parser, has_target=False)
    add_sampling(parser)
    add_loading(parser)


def add_template_options(parser: argparse._ActionsContainer) -> None:
    """What a chat template is given beside the user's message."""
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--think", action=argparse.BooleanOptionalAction, help="let the model think, if it can")
    parser.add_argument("--chat-template", metavar="FILE", help="instead of the model's own")


def template_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of Model.generate, but for messages."""
    options: dict[str, Any] = {}
    if args.think is not None:
        options["chat_template_kwargs"] = {"enable_thinking": args.think}
    if args.chat_template is not None:
        options["chat_template"] = read_text(args.chat_template)
    return options


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises PyllamaMtpError."""
    args.target = args.words.pop(0) if args.words and args.hf is None else None
    check_named(args)
    load = load_options(args)
    prompt, options = _prompt(args), template_options(args)
    files = find_model(args)
    with Model(files.target, mtp_head=files.mtp_head, max_num_seqs=1, progress=True, **load) as model:
        try:
            stream = model.generate(prompt, **read_sampling(args), **options)
        except ChatTemplateError as error:
            raise ChatTemplateError(f"{error}; --raw completes the prompt without a template") from error
        print_stream(stream, args.quiet)
        if not args.quiet:
            print(f"\n{format_stats(stream.stats)}", file=sys.stderr)
    return 0


def _prompt(args: argparse.Namespace) -> Prompt:
    parts = read_prompt(args.prompt, args.words, args.file)
    if args.raw:
        for name in ("system", "think", "chat_template"):
            if getattr(args, name) is not None:
                raise InvalidRequestError(f"--{name.replace('_', '-')} is for a chat template, --raw does without")
        return "".join(parts)
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    content = "\n\n".join(part.removesuffix("\n") for part in parts)
    return [*system, {"role": "user", "content": content}]


def print_stream(stream: Stream, quiet: bool = False) -> None:
    """Text and calls; what the model thinks goes to standard error."""
    thinks = False
    for chunk in stream:
        if chunk.reasoning and not quiet:
            write(chunk.reasoning, sys.stderr, DIM)
            thinks = True
        text = chunk.text + "".join(call.raw for call in chunk.tool_calls)
        if text and thinks:
            print(file=sys.stderr, flush=True)
            thinks = False
        write(text, sys.stdout)
    print(flush=True)
