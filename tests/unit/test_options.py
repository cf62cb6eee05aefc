"""Options say what was seen and what is legal."""

import inspect
import math
import re
from dataclasses import fields
from typing import get_args

import pytest

import pyllama_mtp
from pyllama_mtp import InvalidRequestError, Model, _library, get_include
from pyllama_mtp.commands.arguments import SAMPLING
from pyllama_mtp.names import AcceptanceRule, CacheType, FinishReason
from pyllama_mtp.options import LoadOptions, ModelOptions, SamplingOptions


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
        ({"n_ctx": 0}, "n_ctx .or .max.. is 0"),
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


def test_signatures_tell_the_options_and_their_defaults():
    """help() and editors show what the dataclass lists, without the legal values in its annotations."""
    for function, options in ((Model.generate, SamplingOptions), (pyllama_mtp.generate, SamplingOptions)):
        parameters = inspect.signature(function).parameters
        for option in fields(options):
            assert parameters[option.name].default == option.default
            assert parameters[option.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters["temperature"].annotation == (float | None)
    assert {option.name for option in fields(LoadOptions)} <= inspect.signature(pyllama_mtp.generate).parameters.keys()
    loading = inspect.signature(Model).parameters
    assert {name: loading[name].default for name in loading if name not in ("target", "mtp_head", "progress")} == {
        option.name: option.default for option in fields(ModelOptions)
    }


def test_an_unknown_option_is_pythons_own_error():
    with pytest.raises(TypeError, match=r"^generate\(\) got an unexpected keyword argument 'temprature'"):
        pyllama_mtp.generate("x", model="y", temprature=1)
    with pytest.raises(TypeError, match=r"^generate\(\) missing a required argument: 'model'"):
        pyllama_mtp.generate("x")


def test_the_command_line_knows_options_by_their_names():
    assert {"temperature", "top_k", "seed", "acceptance", "stop", "ignore_eos"} <= SAMPLING.keys()
    assert SAMPLING.items() <= {option.name: option.default for option in fields(SamplingOptions)}.items()


def test_names_are_those_of_the_header():
    assert list(get_args(AcceptanceRule)) == _library.ACCEPTANCE_RULES
    own = ["tool_calls"]  # an end that only the text tells
    assert [None, *(name for name in get_args(FinishReason) if name not in own)] == _library.FINISH_REASONS
    header = (get_include() / "pyllama_mtp.h").read_text()
    cache_types = re.search(r"cache_type_k; +/\*([^;]*?)\*/", header)[1]
    assert re.findall(r'"(\w+)"', cache_types) == list(get_args(CacheType))
    assert int(re.search(r"PMTP_MAX_DRAFT = (\d+)", header)[1]) == _library.MAX_DRAFT


def test_every_number_of_the_engines_parameters_is_set():
    """_library copies numbers by name, so an option that the header calls otherwise would keep its default."""
    by_hand = {"seed", "reproducible", "acceptance", "top_k", "n_logprobs", "n_prompt_logprobs", "grammar"}
    by_hand |= {name for name in _fields("pmtp_sequence_params") if re.search("stop_tokens|bias|synthetic", name)}
    assert _fields("pmtp_sequence_params") - by_hand <= {option.name for option in fields(SamplingOptions)}
    assert _fields("pmtp_model_params") - {"watch", "n_cells"} <= {option.name for option in fields(LoadOptions)}


def _fields(struct: str) -> set[str]:
    return {name for name, _ in _library.ffi.typeof(struct).fields}
