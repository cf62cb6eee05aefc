// A warp's share of a product of few rows, part of multiply.cuh: a tensor-core instruction takes two tiles of weights
// as its sixteen rows, and the rows of the batch as its columns.
#pragma once

#include "kernels/products/cuda/stages.cuh"

namespace {

// Whether each 16 values have a scale of their own.
template <typename Format> constexpr bool kSumsOf16 = [] {
    if constexpr (Format::kSuper) {
        return Format::kGroup == 16;
    }
    return false;
}();

// An instruction's results as [tile][column].
__device__ __forceinline__ void part(int (&c)[2][2], const int (&both)[4]) {
    for (int i = 0; i < 4; i++) {
        c[i / 2][i % 2] = both[i];
    }
}

// Of a lane, the sums over 32 values of rows g = lane / 4 and g + 8 of two tiles of weights, for rows of the batch that
// columns 2 t and 2 t + 1 have, t = lane % 4: [tile][column]. x: values 4 t ... and 16 more on of column g; w: likewise
// of the two rows.
__device__ __forceinline__ void multiply_pair_32(int (&c)[2][2], uint32_t x0, uint32_t x1, const formats::Quants & w,
                                                 const formats::Quants & v) {
    int both[4] = {};
    pmtp::product_s8(both, w.first, v.first, w.second, v.second, x0, x1);
    part(c, both);
}

// The same over 16 values.
__device__ __forceinline__ void multiply_pair_16(int (&c)[2][2], uint32_t x, uint32_t w, uint32_t v) {
    int both[4] = {};
    pmtp::product_s8(both, w, v, x);
    part(c, both);
}

// Where rows of a batch lie among the columns of an instruction: up to 4 in every other one, so that a lane has one of
// them, up to 8 in all.
template <bool few> struct BatchColumns {
    static constexpr int kOwn = few ? 1 : 2;  // of a lane

    static __device__ __forceinline__ int row_of(int column) { return few ? column / 2 : column; }
    static __device__ __forceinline__ int own_row(int i) { return row_of(2 * ((int) threadIdx.x % 4) + i); }
};

// Adds a stage of the product of a pair of tiles and n_rows rows in shared memory, with the arithmetic of add_stage()
// for each result. weights: of the lane's two rows, g of each tile.
template <typename Format, bool few>
__device__ __forceinline__ void add_pair_stage(float (&sum)[2][BatchColumns<few>::kOwn],
                                               const formats::Stage (&weights)[2], const uint32_t * columns,
                                               int n_rows) {
    using Columns = BatchColumns<few>;
    constexpr int kStride = Layout<Format>::kColumnStride;
    const int t = threadIdx.x % 4;
    const uint32_t * x = columns + min(Columns::row_of((int) threadIdx.x % 32 / 4), n_rows - 1) * kStride;
    const uint32_t * own[Columns::kOwn];
#pragma unroll
    for (int i = 0; i < Columns::kOwn; i++) {
        own[i] = columns + min(Columns::own_row(i), n_rows - 1) * kStride;
    }
    [[maybe_unused]] SuperSum<Format> super[2][Columns::kOwn];
#pragma unroll
    for (int group = 0; group < Format::kStage / 32; group++) {
        const formats::Quants w = Format::quants(weights[0], group, t), v = Format::quants(weights[1], group, t);
        const uint32_t x0 = x[9 * group + 1 + t], x1 = x[9 * group + 5 + t];
        int c[2][2];
        [[maybe_unused]] int second[2][2] = {};
        if constexpr (kSumsOf16<Format>) {
            multiply_pair_16(c, x0, w.first, v.first);
            multiply_pair_16(second, x1, w.second, v.second);
        } else {
            multiply_pair_32(c, x0, x1, w, v);
        }
#pragma unroll
        for (int i = 0; i < Columns::kOwn; i++) {
            const float2 scale_and_sum = __half22float2(*(const half2 *) (own[i] + 9 * group));
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
                if constexpr (Format::kSuper) {
                    super[tile][i].add(weights[tile], group, c[tile][i], second[tile][i], scale_and_sum);
                } else {
                    add_group<Format>(sum[tile][i], weights[tile], group, c[tile][i], scale_and_sum);
                }
            }
        }
    }
    if constexpr (Format::kSuper) {
#pragma unroll
        for (int i = 0; i < 2 * Columns::kOwn; i++) {
            super[i % 2][i / 2].add_to(sum[i % 2][i / 2], weights[i % 2]);
        }
    }
}

}  // namespace
