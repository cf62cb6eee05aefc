"""The command `pyllama-mtp serve`: its arguments, many of them vLLM's, and what they mean for Model and the server.

The server's libraries are imported when it starts, so that no other command waits for them.
"""

import argparse
import ipaddress
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyllama_mtp.commands.model import (
    COMPUTED,
    LOADED,
    add_files,
    add_generation_config,
    add_loading,
    find_model,
    load_options,
)
from pyllama_mtp.commands.parser import Commands
from pyllama_mtp.errors import InvalidRequestError, ServerError
from pyllama_mtp.model import Model

if TYPE_CHECKING:
    from pyllama_mtp.server import ServerOptions

DESCRIPTION = """Serves a model with OpenAI's API at /v1 and a page to chat at /. Most options have vLLM's names.
docs/server.md has an example of everything."""

EXAMPLES = """examples:
  pyllama-mtp serve target.gguf --mtp-head assistant.gguf
  pyllama-mtp serve -hf unsloth/gemma-4-E2B-it-GGUF:Q4_0 --mtp-head auto
  pyllama-mtp serve target.gguf --max-model-len 16384 --max-num-seqs 8 \\
      --speculative-config '{"method": "mtp", "model": "assistant.gguf",
      "num_speculative_tokens": 3}'
  pyllama-mtp serve target.gguf --host 0.0.0.0 --api-key "$KEY" \\
      --served-model-name gemma-4-E4B-it"""

# Flags of vLLM's that need nothing here, with the values that are true here; None: any.
VLLM_FLAGS: dict[str, tuple[str, ...] | None] = {
    "--dtype": None,
    "--gpu-memory-utilization": None,
    "--kv-cache-dtype": ("auto",),
    "--tensor-parallel-size": ("1",),
    "--pipeline-parallel-size": ("1",),
    "--tool-call-parser": ("gemma4",),
    "--reasoning-parser": ("gemma4",),
    "--load-format": ("auto", "gguf"),
}
VLLM_SWITCHES = (
    "--enable-auto-tool-choice",
    "--trust-remote-code",
    "--disable-log-requests",
    "--no-enable-log-requests",
    "--enable-chunked-prefill",
)

log = logging.getLogger("pyllama_mtp.server")


def add_parser(commands: Commands) -> None:
    """Adds `serve` to the command line."""
    about = "answer over HTTP, with OpenAI's API and a page"
    parser = commands.add_parser("serve", help=about, description=DESCRIPTION, epilog=EXAMPLES)
    parser.set_defaults(action=serve)
    add_files(parser)
    _add_requests(parser.add_argument_group("requests"))
    add_loading(parser, LOADED + ("max_num_seqs", "max_queue") + COMPUTED)
    _add_network(parser.add_argument_group("network"))
    _add_limits(parser.add_argument_group("limits"))
    vllm = parser.add_argument_group("taken from vLLM's command lines, without effect here")
    for flag, values in VLLM_FLAGS.items():
        vllm.add_argument(flag, choices=values, metavar="X", help=argparse.SUPPRESS)
    for flag in VLLM_SWITCHES:
        vllm.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    vllm.description = " ".join([*VLLM_FLAGS, *VLLM_SWITCHES])


def _add_requests(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--served-model-name", nargs="+", default=[], metavar="NAME", help="default: the file's own")
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep memory for what texts have in common (default: yes)",
    )
    add_generation_config(group)


def _add_network(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    group.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    group.add_argument("--api-key", nargs="+", default=[], metavar="KEY", help="any of these opens the API")
    group.add_argument("--allowed-hosts", nargs="+", metavar="NAME", help="default: on loopback its names, else any")
    group.add_argument(
        "--allowed-origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help='of other pages; "*": all (default: none)',
    )
    group.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: %(default)s"
    )


def _add_limits(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--max-body-bytes", type=int, default=8 << 20, metavar="N", help="default: %(default)s")
    group.add_argument("--max-messages", type=int, default=1024, metavar="N", help="default: %(default)s")
    group.add_argument("--max-choices", type=int, default=16, metavar="N", help="of a request (default: %(default)s)")
    group.add_argument("--max-completion-tokens", type=int, metavar="N", help="of a text (default: what has room)")
    group.add_argument("--max-requests", type=int, metavar="N", help="at once (default: those that run and wait)")
    group.add_argument("--max-connections", type=int, default=1024, metavar="N", help="default: %(default)s")
    group.add_argument("--request-seconds", type=float, default=3600.0, metavar="S", help="default: %(default)g")
    group.add_argument("--header-seconds", type=float, default=20.0, metavar="S", help="default: %(default)g")
    group.add_argument("--body-seconds", type=float, default=30.0, metavar="S", help="default: %(default)g")
    group.add_argument("--write-seconds", type=float, default=60.0, metavar="S", help="default: %(default)g")
    group.add_argument("--drain-seconds", type=float, default=25.0, metavar="S", help="default: %(default)g")
    group.add_argument("--trust-request-chat-template", action="store_true", help="let requests bring a template")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server_options(args: argparse.Namespace) -> "ServerOptions":
    from pyllama_mtp.server import ServerOptions

    hosts = args.allowed_hosts
    if hosts is None and is_loopback(args.host):
        hosts = ["localhost", "127.0.0.1", "[::1]", f"[{args.host}]" if ":" in args.host else args.host]
    elif hosts == ["*"]:
        hosts = None
    try:
        return ServerOptions(
            served_model_names=tuple(args.served_model_name),
            api_keys=tuple(args.api_key),
            allowed_hosts=None if hosts is None else tuple(hosts),
            allowed_origins=tuple(_origins(args.allowed_origins)),
            max_body_bytes=args.max_body_bytes,
            max_messages=args.max_messages,
            max_choices=args.max_choices,
            max_completion_tokens=args.max_completion_tokens,
            max_requests=args.max_requests,
            max_connections=args.max_connections,
            request_seconds=args.request_seconds,
            header_seconds=args.header_seconds,
            body_seconds=args.body_seconds,
            write_seconds=args.write_seconds,
            drain_seconds=args.drain_seconds,
            trust_request_chat_template=args.trust_request_chat_template,
        )
    except InvalidRequestError as error:
        raise ServerError(str(error)) from error


def _origins(given: Sequence[str]) -> list[str]:
    """Words, or as vLLM takes them a JSON list in one."""
    if len(given) == 1 and given[0].startswith("["):
        try:
            listed = json.loads(given[0])
        except ValueError as error:
            raise ServerError(f"--allowed-origins is no JSON: {error}") from None
        return [str(origin) for origin in listed]
    return list(given)


def serve(args: argparse.Namespace) -> int:
    """Runs the command: listens once the model is loaded, and returns when the server was told to end."""
    from pyllama_mtp.server import create_app
    from pyllama_mtp.server.listen import bind
    from pyllama_mtp.server.listen import serve as listen

    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(args.log_level.upper())
    if args.log_level == "info":  # of the libraries below less
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("pyllama_mtp").setLevel(logging.ERROR)
    options = _server_options(args)
    load: dict[str, Any] = load_options(args)
    if not args.enable_prefix_caching:
        load["prefix_cache_bytes"] = 0
    with bind(args.host, args.port) as sock:
        files = find_model(args)
        with Model(files.target, mtp_head=files.mtp_head, progress=True, **load) as model:
            app = create_app(model, options)
            host, port = sock.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            if not is_loopback(host) and not options.api_keys:
                log.warning("anyone who reaches %s may use the model: --api-key asks for a key", url)
            log.info("serving %s at %s/v1, and a page at %s/", app.state.names[0], url, url)
            listen(app, sock)
    return 0
