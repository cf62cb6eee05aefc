"""--outtype q4_k_m and the like: llama.cpp's own quantiser over what the converter writes."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import InvalidRequestError, Model, ModelLoadError, _native
from pyllama_mtp.bench.kv import accepted_after
from pyllama_mtp.convert import cli, convert_assistant
from pyllama_mtp.convert.assistant import MIXTURES
from pyllama_mtp.errors import ConversionError
from pyllama_mtp.gguf.format import read_header
from pyllama_mtp.gguf.gemma4 import SHAPES
from pyllama_mtp.gguf.random_weights import write_assistant
from support.checkpoints import config_json, random_tensors, write_checkpoint
from support.devices import run
from support.llama_cpp_peer import complete
from support.prompts import PROMPTS

CENTROIDS = "gemma4-assistant.masked_embedding."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_json()
    return write_checkpoint(tmp_path_factory.mktemp("mixtures") / "assistant", config, random_tensors(config))


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_checkpoint_becomes_a_mixture(checkpoint: Path, tmp_path: Path, mixture: str):
    plain = read_header(convert_assistant(checkpoint, tmp_path / "plain.gguf", outtype="f32"))
    out = convert_assistant(checkpoint, tmp_path / "out.gguf", outtype=mixture)
    gguf = read_header(out)
    assert {n: t.shape for n, t in gguf.tensors.items()} == {n: t.shape for n, t in plain.tensors.items()}
    types = {name: info.type for name, info in gguf.tensors.items()}
    assert types["blk.0.ffn_up.weight"] not in ("f32", "f16")
    assert all(kind == "f32" for name, kind in types.items() if "norm" in name or "scale" in name or "freqs" in name)
    for key in ("centroids", "token_ordering"):
        assert list(gguf.metadata[CENTROIDS + key]) == list(plain.metadata[CENTROIDS + key])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "plain.gguf"]  # no scratch file


def run_cli(checkpoint: Path, out: Path, outtype: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "pyllama_mtp.convert.cli", str(checkpoint), str(out), "--outtype", outtype]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_says_one_line_about_rows_that_fit_no_block(checkpoint: Path, tmp_path: Path):
    done = run_cli(checkpoint, tmp_path / "out.gguf", "q4_k_m")
    assert done.returncode == 0
    written = read_header(tmp_path / "out.gguf").tensors.values()
    odd = [t for t in written if len(t.shape) == 2 and t.shape[0] % 256]
    types = ", ".join(sorted({t.type for t in odd}))
    assert done.stderr == (
        f"convert-assistant: {len(odd)} matrices have rows that are not whole blocks of 256, and became {types}\n"
    )


def test_a_weight_that_is_too_large_is_told_in_one_line(tmp_path: Path):
    config = config_json()
    tensors = random_tensors(config)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = np.full_like(tensors[name], 1e5)
    folder = write_checkpoint(tmp_path / "assistant", config, tensors)
    done = run_cli(folder, tmp_path / "out.gguf", "q4_k_m")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"convert-assistant: error: tensor {name} holds values beyond 65504, which q4_k_m cannot hold: "
        "use --outtype bf16 or f32\n"
    )
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_disk_that_fills_up_in_the_quantiser_is_told_in_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch, capfd, share: float
):
    """The limit holds only where llama.cpp writes: the unquantised tensors before it take more room than its file."""
    whole = convert_assistant(checkpoint, tmp_path / "whole.gguf", outtype="q4_k_m")
    size = int(share * whole.stat().st_size)
    capfd.readouterr()
    quantize, limits = _native.quantize, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*args) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            quantize(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(_native, "quantize", limited)
    assert cli.main([str(checkpoint), str(tmp_path / "out.gguf"), "--outtype", "q4_k_m"]) == 1
    stderr = capfd.readouterr().err
    assert len(stderr.splitlines()) == 1 and "room for it" in stderr and ".part" not in stderr
    assert list(tmp_path.iterdir()) == [whole]


@pytest.mark.filterwarnings("error")  # numpy prints them beside the one line
@pytest.mark.parametrize("damage", ["a norm", "a matrix", "nothing"])
def test_what_the_quantiser_wrote_is_read_back_and_compared(checkpoint: Path, tmp_path: Path, monkeypatch, damage: str):
    quantize = _native.quantize

    def damaged(path: Path, out: Path, mixture: str, n_threads: int) -> None:
        quantize(path, out, mixture, n_threads)
        name = {"a norm": "output_norm.weight", "a matrix": "token_embd.weight"}.get(damage)
        if name:
            tensor = read_header(out).tensors[name]
            with open(out, "r+b") as file:
                file.seek(tensor.offset)
                data = bytearray(file.read(tensor.n_bytes))
                data[:] = data[1:] + data[:1]
                file.seek(tensor.offset)
                file.write(data)

    monkeypatch.setattr(_native, "quantize", damaged)
    if damage == "nothing":
        convert_assistant(checkpoint, tmp_path / "out.gguf", outtype="q6_k")
    else:
        with pytest.raises(ConversionError, match="is not what was given"):
            convert_assistant(checkpoint, tmp_path / "out.gguf", outtype="q6_k")
        assert list(tmp_path.iterdir()) == []


def test_released_shapes_get_the_mixtures_types(tmp_path: Path):
    head = write_assistant(tmp_path / "head.gguf", SHAPES["e2b"], weights="f16")
    _native.quantize(head, tmp_path / "out.gguf", "q4_k_m", 2)
    types = {name: info.type for name, info in read_header(tmp_path / "out.gguf").tensors.items()}
    assert types["blk.0.ffn_up.weight"] == types["blk.0.attn_q.weight"] == "q4_k"
    assert (tmp_path / "out.gguf").stat().st_size < 0.45 * head.stat().st_size


@pytest.mark.parametrize(("mixture", "loss"), [("q6_k", 0.02), ("q4_k_m", 0.03), ("q2_k", 0.06)])
def test_what_quantising_the_head_costs_in_drafts(demo, demo_model, tmp_path: Path, mixture: str, loss: float):
    """Here, after the same tokens, and in unmodified llama.cpp. Most rows of the embedded head are too short for a
    mixture's types, so released heads lose otherwise.
    """
    head = tmp_path / "head.gguf"
    _native.quantize(demo.head, head, mixture, 1)
    with Model(demo.target, mtp_head=head, n_ctx=512, n_threads=1) as model:
        texts = [model.tokenize(p) + run(model, p, 0, n=100)[0] for p in PROMPTS]
        rates = [accepted_after(m, texts, 3, 4).mean() / 3 for m in (demo_model, model)]
    print(f"{mixture}: {rates[1]:.3f}, unquantised {rates[0]:.3f}")
    assert rates[1] > rates[0] - loss
    theirs = [complete(demo.target, h, texts[:3], max_tokens=48, n_ctx=256) for h in (demo.head, head)]
    plain, quantised = (sum(c.accepted for c in cs) / sum(c.drafted for c in cs) for cs in theirs)
    print(f"llama.cpp, with the dense head: {quantised:.3f}, unquantised {plain:.3f}")
    assert quantised > plain - loss - 0.08  # some 100 drafts, of texts of their own length


def test_bad_requests_are_refused(demo, tmp_path: Path, checkpoint: Path):
    with pytest.raises(InvalidRequestError, match="q4_q, expected q2_k"):
        _native.quantize(demo.head, tmp_path / "out.gguf", "q4_q", 1)
    with pytest.raises(ModelLoadError, match="could not quantise"):
        _native.quantize(tmp_path / "none.gguf", tmp_path / "out.gguf", "q6_k", 1)
    with pytest.raises(ConversionError, match="writable folder that has room"):
        convert_assistant(checkpoint, tmp_path / "missing" / "out.gguf", outtype="q6_k")
    assert list(tmp_path.iterdir()) == []
