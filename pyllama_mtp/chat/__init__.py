"""Chat: messages, and the text that a model's own template makes of them."""

from pyllama_mtp.chat.messages import Conversation, Message, Tool, conversation
from pyllama_mtp.chat.template import Rendered, render, rendered

__all__ = ["Conversation", "Message", "Rendered", "Tool", "conversation", "render", "rendered"]
