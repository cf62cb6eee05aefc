"""Present MTP heads rewritten into older layouts, in which others published them."""

from pathlib import Path

import numpy as np

from pyllama_mtp.convert.quants import encode
from pyllama_mtp.gguf.format import Entry
from support.gguf_edit import Parts

PRESENT = "gemma4-assistant"
# architecture -> what is called otherwise than at present: keys without the architecture, and tensors
KEYS = {
    "gemma4_assistant": {
        "embedding_length_out": "n_embd_backbone",
        "masked_embedding.num_centroids": "n_centroids",
        "masked_embedding.top_k": "centroid_top_k",
    },
    "gemma4_mtp": {
        "embedding_length_out": "backbone_embedding_length",
        "masked_embedding.num_centroids": "centroid_count",
        "masked_embedding.top_k": "centroid_top_k",
    },
    PRESENT: {
        "masked_embedding.num_centroids": "n_centroids",
        "masked_embedding.top_k": "centroid_top_k",
    },
}
OLD = ("gemma4_assistant", "gemma4_mtp")  # those with an architecture of their own, which may lack more
TENSORS = {
    "gemma4_assistant": {
        "nextn.pre_projection.weight": "mtp.pre_projection.weight",
        "nextn.post_projection.weight": "mtp.post_projection.weight",
        "centroids": "mtp.centroids.weight",
        "token_ordering": "mtp.token_ordering.weight",
    },
    "gemma4_mtp": {
        "nextn.pre_projection.weight": "mtp_pre_proj.weight",
        "nextn.post_projection.weight": "mtp_post_proj.weight",
        "centroids": "mtp_centroids.weight",
        "token_ordering": "mtp_token_ordering.weight",
    },
    PRESENT: {"centroids": "masked_embd_centroids.weight", "token_ordering": "masked_embd_ordering"},
}


def in_old_layout(head: Path, architecture: str, centroid_type: str = "f32") -> Parts:
    """The parts of a head's file as its older layout has them: the centroid head, if there is one, in tensors."""
    parts, keys, names = Parts.read(head), KEYS[architecture], TENSORS[architecture]
    arrays = {
        part: parts.metadata.pop(f"{PRESENT}.masked_embedding.{part}", None) for part in ("centroids", "token_ordering")
    }
    metadata: dict[str, Entry] = {}
    for key, entry in parts.metadata.items():
        part = key.removeprefix(f"{PRESENT}.")
        metadata[key if part == key else f"{architecture}.{keys.get(part, part)}"] = entry
    metadata["general.architecture"] = Entry("string", architecture)
    metadata[f"{architecture}.use_ordered_embeddings"] = Entry("bool", arrays["centroids"] is not None)
    tensors = [(names.get(name, name), *tensor[1:]) for name, tensor in parts.tensors.items()]
    if arrays["centroids"] is not None:
        values, order = (np.asarray(entry.value) for entry in arrays.values())
        n_centroids = parts.metadata[f"{PRESENT}.masked_embedding.num_centroids"].value
        shape, data = (len(values) // n_centroids, n_centroids), encode(values, centroid_type).tobytes()
        tensors.append((names["centroids"], shape, centroid_type, data))
        tensors.append((names["token_ordering"], order.shape, "i32", order.tobytes()))
    return Parts(metadata, {tensor[0]: tensor for tensor in tensors})


def with_numbers_of_centroids(dense: Parts, architecture: str, ordered: bool | None) -> Parts:
    """A dense head that names numbers of centroids, as published ones may; ordered: its flag, None for none."""
    for part, n in (("num_centroids", 32), ("top_k", 4)):
        dense.metadata[f"{architecture}.{KEYS[architecture][f'masked_embedding.{part}']}"] = Entry("u32", n)
    del dense.metadata[f"{architecture}.use_ordered_embeddings"]
    if ordered is not None:
        dense.metadata[f"{architecture}.use_ordered_embeddings"] = Entry("bool", ordered)
    return dense
