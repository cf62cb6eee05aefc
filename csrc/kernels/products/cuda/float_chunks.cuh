// What a block of prompt_floats.cu has of a product, and how that comes to shared memory and is multiplied: chunk by
// chunk, while others are on their way.
#pragma once

#include "kernels/products/cuda/prompt_blocks.cuh"

namespace {

// Values of a row that are on their way together: eight times 16 bytes.
constexpr int kChunk = 64;
constexpr int kChunksOfStage = formats::Floats::kStage / kChunk;
// Rows of activations, and tiles of eight of weights, of a warp.
constexpr int kWarpRows = 32;

// What a block has: row_warps times column_warps warps, of which each has kWarpRows rows and so many tiles.
// buffers: for a chunk that is multiplied, and others on their way.
template <int row_warps, int column_warps, int tiles_, int buffers, int resident_> struct FloatShare {
    static constexpr int kBuffers = buffers;
    static constexpr int kTiles = tiles_;
    static constexpr int kRowTiles = kWarpRows / kPmtpTileRows;
    static constexpr int kRowWarps = row_warps;
    static constexpr int kResident = resident_;
    static constexpr int kThreads = row_warps * column_warps * 32;
    static constexpr int kRows = row_warps * kWarpRows;
    static constexpr int kWarpWeights = kTiles * kTile;
    static constexpr int kWeights = column_warps * kWarpWeights;

    static constexpr __host__ __device__ int block_out(int n_matrices) { return kWeights / n_matrices; }
    template <typename Format> static constexpr size_t bytes() {
        return (size_t) kBuffers * (FloatParts<Format>::kParts * kRows + kWeights) * kChunk * sizeof(uint16_t);
    }
};

// Chunks in the order in which they are added up: those of a stage, of the stages of a split, of all splits.
struct ChunkOrder {
    int n_stages, n_splits;
    int split = 0, stage = 0, chunk = 0;

    __device__ __forceinline__ int first_value() const { return stage * formats::Floats::kStage + chunk * kChunk; }
    __device__ __forceinline__ bool ends_split() const {
        return chunk + 1 == kChunksOfStage && stage + n_splits >= n_stages;
    }
    __device__ __forceinline__ bool is_there() const { return split < n_splits; }
    __device__ __forceinline__ void advance() {
        if (++chunk == kChunksOfStage) {
            chunk = 0;
            stage += n_splits;
            if (stage >= n_stages) {
                stage = ++split;
            }
        }
    }
};

// What a thread copies of each chunk: 16 bytes of some rows of weights and of the rows' parts. Of 128 bytes of a row in
// shared memory the place of 16 depends on the row, so that reads of eight rows are free of conflicts.
template <typename Format, int n_matrices, typename Share> class Copies {
    static constexpr int kParts = FloatParts<Format>::kParts;
    static constexpr int kSixteens = kChunk / 8;
    // Rows apart, a multiple of 8.
    static constexpr int kStep = Share::kThreads / kSixteens;
    static constexpr int kWeightCopies = Share::kWeights / kStep, kRowCopies = Share::kRows / kStep;
    static_assert(kWeightCopies * kStep == Share::kWeights && kRowCopies * kStep == Share::kRows);

  public:
    static constexpr int kXWords = kParts * Share::kRows * (kChunk / 2);
    static constexpr int kWords = kXWords + Share::kWeights * (kChunk / 2);
    // Of so many steps each does as much as any other.
    static constexpr int kSteps = kRowCopies < kWeightCopies ? kRowCopies : kWeightCopies;

    __device__ __forceinline__ Copies(const WeightProduct & p, const void * weights, int n_out, int first_out,
                                      int first_row)
        : weights_((const uint4 *) weights),
          gate_((const uint4 *) p.gate),
          parts_((const uint4 *) p.parts),
          of_part_((size_t) p.n_rows * p.n_in / 8) {
        constexpr int kOut = Share::kWarpWeights / n_matrices;
        const int row = threadIdx.x / kSixteens, sixteen = threadIdx.x % kSixteens;
        to_ = row * (kChunk / 2) + (sixteen ^ row % 8) * 4;
#pragma unroll
        for (int i = 0; i < kWeightCopies; i++) {
            const int at = row + i * kStep;
            is_gate_[i] = n_matrices == 2 && at % Share::kWarpWeights >= kOut;
            const int of_matrix = first_out + at / Share::kWarpWeights * kOut + at % Share::kWarpWeights % kOut;
            of_weights_[i] = (uint32_t) min(of_matrix, n_out - 1) * (p.n_in / 8) + sixteen;
        }
#pragma unroll
        for (int i = 0; i < kRowCopies; i++) {
            of_rows_[i] = (uint32_t) min(first_row + row + i * kStep, p.n_rows - 1) * (p.n_in / 8) + sixteen;
        }
    }

    // The step-th part of the weights, or the rows, of the chunk that begins with a value.
    __device__ __forceinline__ void load_weights(int step, int value, uint32_t * buffer) const {
#pragma unroll
        for (int i = step; i < kWeightCopies; i += kSteps) {
            const uint4 * from = n_matrices == 2 && is_gate_[i] ? gate_ : weights_;
            copy_16(buffer + kXWords + to_ + i * kStep * (kChunk / 2), from + value / 8 + of_weights_[i]);
        }
    }
    __device__ __forceinline__ void load_rows(int step, int value, uint32_t * buffer) const {
#pragma unroll
        for (int part = 0; part < kParts; part++) {
#pragma unroll
            for (int i = step; i < kRowCopies; i += kSteps) {
                copy_16(buffer + to_ + (part * Share::kRows + i * kStep) * (kChunk / 2),
                        parts_ + part * of_part_ + value / 8 + of_rows_[i]);
            }
        }
    }

  private:
    const uint4 * weights_;
    const uint4 * gate_;
    const uint4 * parts_;
    size_t of_part_;
    int to_;  // words
    uint32_t of_weights_[kWeightCopies], of_rows_[kRowCopies];
    bool is_gate_[kWeightCopies];
};

// A stage's results of a lane.
template <typename Share> using Results = float[Share::kRowTiles][Share::kTiles][4];

// Adds the products of a chunk to c. x: the parts' rows, of which the warp has those from first_row on, and likewise w.
// load(i) is called beside each 16 values' products.
template <typename Format, typename Share, typename Load>
__device__ __forceinline__ void multiply_chunk(Results<Share> & c, const uint32_t * x, int first_row,
                                               const uint32_t * w, int first_weight, const Load & load) {
    using Parts = FloatParts<Format>;
    const int lane = threadIdx.x % 32;
    const uint32_t * x_row = x + (first_row + lane % 16) * (kChunk / 2);
    const uint32_t * w_row = w + (first_weight + lane / 16 * 8 + lane % 8) * (kChunk / 2);
#pragma unroll
    for (int i = 0; i < kChunk / 16; i++) {
        uint32_t words[Share::kTiles][2];
#pragma unroll
        for (int tile = 0; tile < Share::kTiles; tile += 2) {
            const uint4 two =
                load_matrices(w_row + tile * kTile * (kChunk / 2) + ((2 * i + lane / 8 % 2) ^ lane % 8) * 4);
            words[tile][0] = two.x;
            words[tile][1] = two.y;
            words[tile + 1][0] = two.z;
            words[tile + 1][1] = two.w;
        }
#pragma unroll
        for (int part = 0; part < Parts::kParts; part++) {
#pragma unroll
            for (int r = 0; r < Share::kRowTiles; r++) {
                const uint4 a = load_matrices(x_row + (part * Share::kRows + r * kPmtpTileRows) * (kChunk / 2) +
                                              ((2 * i + lane / 16) ^ lane % 8) * 4);
                if (part == 0 && r == Share::kRowTiles - 1) {
                    load(i);
                }
#pragma unroll
                for (int tile = 0; tile < Share::kTiles; tile++) {
                    Parts::multiply(c[r][tile], { a.x, a.y, a.z, a.w }, words[tile][0], words[tile][1]);
                }
            }
        }
    }
}

}  // namespace
