"""A conversation's next turn evaluates what is new, whatever the template changes in its history, and nothing else."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyllama_mtp import Model, ModelClosedError, StateFileError
from pyllama_mtp.gguf.format import Entry
from pyllama_mtp.prompt import common_length
from support.drafted_texts import SOURCES
from support.gguf_edit import rewrite
from support.real_chat import GEMMA4_31B, templates, with_template

PAGE = 64  # tokens: what is shared between texts are whole pages
GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 40}
SYSTEM = {"role": "system", "content": "You are a program that goes on with programs.\n" * 8}
WORDS = "\n".join(SOURCES)


@pytest.fixture(scope="module")
def target(demo, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded target with Gemma 4's own template."""
    out = tmp_path_factory.mktemp("chat") / "target.gguf"
    return with_template(demo.target, out, templates(archive)[GEMMA4_31B])


class Chat:
    """A model, what it was asked, and what a cache can have of a prompt at best."""

    def __init__(self, target: Path, head: Path, **options):
        options = {"n_ctx": 4096, "n_threads": 2, "num_speculative_tokens": 3} | options
        self.load = lambda **more: Model(target, mtp_head=head, **options | more)
        self.model = self.load()
        self.texts: list[list[int]] = []

    def ask(self, messages: list[dict[str, Any]], **options) -> tuple[str, int, int]:
        """The answer, the tokens that were cached, and those before the first difference from every text before."""
        ids = self.model.prompt_ids(messages, tools=options.get("tools"))
        stream = self.model.generate(messages, **GREEDY | options)
        text = stream.text()
        common = max((common_length(ids, other) for other in self.texts), default=0)
        self.texts.append(ids + stream.token_ids)
        with self.load(max_num_seqs=1) as fresh:
            assert fresh.generate(messages, **GREEDY | options).text() == text
        return text, stream.stats.cached_prompt_tokens, min(common, len(ids) - 1)


@pytest.fixture
def cache_type() -> str:
    """A test may be run with others."""
    return "f16"


@pytest.fixture
def chat(cache_type: str, target: Path, demo) -> Iterator[Chat]:
    chat = Chat(target, demo.head, cache_type_k=cache_type, cache_type_v=cache_type)
    with chat.model:
        yield chat


def user(begin: int, size: int) -> dict[str, str]:
    return {"role": "user", "content": WORDS[begin : begin + size]}


def long_question(model: Model) -> dict[str, str]:
    """Of some 3000 tokens."""
    size = 3000
    while len(model.tokenize(WORDS[:size])) < 3000:
        size += 200
    return user(0, size)


@pytest.mark.parametrize("cache_type", ["f16", "turbo3"])
def test_second_turn_after_a_long_history_begins_where_the_first_had_got_to(chat: Chat):
    """The history has no empty thought where the first prompt ended with one, and the window had moved on by an answer
    of 650 tokens: 0 of 3,682 tokens were cached.
    """
    messages = [SYSTEM, long_question(chat.model)]
    answer, cached, _ = chat.ask(messages, max_tokens=650)
    assert cached == 0
    messages += [{"role": "assistant", "content": answer}, user(100, 300)]
    _, cached, common = chat.ask(messages)
    assert common > 3000 and cached > common - PAGE


def test_conversations_in_turn_regeneration_and_edits_lose_nothing(chat: Chat):
    first, second = [SYSTEM, user(0, 1800)], [SYSTEM, user(2000, 1500)]
    for conversation in (first, second):
        answer, *_ = chat.ask(conversation, max_tokens=650)
        conversation.append({"role": "assistant", "content": answer})
    for begin in (4000, 4400):  # each conversation twice, in turn
        for conversation in (first, second):
            conversation.append(user(begin, 300))
            answer, cached, common = chat.ask(conversation, max_tokens=60)
            assert common > 400 and cached > common - PAGE
            conversation.append({"role": "assistant", "content": answer})
    for _ in range(2):  # regenerate
        _, cached, common = chat.ask(first[:-1])
        assert cached > common - PAGE
    _, cached, common = chat.ask([*first[:-2], user(5000, 250)])  # an edit of the last message
    assert cached > common - PAGE
    _, cached, common = chat.ask([SYSTEM, user(5200, 200)])
    assert cached > common - PAGE


def test_a_stripped_thought_costs_what_follows_it_and_no_more(chat: Chat):
    messages = [SYSTEM, user(300, 2500)]
    answer, *_ = chat.ask(messages, max_tokens=650)
    thought, said = answer[: len(answer) // 2], answer[len(answer) // 2 :]
    assert len(chat.model.tokenize(thought)) > 300
    messages += [{"role": "assistant", "content": said}, user(3000, 200)]
    _, cached, common = chat.ask(messages)
    assert common > 900 and cached > common - PAGE


def called(number: int, begin: int) -> list[dict[str, Any]]:
    """A thought and a call, and what came of it."""
    function = {"name": "read", "arguments": {"begin": begin}}
    call = {"id": f"c{number}", "type": "function", "function": function}
    said = {"role": "assistant", "content": None, "reasoning_content": WORDS[begin : begin + 200], "tool_calls": [call]}
    return [said, {"role": "tool", "tool_call_id": f"c{number}", "content": WORDS[begin : begin + 900]}]


def test_calls_and_their_results_cost_what_is_new(chat: Chat):
    """The next question takes the thoughts before the calls out of the history."""
    parameters = {"type": "object", "properties": {"begin": {"type": "integer"}}, "required": ["begin"]}
    read = {"name": "read", "description": WORDS[6000:7500], "parameters": parameters}
    tools = [{"type": "function", "function": read}]
    messages = [SYSTEM, user(0, 900)]
    _, cached, _ = chat.ask(messages, tools=tools)
    assert cached == 0
    n_history = 0
    for number, begin in enumerate((1000, 2000)):
        messages += called(number, begin)
        _, cached, common = chat.ask(messages, tools=tools, max_tokens=300)
        assert common > n_history + 200 and cached > common - PAGE
        n_history = common
    messages += [{"role": "assistant", "content": WORDS[3000:3200]}, user(3300, 200)]
    _, cached, common = chat.ask(messages, tools=tools)
    assert 600 < common < n_history and cached > common - PAGE
    _, cached, common = chat.ask([SYSTEM, user(5200, 200)], tools=tools)
    assert common > 400 and cached > common - PAGE


def test_a_plain_prompt_is_kept_and_shared_with_what_runs(demo):
    with Model(demo.target, mtp_head=demo.head, n_ctx=2048, n_threads=2, max_num_seqs=3) as model:
        ids = model.tokenize(WORDS)[:1200]
        streams = [model.generate(ids + [300 + i], **GREEDY | {"max_tokens": 700}) for i in range(3)]
        next(iter(streams[0]))
        texts = [stream.text() for stream in streams[1:]]
        later = model.generate(ids + [400], **GREEDY)
        later.text()
        assert later.stats.cached_prompt_tokens > len(ids) - 2 * PAGE
        with Model(demo.target, n_ctx=2048, n_threads=1, max_num_seqs=1) as fresh:
            for i, text in enumerate(texts):
                assert fresh.generate(ids + [301 + i], **GREEDY | {"max_tokens": 700}).text() == text


@pytest.fixture
def saved(demo, tmp_path: Path) -> tuple[Path, list[int], str]:
    """A saved state, a prompt of it, and what follows that."""
    path = tmp_path / "state"
    with Model(demo.target, mtp_head=demo.head, n_ctx=2048, n_threads=2) as model:
        ids = model.tokenize(WORDS)[:900]
        text = model.generate(ids, **GREEDY | {"max_tokens": 600}).text()
        model.save_state(path)
    return path, ids, text


def test_saved_state_goes_on_in_another_process_of_the_same_model(demo, saved):
    path, ids, text = saved
    with Model(demo.target, mtp_head=demo.head, n_ctx=2048, n_threads=1) as model:
        assert model.load_state(path) == 1
        stream = model.generate(ids, **GREEDY | {"max_tokens": 600})
        assert stream.text() == text
        assert stream.stats.cached_prompt_tokens > len(ids) - PAGE


def test_states_of_other_models_and_damaged_ones_are_refused(demo, saved, tmp_path: Path):
    path, ids, text = saved
    data = path.read_bytes()
    other = rewrite(demo.target, tmp_path / "other.gguf", metadata={"general.name": Entry("string", "other")})
    with Model(other, n_ctx=2048, n_threads=1) as model:
        assert model.load_state(path) == 1  # the same weights under another name
    with (
        Model(demo.target, n_ctx=2048, n_threads=1, cache_type_k="q8_0") as model,
        pytest.raises(StateFileError, match="another model, other cache types"),
    ):
        model.load_state(path)
    damaged = tmp_path / "damaged"
    generator = random.Random(5)
    with Model(demo.target, mtp_head=demo.head, n_ctx=2048, n_threads=1) as model:
        for missing in (tmp_path / "none", tmp_path):
            with pytest.raises(StateFileError):
                model.load_state(missing)
        for size in [0, 7, 39, 40, 41, len(data) // 2, len(data) - 1]:
            damaged.write_bytes(data[:size])
            with pytest.raises(StateFileError):
                model.load_state(damaged)
        for _ in range(100):
            changed = bytearray(data)
            changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            damaged.write_bytes(changed)
            with pytest.raises(StateFileError):
                model.load_state(damaged)
        damaged.write_bytes(data + b"\\0")
        with pytest.raises(StateFileError, match="truncated, or longer"):
            model.load_state(damaged)
        stream = model.generate(ids, **GREEDY | {"max_tokens": 600})
        assert stream.text() == text and stream.stats.cached_prompt_tokens == 0


def test_state_is_written_whole_or_not_at_all(demo, tmp_path: Path):
    with Model(demo.target, n_ctx=512, n_threads=1) as model:
        with pytest.raises(StateFileError, match="cannot write"):
            model.save_state(tmp_path / "nowhere" / "state")
        model.save_state(tmp_path / "state")
        assert model.load_state(tmp_path / "state") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_logits_take_no_more_of_what_is_kept_than_they_need(demo):
    """All that was kept was forgotten."""
    with Model(demo.target, n_ctx=512, n_threads=1, max_num_seqs=3) as model:
        prompts = [model.tokenize(WORDS[begin:])[:200] for begin in (0, 1000)]
        for ids in prompts:
            model.generate(ids, **GREEDY).text()
        kept = model.usage
        assert (kept.n_running, kept.n_waiting) == (0, 0)
        assert kept.n_cells >= 2 * 200 and 0 < kept.prefix_bytes <= model.info.prefix_cache_bytes
        model.logits(model.tokenize(WORDS[2000:])[:300])
        for ids in prompts:
            again = model.generate(ids, **GREEDY)
            again.text()
            assert again.stats.cached_prompt_tokens > len(ids) - PAGE
        model.logits(model.tokenize(WORDS[3000:])[: model.info.n_ctx])  # with one sequence's room all of it
        assert model.usage.n_cells <= model.info.n_cells


def test_usage_counts_what_runs_and_waits(demo):
    with Model(demo.target, n_ctx=256, n_threads=1, max_num_seqs=2) as model:
        streams = [model.generate([2, 300 + i], **GREEDY | {"max_tokens": 20}) for i in range(5)]
        assert model.usage.n_waiting == 5
        next(iter(streams[0]))
        usage = model.usage
        assert (usage.n_running, usage.n_waiting) == (2, 3) and usage.n_cells == 2 * PAGE
        for stream in streams[1:]:
            stream.text()
        streams[0].close()
        assert (model.usage.n_running, model.usage.n_waiting) == (0, 0)
    with pytest.raises(ModelClosedError):
        _ = model.usage
