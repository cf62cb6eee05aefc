// What the kernels share: where a block is, and its codebook.
#pragma once

#include "turboquant/cuda/kernels.cuh"

#include "turboquant/codebook.h"

#include <type_traits>

namespace pmtp::turboquant {

template <int bits> constexpr int kHalf = 1 << (bits - 1);  // positive levels

template <int bits> __device__ __forceinline__ float level(int i) {
    return bits == 4 ? turbo4_levels[i] : bits == 3 ? turbo3_levels[i] : turbo2_levels[i];
}

template <int bits> __device__ __forceinline__ float edge(int i) {
    return bits == 4 ? turbo4_edges[i] : bits == 3 ? turbo3_edges[i] : turbo2_edges[i];
}

template <int bits> constexpr int kBlockBytes = bits == 4   ? sizeof(block_turbo4)
                                                : bits == 3 ? sizeof(block_turbo3)
                                                            : sizeof(block_turbo2);

// Of a block of a tensor: its place in the row, its row, matrix and batch.
struct Place {
    uint32_t block, row, matrix, batch;

    __device__ __forceinline__ Place(uint32_t i, const Shape & shape) {
        const uint32_t blocks = (uint32_t) shape.n / TURBO_BLOCK, rows = (uint32_t) shape.rows,
                       matrices = (uint32_t) shape.matrices;
        block = i % blocks;
        i /= blocks;
        row = i % rows;
        i /= rows;
        matrix = i % matrices;
        batch = i / matrices;
    }

    __device__ __forceinline__ int64_t offset(const Strides & s, int64_t in_row) const {
        return row * s.row + matrix * s.matrix + batch * s.batch + in_row;
    }
};

// Calls with `bits` as a constant.
template <typename Call> void with_bits(int bits, Call && call) {
    switch (bits) {
        case 4: call(std::integral_constant<int, 4>()); break;
        case 3: call(std::integral_constant<int, 3>()); break;
        default: call(std::integral_constant<int, 2>()); break;
    }
}

}  // namespace pmtp::turboquant
