"""A model whose states cannot be taken back, on a CUDA device."""

from pathlib import Path

import numpy as np
import pytest

from pyllama_mtp import Model
from pyllama_mtp.gguf.format import Entry
from support.gguf_edit import Parts

WIDTH, INNER, STATE, RANK, KERNEL, N_LAYER = 64, 128, 16, 4, 4, 2
SEEDED = {"temperature": 1.0, "seed": 5, "max_tokens": 30, "ignore_eos": True}


def write_mamba(vocabulary: Path, out: Path) -> Path:
    """A small random Mamba with the tokenizer of another model, of sizes that ggml has CUDA kernels for."""
    random = np.random.default_rng(3)
    source = Parts.read(vocabulary)
    metadata = {key: entry for key, entry in source.metadata.items() if key.startswith("tokenizer.ggml.")}
    numbers = {"block_count": N_LAYER, "context_length": 512, "embedding_length": WIDTH, "feed_forward_length": 0}
    numbers |= {"attention.head_count": 0, "ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER}
    numbers |= {"ssm.state_size": STATE, "ssm.time_step_rank": RANK}
    metadata |= {f"mamba.{key}": Entry("u32", value) for key, value in numbers.items()}
    metadata["general.architecture"] = Entry("string", "mamba")
    metadata["mamba.attention.layer_norm_rms_epsilon"] = Entry("f32", 1e-5)
    tensors = {}

    def add(name: str, *shape: int, mean: float = 0, spread: float = 1) -> None:
        values = (mean + spread * random.standard_normal(np.prod(shape))).astype(np.float32)
        tensors[name] = (name, shape, "f32", values.tobytes())

    add("token_embd.weight", WIDTH, len(metadata["tokenizer.ggml.tokens"].value), spread=0.5)
    add("output_norm.weight", WIDTH, mean=1, spread=0)
    for i in range(N_LAYER):
        add(f"blk.{i}.attn_norm.weight", WIDTH, mean=1, spread=0)
        add(f"blk.{i}.ssm_in.weight", WIDTH, 2 * INNER, spread=0.2)
        add(f"blk.{i}.ssm_conv1d.weight", KERNEL, INNER, spread=0.5)
        add(f"blk.{i}.ssm_conv1d.bias", INNER, spread=0.1)
        add(f"blk.{i}.ssm_x.weight", INNER, RANK + 2 * STATE, spread=0.2)
        add(f"blk.{i}.ssm_dt.weight", RANK, INNER, spread=0.5)
        add(f"blk.{i}.ssm_dt.bias", INNER, spread=0.1)
        add(f"blk.{i}.ssm_a", STATE, INNER, mean=-0.2, spread=0.02)
        add(f"blk.{i}.ssm_d", INNER, mean=1, spread=0.1)
        add(f"blk.{i}.ssm_out.weight", INNER, WIDTH, spread=0.2)
    out.write_bytes(Parts(metadata, tensors).to_bytes())
    return out


@pytest.mark.usefixtures("device")
def test_other_work_between_two_steps_leaves_the_state(demo, tmp_path: Path):
    """The next step's rows were evaluated ahead, and its state, which could not be taken back, was lost when something
    else needed the engine: the text went on as if nothing had been before.
    """
    path = write_mamba(demo.target, tmp_path / "mamba.gguf")
    with Model(path, n_ctx=256, n_threads=2, max_num_seqs=2) as model:
        prompt = [5, 300, 17, 42, 9, 260]
        alone = model.generate(prompt, **SEEDED)
        alone.text()
        other = model.generate(prompt[:1] + prompt[2:], **SEEDED)
        other.text()
        assert list(other.token_ids) != list(alone.token_ids)  # it depends on what has been before
        stream = model.generate(prompt, **SEEDED)
        for _ in stream:
            model.logits([7, 8])
        assert list(stream.token_ids) == list(alone.token_ids)
