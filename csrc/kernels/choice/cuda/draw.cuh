// CUDA kernel that draws a draft.
#pragma once

#include "sampling/candidates.h"

#include <cuda_runtime.h>

// out: i32 [1 + 2 * n_table], see draw_token in sampling/draw_ops.h. Either n <= kMaxDrawnLogits logits with their ids,
// or candidates. One block.
void pmtp_cuda_draw(const float * logits, const int32_t * ids, int n, const pmtp::Candidates * candidates,
                    const pmtp::ChoiceParams * params, int32_t * out, int n_table, cudaStream_t stream);
