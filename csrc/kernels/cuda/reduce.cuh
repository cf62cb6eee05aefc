// Reductions over the lanes of a warp and the threads of a block. Every thread gets the result; the order of a sum
// depends on the number of threads alone.
#pragma once

#include <cuda_runtime.h>

namespace pmtp {

constexpr int kWarp = 32;

struct Sum {
    template <typename T> __device__ T operator()(T a, T b) const { return a + b; }
};

struct Max {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
    template <typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

// Over groups of n_lanes neighbours, a power of two. All lanes of the warp call it.
template <int n_lanes, typename T, typename Combine>
__device__ __forceinline__ T reduce_lanes(T value, Combine combine) {
#pragma unroll
    for (int offset = n_lanes / 2; offset > 0; offset /= 2) {
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
    }
    return value;
}

template <typename T> using BlockReducerMemory = T[2][kWarp];

// Over a block of whole warps, any number of times. Calls take the two halves of the shared memory in turn: one barrier
// each is enough, since a thread that writes a half has passed the barrier behind its last reading.
template <typename T> class BlockReducer {
  public:
    __device__ explicit BlockReducer(BlockReducerMemory<T> & memory) : memory_(memory) {}

    template <typename Combine> __device__ T operator()(T value, Combine combine) {
        T * of_warp = memory_[turn_];
        turn_ ^= 1;
        value = reduce_lanes<kWarp>(value, combine);
        if (threadIdx.x % kWarp == 0) {
            of_warp[threadIdx.x / kWarp] = value;
        }
        __syncthreads();
        const int n_warps = blockDim.x / kWarp;
        if (n_warps == kWarp) {
            return reduce_lanes<kWarp>(of_warp[threadIdx.x % kWarp], combine);
        }
        value = of_warp[0];
        for (int i = 1; i < n_warps; i++) {
            value = combine(value, of_warp[i]);
        }
        return value;
    }

  private:
    BlockReducerMemory<T> & memory_;
    int turn_ = 0;
};

}  // namespace pmtp
