// Attention over a KV cache of any type on the CPU; csrc/llama/patches hooks the two functions into ggml-cpu's
// FLASH_ATTN_EXT.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

// Computes a FLASH_ATTN_EXT on all threads of the graph; a row gets the same bits whatever the number of rows, threads
// and cells behind those that it sees and, if its mask has pages (pages.h), wherever its cells lie. Returns false, with
// nothing done, for ALiBi, heads above 512 or of no multiple of 32 values, and use_ref: ggml's own loop then runs.
bool pmtp_attention(const struct ggml_compute_params * params, struct ggml_tensor * op);

// Bytes of work buffer that pmtp_attention needs for the operation; 0 if it would not compute it.
size_t pmtp_attention_work_size(const struct ggml_tensor * op, int n_threads);

#ifdef __cplusplus
}
#endif
