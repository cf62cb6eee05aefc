"""The command `pyllama-mtp chat`: a conversation on the terminal."""

import argparse
import contextlib
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pyllama_mtp.commands.arguments import read_sampling
from pyllama_mtp.commands.model import add_files, add_loading, add_sampling, find_model, load_options
from pyllama_mtp.commands.parser import Commands
from pyllama_mtp.commands.reading import read_text
from pyllama_mtp.commands.run import add_template_options
from pyllama_mtp.commands.terminal import is_terminal
from pyllama_mtp.errors import ChatTemplateError, InvalidRequestError
from pyllama_mtp.model import Model

if TYPE_CHECKING:
    from pyllama_mtp.commands.dialogue.keyboard import Keyboard
    from pyllama_mtp.commands.dialogue.session import Session

DESCRIPTION = """Talks with a model. Enter sends a message; Alt-Enter, Ctrl-J, or a backslash and Enter make a new line.
Ctrl-C stops an answer, Ctrl-D ends the program, and /help lists the commands. Thoughts are dimmed."""

EXAMPLES = """examples:
  pyllama-mtp chat -hf unsloth/gemma-4-E2B-it-GGUF:Q4_0 --mtp-head auto
  pyllama-mtp chat model.gguf --mtp-head assistant.gguf --n-ctx max --think
  pyllama-mtp chat model.gguf --system "You answer in one sentence."
  pyllama-mtp chat model.gguf --load earlier.json --temperature 0.3"""


def add_parser(commands: Commands) -> None:
    """Adds `chat` to the command line."""
    parser = commands.add_parser("chat", help="talk with a model", description=DESCRIPTION, epilog=EXAMPLES)
    parser.set_defaults(action=chat)
    add_files(parser)
    conversation = parser.add_argument_group("conversation")
    add_template_options(conversation)
    conversation.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    conversation.add_argument("--no-history", action="store_true", help="neither read nor keep the lines you type")
    add_sampling(parser)
    add_loading(parser)


def chat(args: argparse.Namespace) -> int:
    """Runs the command, on a terminal. Raises PyllamaMtpError."""
    if not is_terminal():
        raise InvalidRequestError("chat is for a terminal, and here is none: pyllama-mtp run reads and writes pipes")
    from pyllama_mtp.commands.dialogue.conversation import Conversation
    from pyllama_mtp.commands.dialogue.saved import load as load_conversation
    from pyllama_mtp.commands.dialogue.screen import Screen
    from pyllama_mtp.commands.dialogue.session import Session

    load = load_options(args)
    template = None if args.chat_template is None else read_text(args.chat_template)
    conversation = Conversation(args.system, [], args.think, read_sampling(args))
    if args.load is not None:
        conversation = load_conversation(Path(args.load))
    conversation.chat_template = template
    files = find_model(args)
    with (
        _ended_by_signals(),
        Model(files.target, mtp_head=files.mtp_head, max_num_seqs=1, progress=True, **load) as model,
    ):
        _check_template(model, template)
        session = Session(model, conversation, Screen(sys.stdout))
        session.greet()
        session.run(_keyboard(session, args.no_history))
    return 0


def _check_template(model: Model, template: str | None) -> None:
    """Raises ChatTemplateError now, rather than at the first message."""
    try:
        model.render_chat([{"role": "user", "content": "Hi"}], chat_template=template)
    except ChatTemplateError as error:
        raise ChatTemplateError(f"{error}; pyllama-mtp run --raw completes text without a template") from error


def _keyboard(session: "Session", no_history: bool) -> "Keyboard":
    from pyllama_mtp.commands.dialogue.keyboard import Keyboard, history_path
    from pyllama_mtp.commands.dialogue.slash import COMMANDS

    try:
        return Keyboard(list(COMMANDS), None if no_history else history_path(), session.status)
    except (OSError, RuntimeError) as error:
        session.screen.note(f"the lines you type are not kept: {error}")
        return Keyboard(list(COMMANDS), None, session.status)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A terminal is left as it was found also where the program is told to end, or its window is closed."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    terminal = sys.stdin.fileno()
    settings = termios.tcgetattr(terminal)
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        # A signal right behind a change of the terminal comes in front of the `try` that would take it back.
        with contextlib.suppress(termios.error):  # the window may be gone
            termios.tcsetattr(terminal, termios.TCSANOW, settings)
        for number, handler in before.items():
            signal.signal(number, handler)
