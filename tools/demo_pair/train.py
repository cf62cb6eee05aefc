"""Trains the embedded pair: a small Gemma 4 target and its MTP assistant. See README.md beside this file."""

import argparse
import json
import pathlib
import sys

import torch
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

import models
from calibrate import best_scale, rescale
from data import Corpus, read_sources, train_tokenizer
from draft_training import train_assistant
from evaluate import figures, shortcomings
from export import write_checkpoint, write_gguf
from target_training import train_target

STAGES = ("target", "assistant", "calibrate", "evaluate", "convert")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "out", type=pathlib.Path, help="folder for the checkpoints, the logs, the GGUF files and figures"
    )
    parser.add_argument("--library", type=pathlib.Path, help="standard library to read (default: this Python's)")
    parser.add_argument("--target-minutes", type=float, default=45.0)
    parser.add_argument("--assistant-minutes", type=float, default=25.0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="later stages read what is in OUT")
    parser.add_argument("--llama-cpp-dir", type=pathlib.Path, help="llama.cpp's source tree, whose converter is used")
    parser.add_argument("--target-type", default="q8_0")
    parser.add_argument("--assistant-type", default="f16")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if "convert" in options.stages and options.llama_cpp_dir is None:
        parser.error("the convert stage needs --llama-cpp-dir")
    return options


def main() -> str | None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    options.out.mkdir(parents=True, exist_ok=True)
    target_folder, assistant_folder = options.out / "target", options.out / "assistant"
    sources = read_sources(options.library)
    tokenizer = train_tokenizer([s.text for s in sources if not s.is_unseen])
    corpus = Corpus.build(tokenizer, sources)

    if "target" in options.stages:
        target = models.new_target()
        train_target(
            target, corpus, options.target_minutes, lambda: write_checkpoint(target, tokenizer, target_folder),
            options.out / "target.log",
        )  # fmt: skip
    if "assistant" in options.stages:
        target = Gemma4ForCausalLM.from_pretrained(target_folder)
        assistant = models.new_assistant(target)
        train_assistant(
            assistant, target, corpus, options.assistant_minutes,
            lambda: write_checkpoint(assistant, tokenizer, assistant_folder, torch.bfloat16),
            options.out / "assistant.log",
        )  # fmt: skip
    if "calibrate" in options.stages:
        target = Gemma4ForCausalLM.from_pretrained(target_folder, dtype=torch.float32).eval()
        assistant = Gemma4AssistantForCausalLM.from_pretrained(assistant_folder, dtype=torch.float32).eval()
        rescale(target, assistant, best_scale(target, corpus))
        write_checkpoint(target, tokenizer, target_folder)
        write_checkpoint(assistant, tokenizer, assistant_folder, torch.bfloat16)
    report = options.out / "figures.json"
    result = json.loads(report.read_text()) if report.is_file() else {}
    if "evaluate" in options.stages:
        target = Gemma4ForCausalLM.from_pretrained(target_folder)
        assistant = Gemma4AssistantForCausalLM.from_pretrained(assistant_folder)
        result |= figures(assistant, target, corpus)
    if "convert" in options.stages:
        result |= write_gguf(options.out, options.llama_cpp_dir, options.target_type, options.assistant_type)
    report.write_text(json.dumps(result, indent=2) + "\n")
    print(report.read_text())
    return "\n".join(shortcomings(result)) or None  # sys.exit prints it and fails


if __name__ == "__main__":
    sys.exit(main())
