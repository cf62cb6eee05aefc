// The attention kernels in ggml-cuda's FLASH_ATTN_EXT; hooked in by csrc/llama/patches/*-cuda-attention.patch.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

struct ggml_tensor;

// Bytes of work memory for the operation; 0 if upstream's kernels compute it. So they do for more than 16 query rows,
// groups of more than 16 heads, head sizes other than 64, 128, 256 and 512, other types than f16, bf16, q8_0, q4_0 and
// the turbo types, ALiBi, masks by head, on devices older than Ampere, and where they are faster: without a turbo type
// for groups of one head, and with f16 for more than 32 columns (rows times heads of the group, of which 8 count)
// behind more than 8192 cells. Depends on shapes, types and strides alone.
size_t pmtp_cuda_attention_work_size(const ggml_tensor * op);

void pmtp_cuda_attention(const ggml_tensor * op, void * work, cudaStream_t stream);
