"""Model.from_pretrained: from a repository's name to text."""

import json
from pathlib import Path

from pyllama_mtp import Model
from pyllama_mtp.gguf.format import Entry, read_header
from support.gguf_edit import rewrite
from support.hub import Hub
from support.hub_caller import Caller
from support.hub_content import ASSISTANT, GGUF, TARGET

MARKS = ("channel", "tool_call")
SCHEMA = {"type": "object", "properties": {"content": {"type": "string", "x-regex": "(.*)"}}}
TEMPLATE = {
    "start_anchor": "<|turn>model\n",
    "fields": {"thinking": {"open": "(", "close": ")"}, "content": {}},
}


def test_a_repository_and_its_assistant_give_the_text_of_their_files(hub: Hub, caller: Caller, demo):
    result = caller.call("pretrained", GGUF, "*Q8_0.gguf", mtp_head=ASSISTANT)
    with Model(demo.target, mtp_head=demo.head, n_ctx=256, n_threads=1) as model:
        stream = model.generate("def main():", max_tokens=16, temperature=0, num_speculative_tokens=3)
        assert result["text"] == stream.text() and result["accepted"] == stream.stats.acceptance_rate > 0
    assert result["drafter"] == "mtp" and result["schema"] is None


def test_a_local_folder_works_as_well(hub: Hub, caller: Caller, content, tmp_path: Path):
    folder = tmp_path / "local" / "model"
    folder.mkdir(parents=True)
    (folder / TARGET).write_bytes(content.target)
    (folder / "demo-assistant-F16.gguf").write_bytes(content.head)
    (folder / "tokenizer_config.json").write_text(json.dumps({"response_schema": SCHEMA}))
    result = caller.call("pretrained", str(folder), mtp_head="auto")
    assert result["drafter"] == "mtp" and result["schema"] == SCHEMA and hub.requests == []


def test_the_response_schema_of_a_repository_is_the_models_default(hub: Hub, caller: Caller, content):
    """The newer response_template wins; one that is not understood is told and left aside; an argument wins."""

    def schema_of(config: object, **options: object) -> object:
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        hub.add(GGUF, {TARGET: content.target, "tokenizer_config.json": text})
        return caller.call("pretrained", GGUF, **options)["schema"]

    both = {"response_schema": SCHEMA, "response_template": TEMPLATE}
    assert schema_of(both) == TEMPLATE
    assert schema_of(both, response_schema=None) is None
    assert schema_of({"response_schema": SCHEMA, "response_template": {"fields": 3}}) == SCHEMA
    for odd in (b"{", b"[]", b"\xff", {"response_schema": {"x-other": 1}}, {"response_schema": "text"}):
        assert schema_of(odd) is None
    assert "the response_template of" in caller.log and "no response_schema is taken" in caller.log


def test_the_default_reads_what_a_model_without_marks_writes(demo, tmp_path: Path):
    """Where the vocabulary has marks of its own, their reader stays: it knows more, and tells it as it comes."""
    tokens = read_header(demo.target).metadata["tokenizer.ggml.tokens"]
    unmarked = [token.replace("|", "!") if token.strip("<>|") in MARKS else token for token in tokens]
    plain = rewrite(demo.target, tmp_path / "plain.gguf", {"tokenizer.ggml.tokens": Entry("[string]", unmarked)})
    template = {"start_anchor": "def", "fields": {"thinking": {"open": " ", "close": "\n"}, "content": {}}}

    def read(target: Path, **options: object) -> list[str]:
        with Model(target, n_ctx=256, n_threads=1, response_schema=template) as model:
            chunks = list(model.generate("def main():\n", max_tokens=40, temperature=0, **options))
        return ["".join(getattr(c, kind) for c in chunks) for kind in ("text", "reasoning")]

    assert read(plain) == read(plain, response_schema=template) == read(demo.target, response_schema=template)
    assert read(plain)[1] and not read(demo.target)[1]
    assert read(plain, raw=True) == read(demo.target, raw=True) == [read(demo.target)[0], ""]
