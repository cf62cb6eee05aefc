// The MTP head's weights: reads an assistant GGUF and checks that it belongs to the target.
#pragma once

#include "drafters/gemma4/head_tensors.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct llama_model;
class llama_kv_cache_iswa;

namespace pmtp {

// Which of the target's layers the head attends to: the last full and the last sliding layer that own K/V.
struct SharedLayers {
    int full;
    int sliding;
};
SharedLayers shared_layers(const llama_kv_cache_iswa & cache);

// Shapes in ggml order, fastest dimension first. E: the head's width, B: the target's (backbone) width, V: vocabulary.
struct HeadLayer {
    bool sliding;
    int n_head;
    int head_size;
    int n_rot;
    float rope_base;
    ggml_tensor * attn_norm;            // [E]
    ggml_tensor * attn_q;               // [E, head_size * n_head]
    ggml_tensor * attn_q_norm;          // [head_size]
    ggml_tensor * attn_output;          // [head_size * n_head, E]
    ggml_tensor * post_attention_norm;  // [E]
    ggml_tensor * ffn_norm;             // [E]
    ggml_tensor * ffn_gate;             // [E, n_ff]
    ggml_tensor * ffn_up;               // [E, n_ff]
    ggml_tensor * ffn_down;             // [n_ff, E]
    ggml_tensor * post_ffw_norm;        // [E]
    ggml_tensor * layer_output_scale;   // [1], or NULL: 1
};

class MtpHead {
  public:
    // Reads `path` into buffers of `device` (the one that holds the K/V the head attends to). Everything that the graph
    // will rely on is checked before a weight is read: throws Error(MODEL_LOAD) for a bad file,
    // Error(INCOMPATIBLE_HEAD) for one that does not fit the target, Error(CANCELLED) if watch says so.
    MtpHead(const std::string & path, const llama_model & target, const llama_kv_cache_iswa & cache,
            ggml_backend_dev_t device, const Watch & watch);

    bool has_centroids() const { return n_centroids > 0; }
    size_t bytes() const;

    int n_embd = 0;
    int n_embd_backbone = 0;
    int n_vocab = 0;
    int n_centroids = 0;  // 0: dense LM head
    int top_k = 0;        // clusters whose logits are computed
    int window = 0;
    float rms_eps = 0;
    std::vector<HeadLayer> layers;

    ggml_tensor * pre_projection = nullptr;   // [2 * B, E]
    ggml_tensor * post_projection = nullptr;  // [E, B]
    ggml_tensor * output_norm = nullptr;      // [E]
    ggml_tensor * rope_factors = nullptr;     // [head_size / 2] of the full layers
    ggml_tensor * lm_head =
        nullptr;  // dense: [E, V]; centroid: rows in cluster order, [E, V / n_centroids, n_centroids]
    ggml_tensor * centroids = nullptr;       // f32 [E, n_centroids]
    ggml_tensor * token_ordering = nullptr;  // i32 [V / n_centroids, n_centroids]: the token of each row of lm_head

  private:
    class Reader;

    std::vector<TensorStorage> storage_;  // one for each kind of buffer
};

}  // namespace pmtp
