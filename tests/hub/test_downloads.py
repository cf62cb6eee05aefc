"""Downloads from the hub's own API: what arrives is what was announced, and what goes wrong is told in one line."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.hub import TOKEN, Hub
from support.hub_caller import Caller, Failed
from support.hub_content import ASSISTANT, GGUF, TARGET


def refused(caller: Caller, **options: object) -> str:
    """What find_files() says when it raises DownloadError."""
    with pytest.raises(Failed) as caught:
        caller.find(**options)
    assert caught.value.name in ("DownloadError", "NotThere"), caught.value
    assert TOKEN not in caught.value.message + caller.log
    return caught.value.message


def left_over(caller: Caller) -> list[str]:
    return [str(path) for path in caller.cache.rglob("*") if path.name.endswith((".incomplete", ".part"))]


def test_a_file_is_downloaded_once_and_kept(hub: Hub, caller: Caller, content):
    found = caller.find(hf=f"{GGUF}:q8_0", tell=True)
    assert Path(found["target"]).read_bytes() == content.target and found["mtp_head"] is None
    assert Path(found["target"]).is_relative_to(caller.cache)
    size = len(content.target)
    assert found["told"][-1] == [size, size, f"download of {TARGET}"]
    assert [done for done, *_ in found["told"]] == sorted(done for done, *_ in found["told"])
    again = caller.find(hf=GGUF, tell=True)
    assert again["target"] == found["target"] and again["told"] == [] and hub.downloads(TARGET) == 1


def test_a_new_commit_is_downloaded_and_the_old_one_stays(hub: Hub, caller: Caller, content):
    first = hub.repos[GGUF].main
    old = caller.find(hf=GGUF)["target"]
    hub.add(GGUF, {TARGET: content.target + b"more"})
    new = caller.find(hf=GGUF)["target"]
    assert Path(new).read_bytes() == content.target + b"more" and Path(old).read_bytes() == content.target
    assert caller.find(hf=GGUF, revision=first)["target"] == old and hub.downloads(TARGET) == 2
    assert "revision" in refused(caller, hf=GGUF, revision="no-such-branch")


def test_all_parts_of_a_split_file_are_downloaded(hub: Hub, caller: Caller):
    parts = [f"Q4_0/m-Q4_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("a/split", {name: name.encode() for name in [*parts, "Q4_0/m-Q4_0-00001-of-00002.gguf"]})
    hub.add("a/lost", dict.fromkeys(parts[:2], b"part"))
    found = Path(caller.find(hf="a/split:*of-00003.gguf")["target"])
    assert found.name == "m-Q4_0-00001-of-00003.gguf" and len(list(found.parent.iterdir())) == 3
    assert "lacks part 3 of 3" in refused(caller, hf="a/lost")
    assert "more than one" in refused(caller, hf="a/split:Q4_0")


def test_a_download_that_breaks_is_resumed(hub: Hub, caller: Caller):
    data = bytes(range(256)) * 100_000  # huggingface_hub writes 10 MiB at once
    hub.add("a/big", {"big-Q4_0.gguf": data})
    hub.breaks["big-Q4_0.gguf"] = [12_000_000, 23_000_000]
    assert Path(caller.find(hf="a/big")["target"]).read_bytes() == data
    assert hub.ranges == [f"big-Q4_0.gguf: {mib << 20}" for mib in (10, 20)]


def test_a_file_that_changes_between_two_requests_is_refused(hub: Hub, caller: Caller, content):
    for own in (
        {"X_Linked_ETag": '"' + "0" * 64 + '"'},
        {"X_Linked_Size": "17"},
        {"X_Repo_Commit": "f" * 40},
        {"X_Linked_ETag": '"../../../../escaped"'},
    ):
        hub.announced[TARGET] = own
        assert "changed while it was asked for" in refused(caller, hf=GGUF)
    assert hub.downloads(TARGET) == 0 and not list(caller.home.rglob("escaped*"))
    hub.announced.clear()
    assert caller.find(hf=GGUF)


def test_content_with_another_digest_is_removed(hub: Hub, caller: Caller, content):
    hub.content[TARGET] = bytes(len(content.target))
    assert "another content" in refused(caller, hf=GGUF)
    hub.content[TARGET] = content.target[:-9]
    assert "another size" in refused(caller, hf=GGUF)
    assert not list(caller.cache.rglob(TARGET)) and left_over(caller) == []
    del hub.content[TARGET]
    assert Path(caller.find(hf=GGUF)["target"]).read_bytes() == content.target


def test_content_that_does_not_end_is_given_up(hub: Hub, caller: Caller, content):
    """Found when this was written: huggingface_hub compares sizes at the end alone, which fills the disk."""
    hub.endless.add(TARGET)
    assert f"more bytes than the {len(content.target):,}" in refused(caller, hf=GGUF)
    assert left_over(caller) == [] and not list(caller.cache.rglob(TARGET))


def test_what_a_function_for_the_progress_raises_ends_the_download(hub: Hub, caller: Caller):
    assert caller.call("stopped", hf=GGUF) == "enough"
    assert left_over(caller) == [] and not list(caller.cache.rglob(TARGET))


def test_names_that_leave_the_cache_are_refused(hub: Hub, caller: Caller):
    hub.add("a/evil", {"../../../../../evil-Q4_0.gguf": b"x"})
    hub.add("a/split", {"../m-Q4_0-00001-of-00001.gguf": b"x"})
    assert "no name of a file" in refused(caller, hf="a/evil")
    assert "no name of a file" in refused(caller, hf="a/split:Q4_0")
    assert not list(caller.home.rglob("*evil*Q4_0*"))


def test_answers_that_are_not_the_hubs_are_refused(hub: Hub, caller: Caller):
    path = f"/api/models/{GGUF}/revision/main"
    for body in (
        b"<html>", b"[]", b"{}", b"[" * 100_000, b'{"id": 7, "sha": "main", "siblings": 3}',
        json.dumps({"id": GGUF, "sha": "../" * 9, "siblings": []}).encode(),
        json.dumps({"id": GGUF, "sha": "0" * 40, "siblings": [{"rfilename": "a-Q4_0.gguf", "size": -1}]}).encode(),
        json.dumps({"id": GGUF, "sha": "0" * 40, "siblings": [{"rfilename": "a.gguf", "size": 1 << 70}]}).encode(),
    ):  # fmt: skip
        hub.answers[path] = body
        refused(caller, hf=GGUF)
    assert hub.downloads(TARGET) == 0


def test_a_repository_that_is_not_there_or_private(hub: Hub, caller: Caller):
    hub.add("a/private", {"a-Q4_0.gguf": b"x"}, private=True)
    for name in ("a/none", "a/private"):
        told = refused(caller, hf=name)
        assert f"no model repository {name}" in told and "no token was sent" in told
    assert "name a repository of GGUF files" in refused(caller, hf=ASSISTANT)
    assert "expected owner/repo" in refused(caller, hf="gemma")


def test_a_gated_repository_says_how_to_accept_and_which_token_was_sent(hub: Hub, caller: Caller, tmp_path: Path):
    hub.repos[GGUF].gated = True
    told = refused(caller, hf=GGUF)
    assert f"accept its conditions at {hub.url}/{GGUF}" in told and "no token was sent" in told
    with Caller(hub.url, tmp_path / "named", HF_TOKEN=TOKEN) as named:
        assert "the token of the environment variable HF_TOKEN was sent" in refused(named, hf=GGUF)
        hub.tokens[TOKEN] = True
        assert named.find(hf=GGUF)["target"]
    assert hub.tokens_in_storage == []
    stored = tmp_path / "stored"
    (stored / "hf").mkdir(parents=True)
    (stored / "hf" / "token").write_text("hf_unknown")
    with Caller(hub.url, stored) as wrong:
        told = refused(wrong, hf=GGUF)
        assert f"the token stored in {stored / 'hf' / 'token'} was sent" in told and "does not accept" in told
        assert "hf_unknown" not in told


def test_without_a_network_what_is_in_the_cache_is_used(hub: Hub, caller: Caller, tmp_path: Path):
    found = caller.find(hf=GGUF, mtp_head="auto")
    hub.down = 503
    assert {**caller.find(hf=GGUF), "mtp_head": 0} == {**found, "mtp_head": 0, "head_source": None}
    assert "status 503" in refused(caller, hf="a/other") and "from the cache is used" in caller.log
    hub.close()
    again = caller.find(hf=f"{GGUF}:Q8_0", mtp_head="auto")
    assert (again["target"], again["mtp_head"]) == (found["target"], found["mtp_head"])
    assert "connection to the hub failed" in refused(caller, hf="a/other")
    with Caller(hub.url, tmp_path / "home", HF_HUB_OFFLINE="1") as offline:
        again = offline.find(hf=GGUF, mtp_head=ASSISTANT)
        assert (again["target"], again["mtp_head"]) == (found["target"], found["mtp_head"])
        told = refused(offline, hf="a/other")
        assert "not in the cache" in told and "HF_HUB_OFFLINE" in told
        assert "as it is in the cache, has no model for 'Q4_0'" in refused(offline, hf=f"{GGUF}:Q4_0")


def can_mount() -> bool:
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_a_full_disk_is_told_before_and_amid_a_download(hub: Hub, caller: Caller, tmp_path: Path, content):
    limited = "ulimit -f 2048;"  # a file of more blocks cannot be written: 2 MiB at most, of 6
    with Caller(hub.url, tmp_path / "limited", before=limited) as full:
        told = refused(full, hf=GGUF)
        assert "cannot write the file" in told and "make room there" in told and left_over(full) == []
    hub.add("a/huge", {"a-Q4_0.gguf": b"x"})
    listing = {"rfilename": "a-Q4_0.gguf", "blobId": "0" * 40, "size": 1 << 43}
    answer = {"id": "a/huge", "sha": hub.repos["a/huge"].main, "siblings": [listing]}
    hub.answers["/api/models/a/huge/revision/main"] = json.dumps(answer).encode()
    assert "8,796,093,022,208 bytes, and" in refused(caller, hf="a/huge")


@pytest.mark.skipif(not can_mount(), reason="no file system of its own can be mounted here")
def test_a_file_system_without_room(hub: Hub, tmp_path: Path, content):
    home = tmp_path / "small"
    (home / "hf").mkdir(parents=True)
    mounted = f'exec unshare -rm sh -c \'mount -t tmpfs -o size=2m tmpfs {home}/hf && exec "$0" -P "$1"\''
    with Caller(hub.url, home, before=f'{mounted} "$0" "$1";') as small:
        told = refused(small, hf=GGUF)
        assert f"take {len(content.target):,} bytes" in told and f"{home}/hf" in told


def test_a_process_that_is_killed_leaves_nothing_that_is_used(hub: Hub, caller: Caller, content):
    hub.held[TARGET] = threading.Event()
    caller.send("find", None, hf=GGUF)
    while not left_over(caller):
        assert caller.runs()
    caller.kill()
    hub.held.pop(TARGET).set()
    with Caller(hub.url, caller.home) as again:
        assert Path(again.find(hf=GGUF)["target"]).read_bytes() == content.target


def test_without_huggingface_hub_the_extra_is_named():
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from pyllama_mtp.hub import find_files\n"
        "print(find_files('a.gguf'))\n"
        "find_files(None, hf='owner/repo')"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "a.gguf" in result.stdout and "pip install 'pyllama-mtp[hub]'" in result.stderr.splitlines()[-1]
