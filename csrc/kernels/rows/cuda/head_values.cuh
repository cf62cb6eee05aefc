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
    // Values of a block of 32 that a warp has behind rotate(), and places from one block to the next: so a warp reads
    // as many banks as it has lanes.
    static constexpr int kNeighbours = kWarp / L::kWarps, kPitch = kWarp + kNeighbours;

  public:
    struct Memory {
        float sums[L::kHeads][L::kWarps];
        float values[2][L::kHeads][2 * L::kWarps * kPitch];
    };

    __device__ explicit HeadValues(Memory & memory)
        : memory_(memory),
          head_((int) threadIdx.x / kWarp / L::kWarps),
          warp_((int) threadIdx.x / kWarp % L::kWarps),
          first_(warp_ * kWarp + lane()) {}

    __device__ int warp() const { return warp_; }
    // Of a lane's values, in the head,
    __device__ int at(int i) const { return first_ + i * (n / 2); }
    // and behind rotate(): a warp has, of all blocks of 32 of a half, some neighbours each.
    __device__ int at_rotated(int i) const {
        return lane() % L::kWarps * kWarp + warp_ * kNeighbours + lane() / L::kWarps + i * (n / 2);
    }

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

    // y = R x of each `size` values, with the sums of turboquant/cuda/rotate_row.cuh in its order; values of y lie at
    // at_rotated(). factor: 1 / sqrt(size) with the signs of x's values; negative: whether the signs of y's are.
    __device__ void rotate(float (&v)[2], int size, const float (&factor)[2], const bool (&negative)[2]) {
        v[0] *= factor[0];
        v[1] *= factor[1];
#pragma unroll
        for (int h = 1; h < kWarp; h *= 2) {
            add_or_subtract(v, h);
        }
        if constexpr (L::kWarps > 1) {
            exchange(v);
#pragma unroll
            for (int h = 1; h < L::kWarps; h *= 2) {
                if (h * kWarp < size) {
                    add_or_subtract(v, h);
                }
            }
        }
        if (size == n) {
            const float a = v[0], b = v[1];
            v[0] = a + b;
            v[1] = a - b;
        }
        v[0] = negative[0] ? -v[0] : v[0];
        v[1] = negative[1] ? -v[1] : v[1];
    }

    // All of the head's values, until the call after the next. is_rotated: where they lie.
    __device__ const float * share(const float (&v)[2], bool is_rotated) {
        float * all = next_values();
        all[is_rotated ? at_rotated(0) : at(0)] = v[0];
        all[is_rotated ? at_rotated(1) : at(1)] = v[1];
        meet();
        return all;
    }

  private:
    static __device__ int lane() { return (int) threadIdx.x % kWarp; }

    __device__ float * next_values() {
        turn_ = 1 - turn_;
        return memory_.values[turn_][head_];
    }

    static __device__ void meet() {
        if constexpr (L::kWarps > 1) {
            __syncthreads();
        } else {
            __syncwarp();
        }
    }

    // With the values of the lane whose number differs in bit h, rounded once.
    static __device__ void add_or_subtract(float (&v)[2], int h) {
        const float sign = (lane() & h) == 0 ? 1.0f : -1.0f;
        v[0] = __fmaf_rn(v[0], sign, __shfl_xor_sync(0xffffffffu, v[0], h));
        v[1] = __fmaf_rn(v[1], sign, __shfl_xor_sync(0xffffffffu, v[1], h));
    }

    // From at() to at_rotated(): the bits of a place that warps had are lanes' then.
    __device__ void exchange(float (&v)[2]) {
        constexpr int kHalf = L::kWarps * kPitch;
        float * all = next_values();
        all[warp_ * kPitch + lane()] = v[0];
        all[kHalf + warp_ * kPitch + lane()] = v[1];
        meet();
        const int from = lane() % L::kWarps * kPitch + warp_ * kNeighbours + lane() / L::kWarps;
        v[0] = all[from];
        v[1] = all[kHalf + from];
    }

    Memory & memory_;
    const int head_, warp_, first_;
    int turn_ = 0;
};

}  // namespace pmtp
