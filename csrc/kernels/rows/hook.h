// Operations on rows of values, on the CPU; csrc/llama/patches hooks them into ggml-cpu.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

// Computes a UNARY operation TANH, values divided among all threads of the graph: Gemma 4 caps its logits with one,
// 262144 values a row, and ggml's runs through libm and gives a row to one thread. Returns false, with nothing done, if
// op is not contiguous f32.
bool pmtp_tanh(const struct ggml_compute_params * params, struct ggml_tensor * op);

// Computes a GLU operation GEGLU of two tensors, values divided among all threads: ggml's looks up one value at a time,
// and gives a row to one thread. table: ggml's, of the GELU of every f16 number. Returns false, with nothing done, if
// the tensors are not contiguous f32.
bool pmtp_geglu(const struct ggml_compute_params * params, struct ggml_tensor * op, const uint16_t * table);

#ifdef __cplusplus
}
#endif
