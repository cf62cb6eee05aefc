"""Weights on their way from the file: what arrives, and what memory they take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.gemma4 import Gemma4Shape
from pyllama_mtp.gguf.random_weights import write_target
from support.cmake import cmake

MIB = 1 << 20
SHAPE = Gemma4Shape(
    n_layer=4,
    full_every=2,
    n_embd=1024,
    n_head=4,
    n_head_kv=1,
    n_head_kv_full=1,
    n_ff=8192,
    n_ple=256,
    n_shared=2,
    window=64,
    n_vocab=32768,
    context_length=512,
)
CODE = """
import json, sys
from pyllama_mtp import Model
def resident():
    anonymous = mapped = 0
    ours = False
    for line in open("/proc/self/smaps"):
        name, *values = line.split()
        if "-" in name and not name.endswith(":"):
            ours = line.rstrip().endswith(sys.argv[1])
        elif name == "Rss:":
            mapped += ours * int(values[0]) << 10
        elif name == "Anonymous:":
            anonymous += int(values[0]) << 10
    return anonymous, mapped
options = {"n_ctx": 512, "n_threads": 2, "n_gpu_layers": 0, "drafter": "none"}
Model(sys.argv[2], **options).close()
before, _ = resident()
model = Model(sys.argv[1], **options)
loaded = resident()
model.generate([2, *range(300, 320)], max_tokens=8, temperature=0, ignore_eos=True).text()
used = resident()
info = model.info
print(json.dumps([loaded[0] - before, loaded[1], used[1], info.target_bytes, info.embedding_bytes]))
"""


def test_what_several_threads_copy_is_what_ggml_makes_of_it(patched_build: Path):
    """Of every type that ggml repacks on this CPU; also: bad values are found in every slice, and loads stop."""
    built = cmake("--build", patched_build, "--target", "weight_loads")
    assert built.returncode == 0, (built.stdout + built.stderr)[-2000:]
    program = patched_build / "tests" / "native" / "weight_loads" / "weight_loads"
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    if "avx2" in Path("/proc/cpuinfo").read_text():
        assert {"q4_0", "q4_K", "iq4_nl"} <= set(done.stdout.split())


@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="nothing is repacked")
@pytest.mark.parametrize("weights", ["q4_0", "q8_0"])
def test_memory_is_what_info_says(tmp_path: Path, demo, weights: str):
    """Weights that had been repacked stayed resident in the file's mapping too, and so did whole tables of embeddings:
    3.9 GB for a file of 2.6.
    """
    target = write_target(tmp_path / "target.gguf", SHAPE, weights=weights)
    command = [sys.executable, "-P", "-c", CODE, str(target), str(demo.target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    anonymous, mapped, mapped_later, target_bytes, embedding_bytes = json.loads(done.stdout)
    estimate = Model.estimate(target, n_gpu_layers=0)
    assert (estimate.target_bytes, estimate.embedding_bytes) == (target_bytes, embedding_bytes)
    assert target_bytes > 60 * MIB and embedding_bytes > 8 * MIB
    copied, kept = (target_bytes, 0) if weights == "q4_0" else (0, target_bytes)
    assert copied - MIB < anonymous < copied + 24 * MIB  # and a vocabulary, and a context
    assert kept - MIB < mapped < kept + 2 * MIB
    assert mapped <= mapped_later < kept + 6 * MIB  # 28 tokens' rows, with what the system maps around them
