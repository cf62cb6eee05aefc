"""What a server is told besides its model: names, keys, who may ask, and limits."""

from dataclasses import dataclass
from typing import Annotated

from pyllama_mtp.ranges import Flag, Integer, Number, Texts, check_fields

_COUNT = Integer(1, 1 << 30)
_SECONDS = Number(0, 1e6, open_low=True)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Limits are for each request unless said otherwise; sizes in bytes, times in seconds.

    served_model_names: the first one is told in answers; none: the model's own. api_keys: any of them opens what
    generates; none: no key is asked for. allowed_hosts: names in the header Host, None: any. allowed_origins: other
    origins whose pages may ask, "*": all. max_choices: n times the number of prompts. max_completion_tokens: None: as
    many as the context has room for. request_seconds: from its body until its end. header_seconds, body_seconds: for
    their arrival. write_seconds: a client that reads nothing for so long is cut off. max_requests: of all clients
    together that are prepared or generate; None: as many as the model runs and lets wait. max_connections: open ones.
    drain_seconds: for those that run when the server is told to end. trust_request_chat_template: requests may bring
    a template, which is a program.
    """

    served_model_names: Annotated[tuple[str, ...], Texts()] = ()
    api_keys: Annotated[tuple[str, ...], Texts()] = ()
    allowed_hosts: Annotated[tuple[str, ...] | None, Texts()] = None
    allowed_origins: Annotated[tuple[str, ...], Texts()] = ()
    max_body_bytes: Annotated[int, _COUNT] = 8 << 20
    max_messages: Annotated[int, _COUNT] = 1024
    max_choices: Annotated[int, _COUNT] = 16
    max_completion_tokens: Annotated[int | None, _COUNT] = None
    max_requests: Annotated[int | None, _COUNT] = None
    max_connections: Annotated[int, _COUNT] = 1024
    request_seconds: Annotated[float, _SECONDS] = 3600.0
    header_seconds: Annotated[float, _SECONDS] = 20.0
    body_seconds: Annotated[float, _SECONDS] = 30.0
    write_seconds: Annotated[float, _SECONDS] = 60.0
    drain_seconds: Annotated[float, _SECONDS] = 25.0
    trust_request_chat_template: Annotated[bool, Flag()] = False

    def __post_init__(self) -> None:
        check_fields(self)
