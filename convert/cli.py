"""The command `convert-assistant`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyllama_mtp.convert.assistant import OUTTYPES, convert_assistant
from pyllama_mtp.convert.upgrade import upgrade_assistant
from pyllama_mtp.errors import ConversionError, DownloadError, one_line
from pyllama_mtp.gguf.gemma4_assistant import OLD_LAYOUTS
from pyllama_mtp.hub import find_checkpoint
from pyllama_mtp.hub.names import is_repository


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status: 0, 1 (a refusal, told in one line), 2 (usage) or 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser(
        prog="convert-assistant",
        description="Convert a Gemma 4 assistant to a GGUF file, from its checkpoint (safetensors) or a GGUF file "
        "in an older layout. A checkpoint may lie in a folder or in a repository of the Hugging Face hub.",
    )
    parser.add_argument(
        "model",
        type=Path,
        help="folder with config.json, tokenizer.json and *.safetensors; a repository of such files, as in "
        "google/gemma-4-E2B-it-assistant, unless a folder has that name; or a GGUF file of the layout "
        + " or ".join(OLD_LAYOUTS),
    )
    parser.add_argument("--revision", help="branch, tag or commit of a repository (default: main)")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument(
        "--outtype",
        type=str.lower,
        choices=OUTTYPES,
        help="type of a checkpoint's matrices (default: f16); a GGUF file keeps its types",
    )
    args = parser.parse_args(argv)
    upgrades = os.path.isfile(args.model)
    if upgrades and args.outtype:
        parser.error("--outtype is for checkpoints: the tensors of a GGUF file keep their types")
    from_hub = not os.path.lexists(args.model) and is_repository(str(args.model))
    if args.revision is not None and not from_hub:
        parser.error(f"--revision is for repositories, and {one_line(str(args.model))} is none")
    logging.basicConfig(format="convert-assistant: %(message)s", level=logging.WARNING)
    try:
        if upgrades:
            path = upgrade_assistant(args.model, args.out)
        else:
            outtype, progress, folder, name = args.outtype or "f16", sys.stderr.isatty(), args.model, None
            if from_hub:
                folder = find_checkpoint(str(args.model), revision=args.revision, progress=progress)
                name = args.model.name
            path = convert_assistant(folder, args.out, outtype=outtype, name=name, progress=progress)
    except (ConversionError, DownloadError) as error:
        print(f"convert-assistant: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nconvert-assistant: interrupted", file=sys.stderr)
        return 130
    print(f"{one_line(str(path))}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
