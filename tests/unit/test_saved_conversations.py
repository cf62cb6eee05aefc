"""Files of conversations: what is written is read again, and what anybody else wrote is checked."""

import json
import os
from pathlib import Path

import pytest

from pyllama_mtp import StateFileError
from pyllama_mtp.commands.dialogue import saved
from pyllama_mtp.commands.dialogue.conversation import Conversation

GOOD = {
    "format": "pyllama-mtp conversation",
    "version": 1,
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": "Hi\n\u00e4\u2028"},
        {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."},
    ],
    "think": True,
    "sampling": {"seed": 7, "temperature": 0.5, "stop": ["x"]},
}


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_what_is_saved_is_loaded(tmp_path: Path):
    first = saved.load(write(tmp_path / "a.json", GOOD))
    assert first.request()["prompt"] == [{"role": "system", "content": "Be brief."}, *GOOD["messages"]]
    assert first.request()["seed"] == 7 and first.request()["chat_template_kwargs"] == {"enable_thinking": True}
    saved.save(tmp_path / "a.json", first)  # over one that is there
    saved.save(tmp_path / "b.json", first)
    assert json.loads((tmp_path / "b.json").read_text()) == GOOD
    assert saved.load(tmp_path / "b.json") == first == saved.load(tmp_path / "a.json")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


def without(key: str) -> dict:
    return {name: value for name, value in GOOD.items() if name != key}


def message(**fields: object) -> dict:
    return GOOD | {"messages": [{"role": "user", "content": "x"} | fields]}


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "7",
        "{",
        "[" * 200_000,
        '{"format": ' * 50_000,
        json.dumps(GOOD)[:-5],
        json.dumps(GOOD).replace("0.5", "NaN"),
        json.dumps(GOOD).replace("0.5", "1e999"),
        json.dumps(GOOD).replace("7", "9" * 5000),
        json.dumps(GOOD).replace("Hello", "\\ud800"),
        *(without(key) for key in GOOD),
        GOOD | {"more": 1},
        GOOD | {"format": "other"},
        GOOD | {"version": 2},
        GOOD | {"version": True},
        GOOD | {"version": 1.0},
        GOOD | {"system": 3},
        GOOD | {"system": ["x"]},
        GOOD | {"think": "yes"},
        GOOD | {"think": 1},
        GOOD | {"messages": {}},
        GOOD | {"messages": "user"},
        GOOD | {"messages": [None]},
        GOOD | {"messages": [["user", "x"]]},
        GOOD | {"messages": [{"role": "user"}]},
        GOOD | {"messages": [{"content": "x"}]},
        message(role="system"),
        message(role="tool"),
        message(role=["user"]),
        message(role=None),
        message(content=None),
        message(content=["x"]),
        message(content={"type": "text"}),
        message(tool_calls=[]),
        message(reasoning_content=4),
        GOOD | {"sampling": []},
        GOOD | {"sampling": {"colour": "red"}},
        GOOD | {"sampling": {"temperature": "hot"}},
        GOOD | {"sampling": {"temperature": -1}},
        GOOD | {"sampling": {"seed": 2**70}},
        GOOD | {"sampling": {"stop": [""]}},
        GOOD | {"sampling": {"stop": [1]}},
        GOOD | {"sampling": {"num_speculative_tokens": 99}},
        GOOD | {"sampling": {"max_tokens": 4, "min_tokens": 9}},
    ],
    ids=range(44 + len(GOOD)),
)
def test_what_is_no_conversation_is_refused_in_one_line(tmp_path: Path, data: object):
    with pytest.raises(StateFileError) as refused:
        saved.load(write(tmp_path / "talk.json", data))
    assert str(refused.value).isprintable() and "talk.json" in str(refused.value)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(tmp_path / "pipe")  # waiting for a writer would take for ever
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for name in ("missing", "pipe", ".", "binary", "a\0b", "n" * 300):
        with pytest.raises(StateFileError):
            saved.load(tmp_path / name)
    for name in ("pipe", "binary", ".", "none/talk.json", "a\0b", "n" * 300):
        with pytest.raises(StateFileError):
            saved.save(tmp_path / name, Conversation())
    monkeypatch.setattr(saved, "MAX_BYTES", 100)
    with pytest.raises(StateFileError, match="more than"):
        saved.load(write(tmp_path / "large.json", GOOD))


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "talk.json", GOOD)
    conversation = saved.load(path)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StateFileError, match="No space left"):
        saved.save(path, conversation)
    assert json.loads(path.read_text()) == GOOD and os.listdir(tmp_path) == ["talk.json"]
