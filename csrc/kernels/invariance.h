// What the CPU kernels promise: a row of a result has the same bits whatever the number of rows, for as many as are
// verified at once. The one header of kernels/ that the engine reads, to say whether the promise holds for a model.
#pragma once

struct ggml_tensor;

namespace pmtp {

// Of products with these weights, which lie in a buffer.
bool product_is_batch_invariant(const ggml_tensor * weights);

// Of attention with heads of this size, over a cache of any type, on the CPU.
bool attention_is_batch_invariant(int head_size);

}  // namespace pmtp
