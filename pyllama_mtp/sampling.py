"""The sampling options that a caller leaves out: the file's, else those published for its architecture; or vLLM's."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from pyllama_mtp.errors import InvalidRequestError, ModelLoadError
from pyllama_mtp.gguf.format import GGUFFile
from pyllama_mtp.options import SamplingOptions
from pyllama_mtp.ranges import legal_of

Options = TypeVar("Options", bound=SamplingOptions)


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0: greedy; top_k 0: all. The defaults are vLLM's: the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, options: SamplingOptions) -> "Sampling":
        """Those of options that leave none out."""
        values: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(cls)}
        return cls(**values | {"top_k": max(0, values["top_k"])})

    def fill(self, options: Options) -> Options:
        """The options, with these for the ones that were left out."""
        own: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(options, **{name: value for name, value in own.items() if getattr(options, name) is None})

    def __str__(self) -> str:
        told = [f for f in fields(self) if f.name == "temperature" or getattr(self, f.name) != f.default]
        return ", ".join(f"{f.name} {getattr(self, f.name):g}" for f in told)


NEUTRAL = Sampling()

# By architecture, as its publisher recommends in generation_config.json.
PUBLISHED = {"gemma4": Sampling(temperature=1.0, top_p=0.95, top_k=64)}

_KEYS = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
_LEGAL = {field.name: legal_of(field) for field in fields(SamplingOptions)}


def sampling_of(target: GGUFFile) -> Sampling:
    """What the target's header says, and where it says nothing, what is published. Raises ModelLoadError for a value
    that is out of its range.
    """
    said: dict[str, Any] = {}
    for name, key in _KEYS.items():
        if key not in target.metadata:
            continue
        value, legal = target.metadata[key], _LEGAL[name]
        assert legal is not None
        try:
            said[name] = legal.check(key, float(f"{value:.7g}") if isinstance(value, float) else value)  # it is an f32
        except InvalidRequestError as error:
            raise ModelLoadError(
                f'{target.path}: {error}; sampling_defaults="vllm" loads the model without its recommendations'
            ) from error
    if "top_k" in said:
        said["top_k"] = max(0, said["top_k"])
    return replace(PUBLISHED.get(target.architecture or "", NEUTRAL), **said)
