"""Replicas of the server on Ray Serve: pip install 'pyllama-mtp[ray]' and

    python ray_serve.py target.gguf --mtp-head assistant.gguf --replicas 2

or, on a cluster that runs: serve run ray_serve:build target=target.gguf mtp_head=assistant.gguf replicas=2

Clients see one server with OpenAI's API. A Front takes each request and hands it to a Replica, which has a model and
the whole application of pyllama_mtp.server. What belongs to one conversation goes to one replica, whose KV cache has
the conversation's beginning: the Front makes Ray's session id out of the first messages, and Ray's consistent hashing
does the rest. (Ray's proxies choose by headers alone, and its PrefixCacheAffinityRouter comes with vLLM.) If that
replica is busy, the next one in Ray's order answers. If it dies, what it had not begun to answer is asked of another.
"""

import argparse
import asyncio
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from pyllama_mtp import Model
from pyllama_mtp.server import ServerOptions, create_app

PASSED_ON = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client")
PROMPT_BEGINNING = 256  # characters or tokens of a prompt without messages
TRIES = 3
MAX_BODY_BYTES = 8 << 20
ROUTER = RequestRouterConfig(request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter")


@dataclass(frozen=True)
class Settings:
    """What every replica is: its model, and the CPUs and GPUs that Ray reserves for it."""

    target: str
    mtp_head: str | None = None
    served_model_name: str = "gemma"
    api_key: str | None = None
    n_ctx: int = 8192
    max_num_seqs: int = 4
    replicas: int = 2
    cpus: int = 2
    gpus: float = 0
    fronts: int = field(default=1, metadata={"help": "copies of what takes requests, which need little"})


@serve.deployment(request_router_config=ROUTER, graceful_shutdown_timeout_s=60)
class Replica:
    """A model, and the application that serves it."""

    def __init__(self, settings: Settings):
        self._model = Model(
            settings.target,
            mtp_head=settings.mtp_head,
            n_ctx=settings.n_ctx,
            max_num_seqs=settings.max_num_seqs,
            n_threads=settings.cpus,
        )
        options = ServerOptions(
            served_model_names=(settings.served_model_name,),
            api_keys=() if settings.api_key is None else (settings.api_key,),
            max_body_bytes=MAX_BODY_BYTES,
        )
        self._app = create_app(self._model, options)
        self._name = serve.get_replica_context().replica_id.unique_id.encode()

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """The messages with which the application answers. Whoever stops reading ends the request."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not request:
                await asyncio.Event().wait()  # a client that leaves cancels the task
            return request.pop()

        async def run() -> None:
            try:
                await self._app(scope, receive, messages.put)
            finally:
                messages.put_nowait(None)

        task = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", []), (b"x-replica", self._name)]
                yield message
        finally:
            task.cancel()

    def __del__(self) -> None:
        self._model.close()


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress()
class Front:
    """Takes requests from Ray's proxy and hands them to replicas."""

    def __init__(self, replicas: DeploymentHandle):
        self._replicas = replicas.options(stream=True, method_name="answer")

    def __serve_build_asgi_app__(self) -> Starlette:
        return Starlette(routes=[Mount("/", app=self._pass_on)])

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/metrics":
            error = {"message": "there is none for all replicas: see Ray's own metrics", "type": "not_found_error"}
            await JSONResponse({"error": error | {"param": None, "code": None}}, 404)(scope, receive, send)
            return
        body = await read_body(receive)
        if body is None:
            return
        passed_on = {name: scope[name] for name in PASSED_ON if name in scope}
        replicas = self._replicas.options(session_id=conversation(body))
        begun = streams = False
        for tries_left in reversed(range(TRIES)):
            response = replicas.remote(passed_on, body)
            try:
                async for message in response:
                    await send(message)
                    begun = True
                    streams = streams or (b"content-type", b"text/event-stream") in message.get("headers", ())
                return
            except asyncio.CancelledError:  # the client left
                response.cancel()
                raise
            except RayActorError:  # the replica died
                if begun or not tries_left:
                    break
        text = "the replica that answered has died"
        error = {"message": text, "type": "service_unavailable_error", "param": None, "code": "replica_died"}
        if streams:
            data = f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": False})
        elif not begun:
            await JSONResponse({"error": error}, 503, {"Retry-After": "1"})(scope, receive, send)


async def read_body(receive: Receive) -> bytes | None:
    """Of what is too large so much that the replica says so; None: the client left."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(body) <= MAX_BODY_BYTES:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def conversation(body: bytes) -> str:
    """What all requests of a conversation have in common, as a hash; "" where there is nothing of that kind.

    That is the messages until the first one of a user, or the beginning of a prompt.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(asked, dict):
        return ""
    beginning = asked.get("messages", asked.get("prompt"))
    if not isinstance(beginning, list | str):
        return ""
    n = PROMPT_BEGINNING
    if "messages" in asked:
        users = [
            i for i, message in enumerate(beginning) if isinstance(message, dict) and message.get("role") == "user"
        ]
        n = users[0] + 1 if users else 1
    return hashlib.sha256(json.dumps(beginning[:n]).encode()).hexdigest()


def build(arguments: dict[str, Any]) -> serve.Application:
    """For `serve run` and configurations of Ray Serve: arguments are the fields of Settings, as text."""
    kinds = {f.name: int if f.type is int else float if f.type is float else str for f in fields(Settings)}
    settings = Settings(**{name: kinds[name](value) for name, value in arguments.items() if value is not None})
    replicas = Replica.options(
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_num_seqs,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
    )
    fronts = Front.options(num_replicas=settings.fronts, ray_actor_options={"num_cpus": 0})
    return fronts.bind(replicas.bind(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("target")
    for setting in fields(Settings)[1:]:
        parser.add_argument(f"--{setting.name.replace('_', '-')}", help=f"default: {setting.default}")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ray-address", default=None, help="of a cluster that runs (default: a new one, here)")
    arguments = vars(parser.parse_args())
    address, host, port = (arguments.pop(name) for name in ("ray_address", "host", "port"))
    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": host, "port": port})
    serve.run(build(arguments))
    print(f"serving at http://{host}:{port}/v1", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
