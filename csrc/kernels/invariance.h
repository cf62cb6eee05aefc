// What kernels promise: a row of a result has the same bits whatever the number of rows. The one header of kernels/
// that the engine reads, to say whether the promise holds for a model.
#pragma once

#include "ggml.h"

namespace pmtp {

// Of products with these weights, which lie in a buffer, on the CPU.
bool product_is_batch_invariant(const ggml_tensor * weights);

// Of attention with heads of this size, over a cache of any type, on the CPU.
bool attention_is_batch_invariant(int head_size);

// The same on a CUDA device. group: query heads of a KV head. Without CUDA nothing is promised.
bool cuda_product_is_batch_invariant(const ggml_tensor * weights);
bool cuda_attention_is_batch_invariant(int head_size, int group, ggml_type k, ggml_type v);

// Largest sliding window for which it holds there.
constexpr int kCudaWindow = 4096;

}  // namespace pmtp
