// How blocks of threads share a product of experts.
#pragma once

#include "kernels/products/cuda/expert_pairs.cuh"
#include "kernels/products/cuda/multiply.cuh"

namespace {

// How blocks share a multiprocessor, some of which load while others multiply.
template <typename Format, int n_rows> struct Sharing {
    static constexpr int kBlocks = 3;
    static constexpr int kMemory = 228 << 10;
    // What a block has beside its buffers.
    static constexpr int kOwn = sizeof(PairsOfExpert) + 1024;
    static constexpr int kBytes =
        (n_rows * Layout<Format>::kWords + kBatch * Layout<Format>::kColumnStride) * sizeof(uint32_t);
    static constexpr int kFitting = (kMemory / kBlocks - kOwn) / kBytes;
    static constexpr int kWarps = kFitting < 6 ? kFitting : 6;  // that registers suffice for
};

// Warps of a block, which take the stages of a row of weights in turn: a row's sums depend on their number, and that on
// no number of rows. n_rows: of weights of all matrices.
template <typename Format, int n_rows> int expert_splits(int n_in) {
    const int n_stages = (n_in + Format::kStage - 1) / Format::kStage;
    const int n_rounds = (n_stages + Sharing<Format, n_rows>::kWarps - 1) / Sharing<Format, n_rows>::kWarps;
    return (n_stages + n_rounds - 1) / n_rounds;
}

// Whether rows are no whole number of stages.
inline bool is_loose(const ExpertProduct & p) { return p.n_in % formats::Quantised::kStage != 0; }

template <typename Format> constexpr bool has_loose() {
    if constexpr (Format::kQuantised) {
        return !Format::kSuper;
    }
    return false;
}

// A column of a pair's result: with one matrix scaled and weighted, with two quantised too. Called by whole warps,
// whose lanes have columns side by side.
template <int n_matrices>
__device__ __forceinline__ void put_result(const ExpertProduct & p, int expert, int pair, int column, float out) {
    if constexpr (n_matrices == 1) {
        out *= p.scales != nullptr ? p.scales[expert] : 1.0f;
        out *= p.by != nullptr ? p.by[pair] : 1.0f;
    }
    p.out[(size_t) pair * p.n_out + column] = out;
    if constexpr (n_matrices == 2) {
        if (p.quantised != nullptr) {
            const float values[1] = { out };
            pmtp_quantise(values, pmtp_place(p.quantised, p.n_out, 1, pair, column / 32));
        }
    }
}

}  // namespace
