// What a mixture's router is made of: a norm that is scaled, and products with weights of f32.
#pragma once

#include <cuda_runtime.h>

class Keep;

struct ggml_cgraph;
struct ggml_tensor;

// As pmtp_cuda_fuse, which calls them: RMS_NORM, SCALE and MUL; two products in front of a GLU, each a kernel of its
// own, which ggml-cuda would make one, with other bits, for a single row.
int pmtp_fuse_scaled_norm(const ggml_cgraph * graph, int i, cudaStream_t stream);
int pmtp_fuse_pair(const ggml_cgraph * graph, int i, cudaStream_t stream);
// The same before a graph has memory.
int pmtp_keep_scaled_norm(const ggml_cgraph * graph, int i, const Keep & keep);

// out = weights x: whether it was launched.
bool pmtp_multiply_floats(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out,
                          cudaStream_t stream);
