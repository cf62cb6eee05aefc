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

}  // namespace
