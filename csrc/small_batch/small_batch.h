// Matrix products with few activation rows: the verify batch of speculative decoding.
//
// llama.cpp's CPU kernels for repacked weights are made for one row (bound by memory) and for many rows. In between they read
// the weights again for every row, or decode each block once per four rows at a fraction of the vector units' rate. The kernels
// here pass over the weights once, decode each block once, and multiply it with 1 to kMaxRows rows. A row's result does not depend
// on how many rows there are, so one-token and (k + 1)-token evaluations agree bit for bit in these products.
//
// csrc/patches/ hooks the two functions into ggml-cpu.
#pragma once

#include <cstddef>

struct ggml_compute_params;
struct ggml_tensor;

// Computes a MUL_MAT whose weights are repacked in groups of `columns` rows interleaved by `interleave` bytes, on all threads of
// the graph. Returns false, with nothing done, if there is no kernel for it; the caller's own path then runs.
bool pmtp_small_batch_mul_mat(const ggml_compute_params * params, ggml_tensor * op, int columns, int interleave);

// Bytes of work buffer that pmtp_small_batch_mul_mat needs for the operation; 0 if it would not compute it.
size_t pmtp_small_batch_work_size(const ggml_tensor * op, int columns, int interleave);
