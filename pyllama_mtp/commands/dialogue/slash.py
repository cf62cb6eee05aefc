"""The commands of a conversation: lines that begin with a slash."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllama_mtp.commands.arguments import SAMPLING, word_of
from pyllama_mtp.commands.dialogue.saved import load, save
from pyllama_mtp.commands.figures import format_stats
from pyllama_mtp.errors import InvalidRequestError, seen, shown
from pyllama_mtp.options import SamplingOptions
from pyllama_mtp.ranges import Flag

if TYPE_CHECKING:
    from pyllama_mtp.commands.dialogue.session import Session

NOTHING = ("none", "default")  # as a value: what is so by itself
_KEYS = (
    "Enter sends; Alt-Enter, Ctrl-J, or a backslash and Enter make a new line.",
    "Ctrl-C stops an answer; Ctrl-D ends the program.",
)
_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True, slots=True)
class Command:
    """argument: for the list of commands. act: does it, with what stands behind the name."""

    argument: str
    help: str
    act: "Callable[[Session, str], None]"


def obey(session: "Session", line: str) -> None:
    """Raises InvalidRequestError for a command that is none or makes no sense, and EOFError to end."""
    name, argument = (*line.split(maxsplit=1), "")[:2]
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        raise InvalidRequestError(
            f"{seen(name)} is no command: /help lists them. A message that begins with / takes a blank before it"
        )
    if argument and not command.argument:
        raise InvalidRequestError(f"{name} takes no argument, {seen(argument)} was given")
    command.act(session, argument.strip())


def _help(session: "Session", _: str) -> None:
    rows = [(f"{name} {command.argument}".strip(), command.help) for name, command in COMMANDS.items()]
    width = max(len(usage) for usage, _ in rows)
    lines = [f"{usage:{width}}  {text}" for usage, text in rows]
    session.screen.note("\n".join([*lines, *_KEYS]))


def _system(session: "Session", argument: str) -> None:
    conversation = session.conversation
    if argument:
        conversation.system = None if argument in NOTHING else argument
    session.screen.note(f"system prompt: {'none' if conversation.system is None else conversation.system}")


def _set(session: "Session", argument: str) -> None:
    name, _, value = argument.partition(" ")
    name = name.replace("-", "_")
    if name and name not in SAMPLING:
        raise InvalidRequestError(f"{seen(name)} is no option, expected one of {', '.join(SAMPLING)}")
    if value:
        changed = session.conversation.sampling | {name: _value(name, value.strip())}
        checked = SamplingOptions(**changed)
        session.conversation.sampling = {option: getattr(checked, option) for option in SAMPLING}
    session.screen.note("\n".join(_told(session, [name] if name else list(SAMPLING))))


def _told(session: "Session", names: list[str]) -> Iterator[str]:
    own = session.model.info.sampling
    for name in names:
        value = session.conversation.sampling[name]
        if value is None:
            told = f"{getattr(own, name):g}, the model's own" if hasattr(own, name) else NOTHING[0]
        else:
            told = shown(value)
        yield f"{name}: {told}"


def _value(name: str, text: str) -> Any:
    """What a word means for an option. Raises InvalidRequestError."""
    if text in NOTHING:
        return SAMPLING[name]
    legal = word_of(name)
    if isinstance(legal, Flag):
        return _switched(name, text)
    if name == "stop":
        return [text]
    try:
        return legal.argument().get("type", str)(text)
    except ValueError:
        return text  # the option's check tells what was expected


def _switched(name: str, text: str) -> bool:
    if text not in _SWITCH:
        raise InvalidRequestError(f"{name} is {seen(text)}, expected on or off")
    return _SWITCH[text]


def _seed(session: "Session", argument: str) -> None:
    _set(session, f"seed {argument}".strip())
    if session.conversation.sampling["seed"] is None:
        session.screen.note("each answer draws its own; /stats tells which it was")


def _k(session: "Session", argument: str) -> None:
    if argument:
        _set(session, f"num_speculative_tokens {argument}")
    k = session.conversation.sampling["num_speculative_tokens"]
    used = session.model.options.num_speculative_tokens if k is None else k
    nothing = "; nothing drafts: there is no MTP head" if session.model.info.drafter == "none" else ""
    session.screen.note(f"drafts a round: {used}{nothing}")


def _think(session: "Session", argument: str) -> None:
    conversation = session.conversation
    if argument:
        conversation.think = None if argument in NOTHING else _switched("think", argument)
    told = {None: "as the model's template has it", True: "on", False: "off"}
    session.screen.note(f"thinking: {told[conversation.think]}")


def _save(session: "Session", argument: str) -> None:
    path = _path(argument, "/save")
    save(path, session.conversation)
    session.screen.note(f"saved {len(session.conversation.messages)} messages in {shown(path)}")


def _load(session: "Session", argument: str) -> None:
    path = _path(argument, "/load")
    loaded = load(path)
    loaded.chat_template = session.conversation.chat_template
    session.conversation, session.stats = loaded, None
    session.screen.note(f"loaded {len(loaded.messages)} messages from {shown(path)}")
    for message in loaded.messages[-2:]:
        session.screen.message(message["role"], message["content"])


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise InvalidRequestError(f"{command} needs a file's name")
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:
        raise InvalidRequestError(f"{seen(argument)} names no folder: {error}") from error


def _stats(session: "Session", _: str) -> None:
    session.screen.note("no answer yet" if session.stats is None else format_stats(session.stats))


def _clear(session: "Session", _: str) -> None:
    session.conversation.messages.clear()
    session.stats = None
    session.screen.note("a new conversation; system prompt and options are as they were")


def _again(session: "Session", _: str) -> None:
    conversation = session.conversation
    before = list(conversation.messages)
    text = conversation.take_back()
    if text is None:
        raise InvalidRequestError("there is no message to answer again")
    if conversation.sampling["seed"] is not None:
        session.screen.note("the seed is fixed, so it gives the same text: /seed none draws another one")
    n_kept = len(conversation.messages)
    try:
        session.say(text)
    finally:
        if len(conversation.messages) == n_kept:  # nothing was answered: the old answer stays
            conversation.messages[:] = before


def _undo(session: "Session", _: str) -> None:
    text = session.conversation.take_back()
    session.screen.note("there is nothing to take back" if text is None else f"taken back: {shown(text)}")


def _exit(session: "Session", _: str) -> None:
    raise EOFError


COMMANDS = {
    "/help": Command("", "lists the commands", _help),
    "/system": Command("[TEXT|none]", "shows or sets the system prompt", _system),
    "/seed": Command("[N|none]", "shows or fixes the seed; none: each answer draws one", _seed),
    "/k": Command("[N|auto]", "shows or sets the drafts a round, 0 to 16", _k),
    "/think": Command("[on|off|default]", "shows or sets whether the model may think", _think),
    "/set": Command("[OPTION [VALUE|none]]", "shows or sets a sampling option, such as temperature", _set),
    "/save": Command("FILE", "writes the conversation to a file", _save),
    "/load": Command("FILE", "goes on with a saved conversation", _load),
    "/stats": Command("", "shows the figures of the last answer", _stats),
    "/regenerate": Command("", "answers the last message again", _again),
    "/undo": Command("", "takes the last message and its answer back", _undo),
    "/clear": Command("", "begins a new conversation", _clear),
    "/exit": Command("", "ends the program, as Ctrl-D does", _exit),
}
ALIASES = {"/quit": "/exit", "/bye": "/exit", "/retry": "/regenerate", "/new": "/clear", "/?": "/help"}
