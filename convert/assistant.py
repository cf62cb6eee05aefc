"""convert_assistant(): a Hugging Face assistant checkpoint to one portable GGUF."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pyllama_mtp.convert.checkpoint import (
    FLOATS,
    INTEGERS,
    StoredTensor,
    as_path,
    open_checkpoint,
    read_json,
    require_folder,
)
from pyllama_mtp.convert.config import CENTROIDS, EMBEDDING, LM_HEAD, NOT_NEEDED, TOKEN_ORDERING, read_config
from pyllama_mtp.convert.output import check_destination, write_gguf, write_mixture
from pyllama_mtp.convert.quants import encode
from pyllama_mtp.convert.tokenizer import tokenizer_metadata
from pyllama_mtp.errors import ConversionError, shown
from pyllama_mtp.gguf.format import TENSOR_TYPES, Entry
from pyllama_mtp.gguf.gemma4_assistant import PREFIX, AssistantConfig, TensorSpec

PLAIN_OUTTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")  # one type for all matrices
# llama.cpp's mixtures, made by its own quantiser
MIXTURES = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k")
OUTTYPES = PLAIN_OUTTYPES + MIXTURES
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}  # general.file_type of llama.cpp
# The largest magnitude that each type holds; block types by their f16 scale, mixtures by f16, which they may contain.
_LARGEST = {"bf16": 3.3895313e38, "f16": 65504.0, "q8_0": 127 * 65504.0, "q4_0": 8 * 65504.0}
_LARGEST |= dict.fromkeys(MIXTURES, 65504.0)

logger = logging.getLogger("pyllama_mtp")


def convert_assistant(
    model_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    outtype: str = "f16",
    name: str | None = None,
    progress: bool = False,
) -> Path:
    """Writes the assistant checkpoint in `model_dir` to the GGUF file `out` and returns its path.

    Dense and centroid LM heads; safetensors, single or sharded, in bf16, f16, f32 or f64. outtype: the type of the
    matrices, or a mixture of types by llama.cpp's quantiser, in letters of any case; norms, scales, centroids and token
    ordering keep full precision. name: what the file calls the model, None: the folder's. progress: draw a bar on
    stderr. The same checkpoint gives the same bytes; one tensor
    is in memory at a time; the file appears under its name only when it is complete and was read back.

    Raises ConversionError, and leaves nothing behind, if the checkpoint is not exactly what the layout says.
    """
    folder, out = as_path(model_dir, "a checkpoint"), as_path(out, "a destination")
    if not isinstance(outtype, str) or outtype.lower() not in OUTTYPES:
        raise ConversionError(f"outtype is {shown(repr(outtype))}, expected one of {', '.join(OUTTYPES)}")
    try:
        _convert(folder, out, outtype.lower(), name, progress)
    except OSError as error:
        raise ConversionError(f"cannot read {folder}: {error.strerror or error}") from error
    except MemoryError as error:
        raise ConversionError(f"a tensor of {folder} does not fit into memory") from error
    return out


def _convert(folder: Path, out: Path, outtype: str, name: str | None, progress: bool) -> None:
    require_folder(folder)
    name = folder.resolve().name if name is None else name
    config = read_config(read_json(folder / "config.json"))
    stored = open_checkpoint(folder)
    inputs = [folder / name for name in os.listdir(folder) if name.endswith((".json", ".jinja", ".safetensors"))]
    check_destination(out, inputs)
    specs = config.tensors()
    _check_tensors(config, stored, specs)
    tokenizer = tokenizer_metadata(folder, config.n_vocab)  # before anything of the vocabulary's size is made
    _check_lm_head(stored)
    plain = outtype if outtype in PLAIN_OUTTYPES else "f32"  # what llama.cpp's quantiser is given
    metadata = (
        {
            "general.architecture": Entry("string", PREFIX),
            "general.type": Entry("string", "model"),
            "general.name": Entry("string", name.encode("utf-8", "replace").decode()),
            "general.file_type": Entry("u32", _FILE_TYPES[plain]),
            "general.quantization_version": Entry("u32", 2),
        }
        | config.metadata()
        | _centroid_metadata(config, stored)
        | tokenizer
    )
    types = {tensor: _type_of(tensor, spec, plain) for tensor, spec in specs.items()}
    declared: list[tuple[str, tuple[int, ...], str]] = [("rope_freqs.weight", (config.head_size // 2,), "f32")]
    declared += [(spec.gguf_name, spec.shape[::-1], types[tensor]) for tensor, spec in specs.items()]
    mixture = outtype if outtype in MIXTURES else None
    data = _data(config, stored, specs, types, mixture, progress)
    if mixture:
        write_mixture(out, mixture, metadata, declared, data)
    else:
        write_gguf(out, metadata, declared, data)


def _check_tensors(config: AssistantConfig, stored: dict[str, StoredTensor], specs: dict[str, TensorSpec]) -> None:
    expected = {name: spec.shape for name, spec in specs.items()}
    if config.n_centroids:
        expected[CENTROIDS] = (config.n_centroids, config.n_embd)
        expected[TOKEN_ORDERING] = (config.n_vocab,)
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        raise ConversionError(
            f"the checkpoint lacks tensor {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
        )
    extra = sorted(name for name in stored.keys() - expected.keys() - {LM_HEAD} if not NOT_NEEDED.fullmatch(name))
    if extra:
        more = f" and {len(extra) - 1} more" if extra[1:] else ""
        raise ConversionError(f"the checkpoint has the unknown tensor {shown(extra[0])}{more}")
    if LM_HEAD in stored:
        expected[LM_HEAD] = expected[EMBEDDING]
    for name, shape in expected.items():
        tensor = stored[name]
        if tensor.shape != shape:
            raise ConversionError(f"tensor {name} has shape {shown(list(tensor.shape))}, expected {list(shape)}")
        dtypes = INTEGERS if name == TOKEN_ORDERING else FLOATS
        if tensor.dtype not in dtypes:
            raise ConversionError(
                f"tensor {name} has the dtype {tensor.dtype}, which is not supported: expected {' or '.join(dtypes)}"
            )


def _check_lm_head(stored: dict[str, StoredTensor]) -> None:
    if LM_HEAD not in stored:
        return
    for ours, embedding in zip(stored[LM_HEAD].parts(), stored[EMBEDDING].parts(), strict=True):
        if not np.array_equal(ours, embedding):
            raise ConversionError(f"tensor {LM_HEAD} differs from the embedding, to which it must be tied")


def _centroid_metadata(config: AssistantConfig, stored: dict[str, StoredTensor]) -> dict[str, Entry]:
    if not config.n_centroids:
        return {}
    return config.centroid_metadata(stored[CENTROIDS].read(), stored[TOKEN_ORDERING].read(), TOKEN_ORDERING)


def _type_of(name: str, spec: TensorSpec, outtype: str) -> str:
    if spec.kind == "vector":
        return "f32"
    if spec.shape[-1] % TENSOR_TYPES[outtype][1]:
        logger.warning("%s stays f16: its rows of %d values are not whole blocks of %s", name, spec.shape[-1], outtype)
        return "f16"
    return outtype


def _encoded(stored: StoredTensor, type_name: str, mixture: str | None) -> np.ndarray:
    """The tensor's bytes. mixture: what they are to become. One part of its values is in memory at a time."""
    limit = _LARGEST.get(mixture or type_name, np.inf)
    encoded = []
    for values in stored.parts():
        if np.abs(values).max(initial=0) > limit:
            raise ConversionError(
                f"tensor {stored.name} holds values beyond {limit:g}, which {mixture or type_name} cannot hold: "
                "use --outtype bf16 or f32"
            )
        encoded.append(encode(values, type_name))
    return np.concatenate(encoded)


def _data(
    config: AssistantConfig,
    stored: dict[str, StoredTensor],
    specs: dict[str, TensorSpec],
    types: dict[str, str],
    mixture: str | None,
    progress: bool,
) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor's name and bytes, in the order of the file."""
    yield "rope_freqs.weight", encode(np.array(config.rope_factors(), np.float32), "f32")
    items = specs.items()
    for name, spec in tqdm(items, unit=" tensors") if progress else items:
        yield spec.gguf_name, _encoded(stored[name], types[name], mixture if spec.kind != "vector" else None)
