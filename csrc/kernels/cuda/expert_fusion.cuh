// Products of a mixture of experts in a graph, and what becomes one kernel with them.
#pragma once

#include <cuda_runtime.h>

struct ggml_cgraph;
struct ggml_tensor;

// As pmtp_cuda_fuse, which calls it, of a MUL_MAT_ID: gate, up and their GLU are one kernel; what is done with the down
// product's results follows it.
int pmtp_fuse_experts(const ggml_cgraph * graph, int i, cudaStream_t stream);

// A MUL_MAT_ID: whether it was launched.
bool pmtp_cuda_multiply_experts(const ggml_tensor * product, cudaStream_t stream);
