"""Closed sets of names, as types: a type checker refuses what the engine would, and editors complete them."""

from typing import Literal

CacheType = Literal[
    "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "turbo4", "turbo3", "turbo2"
]
AcceptanceRule = Literal["auto", "coupled", "rejection", "rejection_greedy", "block"]
DrafterName = Literal["auto", "none", "mtp", "ngram"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
SamplingDefaults = Literal["model", "vllm"]
DraftLength = int | Literal["auto"]
ContextLength = int | Literal["max"]
