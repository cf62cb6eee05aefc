// A warp's share of a product, part of multiply.cuh: tensor-core instructions multiply a stage of rows of weights in
// shared memory and of activations, which lie there too or, if they are many, in tiles in device memory.
#pragma once

#include "kernels/cuda/async_copies.cuh"
#include "kernels/cuda/tensor_cores.cuh"
#include "kernels/products/cuda/formats.cuh"
#include "kernels/rows/cuda/quantise.cuh"

namespace {

namespace formats = pmtp::formats;
using pmtp::copy_16, pmtp::copy_cached, pmtp::end_group, pmtp::wait_for_group;

// Rows of weights that a tensor-core instruction takes.
constexpr int kTile = 8;
// Rows of activations that it takes.
constexpr int kBatch = 8;

// How a stage, the values of a row that a warp takes at a time, lies in shared memory.
template <typename Format> struct Layout {
    static constexpr bool kAligned = Format::kBytes % 16 == 0 && !Format::kLoose;
    // The furthest that a stage begins behind a chunk.
    static constexpr int kFurthest = kAligned                                     ? 0
                                     : Format::kBytes % 8 == 0 && !Format::kLoose ? 8
                                     : Format::kBytes % 4 == 0                    ? 12
                                                                                  : 14;
    // Chunks of 16 bytes that have a part of the weights.
    static constexpr int kChunks = (kFurthest + Format::kBytes + 15) / 16;
    // Of activations, which are blocks of 36 bytes, or floats.
    static constexpr int kColumnWords = Format::kQuantised ? Format::kStage / 32 * 9 : Format::kStage;
    // A warp's reads are free of conflicts where rows begin an odd number of 4 banks apart, and floats, which are read
    // in twos, 8 banks.
    static constexpr int kWords = 4 * (kChunks | 1);
    static constexpr int kColumnStride = kColumnWords + (Format::kQuantised ? 4 : 8);

    static __device__ __forceinline__ formats::Stage stage(const uint32_t * row, uint32_t begin) {
        return kAligned ? formats::Stage{ row, 0 } : formats::Stage{ row + begin % 16 / 4, begin % 4 * 8 };
    }
};

// c[i] of a lane becomes the sum over 32 values for batch row lane / 4 and weight row 2 (lane % 4) + i of the tile.
// x: values 4 (lane % 4) ... and 16 more on of row lane / 4 of the batch; w: likewise of the tile.
__device__ __forceinline__ void multiply_32(int (&c)[2], uint32_t x0, uint32_t x1, uint32_t w0, uint32_t w1) {
    int of_16[4] = {};  // rows of a batch, of which the last eight are 0
    pmtp::product_s8(of_16, x0, 0, x1, 0, w0, w1);
    c[0] = of_16[0];
    c[1] = of_16[1];
}

// The same of 16 rows: c[2], c[3] of rows 8 further on. x: words 4 lane ... of a tile of rows.
__device__ __forceinline__ void multiply_32(int (&c)[4], const uint4 & x, uint32_t w0, uint32_t w1) {
    pmtp::product_s8(c, x.x, x.y, x.z, x.w, w0, w1);
}

// c[i] becomes the sum over 16 values, laid out likewise.
__device__ __forceinline__ void multiply_16(int (&c)[2], uint32_t x, uint32_t w) {
    int of_16[4] = {};
    pmtp::product_s8(of_16, x, 0, w);
    c[0] = of_16[0];
    c[1] = of_16[1];
}

__device__ __forceinline__ void multiply_16(int (&c)[4], uint32_t x0, uint32_t x1, uint32_t w) {
    pmtp::product_s8(c, x0, x1, w);
}

// Of one result: what a group adds to its sum, where a stage has no scale of its own. Each operation is spelt out, here
// and below, so that every kernel rounds alike.
template <typename Format> __device__ __forceinline__ void add_group(float & sum, const formats::Stage & stage,
                                                                     int group, int c, const float2 & scale_and_sum) {
    const float product = Format::kBias == 0.0f
                              ? __fmul_rn((float) c, scale_and_sum.x)
                              : __fmaf_rn((float) c, scale_and_sum.x, __fmul_rn(-Format::kBias, scale_and_sum.y));
    sum = __fmaf_rn(Format::scale(stage, group), product, sum);
    if constexpr (Format::kHasLeast) {
        sum = __fmaf_rn(Format::least(stage, group), scale_and_sum.y, sum);
    }
}

// Where it has one: what the groups add up to.
template <typename Format> struct SuperSum {
    float scaled = 0.0f;
    float least = 0.0f;

    // second: of the last 16 values, where they have a scale of their own.
    __device__ __forceinline__ void add(const formats::Stage & stage, int group, int c, int second,
                                        const float2 & scale_and_sum) {
        if constexpr (Format::kGroup == 16) {
            const int sum = Format::sub_scale(stage, 2 * group) * c + Format::sub_scale(stage, 2 * group + 1) * second;
            scaled = __fmaf_rn(scale_and_sum.x, (float) sum, scaled);
        } else {
            scaled = __fmaf_rn(scale_and_sum.x, (float) (Format::sub_scale(stage, group) * c), scaled);
            if constexpr (Format::kHasLeast) {
                least = __fmaf_rn(scale_and_sum.y, (float) Format::sub_least(stage, group), least);
            }
        }
    }
    __device__ __forceinline__ void add_to(float & sum, const formats::Stage & stage) const {
        sum = __fmaf_rn(Format::scale(stage), scaled, sum);
        if constexpr (Format::kHasLeast) {
            sum = __fmaf_rn(-Format::least(stage), least, sum);
        }
    }
};

// What a lane reads of a stage of a tile of weights, whose first row begins at byte `begin` of its matrix and each
// other one row_bytes further on: quants of one row, scales of two.
template <typename Format> struct LaneWeights {
    formats::Stage quants;
    formats::Stage scales[2];

    __device__ __forceinline__ LaneWeights(const uint32_t * tile, uint32_t begin, uint32_t row_bytes) {
        const auto stage_of = [&](int i) {
            return Layout<Format>::stage(tile + i * Layout<Format>::kWords, begin + i * row_bytes);
        };
        const int t = threadIdx.x % 4;
        quants = stage_of(threadIdx.x % 32 / 4);
        scales[0] = stage_of(2 * t);
        scales[1] = stage_of(2 * t + 1);
    }
};

// Adds a stage of the product of one tile and n_rows rows in shared memory, up to 8. n_groups: of 32 values, where rows
// may end within a stage.
template <typename Format> __device__ __forceinline__ void add_stage(float (&sum)[2], const LaneWeights<Format> & w,
                                                                     const uint32_t * columns, int n_rows = kBatch,
                                                                     [[maybe_unused]] int n_groups = 0) {
    const int t = threadIdx.x % 4;
    const uint32_t * x = columns + min((int) threadIdx.x % 32 / 4, n_rows - 1) * Layout<Format>::kColumnStride;
    [[maybe_unused]] SuperSum<Format> super[2];
#pragma unroll
    for (int group = 0; group < Format::kStage / 32; group++, x += 9) {
        if (Format::kLoose && group >= n_groups) {
            break;
        }
        const formats::Quants quants = Format::quants(w.quants, group, t);
        const float2 scale_and_sum = __half22float2(*(const half2 *) x);
        int c[2];
        [[maybe_unused]] int second[2] = {};
        if constexpr (!Format::kSuper) {
            multiply_32(c, x[1 + t], x[5 + t], quants.first, quants.second);
            for (int i = 0; i < 2; i++) {
                add_group<Format>(sum[i], w.scales[i], group, c[i], scale_and_sum);
            }
        } else {
            if constexpr (Format::kGroup == 16) {
                multiply_16(c, x[1 + t], quants.first);
                multiply_16(second, x[5 + t], quants.second);
            } else {
                multiply_32(c, x[1 + t], x[5 + t], quants.first, quants.second);
            }
            for (int i = 0; i < 2; i++) {
                super[i].add(w.scales[i], group, c[i], second[i], scale_and_sum);
            }
        }
    }
    if constexpr (Format::kSuper) {
        for (int i = 0; i < 2; i++) {
            super[i].add_to(sum[i], w.scales[i]);
        }
    }
}

// 32 values of 16 rows, as a lane takes them: of row lane / 4 and of the one 8 further on.
struct TileGroup {
    uint4 values;
    float2 scale_and_sum[2];

    // Loads that the compiler must leave behind wait_for_previous().
    __device__ __forceinline__ void load(const uint32_t * tile) {
        const int lane = threadIdx.x % 32;
        uint32_t scales[2];
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(values.x), "=r"(values.y), "=r"(values.z), "=r"(values.w)
                     : "l"(tile + 4 * lane));
        for (int i = 0; i < 2; i++) {
            asm volatile("ld.global.u32 %0, [%1];"
                         : "=r"(scales[i])
                         : "l"(tile + 8 * kPmtpTileRows + lane / 4 + 8 * i));
            scale_and_sum[i] = __half22float2(*(const half2 *) &scales[i]);
        }
    }
};

// Adds a stage of the products of all tiles of weights and n_row_tiles tiles of rows, the first of which has the stage
// at x, and each other one row_tile_words further on. The arithmetic of a result is that of add_stage().
template <typename Format, int n_tiles, int n_row_tiles, typename WeightsOf>
__device__ __forceinline__ void add_tiled_stage(float (&sum)[n_tiles][4 * n_row_tiles], const WeightsOf & weights_of,
                                                const uint32_t * x, size_t row_tile_words) {
    const int t = threadIdx.x % 4;
    if constexpr (!Format::kSuper) {
#pragma unroll
        for (int group = 0; group < Format::kStage / 32; group++, x += kPmtpTileWords) {
            TileGroup rows[n_row_tiles];
            for (int r = 0; r < n_row_tiles; r++) {
                rows[r].load(x + r * row_tile_words);
            }
#pragma unroll
            for (int tile = 0; tile < n_tiles; tile++) {
                const LaneWeights<Format> w = weights_of(tile);
                const formats::Quants quants = Format::quants(w.quants, group, t);
                for (int r = 0; r < n_row_tiles; r++) {
                    int c[4];
                    multiply_32(c, rows[r].values, quants.first, quants.second);
                    for (int i = 0; i < 4; i++) {
                        add_group<Format>(sum[tile][4 * r + i], w.scales[i % 2], group, c[i],
                                          rows[r].scale_and_sum[i / 2]);
                    }
                }
            }
        }
    } else {
#pragma unroll
        for (int tile = 0; tile < n_tiles; tile++) {
            const LaneWeights<Format> w = weights_of(tile);
            SuperSum<Format> super[4 * n_row_tiles];
#pragma unroll
            for (int group = 0; group < Format::kStage / 32; group++) {
                const formats::Quants quants = Format::quants(w.quants, group, t);
                for (int r = 0; r < n_row_tiles; r++) {
                    TileGroup rows;
                    rows.load(x + group * kPmtpTileWords + r * row_tile_words);
                    int c[4];
                    int second[4] = {};
                    if constexpr (Format::kGroup == 16) {
                        multiply_16(c, rows.values.x, rows.values.y, quants.first);
                        multiply_16(second, rows.values.z, rows.values.w, quants.second);
                    } else {
                        multiply_32(c, rows.values, quants.first, quants.second);
                    }
                    for (int i = 0; i < 4; i++) {
                        super[4 * r + i].add(w.scales[i % 2], group, c[i], second[i], rows.scale_and_sum[i / 2]);
                    }
                }
            }
            for (int i = 0; i < 4 * n_row_tiles; i++) {
                super[i].add_to(sum[tile][i], w.scales[i % 2]);
            }
        }
    }
}

}  // namespace
