// Which operations of a graph become one kernel; hooked into ggml-cuda by csrc/llama/patches/*-cuda-fusion.patch.
#pragma once

#include "kernels/cuda/expert_fusion.cuh"  // hooks of one operation
#include "kernels/cuda/head_fusion.cuh"    // the same
#include "kernels/products/cuda/activations.cuh"

#include <cuda_runtime.h>

struct ggml_backend_graph_optimize_params;

// Launches node i of the graph together with what follows it, if there is a kernel for that; returns how many nodes
// after i are done too, 0 if nothing was launched. Only while a PmtpSharedActivations of the graph lives.
int pmtp_cuda_fuse(const ggml_cgraph * graph, int i, cudaStream_t stream);

// Before the graph gets its memory: keeps that of what fused kernels read until their last node.
void pmtp_cuda_keep_sources(const ggml_cgraph * graph, ggml_backend_graph_optimize_params * params);

// out = weights x: whether it was launched. The tensors may be slices made for the call, which no graph holds: those
// of experts have no sources.
bool pmtp_cuda_multiply(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out,
                        cudaStream_t stream);

#ifdef __CUDACC__
// What a product's block does before it waits for the kernels in front of it: asks for its rows of weights, which do
// not depend on them. Later blocks of a large matrix begin when nothing is waited for.
static __device__ __forceinline__ void pmtp_prefetch_rows(const void * weights, const void * gate, int first,
                                                          int n_rows, size_t row_bytes) {
    constexpr int kLine = 128;
    if (blockIdx.x >= 4096) {
        return;
    }
    const char * begin = (const char *) weights + first * row_bytes;
    for (size_t at = (threadIdx.y * blockDim.x + threadIdx.x) * kLine; at < n_rows * row_bytes;
         at += blockDim.x * blockDim.y * kLine) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(begin + at));
        if (gate != nullptr) {
            asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *) gate + first * row_bytes + at));
        }
    }
}
#endif
