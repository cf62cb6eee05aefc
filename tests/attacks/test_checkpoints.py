"""Assistant checkpoints that try to run code or to read other files. What stops them: pickles are never opened, an
index names files of its own folder only, and whatever it names must be a valid safetensors file.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama_mtp import ConversionError
from pyllama_mtp.convert import convert_assistant
from support.checkpoints import config_json, random_tensors, safetensors_bytes, write_checkpoint

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, proof: Path):
        self._proof = proof

    def __reduce__(self):
        return Path.touch, (self._proof,)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config), shards=2)


def refuse(checkpoint: Path, message: str) -> str:
    out = checkpoint.parent / "out.gguf"
    with pytest.raises(ConversionError, match=message) as caught:
        convert_assistant(checkpoint, out)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json", "tokenizer.json"])
def test_a_pickle_under_another_name_is_not_run(checkpoint: Path, tmp_path: Path, name: str):
    proof = tmp_path / "the payload ran"
    (checkpoint / name).write_bytes(pickle.dumps(Payload(proof)))
    refuse(checkpoint, name)
    assert not proof.exists()


def test_code_that_a_checkpoint_brings_is_not_run(tmp_path: Path):
    """auto_map makes transformers import modules of the checkpoint: the converter imports neither."""
    proof = tmp_path / "the module ran"
    config = config_json()
    folder = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config))
    mapped = config | {"auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}}
    (folder / "config.json").write_text(json.dumps(mapped))
    for name in ("modeling.py", "json.py", "numpy.py", "sitecustomize.py", "tokenizers.py"):
        (folder / name).write_text(f"open({str(proof)!r}, 'w')")
    code = "import sys; from pyllama_mtp.convert import convert_assistant; convert_assistant(sys.argv[1], sys.argv[2])"
    code += "; sys.exit('transformers' in sys.modules)"
    command = [sys.executable, "-c", code, folder, tmp_path / "out.gguf"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    assert (tmp_path / "out.gguf").exists() and not proof.exists()


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a/../../secret.safetensors",
        "./model.safetensors",
        "..",
        "",
        "a\\..\\b",
        ["../secret.safetensors"],
        None,
    ],
)
def test_an_index_that_points_outside_the_folder(checkpoint: Path, tmp_path: Path, shard: object):
    (tmp_path / "secret.safetensors").write_bytes(safetensors_bytes(random_tensors(config_json())))
    index = json.loads((checkpoint / INDEX).read_text())
    first = next(iter(index["weight_map"]))
    index["weight_map"][first] = shard
    (checkpoint / INDEX).write_text(json.dumps(index))
    refuse(checkpoint, "expected a .safetensors file in the same folder")


def test_an_index_with_a_nul(checkpoint: Path):
    index = (checkpoint / INDEX).read_text()
    (checkpoint / INDEX).write_text(index.replace("model-00001-of", "\\u0000model-00001-of"))
    refuse(checkpoint, "null")


OPTIONAL = ["tokenizer_config.json", "chat_template.jinja", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", INDEX, SHARD, *OPTIONAL])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "folder", "dangling link"])
def test_what_is_no_file_or_never_ends(checkpoint: Path, tmp_path: Path, name: str, kind: str):
    """Archives can hold pipes, links to devices, and holes of a terabyte: files are regular ones of bounded size. One
    that may be missing counts as missing only if nothing has its name.
    """
    path = checkpoint / name
    path.unlink(missing_ok=name in OPTIONAL)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 42)
    cause = "is a link that leads nowhere" if kind == "dangling link" else "(has more than|is not a)"
    refuse(checkpoint, f"/{name} {cause}")


def test_a_shard_that_is_a_folder_or_leads_nowhere(checkpoint: Path):
    shard = checkpoint / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.mkdir()
    refuse(checkpoint, "model-00001-of-00002.safetensors")
    shard.rmdir()
    shard.symlink_to(shard.name)  # a loop
    refuse(checkpoint, "model-00001-of-00002.safetensors")
