// A stage of products of a single row, without tensor cores, which would do eight times the work: part of
// expert_products.cu.
#pragma once

#include "kernels/products/cuda/stages.cuh"

namespace {

// Rows of weights whose sums a warp has in its lanes.
constexpr int kSet = 32;

// Of each lane's four numbers, that which the lane has in its turn, summed over four neighbours.
__device__ __forceinline__ int share_out(const int (&v)[4]) {
    const bool upper = threadIdx.x & 2;
    const bool odd = threadIdx.x & 1;
    int first = upper ? v[2] : v[0];
    int second = upper ? v[3] : v[1];
    first += __shfl_xor_sync(0xffffffff, upper ? v[0] : v[2], 2);
    second += __shfl_xor_sync(0xffffffff, upper ? v[1] : v[3], 2);
    return (odd ? second : first) + __shfl_xor_sync(0xffffffff, odd ? first : second, 1);
}

// Adds a stage of the products of n_sets sets of rows of weights and the row x, all in shared memory. row_at(row) is
// where a row lies, begin_of(row) its first byte in the matrix. The arithmetic of a result is that of add_stage().
template <typename Format, int n_sets> struct OneRow {
    float sum[n_sets] = {};

    // The row of a set whose sum the lane has.
    static __device__ __forceinline__ int row(int set) {
        const int lane = threadIdx.x % 32;
        return kSet * set + (Layout<Format>::kAligned ? lane : lane % 4 * kTile + lane / 4);
    }

    template <typename RowAt, typename BeginOf>
    __device__ __forceinline__ void add_stage(const RowAt & row_at, const BeginOf & begin_of, const uint32_t * x,
                                              int n_groups) {
        if constexpr (Layout<Format>::kAligned) {
            add_own(row_at, x);
        } else {
            add_shared(row_at, begin_of, x, n_groups);
        }
    }

  private:
    // Whether the last 16 values of a group have a scale of their own.
    static constexpr bool kTwo = [] {
        if constexpr (Format::kSuper) {
            return Format::kGroup == 16;
        }
        return false;
    }();

    __device__ __forceinline__ void add_result(int set, const formats::Stage & own, int group, int c, int second,
                                               const float2 & scale_and_sum, SuperSum<Format> & super) {
        if constexpr (!Format::kSuper) {
            add_group<Format>(sum[set], own, group, c + second, scale_and_sum);
        } else if constexpr (Format::kGroup == 16) {
            super.add(own, group, c, second, scale_and_sum);
        } else {
            super.add(own, group, c + second, 0, scale_and_sum);
        }
    }

    __device__ __forceinline__ void add_super(int set, const formats::Stage & own, const SuperSum<Format> & super) {
        if constexpr (Format::kSuper) {
            super.add_to(sum[set], own);
        }
    }

    // Each lane has whole rows in its registers.
    template <typename RowAt> __device__ __forceinline__ void add_own(const RowAt & row_at, const uint32_t * x) {
        constexpr int kChunks = Layout<Format>::kChunks;
        // Sets that registers have room for.
        constexpr int kTogether = Format::kSuper || kChunks > 9 ? 1 : n_sets;
#pragma unroll
        for (int first = 0; first < n_sets; first += kTogether) {
            uint32_t words[kTogether][4 * kChunks];
            formats::Stage own[kTogether];
            SuperSum<Format> super[kTogether];
#pragma unroll
            for (int i = 0; i < kTogether; i++) {
#pragma unroll
                for (int j = 0; j < kChunks; j++) {
                    const uint4 chunk = ((const uint4 *) row_at(row(first + i)))[j];
                    words[i][4 * j] = chunk.x;
                    words[i][4 * j + 1] = chunk.y;
                    words[i][4 * j + 2] = chunk.z;
                    words[i][4 * j + 3] = chunk.w;
                }
                own[i] = { words[i], 0 };
            }
#pragma unroll
            for (int group = 0; group < Format::kStage / 32; group++) {
                const uint32_t * block = x + 9 * group;
                const float2 scale_and_sum = __half22float2(*(const half2 *) block);
                int c[kTogether] = {}, second[kTogether] = {};
#pragma unroll
                for (int t = 0; t < 4; t++) {
                    const int x0 = (int) block[1 + t], x1 = (int) block[5 + t];
#pragma unroll
                    for (int i = 0; i < kTogether; i++) {
                        const formats::Quants quants = Format::quants(own[i], group, t);
                        c[i] = __dp4a((int) quants.first, x0, c[i]);
                        second[i] = __dp4a((int) quants.second, x1, second[i]);
                    }
                }
#pragma unroll
                for (int i = 0; i < kTogether; i++) {
                    add_result(first + i, own[i], group, c[i], second[i], scale_and_sum, super[i]);
                }
            }
#pragma unroll
            for (int i = 0; i < kTogether; i++) {
                add_super(first + i, own[i], super[i]);
            }
        }
    }

    // Four lanes share the reading of four rows, as words of other rows would lie in the same banks.
    template <typename RowAt, typename BeginOf>
    __device__ __forceinline__ void add_shared(const RowAt & row_at, const BeginOf & begin_of, const uint32_t * x,
                                               [[maybe_unused]] int n_groups) {
        const int t = threadIdx.x % 4;
        const auto stage_of = [&](int row) { return Layout<Format>::stage(row_at(row), begin_of(row)); };
#pragma unroll
        for (int set = 0; set < n_sets; set++) {
            SuperSum<Format> super;
            formats::Stage read[4];
            for (int i = 0; i < 4; i++) {
                read[i] = stage_of(kSet * set + i * kTile + (int) threadIdx.x % 32 / 4);
            }
            const formats::Stage own = stage_of(row(set));
#pragma unroll
            for (int group = 0; group < Format::kStage / 32; group++) {
                if (Format::kLoose && group >= n_groups) {
                    break;
                }
                const uint32_t * block = x + 9 * group;
                int c[4];
                int second[4] = {};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const formats::Quants quants = Format::quants(read[i], group, t);
                    c[i] = __dp4a((int) quants.first, (int) block[1 + t], 0);
                    if constexpr (kTwo) {
                        second[i] = __dp4a((int) quants.second, (int) block[5 + t], 0);
                    } else {
                        c[i] = __dp4a((int) quants.second, (int) block[5 + t], c[i]);
                    }
                }
                add_result(set, own, group, share_out(c), kTwo ? share_out(second) : 0,
                           __half22float2(*(const half2 *) block), super);
            }
            add_super(set, own, super);
        }
    }
};

}  // namespace
