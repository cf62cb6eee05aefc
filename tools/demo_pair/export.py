"""Writes the pair as Hugging Face checkpoints and as GGUF files."""

import pathlib
import subprocess
import sys

import torch

from pyllama_mtp.convert import convert_assistant


def write_checkpoint(model, tokenizer, folder: pathlib.Path, dtype: torch.dtype = torch.float32) -> None:
    state = model.state_dict()
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def write_gguf(folder: pathlib.Path, llama_cpp: pathlib.Path, target_type: str, assistant_type: str) -> dict[str, int]:
    """folder/target and folder/assistant -> folder/target.gguf, assistant.gguf. Returns their sizes in bytes."""
    script = llama_cpp / "convert_hf_to_gguf.py"
    if not script.is_file():
        raise SystemExit(f"{script} not found: --llama-cpp-dir must be llama.cpp's source tree")
    target, assistant = folder / "target.gguf", folder / "assistant.gguf"
    command = [sys.executable, str(script), str(folder / "target"), "--outfile", str(target), "--outtype", target_type]
    subprocess.run(command, check=True)
    convert_assistant(folder / "assistant", assistant, outtype=assistant_type)
    return {path.name: path.stat().st_size for path in (target, assistant)}
