"""The command `convert-assistant`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pyllama_mtp.convert.assistant import OUTTYPES, convert_assistant
from pyllama_mtp.errors import ConversionError


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status: 0, 1 (a refusal, told in one line), 2 (usage) or 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser(
        prog="convert-assistant", description="Convert a Gemma 4 assistant checkpoint (safetensors) to a GGUF file."
    )
    parser.add_argument("model_dir", type=Path, help="folder with config.json, tokenizer.json and *.safetensors")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument(
        "--outtype", choices=OUTTYPES, default="f16", help="type of the matrices (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(format="convert-assistant: %(message)s", level=logging.WARNING)
    try:
        path = convert_assistant(args.model_dir, args.out, outtype=args.outtype, progress=sys.stderr.isatty())
    except ConversionError as error:
        print(f"convert-assistant: error: {_one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nconvert-assistant: interrupted", file=sys.stderr)
        return 130
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def _one_line(text: str) -> str:
    """Names out of a checkpoint may hold anything: line ends and a terminal's control sequences are shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if __name__ == "__main__":
    sys.exit(main())
