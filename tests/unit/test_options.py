"""Options say what was seen and what is legal."""

import math

import pytest

from pyllama_mtp import InvalidRequestError
from pyllama_mtp.options import ModelOptions, SamplingOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens is 6"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"stop_token_ids": [-1]}, "stop"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {1: math.inf}}, "logit_bias"),
        ({"logprobs": 65}, "logprobs"),
        ({"num_speculative_tokens": 17}, "num_speculative_tokens"),
        ({"num_speculative_tokens": "many"}, "num_speculative_tokens"),
        ({"synthetic_acceptance": [0.5, 0.6]}, "synthetic_acceptance"),
        ({"synthetic_acceptance": [1.5]}, "synthetic_acceptance"),
        ({"synthetic_acceptance": 0.5}, "synthetic_acceptance"),
        ({"acceptance": "sometimes"}, "sometimes"),
    ],
)
def test_sampling_options_out_of_range(options: dict, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        SamplingOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": 0}, "n_ctx is 0"),
        ({"n_threads": 0}, "n_threads"),
        ({"n_batch": 8}, "n_batch"),
        ({"n_gpu_layers": -2}, "n_gpu_layers"),
        ({"cache_type_k": 8}, "cache_type_k"),
        ({"cache_type_k": "f16\0"}, "cache_type_k"),
        ({"cache_type_v": "\ud800"}, "cache_type_v"),
        ({"cache_type_v_swa": 8}, "cache_type_v_swa"),
        ({"flash_attention": "yes"}, "flash_attention"),
        ({"num_speculative_tokens": -1}, "num_speculative_tokens"),
    ],
)
def test_model_options_out_of_range(options: dict, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        ModelOptions(**options)


def test_defaults_are_legal():
    SamplingOptions()
    ModelOptions()
