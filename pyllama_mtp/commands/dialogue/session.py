"""The loop of a conversation: reads a line, which is a command or a message, and answers."""

from pyllama_mtp.commands.dialogue import slash
from pyllama_mtp.commands.dialogue.answer import Answer, show
from pyllama_mtp.commands.dialogue.conversation import Conversation
from pyllama_mtp.commands.dialogue.keyboard import Keyboard
from pyllama_mtp.commands.dialogue.screen import Screen
from pyllama_mtp.commands.figures import in_short
from pyllama_mtp.errors import PyllamaMtpError, shown
from pyllama_mtp.model import Model
from pyllama_mtp.results import Stats

_NOTHING = "; nothing was answered, so the message is taken back"


class Session:
    """A model and a conversation with it. stats: of the last answer."""

    def __init__(self, model: Model, conversation: Conversation, screen: Screen):
        self.model = model
        self.conversation = conversation
        self.screen = screen
        self.stats: Stats | None = None

    def greet(self) -> None:
        """What is talked with, and how."""
        info = self.model.info
        name = f"{shown(info.name)}, {info.n_ctx} tokens of context, drafter: {info.drafter}"
        self.screen.note(f"{name}\nCtrl-C stops an answer, Ctrl-D ends, /help lists commands")
        for message in self.conversation.messages[-2:]:
            self.screen.message(message["role"], message["content"])

    def status(self) -> str:
        """The line below the prompt."""
        parts = [shown(self.model.info.name)]
        if self.stats is None:
            parts.append("/help tells about commands")
        else:
            used = self.stats.prompt_tokens + self.stats.completion_tokens
            parts += [in_short(self.stats), f"{used} of {self.model.info.n_ctx} tokens in use"]
        return " | ".join(parts)

    def run(self, keyboard: Keyboard) -> None:
        """Until Ctrl-D or /exit."""
        while True:
            try:
                line = keyboard.read()
                if line.strip():
                    self._take(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                self.screen.note("Ctrl-D ends the program")
            except PyllamaMtpError as error:
                self.screen.error(str(error))

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            slash.obey(self, line)
        else:
            self.say(line.strip())

    def say(self, text: str) -> None:
        """A message of the user, which is taken back if nothing is answered. Raises PyllamaMtpError."""
        messages = self.conversation.messages
        n_before = len(messages)
        try:
            self.conversation.ask(text)
            answer = show(self.model.generate(**self.conversation.request()), self.screen)
            if answer.text or answer.reasoning:
                self.conversation.answered(answer.text, answer.reasoning)
                n_before = len(messages)
        except KeyboardInterrupt:  # while the prompt was made
            self.screen.note(f"(stopped{_NOTHING})")
        else:
            self.stats = answer.stats
            self._tell_end(answer)
        finally:
            del messages[n_before:]
            self.screen.end()

    def _tell_end(self, answer: Answer) -> None:
        if answer.finish_reason == "cancelled":
            self.screen.note(f"(stopped{'' if answer.text or answer.reasoning else _NOTHING})")
        elif answer.finish_reason == "length":
            limit = self.conversation.sampling["max_tokens"]
            full = f"the context of {self.model.info.n_ctx} tokens is full: /clear, or start with a larger --n-ctx"
            reached = limit is not None and answer.stats.completion_tokens >= limit
            self.screen.note(f"(cut: {f'max_tokens is {limit}' if reached else full})")
        elif not answer.text:
            self.screen.note("(the model ended without an answer)")
