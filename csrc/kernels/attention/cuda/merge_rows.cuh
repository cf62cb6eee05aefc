// The merge of a prompt's columns.
#pragma once

#include "kernels/attention/cuda/layout.cuh"

namespace pmtp::attention::cuda {

// Most chunks, which shared memory has room for.
constexpr int kMostMergedChunks = 2048;

// As merge.cu's kernel, with a warp a column instead of a block of threads, and the same bits.
void launch_merge_rows(const Plan & plan, void * work, cudaStream_t stream);

}  // namespace pmtp::attention::cuda
