"""Texts that must not depend on what the KV cache held before."""

from collections.abc import Sequence

import pyllama_mtp


def check_texts_repeat(model: pyllama_mtp.Model, prompts: Sequence[str]) -> None:
    """Two prompts: the second gives the same text again after a continuation of it and after the first."""
    other, prompt = prompts

    def complete(text: str) -> list[int]:
        stream = model.generate(text, max_tokens=60, temperature=0.8, seed=3, num_speculative_tokens=3)
        stream.text()
        return stream.token_ids

    first = complete(prompt)
    complete(prompt + "        self.items = []\n")
    complete(other)
    assert complete(prompt) == first
