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

// Where a lane reads weights of 16 values of two tiles, of which the second lies so many words behind the first.
template <typename Format>
__device__ __forceinline__ const uint32_t * lane_weights(const uint32_t * first, int to_second) {
    const int lane = threadIdx.x % 32;
    return first + lane / 16 * to_second + lane % 8 * Layout<Format>::kWords + lane / 8 % 2 * 4;
}

// Adds a stage of all tiles and up to eight of n_rows rows, all in shared memory.
template <typename Format, int n_tiles>
__device__ __forceinline__ void add_float_stage(float (&sum)[n_tiles][2], const uint32_t * tiles,
                                                const uint32_t * columns, int n_rows) {
    using Parts = FloatParts<Format>;
    constexpr int kWords = Layout<Format>::kWords;
    constexpr int kChains = Format::kStage / Parts::kChain, kSteps = Parts::kChain / 16;
    // Chains side by side, where one has few sums that do not wait for each other.
    constexpr int kBeside = n_tiles <= 2 ? kChains : 1;
    // What one tile is read together with, another chain or another 16 values of the same.
    constexpr bool kWithChain = kBeside == 2;
    const int lane = threadIdx.x % 32;
    const auto * x = (const float2 *) (columns + min(lane / 4, n_rows - 1) * Layout<Format>::kColumnStride) + lane % 4;
    const uint32_t * w = lane_weights<Format>(tiles, n_tiles > 1 ? kTile * kWords : kWithChain ? Parts::kChain / 2 : 8);
    const StageScale scale = scale_of_row<Format>([&](int i) { return x[4 * i]; });
    // Values are read again, since registers have no room for all.
    __syncwarp();
#pragma unroll
    for (int chain = 0; chain < kChains; chain += kBeside) {
        float c[kBeside][n_tiles][4] = {};
        uint4 two;
#pragma unroll
        for (int i = 0; i < kSteps * kBeside; i++) {
            const int beside = i % kBeside, step = (chain + beside) * kSteps + i / kBeside;
            uint32_t parts[2][Parts::kParts];
            Parts::split(parts[0], x[8 * step], scale);
            Parts::split(parts[1], x[8 * step + 4], scale);
#pragma unroll
            for (int tile = 0; tile < n_tiles; tile++) {
                const bool second = (n_tiles == 1 ? i : tile) % 2 == 1;
                if (!second) {
                    two = load_matrices(w + tile * kTile * kWords + 8 * step);
                }
#pragma unroll
                for (int part = 0; part < Parts::kParts; part++) {
                    Parts::multiply(c[beside][tile], { parts[0][part], 0, parts[1][part], 0 }, second ? two.z : two.x,
                                    second ? two.w : two.y);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kBeside * n_tiles * 2; i++) {
            float & to = sum[i / 2 % n_tiles][i % 2];
            to = __fmaf_rn(c[i / 2 / n_tiles][i / 2 % n_tiles][i % 2], scale.back, to);
        }
    }
}

// Of 16 values of sixteen rows: what an instruction takes of each part. values: of the lane's two rows, two of each
// eight.
template <typename Format> __device__ __forceinline__ void split_rows(uint32_t (&parts)[FloatParts<Format>::kParts][4],
                                                                      const float2 (&values)[4],
                                                                      const StageScale (&scale)[2]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t of_two[FloatParts<Format>::kParts];
        FloatParts<Format>::split(of_two, values[i], scale[i % 2]);
#pragma unroll
        for (int part = 0; part < FloatParts<Format>::kParts; part++) {
            parts[part][i] = of_two[part];
        }
    }
}

// The same of up to n_row_tiles times sixteen of n_rows rows, which have the stage at x and lie n_in floats apart.
template <typename Format, int n_tiles, int n_row_tiles>
__device__ __forceinline__ void add_tiled_float_stage(float (&sum)[n_tiles][4 * n_row_tiles], const uint32_t * tiles,
                                                      const float * x, int n_rows, int n_in) {
    using Parts = FloatParts<Format>;
    constexpr int kWords = Layout<Format>::kWords;
    constexpr int kSteps = Format::kStage / 16, kStepsOfChain = Parts::kChain / 16;
    // Whether registers have room for all values of sixteen rows; else few are read at a time, again and again.
    constexpr bool kHeld = n_tiles <= 2;
    // Tiles whose sums, beside all others, they have room for.
    constexpr int kTogether = n_tiles < 4 ? n_tiles : 4;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < n_row_tiles; r++) {
        const float * rows[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            rows[i] = x + (size_t) min(kPmtpTileRows * r + lane / 4 + 8 * i, n_rows - 1) * n_in + lane % 4 * 2;
        }
        float2 held[kHeld ? kSteps : 1][4];
        StageScale scale[2];
        const auto load = [&](float2(&values)[4], int step) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                values[i] = load_late(rows[i % 2] + 16 * step + i / 2 * 8);
            }
        };
        if constexpr (kHeld) {
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                load(held[step], step);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            scale[i] = scale_of_row<Format>(
                [&](int j) { return kHeld ? held[kHeld ? j / 2 : 0][i + j % 2 * 2] : load_late(rows[i] + 8 * j); });
        }
        // What is read early would not fit into registers.
        __syncwarp();
#pragma unroll
        for (int first = 0; first < n_tiles; first += kTogether) {
            const uint32_t * w =
                lane_weights<Format>(tiles + first * kTile * kWords, kTogether == 1 ? 8 : kTile * kWords);
            float c[kTogether][4];
            uint4 two;
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                if (step % kStepsOfChain == 0) {
#pragma unroll
                    for (int i = 0; i < 4 * kTogether; i++) {
                        c[i / 4][i % 4] = 0.0f;
                    }
                }
                float2 values[4];
                if constexpr (!kHeld) {
                    load(values, step);
                    __syncwarp();
                }
                uint32_t parts[Parts::kParts][4];
                split_rows<Format>(parts, kHeld ? held[kHeld ? step : 0] : values, scale);
#pragma unroll
                for (int tile = 0; tile < kTogether; tile++) {
                    // Two matrices of each of two tiles, or of two steps.
                    if (kTogether == 1 ? step % 2 == 0 : tile % 2 == 0) {
                        two = load_matrices(w + tile * kTile * kWords + 8 * step);
                    }
                    const bool second = kTogether == 1 ? step % 2 == 1 : tile % 2 == 1;
#pragma unroll
                    for (int part = 0; part < Parts::kParts; part++) {
                        Parts::multiply(c[tile], parts[part], second ? two.z : two.x, second ? two.w : two.y);
                    }
                }
                if ((step + 1) % kStepsOfChain == 0) {
#pragma unroll
                    for (int i = 0; i < 4 * kTogether; i++) {
                        float & to = sum[first + i / 4][4 * r + i % 4];
                        to = __fmaf_rn(c[i / 4][i % 4], scale[i % 4 / 2].back, to);
                    }
                }
            }
        }
    }
}

}  // namespace
