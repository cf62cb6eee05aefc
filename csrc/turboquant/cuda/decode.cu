// Blocks to floats, eight values a thread.
#include "turboquant/cuda/blocks.cuh"

#include <cuda_fp16.h>

namespace pmtp::turboquant {

namespace {

constexpr int kThreads = 256;
// Values of a thread.
constexpr int kValues = 8;
// Threads that share a block of values.
constexpr int kParts = TURBO_BLOCK / kValues;

// Eight bytes at an address that is a multiple of two.
__device__ __forceinline__ uint64_t load_bytes(const uint8_t * bytes) {
    const uint16_t * words = (const uint16_t *) bytes;
    return (uint64_t) words[0] | (uint64_t) words[1] << 16 | (uint64_t) words[2] << 32 | (uint64_t) words[3] << 48;
}

// A byte for each of the indices of values 8 part .. 8 part + 7.
template <int bits> __device__ __forceinline__ uint64_t load_indices(const uint8_t * data, int part) {
    if (bits == 4) {
        return load_bytes(data + kValues * (part % 4)) >> (4 * (part / 4)) & 0x0f0f0f0f0f0f0f0full;
    }
    uint64_t index = load_bytes(data + kValues * (part % 2)) >> (2 * (part / 2)) & 0x0303030303030303ull;
    if (bits == 3) {
        const uint32_t high = data[16 + part];
#pragma unroll
        for (int i = 0; i < kValues; i++) {
            index |= (uint64_t) (high >> i & 1) << (8 * i + 2);
        }
    }
    return index;
}

template <typename T> __device__ __forceinline__ void store(const float (&v)[kValues], T * x) {
    if constexpr (sizeof(T) == sizeof(half)) {
        __align__(16) half2 pairs[kValues / 2];
#pragma unroll
        for (int i = 0; i < kValues / 2; i++) {
            pairs[i] = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
        }
        *(uint4 *) x = *(const uint4 *) pairs;
    } else {
#pragma unroll
        for (int i = 0; i < kValues; i++) {
            x[i] = v[i];
        }
    }
}

template <int bits, typename T> __global__ void __launch_bounds__(kThreads)
    decode_blocks(const char * __restrict__ blocks, Strides strides, char * __restrict__ x, Strides x_strides,
                  Shape shape, uint32_t n_blocks) {
    __shared__ float codebook[2 * kHalf<bits>];  // ascending; a bank for each level
    if (threadIdx.x < kHalf<bits>) {
        codebook[kHalf<bits> + threadIdx.x] = level<bits>(threadIdx.x);
        codebook[kHalf<bits> - 1 - threadIdx.x] = -level<bits>(threadIdx.x);
    }
    __syncthreads();
    const uint32_t i = blockIdx.x * (kThreads / kParts) + threadIdx.x / kParts;
    if (i >= n_blocks) {
        return;
    }
    const int part = threadIdx.x % kParts;
    const Place place(i, shape);
    const uint8_t * block = (const uint8_t *) blocks + place.offset(strides, place.block * (int64_t) kBlockBytes<bits>);
    const float scale = __half2float(__ushort_as_half(*(const uint16_t *) block));
    const uint64_t index = load_indices<bits>(block + sizeof(uint16_t), part);
    float v[kValues];
#pragma unroll
    for (int j = 0; j < kValues; j++) {
        v[j] = scale * codebook[index >> (8 * j) & 0xff];
    }
    store(v, (T *) (x + place.offset(x_strides, place.block * (int64_t) (TURBO_BLOCK * sizeof(T)))) + kValues * part);
}

}  // namespace

template <typename T> void decode(int bits, const void * blocks, Strides strides, T * x, Strides x_strides, Shape shape,
                                  cudaStream_t stream) {
    const uint32_t n_blocks = (uint32_t) shape.blocks();
    if (n_blocks == 0) {
        return;
    }
    // Blocks of values of a thread block.
    constexpr uint32_t n = kThreads / kParts;
    with_bits(bits, [&](auto constant) {
        decode_blocks<decltype(constant)::value, T><<<(n_blocks + n - 1) / n, kThreads, 0, stream>>>(
            (const char *) blocks, strides, (char *) x, x_strides, shape, n_blocks);
    });
}

template void decode<float>(int, const void *, Strides, float *, Strides, Shape, cudaStream_t);
template void decode<half>(int, const void *, Strides, half *, Strides, Shape, cudaStream_t);

}  // namespace pmtp::turboquant
