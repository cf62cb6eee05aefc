// Which expert a block of threads multiplies, and for which pairs of a token and an expert; part of expert_products.cu.
#pragma once

#include "kernels/products/cuda/experts.cuh"

namespace {

constexpr uint32_t kAllLanes = 0xffffffff;

__device__ __forceinline__ int expert_of(const int32_t * ids, int stride, int n_used, int n_experts, int pair) {
    if (ids == nullptr) {
        return 0;
    }
    // Past the first cache, which may have lines from before the kernel that wrote the ids.
    const int id = __ldcg(ids + (size_t) (pair / n_used) * stride + pair % n_used);
    return (unsigned) id < (unsigned) n_experts ? id : 0;
}

// In shared memory.
struct PairsOfExpert {
    uint32_t chosen[kPmtpMostExperts / 32];  // a bit for each expert
    uint16_t experts[kPmtpMostPairs];
    uint16_t pairs[kPmtpMostPairs];  // those of the expert, in order
};

// The which-th of the experts that have pairs, or -1. All threads of the block call it.
__device__ __forceinline__ int find_expert(PairsOfExpert & of, const ExpertProduct & p, int which) {
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < kPmtpMostExperts / 32) {
        of.chosen[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_used * p.n_tokens; i += blockDim.x) {
        const int expert = expert_of(p.ids, p.ids_stride, p.n_used, p.n_experts, i);
        of.experts[i] = (uint16_t) expert;
        atomicOr(&of.chosen[expert / 32], 1u << expert % 32);
    }
    __syncthreads();
    // Lane i has experts 32 i ... 32 i + 31.
    uint32_t word = of.chosen[lane];
    int n_to_here = __popc(word);
    const int n_here = n_to_here;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int n_before = __shfl_up_sync(kAllLanes, n_to_here, offset);
        n_to_here += lane >= offset ? n_before : 0;
    }
    const bool has_it = n_to_here - n_here <= which && which < n_to_here;
    for (int i = n_to_here - n_here; has_it && i < which; i++) {
        word &= word - 1;
    }
    const uint32_t owner = __ballot_sync(kAllLanes, has_it);
    return owner == 0 ? -1 : __shfl_sync(kAllLanes, lane * 32 + __ffs(word) - 1, __ffs(owner) - 1);
}

// Lists the expert's pairs, to be read after a barrier, and returns their number. All threads call it.
__device__ __forceinline__ int list_pairs(PairsOfExpert & of, const ExpertProduct & p, int expert) {
    const int lane = threadIdx.x % 32;
    const int n_pairs = p.n_used * p.n_tokens;
    int n = 0;
    for (int first = 0; first < n_pairs; first += 32) {
        const bool is_its = first + lane < n_pairs && of.experts[first + lane] == expert;
        const uint32_t its = __ballot_sync(kAllLanes, is_its);
        if (threadIdx.x < 32 && is_its) {
            of.pairs[n + __popc(its & ((1u << lane) - 1))] = (uint16_t) (first + lane);
        }
        n += __popc(its);
    }
    return n;
}

}  // namespace
