// Matrix products with any number of activation rows: one token, a verify batch of speculative decoding, several of
// them, a prompt.
//
// llama.cpp's CPU kernels are made for one row (bound by memory) and for many rows; in between they read or decode the
// weights several times, and round otherwise. The kernels here read the weights from memory once. A row's result does
// not depend on how many rows there are.
//
// Types: Q4_0, Q4_K and IQ4_NL where ggml has repacked them 8x8, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_1, IQ4_NL, IQ4_XS,
// Q3_K, F32, F16 and BF16 in the plain layout, with AVX-512 or AVX2. csrc/llama/patches/ hooks the functions into
// ggml-cpu.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

// Computes a MUL_MAT or MUL_MAT_ID whose weights are repacked in groups of `columns` rows interleaved by `interleave`
// bytes (1 and 0: not repacked), on all threads of the graph. Returns false, with nothing done, if there is no kernel
// for it; the caller's own path then runs.
bool pmtp_multiply(const struct ggml_compute_params * params, struct ggml_tensor * op, int columns, int interleave);

// Bytes of work buffer that pmtp_multiply needs for the operation in either layout; 0 if it would not compute it.
size_t pmtp_multiply_work_size(const struct ggml_tensor * op);

// Asks the system to hold untouched memory in huge pages, where it has any: weights are read from end to end for every
// batch, and the hardware fetches ahead to the end of a page only.
void pmtp_prefer_huge_pages(void * begin, size_t size);

#ifdef __cplusplus
}
#endif
