// The attention kernels in ggml-cuda's FLASH_ATTN_EXT; hooked in by csrc/llama/patches/*-cuda-attention.patch.
#pragma once

#include "ggml.h"

#include <cuda_runtime.h>

#include <cstddef>

// Bytes of work memory for the operation; 0 if upstream's kernels compute it. So they do for groups of more than 16
// heads, head sizes other than 64, 128, 256 and 512, other types than f16, bf16, q8_0, q4_0 and the turbo types, ALiBi,
// masks by head, on devices older than Ampere, and where they are faster: without a turbo type for groups of one head.
// Depends on shapes, types and strides alone.
size_t pmtp_cuda_attention_work_size(const ggml_tensor * op);

void pmtp_cuda_attention(const ggml_tensor * op, void * work, cudaStream_t stream);

// Whether the kernels compute attention with heads of this size, `group` of them a KV head, over a cache of these
// types, for any number of rows.
bool pmtp_cuda_has_attention(int head_size, int group, ggml_type k, ggml_type v);
