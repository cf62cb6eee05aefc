// The fast Walsh-Hadamard transform of a row in a warp's registers: value 32 i + lane is register i of a lane. The
// order of the sums is that of the CPU's transform.
#pragma once

#include <cuda_runtime.h>

namespace pmtp::turboquant {

// Of each n values, n a power of two, 64 or more. All lanes of a warp call it.
template <int n_registers> __device__ __forceinline__ void transform(float (&v)[n_registers], int n) {
    constexpr int kLanes = 32;
    const int lane = threadIdx.x % kLanes;
#pragma unroll
    for (int h = 1; h < kLanes; h *= 2) {
        const float sign = (lane & h) == 0 ? 1.0f : -1.0f;
#pragma unroll
        for (int i = 0; i < n_registers; i++) {  // a sum or a difference, rounded once
            v[i] = __fmaf_rn(v[i], sign, __shfl_xor_sync(0xffffffffu, v[i], h));
        }
    }
#pragma unroll
    for (int h = 1; h < n_registers; h *= 2) {
        if (h < n / kLanes) {
#pragma unroll
            for (int i = 0; i < n_registers; i++) {
                if ((i & h) == 0) {
                    const float a = v[i], b = v[i + h];
                    v[i] = a + b;
                    v[i + h] = a - b;
                }
            }
        }
    }
}

}  // namespace pmtp::turboquant
