// What a mixture's router is made of: a norm that is scaled, and products with weights of f32.
#pragma once

#include <cuda_runtime.h>

struct ggml_cgraph;
struct ggml_tensor;

// As pmtp_cuda_fuse, which calls them: RMS_NORM, SCALE and MUL; MUL_MAT with f32 weights, alone or two in front of a
// GLU that ggml-cuda would make one kernel, with other bits than a product alone.
int pmtp_fuse_scaled_norm(const ggml_cgraph * graph, int i, cudaStream_t stream);
int pmtp_fuse_float_products(const ggml_cgraph * graph, int i, cudaStream_t stream);

// out = weights x: whether it was launched.
bool pmtp_multiply_floats(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out,
                          cudaStream_t stream);
