"""A server of one model with OpenAI's API, vLLM's names and llama-server's timings, and a page to look at.

It stands on Model and what that gives out, and on nothing below; nothing of the package imports it but its command.
create_app() makes the ASGI application, for `pyllama-mtp serve` and for other servers of such applications.
"""

from pyllama_mtp.server.app import create_app
from pyllama_mtp.server.options import ServerOptions

__all__ = ["ServerOptions", "create_app"]
