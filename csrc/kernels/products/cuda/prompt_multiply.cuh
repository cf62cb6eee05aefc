// What a block of a prompt's quantised products computes: it has a stage of some tiles of rows in shared memory, and
// each of its warps multiplies them with rows of weights of its own. What the warps of multiply.cuh add up each by
// itself, a split, a warp adds up here one after another.
#pragma once

#include "kernels/products/cuda/prompt_blocks.cuh"
#include "kernels/products/cuda/prompt_stages.cuh"

namespace {

// In shared memory: twice the stage's rows of activations and their scales, then what each warp has.
template <typename Format, typename Share> struct PromptMemory {
    static constexpr int kGroups = Format::kStage / 32;
    static constexpr int kRowTileWords = kGroups * kPmtpTileWords;
    static constexpr int kRowTileScales = kGroups * kPmtpTileRows / 2;  // in pairs
    static constexpr int kScalesAt = Share::kRowTiles * kRowTileWords;
    static constexpr int kXWords = kScalesAt + Share::kRowTiles * kRowTileScales * 4;
    static constexpr int kFactorWords = kGroups * Share::kTiles * kTile * kFactors<Format>;
    static constexpr int kStageWords = Share::kTiles * kTile * Layout<Format>::kWords;

    static constexpr __host__ __device__ int warp_words(int n_buffers) {
        return kFactorWords + n_buffers * kStageWords;
    }
    static constexpr size_t bytes(int n_buffers) {
        return (2 * kXWords + kPromptWarps * warp_words(n_buffers)) * sizeof(uint32_t);
    }
};

// How many stages of weights a warp has: with one it waits for each.
template <typename Format, typename Share> int prompt_buffers() {
    using Memory = PromptMemory<Format, Share>;
    const size_t bytes = Memory::bytes(2);
    const bool two = bytes <= (size_t) attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) &&
                     Share::kResident * (bytes + attribute(cudaDevAttrReservedSharedMemoryPerBlock)) <=
                         (size_t) attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    return two ? 2 : 1;
}

// All of a block's products, placed as add_prompt_stage() has them. n_groups: of 32 values in a row; n_splits: those
// that take its stages in turn. load_tile(stage, r, to) copies a stage of tile r of the rows, by a warp.
template <typename Format, int n_matrices, typename Share, typename LoadTile>
__device__ __forceinline__ void multiply_all(float (&total)[Share::kTiles][Share::kResults],
                                             const WarpWeights<Format, Share::kTiles, n_matrices> & weights,
                                             int n_groups, int n_splits, int n_buffers, uint32_t * memory,
                                             const LoadTile & load_tile) {
    using Memory = PromptMemory<Format, Share>;
    constexpr int kTiles = Share::kTiles;
    constexpr int kResults = Share::kResults;
    constexpr int kGroups = Memory::kGroups;
    constexpr int kWarpRows = kTiles * kTile;
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    uint32_t * own = memory + 2 * Memory::kXWords + warp * Memory::warp_words(n_buffers);
    auto * factors = (float *) own;
    uint32_t * buffers = own + Memory::kFactorWords;
    const auto load_rows = [&](int stage, uint32_t * to) {
#pragma unroll
        for (int r = 0; r < Share::kRowTiles; r += kPromptWarps) {
            if (r + warp < Share::kRowTiles) {
                load_tile(stage, r + warp, to + (r + warp) * Memory::kRowTileWords);
            }
        }
    };
    // Of the tiles that the warp has loaded.
    const auto scale_rows = [&](uint32_t * x) {
#pragma unroll
        for (int r = 0; r < Share::kRowTiles; r += kPromptWarps) {
            for (int i = lane; r + warp < Share::kRowTiles && i < Memory::kRowTileScales; i += 32) {
                const auto * halves = (const half2 *) (x + (r + warp) * Memory::kRowTileWords + i / 8 * kPmtpTileWords +
                                                       8 * kPmtpTileRows) +
                                      i % 8;
                const float2 low = scale_and_more<Format>(halves[0]), high = scale_and_more<Format>(halves[8]);
                ((float4 *) (x + Memory::kScalesAt))[(r + warp) * Memory::kRowTileScales + i] =
                    make_float4(low.x, low.y, high.x, high.y);
            }
        }
    };

    weights.load(0, buffers);
    wait_for_previous();
    let_next_begin();
    load_rows(0, memory);
    end_group();
    float sum[kTiles][kResults] = {};
    StageOrder order{ (n_groups + kGroups - 1) / kGroups, n_splits };
    for (int turn = 0;; turn ^= 1) {
        const int stage = order.stage;
        const bool is_last = order.is_last();
        uint32_t * x = memory + turn * Memory::kXWords;
        const uint32_t * at = buffers + (n_buffers > 1 ? turn * Memory::kStageWords : 0);
        wait_for_group<0>();
        __syncwarp();
        scale_rows(x);
#pragma unroll
        for (int i = lane; i < kGroups * kWarpRows; i += 32) {
            const float2 both = factors_of<Format>(weights.stage_of(at, i % kWarpRows, stage), i / kWarpRows);
            if constexpr (kFactors<Format> == 2) {
                ((float2 *) factors)[i] = both;
            } else {
                factors[i] = both.x;
            }
        }
        // All have the rows, and have done with those before.
        __syncthreads();
        if (!is_last) {
            load_rows(order.next(), memory + (turn ^ 1) * Memory::kXWords);
            if (n_buffers > 1) {
                weights.load(order.next(), buffers + (turn ^ 1) * Memory::kStageWords);
            }
        }
        end_group();
        formats::Stage quants[kTiles], scales[kTiles][2];
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            quants[tile] = weights.stage_of(at, tile * kTile + lane / 4, stage);
            scales[tile][0] = weights.stage_of(at, tile * kTile + 2 * (lane % 4), stage);
            scales[tile][1] = weights.stage_of(at, tile * kTile + 2 * (lane % 4) + 1, stage);
        }
        add_prompt_stage<Format, kTiles, Share::kRowTiles>(
            sum, quants, scales, factors, x, (const float4 *) (x + Memory::kScalesAt), n_groups - stage * kGroups);
        __syncwarp();
        if (n_buffers == 1 && !is_last) {
            weights.load(order.next(), buffers);
            end_group();
        }
        if (order.ends_split()) {
#pragma unroll
            for (int i = 0; i < kTiles * kResults; i++) {
                total[i / kResults][i % kResults] += sum[i / kResults][i % kResults];
                sum[i / kResults][i % kResults] = 0.0f;
            }
        }
        if (is_last) {
            break;
        }
        order.stage = order.next();
    }
}

}  // namespace
