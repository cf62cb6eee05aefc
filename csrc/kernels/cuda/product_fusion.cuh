// Products of a graph, and what becomes one kernel with them.
#pragma once

#include "kernels/products/cuda/activations.cuh"
#include "kernels/products/cuda/products.cuh"

#include <cuda_runtime.h>

class Keep;

// The place of x's rows, quantised, among the shared ones.
PmtpSharedRows pmtp_rows_of(const ggml_tensor * x);

// The product of weights and x, with the gate's weights or null, if there is a kernel. Nothing is launched, and x is
// still to come.
bool pmtp_is_product(const ggml_tensor * weights, const ggml_tensor * gate, const ggml_tensor * x,
                     const ggml_tensor * out, WeightProduct & p);

// Launches it, with x quantised if it must be; also the result, if it is not null and has a place.
void pmtp_launch_product(WeightProduct & p, const ggml_tensor * x, const ggml_tensor * result, cudaStream_t stream);

// As pmtp_cuda_fuse, which calls them. Two products of one x and a GLU of them; a product, its GELU and a factor.
int pmtp_fuse_gated(const ggml_cgraph * graph, int i, cudaStream_t stream);
int pmtp_fuse_factor(const ggml_cgraph * graph, int i, cudaStream_t stream);
// The same before a graph has memory.
int pmtp_keep_gated(const ggml_cgraph * graph, int i, const Keep & keep);
int pmtp_keep_factor(const ggml_cgraph * graph, int i, const Keep & keep);
