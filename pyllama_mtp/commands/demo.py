"""The command `pyllama-mtp demo`: a completion by the embedded pair, and its figures."""

import argparse
from importlib import resources
from pathlib import Path

from pyllama_mtp.commands.arguments import read_loading, read_sampling
from pyllama_mtp.commands.figures import format_stats
from pyllama_mtp.commands.model import COMPUTED, add_loading, add_sampling
from pyllama_mtp.commands.parser import Commands
from pyllama_mtp.commands.run import print_stream
from pyllama_mtp.model import Model

PROMPT = '''def read_config(path):
    """Return the settings in the file as a dictionary."""
'''

DESCRIPTION = """Streams Python source from the small pair that is inside the package, drafted by its MTP head, and
shows the figures. It needs no other file."""

EXAMPLES = """examples:
  pyllama-mtp demo
  pyllama-mtp demo --num-speculative-tokens 0 --seed 7"""


def add_parser(commands: Commands) -> None:
    """Adds `demo` to the command line."""
    about = "stream a completion from the embedded pair, and show the figures"
    parser = commands.add_parser("demo", help=about, description=DESCRIPTION, epilog=EXAMPLES)
    parser.set_defaults(action=demo)
    parser.add_argument("--prompt", default=PROMPT, help="Python source (default: the beginning of a function)")
    # The pair is so small that drafting does not pay and "auto" would soon stop: a fixed number shows how it works.
    add_sampling(parser, max_tokens=200, temperature=0.8, num_speculative_tokens=3)
    add_loading(parser, COMPUTED)


def demo(args: argparse.Namespace) -> int:
    """Runs the command. Raises PyllamaMtpError."""
    folder = Path(str(resources.files("pyllama_mtp") / "demo"))
    options = read_loading(args)
    with Model(folder / "target.gguf", mtp_head=folder / "assistant.gguf", max_num_seqs=1, **options) as model:
        stream = model.generate(args.prompt, **read_sampling(args))
        print(args.prompt, end="", flush=True)
        print_stream(stream)
        print(f"\n{format_stats(stream.stats)}")
    return 0
