// A layer's queries, keys and values, from their products to the attention.
#pragma once

#include <cuda_runtime.h>

struct ggml_cgraph;

// As pmtp_cuda_fuse, which calls them.
// Products of one x with the weights of queries, keys and values, and all that is done with those until keys and values
// are in the cache.
int pmtp_fuse_projections(const ggml_cgraph * graph, int i, cudaStream_t stream);
// The norm of heads, their rotation by position and that of a quantised cache.
int pmtp_fuse_heads(const ggml_cgraph * graph, int i, cudaStream_t stream);
// The rotation of what the attention gives back, quantised for its product.
int pmtp_fuse_rotation(const ggml_cgraph * graph, int i, cudaStream_t stream);
