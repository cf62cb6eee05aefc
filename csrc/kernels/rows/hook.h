// Operations on rows of values, on the CPU; csrc/llama/patches hooks them into ggml-cpu.
#pragma once

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

// Computes a UNARY operation TANH, values divided among all threads of the graph: Gemma 4 caps its logits with one,
// 262144 values a row, and ggml's runs through libm and gives a row to one thread. Returns false, with nothing done, if
// op is not contiguous f32.
bool pmtp_tanh(const struct ggml_compute_params * params, struct ggml_tensor * op);

#ifdef __cplusplus
}
#endif
