"""`pyllama-mtp info`: headers alone, and what fits."""

import re
from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp import estimate as estimating
from pyllama_mtp.commands import fits, info
from pyllama_mtp.gguf.format import Entry, Writer, tensor_bytes
from pyllama_mtp.gguf.gemma4 import SHAPES
from pyllama_mtp.gguf.random_weights import synthetic_tokenizer
from support.gguf_edit import edit_tensor, rewrite

GIB = 1 << 30


def write_hollow(path: Path, name: str) -> Path:
    """A target of a published shape in Q4_0 that has a header, and where its weights would be, nothing at all."""
    shape = SHAPES[name]
    declared = [("rope_freqs.weight", (shape.head_size_full // 2,), "f32")]
    for t in shape.tensors():
        declared.append((t.name, t.shape, "q4_0" if t.shape[0] % 32 == 0 and len(t.shape) > 1 else "f32"))
    with path.open("wb") as file:
        writer = Writer(file, shape.metadata() | synthetic_tokenizer(shape.n_vocab), declared)
        writer.write_tensor("rope_freqs.weight", np.array(shape.rope_factors(), "<f4"))  # they are looked at
        size = sum(tensor_bytes(kind, dimensions) + 32 for _, dimensions, kind in declared)
        file.truncate(file.tell() + size)
    return path


def set_free(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    for module in (fits, info):
        monkeypatch.setattr(module, "free_bytes", lambda: n)


@pytest.mark.parametrize("free", [4 * GIB, 24 * GIB, 600 * GIB])
def test_a_model_of_31_billion_parameters_is_told_without_its_weights(main, tmp_path: Path, monkeypatch, free: int):
    path = write_hollow(tmp_path / "hollow.gguf", "31b")
    assert path.stat().st_size > 15 * GIB > 1 << 26 > path.stat().st_blocks * 512
    monkeypatch.setattr("pyllama_mtp.model.NativeModel", None)  # nothing can be loaded
    set_free(monkeypatch, free)
    status, out, error = main(["info", str(path)])
    assert (status, error) == (0, "")
    assert "30.70 billion parameters" in out and "trained for 131072 tokens" in out
    head, _, table = out.partition("KV cache")
    rows = ("KV cache" + table).splitlines()
    assert all(len(row) <= 80 for row in rows)
    names = [row[:24].strip() for row in rows if re.match(r"\S.*\d", row)]
    assert names[:5] == ["KV cache (K/V, sliding)", "f16", "q8_0", "turbo4, q8_0", "turbo4/turbo3, q8_0"]
    assert table.count("!") > 1 if free < 600 * GIB else table.count("!") == 1
    most = [row.split() for row in rows if row.split()[:1] == ["most"]]
    assert len(most) == 4 and all(len(row) == 5 for row in most)
    for row in most:
        n = [0 if cell == "-" else int(cell) for cell in row[1:]]
        assert n == sorted(n, reverse=True) and n[0] <= 131072
    assert (most[0][1:] == ["-"] * 4) == (free == 4 * GIB)
    assert int(most[2][1].replace("-", "0")) >= int(most[0][1].replace("-", "0"))


def test_the_table_says_what_estimate_says(demo, main, monkeypatch: pytest.MonkeyPatch):
    flags = ["--n-ctx", "1000", "--max-num-seqs", "3", "--cache-type-k", "q8_0", "--cache-type-v-swa", "turbo4"]
    status, out, _ = main(["info", str(demo.target), "--mtp-head", str(demo.head), *flags])
    assert status == 0
    own = {"cache_type_k": "q8_0", "cache_type_v_swa": "turbo4", "n_ctx": 1000, "mtp_head": demo.head}
    totals = [Model.estimate(demo.target, max_num_seqs=n, **own).total_bytes for n in (2, 3, 4, 8)]
    (row,) = [row for row in out.splitlines() if row.startswith("q8_0/f16, q8_0/turbo4")]
    assert row.split()[-5:] == ["1000", *(f"{total / GIB:.2f}" for total in totals)]


def test_what_files_say_of_themselves(demo, main):
    status, out, error = main(["info", str(demo.target), "--mtp-head", str(demo.head)])
    assert (status, error) == (0, "")
    for text in ("Target", "gemma4", "6 layers", "2048 tokens", "temperature 1, top_p 0.95, top_k 64", "yes"):
        assert text in out
    assert re.search(r"MTP head +.*assistant.gguf, \d+ MiB, .* million parameters, .* LM head", out)
    assert "sampling       temperature 1\n" in main(["info", str(demo.target), "--generation-config", "vllm"])[1]


def test_weights_are_not_looked_at(demo, tmp_path: Path, main):
    """A model with such weights cannot be loaded."""
    broken = edit_tensor(demo.target, tmp_path / "nan.gguf", "output_norm.weight", lambda x: x * np.nan)
    assert main(["info", str(broken)])[0] == 0


def test_a_model_of_another_kind_has_no_table(demo, tmp_path: Path, main):
    metadata = {"general.architecture": Entry("string", "llama")}
    metadata |= {f"llama.{key}": Entry("u32", n) for key, n in (("block_count", 6), ("context_length", 4096))}
    metadata |= {"llama.embedding_length": Entry("u32", 256)}
    other = rewrite(demo.target, tmp_path / "other.gguf", metadata=metadata)
    status, out, _ = main(["info", str(other)])
    assert status == 0 and "llama" in out and "known of gemma4 alone" in out


def test_damaged_files_and_wrong_options_are_told_in_a_line(demo, tmp_path: Path, main):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo.target.read_bytes()[:5000])
    for arguments, told in (
        ([str(cut)], "cut.gguf"),
        ([str(demo.target), "--mtp-head", str(demo.target)], "expected an MTP head"),
        ([str(demo.head)], "is an MTP head"),
        ([str(demo.target), "--max-num-seqs", "0"], "max_num_seqs"),
        ([str(demo.target), "--cache-type-k", "q9_9"], "q9_9"),
    ):
        status, out, error = main(["info", *arguments])
        assert status == 1 and out == "" and len(error.splitlines()) == 1 and told in error, arguments


def test_a_gpus_memory_is_not_made_up(demo, main, monkeypatch: pytest.MonkeyPatch):
    for module in (estimating, fits, info):
        monkeypatch.setattr(module, "on_gpu", lambda options: True)
    out = main(["info", str(demo.target)])[1]
    assert "How much a GPU has free is not known" in out and "most" not in out and "!" not in out
