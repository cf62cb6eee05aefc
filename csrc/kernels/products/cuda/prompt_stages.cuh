// A warp's share of a product of many rows, part of prompt_products.cu: a stage of some tiles of weights, which are the
// warp's own, and of tiles of activations, which are the block's. What a result is computed from, and in which order,
// is that of stages.cuh.
#pragma once

#include "kernels/products/cuda/pair_stages.cuh"

namespace {

// An integer of up to 22 bits, added to the bits of this float, makes the float that is so much larger: products begin
// with these bits, so that their sums are floats without a conversion.
constexpr float kMagic = 12582912.0f;
constexpr int kMagicBits = 0x4b400000;

// Numbers that a group of a row of weights has: its scale and its least value, or the scales of its halves.
template <typename Format> constexpr int kFactors = Format::kHasLeast || kSumsOf16<Format> ? 2 : 1;

__device__ __forceinline__ void as_floats(float (&c)[4], const int (&bits)[4]) {
    for (int i = 0; i < 4; i++) {
        c[i] = __int_as_float(bits[i]);
    }
}

// As multiply_32() and multiply_16() of 16 rows, with kMagic added.
__device__ __forceinline__ void multiply_32_magic(float (&c)[4], const uint4 & x, uint32_t w0, uint32_t w1) {
    int bits[4] = {};
    pmtp::product_s8(bits, x.x, x.y, x.z, x.w, w0, w1, kMagicBits);
    as_floats(c, bits);
}

__device__ __forceinline__ void multiply_16_magic(float (&c)[4], uint32_t x0, uint32_t x1, uint32_t w) {
    int bits[4] = {};
    pmtp::product_s8(bits, x0, x1, w, kMagicBits);
    as_floats(c, bits);
}

// The two factors of a group, of which the second may be missing.
template <typename Format>
__device__ __forceinline__ float2 factors_of(const formats::Stage & stage, [[maybe_unused]] int group) {
    if constexpr (!Format::kSuper) {
        if constexpr (Format::kHasLeast) {
            return make_float2(Format::scale(stage, group), Format::least(stage, group));
        } else {
            return make_float2(Format::scale(stage, group), 0.0f);
        }
    } else if constexpr (Format::kGroup == 16) {
        return make_float2((float) Format::sub_scale(stage, 2 * group),
                           (float) Format::sub_scale(stage, 2 * group + 1));
    } else if constexpr (Format::kHasLeast) {
        return make_float2((float) Format::sub_scale(stage, group), (float) Format::sub_least(stage, group));
    } else {
        return make_float2((float) Format::sub_scale(stage, group), 0.0f);
    }
}

// c times the integer by, which is exact: both are integers, and so is the product, of 24 bits at most.
__device__ __forceinline__ float scaled_by(float c_and_magic, float by) {
    return __fmaf_rn(c_and_magic, by, -kMagic * by);
}

// Of a row of activations, a group's scale, and what stands for its sum in the arithmetic of the format.
template <typename Format> __device__ __forceinline__ float2 scale_and_more(const half2 & scale_and_sum) {
    const float2 two = __half22float2(scale_and_sum);
    if constexpr (!Format::kSuper && !Format::kHasLeast) {  // both are exact
        return make_float2(two.x, Format::kBias == 0.0f ? -kMagic * two.x : -Format::kBias * two.y);
    }
    return two;
}

// Adds to sum[tile][4 r + i], which are placed as multiply_32() has them, a stage of the product with row tile r.
// quants: of the lane's row of each tile; scales: of the rows of its results. factors: [group][row of the warp]
// [kFactors]. x: tiles of rows, one after another; scales_of_rows: of rows g and g + 8, [r][group][g].
template <typename Format, int n_tiles, int n_row_tiles>
__device__ __forceinline__ void add_prompt_stage(float (&sum)[n_tiles][4 * n_row_tiles],
                                                 const formats::Stage (&quants)[n_tiles],
                                                 const formats::Stage (&scales)[n_tiles][2], const float * factors,
                                                 const uint32_t * x, const float4 * scales_of_rows,
                                                 [[maybe_unused]] int n_groups) {
    constexpr int kGroups = Format::kStage / 32;
    constexpr int kRowTileWords = kGroups * kPmtpTileWords;
    constexpr int kResults = 4 * n_row_tiles;
    const int lane = threadIdx.x % 32;
    const int t = lane % 4;
    // Of a stage with a scale of its own: what groups add up to.
    [[maybe_unused]] float scaled[n_tiles][kResults] = {}, least[n_tiles][kResults] = {};
#pragma unroll
    for (int group = 0; group < kGroups; group++) {
        if (Format::kLoose && group >= n_groups) {
            break;
        }
        uint4 values[n_row_tiles];
        float4 of_rows[n_row_tiles];
#pragma unroll
        for (int r = 0; r < n_row_tiles; r++) {
            values[r] = *(const uint4 *) (x + r * kRowTileWords + group * kPmtpTileWords + 4 * lane);
            of_rows[r] = scales_of_rows[(r * kGroups + group) * 8 + lane / 4];
        }
#pragma unroll
        for (int tile = 0; tile < n_tiles; tile++) {
            const formats::Quants w = Format::quants(quants[tile], group, t);
            const float * own = factors + ((group * n_tiles + tile) * kTile + 2 * t) * kFactors<Format>;
            float2 by[2];
            if constexpr (kFactors<Format> == 2) {
                const float4 both = *(const float4 *) own;
                by[0] = make_float2(both.x, both.y);
                by[1] = make_float2(both.z, both.w);
            } else {
                const float2 both = *(const float2 *) own;
                by[0] = make_float2(both.x, 0.0f);
                by[1] = make_float2(both.y, 0.0f);
            }
#pragma unroll
            for (int r = 0; r < n_row_tiles; r++) {
                float c[4];
                [[maybe_unused]] float second[4];
                if constexpr (kSumsOf16<Format>) {
                    multiply_16_magic(c, values[r].x, values[r].y, w.first);
                    multiply_16_magic(second, values[r].z, values[r].w, w.second);
                } else {
                    multiply_32_magic(c, values[r], w.first, w.second);
                }
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float scale = i < 2 ? of_rows[r].x : of_rows[r].z;
                    const float more = i < 2 ? of_rows[r].y : of_rows[r].w;
                    const float2 & f = by[i % 2];
                    float & own_sum = sum[tile][4 * r + i];
                    if constexpr (!Format::kSuper) {
                        const float product = Format::kHasLeast       ? __fmaf_rn(c[i], scale, -kMagic * scale)
                                              : Format::kBias == 0.0f ? __fmaf_rn(c[i], scale, more)
                                                                      : __fmaf_rn(c[i] - kMagic, scale, more);
                        own_sum = __fmaf_rn(f.x, product, own_sum);
                        if constexpr (Format::kHasLeast) {
                            own_sum = __fmaf_rn(f.y, more, own_sum);
                        }
                    } else {
                        float & s = scaled[tile][4 * r + i];
                        if constexpr (Format::kGroup == 16) {
                            s = __fmaf_rn(scale, __fmaf_rn(c[i] - kMagic, f.x, scaled_by(second[i], f.y)), s);
                        } else {
                            s = __fmaf_rn(scale, scaled_by(c[i], f.x), s);
                            if constexpr (Format::kHasLeast) {
                                float & l = least[tile][4 * r + i];
                                l = __fmaf_rn(more, f.y, l);
                            }
                        }
                    }
                }
            }
        }
    }
    if constexpr (Format::kSuper) {
#pragma unroll
        for (int tile = 0; tile < n_tiles; tile++) {
            for (int i = 0; i < kResults; i++) {
                SuperSum<Format> of_stage;
                of_stage.scaled = scaled[tile][i];
                of_stage.least = least[tile][i];
                of_stage.add_to(sum[tile][i], scales[tile][i % 2]);
            }
        }
    }
}

}  // namespace
