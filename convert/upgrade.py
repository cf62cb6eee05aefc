"""upgrade_assistant(): an assistant's GGUF in one of the older layouts to the present, portable one."""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from pyllama_mtp.convert.checkpoint import as_path
from pyllama_mtp.convert.output import check_destination, write_gguf
from pyllama_mtp.convert.quants import DECODED_TYPES, decode, decode_parts
from pyllama_mtp.errors import ConversionError, ModelLoadError, shown
from pyllama_mtp.gguf import gemma4_checks
from pyllama_mtp.gguf.format import Entry, GGUFFile, TensorInfo, read_header
from pyllama_mtp.gguf.gemma4 import ROTATED_SHARE
from pyllama_mtp.gguf.gemma4_assistant import (
    OLD_LAYOUTS,
    ORDERED,
    PREFIX,
    REPEATED_EMBEDDING,
    AssistantConfig,
    Layer,
    OldLayout,
)
from pyllama_mtp.gguf.gemma4_checks import MAX_HEAD_SIZE, MAX_HEADS, MAX_LENGTH, MAX_WIDTH, ROPE_FACTORS, WEIGHT_TYPES
from pyllama_mtp.gguf.hyperparameters import HyperParameters


def upgrade_assistant(old: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Writes the assistant in the GGUF file `old`, of the layout gemma4_assistant or gemma4_mtp or of the present one
    with the centroid head in tensors, to the GGUF file `out` in the layout that convert_assistant() writes, and returns
    its path.

    Tensors keep their types and bytes; the centroids become f32. A file without rope_freqs.weight gets the one of
    all released models, which rotate a quarter of the full layers' dimensions; one without layer_output_scale gets
    ones. The target's embedding, which some files repeat, is left out. Raises ConversionError, and leaves
    nothing behind, if the file is not exactly what its layout says.
    """
    old, out = as_path(old, "an MTP head"), as_path(out, "a destination")
    try:
        return _upgrade(read_header(old), out)
    except ModelLoadError as error:
        raise ConversionError(str(error)) from error
    except OSError as error:
        raise ConversionError(f"cannot read {old}: {error.strerror or error}") from error
    except MemoryError as error:
        raise ConversionError(f"a tensor of {old} does not fit into memory") from error


def _upgrade(header: GGUFFile, out: Path) -> Path:
    architecture = header.architecture
    layout = OLD_LAYOUTS.get(architecture) if architecture else None
    if architecture == PREFIX and layout is not None and layout.centroids not in header.tensors:
        raise ConversionError(f"{header.path} has the present layout ({PREFIX}) already: use it as it is")
    if architecture is None or layout is None:
        raise ConversionError(
            f"{header.path} is a model of architecture {shown(repr(architecture))}, expected an MTP head of the "
            f"layout {' or '.join(OLD_LAYOUTS)}"
        )
    check_destination(out, [header.path])
    parameters = HyperParameters(header, architecture)
    gemma4_checks.check_head(parameters)
    config = _config(parameters, layout)
    tensors = _renamed_tensors(header, layout)
    _check_tensors(header, config, tensors)
    metadata = _metadata(header, layout, config)
    made = {name: np.ones(1, "<f4") for name in sorted(_scales(config) - tensors.keys())}
    if ROPE_FACTORS not in tensors:
        made = {ROPE_FACTORS: np.array(config.rope_factors(), "<f4")} | made
    declared: list[tuple[str, tuple[int, ...], str]] = [(name, data.shape, "f32") for name, data in made.items()]
    declared += [(name, t.shape, t.type) for name, t in tensors.items()]
    write_gguf(out, metadata, declared, chain(made.items(), _data(tensors)))
    return out


def _config(p: HyperParameters, layout: OldLayout) -> AssistantConfig:
    n_layer = p.integer("block_count", 1, 64)
    head_size, head_size_swa = (p.integer(f"attention.key_length{s}", 2, MAX_HEAD_SIZE) for s in ("", "_swa"))
    sliding = p.flags("attention.sliding_window_pattern", n_layer)
    n_head_kv = p.integers("attention.head_count_kv", 1, MAX_HEADS, n_layer)
    embedding = p.header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ConversionError(f"{p.header.path} lacks the tensor token_embd.weight, or it is no matrix")
    n_vocab = embedding.shape[1]
    n_centroids, top_k = _centroid_sizes(p, layout, n_vocab) if _has_centroids(p, layout) else (0, 0)
    return AssistantConfig(
        n_embd=p.integer("embedding_length", 1, MAX_WIDTH),
        n_embd_backbone=p.integer(layout.n_embd_backbone, 1, MAX_WIDTH),
        n_ff=_same(p, "feed_forward_length", MAX_WIDTH, n_layer),
        n_head=_same(p, "attention.head_count", MAX_HEADS, n_layer),
        n_head_kv=n_head_kv[0] if len(set(n_head_kv)) == 1 else n_head_kv,
        n_vocab=n_vocab,
        context_length=p.integer("context_length", 1, MAX_LENGTH),
        window=p.integer("attention.sliding_window", 1, MAX_LENGTH),
        rms_eps=p.real("attention.layer_norm_rms_epsilon", 0, 1),
        rope_base=p.real("rope.freq_base", 0, 1e12),
        rope_base_swa=p.real("rope.freq_base_swa", 0, 1e12),
        rotated_share=ROTATED_SHARE,  # where the file has no rope_freqs.weight, which says what is rotated
        layers=tuple(Layer(s, head_size_swa if s else head_size) for s in sliding),
        head_size=head_size,
        head_size_swa=head_size_swa,
        n_shared=p.integer("attention.shared_kv_layers", 0, n_layer, default=n_layer),
        n_centroids=n_centroids,
        top_k=top_k,
    )


def _centroid_sizes(p: HyperParameters, layout: OldLayout, n_vocab: int) -> tuple[int, int]:
    """The numbers of clusters, and of those that are scored. Some files leave them out."""
    tensor = p.header.tensors.get(layout.centroids)
    n_centroids = top_k = None  # required
    if layout.default_top_k is not None and tensor is not None:
        n_centroids = tensor.shape[-1]
    n_centroids = p.integer(layout.n_centroids, 1, n_vocab, default=n_centroids)
    if n_vocab % n_centroids:
        raise ConversionError(f"{n_centroids} centroids do not divide the vocabulary of {n_vocab}")
    if layout.default_top_k is not None:
        top_k = min(layout.default_top_k, n_centroids)
    top_k = p.integer(layout.top_k, 1, n_centroids, default=top_k)
    return n_centroids, top_k


def _same(p: HyperParameters, key: str, most: int, n_layer: int) -> int:
    """A size that older files may hold once for each layer."""
    values = p.integers(key, 1, most, n_layer)
    if len(set(values)) > 1:
        raise p.fail(key, values[:8], "the same for all layers")
    return values[0]


def _has_centroids(p: HyperParameters, layout: OldLayout) -> bool:
    ordered = p.header.metadata.get(f"{p.prefix}.{ORDERED}", layout.centroids in p.header.tensors)
    if not isinstance(ordered, bool):
        raise p.fail(ORDERED, repr(ordered), "a boolean")
    return ordered


def _scales(config: AssistantConfig) -> set[str]:
    """The tensors that a file may lack: a layer without one is not scaled."""
    return {name for spec in config.tensors().values() if "layer_output_scale" in (name := spec.gguf_name)}


def _renamed_tensors(header: GGUFFile, layout: OldLayout) -> dict[str, TensorInfo]:
    """By their present names, in the file's order, without the centroid head."""
    names = {
        layout.pre_projection: "nextn.pre_projection.weight",
        layout.post_projection: "nextn.post_projection.weight",
    }
    left_out = (layout.centroids, layout.token_ordering, REPEATED_EMBEDDING)
    return {names.get(name, name): tensor for name, tensor in header.tensors.items() if name not in left_out}


def _check_tensors(header: GGUFFile, config: AssistantConfig, tensors: dict[str, TensorInfo]) -> None:
    expected = {spec.gguf_name: (spec.shape[::-1], spec.kind) for spec in config.tensors().values()}
    if ROPE_FACTORS in tensors:
        expected[ROPE_FACTORS] = ((config.head_size // 2,), "vector")
    if missing := expected.keys() - tensors.keys() - _scales(config):
        raise ConversionError(f"{header.path} lacks tensor {min(missing)}: get it again, or convert the checkpoint")
    if extra := tensors.keys() - expected.keys():
        raise ConversionError(
            f"{header.path} has the unknown tensor {shown(min(extra))}: convert the checkpoint instead"
        )
    if repeated := header.tensors.get(REPEATED_EMBEDDING):
        _check_tensor(repeated, (config.n_embd_backbone, config.n_vocab), WEIGHT_TYPES)
    for name, (shape, kind) in expected.items():
        if name in tensors:
            _check_tensor(tensors[name], shape, ("f32",) if kind == "vector" else WEIGHT_TYPES)


def _check_tensor(tensor: TensorInfo, shape: tuple[int, ...], types: tuple[str, ...]) -> None:
    if tensor.shape != shape:
        raise ConversionError(f"tensor {tensor.name} has shape {list(tensor.shape)}, expected {list(shape)}")
    if tensor.type not in types:
        raise ConversionError(f"tensor {tensor.name} has type {tensor.type}, expected {' or '.join(types)}")


def _metadata(header: GGUFFile, layout: OldLayout, config: AssistantConfig) -> dict[str, Entry]:
    """In the order of convert_assistant(). What the file says stays, under its present name; what the layout did not
    have comes from the configuration, as does the pattern, which is of integers in some files.
    """
    old = f"{header.architecture}."
    special = (layout.n_embd_backbone, layout.n_centroids, layout.top_k, ORDERED, "attention.sliding_window_pattern")
    own: dict[str, Entry] = {"general.architecture": Entry("string", PREFIX)}
    others: dict[str, Entry] = {}
    carried: dict[str, Entry] = {}
    for key, value in header.metadata.items():
        entry = Entry(header.types[key], value)
        if key.startswith(old):
            if key.removeprefix(old) not in special:
                carried[f"{PREFIX}.{key.removeprefix(old)}"] = entry
        elif key.startswith("general."):
            own.setdefault(key, entry)
        else:
            others[key] = entry
    own.pop("general.alignment", None)  # of the old file
    return own | config.metadata() | carried | _centroid_metadata(header, layout, config) | others


def _centroid_metadata(header: GGUFFile, layout: OldLayout, config: AssistantConfig) -> dict[str, Entry]:
    if not config.n_centroids:
        return {}
    for name in (layout.centroids, layout.token_ordering):
        if name not in header.tensors:
            raise ConversionError(f"{header.path} lacks tensor {name}: get it again, or convert the checkpoint")
    centroids, ordering = header.tensors[layout.centroids], header.tensors[layout.token_ordering]
    _check_tensor(centroids, (config.n_embd, config.n_centroids), DECODED_TYPES)
    _check_tensor(ordering, (config.n_vocab,), ("i32",))
    data = _read(centroids)
    _check_finite(centroids, data)
    order = _read(ordering).view("<i4")
    return config.centroid_metadata(decode(data, centroids.type), order, f"tensor {ordering.name}")


def _read(tensor: TensorInfo) -> np.ndarray:
    return np.fromfile(tensor.path, np.uint8, tensor.n_bytes, offset=tensor.offset)


def _data(tensors: dict[str, TensorInfo]) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in tensors.items():
        data = _read(tensor)
        if tensor.type in DECODED_TYPES:
            _check_finite(tensor, data)
        yield name, data


def _check_finite(tensor: TensorInfo, data: np.ndarray) -> None:
    for values in decode_parts(data, tensor.type):
        if not np.isfinite(values).all():
            raise ConversionError(f"tensor {tensor.name} holds values that are not finite numbers")
