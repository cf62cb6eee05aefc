// Heads in the registers of a block of threads.
#pragma once

#include "kernels/cuda/reduce.cuh"
#include "turboquant/turboquant.h"

#include <cuda_runtime.h>

namespace pmtp {

// How threads have heads of n values: as many warps a head as it has blocks of 64, and a lane two of the values, the
// second half a head further on. So little of the kernel's code runs once, which takes as long to come as to run.
template <int n> struct Layout {
    static constexpr int kWarps = n / TURBO_BLOCK;
    static constexpr int kHeads = kWarps < 4 ? 4 / kWarps : 1;  // of a thread block
    static constexpr int kThreads = kHeads * kWarps * kWarp;
};

// A block of threads at its heads: warp `warp` of a head has values 32 warp + lane of its halves.
template <int n> class HeadValues {
    using L = Layout<n>;

  public:
    struct Memory {
        float sums[L::kHeads][L::kWarps];
        float values[2][L::kHeads][n];
    };

    __device__ explicit HeadValues(Memory & memory)
        : memory_(memory),
          head_((int) threadIdx.x / kWarp / L::kWarps),
          warp_((int) threadIdx.x / kWarp % L::kWarps),
          first_(warp_ * kWarp + (int) threadIdx.x % kWarp) {}

    __device__ int warp() const { return warp_; }
    // Of a lane's values, in the head.
    __device__ int at(int i) const { return first_ + i * (n / 2); }

    // The block's warps, which have heads of one kind, call these together.
    __device__ float sum(float x) {
        x = reduce_lanes<kWarp>(x, Sum());
        if constexpr (L::kWarps > 1) {
            if (threadIdx.x % kWarp == 0) {
                memory_.sums[head_][warp_] = x;
            }
            __syncthreads();
            x = 0.0f;
#pragma unroll
            for (int w = 0; w < L::kWarps; w++) {
                x += memory_.sums[head_][w];
            }
        }
        return x;
    }

    // y = R x of each `size` values, with the sums of turboquant/cuda/rotate_row.cuh in its order.
    __device__ void rotate(float (&v)[2], int size, const float (&sign)[2]) {
        const float scale = 1.0f / sqrtf((float) size);
        v[0] *= copysignf(scale, sign[0]);
        v[1] *= copysignf(scale, sign[1]);
#pragma unroll
        for (int h = 1; h < kWarp; h *= 2) {
            const float factor = (first_ & h) == 0 ? 1.0f : -1.0f;
            v[0] = __fmaf_rn(v[0], factor, __shfl_xor_sync(0xffffffffu, v[0], h));
            v[1] = __fmaf_rn(v[1], factor, __shfl_xor_sync(0xffffffffu, v[1], h));
        }
#pragma unroll 1
        for (int h = kWarp; h < n / 2 && h < size; h *= 2) {
            const float factor = (first_ & h) == 0 ? 1.0f : -1.0f;
            const float * others = share(v);
            v[0] = __fmaf_rn(v[0], factor, others[at(0) ^ h]);
            v[1] = __fmaf_rn(v[1], factor, others[at(1) ^ h]);
        }
        if (size == n) {
            const float a = v[0], b = v[1];
            v[0] = a + b;
            v[1] = a - b;
        }
        v[0] = sign[0] < 0 ? -v[0] : v[0];
        v[1] = sign[1] < 0 ? -v[1] : v[1];
    }

    // All of the head's values, until the call after the next.
    __device__ const float * share(const float (&v)[2]) {
        float * all = memory_.values[turn_][head_];
        turn_ = 1 - turn_;
        all[at(0)] = v[0];
        all[at(1)] = v[1];
        if constexpr (L::kWarps > 1) {
            __syncthreads();
        } else {
            __syncwarp();
        }
        return all;
    }

  private:
    Memory & memory_;
    const int head_, warp_, first_;
    int turn_ = 0;
};

}  // namespace pmtp
