// A warp's share of a product whose weights are floats, part of multiply.cuh: each activation is split into two numbers
// of 10 bits of mantissa, as one would drop half of its bits.
#pragma once

#include "kernels/products/cuda/stages.cuh"

namespace {

// To c[i] of a lane the sums over 8 values are added, of numbers of 8 bits of exponent and 10 of mantissa and of a
// batch whose rows 8 to 15 (c[2], c[3]) are what 0 to 7 lack. x: rows of the batch and of what they lack, for two of
// the values; w: the weights of those two.
__device__ __forceinline__ void multiply_8(float (&c)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(w0), "r"(w1));
#endif
}

// The nearest number of 10 bits of mantissa.
__device__ __forceinline__ uint32_t round_to_tf32(float x) {
    uint32_t out = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
#endif
    return out;
}

// Of what kernels in front write: the compiler leaves it behind wait_for_previous().
__device__ __forceinline__ float4 load_late(const float * x) {
    float4 out;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(out.x), "=f"(out.y), "=f"(out.z), "=f"(out.w)
                 : "l"(x));
    return out;
}

// Adds a stage of n_tiles tiles from first_tile on and of the set-th eight rows. A lane takes four of each 16 values:
// four_of(i).
template <typename Format, int n_tiles, int n_all, int n_sums, typename FourOf>
__device__ __forceinline__ void add_floats(float (&sum)[n_all][n_sums], int first_tile, int set, const uint32_t * tiles,
                                           const FourOf & four_of) {
    const int t = threadIdx.x % 4;
    const auto * w = (const uint2 *) (tiles + (first_tile * kTile + threadIdx.x % 32 / 4) * Layout<Format>::kWords) + t;
    float c[n_tiles][4] = {};
#pragma unroll
    for (int i = 0; i < Format::kStage / 16; i++) {
        const float4 four = four_of(i);
        const float values[4] = { four.x, four.y, four.z, four.w };
        uint32_t split[2][4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t near = round_to_tf32(values[j]);
            split[j / 2][j % 2 * 2] = near;
            split[j / 2][j % 2 * 2 + 1] = round_to_tf32(values[j] - __uint_as_float(near));
        }
#pragma unroll
        for (int tile = 0; tile < n_tiles; tile++) {
            const uint2 words = w[tile * kTile * Layout<Format>::kWords / 2 + 4 * i];
            multiply_8(c[tile], split[0], Format::low(words.x), Format::high(words.x));
            multiply_8(c[tile], split[1], Format::low(words.y), Format::high(words.y));
        }
    }
    for (int tile = 0; tile < n_tiles; tile++) {
        for (int i = 0; i < 2; i++) {
            sum[first_tile + tile][2 * set + i] += c[tile][i] + c[tile][2 + i];
        }
    }
}

// The same of all tiles and eight rows in shared memory.
template <typename Format, int n_tiles>
__device__ __forceinline__ void add_float_stage(float (&sum)[n_tiles][2], const uint32_t * tiles,
                                                const uint32_t * columns, int n_rows) {
    const int lane = threadIdx.x % 32;
    const auto * x = (const float4 *) (columns + min(lane / 4, n_rows - 1) * Layout<Format>::kColumnStride) + lane % 4;
    add_floats<Format, n_tiles>(sum, 0, 0, tiles, [&](int i) { return x[4 * i]; });
}

// The same of up to n_sets times eight of n_rows rows, which have the stage at x and lie n_in floats apart.
template <typename Format, int n_tiles, int n_sets>
__device__ __forceinline__ void add_tiled_float_stage(float (&sum)[n_tiles][2 * n_sets], const uint32_t * tiles,
                                                      const float * x, int n_rows, int n_in) {
    // Tiles whose sums, beside all others, registers have room for.
    constexpr int kRoom = n_tiles * n_sets > 16 ? 2 : 4;
    constexpr int kTogether = n_tiles < kRoom ? n_tiles : kRoom;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int set = 0; set < n_sets; set++) {
        const float * row = x + (size_t) min(kBatch * set + lane / 4, n_rows - 1) * n_in + lane % 4 * 4;
#pragma unroll
        for (int tile = 0; tile < n_tiles; tile += kTogether) {
            float4 values[Format::kStage / 16];
#pragma unroll
            for (int i = 0; i < Format::kStage / 16; i++) {
                values[i] = load_late(row + 16 * i);
            }
            // What is read early would not fit into registers.
            __syncwarp();
            add_floats<Format, kTogether>(sum, tile, set, tiles, [&](int i) { return values[i]; });
        }
    }
}

}  // namespace
