// The kernel of few_products.cu and tiled_products.cu: tiles of weights and rows of activations on tensor cores.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/products/cuda/float_stages.cuh"
#include "kernels/products/cuda/pair_stages.cuh"
#include "kernels/products/cuda/products.cuh"
#include "kernels/rows/cuda/gelu.cuh"

namespace {

// A block of 512 threads has 128 registers for each of them.
constexpr int kMaxWarps = 16;
// A block with a gate or factor has 32 results of a row, the values that are quantised together.
constexpr int kGateTiles = 4;
// Numbers of tiles of activations for those that are fewer than one.
constexpr int kUpTo8 = 0, kUpTo4 = -1;

// What a block multiplies: its matrix, and its place among the blocks of that.
struct BlockMatrix {
    const void * weights;
    float * out;
    int n_out;
    int block;

    __device__ __forceinline__ BlockMatrix(const WeightProduct & p, int rows_of_block)
        : weights(p.weights),
          out(p.out),
          n_out(p.n_out),
          block(blockIdx.x) {
        for (const OtherMatrix & other : p.others) {
            if (other.weights != nullptr && block >= n_out / rows_of_block) {
                block -= n_out / rows_of_block;
                weights = other.weights;
                out = other.out;
                n_out = other.n_out;
            }
        }
    }
};

// A block multiplies n_tiles tiles of weight rows, and of the gate's, whose stages its warps take in turn: n_splits
// warps a stage, which share its tiles. n_row_tiles: of activations, or kUpTo4 or kUpTo8 where they are so few. A
// result's sums are taken in the same order whatever that and n_splits are. n_buffers: of a warp.
template <typename Format, int n_tiles, int n_matrices, int n_row_tiles, int n_splits>
__global__ __launch_bounds__((n_splits == 1 ? 1 : 2) * kMaxWarps * 32) void multiply(const WeightProduct p,
                                                                                     int n_buffers) {
    constexpr int kWeightWords = Layout<Format>::kWords;
    constexpr int kColumnWords = Layout<Format>::kColumnWords;
    constexpr int kColumnStride = Layout<Format>::kColumnStride;
    constexpr int kTiles = n_matrices * n_tiles / n_splits;  // of a warp
    constexpr int kRows = kTiles * kTile;
    constexpr bool kTiled = n_row_tiles > 0;
    constexpr int kBlockRows = kTiled ? n_row_tiles * kPmtpTileRows : kBatch;
    constexpr int kOut = n_tiles * kTile;
    constexpr bool kPairs = !kTiled && Format::kQuantised && kTiles % 2 == 0;
    using Columns = BatchColumns<n_row_tiles == kUpTo4>;
    static_assert(kBlockRows <= kWeightWords, "a warp's sums take the place of a buffer");
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int first_stage = warp / n_splits;
    const int first_tile = warp % n_splits * kTiles;  // of both matrices'
    const int step = blockDim.x / 32 / n_splits;
    const int n_stages = p.n_in / Format::kStage;
    const int buffer_words = kRows * kWeightWords + (kTiled ? 0 : p.n_rows * kColumnStride);
    const auto buffer = [&](int of_warp, int i) {
        return (uint32_t *) shared + (of_warp * n_buffers + i) * buffer_words;
    };
    const BlockMatrix own(p, kOut);
    const int first_row = own.block * kOut;
    const size_t row_bytes = (size_t) n_stages * Format::kBytes;
    const auto begin_of = [&](int row, int stage) { return (first_row + row) * row_bytes + stage * Format::kBytes; };
    const auto load_weights = [&](int stage, uint32_t * to) {
        constexpr int kChunks = Layout<Format>::kChunks;
        for (int i = lane; stage < n_stages && i < kRows * kChunks; i += 32) {
            const int in_warp = i / kChunks;
            const int row = first_tile * kTile + in_warp;
            const auto * matrix = (const char *) (n_matrices == 1 || row < kOut ? own.weights : p.gate);
            uint32_t * chunk = to + in_warp * kWeightWords + i % kChunks * 4;
            if constexpr (Layout<Format>::kAligned) {
                copy_16(chunk, matrix + begin_of(row % kOut, stage) + i % kChunks * 16);
            } else {
                const size_t at = begin_of(row % kOut, stage) / 16 * 16 + i % kChunks * 16;
                const size_t end = own.n_out * row_bytes;
                copy_16(chunk, matrix + min(at, end), (int) min((size_t) 16, end - min(at, end)));
            }
        }
    };
    const auto load_columns = [&](int stage, uint32_t * to) {
        for (int i = lane; !kTiled && stage < n_stages && i < p.n_rows * (kColumnWords / 4); i += 32) {
            const int row = i / (kColumnWords / 4);
            const int word = i % (kColumnWords / 4) * 4;
            const auto * x = Format::kQuantised ? (const uint32_t *) (p.x + row * pmtp_row_blocks(p.n_in))
                                                : (const uint32_t *) (p.floats + (size_t) row * p.n_in);
            uint32_t * chunk = to + kRows * kWeightWords + row * kColumnStride + word;
            // Floats are too many for the first cache.
            Format::kQuantised ? copy_cached<16>(chunk, x + stage * kColumnWords + word)
                               : copy_16(chunk, x + stage * kColumnWords + word);
        }
    };

    for (int i = 0; i < n_buffers; i++) {
        load_weights(first_stage + i * step, buffer(warp, i));
    }
    wait_for_previous();
    let_next_begin();
    // With two buffers a warp loads a stage while it multiplies another; more hold all of its stages.
    const bool holds_all = n_buffers * step >= n_stages;
    for (int i = 0; i < n_buffers; i++) {
        load_columns(first_stage + i * step, buffer(warp, i));
        if (!holds_all) {
            end_group();
        }
    }
    if (holds_all) {
        end_group();
        end_group();
    }
    float sum[kTiles][kTiled ? 4 * n_row_tiles : kPairs ? Columns::kOwn : 2] = {};
    for (int stage = first_stage, i = 0; stage < n_stages; stage += step, i = i + 1 < n_buffers ? i + 1 : 0) {
        uint32_t * at = buffer(warp, i);
        wait_for_group<1>();
        __syncwarp();
        const auto weights_of = [&](int tile) {
            const int in_matrix = (first_tile + tile) % n_tiles;
            return LaneWeights<Format>(at + tile * kTile * kWeightWords, (uint32_t) begin_of(in_matrix * kTile, stage),
                                       (uint32_t) row_bytes);
        };
        if constexpr (kTiled && !Format::kQuantised) {
            const int first = blockIdx.y * kBlockRows;
            add_tiled_float_stage<Format, n_matrices * n_tiles, n_row_tiles>(
                sum, at, p.floats + (size_t) first * p.n_in + stage * Format::kStage, p.n_rows - first, p.n_in);
        } else if constexpr (kTiled) {
            const size_t row_tile_words = (size_t) pmtp_row_blocks(p.n_in) * kPmtpTileWords;
            add_tiled_stage<Format, kTiles, n_row_tiles>(sum, weights_of,
                                                         (const uint32_t *) p.x +
                                                             blockIdx.y * n_row_tiles * row_tile_words +
                                                             (size_t) stage * (Format::kStage / 32) * kPmtpTileWords,
                                                         row_tile_words);
        } else if constexpr (kPairs) {
            const int g = lane / 4;
#pragma unroll
            for (int tile = 0; tile < kTiles; tile += 2) {
                formats::Stage weights[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int in_matrix = (first_tile + tile + i) % n_tiles * kTile + g;
                    weights[i] = Layout<Format>::stage(at + ((tile + i) * kTile + g) * kWeightWords,
                                                       (uint32_t) begin_of(in_matrix, stage));
                }
                add_pair_stage<Format, n_row_tiles == kUpTo4>((float (&)[2][Columns::kOwn]) sum[tile], weights,
                                                              at + kRows * kWeightWords, p.n_rows);
            }
        } else if constexpr (Format::kQuantised) {
#pragma unroll
            for (int tile = 0; tile < kTiles; tile++) {
                add_stage<Format>(sum[tile], weights_of(tile), at + kRows * kWeightWords, p.n_rows);
            }
        } else {
            add_float_stage<Format>(sum, at, at + kRows * kWeightWords, p.n_rows);
        }
        if (!holds_all) {
            __syncwarp();
            load_weights(stage + 2 * step, at);
            load_columns(stage + 2 * step, at);
            end_group();
        }
    }
    wait_for_group<0>();
    __syncwarp();
    // A warp's sums take the place of its first buffer: [tile][batch row][weight row].
    for (int tile = 0; tile < kTiles; tile++) {
        for (int i = 0; i < (int) (sizeof(sum[0]) / sizeof(float)); i++) {
            const int batch_row = kPairs ? Columns::own_row(i) : lane / 4 + i / 2 * 8;
            const int row = kPairs ? lane / 4 : 2 * (lane % 4) + i % 2;
            ((float *) buffer(warp, 0))[(tile * kBlockRows + batch_row) * kTile + row] = sum[tile][i];
        }
    }
    __syncthreads();
    const int n_rows = min(kBlockRows, p.n_rows - (int) blockIdx.y * kBlockRows);
    // With a gate or factor the loop is left by whole warps, which quantise together.
    for (int at = threadIdx.x; at < n_rows * kOut; at += blockDim.x) {
        float total[n_matrices] = {};
        for (int m = 0; m < n_matrices; m++) {
            const int tile = m * n_tiles + at % kOut / kTile;
            const auto * sums = (const float *) buffer(tile / kTiles, 0) +
                                (tile % kTiles * kBlockRows + at / kOut) * kTile + at % kTile;
            for (int i = 0; i < step; i++) {
                total[m] += sums[i * n_splits * n_buffers * buffer_words];
            }
        }
        float out = total[0];
        if constexpr (n_matrices == 2) {
            out *= gelu(total[1]);
        }
        const int row = (int) blockIdx.y * kBlockRows + at / kOut;
        const int column = first_row + at % kOut;
        if constexpr (n_matrices == 1 && n_tiles == kGateTiles) {
            if (p.factor != nullptr) {
                out = gelu(out) * p.factor[row * p.factor_stride + column];
            }
        }
        own.out[(size_t) row * own.n_out + column] = out;
        if constexpr (n_tiles == kGateTiles) {
            if (p.quantised != nullptr) {
                const float values[1] = { out };
                pmtp_quantise(values, pmtp_place(p.quantised, p.n_out, p.n_rows, row, column / 32));
            }
        }
    }
}

int attribute(cudaDeviceAttr name) {
    int device = 0;
    int value = 0;
    return cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&value, name, device) == cudaSuccess ? value
                                                                                                                : 0;
}

// Of all matrices.
int all_results(const WeightProduct & p) { return p.n_out + p.others[0].n_out + p.others[1].n_out; }

// Whether blocks of so many rows fit all matrices.
bool fits_all(const WeightProduct & p, int rows) {
    return p.n_out % rows == 0 && p.others[0].n_out % rows == 0 && p.others[1].n_out % rows == 0;
}

struct Geometry {
    int n_tiles;
    int n_warps;  // that take stages in turn, times n_splits in all
};

// A block has as many warps as there are stages and memory for, as few with much to do each wait too long. It depends
// on no number of rows, since sums are taken in its order.
template <typename Format> Geometry geometry_of(const WeightProduct & p) {
    const int n_matrices = p.gate != nullptr ? 2 : 1;
    const int n_out = all_results(p);
    const int n_stages = p.n_in / Format::kStage;
    // Fewer rows of weights are spread over all multiprocessors, a tile a block.
    const int enough = n_stages <= kMaxWarps ? 1 << 10 : 1 << 12;
    const int n_tiles = n_matrices == 2 || p.factor != nullptr       ? kGateTiles
                        : n_out >= 1 << 14 && fits_all(p, 4 * kTile) ? 4
                        : n_out >= enough && fits_all(p, 2 * kTile)  ? 2
                                                                     : 1;
    const size_t buffer =
        (n_matrices * n_tiles * kTile * Layout<Format>::kWords + kBatch * Layout<Format>::kColumnStride) *
        sizeof(uint32_t);
    const size_t limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    for (int n_rounds = (n_stages + kMaxWarps - 1) / kMaxWarps;; n_rounds++) {
        const int n_warps = (n_stages + n_rounds - 1) / n_rounds;
        if (n_warps * (n_rounds > 1 ? 2 : 1) * buffer <= limit || n_warps == 1) {
            return { n_tiles, n_warps };
        }
    }
}

// visit(Format()).
template <typename Visit> auto with_format(WeightFormat format, Visit visit) {
    switch (format) {
        case WeightFormat::q4_0: return visit(formats::Q4_0());
        case WeightFormat::q4_1: return visit(formats::Q4_1());
        case WeightFormat::q5_0: return visit(formats::Q5_0());
        case WeightFormat::q5_1: return visit(formats::Q5_1());
        case WeightFormat::q8_0: return visit(formats::Q8_0());
        case WeightFormat::iq4_nl: return visit(formats::IQ4_NL());
        case WeightFormat::iq4_xs: return visit(formats::IQ4_XS());
        case WeightFormat::q4_K: return visit(formats::Q4_K());
        case WeightFormat::q5_K: return visit(formats::Q5_K());
        case WeightFormat::q6_K: return visit(formats::Q6_K());
        case WeightFormat::f16: return visit(formats::F16());
        default: return visit(formats::BF16());
    }
}

}  // namespace
