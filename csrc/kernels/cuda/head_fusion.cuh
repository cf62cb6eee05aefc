// A layer's queries, keys and values, from their products to the attention.
#pragma once

#include <cuda_runtime.h>

struct ggml_cgraph;
struct ggml_tensor;
class Keep;

// As pmtp_cuda_fuse, which calls them.
// Products of one x with the weights of queries, keys and values, and all that is done with those until keys and values
// are in the cache.
int pmtp_fuse_projections(const ggml_cgraph * graph, int i, cudaStream_t stream);
// The norm of heads, their rotation by position and that of a quantised cache.
int pmtp_fuse_heads(const ggml_cgraph * graph, int i, cudaStream_t stream);
// The same before a graph has memory.
int pmtp_keep_projections(const ggml_cgraph * graph, int i, const Keep & keep);
int pmtp_keep_heads(const ggml_cgraph * graph, int i, const Keep & keep);
// The rotation of what the attention gives back, quantised for its product; nothing is left to do if the attention has.
int pmtp_fuse_rotation(const ggml_cgraph * graph, int i, cudaStream_t stream);

// The rotation, of each 64 values, that alone uses what an attention gives back, and the rows behind it, which the
// attention may compute instead; or null.
struct PmtpRotatedRows {
    const ggml_tensor * rotation = nullptr;
    const ggml_tensor * rows = nullptr;
};
PmtpRotatedRows pmtp_rotated_rows_of(const ggml_tensor * attention);

// One operation: whether it was launched. A norm of heads, or rows of heads that are written to a cache, with the bits
// that the fused kernels give them.
bool pmtp_cuda_norm_heads(const ggml_tensor * norm, cudaStream_t stream);
bool pmtp_cuda_write_heads(const ggml_tensor * set_rows, cudaStream_t stream);
