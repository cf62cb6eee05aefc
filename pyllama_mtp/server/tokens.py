"""POST /tokenize and /detokenize, as vLLM has them."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyllama_mtp.errors import seen
from pyllama_mtp.server.chat import checked_messages
from pyllama_mtp.server.errors import wrong
from pyllama_mtp.server.fields import Fields
from pyllama_mtp.server.reading import read_json
from pyllama_mtp.server.state import State


async def _run(state: State, call: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(state.pool, call)


async def tokenize(request: Request) -> Response:
    """Token ids of a prompt, or of what the template makes of messages."""
    state: State = request.app.state.server
    body = await read_json(request, state.options)
    state.check_model(body.get("model"))
    fields = Fields(body, state.options)
    prompt, messages = fields.take("prompt"), fields.take("messages")
    if (prompt is None) == (messages is None):
        raise wrong("expected either prompt or messages")
    add_special = fields.flag("add_special_tokens", True)
    with_texts = fields.flag("return_token_strs", False)
    options = {} if messages is None else fields.prompt_options()
    fields.check_rest()
    model = state.model
    if messages is not None:
        checked = checked_messages(messages, state.options.max_messages)
        ids = await _run(state, lambda: model.prompt_ids(checked, **options))
    else:
        ids = await _run(state, lambda: model.tokenize(prompt, add_special=add_special))
    texts = [model.detokenize([token]) for token in ids] if with_texts else None
    answer = {"count": len(ids), "max_model_len": model.info.n_ctx, "tokens": ids, "token_strs": texts}
    return JSONResponse(answer)


async def detokenize(request: Request) -> Response:
    """The text of token ids."""
    state: State = request.app.state.server
    body = await read_json(request, state.options)
    state.check_model(body.get("model"))
    fields = Fields(body, state.options)
    tokens = fields.take("tokens")
    fields.check_rest()
    if not isinstance(tokens, list):
        raise wrong(f"tokens is {seen(tokens)}, expected a list of token ids", "tokens")
    return JSONResponse({"prompt": await _run(state, lambda: state.model.detokenize(tokens))})
