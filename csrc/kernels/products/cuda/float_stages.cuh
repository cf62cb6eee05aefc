// A warp's share of a product whose weights are floats, part of multiply.cuh: each activation is split into parts, and
// an instruction multiplies one part of up to sixteen rows.
#pragma once

#include "kernels/products/cuda/float_parts.cuh"
#include "kernels/products/cuda/stages.cuh"

namespace {

// Of what kernels in front write: the compiler leaves it behind wait_for_previous().
__device__ __forceinline__ float2 load_late(const float * x) {
    float2 out;
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(out.x), "=f"(out.y) : "l"(x));
    return out;
}

// Of the row that four lanes have, each two of eight values: two_of(i).
template <typename Format, typename TwoOf> __device__ __forceinline__ StageScale scale_of_row(const TwoOf & two_of) {
    float largest = 0.0f;
    if constexpr (FloatParts<Format>::kScaled) {
#pragma unroll
        for (int i = 0; i < Format::kStage / 8; i++) {
            const float2 two = two_of(i);
            largest = fmaxf(largest, fmaxf(fabsf(two.x), fabsf(two.y)));
        }
        largest = pmtp::reduce_lanes<4>(largest, pmtp::Max());
    }
    return FloatParts<Format>::scale(largest);
}

// The weights of 16 values of two tiles, as a lane has them, of which the second lies so many words behind the first.
struct LaneTiles {
    uint32_t words[2][2];

    template <int row_words> static __device__ __forceinline__ LaneTiles load(const uint32_t * first, int to_second) {
        const int lane = threadIdx.x % 32;
        const uint4 two = load_matrices(first + lane / 16 * to_second + lane % 8 * row_words + lane / 8 % 2 * 4);
        return { { { two.x, two.y }, { two.z, two.w } } };
    }
};

// Adds a stage of all tiles and up to eight of n_rows rows, all in shared memory.
template <typename Format, int n_tiles>
__device__ __forceinline__ void add_float_stage(float (&sum)[n_tiles][2], const uint32_t * tiles,
                                                const uint32_t * columns, int n_rows) {
    using Parts = FloatParts<Format>;
    constexpr int kWords = Layout<Format>::kWords;
    constexpr int kChunks = Format::kStage / kFloatChunk;
    // Chunks side by side, where a chunk has few sums that do not wait for each other.
    constexpr int kBeside = n_tiles <= 2 ? kChunks : 1;
    const int lane = threadIdx.x % 32;
    const auto * x = (const float2 *) (columns + min(lane / 4, n_rows - 1) * Layout<Format>::kColumnStride) + lane % 4;
    const StageScale scale = scale_of_row<Format>([&](int i) { return x[4 * i]; });
    // Values are read again, since registers have no room for all.
    __syncwarp();
#pragma unroll 1
    for (int chunk = 0; chunk < kChunks; chunk += kBeside) {
        float c[kBeside * n_tiles][4] = {};
#pragma unroll
        for (int i = 0; i < kFloatChunk / 16; i++) {
            uint32_t parts[kBeside][2][Parts::kParts];
#pragma unroll
            for (int j = 0; j < 2 * kBeside; j++) {
                const int eight = (chunk + j / 2) * (kFloatChunk / 8) + 2 * i + j % 2;
                Parts::split(parts[j / 2][j % 2], x[4 * eight], scale);
            }
#pragma unroll
            for (int at = 0; at < kBeside * n_tiles; at += 2) {
                const auto w = LaneTiles::load<kWords>(
                    tiles + at % n_tiles * kTile * kWords + ((chunk + at / n_tiles) * kFloatChunk + 16 * i) / 2,
                    n_tiles == 1 ? kFloatChunk / 2 : kTile * kWords);
#pragma unroll
                for (int part = 0; part < Parts::kParts; part++) {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const auto & of_chunk = parts[(at + j) / n_tiles];
                        Parts::multiply(c[at + j], { of_chunk[0][part], 0, of_chunk[1][part], 0 }, w.words[j][0],
                                        w.words[j][1]);
                    }
                }
            }
        }
#pragma unroll
        for (int beside = 0; beside < kBeside; beside++) {
#pragma unroll
            for (int i = 0; i < 2 * n_tiles; i++) {
                sum[i / 2][i % 2] = __fmaf_rn(c[beside * n_tiles + i / 2][i % 2], scale.back, sum[i / 2][i % 2]);
            }
        }
    }
}

// The same of up to n_row_tiles times sixteen of n_rows rows, which have the stage at x and lie n_in floats apart.
template <typename Format, int n_tiles, int n_row_tiles>
__device__ __forceinline__ void add_tiled_float_stage(float (&sum)[n_tiles][4 * n_row_tiles], const uint32_t * tiles,
                                                      const float * x, int n_rows, int n_in) {
    using Parts = FloatParts<Format>;
    constexpr int kWords = Layout<Format>::kWords;
    // Tiles whose sums, beside all others, registers have room for; and 16 values that are read together.
    constexpr int kTogether = n_tiles < 4 ? n_tiles : 4;
    constexpr int kSteps = kTogether == 4 ? 1 : 2;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < n_row_tiles; r++) {
        const float * rows[2];
        StageScale scale[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            rows[i] = x + (size_t) min(kPmtpTileRows * r + lane / 4 + 8 * i, n_rows - 1) * n_in + lane % 4 * 2;
            scale[i] = scale_of_row<Format>([&](int j) { return load_late(rows[i] + 8 * j); });
        }
#pragma unroll
        for (int first = 0; first < n_tiles; first += kTogether) {
#pragma unroll 1
            for (int chunk = 0; chunk < Format::kStage / kFloatChunk; chunk++) {
                float c[kTogether][4] = {};
#pragma unroll
                for (int i = 0; i < kFloatChunk / 16; i += kSteps) {
                    const int at = chunk * kFloatChunk + 16 * i;
                    float2 values[2][2 * kSteps];
#pragma unroll
                    for (int j = 0; j < 4 * kSteps; j++) {
                        values[j % 2][j / 2] = load_late(rows[j % 2] + at + j / 2 * 8);
                    }
                    // What is read early would not fit into registers.
                    __syncwarp();
                    uint32_t parts[kSteps][4][Parts::kParts];
#pragma unroll
                    for (int j = 0; j < 4 * kSteps; j++) {
                        Parts::split(parts[j / 4][j % 4], values[j % 2][j / 2], scale[j % 2]);
                    }
#pragma unroll
                    for (int j = 0; j < kSteps * kTogether; j += 2) {
                        const int step = j / kTogether, tile = j % kTogether;
                        const auto w = LaneTiles::load<kWords>(
                            tiles + (first + tile) * kTile * kWords + at / 2 + 8 * step,
                            kTogether == 1 ? 8 : kTile * kWords);
#pragma unroll
                        for (int two = 0; two < 2; two++) {
                            const auto & x_parts = parts[(j + two) / kTogether];
#pragma unroll
                            for (int part = 0; part < Parts::kParts; part++) {
                                Parts::multiply(c[(j + two) % kTogether],
                                                { x_parts[0][part], x_parts[1][part], x_parts[2][part],
                                                  x_parts[3][part] },
                                                w.words[two][0], w.words[two][1]);
                            }
                        }
                    }
                }
#pragma unroll
                for (int i = 0; i < 4 * kTogether; i++) {
                    float & to = sum[first + i / 4][4 * r + i % 4];
                    to = __fmaf_rn(c[i / 4][i % 4], scale[i % 4 / 2].back, to);
                }
            }
        }
    }
}

}  // namespace
