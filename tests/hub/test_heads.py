"""Heads out of repositories: found, converted once, kept, and never used half or for another target."""

import shutil
from pathlib import Path

import pytest

from pyllama_mtp.gguf.format import read_header
from support.hub import Hub
from support.hub_caller import Caller, Failed
from support.hub_content import ASSISTANT, BASE, GGUF, TARGET


def kept(caller: Caller) -> list[Path]:
    return sorted(caller.own_cache.rglob("*.gguf"))


def failure(caller: Caller, *args: object, **options: object) -> Failed:
    with pytest.raises(Failed) as caught:
        caller.find(*args, **options)
    return caught.value


def test_auto_finds_the_assistant_converts_it_once_and_says_so(hub: Hub, caller: Caller, content, tmp_path: Path):
    found = caller.find(hf=GGUF, mtp_head="auto", progress=True)
    head = Path(found["mtp_head"])
    assert f"target: {TARGET} of {GGUF} at " in caller.log and f"MTP head: {found['head_source']}" in caller.log
    assert kept(caller) == [head] and head.is_relative_to(caller.own_cache)
    assert found["head_source"].startswith(f"{ASSISTANT} at ") and f"base model is {BASE}" in found["head_source"]
    (tmp_path / "embedded.gguf").write_bytes(content.head)
    ours, theirs = read_header(head), read_header(tmp_path / "embedded.gguf")
    assert ours.metadata["general.name"] == ASSISTANT.rpartition("/")[2]
    data = head.read_bytes()
    for name, tensor in theirs.tensors.items():
        at, end = ours.tensors[name].offset, ours.tensors[name].offset + ours.tensors[name].n_bytes
        assert data[at:end] == content.head[tensor.offset : tensor.offset + tensor.n_bytes], name
    written = head.stat().st_mtime_ns
    by_name = caller.find(found["target"], mtp_head=ASSISTANT)
    assert by_name["mtp_head"] == str(head) and head.stat().st_mtime_ns == written
    assert hub.downloads("model.safetensors") == 1


def test_auto_finds_it_by_the_model_card_too(hub: Hub, caller: Caller, demo):
    hub.add("someone/tuned-GGUF", {TARGET: demo.target.read_bytes()}, card={"base_model": ["a/none", BASE]})
    found = caller.find(hf="someone/tuned-GGUF", mtp_head="auto")
    assert found["head_source"].startswith(ASSISTANT) and "base model of someone/tuned-GGUF" in found["head_source"]
    assert any("a/none-assistant" in path for _, path in hub.requests) and len(kept(caller)) == 1


def test_a_changed_revision_is_converted_anew(hub: Hub, caller: Caller, content):
    first = caller.find(hf=GGUF, mtp_head=ASSISTANT)["mtp_head"]
    config = content.checkpoint["config.json"].replace(
        b'"centroid_intermediate_top_k": 8', b'"centroid_intermediate_top_k": 4'
    )
    commit = hub.add(ASSISTANT, content.checkpoint | {"config.json": config})
    second = caller.find(hf=GGUF, mtp_head=ASSISTANT)["mtp_head"]
    assert first != second and commit in second and len(kept(caller)) == 2
    assert read_header(Path(second)).metadata["gemma4-assistant.masked_embedding.top_k"] == 4


def test_a_head_of_another_target_is_refused_before_its_weights_are_downloaded(hub: Hub, caller: Caller, content):
    hub.add("google/other-assistant", content.other)
    told = failure(caller, hf=GGUF, mtp_head="google/other-assistant")
    assert told.name == "IncompatibleHeadError" and "backbone width is 320" in told.message and "256" in told.message
    assert hub.downloads("model.safetensors") == 0 and kept(caller) == []


def test_a_head_with_another_vocabulary_is_not_kept(hub: Hub, caller: Caller, content):
    """The sizes are the target's: only the tokens, which are compared once it is converted, tell."""
    tokenizer = content.checkpoint["tokenizer.json"].decode()
    swapped = tokenizer.replace('"e": ', '"\\u00e9\\u00e9": ')
    for letter in "abcdfghijklmnopqrstuvwxyz":
        swapped = swapped.replace(f'"{letter}": ', f'"{letter}\\u00e9": ')
    hub.add("google/other-assistant", content.checkpoint | {"tokenizer.json": swapped.encode()})
    told = failure(caller, hf=GGUF, mtp_head="google/other-assistant")
    assert told.name == "IncompatibleHeadError" and "vocabulary" in told.message
    assert not any(path.suffix == ".gguf" or ".new" in path.name for path in caller.own_cache.rglob("*"))


def test_a_checkpoint_that_cannot_be_converted(hub: Hub, caller: Caller, content):
    broken = content.checkpoint | {"model.safetensors": content.checkpoint["model.safetensors"][:-100]}
    hub.add("a/broken", broken)
    hub.add("a/odd", content.checkpoint | {"config.json": b'{"architectures": ["Other"]}'})
    hub.add("a/pickle", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert failure(caller, hf=GGUF, mtp_head="a/broken").name == "ConversionError"
    assert failure(caller, hf=GGUF, mtp_head="a/odd").name == "ConversionError"
    assert "neither a checkpoint" in failure(caller, hf=GGUF, mtp_head="a/pickle").message
    assert kept(caller) == []


def test_a_gguf_of_a_head_is_taken_as_it_is(hub: Hub, caller: Caller, content):
    files = {"mtp-demo-Q8_0.gguf": content.head, "mtp-demo-F16.gguf": content.head, TARGET: content.target}
    hub.add("a/heads", files)
    found = caller.find(hf=GGUF, mtp_head="a/heads:F16")
    assert Path(found["mtp_head"]).name == "mtp-demo-F16.gguf" and kept(caller) == []
    assert Path(caller.find(hf="a/heads", mtp_head="a/heads")["mtp_head"]).name == "mtp-demo-Q8_0.gguf"
    told = failure(caller, hf=GGUF, mtp_head=f"{GGUF}:Q8_0")
    assert told.name == "IncompatibleHeadError" and "expected an MTP head" in told.message


def test_no_assistant_is_told_with_what_was_tried(hub: Hub, caller: Caller):
    del hub.repos[ASSISTANT]
    told = failure(caller, hf=GGUF, mtp_head="auto")
    assert (
        "no assistant was found" in told.message and ASSISTANT in told.message and "name a repository" in told.message
    )


def test_files_that_are_there_are_taken_without_a_question(hub: Hub, caller: Caller, demo, tmp_path: Path):
    found = caller.find(str(demo.target), mtp_head=str(demo.head))
    assert (found["target"], found["mtp_head"]) == (str(demo.target), str(demo.head))
    assert caller.find("no/such.gguf", mtp_head="heads/none.gguf")["mtp_head"] == "heads/none.gguf"
    assert hub.requests == []
    assert failure(caller).name == failure(caller, str(demo.target), hf=GGUF).name == "InvalidRequestError"
    assert failure(caller, str(demo.target), revision="x").name == "InvalidRequestError"
    assert failure(caller, str(demo.head), mtp_head="auto").name == "ModelLoadError"


def test_two_processes_convert_at_once(hub: Hub, tmp_path: Path):
    with Caller(hub.url, tmp_path / "shared") as one, Caller(hub.url, tmp_path / "shared") as two:
        for caller in (one, two):
            caller.send("find", None, hf=GGUF, mtp_head="auto")
        first, second = one.receive(), two.receive()
        assert first == second and kept(one) == [Path(first["mtp_head"])]
        assert read_header(kept(one)[0]).tensors


def test_what_a_killed_conversion_left_is_removed_and_not_used(hub: Hub, caller: Caller, content):
    head = Path(caller.find(hf=GGUF, mtp_head="auto")["mtp_head"])
    data = head.read_bytes()
    half = head.with_name(f"{head.stem}.999999.new")
    head.rename(half)
    half.write_bytes(data[:1000])
    assert caller.find(hf=GGUF, mtp_head="auto")["mtp_head"] == str(head)
    assert head.read_bytes() == data and not half.exists()


def test_a_cache_of_heads_that_cannot_be_written(hub: Hub, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with Caller(hub.url, tmp_path / "home", PYLLAMA_MTP_CACHE=str(tmp_path / "file")) as caller:
        told = failure(caller, hf=GGUF, mtp_head="auto")
        assert told.name == "ConversionError" and "PYLLAMA_MTP_CACHE" in told.message


def test_the_converter_takes_a_repository_and_a_folder_of_its_name_wins(hub: Hub, caller: Caller, tmp_path: Path):
    out = tmp_path / "out.gguf"
    assert caller.call("convert", ASSISTANT, str(out)) == 0
    assert read_header(out).metadata["general.name"] == "gemma-4-demo-it-assistant"
    first = hub.repos[ASSISTANT].main
    assert caller.call("convert", "a/none", str(out)) == 1 and "no model repository a/none" in caller.log
    assert caller.call("convert", ASSISTANT, str(out), "--revision", first) == 0
    folder = shutil.copytree(caller.call("checkpoint", ASSISTANT), tmp_path / "google" / "own")
    asked = len(hub.requests)
    assert caller.call("checkpoint", str(folder)) == str(folder) and len(hub.requests) == asked
