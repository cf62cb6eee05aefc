"""The command `pyllama-mtp`: puts the commands together, and tells their errors."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyllama_mtp.builds import current_build
from pyllama_mtp.commands import bench, chat, demo, info, run, serve
from pyllama_mtp.commands.parser import Parser
from pyllama_mtp.errors import PyllamaMtpError, one_line

DESCRIPTION = """Gemma 4 with multi-token prediction: a small assistant drafts tokens, the model verifies them, and the
text is the model's own. docs/cli.md tells about the commands."""

EXAMPLES = """examples:
  pyllama-mtp demo
  pyllama-mtp chat -hf unsloth/gemma-4-E2B-it-GGUF:Q4_0 --mtp-head auto
  pyllama-mtp run model.gguf --mtp-head assistant.gguf "Why is the sky blue?"
  pyllama-mtp serve model.gguf --mtp-head assistant.gguf
  pyllama-mtp info model.gguf

pyllama-mtp COMMAND --help tells about each. convert-assistant makes MTP heads of checkpoints."""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"pyllama-mtp {version('pyllama-mtp')} ({current_build().name})")
        parser.exit()


def _parser() -> Parser:
    parser = Parser(prog="pyllama-mtp", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action=_Version, nargs=0, help="show version and build, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (chat, run, serve, info, bench, demo):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (an error, told in one line), 2 (usage) or 130 (Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a model writes what not every encoding has
    args = _parser().parse_args(argv)
    args.arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return int(args.action(args))
    except PyllamaMtpError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output has left, so nothing more can be told
        _leave_output()
        return 1
    except OSError as error:  # such as a full disk behind standard output
        _leave_output()
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\npyllama-mtp: interrupted", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"pyllama-mtp: error: {one_line(message)}", file=sys.stderr)
    return 1


def _leave_output() -> None:
    """What waits to be written has nowhere to go, and Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
