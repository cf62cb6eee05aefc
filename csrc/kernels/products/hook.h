// Matrix products with few activation rows: the verify batch of speculative decoding.
//
// llama.cpp's CPU kernels are made for one row (bound by memory) and for many rows. In between they read or decode the
// weights several times. The kernels here pass over the weights once, decode each block once, and multiply it with 1 to
// 9 rows, in two passes with up to 17. A row's result does not depend on how many rows there are, so one-token and
// (k + 1)-token evaluations agree bit for bit in these products.
//
// Types: Q4_0 and Q4_K where ggml has repacked them 8x8, Q8_0 and Q6_K in the plain layout, with AVX-512 VNNI or AVX2.
// csrc/llama/patches/ hooks the two functions into ggml-cpu.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

// Computes a MUL_MAT whose weights are repacked in groups of `columns` rows interleaved by `interleave` bytes (1 and 0:
// not repacked), on all threads of the graph. Returns false, with nothing done, if there is no kernel for it; the
// caller's own path then runs.
bool pmtp_multiply(const struct ggml_compute_params * params, struct ggml_tensor * op, int columns, int interleave);

// Bytes of work buffer that pmtp_multiply needs for the operation; 0 if it would not compute it.
size_t pmtp_multiply_work_size(const struct ggml_tensor * op, int columns, int interleave);

#ifdef __cplusplus
}
#endif
