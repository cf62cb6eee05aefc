"""What was said so far, and how the next answer is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyllama_mtp.commands.arguments import SAMPLING


@dataclass(slots=True)
class Conversation:
    """messages: of user and assistant, in OpenAI's shape. think: None: as the template has it. sampling: all options
    that a command line has, by name. chat_template: instead of the model's own.
    """

    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    think: bool | None = None
    sampling: dict[str, Any] = field(default_factory=lambda: dict(SAMPLING))
    chat_template: str | None = None

    def request(self) -> dict[str, Any]:
        """Parameters of Model.generate."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        options: dict[str, Any] = dict(self.sampling)
        if self.think is not None:
            options["chat_template_kwargs"] = {"enable_thinking": self.think}
        if self.chat_template is not None:
            options["chat_template"] = self.chat_template
        return {"prompt": [*system, *self.messages]} | options

    def ask(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def answered(self, text: str, reasoning: str) -> None:
        thought = {"reasoning_content": reasoning} if reasoning else {}
        self.messages.append({"role": "assistant", "content": text} | thought)

    def take_back(self) -> str | None:
        """Removes the last message of the user and what came after it; returns it, None if there is none."""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        return None

    def told_sampling(self) -> Mapping[str, Any]:
        """The options that are not as they are by default."""
        return {name: value for name, value in self.sampling.items() if value != SAMPLING[name]}
