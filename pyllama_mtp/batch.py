"""Many prompts, decoded together: what Model.generate_all does."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from pyllama_mtp.errors import ModelClosedError, PyllamaMtpError, QueueFullError
from pyllama_mtp.loop import EngineLoop
from pyllama_mtp.options import Prompt
from pyllama_mtp.results import Chunk, Completion, TokenLogprob
from pyllama_mtp.stream import Stream

SPARE = 2  # completions that wait, so that no slot is idle between two steps


def complete_all(
    prompts: Iterable[Prompt], begin: Callable[[Prompt], Stream], loop: EngineLoop, most: int
) -> Iterator[Completion]:
    """The completions of the prompts, in their order, of which up to `most` run. begin: starts one."""
    coming = _Prompts(prompts)
    begun: deque[Stream | Completion] = deque()  # in order, not yet given out

    def may_begin() -> bool:
        running = sum(1 for one in begun if isinstance(one, Stream) and not one.computed)
        return coming.more and running < most + SPARE and loop.has_room()

    while coming.more or begun:
        while may_begin():
            coming.begin(begin, begun)
        if not begun:
            loop.wait(loop.has_room)  # others take all there is
        elif isinstance(first := begun[0], Stream) and not first.computed:
            loop.wait(lambda first=first: first.computed or may_begin())  # type: ignore[misc]
        else:
            yield _read(begun.popleft())


class _Prompts:
    """Those that have not begun. more: whether there may be some."""

    def __init__(self, prompts: Iterable[Prompt]):
        self._coming = iter(prompts)
        self._held: list[Prompt] = []  # others were faster
        self.more = True

    def begin(self, begin: Callable[[Prompt], Stream], begun: deque[Stream | Completion]) -> None:
        """Begins one, if there is one."""
        try:
            prompt = self._held.pop() if self._held else next(self._coming)
        except StopIteration:
            self.more = False
            return
        try:
            begun.append(begin(prompt))
        except QueueFullError:
            self._held.append(prompt)
        except ModelClosedError:
            raise
        except PyllamaMtpError as error:
            begun.append(Completion("", [], error=error))


def _read(one: Stream | Completion) -> Completion:
    if isinstance(one, Completion):
        return one
    chunks: list[Chunk] = []
    error = None
    try:
        chunks.extend(one)
    except PyllamaMtpError as raised:
        error = raised
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        token_ids=one.token_ids,
        finish_reason=one.finish_reason if error is None else None,
        stats=one.stats,
        logprobs=_joined([chunk.logprobs for chunk in chunks]),
        error=error,
        reasoning="".join(chunk.reasoning for chunk in chunks),
        tool_calls=[call for chunk in chunks for call in chunk.tool_calls],
        stop_reason=chunks[-1].stop_reason if chunks else None,
        malformed_call=any(chunk.malformed_call for chunk in chunks),
        prompt_logprobs=chunks[0].prompt_logprobs if chunks else None,
    )


def _joined(parts: list[list[list[TokenLogprob]] | None]) -> list[list[TokenLogprob]] | None:
    """None where none were asked for."""
    return None if None in parts else [row for part in parts for row in part or ()]
