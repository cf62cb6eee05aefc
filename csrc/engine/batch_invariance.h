// Whether a row of a loaded model's logits has the same bits alone and in a batch of rows that are verified together.
#pragma once

#include "ggml.h"

#include <string>

struct llama_context;

namespace pmtp {

// Of a KV cache; those of sliding layers may be other ones.
struct CacheTypes {
    ggml_type k, v, k_swa, v_swa;
};

// Empty if so: the text of a seed, and greedy text, are then the same with drafting on and off. Else the reasons, as
// one line of text.
std::string batch_dependence(const llama_context & context, const CacheTypes & types);

}  // namespace pmtp
