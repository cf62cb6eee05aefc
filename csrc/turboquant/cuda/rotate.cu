// The signed rotation as a fast Walsh-Hadamard transform, a warp to a row.
#include "turboquant/cuda/blocks.cuh"
#include "turboquant/cuda/rotate_row.cuh"

#include <cuda_fp16.h>

namespace pmtp::turboquant {

namespace {

constexpr int kWarp = 32;
// Rows of a thread block.
constexpr int kRows = 4;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(half x) { return __half2float(x); }

template <int n, typename T> __global__ void __launch_bounds__(kRows * kWarp)
    rotate_rows(const T * __restrict__ x, const float * __restrict__ signs, float * __restrict__ y, int64_t n_rows,
                float scale) {
    constexpr int kRegisters = n / kWarp;
    const int lane = threadIdx.x % kWarp;
    const int64_t row = (int64_t) blockIdx.x * kRows + threadIdx.x / kWarp;
    if (row >= n_rows) {
        return;
    }
    x += row * n;
    y += row * n;
    float v[kRegisters], sign[kRegisters];
#pragma unroll
    for (int i = 0; i < kRegisters; i++) {
        sign[i] = signs[i * kWarp + lane];
        v[i] = to_float(x[i * kWarp + lane]) * copysignf(scale, sign[i]);
    }
    transform(v, n);
#pragma unroll
    for (int i = 0; i < kRegisters; i++) {
        y[i * kWarp + lane] = sign[i] < 0 ? -v[i] : v[i];
    }
}

}  // namespace

template <typename T>
void rotate(const T * x, const float * signs, float * y, int n, int64_t n_rows, cudaStream_t stream) {
    const auto kernel = n == 64    ? rotate_rows<64, T>
                        : n == 128 ? rotate_rows<128, T>
                        : n == 256 ? rotate_rows<256, T>
                                   : rotate_rows<512, T>;
    if (n_rows > 0) {
        kernel<<<(unsigned) ((n_rows + kRows - 1) / kRows), kRows * kWarp, 0, stream>>>(x, signs, y, n_rows,
                                                                                        1.0f / sqrtf((float) n));
    }
}

template void rotate<float>(const float *, const float *, float *, int, int64_t, cudaStream_t);
template void rotate<half>(const half *, const float *, float *, int, int64_t, cudaStream_t);

}  // namespace pmtp::turboquant
