// CUDA kernels that choose from a row of logits: the most probable token, the best clusters. draw_ops.cuh hooks them
// into ggml-cuda's ARGMAX and TOP_K.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// i32 [n_rows]: the index of each row's largest value, the first of equal ones, `none` if there is no number above
// -inf. x: f32 [n, n_rows], rows one after another. Returns false, with nothing launched, for sizes that it is not made
// for.
bool pmtp_cuda_arg_max(const float * x, int32_t * index, int64_t n, int64_t n_rows, int32_t none, cudaStream_t stream);

// i32 [k]: the indices of the k largest values of x (f32 [n]), largest first, equal ones by index. Any bits are fine: k
// different indices below n come out. Returns false likewise.
bool pmtp_cuda_top_k(const float * x, int32_t * index, int64_t n, int64_t n_rows, int64_t k, cudaStream_t stream);
