// What the kernels of prompts share: which matrix and rows a block multiplies, and what becomes of its results.
#pragma once

#include "kernels/products/cuda/multiply.cuh"

namespace {

constexpr int kPromptWarps = 4;

// What a warp has of a product, and blocks on a multiprocessor, for which registers must be left.
template <int tiles_, int row_tiles_, int resident_> struct Share {
    static constexpr int kTiles = tiles_;         // of weights
    static constexpr int kRowTiles = row_tiles_;  // of activations
    static constexpr int kResident = resident_;
    static constexpr int kResults = 4 * kRowTiles;  // of a lane, for each tile
    static constexpr int kRows = kRowTiles * kPmtpTileRows;

    // Rows of weights of a block, each of which has one of another matrix beside it if there are two.
    static constexpr __host__ __device__ int block_out(int n_matrices) {
        return kPromptWarps * kTiles * kTile / n_matrices;
    }
};

// The block's matrix, and its place among the blocks of that.
template <int block_out> struct PromptBlock {
    const void * weights;
    float * out;
    int n_out;
    int block;

    __device__ __forceinline__ explicit PromptBlock(const WeightProduct & p, int of_all = blockIdx.x)
        : weights(p.weights),
          out(p.out),
          n_out(p.n_out),
          block(of_all) {
        for (const OtherMatrix & other : p.others) {
            const int n_blocks = (n_out + block_out - 1) / block_out;
            if (other.weights != nullptr && block >= n_blocks) {
                block -= n_blocks;
                weights = other.weights;
                out = other.out;
                n_out = other.n_out;
            }
        }
    }
};

template <typename Share, int n_matrices> dim3 prompt_grid(const WeightProduct & p) {
    constexpr int kOut = Share::block_out(n_matrices);
    int n_blocks = 0;
    for (const int n_out : { p.n_out, p.others[0].n_out, p.others[1].n_out }) {
        n_blocks += (n_out + kOut - 1) / kOut;
    }
    return dim3(n_blocks, (p.n_rows + Share::kRows - 1) / Share::kRows);
}

// A warp takes the stages of its rows split by split: those that a warp of multiply.cuh takes.
struct StageOrder {
    int n_stages;
    int n_splits;
    int stage = 0;

    __device__ __forceinline__ bool ends_split() const { return stage + n_splits >= n_stages; }
    __device__ __forceinline__ bool is_last() const { return ends_split() && stage % n_splits + 1 == n_splits; }
    __device__ __forceinline__ int next() const { return ends_split() ? stage % n_splits + 1 : stage + n_splits; }
};

// A warp's rows of weights, from n_out rows of row_bytes of one matrix, or half of them of a second one.
template <typename Format, int n_tiles, int n_matrices> class WarpWeights {
    static constexpr int kRows = n_tiles * kTile;
    static constexpr int kOut = kRows / n_matrices;
    static constexpr int kChunks = Layout<Format>::kChunks;
    // A lane copies a chunk of some rows at a time.
    static constexpr int kAtOnce = 32 / kChunks;

  public:
    __device__ WarpWeights(const void * matrix, const void * second, int first, int n_out, size_t row_bytes)
        : matrix_((const char *) matrix),
          second_((const char *) second),
          first_(first),
          last_(n_out - 1),
          row_bytes_(row_bytes) {}

    __device__ __forceinline__ void load(int stage, uint32_t * to) const {
        const int lane = threadIdx.x % 32;
        const int row_of_lane = lane / kChunks;
        const int chunk = lane % kChunks;
        if (row_of_lane >= kAtOnce) {
            return;
        }
#pragma unroll 4
        for (int row = row_of_lane; row < kRows; row += kAtOnce) {
            const char * matrix = n_matrices == 1 || row < kOut ? matrix_ : second_;
            const size_t begin = begin_of(row, stage);
            uint32_t * at = to + row * Layout<Format>::kWords + chunk * 4;
            if constexpr (Layout<Format>::kAligned) {
                copy_16(at, matrix + begin + chunk * 16);
            } else {
                const size_t from = begin / 16 * 16 + chunk * 16;
                const size_t end = (last_ + 1) * row_bytes_;
                copy_16(at, matrix + min(from, end), (int) min((size_t) 16, end - min(from, end)));
            }
        }
    }

    __device__ __forceinline__ formats::Stage stage_of(const uint32_t * buffer, int row, int stage) const {
        return Layout<Format>::stage(buffer + row * Layout<Format>::kWords, (uint32_t) begin_of(row, stage));
    }

  private:
    __device__ __forceinline__ size_t begin_of(int row, int stage) const {
        return min(first_ + (n_matrices == 1 ? row : row % kOut), last_) * row_bytes_ + stage * Format::kBytes;
    }

    const char * const matrix_;
    const char * const second_;
    const int first_, last_;
    const size_t row_bytes_;
};

// Of a block whose results lie in shared memory.
template <int block_rows, int block_out> __device__ __forceinline__ void quantise_results(const WeightProduct & p,
                                                                                          int block, int first_row,
                                                                                          const float * shared) {
    const int n_rows = min(block_rows, p.n_rows - first_row);
    // Whole warps, as columns are multiples of 32.
    for (int i = threadIdx.x; i < n_rows * block_out; i += blockDim.x) {
        const int column = block * block_out + i % block_out;
        const float values[1] = { shared[i] };
        pmtp_quantise(values, column < p.n_out
                                  ? pmtp_place(p.quantised, p.n_out, p.n_rows, first_row + i / block_out, column / 32)
                                  : PmtpQ8Place());
    }
}

// Gives out what a lane has of two columns, of_block and the next of its block's, in row in_block of the block's; with
// two matrices `gates` are the second one's. shared: the block's results, of products that are quantised.
template <int n_matrices, int block_out>
__device__ __forceinline__ void put_two(const WeightProduct & p, const PromptBlock<block_out> & own, int first_row,
                                        int in_block, int of_block, const float * values, const float * gates,
                                        float * shared) {
    const int row = first_row + in_block;
    const int column = own.block * block_out + of_block;
    const bool is_there = row < p.n_rows && column < own.n_out;
    float two[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        two[j] = values[j];
        if constexpr (n_matrices == 2) {
            two[j] *= gelu(gates[j]);
        } else if (p.factor != nullptr && is_there) {
            two[j] = gelu(two[j]) * p.factor[row * p.factor_stride + column + j];
        }
    }
    if (is_there) {
        *(float2 *) (own.out + (size_t) row * own.n_out + column) = make_float2(two[0], two[1]);
    }
    if (p.quantised != nullptr) {
        *(float2 *) (shared + in_block * block_out + of_block) = make_float2(two[0], two[1]);
    }
}

// Gives out a lane's results, total[tile][4 r + i] placed as multiply_32() has them; with two matrices the second half
// of the tiles are the gate's. shared: memory that no warp has a use for any more.
template <int n_matrices, typename Share>
__device__ __forceinline__ void store_results(const WeightProduct & p,
                                              const PromptBlock<Share::block_out(n_matrices)> & own,
                                              const float (&total)[Share::kTiles][Share::kResults], float * shared) {
    constexpr int kOut = Share::block_out(n_matrices);
    constexpr int kOwn = Share::kTiles / n_matrices;
    const int lane = threadIdx.x % 32;
    const int first_row = blockIdx.y * Share::kRows;
    const int first_of_block = threadIdx.x / 32 * kOwn * kTile + 2 * (lane % 4);
    const bool quantises = p.quantised != nullptr;
    if (quantises) {
        __syncthreads();
    }
#pragma unroll
    for (int tile = 0; tile < kOwn; tile++) {
#pragma unroll
        for (int i = 0; i < Share::kResults; i += 2) {
            const int in_block = i / 4 * kPmtpTileRows + lane / 4 + i % 4 / 2 * 8;
            put_two<n_matrices>(p, own, first_row, in_block, first_of_block + tile * kTile, &total[tile][i],
                                &total[(tile + kOwn) % Share::kTiles][i], shared);
        }
    }
    if (quantises) {
        __syncthreads();
        quantise_results<Share::kRows, kOut>(p, own.block, first_row, shared);
    }
}

}  // namespace
