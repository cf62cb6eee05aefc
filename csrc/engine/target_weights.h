// Where a target's weights are, and which of them take memory.
#pragma once

#include "ggml-backend.h"

#include <cstddef>
#include <map>

struct llama_model;

namespace pmtp {

struct TargetWeights {
    // Bytes in each kind of buffer, those of `embedding_bytes` left out. What a mapped file has between its tensors,
    // and tensors that were copied out of it, take none.
    std::map<ggml_backend_buffer_type_t, size_t> bytes;
    // Of tables of which a token reads a row, from the mapped file: a row takes memory once it was read.
    size_t embedding_bytes = 0;
};

// Of a model that was just loaded. The pages that the checks of the tables touched are let go.
TargetWeights take_stock(const llama_model & model);

}  // namespace pmtp
