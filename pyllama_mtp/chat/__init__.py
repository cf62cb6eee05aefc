"""Chat: messages, and the text that a model's own template makes of them."""

from pyllama_mtp.chat.messages import Message
from pyllama_mtp.chat.template import Rendered, render

__all__ = ["Message", "Rendered", "render"]
